"""``vidssl detect``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.detect import DetectResult

PEOPLE = "Where people are"


def detect(
    video: Annotated[str, typer.Argument(help="The video: a file, or a folder of frames.")],
    checkpoint: Annotated[Path, typer.Option(help="Run of the detector, from finetune.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="Folder to make; must not exist.")
    ],
    boxes: Annotated[
        Path | None,
        typer.Option(help="People, csv in AVA layout; times from 0.", rich_help_panel=PEOPLE),
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            metavar="WEIGHTS",
            help="A file of weights of a torchvision detector; nothing in it runs.",
            rich_help_panel=PEOPLE,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Which detector they are of.", rich_help_panel=PEOPLE)
    ] = "fasterrcnn_resnet50_fpn_v2",
    label: Annotated[
        int,
        typer.Option("--class", help="The person's class: 1 of COCO's.", rich_help_panel=PEOPLE),
    ] = 1,
    short_side: Annotated[
        int | None,
        typer.Option(
            min=32,
            metavar="PIXELS",
            help="What pictures are resized to. Unless it is said, what the detector is made for.",
            rich_help_panel=PEOPLE,
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How far apart key frames are, with --detector. Unless it is said, 1.",
            rich_help_panel=PEOPLE,
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Least score of a person's box. Unless it is said, what the run's recipe tests "
            "with.",
            rich_help_panel=PEOPLE,
        ),
    ] = None,
    iou: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Least overlap of a person's box with the next.",
            rich_help_panel=PEOPLE,
        ),
    ] = 0.5,
    bank: Annotated[Path | None, typer.Option(help="Feature bank of the video.")] = None,
    scales: _common.Scales = None,
    flip: _common.Flip = False,
    clips: _common.Clips = 1,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least score of an action to be shown.")
    ] = 0.5,
    top: Annotated[int, typer.Option(min=1, help="Most actions of a person to be listed.")] = 3,
    json_to: _common.JsonTo = None,
) -> None:
    """Say who does what in a video: csv, JSON, subtitles, an annotated video and a page.

    Give --boxes, or --detector with its weights. OUT receives predictions.csv, detections.json
    with its schema, boxes.csv, timeline.vtt, annotated.mp4 and index.html, which plays it.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.errors import AnnotationError
    from vidssl.jobs import detect as job
    from vidssl.jobs.propose import Detect

    with _common.user_errors():
        _common.check_json(json_to, out)
        if boxes is not None and every is not None:
            raise AnnotationError("--every is that of --detector: boxes have times of their own")
        people = None
        if detector is not None:
            # One video: what could decode beside would take longer to start.
            people = Detect(
                detector,
                model,
                every_s=1.0 if every is None else every,
                label=label,
                short_side_px=short_side,
                workers=0,
            )
        request = job.Request(
            *(checkpoint, boxes, people, bank, min_score, threshold, top, iou),
            scales=scales,
            flip=flip,
            clips=clips,
        )
        with _common.progress() as progress:
            result = job.run(video, out, request, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _show(result, label)


def _show(result: "DetectResult", label: int) -> None:
    _common.say(
        f"{result.boxes} boxes in {result.key_frames} key frames of {result.duration_s:.1f} s, "
        f"{result.tracks} people followed, {result.intervals} intervals of actions"
    )
    if not result.boxes:
        _common.warn([f"nobody was found; is --class {label} the person, or --min-score too high?"])
    if result.unread:
        _common.say(f"not readable: {result.unread} key frames; detections.json says why")
    _common.say(f"{result.out / 'index.html'}: open it in a browser")
