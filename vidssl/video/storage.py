"""Where a video lies, and how a decoder gets at its bytes.

A location is a text, one of

- the path of a file on this machine, or of a folder of numbered pictures, which is a video too;
- an address, ``s3://BUCKET/KEY``, ``gs://BUCKET/KEY``, ``http://...`` or ``https://...``;
- ``TAR!MEMBER@OFFSET+SIZE``: a member of an uncompressed tar, which is a path or an address. The
  data begin ``OFFSET`` bytes into the tar and are ``SIZE`` bytes long, so no tar is searched when a
  video is read. The text is taken apart from the right, at the last ``!``: in ``MEMBER``, the name
  within the tar, ``!``, ``%`` and what cannot be printed are written ``%XX``.

A file whose whole path looks like the third form is taken for the file that it is. Any other
protocol (``ftp://``, ``concat:``) is refused unless it is the name of such a file.

Of addresses only the parts that are wanted are read. Who asks is settled as the libraries of the
stores have it: by their files and variables (``AWS_PROFILE``, ``AWS_ENDPOINT_URL``,
``GOOGLE_APPLICATION_CREDENTIALS``), and by ``FSSPEC_S3_ANON=true`` for open buckets.

Errors that pass (a reset connection, a time-out, a 5xx answer, a network disk's hiccup) are tried
again after ``BACKOFF_S``; an absent or forbidden file is told of at once. Messages show an address
without its user, password, query, fragment and parameters, which may be secrets.
"""

import errno
import hashlib
import io
import os
import re
import stat as modes
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar
from urllib.parse import quote, unquote

from vidssl.errors import VideoError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Location = str

PROTOCOLS = {"s3": "s3", "gs": "gcs", "http": "http", "https": "http"}
"""What an address may begin with, and the extra of the installation that reads it."""
BACKOFF_S = (0.2, 0.8, 2.4)
"""Pauses before a failed read is tried again; after the last it has failed."""
BLOCK_BYTES = 1 << 18
"""The smallest part that is read of an address; reading on doubles it up to ``AHEAD_BLOCKS``."""
AHEAD_BLOCKS = 32
AHEAD_BYTES = 1 << 16
KEPT_BLOCKS = 96
"""How many blocks an open address keeps: 24 MiB."""

_PICTURE = re.compile(r"\d\.(jpg|jpeg|png)$", re.IGNORECASE)
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MEMBER = re.compile(r"(.+)!([^!]+)@(\d{1,18})\+(\d{1,18})", re.DOTALL)
_PARAMETERS = re.compile(r"[?#]|;(?=[^/=]*=)")
_SAID = re.compile(r"\?|[#;](?=.*=)", re.DOTALL)
_PASSING_ERRNO = {
    *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT),
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE),
    *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETRESET),
}
# By name, since the libraries of the stores need not be installed.
_PASSING_NAMES = {
    *("ClientConnectionError", "ClientPayloadError"),  # aiohttp
    *("ConnectionError", "HTTPClientError"),  # botocore, whose own is not Python's
}
_PASSING_STATUS = {408, 425, 429}
_NOT_A_FILE = "no such file"

T = TypeVar("T")


@dataclass(frozen=True)
class Stat:
    """The size of a video in bytes and the time of its last change, in seconds since 1970.

    ``mtime`` of an address is what the store says: the time of change, else a number made of the
    entity tag, else 0. A member of a tar has that of the tar. Of a folder of pictures ``bytes``
    counts the names in it, as the sizes of all would take long to ask for.
    """

    bytes: int
    mtime: float


@dataclass(frozen=True)
class Member:
    """A member of a tar: the tar's path or address, the name in it, where its data lie."""

    tar: str
    name: str
    offset: int
    size: int

    def location(self) -> Location:
        """Return the member as a location."""
        name = "".join(
            quote(c.encode("utf-8", "surrogateescape"), safe="")
            if c in "!%" or not c.isprintable()
            else c
            for c in self.name
        )
        return f"{self.tar}!{name}@{self.offset}+{self.size}"


def member_of(location: Location) -> Member | None:
    """Return the member of a tar that ``location`` is; None for whole files."""
    found = _MEMBER.fullmatch(location)
    if found is None or (not _ADDRESS.match(location) and os.path.lexists(location)):
        return None
    tar, name, offset, size = found.groups()
    return Member(tar, unquote(name, errors="surrogateescape"), int(offset), int(size))


def is_address(location: Location) -> bool:
    """Return whether ``location`` begins with a protocol, known or not, and ``://``."""
    if "://" not in location:
        return False
    return _ADDRESS.match(location) is not None and not os.path.lexists(location)


def is_picture(name: str) -> bool:
    """Return whether a name is that of a numbered picture."""
    return _PICTURE.search(name) is not None


def is_frames(location: Location) -> bool:
    """Return whether ``location`` is a folder of this machine that holds numbered pictures."""
    try:
        with os.scandir(location) as entries:
            return any(is_picture(entry.name) for entry in entries)
    except (OSError, ValueError):
        return False


def protocol(address: Location) -> str:
    """Return what an address begins with, in small letters.

    Raises:
        VideoError: if it is not one that is read.
    """
    found = _ADDRESS.match(address)
    scheme = found[1].lower() if found else ""
    if scheme not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise VideoError(f"{shown(address)}: {scheme}:// is not read (only {known} are)")
    return scheme


def shown(location: Location) -> str:
    """Return a text for messages: without secrets, nor anything that a terminal would obey.

    Of an address, or a source that names some, user, password, query, fragment and parameters are
    left out; where these cannot be told from the path, so is that. Control characters, line ends,
    invisible and undecodable ones become escapes.
    """
    text = location
    if "://" in location:
        member = _MEMBER.fullmatch(location)
        address = member[1] if member else location
        text = "".join(_public(address, "...")) + location[len(address) :]
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def told_apart(locations: Iterable[Location]) -> dict[Location, str]:
    """Return what is shown of each location, numbered where two would look alike."""
    counts: dict[str, int] = {}
    names = {}
    for location in dict.fromkeys(locations):
        name = shown(location)
        counts[name] = counts.get(name, 0) + 1
        names[location] = name if counts[name] == 1 else f"{name} ({counts[name]})"
    return names


def bare_path(address: Location) -> str:
    """Return host and path of an address: nothing that may be secret."""
    return _public(address, "")[1].lstrip("@")


def _public(address: str, mark: str) -> tuple[str, str]:
    """Return an address up to ``://``, and the rest with ``mark`` in place of what may be secret.

    A password may hold ``/`` or ``?`` though it ought not to: when in doubt, more is hidden.
    """
    scheme, _, rest = address.partition("://")
    is_web = "http" in address.lower()  # names in the other stores may hold # and ;
    found = (_PARAMETERS if is_web else _SAID).search(rest)
    head = rest[: found.start()] if found else rest
    tail = f"{found[0]}{mark}" if found and mark else ""
    user, at, place = head.rpartition("@")
    host = head.partition("/")[0]
    if found and "@" in rest[found.start() :] and (":" in host or host == head):
        head = mark
    elif at and (is_web or ":" in user or "@" in host):
        head = f"{mark}@{place}"
    return f"{scheme}://", head + tail


def stat(location: Location) -> Stat:
    """Return size and time of change.

    Raises:
        VideoError: if there is no such file, or it cannot be reached.
    """
    member = member_of(location)
    if member is not None:
        return Stat(member.size, stat(member.tar).mtime)
    if is_address(location):
        return _said(location, _patiently(location, partial(_info, location)))
    return _local(location)


def opened(location: Location) -> str | BinaryIO:
    """Return what a decoder opens: the path of a file, or a seekable binary file for the rest.

    Raises:
        VideoError: if there is no such file, it is empty, or cannot be reached. Reading the file
            raises it too.
    """
    member = member_of(location)
    if member is not None:
        return _open_member(location, member)
    if is_address(location):
        return _open_address(location, empty=False)
    if stat(location).bytes == 0:
        raise _empty(location)
    return location


def opened_bytes(location: Location, ahead_bytes: int = AHEAD_BYTES) -> BinaryIO:
    """Return any location as a seekable binary file, be it empty.

    ``ahead_bytes`` are read at once of a file of this machine.

    Raises:
        VideoError: as ``opened``.
    """
    member = member_of(location)
    if member is not None:
        return _open_member(location, member)
    if is_address(location):
        return _open_address(location, empty=True)
    size = _local(location).bytes
    return io.BufferedReader(_Window(location, _Disk(location), 0, size), ahead_bytes)


def below(address: Location, depth: int | None = None) -> list[Location]:
    """Return the addresses of all files below a folder of a store, sorted.

    A ``depth`` of 1 gives those of the folder alone.

    Raises:
        VideoError: if the store cannot list, or be reached.
    """
    scheme = protocol(address)
    if PROTOCOLS[scheme] == "http":
        raise VideoError(
            f"{shown(address)}: {scheme} has no folders to list; name a video or a list of them"
        )
    store, path = _store(address)
    names = _patiently(address, partial(store.find, path, maxdepth=depth))
    return sorted(f"{scheme}://{name}" for name in names)


def file_name(location: Location) -> str:
    """Return the last part of the name of a file, address or member."""
    member = member_of(location) if "!" in location else None
    name = member.name if member else location
    if member is None and "://" in location and is_address(location):
        name = location
        if location.startswith("http"):
            name = unquote(_PARAMETERS.split(location, maxsplit=1)[0])
    return name.rstrip("/").rpartition("/")[2]  # not by pathlib: there may be millions


_USUAL = frozenset(("", ".avi", ".mkv", ".mov", ".mp4", ".webm"))


def video_id(location: Location) -> str:
    """Return the name of a video that annotations know it by: its file's, without the suffix.

    A folder of frames has none, whatever follows a dot in its name, but that of the video file
    that it may have been called after.
    """
    name = file_name(location)
    stem, suffix = os.path.splitext(name)
    # Most files are known by their suffix: not one look at the disk each, there may be millions.
    return name if suffix not in _USUAL and is_frames(location) else stem


# --- files on this machine


def _local(path: Location) -> Stat:
    def look() -> os.stat_result:
        return os.stat(path)

    try:
        found = _patiently(path, look)
    except ValueError:  # a NUL, or half of a surrogate pair
        raise VideoError(f"{shown(path)}: {_NOT_A_FILE}", "missing") from None
    if modes.S_ISDIR(found.st_mode) and is_frames(path):
        return Stat(len(_patiently(path, lambda: os.listdir(path))), found.st_mtime)
    if not modes.S_ISREG(found.st_mode):
        raise VideoError(f"{shown(path)}: not a file", "missing")
    return Stat(found.st_size, found.st_mtime)


class _Source(Protocol):
    """Bytes that can be read anywhere; a read may give fewer than asked, but not none."""

    def read(self, at: int, count: int, end: int) -> bytes: ...

    def close(self) -> None: ...


class _Disk:
    """A file on this machine, by its descriptor: a window left to the collector closes it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = _patiently(path, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def read(self, at: int, count: int, end: int) -> bytes:
        return _patiently(self._path, lambda: os.pread(self._descriptor, count, at))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class _Window(io.RawIOBase):
    """``size`` bytes of a source from ``start`` on, as a file of their own."""

    def __init__(self, location: Location, source: _Source, start: int, size: int) -> None:
        self._location, self._source = location, source
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._size - self._at)
        if count <= 0:
            return 0
        data = self._source.read(self._start + self._at, count, self._start + self._size)
        if not data:
            raise VideoError(f"{shown(self._location)}: shorter than it was said to be")
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _as_file(location: Location, source: _Source, start: int, size: int) -> BinaryIO:
    return io.BufferedReader(_Window(location, source, start, size), AHEAD_BYTES)


def _open_member(location: Location, member: Member) -> BinaryIO:
    if member.size == 0:
        raise _empty(location)
    source: _Source
    if is_address(member.tar):
        remote = _Remote(member.tar)
        source, size = remote, remote.size
    else:
        size = _local(member.tar).bytes
        source = _Disk(member.tar)
    if member.offset + member.size > size:
        source.close()
        raise VideoError(
            f"{shown(location)}: the tar has only {size} bytes; was it cut, or made anew?"
        )
    return _as_file(location, source, member.offset, member.size)


# --- addresses


class _Remote:
    """A file of a store, read in blocks; reading on fetches more and more of them at once."""

    def __init__(self, address: Location) -> None:
        self._address = address
        store, path = _store(address)
        # Blocks are kept here and not by fsspec, so that each fetch can be tried again.
        self._file = _patiently(address, lambda: store.open(path, "rb", cache_type="none"))
        if not self._file.seekable() or self._file.size is None:
            raise VideoError(
                f"{shown(address)}: the server sends whole files only, not parts of them"
            )
        self.size = int(self._file.size)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next, self._count = -1, 1

    def read(self, at: int, count: int, end: int) -> bytes:
        number = at // BLOCK_BYTES
        if number not in self._blocks:
            self._fetch(number, end)
        self._blocks.move_to_end(number)
        inside = at - number * BLOCK_BYTES
        return self._blocks[number][inside : inside + count]

    def _fetch(self, number: int, end: int) -> None:
        self._count = min(2 * self._count, AHEAD_BLOCKS) if number == self._next else 1
        self._next = number + self._count
        begin = number * BLOCK_BYTES
        stop = min(self._next * BLOCK_BYTES, -(-end // BLOCK_BYTES) * BLOCK_BYTES, self.size)
        data = _patiently(self._address, partial(self._part, begin, stop))
        for at in range(begin, stop, BLOCK_BYTES):
            self._blocks[at // BLOCK_BYTES] = data[at - begin : at - begin + BLOCK_BYTES]
        while len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)

    def _part(self, begin: int, stop: int) -> bytes:
        self._file.seek(begin)
        try:
            data: bytes = self._file.read(stop - begin)
        except ValueError:  # what fsspec makes of an answer that is longer than asked
            raise VideoError(
                f"{shown(self._address)}: the server sends whole files only, not parts of them"
            ) from None
        if len(data) != stop - begin:
            raise ConnectionError("the answer is shorter than asked")
        return data

    def close(self) -> None:
        self._file.close()
        self._blocks.clear()


def _open_address(address: Location, *, empty: bool) -> BinaryIO:
    remote = _Remote(address)
    if remote.size == 0 and not empty:
        raise _empty(address)
    return _as_file(address, remote, 0, remote.size)


def _info(address: Location) -> dict[str, Any]:
    store, path = _store(address)
    found: dict[str, Any] = store.info(path)
    if found.get("type") == "directory":
        raise IsADirectoryError
    return found


def _said(address: Location, info: dict[str, Any]) -> Stat:
    if info.get("size") is None:
        raise VideoError(f"{shown(address)}: the server does not say how long the file is")
    changed = next((info[k] for k in ("LastModified", "mtime", "updated") if info.get(k)), None)
    if isinstance(changed, str):
        changed = datetime.fromisoformat(changed)
    if changed is None and info.get("Last-Modified"):
        try:
            changed = parsedate_to_datetime(info["Last-Modified"])
        except ValueError:
            changed = None
    if isinstance(changed, datetime):
        return Stat(int(info["size"]), changed.timestamp())
    tag = str(info.get("ETag") or info.get("etag") or "")
    # 48 bits of a hash: a float holds them to the last.
    folded = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:6]) if tag else 0
    return Stat(int(info["size"]), float(folded))


def _store(address: Location) -> tuple[Any, str]:
    """Return the file system of an address and its name there."""
    import fsspec

    scheme = protocol(address)
    options: dict[str, Any]
    try:
        if PROTOCOLS[scheme] == "http":
            import aiohttp

            limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
            # Ready for the wire already: to be quoted again would break a signed address.
            exact = quote(address, safe="%/:=&?~#+!$,;'@()*[]")
            options = {"encoded": True, "client_kwargs": {"timeout": limits}}
            return fsspec.filesystem("http", **options), exact
        # What is listed would be remembered, and a changed file told of as it was.
        options = {"use_listings_cache": False}
        if scheme == "s3":  # trying again is done here
            limited = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 1}}
            options["config_kwargs"] = limited
        store = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        extra = PROTOCOLS[scheme]
        raise VideoError(
            f"{shown(address)}: reading {scheme}:// needs the extra {extra!r}: "
            f"pip install 'vidssl[{extra}]' ({error})"
        ) from None
    return store, address[len(scheme) + 3 :]


# --- what fails


def _patiently(location: Location, call: Callable[[], T]) -> T:
    """Return what ``call`` does, trying again what may pass.

    Raises:
        VideoError: once it has failed for good. It has no cause: that may quote the address.
    """
    for pause_s in (*BACKOFF_S, None):
        try:
            return call()
        except _failures() as error:
            if pause_s is None or not _passing(error):
                failure = _told(location, error)
                break
        time.sleep(pause_s)
    raise failure from None


def _failures() -> tuple[type[BaseException], ...]:
    """Return what reading may raise; the stores' own errors exist once these are imported."""
    own = (
        ("aiohttp", "ClientError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("gcsfs.retry", "HttpError"),
        ("google.auth.exceptions", "GoogleAuthError"),
    )
    classes = (getattr(sys.modules.get(module), name, None) for module, name in own)
    return (OSError, EOFError, *(kind for kind in classes if kind is not None))


def _passing(error: BaseException) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUS
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec says so of whatever kept it from looking
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNO:
        return True
    return any(kind.__name__ in _PASSING_NAMES for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error."""
    for one in (error, error.__cause__):
        status = getattr(one, "status", None) or getattr(one, "code", None)
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", status)
        if isinstance(status, int):
            return status
    return None


def _told(location: Location, error: BaseException) -> VideoError:
    status = _status(error)
    code = f" ({status})" if status else ""
    where = shown(location)
    if status in {401, 403} or isinstance(error, PermissionError):
        return VideoError(f"{where}: access denied{code}", "unreadable")
    if _passing(error):
        tries = len(BACKOFF_S) + 1
        why = f"status {status}" if status else _kind(error)
        return VideoError(f"{where}: cannot be reached ({why}, {tries} tries)", "unreadable")
    if status in {404, 410} or isinstance(error, FileNotFoundError | NotADirectoryError):
        return VideoError(f"{where}: {_NOT_A_FILE}{code}", "missing")
    if isinstance(error, IsADirectoryError):
        return VideoError(f"{where}: not a file", "missing")
    return VideoError(f"{where}: cannot be read{code or f' ({_kind(error)})'}", "unreadable")


def _empty(location: Location) -> VideoError:
    return VideoError(f"{shown(location)}: the file is empty (0 bytes)", "empty")


def _kind(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__


def _escape(character: str) -> str:
    """Return a character as Python would write it, a byte that is no UTF-8 as ``\\xNN``."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
