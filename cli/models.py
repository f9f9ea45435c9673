"""``vidssl models``."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.models import ModelRow


def models(json_to: _common.JsonTo = None) -> None:
    """List the known backbones with their size, cost and published accuracy.

    Parameters and multiply-adds are computed here, for one view and with a 400-class layer. The
    top-1 accuracies are others', on Kinetics-400 from SOURCE. A clip of 8 x 8 is 8 frames, one in 8
    of a video at 30 frames per second.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs.models import run

    with _common.user_errors():
        with _common.progress() as progress:
            rows = run(progress)
        if json_to is not None:
            _common.write_json([asdict(row) for row in rows], json_to)
    if json_to != "-":
        _common.out.print(_table(rows))


def _table(rows: "list[ModelRow]") -> Table:
    # One space between columns: the table just fits a terminal of 80 characters.
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    for title in ("params", "GFLOPs", "clip", "crop", "dim", "top-1"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("source", overflow="fold")
    for row in rows:
        known = row.published
        table.add_row(
            row.name,
            f"{row.params:,}",
            f"{row.gflops:.2f}",
            f"{row.frames} x {row.stride}",
            str(row.crop),
            str(row.feature_dim),
            str(known.top1) if known else "",
            known.source if known else "",
        )
    return table
