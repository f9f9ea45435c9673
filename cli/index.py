"""``vidssl index``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _common


def index(
    source: Annotated[str, typer.Argument(help="Folder, video, list, or NAME:PATH.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", dir_okay=False, help="Parquet file to write.")
    ] = Path("index.parquet"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode; one a core by default.")
    ] = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Look at every video once and write down what it really holds.

    Every video is decoded from end to end. One that cannot be used stays in the index with its
    reason, and is named here; no file is ever changed. Run again, it looks at new and changed
    files only.
    """
    from vidssl.jobs.index import run

    with _common.user_errors():
        with _common.progress() as progress:
            result = run(source, out, workers=workers, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to == "-":
        return
    _common.say(
        f"{out}: {result.counts.get('ok', 0)} of {result.videos} videos usable, "
        f"{result.frames} frames, {result.hours:.2f} hours"
    )
    for row in result.set_aside:
        _common.say(f"set aside ({row.status}): {row.error}")
