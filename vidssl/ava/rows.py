"""Delimited text in and out: blocks of text columns, and every problem of a file in one error.

Array suffixes: R rows of a block.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import AnnotationError, OutputError, listed, nearest

BLOCK_ROWS = 8_192  # bounds the memory that the text of a file takes beside its numbers
BARE = 2  # columns of a row that names a frame and nothing in it
BARE_FILL = ("nan", "nan", "nan", "nan", "0", "0")  # no box, no action, no person or score
MALFORMED = int(np.iinfo(np.int64).min)
TIME_NAMES = {"timestamp", "time", "second", "seconds", "sec", "middle_frame_timestamp"}


class Problems:
    """What is wrong with one file, collected row by row and raised together."""

    def __init__(self, path: Path) -> None:
        """Start with nothing wrong with the file at ``path``."""
        self.path = path
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, reason: str, expected: str, found: object) -> None:
        """Note one problem; ``line`` counts from 1."""
        where = f"{self.path.name}:{line}"
        self._found.append((int(line), f"{where}: {reason}: expected {expected}, found {found}"))

    def check(self) -> None:
        """Do nothing if the file is sound.

        Raises:
            AnnotationError: with every problem noted so far, in the order of the lines.
        """
        if self._found:
            texts = [text for _, text in sorted(self._found, key=lambda problem: problem[0])]
            count = f"{len(texts)} problem{'s' * (len(texts) > 1)}"
            raise AnnotationError(listed(f"{self.path} has {count}", texts))


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file as columns of text.

    ``lines`` are line numbers from 1. ``bare`` marks the rows that had two columns only; their
    other cells hold ``BARE_FILL``.
    """

    lines: NDArray[np.int64]
    bare: NDArray[np.bool_]
    cells: list[tuple[str, ...]]


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        AnnotationError: if the file is absent, unreadable or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        siblings = [sibling.name for sibling in path.parent.glob("*")]
        raise AnnotationError(f"{path}: no such file{nearest(path.name, siblings)}") from None
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{data[error.start]:02x}"
        raise AnnotationError(
            f"{path.name}:{line}: not text: expected UTF-8, found {found}"
        ) from None


def blocks(
    path: Path,
    layouts: Mapping[int, str],
    problems: Problems,
    times: Container[str] = TIME_NAMES,
) -> Iterator[Block]:
    """Give the rows of a csv file whose width is right; note the others in ``problems``.

    ``layouts`` names the columns of every width that the format knows. One file has one width,
    the commonest at its start, apart from the bare rows where ``layouts`` has them. Line ends may
    be LF or CRLF; one header line, whose second cell is one of ``times``, and empty lines are
    passed over.
    """
    width = 0
    for first_line, rows in _chunks(path, times):
        widths = np.fromiter(map(len, rows), np.int64, len(rows))
        for row in np.flatnonzero(widths <= BARE):
            widths[row] *= any(cell.strip() for cell in rows[row])  # a blank line has no cells
        width = width or _commonest(widths, layouts)
        good = (widths == width) | ((widths == BARE) & (BARE in layouts))
        for row in np.flatnonzero(~good & (widths > 0)):
            expected = f"{width} ({layouts[width]})"
            found = f"{len(rows[row])} ({shortened(','.join(rows[row]))})"
            problems.add(first_line + int(row), "wrong number of columns", expected, found)
        if good.any():
            kept = np.flatnonzero(good)
            columns = _columns([rows[row] for row in kept.tolist()], width)
            yield Block(first_line + kept, widths[kept] < width, columns)


def _chunks(path: Path, times: Container[str]) -> Iterator[tuple[int, list[list[str]]]]:
    """Give (number of the first line, rows); every row is one line, and a header an empty row."""
    reader = csv.reader(io.StringIO(read_text(path), newline=None), strict=True)
    done = 0
    try:
        while rows := list(islice(reader, BLOCK_ROWS)):
            if reader.line_num != done + len(rows):
                raise csv.Error("a quoted cell over several lines")
            if not done and is_header(rows[0], times):
                rows[0] = []
            yield done + 1, rows
            done = reader.line_num
    except csv.Error as error:
        raise AnnotationError(
            f"{path.name}:{reader.line_num}: not a csv row: expected balanced quotes, found {error}"
        ) from None


def is_header(row: Sequence[str], times: Container[str] = TIME_NAMES) -> bool:
    """Return whether the row names its columns: its second cell is a word for time."""
    return len(row) >= BARE and row[1].strip().lower() in times


def _commonest(widths: NDArray[np.int64], layouts: Mapping[int, str]) -> int:
    known = Counter(width for width in widths.tolist() if width in layouts and width != BARE)
    return known.most_common(1)[0][0] if known else max(layouts)


def _columns(rows: list[list[str]], width: int) -> list[tuple[str, ...]]:
    fill = list(BARE_FILL[: width - BARE])
    full = (row if len(row) == width else row + fill for row in rows)
    return list(zip(*full, strict=True))


def shortened(text: str, length: int = 60) -> str:
    """Return the text, cut so that it fits into a message."""
    return text if len(text) <= length else text[: length - 3] + "..."


def floats(cells: Sequence[str]) -> NDArray[np.float64]:
    """Return the cells as numbers, ``(R,)``; NaN where one is not a plain finite number."""
    try:
        values = np.array(cells, dtype=np.float64)
    except ValueError:
        values = np.array([_float(cell) for cell in cells])
    values[~np.isfinite(values)] = np.nan
    for row in _underscored(cells):
        values[row] = np.nan
    return values


def wholes(cells: Sequence[str]) -> NDArray[np.int64]:
    """Return the cells as whole numbers, ``(R,)``; ``MALFORMED`` where one is none."""
    try:
        values = np.array(cells, dtype=np.int64)
    except (ValueError, OverflowError):
        values = np.array([_whole(cell) for cell in cells], dtype=np.int64)
    for row in _underscored(cells):
        values[row] = MALFORMED
    return values


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _whole(cell: str) -> int:
    try:
        value = int(cell)
    except ValueError:
        return MALFORMED
    return value if abs(value) < 2**63 else MALFORMED


def _underscored(cells: Sequence[str]) -> list[int]:
    # Python reads "1_0" as 10; no csv file means that.
    if "_" not in "".join(cells):
        return []
    return [row for row, cell in enumerate(cells) if "_" in cell]


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """Give a text file that becomes ``path`` in one step when the block ends without an error.

    Raises:
        OutputError: if the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{token_hex(4)}.part")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            aside.unlink()
