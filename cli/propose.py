"""``vidssl propose``."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.propose import ProposeResult

DETECTOR, TRACKER = "With a detector", "With a tracker"


DETECTING = ("model", "every", "label", "short_side", "workers", "max_failed")
TRACKING = ("iou", "peak_score", "min_length", "gap")


def propose(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="Boxes to write, csv.")],
    videos: Annotated[
        str | None,
        typer.Option(
            help="Folder, list, index, or NAME:PATH of the videos.", rich_help_panel=DETECTOR
        ),
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            metavar="WEIGHTS",
            help="A file of weights of a torchvision detector; nothing in it runs.",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Which detector they are of.", rich_help_panel=DETECTOR)
    ] = "fasterrcnn_resnet50_fpn_v2",
    times: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Csv in AVA layout whose key frames to look at, in place of --every.",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="How far apart key frames are.", rich_help_panel=DETECTOR
        ),
    ] = 1.0,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Least score of a box. Unless it is said, 0.1 with a detector, 0 with a tracker.",
        ),
    ] = None,
    label: Annotated[
        int,
        typer.Option("--class", help="The person's class: 1 of COCO's.", rich_help_panel=DETECTOR),
    ] = 1,
    short_side: Annotated[
        int | None,
        typer.Option(
            min=32,
            metavar="PIXELS",
            help="What pictures are resized to. Unless it is said, what the detector is made for.",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that decode.", rich_help_panel=DETECTOR)
    ] = 2,
    time_origin: _common.TimeOrigin = "auto",
    max_failed: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of key frames that may fail; more exits with 3."),
    ] = 0.01,
    track: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Boxes to link, in place of a detector.", rich_help_panel=TRACKER
        ),
    ] = None,
    iou: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Least overlap of a person's box with the next.",
            rich_help_panel=TRACKER,
        ),
    ] = 0.5,
    peak_score: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="What the best box of a track has.", rich_help_panel=TRACKER
        ),
    ] = 0.0,
    min_length: Annotated[
        int, typer.Option(min=1, help="Boxes of a track.", rich_help_panel=TRACKER)
    ] = 1,
    gap: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Longest time between two boxes of a track. Unless it is said, 1.5 times what "
            "lies between key frames.",
            rich_help_panel=TRACKER,
        ),
    ] = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Find people, for `--boxes` of the other commands: by a detector, or by linking boxes.

    Give --videos and --detector, or --track. A detector that was stopped goes on where it was.
    Tracks go to NAME.tracks.csv beside the boxes, line by line.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.ava.linking import Linking
    from vidssl.errors import AnnotationError
    from vidssl.jobs import propose as job

    with _common.user_errors():
        _common.check_json(json_to, out)
        if (track is None) == (detector is None):
            raise AnnotationError("give either --detector with --videos, or --track")
        if detector is not None and videos is None:
            raise AnnotationError("--detector needs --videos to look at")
        if track is not None and (videos is not None or times is not None):
            raise AnnotationError(
                "--track links boxes without looking: leave out --videos, --times"
            )
        if times is None and time_origin != "auto":
            raise AnnotationError("--time-origin is that of --times, which are not given")
        _refuse_unused(context, *(DETECTING, "--track") if track else (TRACKING, "--detector"))
        _refuse_unused(context, ("every",) if times else (), "--times, which say where to look")
        if track is not None:
            rules = Linking(iou, min_score or 0.0, peak_score, min_length, gap)
            result = job.track(track, out, rules)
        else:
            assert detector is not None
            assert videos is not None
            least = job.LEAST_SCORE if min_score is None else min_score
            request = job.Detect(
                detector, model, times, every, least, label, short_side, time_origin, workers
            )
            with _common.progress() as progress:
                result = job.detect(videos, out, request, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _show(result)
    if result.failed > max_failed * result.key_frames:
        _common.too_many_failed(result.failed, result.key_frames, "key frames", max_failed)


def _refuse_unused(context: typer.Context, unused: Collection[str], way: str) -> None:
    """Refuse options that a person gives although nothing would come of them in a ``way``.

    Raises:
        AnnotationError: if there are some; with their names.
    """
    from vidssl.errors import AnnotationError

    sources = {p: context.get_parameter_source(p.name or "") for p in context.command.params}
    given = [
        parameter.opts[0]
        for parameter, source in sources.items()
        if parameter.name in unused and source is not None and source.name == "COMMANDLINE"
    ]
    if given:
        raise AnnotationError(f"{', '.join(given)}: of no use with {way}; leave out")


def _show(result: "ProposeResult") -> None:
    _common.say(f"{result.boxes}: {result.rows} boxes in {result.key_frames} key frames")
    if result.tracks:
        _common.say(f"{result.tracks}: {result.people} tracks, {result.dropped} boxes left out")
        return
    _common.say(f"without anybody: {result.empty} key frames; not readable: {result.failed}")
    _common.say_origins(result.time_origins or [])
    for video, reason in (result.unusable_videos or {}).items():
        _common.say(f"failed: {video}: {reason}")
