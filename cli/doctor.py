"""``vidssl doctor``."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.doctor import Check

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(json_to: _common.JsonTo = None) -> None:
    """Look at this machine: torch, GPUs, decoders, memory, disk; one line each, with the mend.

    The exit code is 0 unless something fails that the other commands cannot do without.
    """
    # Imported here because it looks at much: `vidssl --help` must not wait for it.
    from vidssl.jobs.doctor import run

    with _common.user_errors():
        with _common.progress() as progress:
            checks = run(progress)
        if json_to is not None:
            _common.write_json([asdict(check) for check in checks], json_to)
    if json_to != "-":
        for check in checks:
            _common.out.print(_line(check))
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(_common.WRONG_INPUT)


def _line(check: "Check") -> Text:
    line = Text(f"{check.status:5}", style=STYLES[check.status])
    line.append(f"{check.name:17}{_common.printable(check.finding)}", style="default")
    if check.mend:
        line.append(f"\n{'':5}{'':17}mend: {_common.printable(check.mend)}", style="default")
    return line
