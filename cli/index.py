"""``vidssl index``."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.index import IndexResult

SHOWN = 10


class CutFiles(StrEnum):
    """What becomes of files that were cut off."""

    USE = "use"
    SET_ASIDE = "set-aside"


def index(
    source: Annotated[str, typer.Argument(help="Folder, video, list, or NAME:PATH.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", dir_okay=False, help="Parquet file to write.")
    ] = Path("index.parquet"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode; one a core by default.")
    ] = None,
    cut_files: Annotated[
        CutFiles, typer.Option(help="Use files that were cut off as far as they go, or do not.")
    ] = CutFiles.USE,
    retry: Annotated[
        bool, typer.Option("--retry", help="Look again at the videos that were set aside.")
    ] = False,
    deadline_s: Annotated[
        float,
        typer.Option("--deadline", min=0.1, metavar="SECONDS", help="End a decoder stuck so long."),
    ] = 60.0,
    memory_gb: Annotated[
        float,
        typer.Option("--memory", min=0.1, metavar="GIB", help="End a decoder that wants more."),
    ] = 4.0,
    json_to: _common.JsonTo = None,
) -> None:
    """Look at every video once and write down what it really holds.

    Every video is decoded from end to end, in processes of their own: one that hangs, crashes or
    eats memory costs its video and no more. A video that cannot be used stays in the index with
    its reason, and in OUT's neighbour, NAME.quarantine.csv; no video is ever changed. Stopped, the
    same command goes on; run again, it looks at new and changed files only.
    """
    from vidssl.jobs.index import run
    from vidssl.video.workers import Limits

    with _common.user_errors():
        _common.check_json(json_to, out)
        with _common.progress() as progress:
            result = run(
                source,
                out,
                workers=workers,
                progress=progress,
                cut_files=cut_files.value,
                retry=retry,
                limits=Limits(deadline_s, memory_gb),
                quarantine=out.with_suffix(".quarantine.csv"),
            )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _tell(result)


def _tell(result: "IndexResult") -> None:
    usable = result.counts.get("ok", 0)
    _common.say(
        f"{result.path}: {usable} of {result.videos} videos usable, "
        f"{result.frames} frames, {result.hours:.2f} hours"
    )
    if result.cut_off:
        _common.say(
            f"{result.cut_off} of them are cut off and used as far as they go (column cut_off)"
        )
    account = result.account or {}
    if any(account.get(what, {}).get("count") for what in ("missing", "duplicates", "unusable")):
        _common.say(f"the source: {account['told']}")
        for line in account["unusable"]["names"][:SHOWN]:
            _common.say(f"unusable: {' '.join(line.splitlines())}")
    if result.quarantine is None:
        return
    counts = (f"{count} {name}" for name, count in result.counts.items() if name != "ok")
    _common.say(f"not usable: {', '.join(counts)}; all are in {result.quarantine}")
    for row in result.set_aside[:SHOWN]:
        _common.say(f"set aside ({row.status}): {' '.join(row.error.splitlines())}")
    if result.videos - usable > SHOWN:
        _common.say(f"... and {result.videos - usable - SHOWN} more")
