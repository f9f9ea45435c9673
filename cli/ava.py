"""``vidssl ava``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.ava_import import ImportResult
    from vidssl.jobs.ava_validate import Report

app = typer.Typer(
    help="Own data for action detection: check annotations, import those of other tools.",
    no_args_is_help=True,
)

SHOWN = 20
"""Problems of each file that the terminal gets; --json has all."""


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text)
    if not match:
        raise typer.BadParameter(f"expected WIDTHxHEIGHT in pixels, as 1280x720, found {text!r}")
    return int(match[1]), int(match[2])


@app.command()
def validate(
    annotations: Annotated[Path, typer.Option(help="The annotations, csv in AVA layout.")],
    labels: Annotated[Path, typer.Option(help="Label map of the classes.")],
    boxes: Annotated[Path | None, typer.Option(help="Detected people, csv.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Predicted actions, csv.")] = None,
    excluded: Annotated[Path | None, typer.Option(help="Key frames to leave out, csv.")] = None,
    videos: Annotated[
        str | None, typer.Option(help="Folder, list, index, or NAME:PATH of the videos.")
    ] = None,
    time_origin: _common.TimeOrigin = "auto",
    json_to: _common.JsonTo = None,
) -> None:
    """Check the files of a data set, each by itself and against one another.

    All problems of all files are told at once, with file and line. Warnings are what may be meant
    so. Exit code 2 if there are problems.
    """
    from vidssl.jobs import ava_validate as job

    with _common.user_errors():
        files = job.Files(annotations, labels, boxes, predictions, excluded)
        with _common.progress() as progress:
            report = job.run(files, videos, time_origin=time_origin, progress=progress)
        if json_to is not None:
            _common.write_json(report.as_json(), json_to)
    if json_to != "-":
        _show(report)
    if report.problems:
        raise typer.Exit(_common.WRONG_INPUT)


@app.command("import")
def import_(
    name: Annotated[
        str,
        typer.Argument(metavar="FORMAT", help="Whose file it is: coco, cvat, label_studio or via."),
    ],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The file that it exported.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    labels: Annotated[
        Path | None, typer.Option(help="Label map to use in place of the tool's own classes.")
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="How far apart key frames are; 0 takes each annotated moment. Unless it is said, "
            "1 (0 for via).",
        ),
    ] = None,
    videos: Annotated[
        str | None,
        typer.Option(help="The videos, for frame rate and size where the file lacks them."),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.001, help="Frame rate of all videos, before the file's.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Size of all pictures, before the file's."),
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Attribute that holds the action; may be repeated."),
    ] = None,
    first_frame: Annotated[
        int, typer.Option(min=0, help="Number of the first picture in file names, for coco.")
    ] = 0,
    json_to: _common.JsonTo = None,
) -> None:
    """Make AVA layout of what an annotation tool exported.

    OUT receives annotations.csv, labels.pbtxt and boxes.csv (everybody, as person boxes).
    `vidssl/ava/formats/FORMAT.py` says what of each tool is read.
    """
    from vidssl.jobs import ava_import as job

    with _common.user_errors():
        request = job.Request(
            every_s=every,
            labels=labels,
            videos=videos,
            fps=fps,
            size_px=_size(size),
            attributes=tuple(attribute or ()),
            first_frame=first_frame,
        )
        with _common.progress() as progress:
            result = job.run(name, source, out, request, progress=progress)
        if json_to is not None:
            _common.write_json(result.as_json(), json_to)
    if json_to != "-":
        _say_import(result)


def _say_import(result: "ImportResult") -> None:
    _common.say(
        f"{result.annotations}: {result.rows} rows of {len(result.classes)} classes in "
        f"{result.key_frames} key frames of {result.videos} videos"
    )
    _common.say(f"{result.boxes}: {result.people_boxes} boxes of people")
    for remark in result.remarks:
        _common.say(f"note: {remark}")


def _show(report: "Report") -> None:
    for kind, found in (("problem", report.problems), ("warning", report.warnings)):
        for file in dict.fromkeys(finding.file for finding in found):
            own = [finding for finding in found if finding.file == file]
            for finding in own[:SHOWN]:
                _common.say(f"{kind}: {finding}")
            if len(own) > SHOWN:
                more = f"{len(own) - SHOWN} more {kind}s of {file}"
                _common.say(f"... and {more} (--json has all)")
    for line in report.summary:
        _common.say(line)
    verdict = "sound" if not report.problems else "not sound"
    counts = ((len(report.problems), "problem"), (len(report.warnings), "warning"))
    told = ", ".join(f"{count} {name}{'s' * (count != 1)}" for count, name in counts)
    _common.say(f"{verdict}: {told}")
