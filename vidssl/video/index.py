"""The clip index: one Parquet row a video, and a map of the usable ones that training reads.

The map lies in the same file, between the last row group and the footer, where readers of Parquet
do not look: ``positions`` (int64: the row of each usable video), ``duration_s`` (float64: of every
row), ``ends`` (int64: where each usable path ends), the paths in UTF-8, then ``TRAILER``. It is not
compressed, so each process maps it: a million videos cost a worker no memory of its own. A Parquet
file with the columns of an index but no map, as other tools write it, is mapped by way of a
temporary file without a name.
"""

import hashlib
import json
import mmap
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vidssl.errors import SourceError, listed
from vidssl.files import replacing
from vidssl.video.probe import VideoFacts
from vidssl.video.storage import Location

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("bytes", pa.int64()),
        ("mtime", pa.float64()),
        ("codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("variable_rate", pa.bool_()),
        ("rotation", pa.int32()),
        ("duration_s", pa.float64()),
        ("frames", pa.int64()),
        ("keyframes_s", pa.list_(pa.float64())),
        ("has_audio", pa.bool_()),
        ("decoder", pa.string()),
        ("cut_off", pa.bool_()),
    ]
)
ADDED = {"cut_off": False}
"""Columns that an older index need not have, and what stands for them."""
GROUP_ROWS = 16_384
ACCOUNT = "vidssl.source"
TRAILER = struct.Struct("<16sqqqq16s")
"""Magic, start of the map in the file, rows, usable videos, bytes of their paths, fingerprint."""
MAGIC = b"vidssl map 1\n\0\0\0"
FOOTER = struct.Struct("<I4s")


def write_index(path: Path, rows: Iterable[VideoFacts]) -> None:
    """Write the rows as an index, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    write_tables(path, tables(rows))


def tables(rows: Iterable[VideoFacts]) -> Iterator[pa.Table]:
    """Give rows as tables of at most ``GROUP_ROWS``."""
    left = iter(rows)
    while some := [vars(row) for row in islice(left, GROUP_ROWS)]:
        yield pa.Table.from_pylist(some, schema=SCHEMA)


def write_tables(
    path: Path, parts: Iterable[pa.Table], account: Mapping[str, object] | None = None
) -> None:
    """Write an index from its rows in parts, whole or not at all; no more than a part is held.

    ``account`` tells where the videos are from, and what is missing; see :func:`account_of`.

    Raises:
        OutputError: if it cannot be written.
    """
    with (
        replacing(path) as aside,
        _MapWriter(path.parent) as usable,
        pa.OSFile(str(aside), "wb") as sink,
        pq.ParquetWriter(sink, SCHEMA) as writer,
    ):
        for part in parts:
            writer.write_table(part, row_group_size=GROUP_ROWS)
            usable.add(part)
        if account is not None:
            writer.add_key_value_metadata({ACCOUNT: json.dumps(account)})
        for piece in usable.pieces(sink.tell()):
            sink.write(piece)


def account_of(path: Path) -> dict[str, Any] | None:
    """Return what an index tells of the source that it was made of; None if nothing.

    Raises:
        SourceError: if the file is not an index.
    """
    if not is_index(path):
        raise SourceError(f"{path}: not an index")
    metadata = pq.read_metadata(path).metadata or {}
    found: dict[str, Any] | None = json.loads(metadata.get(ACCOUNT.encode(), b"null"))
    return found


def read_tables(path: Path, columns: Sequence[str] = SCHEMA.names) -> Iterator[pa.Table]:
    """Give the rows of an index in parts of at most ``GROUP_ROWS``, set-aside videos included.

    Raises:
        SourceError: if the file is not an index.
    """
    if not is_index(path):
        raise SourceError(
            f"{path}: not an index: expected the Parquet file that `vidssl index` writes"
        )
    with pq.ParquetFile(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(GROUP_ROWS, columns=there):
            yield completed(pa.table(batch), columns)


def completed(table: pa.Table, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """Return a table with ``columns`` in their types; those of an older index are filled in."""
    for name in columns:
        if name not in table.column_names:
            values = pa.array([ADDED[name]] * len(table), SCHEMA.field(name).type)
            table = table.append_column(name, values)
    return table.select(columns).cast(pa.schema([SCHEMA.field(name) for name in columns]))


def read_rows(path: Path) -> list[VideoFacts]:
    """Return every row of an index, set-aside videos included: an object for each.

    Raises:
        SourceError: if the file is not an index.
    """
    return [VideoFacts(**row) for part in read_tables(path) for row in part.to_pylist()]


def set_aside(path: Path) -> Iterator[VideoFacts]:
    """Give the rows that are not usable.

    Raises:
        SourceError: if the file is not an index.
    """
    for part in read_tables(path):
        aside = part.filter(pc.not_equal(part["status"], "ok"))
        yield from (VideoFacts(**row) for row in aside.to_pylist())


class ClipIndex:
    """The usable videos of an index, by position.

    ``positions`` are their rows; ``duration_s`` is that of every row; ``set_aside`` counts the
    videos that are not usable. Opened anew in every process that reads it: pickling carries the
    path alone.
    """

    def __init__(self, path: Path) -> None:
        """Map the index at ``path``.

        Raises:
            SourceError: if the file is not an index, or none of its videos can be decoded.
        """
        self.path = path
        self._map, begin, rows, usable, self._fingerprint = _mapped(path)
        if usable == 0:
            errors = [row.error or row.status for row in islice(set_aside(path), 9)]
            errors += [""] * (rows - len(errors))  # counted, not shown
            raise SourceError(
                listed(f"{path}: none of the {rows} videos can be decoded", errors, limit=8)
            )
        self.positions: NDArray[np.int64] = np.frombuffer(self._map, "<i8", usable, begin)
        begin += 8 * usable
        self.duration_s: NDArray[np.float64] = np.frombuffer(self._map, "<f8", rows, begin)
        begin += 8 * rows
        self._ends: NDArray[np.int64] = np.frombuffer(self._map, "<i8", usable, begin)
        self._paths = begin + 8 * usable
        self.set_aside = rows - usable

    def __reduce__(self) -> tuple[type["ClipIndex"], tuple[Path]]:
        """Send the path, not what is mapped, to another process."""
        return (ClipIndex, (self.path,))

    def __len__(self) -> int:
        """Return the number of usable videos."""
        return len(self.positions)

    def video(self, index: int) -> tuple[Location, float]:
        """Return location and duration in seconds of usable video ``index``."""
        index = range(len(self))[index]
        begin = self._paths + (int(self._ends[index - 1]) if index else 0)
        location = self._map[begin : self._paths + int(self._ends[index])].decode()
        return location, float(self.duration_s[self.positions[index]])

    def paths(self) -> list[Location]:
        """Return the location of every usable video: a text for each."""
        return [self.video(index)[0] for index in range(len(self))]

    def fingerprint(self) -> str:
        """Return a short hash of the usable videos' names and lengths; it is kept in the file."""
        return self._fingerprint


class Rows:
    """The rows of several files with an index's columns, numbered on from file to file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._groups: list[tuple[Path, int]] = []
        starts = [0]
        for path in paths:
            about = pq.read_metadata(path)
            for number in range(about.num_row_groups):
                self._groups.append((path, number))
                starts.append(starts[-1] + about.row_group(number).num_rows)
        self._starts = np.array(starts, dtype=np.int64)
        self._last: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._starts[-1])

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return whole columns."""
        parts = [part for path in self._paths for part in read_tables(path, names)]
        empty = pa.schema([SCHEMA.field(name) for name in names]).empty_table()
        return pa.concat_tables([empty, *parts])

    def take(self, numbers: NDArray[np.int64]) -> Iterator[pa.Table]:
        """Give rows by number, in parts of ``GROUP_ROWS``; one part and one group are held."""
        for start in range(0, len(numbers), GROUP_ROWS):
            wanted = numbers[start : start + GROUP_ROWS]
            groups = np.searchsorted(self._starts, wanted, side="right") - 1
            places = [np.flatnonzero(groups == group) for group in np.unique(groups)]
            parts = [
                self._group(int(groups[at[0]])).take(wanted[at] - self._starts[groups[at[0]]])
                for at in places
            ]
            yield pa.concat_tables(parts).take(np.argsort(np.concatenate(places)))

    def _group(self, group: int) -> pa.Table:
        if self._last is None or self._last[0] != group:
            path, number = self._groups[group]
            with pq.ParquetFile(path) as file:
                self._last = group, completed(file.read_row_group(number))
        return self._last[1]


def has_map(path: Path) -> bool:
    """Whether an index holds the map of its usable videos."""
    with path.open("rb") as file:
        return _trailer(file) is not None


def is_index(path: Path) -> bool:
    """Whether a Parquet file has the columns of an index."""
    try:
        return set(SCHEMA.names) - ADDED.keys() <= set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return False


def _mapped(path: Path) -> tuple[mmap.mmap, int, int, int, str]:
    """Return the mapped file, the start of the map in it, rows, usable videos, fingerprint."""
    try:
        with path.open("rb") as file:
            found = _trailer(file)
            if found is not None:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), *found
    except OSError:  # told of as no index
        pass
    with tempfile.TemporaryFile() as file, _MapWriter(None) as usable:
        for part in read_tables(path, ["path", "status", "duration_s"]):
            usable.add(part)
        for piece in usable.pieces(0):
            file.write(piece)
        file.flush()
        start, rows, count, fingerprint = _parsed(piece)
        return (
            *(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), start),
            *(rows, count, fingerprint),
        )


def _trailer(file: BinaryIO) -> tuple[int, int, int, str] | None:
    """Return what ``_parsed`` does of the map right before a Parquet footer, if there is one."""
    size = file.seek(0, 2)
    if size < FOOTER.size + TRAILER.size:
        return None
    file.seek(size - FOOTER.size)
    length, magic = FOOTER.unpack(file.read(FOOTER.size))
    at = size - FOOTER.size - length - TRAILER.size
    if magic != b"PAR1" or at < 0:
        return None
    file.seek(at)
    trailer = file.read(TRAILER.size)
    if TRAILER.unpack(trailer)[0] != MAGIC:
        return None
    _, start, rows, usable, path_bytes, _ = TRAILER.unpack(trailer)
    return _parsed(trailer) if start + 16 * usable + 8 * rows + path_bytes == at else None


def _parsed(trailer: bytes) -> tuple[int, int, int, str]:
    """Return the start of the map, rows, usable videos and the fingerprint."""
    _, start, rows, usable, _, fingerprint = TRAILER.unpack(trailer)
    return start, rows, usable, fingerprint.decode()


class _MapWriter:
    """Collects what the map holds: numbers here (24 bytes a video), the paths in a file aside."""

    def __init__(self, folder: Path | None) -> None:
        self._positions: list[NDArray[np.int64]] = []
        self._duration_s: list[NDArray[np.float64]] = []
        self._ends: list[NDArray[np.int64]] = []
        self._rows = self._usable = 0
        self._digest = hashlib.sha256()
        self._paths = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed in __exit__

    def __enter__(self) -> "_MapWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._paths.close()

    def add(self, part: pa.Table) -> None:
        """Take the rows that follow."""
        is_ok = pc.fill_null(pc.equal(part["status"], "ok"), False)
        duration_s = part["duration_s"].fill_null(0.0)
        self._positions.append(np.flatnonzero(is_ok.to_numpy()) + self._rows)
        self._duration_s.append(duration_s.to_numpy())
        names = part["path"].filter(is_ok).to_pylist()
        contents = [name.encode() for name in names]
        ends = np.cumsum([len(content) for content in contents], dtype=np.int64)
        self._ends.append(ends + self._paths.tell())
        self._paths.write(b"".join(contents))
        for name, length_s in zip(names, duration_s.filter(is_ok).to_pylist(), strict=True):
            # Names alone: an index made after the videos were moved has the same.
            self._digest.update(json.dumps([name.rpartition("/")[2], round(length_s, 3)]).encode())
        self._rows += len(part)
        self._usable += len(names)

    def pieces(self, at: int) -> Iterator[bytes]:
        """Give the map for the place ``at`` in a file; the last piece is the trailer."""
        padding = -at % 8
        yield bytes(padding)
        for numbers in (self._positions, self._duration_s, self._ends):
            for array in numbers:
                yield array.astype(array.dtype.newbyteorder("<")).tobytes()
        size = self._paths.tell()
        self._paths.seek(0)
        while some := self._paths.read(1 << 22):
            yield some
        fingerprint = self._digest.hexdigest()[:16].encode()
        yield TRAILER.pack(MAGIC, at + padding, self._rows, self._usable, size, fingerprint)
