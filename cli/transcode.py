"""``vidssl transcode``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.transcode import Estimate, TranscodeResult

SHOWN = 10


def transcode(
    source: Annotated[str, typer.Argument(help="Folder, video, list, index, or NAME:PATH.")],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder to fill.")],
    short_side_px: Annotated[
        int,
        typer.Option("--short-side", min=16, metavar="PIXELS", help="Shrink to it; never enlarge."),
    ] = 256,
    gop: Annotated[
        int, typer.Option("--gop", min=1, max=1000, help="Frames from a key frame to the next.")
    ] = 32,
    crf: Annotated[
        int, typer.Option("--crf", min=0, max=51, help="Quality of x264: 18 looks lossless.")
    ] = 23,
    keep_audio: Annotated[
        bool, typer.Option("--keep-audio", help="Keep the sound, encoded anew where needed.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that copy; one a core by default.")
    ] = None,
    only_estimate: Annotated[
        bool, typer.Option("--estimate", help="Measure the gain on three videos and stop.")
    ] = False,
    json_to: _common.JsonTo = None,
) -> None:
    """Make a smaller copy of a data set whose clips are read much faster.

    Copies are H.264 with a key frame every GOP frames, upright, with exactly the frames and times
    of the originals, which are never changed. What is gained is measured on three videos first.
    Stopped, the same command goes on; run again, it copies new and changed videos only.
    """
    from vidssl.jobs.transcode import estimate, run
    from vidssl.video.transcode import Copying

    with _common.user_errors():
        _common.check_json(json_to, out)
        copying = Copying(short_side_px, gop, crf, keep_audio)
        with _common.progress() as progress:
            if only_estimate:
                found = estimate(source, out, copying, workers=workers, progress=progress)
            else:
                result = run(
                    source, out, copying, workers=workers, progress=progress, tell=_tell_ahead
                )
        if json_to is not None:
            _common.write_json(asdict(found if only_estimate else result), json_to)
    if json_to == "-":
        return
    if only_estimate:
        for line in _estimated(found):
            _common.say(line)
    else:
        _tell(result)


def _tell_ahead(found: "Estimate") -> None:
    for line in _estimated(found):
        _common.err.print(_common.printable(line), markup=False)


def _estimated(found: "Estimate") -> list[str]:
    lines = [
        f"reading two clips of a video takes {found.read_ms_after:.1f} ms instead of "
        f"{found.read_ms_before:.1f} ms: {found.times_faster:.1f} times as fast "
        f"(measured on {len(found.measured)} videos, {found.decoder})",
        f"{found.videos} videos, {_size(found.bytes_before)}, become about "
        f"{_size(found.bytes_after)} in about {_length(found.seconds)}; "
        f"{_size(found.free_bytes)} are free",
    ]
    if found.bytes_after > found.free_bytes:
        lines.append("they will hardly fit: a higher --crf or a lower --short-side makes less")
    return lines


def _tell(result: "TranscodeResult") -> None:
    _common.say(
        f"{result.folder}: {result.copied} videos copied in {_length(result.seconds)}, "
        f"{result.kept} were there; {_size(result.bytes_before)} became "
        f"{_size(result.bytes_after)}, {result.frames} frames"
    )
    if result.renamed:
        _common.say(f"{result.renamed} bear a longer name, as another video has theirs")
    if not result.failed:
        return
    counts = (f"{count} {name}" for name, count in result.counts.items() if name != "ok")
    _common.say(f"not copied: {', '.join(counts)}; all are in {result.folder}/transcode.parquet")
    for row in result.failed[:SHOWN]:
        _common.say(f"not copied ({row.status}): {row.error}")
    if len(result.failed) > SHOWN:
        _common.say(f"... and {len(result.failed) - SHOWN} more")


def _size(count: int) -> str:
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if count >= one:
            return f"{count / one:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
