"""The clip index: one Parquet row a video, memory-mapped: a million rows cost a worker nothing."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
    ]
)


def write_index(path: Path, rows: Iterable[VideoFacts]) -> None:
    """Write the rows as an index, whole or not at all."""
    table = pa.Table.from_pylist([vars(row) for row in rows], schema=SCHEMA)
    with replacing(path) as aside:
        pq.write_table(table, aside)


def read_rows(path: Path) -> list[VideoFacts]:
    """Return every row of an index, set-aside videos included.

    Raises:
        SourceError: if the file is not an index.
    """
    return [VideoFacts(**row) for row in _table(path).to_pylist()]


class ClipIndex:
    """The usable videos of an index, by position.

    Opened anew in every process that reads it: pickling carries the path alone.
    """

    def __init__(self, path: Path) -> None:
        """Map the index at ``path``.

        Raises:
            SourceError: if the file is not an index, or none of its videos can be decoded.
        """
        self.path = path
        table = _table(path)
        status = np.asarray(table["status"])
        self.positions = np.flatnonzero(status == "ok")
        if len(self.positions) == 0:
            errors = [e or s for e, s in zip(table["error"].to_pylist(), status, strict=True)]
            title = f"{path}: none of the {len(status)} videos can be decoded"
            raise SourceError(listed(title, errors, limit=8))
        self._paths = table["path"]
        self.duration_s = np.asarray(table["duration_s"], dtype=np.float64)
        self.set_aside = int(len(status) - len(self.positions))

    def __reduce__(self) -> tuple[type["ClipIndex"], tuple[Path]]:
        """Send the path, not the mapped table, to another process."""
        return (ClipIndex, (self.path,))

    def __len__(self) -> int:
        """Return the number of usable videos."""
        return len(self.positions)

    def video(self, index: int) -> tuple[Location, float]:
        """Return location and duration in seconds of usable video ``index``."""
        row = int(self.positions[index])
        return self._paths[row].as_py(), float(self.duration_s[row])

    def paths(self) -> list[Location]:
        """Return the location of every usable video."""
        return [self.video(index)[0] for index in range(len(self))]

    def fingerprint(self) -> str:
        """Return a short hash of the usable videos' names and lengths."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            location, duration_s = self.video(index)
            name = location.rpartition("/")[2]
            digest.update(json.dumps([name, round(duration_s, 3)]).encode())
        return digest.hexdigest()[:16]


def is_index(path: Path) -> bool:
    """Whether a Parquet file has the columns of an index."""
    try:
        return set(SCHEMA.names) <= set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return False


def reusable(rows: Sequence[VideoFacts]) -> dict[tuple[str, int, float], VideoFacts]:
    """Return rows by path, size and time of change: a changed file is looked at anew."""
    return {(row.path, row.bytes, row.mtime): row for row in rows}


def _table(path: Path) -> pa.Table:
    if not is_index(path):
        raise SourceError(
            f"{path}: not an index: expected the Parquet file that `vidssl index` writes"
        )
    return pq.read_table(path, columns=SCHEMA.names, memory_map=True)
