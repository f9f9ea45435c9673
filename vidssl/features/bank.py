"""Reading a bank: the index in a few arrays, the features mapped from disk.

Array suffixes: Q rows of a window, D features.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vidssl.errors import BankError
from vidssl.features.manifest import (
    DTYPE,
    BankIdentity,
    Kind,
    Manifest,
    ShardRecord,
    read_record,
    shard_name,
)
from vidssl.features.rows import SCHEMA
from vidssl.features.window import Pick, Window, choose

INDEXED = ("video", "second", "score", "row")
MAPS_KEPT = 32  # each holds a file descriptor, of which a process has about a thousand


@dataclass(frozen=True)
class _Index:
    """All rows, as the writer ordered them: by video, then time.

    The rows of video i are ``start[i]:start[i + 1]``; ``row`` counts within the video's shard.
    """

    second: NDArray[np.float64]
    score: NDArray[np.float32]
    row: NDArray[np.int64]
    start: NDArray[np.int64]


class Bank:
    """A complete bank, read-only. It may be pickled: another process maps the same files."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Read the index; use ``Bank.open``, which reads the manifest."""
        self.folder = folder
        self._manifest = manifest
        self.videos = tuple(video for videos in manifest.plan for video in videos)
        self._code = {video: code for code, video in enumerate(self.videos)}
        self._shard = np.repeat(np.arange(len(manifest.plan)), [len(v) for v in manifest.plan])
        self._maps: OrderedDict[int, NDArray[np.float16]] = OrderedDict()
        self._index = self._read_index()

    @classmethod
    def open(cls, folder: Path) -> "Bank":
        """Open a complete bank; the rows' checksums and the features' size are checked.

        Raises:
            BankError: if there is no bank, it is not complete, or a shard is absent or does not
                hold what was written, other than by a change of its features that only ``verify``
                finds.
        """
        manifest = Manifest.read(folder)
        if not manifest.complete:
            shards = range(len(manifest.plan))
            done = sum(read_record(folder, index) is not None for index in shards)
            raise BankError(
                f"{folder}: the bank is not complete ({done} of {len(shards)} shards);"
                " run the same extraction again to continue it"
            )
        return cls(folder, manifest)

    @property
    def dim(self) -> int:
        """D."""
        return self._manifest.dim

    @property
    def kind(self) -> Kind:
        """What a row is."""
        return self._manifest.kind

    @property
    def failed_keyframes(self) -> int:
        """How many key frames could not be read when the bank was made."""
        return sum(record.failed_keyframes for record in self._manifest.records)

    @property
    def identity(self) -> BankIdentity:
        """What made the rows."""
        return self._manifest.identity

    @property
    def encoder_hash(self) -> str:
        """The hash of the weights that made the features."""
        return self._manifest.identity.encoder_hash

    @property
    def content_hash(self) -> str:
        """A short hash of all rows, from the checksums that were taken when they were written.

        It is the same of a bank made anew with the same bytes, by whichever version.
        """
        manifest = self._manifest
        content = [
            [*videos, record.rows, record.npy_sha256, record.parquet_sha256]
            for videos, record in zip(manifest.plan, manifest.records, strict=True)
        ]
        told = json.dumps([manifest.kind, manifest.dim, content])
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._index.row)

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        """Pickle the place and not the content."""
        return (Bank.open, (self.folder,))

    def has(self, video: str) -> bool:
        """Return whether the bank covers the video, be it without a single box."""
        return video in self._code

    def require(self, encoder_hash: str) -> None:
        """Refuse the bank of another encoder.

        Raises:
            BankError: if the features were made by other weights than those of ``encoder_hash``.
        """
        if self.encoder_hash != encoder_hash:
            raise BankError(
                f"{self.folder}: this bank was made by encoder {self.encoder_hash}; the head was"
                f" trained with a bank of encoder {encoder_hash}; extract it again with"
                " `vidssl extract-features RECIPE --encoder PATH --videos SOURCE --out BANK`,"
                " PATH being that encoder"
            )

    def verify(self) -> list[str]:
        """Return what is wrong with the files, all bytes read; empty if nothing is."""
        return [
            problem
            for index, record in enumerate(self._manifest.records)
            for problem in record.problems(self.folder, shard_name(index))
        ]

    def shards(self) -> Iterator[tuple[pa.Table, NDArray[np.float16]]]:
        """Give each shard's rows, in the columns of ``SCHEMA``, with their features mapped."""
        for shard, record in enumerate(self._manifest.records):
            table = _read_table(self._path(shard, "parquet"), record, SCHEMA.names)
            yield table, np.load(self._path(shard, "npy"), mmap_mode="r")

    def window(
        self,
        video: str,
        second: float,
        *,
        before_s: int,
        after_s: int,
        per_step: int,
        pick: Pick,
        seed: int,
    ) -> Window:
        """Return what ``second`` of a video sees; a video that the bank lacks gives no rows.

        Steps of one second cover ``[second - before_s, second + after_s - 1]``; each takes up to
        ``per_step`` of the rows within half a second of it. ``seed`` decides a random pick.

        Raises:
            ValueError: if the window has no rows at all.
        """
        steps = before_s + after_s
        if min(before_s, after_s) < 0 or steps * per_step < 1:
            raise ValueError(f"no window of {before_s} s + {after_s} s with {per_step} a step")
        size = steps * per_step
        offset_s, mask = np.zeros(size, np.float32), np.zeros(size, np.bool_)
        code = self._code.get(video)
        if code is None:
            return Window(np.zeros((size, self.dim), np.float16), offset_s, mask)

        first, last = self._between(code, second - before_s - 0.5, second + after_s - 0.5)
        away_s = self._index.second[first:last] - second
        # The clip mends a sum that rounds to the far edge of the window.
        step = np.floor(away_s + before_s + 0.5).astype(np.int64).clip(0, steps - 1)
        if pick == "top":
            priority = -self._index.score[first:last]
        else:
            priority = np.random.default_rng(seed).random(last - first, np.float32)
        taken, slot = choose(step, priority, per_step)
        if not len(taken):
            return Window(np.zeros((size, self.dim), np.float16), offset_s, mask)
        offset_s[slot], mask[slot] = away_s[taken], True
        # Copied once, straight to their places; what is not there is emptied afterwards.
        row = np.zeros(size, np.int64)
        row[slot] = self._index.row[first:last][taken]
        features = np.empty((size, self.dim), np.float16)
        np.take(self._features(code), row, axis=0, out=features, mode="clip")
        features[~mask] = 0
        return Window(features, offset_s, mask)

    def _between(self, code: int, from_s: float, until_s: float) -> tuple[int, int]:
        """Return the range of rows of a video with ``from_s <= second < until_s``."""
        start, stop = self._index.start[code : code + 2]
        first, last = np.searchsorted(self._index.second[start:stop], (from_s, until_s))
        return int(start + first), int(start + last)

    def _features(self, code: int) -> NDArray[np.float16]:
        """Return the mapped features of the shard that holds a video."""
        shard = int(self._shard[code])
        if shard not in self._maps:
            self._maps[shard] = np.load(self._path(shard, "npy"), mmap_mode="r")
            if len(self._maps) > MAPS_KEPT:
                self._maps.popitem(last=False)
        self._maps.move_to_end(shard)
        return self._maps[shard]

    def _path(self, shard: int, suffix: str) -> Path:
        return self.folder / f"{shard_name(shard)}.{suffix}"

    def _read_index(self) -> _Index:
        codes, seconds = [np.zeros(0, np.int64)], [np.zeros(0, np.float64)]
        scores, rows = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
        for shard, record in enumerate(self._manifest.records):
            _require_size(self._path(shard, "npy"), record, self.dim)
            table = _read_table(self._path(shard, "parquet"), record, INDEXED)
            codes.append(self._codes_of(table["video"]))
            seconds.append(table["second"].to_numpy())
            scores.append(table["score"].to_numpy())
            rows.append(table["row"].to_numpy())
        start = np.searchsorted(np.concatenate(codes), np.arange(len(self.videos) + 1))
        return _Index(np.concatenate(seconds), np.concatenate(scores), np.concatenate(rows), start)

    def _codes_of(self, names: pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the position of each row's video in ``videos``."""
        encoded = names.combine_chunks().dictionary_encode()
        codes = [self._code[name] for name in encoded.dictionary.to_pylist()]
        indices: NDArray[np.int32] = encoded.indices.to_numpy()
        return np.array(codes, np.int64)[indices]


def _read_table(path: Path, record: ShardRecord, columns: Sequence[str]) -> pa.Table:
    """Return a shard's rows; small enough to hold against their checksum whenever they are read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BankError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != record.parquet_sha256:
        raise BankError(f"{path}: its bytes do not match the checksum taken when written")
    return pq.read_table(pa.BufferReader(content), columns=[*columns])


def _require_size(path: Path, record: ShardRecord, dim: int) -> None:
    """Refuse features of another shape, or a file that does not end where they do."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"npy version {version}")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            header = file.tell()
    except (OSError, ValueError) as error:
        raise BankError(f"{path}: cannot be read ({error})") from error
    if (shape, fortran, dtype) != ((record.rows, dim), False, np.dtype(DTYPE)):
        raise BankError(f"{path}: expected {DTYPE} ({record.rows}, {dim}), found {dtype} {shape}")
    expected, found = header + record.rows * dim * dtype.itemsize, path.stat().st_size
    if found != expected:
        raise BankError(f"{path}: expected {expected} bytes, found {found}")
