"""``vidssl models``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.models import ModelRow


def models(
    json_to: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE|-", help="Write the rows as JSON; - is stdout."),
    ] = None,
) -> None:
    """List the known backbones with their size, cost and published accuracy.

    Parameters and multiply-adds are computed here, for one view and with a 400-class layer. The
    accuracies are those that others have published on Kinetics-400.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs.models import run

    with _common.user_errors():
        with Console(stderr=True).status("building the networks and counting"):
            rows = run()
        if json_to is not None:
            _common.write_json([asdict(row) for row in rows], json_to)
        if json_to != "-":
            _common.out.print(_table(rows))


def _table(rows: "list[ModelRow]") -> Table:
    table = Table()
    for title in ("name", "parameters", "GFLOPs", "clip", "crop", "features", "published"):
        table.add_column(title, justify="left" if title in {"name", "published"} else "right")
    for row in rows:
        known = row.published
        table.add_row(
            row.name,
            f"{row.params:,}",
            f"{row.gflops:.2f}",
            f"{row.frames} x {row.stride}",
            str(row.crop),
            str(row.feature_dim),
            f"{known.top1} top-1, {known.views} views; {known.source}" if known else "",
        )
    return table
