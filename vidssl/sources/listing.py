"""Lists of videos: one path a line (txt), a csv or tsv with a ``path`` column, a Parquet table, an
index.

Relative names are taken from the folder of the list, or from ``root``; a name may be an address, or
a member of a tar as ``vidssl.video.storage`` writes it. Further columns that are understood:
``label``, else ``class`` (a number, or a name: the classes are then numbered as sorted; -1
is none), ``start_s`` and ``end_s``.

A list that a person wrote may name absolute paths and addresses. Names that climb out of the list's
folder with ``..`` are refused, and so is what lies outside of ``root`` where that is given, and a
path of this machine in a list from a store: ``outside=allow`` lets them.

    listing:PATH[,root=FOLDER][,outside=allow]
"""

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vidssl.errors import SourceError, VideoError, listed
from vidssl.sources._listing import Columns, Ledger, Listing, class_ids, fingerprint
from vidssl.sources._place import OUTSIDE, TOLD, Place, folder_of
from vidssl.sources._tables import (
    UNSAFE,
    Problems,
    leaves,
    lines_of,
    read_bytes,
    read_table,
    resolved,
    seconds,
    whole,
)
from vidssl.video.storage import (
    Location,
    is_address,
    is_frames,
    member_of,
    protocol,
    shown,
    video_id,
)

OPTIONS = {"root": "the folder that names start from, which they may not leave", **OUTSIDE}
LABELS = ("label", "class")
"""Columns that hold labels; the first is taken where a list has both."""


def read(place: Place) -> Listing:
    """Return the videos of a list, in its order, each once, those absent included.

    Raises:
        SourceError: if the list has no ``path`` column or mistakes, is empty, or none of its files
            is there.
    """
    place.check()
    path = place.path
    bare = path.split("?")[0].lower()
    if bare.endswith(".parquet"):
        lines, names, columns = _parquet(path)
    elif bare.endswith((".csv", ".tsv")):
        lines, names, columns = _csv(path)
    else:
        rows = lines_of(path)
        lines, names, columns = [n for n, _ in rows], [name for _, name in rows], Columns([])
    root = place.option("root") or folder_of(path)
    _refuse(path, root, lines, names, place)
    if not names:
        raise SourceError(f"{shown(path)}: the list names no video")
    return _listing(path, root, lines, names, columns)


def _listing(
    path: Location, root: Location, lines: list[int], names: list[str], columns: Columns
) -> Listing:
    place_of = {name: resolved(root, name) for name in dict.fromkeys(names)}
    id_of = {name: video_id(one) for name, one in place_of.items()}
    position = {one: number for number, one in enumerate(dict.fromkeys(place_of.values()))}
    absent = {name for name, one in place_of.items() if not _there(one)}
    if len(absent) == len(place_of):
        told = [
            f"{shown(path)}:{line}: no such file: {shown(os.path.join(root, name))}"
            for line, name in zip(lines, names, strict=True)
        ]
        raise SourceError(
            listed(f"{shown(path)}: none of the {len(names)} videos is there", told, TOLD)
        )
    seen: set[Location] = set()
    twice: dict[str, None] = {}
    for name in names:
        if place_of[name] in seen and not columns.more:
            twice[name] = None
        seen.add(place_of[name])
    missing = tuple(name for name in place_of if name in absent)
    found = {place_of[name]: name for name in reversed(place_of) if name not in absent}
    ledger = Ledger(
        expected=len(position),
        present=len(position) - len({place_of[name] for name in missing}),
        missing=missing,
        duplicates=tuple(twice),
        fingerprint=fingerprint(id_of[n] for n in place_of if n not in absent),
        found=[(name, id_of[name], place) for place, name in reversed(found.items())],
    )
    labels, classes = _labels(columns.more.get("label"), len(names))
    where = Columns([id_of[name] for name in names], labels, columns.start_s, columns.end_s)
    table = where.table({})
    at = pa.array(
        [None if name in absent else position[place_of[name]] for name in names], pa.int32()
    )
    table = table.set_column(1, "video", at)
    return Listing("listing", list(position), table, ledger, classes)


def _there(video: Location) -> bool:
    """Return whether a file is there; of a store it is not asked, which would take a request."""
    member = member_of(video) if "!" in video else None
    if member is not None:
        return _there(member.tar)
    return ("://" in video and is_address(video)) or os.path.isfile(video) or is_frames(video)


def _labels(
    cells: Sequence[str] | None, count: int
) -> tuple[NDArray[np.int64] | None, dict[int, str]]:
    if cells is None:
        return None, {}
    if all(whole(cell) is not None or cell in {"", "-1"} for cell in cells):
        return np.array([int(cell or -1) for cell in cells], np.int64), {}
    return class_ids(cells)


def _refuse(
    path: Location, root: Location, lines: list[int], names: list[str], place: Place
) -> None:
    allowed, absolute_ok = place.outside, "root" not in place.options
    problems = Problems(path)
    for line, name in zip(lines, names, strict=True):
        if is_address(name):
            try:
                protocol(name)
            except VideoError as error:
                problems.add(line, str(error))
        if not allowed and (why := leaves(root or ".", name, absolute_ok=absolute_ok)):
            problems.add(line, f"{shown(name)}: {why}; {UNSAFE}")
    problems.refuse()


def _csv(path: Location) -> tuple[list[int], list[str], Columns]:
    table = read_table(path, ["path"], [*LABELS, "start_s", "end_s"])
    problems = Problems(path)
    times: dict[str, list[float]] = {}
    for column in ("start_s", "end_s"):
        for line, cell in zip(table.lines, table.cells.get(column, ()), strict=False):
            value = seconds(cell) if cell else np.nan
            if value is None:
                problems.add(line, f"expected {column} in seconds, found {shown(cell)!r}")
            times.setdefault(column, []).append(np.nan if value is None else value)
    for line, name in zip(table.lines, table.cells["path"], strict=True):
        if not name:
            problems.add(line, "no path in this row")
    for line, start_s, end_s in zip(
        table.lines, times.get("start_s", ()), times.get("end_s", ()), strict=False
    ):
        if end_s < start_s:
            problems.add(line, f"end_s {end_s:g} is before start_s {start_s:g}")
    label = next((table.cells[one] for one in LABELS if one in table.cells), None)
    _check_labels(table.lines, label or (), problems)
    problems.refuse()
    more = {} if label is None else {"label": label}
    columns = Columns([], None, times.get("start_s"), times.get("end_s"), more)
    return table.lines, table.cells["path"], columns


def _check_labels(lines: Sequence[int], cells: Sequence[str], problems: Problems) -> None:
    """Note labels that are missing, negative, or names among numbers; -1 is none."""
    are_numbers = sum(whole(cell.removeprefix("-")) is not None for cell in cells)
    names = sum(1 for cell in cells if cell) - are_numbers
    for line, cell in zip(lines, cells, strict=False):
        is_number = whole(cell.removeprefix("-")) is not None
        if not cell:
            problems.add(line, "no label in this row; write -1 for none")
        elif is_number and cell.startswith("-") and cell != "-1":
            problems.add(line, f"expected a label from 0, or -1 for none, found {cell}")
        elif is_number != (are_numbers > names) and cell != "-1" and are_numbers and names:
            kind = "a number" if are_numbers > names else "a name"
            problems.add(line, f"expected {kind} as label, as in other rows, found {shown(cell)!r}")


def _parquet(path: Location) -> tuple[list[int], list[str], Columns]:
    try:
        file = pq.ParquetFile(pa.BufferReader(read_bytes(path)) if is_address(path) else path)
        wanted = {"path", *LABELS, "start_s", "end_s"} & set(file.schema_arrow.names)
        table = file.read(columns=sorted(wanted))
        names = table["path"].to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise SourceError(f"{shown(path)}: not a Parquet table with a column named path") from error
    wrong = [f"row {n}: {name!r}" for n, name in enumerate(names, 1) if not isinstance(name, str)]
    if wrong:
        raise SourceError(listed(f"{shown(path)}: the column named path must hold text", wrong, 8))
    times = {
        name: table[name].cast(pa.float64()).to_numpy()
        for name in ("start_s", "end_s")
        if name in wanted and _is_number(table[name].type)
    }
    more = {}
    for name in reversed(LABELS):
        if name in wanted and _is_label(table[name].type):
            more["label"] = ["" if one is None else str(one) for one in table[name].to_pylist()]
    columns = Columns([], None, times.get("start_s"), times.get("end_s"), more)
    return list(range(1, len(names) + 1)), names, columns


def _is_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
