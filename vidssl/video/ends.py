"""What a container says about its own length in bytes: whether a file was cut, to the byte.

Read are MP4 and MOV (the box that holds the pictures), Matroska and WebM (the segment, else its
clusters) and AVI (the ``movi`` lists). MPEG-TS and program streams, FLV, Ogg, ASF and raw streams
hold no such number: there a cut file cannot be told from a shorter one. Nor can a file that was cut
between two fragments of an MP4, two clusters of a Matroska without a size, or two RIFFs of an AVI.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from vidssl.video.storage import Location, opened, stat
from vidssl.video.workers import beat

BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"sidx"}
PICTURES = {b"mdat", b"moof"}
EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
RIFF_SLACK = 8  # some writers count the header of a chunk in its size, or leave out its padding
RIFF_UNKNOWN = {0, 0xFFFFFFFF}  # a recording that was never finished


@dataclass(frozen=True)
class Missing:
    """How many bytes a file lacks at its end; ``is_certain`` that pictures are among them."""

    bytes: int
    is_certain: bool


def missing(location: Location) -> Missing | None:
    """Return what a file lacks at its end by its container's word; None where that is nothing.

    What lies behind the pictures, such as the table of an AVI or bytes that belong to no box, may
    be missing.

    Raises:
        VideoError: if the file is absent or empty.
        OSError: if it cannot be read.
    """
    size = stat(location).bytes
    source = opened(location)
    with open(source, "rb") if isinstance(source, str) else source as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _riff(file, size)
        if head[4:8] in BOXES:
            return _boxes(file, size)
        if int.from_bytes(head[:4]) == EBML:
            return _matroska(file, size)
    return None


def _boxes(file: BinaryIO, size: int) -> Missing | None:
    at = 0
    while at + 8 <= size:
        head = _read(file, at, 16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16])
        if length < 8 or not kind.isalnum():  # up to the end of the file, or no box
            return None
        at += length
        if at > size:
            return Missing(at - size, kind == b"moof") if kind in PICTURES else None
    return None


def _matroska(file: BinaryIO, size: int) -> Missing | None:
    at = _element(file, 0)[2]
    name, content, end = _element(file, at)
    if name != SEGMENT:
        return None
    if end:
        return Missing(end - size, False) if end > size else None
    while 0 < content < size:  # written to a pipe: a segment without a size
        name, _, content = _element(file, content)
    return Missing(content - size, True) if content > size and name == CLUSTER else None


def _element(file: BinaryIO, at: int) -> tuple[int, int, int]:
    """Return (id, start of the content, end) of an element; the end is 0 where it is not known."""
    head = _read(file, at, 12)
    if len(head) < 2 or head[0] < 16:
        return 0, at, 0
    width = 9 - head[0].bit_length()
    name, rest = int.from_bytes(head[:width]), head[width:]
    if not rest or not rest[0]:
        return 0, at, 0
    length = 9 - rest[0].bit_length()
    most = (1 << 7 * length) - 1
    value = int.from_bytes(rest[:length]) & most
    content = at + width + length
    return name, content, 0 if value == most or len(rest) < length else content + value


def _riff(file: BinaryIO, size: int) -> Missing | None:
    """Return what is missing of the RIFF chunk whose pictures go past the end, if any does."""
    for kind, start, length in _chunks(file, 0, size):
        at = start + length  # where it should end
        if kind != b"RIFF" or length in RIFF_UNKNOWN:
            return None
        for inner, begin, extent in _chunks(file, start + 4, min(at, size)):
            is_movi = inner == b"LIST" and _read(file, begin, 4) == b"movi"
            if is_movi and extent not in RIFF_UNKNOWN and begin + extent > size + RIFF_SLACK:
                return Missing(max(at, begin + extent) - size, True)
    return None


def _chunks(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Give (name, start of the content, length) of the chunks from ``at`` to ``end``."""
    while at + 8 <= end:
        head = _read(file, at, 8)
        length = int.from_bytes(head[4:], "little")
        yield head[:4], at + 8, length
        at += 8 + length + length % 2


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    beat()
    file.seek(at)
    return file.read(count)
