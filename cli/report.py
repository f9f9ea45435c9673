"""``vidssl report``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _common


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    json_to: _common.JsonTo = None,
) -> None:
    """Write RUN/report.html: curves, scores, events and how to repeat the run.

    The page is one file without scripts that opens anywhere. A run that is still going on can be
    reported on at any time.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import report as job

    with _common.user_errors():
        result = job.run(run)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _common.say(f"{result.path}: {result.steps} steps. {result.verdict}")
