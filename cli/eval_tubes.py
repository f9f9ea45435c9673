"""``vidssl eval-tubes``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.eval_tubes import TubesResult


def eval_tubes(
    annotations: Annotated[
        Path, typer.Option(help="The truth, csv: video,frame,x1,y1,x2,y2,action,tube.")
    ],
    predictions: Annotated[Path, typer.Option(help="The same with a score as ninth column.")],
    inclusive: Annotated[
        bool,
        typer.Option("--inclusive", help="Boxes are pixels, the last ones theirs: add 1 to each."),
    ] = False,
    area: Annotated[
        Literal["trapezoid", "interpolated"],
        typer.Option(help="How the curve is summed: as the published scripts do, or as VOC does."),
    ] = "trapezoid",
    json_to: _common.JsonTo = None,
) -> None:
    """Score action tubes by frame-mAP and video-mAP, as for UCF101-24 and JHMDB.

    Frames are numbers or times, boxes in any unit, actions and tubes names; a header may be there.
    A tube is what bears one name and one action in a video; its score is the mean of its boxes'.
    """
    from vidssl.jobs import eval_tubes as job

    with _common.user_errors():
        result = job.run(annotations, predictions, inclusive=inclusive, area=area)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _show(result)


def _show(result: "TubesResult") -> None:
    table = Table()
    for title in ("action", "tubes", "frame AP", *(f"video AP@{iou}" for iou in result.video_ap)):
        table.add_column(title, justify="left" if title == "action" else "right")
    for action, frame_ap in result.frame_ap.items():
        of_video = [f"{ap[action]:.4f}" for ap in result.video_ap.values()]
        name = _common.printable(action)
        table.add_row(name, str(result.tubes[action]), f"{frame_ap:.4f}", *of_video)
    _common.out.print(table)
    _common.say(f"frame-mAP@0.50 {result.frame_map:.6f}")
    for iou, value in result.video_map.items():
        ends = result.interval.get(iou)
        within = f", 95% interval {ends[0]:.4f} to {ends[1]:.4f} (videos)" if ends else ""
        _common.say(f"video-mAP@{iou} {value:.6f}{within}")
    _common.say(f"video-mAP@0.50:0.95 {result.coco:.6f}")
    _common.say(f"videos: {result.videos} expected, {result.evaluated} with predictions")
    _common.say("protocol: " + ", ".join(f"{k} {v}" for k, v in result.protocol.items()))
    for note in result.notes:
        _common.say(f"note: {note}")
