"""``vidssl recipes``."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.recipes import RecipeRow


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe; KIND/NAME where kinds share a name.")
    ] = None,
    json_to: _common.JsonTo = None,
) -> None:
    """List the bundled recipes, or print one to start your own from.

    A recipe is one YAML file that holds every value of a run. Commands take a bundled recipe's
    name or the path of your own file.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import recipes as job

    with _common.user_errors():
        rows = job.run() if name is None else [job.find(name)]
        if json_to is not None:
            _common.write_json([{**asdict(row), "text": job.text(row)} for row in rows], json_to)
        if json_to == "-":
            return
        if name is None:
            _list(rows)
        else:
            sys.stdout.write(job.text(rows[0]))  # byte for byte, to be redirected into a file


def _list(rows: "list[RecipeRow]") -> None:
    kind = ""
    for row in rows:
        if row.kind != kind:
            _common.say(f"{row.kind}:" if not kind else f"\n{row.kind}:")
            kind = row.kind
        _common.say(f"  {row.name}")
        for line in (row.description, row.command):
            if line:
                _common.say(f"      {line}")
