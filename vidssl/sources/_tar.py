"""The members of an uncompressed tar, found by reading its headers alone.

Nothing is unpacked, nothing written, and the data are stepped over: a name can do no harm, but one
that would if the archive were unpacked tells of an archive that was not made for this, and its
member is left out and counted, like links, devices and sparse files. What a header says of lengths
is held against the length of the file before it is believed. Headers are taken apart by the
standard library; its reader of whole archives is not used, since it keeps every member, and takes
the length of an extended header at its word.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, ClassVar

from vidssl.video.storage import shown

BLOCK = 512
SPARSE = "GNU.sparse"
LONGEST = {
    tarfile.GNUTYPE_LONGNAME: 1 << 16,
    tarfile.GNUTYPE_LONGLINK: 1 << 16,
    tarfile.XHDTYPE: 1 << 20,
    tarfile.XGLTYPE: 1 << 20,
    tarfile.SOLARIS_XHDTYPE: 1 << 20,
}
"""The kinds of extended headers, and how long they may be."""
PACKED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"PK\x03\x04": "unzip",
}
"""First bytes of what is no plain tar, and the command that unpacks it."""
LEFT_OUT = {
    tarfile.LNKTYPE: "hard links",
    tarfile.SYMTYPE: "symbolic links",
    tarfile.CHRTYPE: "devices",
    tarfile.BLKTYPE: "devices",
    tarfile.FIFOTYPE: "pipes",
    tarfile.GNUTYPE_SPARSE: "sparse files",
}
FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
EMPTY_TYPES = {*LEFT_OUT, tarfile.DIRTYPE} - {tarfile.GNUTYPE_SPARSE}  # no data follow the header


@dataclass(frozen=True)
class File:
    """A file in a tar: its name, and where in the tar its data lie."""

    name: str
    offset: int
    size: int


@dataclass
class Account:
    """What a scan met beside files: members left out by kind, and what ended it early."""

    left_out: Counter[str] = field(default_factory=Counter)
    damage: str = ""

    def told(self) -> list[str]:
        """Return a line for each kind of trouble."""
        lines = [f"{count} {kind} left out" for kind, count in self.left_out.items()]
        return [*lines, self.damage] if self.damage else lines


def packed_by(start: bytes) -> str:
    """Return the command that unpacks a file with these first bytes; nothing for a plain tar."""
    return next((name for magic, name in PACKED.items() if start.startswith(magic)), "")


def files_of(tar: BinaryIO, account: Account) -> Iterator[File]:
    """Give the files of a tar in order; what is not given is written into ``account``."""
    total = tar.seek(0, 2)
    at = 0
    extended = _Extended()
    while info := _header(tar, at, total, account):
        kind, begin = info.type, at + BLOCK
        if kind == tarfile.GNUTYPE_SPARSE:
            begin = _past_sparse(tar, at, total)
        name, size = extended.over(info) if kind in FILES else (info.name, info.size)
        length = 0 if kind in EMPTY_TYPES else size
        if size < 0 or begin + length > total:
            account.damage = f"cut or damaged: {shown(name)} would end after the archive does"
            return
        if kind in _Extended.KINDS:
            if size > LONGEST[kind]:
                account.damage = f"damaged: an extended header of {size} bytes at byte {at}"
                return
            extended.add(kind, _read(tar, begin, size))
        else:
            why = _left_out(kind, name, extended.sparse)
            if why:
                account.left_out[why] += 1
            elif kind in FILES and not name.endswith("/"):
                yield File(name, begin, size)
            extended.own.clear()
        at = begin + -(-length // BLOCK) * BLOCK


class _Extended:
    """What extended headers, of POSIX and GNU, say of the members that follow them."""

    KINDS: ClassVar = frozenset(LONGEST)

    def __init__(self) -> None:
        self._everywhere: dict[str, str] = {}  # of a global header
        self.own: dict[str, str] = {}  # for the next member alone

    def add(self, kind: bytes, data: bytes) -> None:
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.own["path"] = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif kind != tarfile.GNUTYPE_LONGLINK:
            (self._everywhere if kind == tarfile.XGLTYPE else self.own).update(_pax(data))

    def over(self, info: tarfile.TarInfo) -> tuple[str, int]:
        """Return a member's name and size; the size is -1 where it is no number."""
        said = self._everywhere | self.own
        size = said.get("size", "")
        if not size:
            return said.get("path", info.name), info.size
        whole = size.isascii() and size.isdigit() and len(size) < 19
        return said.get("path", info.name), int(size) if whole else -1

    @property
    def sparse(self) -> bool:
        return SPARSE in self._everywhere or SPARSE in self.own


def _header(tar: BinaryIO, at: int, total: int, account: Account) -> tarfile.TarInfo | None:
    """Return what the header at a byte says; None at the end, which damage may have brought."""
    header = _read(tar, at, BLOCK)
    if len(header) < BLOCK:
        account.damage = "cut: it ends without its closing blocks" if total else "empty"
        return None
    if not header.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        account.damage = f"damaged: no header at byte {at}" if at else "no tar"
        return None


def _left_out(kind: bytes, name: str, sparse: bool) -> str:
    """Return the kind of a member that is left out, nothing for files and folders."""
    if kind in LEFT_OUT:
        return LEFT_OUT[kind]
    if sparse:
        return LEFT_OUT[tarfile.GNUTYPE_SPARSE]
    if kind not in FILES and kind != tarfile.DIRTYPE:
        return "members of an unknown kind"
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        return "unsafe names"
    return ""


def _past_sparse(tar: BinaryIO, at: int, total: int) -> int:
    """Return where the data of an old sparse file begin: behind its map, in blocks of its own."""
    more = _read(tar, at, BLOCK)[482:483] != b"\0"
    at += BLOCK
    while more and at + BLOCK <= total:
        more = _read(tar, at, BLOCK)[504:505] != b"\0"
        at += BLOCK
    return at


def _pax(data: bytes) -> dict[str, str]:
    """Return what matters of an extended header, up to the first line that is none."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        length = int(data[at:space]) if space > at and data[at:space].isdigit() else 0
        line = data[space + 1 : at + length]
        if not line.endswith(b"\n"):
            break
        key, _, value = line[:-1].partition(b"=")
        if key in {b"path", b"size"}:
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        elif key.startswith(b"GNU.sparse"):
            found[SPARSE] = ""
        at += length
    return found


def _read(tar: BinaryIO, at: int, count: int) -> bytes:
    tar.seek(at)
    return tar.read(count)
