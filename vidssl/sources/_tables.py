"""Lists as text: rows with their line numbers, and every mistake of a file told at once.

Lists are data: nothing in them is run, and what looks like a Python list is left a text. Lines may
end in CRLF, and a byte order mark is passed over.
"""

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vidssl.errors import SourceError, VideoError, listed, nearest
from vidssl.sources._place import TOLD, joined
from vidssl.video.storage import Location, is_address, opened_bytes, shown


@dataclass(frozen=True)
class Table:
    """The wanted columns of a csv list; ``lines`` says where each row ends, counted from 1."""

    path: Location
    lines: list[int]
    cells: dict[str, list[str]]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lines)


def read_bytes(path: Location) -> bytes:
    """Return all of a list.

    Raises:
        SourceError: if it cannot be read.
    """
    try:
        with opened_bytes(path) as file:
            return file.read()
    except VideoError as error:
        raise SourceError(str(error)) from None


def read_text(path: Location) -> str:
    """Return the text of a list, without a byte order mark.

    Raises:
        SourceError: if it cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{shown(path)}: not a text file in UTF-8 ({error.reason})") from None


def lines_of(path: Location) -> list[tuple[int, str]]:
    """Return the lines that are not blank, stripped, with their numbers from 1."""
    text = read_text(path)
    return [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def rows_of(path: Location) -> list[tuple[int, list[str]]]:
    """Return the rows of a csv or tsv file that are not blank, with the lines that they end in.

    Raises:
        SourceError: if it is not such a file.
    """
    text = read_text(path)
    tabs = path.lower().endswith(".tsv")
    delimiter = "\t" if tabs else ","
    # Not strict, a quote that is never closed would make one cell of all rows that follow.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    begun = 1
    try:
        for row in reader:
            if any(row):
                rows.append((reader.line_num, row))
            begun = reader.line_num + 1
    except csv.Error as error:
        what = "a quote is opened and not closed" if "unexpected end" in str(error) else error
        raise SourceError(f"{shown(path)}:{begun}: not a csv file ({what})") from error
    return rows


def read_table(path: Location, needed: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Return the columns of a csv file with a header; those of ``optional`` that it lacks are not
    in the table. A file without rows is an empty table.

    Raises:
        SourceError: if the header lacks a column, or rows are shorter than it takes.
    """
    rows = rows_of(path)
    if not rows:
        return Table(path, [], {name: [] for name in needed})
    header = [cell.strip().lower() for cell in rows[0][1]]
    lacking = [name for name in needed if name not in header]
    twice = [name for name in (*needed, *optional) if header.count(name) > 1]
    if twice:
        raise SourceError(
            f"{shown(path)}:{rows[0][0]}: expected each column once, found {', '.join(twice)} twice"
        )
    if lacking:
        plural = "columns" if len(needed) > 1 else "a column"
        hint = nearest(lacking[0], header)
        raise SourceError(
            f"{shown(path)}:{rows[0][0]}: expected {plural} named {', '.join(needed)}, "
            f"found {[shown(cell)[:40] for cell in header[:20]]}{hint}"
        )
    column = {name: header.index(name) for name in (*needed, *optional) if name in header}
    cells: dict[str, list[str]] = {name: [] for name in column}
    problems = Problems(path)
    for line, row in rows[1:]:
        short = [name for name in needed if len(row) <= column[name]]
        if short:
            problems.add(line, f"no {', '.join(short)} in this row")
            continue
        for name, at in column.items():
            cells[name].append(row[at].strip() if at < len(row) else "")
    problems.refuse()
    return Table(path, [line for line, _ in rows[1:]], cells)


class Problems:
    """What is wrong with one list, collected and raised together."""

    def __init__(self, path: Location) -> None:
        """Start with nothing wrong with the list at ``path``."""
        self._path, self._found = path, list[str]()

    def add(self, line: int, what: str) -> None:
        """Note a mistake; ``line`` counts from 1."""
        self._found.append(f"{shown(self._path)}:{line}: {what}")

    def refuse(self) -> None:
        """Do nothing if the list is sound.

        Raises:
            SourceError: with the mistakes noted so far.
        """
        if self._found:
            count = f"{len(self._found)} mistake{'s' * (len(self._found) > 1)}"
            raise SourceError(listed(f"{shown(self._path)}: {count}", self._found, TOLD))


def whole(text: str) -> int | None:
    """Return a number of decimal digits; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def seconds(text: str) -> float | None:
    """Return a time in seconds, written as such or as ``HH:MM:SS.ss``; None for any other text."""
    if re.fullmatch(r"(\d{1,9}:){0,2}(\d{1,9}(\.\d*)?|\.\d+)", text, re.ASCII) is None:
        return None
    parts = [float(part) for part in text.split(":")]
    if any(part >= 60 for part in parts[1:]):
        return None
    total = 0.0
    for part in parts:
        total = 60 * total + part
    return total


def leaves(root: Location, name: Location, *, absolute_ok: bool = False) -> str:
    """Return why ``name`` would lead out of the folder ``root``, or nothing if it does not.

    Judged by the text alone: a link within the folder may well lead elsewhere. ``absolute_ok``
    lets a list of this machine name whole paths and addresses.
    """
    if is_address(name):
        inside = is_address(root) and name.startswith(root.rstrip("/") + "/")
        return "" if inside or absolute_ok else f"an address outside of {shown(root)}"
    if os.path.isabs(name):
        if is_address(root):
            return "a path of this machine in a list from elsewhere"
        base = os.path.abspath(root).rstrip("/") + "/"
        inside = (os.path.normpath(name) + "/").startswith(base)
        return "" if inside or absolute_ok else f"a path outside of {shown(root)}"
    depth = os.path.normpath(name)
    return f"climbs out of {shown(root)}" if depth == ".." or depth.startswith("../") else ""


def resolved(root: Location, name: Location) -> Location:
    """Return the absolute location of a name in a list whose names start from ``root``."""
    place = joined(root, name)
    if is_address(place):
        return place
    if ".." in place:  # which means another thing where a link stands before it
        return os.path.join(os.getcwd(), place)
    return os.path.abspath(place)


UNSAFE = "allow it with outside=allow"
