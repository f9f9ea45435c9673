"""A sound csv file of the AVA family in one go: columns from Arrow, or nothing at all.

What is read here is read as ``vidssl.ava.rows`` and ``vidssl.ava.columns`` read it, only sooner. A
file with anything out of the ordinary (quotes, blank lines, a number that Arrow does not take, a
value out of range) is not read here: the strict reader takes it, or says what is wrong and where.

Array suffixes: R rows of the file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from vidssl.ava.columns import NOBODY, TOLERANCE
from vidssl.ava.frames import Names, Seconds
from vidssl.ava.rows import BARE, floats, is_header, wholes
from vidssl.boxes import Boxes

BOM = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 22
LONGEST = 1_000  # letters of a video's name, of which every row holds a copy
HEADS = 1_000  # lines looked at for the width of the file
LETTER = 4  # bytes of one in an array
FULL = 8  # columns of a row with a person or a score


@dataclass(frozen=True)
class Bulk:
    """The columns of a file, rows in its order: ``box`` is ``(R, 4)``, all others ``(R,)``.

    A bare row, which names a frame alone, has a box of NaN, action 0 and ``last`` 0 or, where
    that is whole numbers, -1. ``last`` is the 8th column, absent in a file of seven.
    """

    video: Names
    timestamp: Seconds
    box: Boxes
    action: NDArray[np.int64]
    last: NDArray[Any] | None


@dataclass
class _Bare:
    """The rows of two columns of a file: their numbers from 1 and their texts."""

    allowed: bool
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __call__(self, row: Any) -> str:
        if not self.allowed or row.actual_columns != BARE:
            return "error"
        self.numbers.append(row.number)
        self.texts.append(row.text)
        return "skip"


def read(
    path: Path, layouts: Mapping[int, str], limit: int | None, *, whole_last: bool
) -> Bulk | None:
    """Return the columns of a file with one of ``layouts``, or None: then read it strictly.

    ``limit`` is the largest action, if there is one. ``whole_last`` says that an 8th column holds
    persons, else it holds scores.
    """
    try:
        data = _plain(path.read_bytes())
    except OSError:
        return None
    width = _width(data, layouts)
    if not width:
        return None
    bare = _Bare(BARE in layouts)
    try:
        table = _parsed(data, width, bare, whole_last)
    except pa.ArrowInvalid:
        return None
    del data
    found = _full(table, width, whole_last)
    if not _is_sound(found, limit, whole_last):
        return None
    found = _with_bare(found, bare, NOBODY if whole_last else 0)
    return found if _names_frames(found) else None


def _plain(data: bytes) -> bytes:
    """Return the rows of a file alone, with LF line ends; nothing if any could not be simple."""
    data = data.removeprefix(BOM)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    end = data.find(b"\n") + 1
    if is_header(data[: end or None].decode(errors="replace").split(",")):
        data = data[end:] if end else b""
    if not data.isascii() and not _is_text(data):
        return b""
    odd = any(mark in data for mark in (b'"', b"\r", b"\0"))
    return b"" if odd or data.startswith(BOM) else data


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _width(data: bytes, layouts: Mapping[int, str]) -> int:
    """Return the columns of the first row that is not bare, 0 if that is none of ``layouts``."""
    at = 0
    for _ in range(HEADS):
        end = data.find(b"\n", at)
        width = data.count(b",", at, end if end >= 0 else len(data)) + 1
        if width != BARE:
            return width if width in layouts else 0
        if end < 0:
            break
        at = end + 1
    return 0


def _parsed(data: bytes, width: int, bare: _Bare, whole_last: bool) -> pa.Table:
    """Return the rows of full width; text where Python's parser is to have the word.

    Raises:
        pa.ArrowInvalid: if a row has another width, or a cell is not what its column holds.
    """
    names = [str(column) for column in range(width)]
    text = pa.dictionary(pa.int32(), pa.string())
    number = pa.float64()
    kinds = [text, text, *[number] * 4, text, text if whole_last else number]
    return pa.csv.read_csv(
        pa.BufferReader(data),
        pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names),
        pa.csv.ParseOptions(quote_char=False, ignore_empty_lines=False, invalid_row_handler=bare),
        pa.csv.ConvertOptions(column_types=dict(zip(names, kinds, strict=False)), null_values=[]),
    )


def _full(table: pa.Table, width: int, whole_last: bool) -> Bulk:
    """Return the table of the rows of full width."""
    video = _texts(table.column(0), _names)
    timestamp, action = _texts(table.column(1), floats), _texts(table.column(6), wholes)
    box = np.empty((len(table), 4))
    for column in range(4):
        box[:, column] = table.column(BARE + column).to_numpy()
    last = None
    if width == FULL:
        column = table.column(FULL - 1)
        last = _texts(column, wholes) if whole_last else column.to_numpy()
    return Bulk(video, timestamp, box, action, last)


def _is_sound(found: Bulk, limit: int | None, whole_last: bool) -> bool:
    """Return whether every cell is what the strict reader lets pass; NaN never is."""
    x1, y1, x2, y2 = found.box.T
    sides = (x1 < x2).all() and (y1 < y2).all()
    corner = min(x1.min(), y1.min()) >= -TOLERANCE and max(x2.max(), y2.max()) <= 1 + TOLERANCE
    ids = found.action.min() >= 1 and (limit is None or found.action.max() <= limit)
    last = found.last is None or (
        found.last.min() >= NOBODY if whole_last else np.isfinite(found.last).all()
    )
    return bool(sides and corner and ids and last)


def _names_frames(found: Bulk) -> bool:
    """Return whether every row has a video and a time from 0 up."""
    named = found.video.itemsize <= LONGEST * LETTER and (found.video != "").all()
    return bool(named and (found.timestamp >= 0).all())


def _texts(column: pa.ChunkedArray, parse: Callable[[list[str]], NDArray[Any]]) -> NDArray[Any]:
    """Return a column of text, ``(R,)``, each different text parsed once."""
    seen: dict[str, int] = {}
    codes = []
    for chunk in column.chunks:
        here = [seen.setdefault(text, len(seen)) for text in chunk.dictionary.to_pylist()]
        codes.append(np.array(here, dtype=np.int32)[chunk.indices.to_numpy()])
    values = parse([*seen])
    return values[np.concatenate(codes)] if codes else values


def _names(texts: list[str]) -> Names:
    return np.array(texts, dtype=np.str_)


def _with_bare(found: Bulk, bare: _Bare, last: int) -> Bulk:
    """Return the table with its bare rows where they stood in the file."""
    if not bare.numbers:
        return found
    cells = [text.split(",") for text in bare.texts]
    # The place of each among the full rows: the rows before it without the bare ones.
    places = np.array(bare.numbers) - 1 - np.arange(len(cells))

    def put(column: NDArray[Any], values: Any) -> NDArray[Any]:
        values = np.asarray(values)
        kind = np.promote_types(column.dtype, values.dtype)
        return np.insert(column.astype(kind, copy=False), places, values, axis=0)

    return Bulk(
        put(found.video, _names([name for name, _ in cells])),
        put(found.timestamp, floats([time for _, time in cells])),
        put(found.box, np.full((len(cells), 4), np.nan)),
        put(found.action, np.zeros(len(cells), dtype=np.int64)),
        None if found.last is None else put(found.last, np.full(len(cells), last, np.int64)),
    )
