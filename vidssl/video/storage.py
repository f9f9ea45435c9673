"""Where a video lies, and how a decoder gets at its bytes.

A location is a text: the path of a file on this machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vidssl.errors import VideoError

Location = str


@dataclass(frozen=True)
class Stat:
    """The size of a video in bytes and the time of its last change, in seconds since 1970."""

    bytes: int
    mtime: float


def stat(location: Location) -> Stat:
    """Return size and time of change.

    Raises:
        VideoError: if there is no such file.
    """
    path = Path(location)
    if not path.is_file():
        reason = "not a file" if path.exists() else "no such file"
        raise VideoError(f"{location}: {reason}", "missing")
    found = path.stat()
    return Stat(found.st_size, found.st_mtime)


def opened(location: Location) -> str | BinaryIO:
    """Return what a decoder opens: the path of a file, or a seekable binary file for the rest.

    Raises:
        VideoError: if there is no such file, or it is empty.
    """
    if stat(location).bytes == 0:
        raise VideoError(f"{location}: the file is empty (0 bytes)", "empty")
    return location


def video_id(location: Location) -> str:
    """Return the name of a video that annotations know it by: its file's, without the suffix."""
    return Path(location).stem
