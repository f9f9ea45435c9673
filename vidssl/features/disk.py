"""Files that are whole or absent: written aside, fsynced, renamed, with checksums.

A file under way carries a name of its own that ends in ``.partial``, so that processes that write
the same file at once leave one whole version of it, and so that what a killed one leaves is known.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write; it becomes ``path`` at the end of the block, or nothing is left of it.

    Only a killed process leaves its partial file behind; ``clean`` removes those.
    """
    aside = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clean(folder: Path, stem: str) -> None:
    """Remove the partial files that killed processes left for ``stem``."""
    for path in folder.glob(f"{stem}.*{PARTIAL}"):
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
