"""``vidssl runs``."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.runs import RunRow, RunsResult

SortKey = Literal["name", "state", "steps", "loss", "score", "seen", "hours", "last"]
NOTHING, GAP = "-", "  "
TITLES: tuple[str, ...] = (
    "name",
    "what",
    "state",
    "steps",
    "loss",
    "score",
    "clips seen",
    "hours",
    "last event",
)
NUMBERS = {"steps", "loss", "clips seen", "hours"}
LEAST_FIRST = ("last event", "hours", "clips seen", "what")
"""What a terminal that is too narrow for all columns goes without."""
STYLES = {"running": "cyan", "finished": "green", "failed": "red", "damaged": "red"}


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with runs below it.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="These runs alone; two and more are compared."),
    ] = None,
    sort: Annotated[
        SortKey, typer.Option(help="Order by it: the best, most or newest first.")
    ] = "name",
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare all: in what recipes and data differ.")
    ] = False,
    json_to: _common.JsonTo = None,
) -> None:
    """List the runs below DIR, or compare some of them.

    Of each: what it is, whether it is running, finished, stopped or failed, the steps done of all,
    the last loss, the best score that is known, the clips that it trained on, the hours that these
    took, and its last event; a narrow terminal shows less. Two runs or more are compared by the
    values of their recipes that differ.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs.runs import run

    with _common.user_errors():
        result = run(folder, names or (), diff=diff, sort=sort)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to == "-":
        return
    rows = [_cells(row) for row in result.runs]
    shown = _fitting(rows) if _common.out.is_terminal else TITLES
    places = [TITLES.index(title) for title in shown]
    _show(shown, [[row[place] for place in places] for row in rows], NUMBERS)
    for row in result.runs:
        for problem in row.problems:
            _common.say(f"{row.name}: {problem}")
    if result.differences is not None:
        _common.say("")
        _compare(result)


def _cells(row: "RunRow") -> tuple[str, ...]:
    return (
        row.name,
        " ".join(word for word in (row.command, row.method, row.backbone) if word) or NOTHING,
        row.state,
        _steps(row),
        _number(row.loss, ".3f"),
        f"{row.score[0]} {row.score[1]:.3f}" if row.score else NOTHING,
        _number(row.samples_seen, ",d"),
        _number(row.hours, ".2f"),
        _last(row),
    )


def _fitting(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the titles of the columns that fit beside each other on this terminal."""
    columns = zip(TITLES, zip(*rows, strict=True), strict=True)
    widths = {title: max(map(len, (title, *cells))) + len(GAP) for title, cells in columns}
    shown = TITLES
    for least in LEAST_FIRST:
        if sum(widths[title] for title in shown) <= _common.out.width:
            break
        shown = tuple(title for title in shown if title != least)
    return shown


def _steps(row: "RunRow") -> str:
    if row.state == "damaged":
        return NOTHING
    return f"{row.steps}/{'?' if row.total_steps is None else row.total_steps}"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _last(row: "RunRow") -> str:
    if not row.last_event:
        return NOTHING
    try:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.last_event_time))
    except (OverflowError, ValueError, OSError):
        return row.last_event
    return row.last_event if row.last_event_time is None else f"{row.last_event}, {when}"


def _compare(result: "RunsResult") -> None:
    compared = [row for row in result.runs if row.state != "damaged"]
    titles = ("", *(row.name for row in compared))
    rows = [
        (one.key, *(_value(one.values, row.name) for row in compared))
        for one in result.differences or ()
    ]
    if not rows:
        _common.say("recipes and data are the same")
    numbers: list[tuple[str, ...]] = [
        ("state", *(row.state for row in compared)),
        ("steps", *(_steps(row) for row in compared)),
        ("loss", *(_number(row.loss, ".4g") for row in compared)),
        ("clips seen", *(_number(row.samples_seen, ",d") for row in compared)),
        ("clips/s", *(_number(row.clips_per_s, ".1f") for row in compared)),
        ("hours", *(_number(row.hours, ".2f") for row in compared)),
    ]
    scores = dict.fromkeys(name for row in compared for name in row.scores)
    numbers += [
        (name, *(_number(row.scores.get(name), ".4g") for row in compared)) for name in scores
    ]
    _show(titles, [*rows, *numbers], ())


def _value(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return "(absent)"
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value)


def _show(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[str]) -> None:
    """Print a table: drawn on a terminal, columns of plain text elsewhere.

    Cells come from files and folders of anyone: nothing in them is markup or steers the terminal.
    """
    clean = [[_common.printable(cell).replace("\n", " ") for cell in row] for row in rows]
    heads = [_common.printable(title).replace("\n", " ") for title in titles]
    if not _common.out.is_terminal:
        for line in _columns([heads, *clean], [title in right for title in titles]):
            _common.say(line)
        return
    table = Table(box=None, padding=(0, len(GAP), 0, 0))
    for title, head in zip(titles, heads, strict=True):
        justify: Literal["left", "right"] = "right" if title in right else "left"
        table.add_column(Text(head), justify=justify, overflow="fold")
    for cells in clean:
        table.add_row(
            *(
                Text(cell, style=STYLES.get(cell, "") if title == "state" else "")
                for title, cell in zip(titles, cells, strict=True)
            )
        )
    _common.out.print(table)


def _columns(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        GAP.join(
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
