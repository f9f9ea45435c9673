"""Writing a bank shard by shard: killed at any point, it continues where it stopped.

The plan fixes which videos make up which shard, so shards can be written in any order, by any
number of processes (each shard by one of them), and the same content always gives the same bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vidssl.errors import BankError, OutputError, listed
from vidssl.features.bank import Bank
from vidssl.features.manifest import (
    BANK_JSON,
    BankIdentity,
    Kind,
    Manifest,
    ShardRecord,
    read_record,
    shard_name,
    write_json,
)
from vidssl.features.rows import BankRows, on_disk
from vidssl.files import replacing, sha256


class BankWriter:
    """A bank under way, new or continued."""

    def __init__(
        self,
        folder: Path,
        *,
        dim: int,
        identity: BankIdentity,
        plan: Sequence[Sequence[str]],
        kind: Kind = "box",
    ) -> None:
        """Open ``folder``, which is made if absent; ``plan`` holds the videos of each shard.

        Raises:
            BankError: if the folder holds a bank of other content; the message says what differs.
            OutputError: if the folder holds anything that is not this bank's.
            ValueError: if a video stands in the plan twice, or cannot be written as UTF-8.
        """
        _require_sound(dim, plan)
        self.folder = folder
        self._manifest = Manifest(dim, identity, tuple(tuple(videos) for videos in plan), kind=kind)
        require_place(folder)
        if not (folder / BANK_JSON).exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._manifest.write(folder)
        if found := self._manifest.differences(Manifest.read(folder)):
            title = f"{folder} holds another bank (remove it, or write to another folder)"
            raise BankError(listed(title, found))
        _require_only(folder, [shard_name(index) for index in range(len(plan))])

    def missing(self, among: Iterable[int] | None = None) -> list[int]:
        """Return the shards that are absent, unfinished or damaged, after reading all bytes.

        ``among`` are those to look at, by default all.
        """
        shards = range(len(self._manifest.plan)) if among is None else among
        return [index for index in shards if not self._sound(index)]

    def write_shard(
        self, index: int, rows: BankRows, *, failed_keyframes: int = 0, made_of: str = ""
    ) -> None:
        """Write one shard, in place of what was there of it.

        ``failed_keyframes`` are those that could not be read, of which there are no rows;
        ``made_of`` may hash the videos' files.

        Raises:
            BankError: if a number of ``rows`` is not finite or does not fit float16.
            ValueError: if ``rows`` has another D, or a video that is not of this shard.
        """
        dim, videos = self._manifest.dim, self._manifest.plan[index]
        if rows.features.shape[1] != dim:
            raise ValueError(f"expected features of {dim} numbers, got {rows.features.shape[1]}")
        features_ND, table = on_disk(rows, videos)

        if Manifest.read(self.folder).complete:  # a damaged shard is being replaced
            self._manifest.write(self.folder)
        name = shard_name(index)
        _clean(self.folder, name)
        files = _write_files(self.folder / name, features_ND, table)
        record = replace(files, failed_keyframes=failed_keyframes, made_of=made_of)
        # Last, as it vouches for both; until then an older record's checksums match neither.
        write_json(self.folder / f"{name}.json", {"name": name, **record.as_json()})

    def videos_in(self, index: int) -> set[str]:
        """Return the videos that a finished shard has rows of.

        Raises:
            BankError: if it is absent, or the table of its rows is damaged.
        """
        path = self.folder / f"{shard_name(index)}.parquet"
        record = read_record(self.folder, index)
        if record is None or not path.is_file() or sha256(path) != record.parquet_sha256:
            raise self._damaged(index)
        with pq.ParquetFile(path) as file:
            return {*file.read(["video"])["video"].to_pylist()}

    def rows(self, index: int) -> BankRows:
        """Return what was written of a shard, to write it with further rows.

        Raises:
            BankError: if it is absent or damaged.
        """
        if not self._sound(index):
            raise self._damaged(index)
        stem = self.folder / shard_name(index)
        with pq.ParquetFile(stem.with_suffix(".parquet")) as file:
            table = file.read()
        sides = [table[side].to_numpy() for side in ("x1", "y1", "x2", "y2")]
        return BankRows(
            table["video"].to_pylist(),
            table["second"].to_numpy(),
            np.stack(sides, axis=1),
            table["score"].to_numpy(),
            np.load(stem.with_suffix(".npy")),
        )

    def close(self) -> Bank:
        """Declare the bank complete and open it; by one process, when all others have finished.

        Raises:
            BankError: if a shard is missing or damaged.
        """
        if missing := self.missing():
            names = [shard_name(index) for index in missing]
            raise BankError(listed(f"{self.folder} is not finished; missing or damaged", names))
        records = (read_record(self.folder, index) for index in range(len(self._manifest.plan)))
        done = Manifest(
            self._manifest.dim,
            self._manifest.identity,
            self._manifest.plan,
            tuple(record for record in records if record is not None),
            complete=True,
            kind=self._manifest.kind,
        )
        done.write(self.folder)
        for stem in ("bank", "shard-*"):
            _clean(self.folder, stem)
        return Bank.open(self.folder)

    def _damaged(self, index: int) -> BankError:
        return BankError(f"{self.folder}: {shard_name(index)} is missing or damaged")

    def _sound(self, index: int) -> bool:
        record = read_record(self.folder, index)
        return record is not None and not record.problems(self.folder, shard_name(index))


def require_place(folder: Path) -> None:
    """Refuse a folder in which a bank can neither be begun nor go on.

    Raises:
        OutputError: if it is a file, or holds files and no bank.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: expected a folder for the bank, found a file")
    if not (folder / BANK_JSON).exists():
        _require_only(folder, [])  # shards that no bank.json describes are somebody else's


def _write_files(stem: Path, features_ND: NDArray[np.float16], table: pa.Table) -> ShardRecord:
    npy, parquet = stem.with_suffix(".npy"), stem.with_suffix(".parquet")
    with replacing(npy) as aside, aside.open("wb") as file:  # given a name, numpy would add .npy
        np.save(file, features_ND, allow_pickle=False)
    with replacing(parquet) as aside:
        pq.write_table(table, aside, compression="zstd", use_dictionary=["video"])
    return ShardRecord(len(features_ND), sha256(npy), sha256(parquet))


def _clean(folder: Path, stem: str) -> None:
    """Remove the temporary files that killed processes left of ``stem``'s files."""
    for path in folder.glob(f".{stem}.*.part"):
        path.unlink(missing_ok=True)


def _require_sound(dim: int, plan: Sequence[Sequence[str]]) -> None:
    videos = [video for shard in plan for video in shard]
    if dim < 1:
        raise ValueError(f"a bank's features have at least 1 number, got {dim}")
    if len({*videos}) < len(videos):
        twice = next(video for video in videos if videos.count(video) > 1)
        raise ValueError(f"{twice!r} stands in the plan twice")
    for video in videos:
        video.encode()  # UnicodeEncodeError is a ValueError and names the character


def _require_only(folder: Path, shards: Sequence[str]) -> None:
    """Refuse a folder with more than a bank's files; names that start with a dot are left alone."""
    ours = {f"{name}.{suffix}" for name in shards for suffix in ("npy", "parquet", "json")}
    names = {path.name for path in folder.glob("[!.]*")}
    if strangers := sorted(names - ours - {BANK_JSON}):
        raise OutputError(listed(f"{folder} holds files that are not this bank's", strangers))
