"""``vidssl demo``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _common


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="Folder for all of it.")
    ] = Path("demo"),
    json_to: _common.JsonTo = None,
) -> None:
    """Do the whole job on videos that it renders itself, and write a report.

    Renders the playground, indexes it, pretrains, trains a detector, builds a feature bank, trains
    a detector with it, and scores both. On two CPU cores it takes some minutes. OUT/report.html
    shows the result and the commands to repeat each step by hand.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs.demo import run

    with _common.user_errors():
        with _common.progress() as progress:
            result = run(out, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to == "-":
        return
    for group in result.chance:
        _common.say(
            f"{group}: AP {result.without_bank[group]:.3f} without the bank, "
            f"{result.with_bank[group]:.3f} with it, {result.bank_emptied[group]:.3f} with its "
            f"features emptied (chance {result.chance[group]:.3f}, by the clock alone "
            f"{result.clock[group]:.3f})"
        )
    _common.say(f"{result.report}: written after {result.seconds:.0f} s")
