"""Rows of an index on the disk as soon as they are known, in a hidden folder beside it.

``.NAME.parts`` holds a file of JSON lines a process, ``PID.jsonl``, and, in ``rows-N.parquet``,
those that an earlier run left. A line that a crash cut short is left out. Whoever kills the work at
any moment loses the videos that were being decoded, and after a power cut the last few seconds.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import pyarrow.parquet as pq

from vidssl.errors import OutputError
from vidssl.files import replacing
from vidssl.video.index import tables
from vidssl.video.probe import VideoFacts

SYNC_S = 2.0


class Notes:
    """Adds rows to one process's own file; made anew in each process that it is sent to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._synced = 0.0

    def add(self, row: VideoFacts) -> None:
        """Write a row down.

        Raises:
            OSError: if that fails.
        """
        if self._file is None:
            self._file = (self._folder / f"{os.getpid()}.jsonl").open("ab")
        # A line cut short by an earlier process of that number must not swallow this one.
        self._file.write(b"\n" + json.dumps(vars(row)).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # of a full disk, which was told of when a row was added
                self._file.close()
            self._file = None


class Journal:
    """The rows found so far for the index at ``out``; locked while it is open."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = folder_of(out)

    def __enter__(self) -> Self:
        """Make or take up the folder.

        Raises:
            OutputError: if it cannot be written, or another process works on this index.
        """
        parents = (self.folder, *self.folder.parents)
        self._made = [folder for folder in parents if not folder.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{self._out}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise OutputError(f"{self._out}: another process is making this index") from error
        return self

    def __exit__(self, *_: object) -> None:
        """Let others have the folder; one without rows goes."""
        if self.folder.is_dir() and not (self._lines() or self._parts()):
            self.discard()
        os.close(self._lock)

    def files(self) -> list[Path]:
        """Return Parquet files with all rows so far; of two for one video the later holds.

        Raises:
            OutputError: if they cannot be written.
        """
        lines = self._lines()
        rows = tables(row for path in lines for row in _read(path))
        for number, table in enumerate(rows, len(self._parts())):
            with replacing(self.folder / f"rows-{number:06}.parquet") as aside:
                pq.write_table(table, aside)
        for path in lines:
            path.unlink()
        return self._parts()

    def discard(self) -> None:
        """Remove the folder, and those above it that were made for it and are empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self._made[1:]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _lines(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("rows-*.parquet"))


def folder_of(out: Path) -> Path:
    """Return the folder that keeps the rows of an index while it is made."""
    return out.with_name(f".{out.name}.parts")


def _read(path: Path) -> Iterator[VideoFacts]:
    with path.open("rb") as file:
        for line in file:
            try:
                yield VideoFacts(**json.loads(line))
            except (ValueError, TypeError):  # empty, or cut short
                continue
