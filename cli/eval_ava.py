"""``vidssl eval-ava``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.eval_ava import Detail, Earlier, EvalResult


def eval_ava(
    annotations: Annotated[Path, typer.Option(help="The truth, csv in AVA layout.")],
    labels: Annotated[Path, typer.Option(help="Label map of the classes to score.")],
    predictions: Annotated[Path | None, typer.Option(help="Predictions to score, csv.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Run whose detector predicts.")] = None,
    videos: Annotated[str | None, typer.Option(help="Videos for the detector.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="People for the detector, csv.")] = None,
    bank: Annotated[Path | None, typer.Option(help="Feature bank for the detector.")] = None,
    empty_bank: Annotated[
        bool, typer.Option("--empty-bank", help="Keep the bank's features from the detector.")
    ] = False,
    excluded: Annotated[Path | None, typer.Option(help="Key frames to leave out, csv.")] = None,
    protocol: Annotated[
        Literal["activitynet", "slowfast"], typer.Option(help="Whose rules to score by.")
    ] = "activitynet",
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of a person's box.")
    ] = None,
    time_origin: _common.TimeOrigin = "auto",
    scales: _common.Scales = None,
    flip: _common.Flip = False,
    clips: _common.Clips = 1,
    max_failed: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of key frames that may fail; more exits with 3."),
    ] = 0.01,
    quick: Annotated[
        bool, typer.Option("--quick", help="The score alone, without interval, ceiling and errors.")
    ] = False,
    csv_to: Annotated[
        Path | None, typer.Option("--csv", help="Write a row for each class, csv.")
    ] = None,
    bars: Annotated[Path | None, typer.Option(help="Draw the classes' AP as bars, png.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Show a score beside it that --json wrote before.")
    ] = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Score action predictions, given as a file or made by a trained detector.

    Give --predictions, or --checkpoint with --videos and --boxes (and --bank for a detector that
    reads one). A detector's predictions are written below its run first, and that file is scored;
    evaluations that differ get folders that differ. Scores are averaged over views: --scales x
    --flip x --clips.
    With the score come an interval (bootstrap over videos), what a perfect classifier would score
    on the same boxes, and what each kind of error costs.
    """
    from vidssl.jobs import eval_ava as job

    with _common.user_errors():
        truth = job.Truth(annotations, labels, excluded, protocol, quick)
        if bars is not None:
            job.require_png(bars)
        earlier = job.read_earlier(compare) if compare is not None else None
        request = job.Request(
            *(checkpoint, videos, boxes, bank, empty_bank, min_score, time_origin),
            scales=scales,
            flip=flip,
            clips=clips,
        )
        with _common.progress() as progress:
            result = job.run(truth, predictions, request, progress=progress)
        if json_to is not None:
            _common.write_json(job.plain(result), json_to)
        if csv_to is not None:
            job.write_classes(result, csv_to)
        if bars is not None:
            job.draw_classes(result, bars)
    if json_to != "-":
        _show(result, earlier)
        if earlier is not None:
            _compare(result, earlier, job.compared(result, earlier))
    if result.failed > max_failed * result.expected:
        _common.too_many_failed(result.failed, result.expected, "key frames", max_failed)


def _show(result: "EvalResult", earlier: "Earlier | None") -> None:
    table = Table()
    titles = ["id", "class", "truth", "AP", *([earlier.name] if earlier else ())]
    for title in titles:
        justify: Literal["left", "right"] = "left" if title == "class" else "right"
        table.add_column(_common.printable(title), justify=justify)
    for label, name in result.names.items():
        cells = [str(label), _common.printable(name), str(result.positives[label])]
        cells.append(_number(result.ap[label]))
        if earlier:
            cells.append(_number(earlier.ap.get(label)))
        table.add_row(*cells)
    _common.out.print(table)
    mean = "not defined" if result.mean_ap is None else f"{result.mean_ap:.6f}"
    _common.say(f"mAP@0.5 {mean} ({result.protocol['protocol']} protocol)")
    if result.detail is not None:
        _show_detail(result.detail)
    _common.say(
        f"key frames: {result.expected} expected, {result.evaluated} evaluated, "
        f"{result.failed} failed"
        + (f"; nobody was detected in {result.unpeopled}" if result.unpeopled else "")
    )
    _common.say("protocol: " + ", ".join(f"{k} {v}" for k, v in result.protocol.items()))
    if "detector" in result.protocol:
        _common.say(f"predictions: {result.predictions}")
    _common.say_origins(result.time_origins)
    for note in result.notes:
        _common.say(f"note: {note}")
    for video, reason in result.unusable_videos.items():
        _common.say(f"failed: {video}: {reason}")


def _show_detail(detail: "Detail") -> None:
    if found := detail.interval:
        _common.say(
            f"{found.level:.0%} interval: {found.low:.4f} to {found.high:.4f} (bootstrap over "
            f"{found.videos} videos, {found.draws} draws, seed {found.seed})"
        )
    else:
        _common.say("interval: none, a bootstrap needs two videos or more")
    told = ", ".join(f"{name} {_number(mean)}" for name, mean in detail.groups.items())
    _common.say(f"groups: {told or 'none, the label map names none'}")
    _common.say(f"ceiling, a perfect classifier on these boxes: {_number(detail.ceiling)}")
    _common.say(f"mean of IoU 0.5 to 0.95: {_number(detail.coco)}")
    costs = (f"{e.kind} {e.gain:.4f} ({e.rows} rows)" for e in detail.errors if e.rows)
    _common.say(f"gained if mended alone: {', '.join(costs) or 'nothing, there are no errors'}")


def _compare(result: "EvalResult", earlier: "Earlier", differ: list[str]) -> None:
    from vidssl.ava.fingerprint import NOT_SAID

    _common.say(f"mAP: {_number(result.mean_ap)}, in {earlier.name} {_number(earlier.mean_ap)}")
    if not differ:
        unsaid = [key for key, value in result.protocol.items() if value == NOT_SAID]
        more = f"; not said by either: {', '.join(unsaid)}" if unsaid else ""
        _common.say(f"both were scored alike{more}")
        return
    _common.say("NOT COMPARABLE, scored differently (before and now):")
    for line in differ:
        _common.say(f"  {line}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
