"""Shards as WebDataset packs them: uncompressed tars, the files of a sample one after another.

``PATH`` is one tar, a folder of them, or a pattern ``train-{000000..000012}.tar``; each may be an
address. Files of one key, the name up to the first dot of its last part, are a sample: the one with
a video's suffix is its video (``000.mp4``, ``000.rgb.mp4``), and its label, unless ``labels=no``,
is what ``.cls`` holds, else ``label``, ``class`` or ``cls`` of ``.json``, else the first line of
``.txt``. Numbers are taken as they are; names are numbered as sorted.

Each video is addressed by where its bytes lie (``TAR!MEMBER@OFFSET+SIZE``), so the order of
training, its resumption in the middle of an epoch, and every seek within a video are as exact as
with plain files; there is no shuffle buffer. The headers of all tars are read once, here.

Nothing is unpacked. Members that are links, devices, sparse, or have unsafe names are left out, and
a tar that ends early gives what came before; the ledger tells of both. Compressed tars are refused:
nothing within them can be read without all that comes before.

    shards:PATH[,labels=no]
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vidssl.errors import SourceError, VideoError, listed
from vidssl.sources._folder import is_video
from vidssl.sources._listing import Columns, Ledger, Listing, class_ids, fingerprint
from vidssl.sources._place import TOLD, Place, missing
from vidssl.sources._tar import Account, File, files_of, packed_by
from vidssl.video.storage import (
    Location,
    Member,
    below,
    file_name,
    is_address,
    opened_bytes,
    shown,
)

OPTIONS = {"labels": "no: do not read the labels that lie beside the videos"}
LONGEST_LABEL = 1 << 16
MOST_SHARDS = 1_000_000
_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
_RANGE = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", re.DOTALL)


@dataclass
class _Found:
    """The samples of all shards so far, as columns."""

    videos: list[Location] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    duplicates: dict[str, None] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


@dataclass
class _Sample:
    key: str = ""
    video: File | None = None
    label: str = ""
    rank: int = 9
    more: bool = False


def read(place: Place) -> Listing:
    """Return the videos of all shards, in the order of their tars and within them.

    Raises:
        SourceError: if there is no tar, one is compressed, or no video is in any.
    """
    tars = _tars(place.path)
    packed = [tar for tar in tars if re.search(r"\.(tgz|t[bx]z2?|tar\.\w+)$", tar.split("?")[0])]
    if packed:
        raise SourceError(listed(f"{shown(place.path)}: not plain tars", _advice(packed), TOLD))
    with_labels = place.one_of("labels", ("yes", "no")) == "yes"
    found = _Found()
    for tar in tars:
        _scan(tar, found, with_labels=with_labels)
    if not found.videos:
        title = f"{shown(place.path)}: no video in {len(tars)} tars"
        raise SourceError(listed(title, found.troubles, TOLD) if found.troubles else title)
    labels, classes = _numbered(found.labels)
    table = Columns(found.ids, labels).table({})
    table = table.set_column(1, "video", pa.array(np.arange(len(found.ids)), pa.int32()))
    again = [key for key, count in Counter(found.ids).items() if count > 1]
    ledger = Ledger(
        expected=len(found.videos),
        present=len(found.videos),
        duplicates=tuple(dict.fromkeys([*found.duplicates, *again])),
        unusable=tuple(found.troubles),
        fingerprint=fingerprint(found.ids),
        found=list(zip(found.ids, found.ids, found.videos, strict=True)),
    )
    return Listing("shards", found.videos, table, ledger, classes)


def _tars(path: Location) -> list[Location]:
    """Return the tars that a path, folder or pattern names, absolute and in order."""
    pattern = _RANGE.fullmatch(path)
    if pattern and (is_address(path) or not os.path.exists(path)):
        before, first, last, after = pattern.groups()
        if not 0 <= int(last) - int(first) < MOST_SHARDS:
            raise SourceError(f"{shown(path)}: expected {{FIRST..LAST}} with FIRST before LAST")
        numbers = range(int(first), int(last) + 1)
        width = len(first)
        return [t for n in numbers for t in _tars_of_pattern(f"{before}{n:0{width}d}{after}")]
    if is_address(path):
        if re.search(r"\.(tar|tgz)(\.\w+)?$", path.split("?")[0]):
            return [path]
        tars = [one for one in below(path) if _is_tar(one)]
    elif os.path.isdir(path):
        with os.scandir(path) as entries:
            tars = sorted(os.path.abspath(e.path) for e in entries if _is_tar(e.name))
    elif os.path.exists(path):
        return [os.path.abspath(path)]
    else:
        raise SourceError(missing(path))
    if not tars:
        raise SourceError(f"{shown(path)}: holds no tar")
    return tars


def _tars_of_pattern(name: Location) -> list[Location]:
    return (
        _tars(name)
        if _RANGE.fullmatch(name)
        else [name if is_address(name) else os.path.abspath(name)]
    )


def _is_tar(name: str) -> bool:
    return bool(re.search(r"\.(tar|tgz)(\.(gz|bz2|xz|zst))?$", name.lower()))


def _advice(tars: Sequence[Location]) -> list[str]:
    return [f"{shown(file_name(tar))}: compressed; unpack it first ({_tool(tar)})" for tar in tars]


def _tool(tar: Location) -> str:
    tools = {"gz": "gunzip", "tgz": "gunzip", "bz2": "bunzip2", "xz": "unxz", "zst": "unzstd"}
    name = shown(file_name(tar))
    return f"{tools.get(name.lower().rpartition('.')[2], 'tar -x')} {name}"


def _scan(tar: Location, found: _Found, *, with_labels: bool) -> None:
    """Add the samples of one tar; one that cannot be read is among the troubles."""
    account = Account()
    try:
        tar.encode()
        with opened_bytes(tar, 4096) as file:  # a header and the small files behind it
            if tool := packed_by(file.read(8)):
                name = shown(file_name(tar))
                raise SourceError(f"{shown(tar)}: compressed; unpack it first ({tool} {name})")
            seen: set[str] = set()
            for sample in _samples(file, account, with_labels=with_labels):
                if sample.video is None:
                    continue
                if sample.key in seen:
                    found.duplicates[shown(sample.key)] = None
                    account.left_out["videos of a key that the tar had before"] += 1
                    continue
                seen.add(sample.key)
                if sample.more:
                    account.left_out["samples' further videos"] += 1
                one = sample.video
                found.videos.append(Member(tar, one.name, one.offset, one.size).location())
                found.ids.append(shown(sample.key))
                found.labels.append(sample.label)
    except VideoError as error:
        found.troubles.append(str(error))
    except UnicodeEncodeError:
        found.troubles.append(f"{shown(tar)}: the name is not UTF-8")
    found.troubles.extend(f"{shown(tar)}: {told}" for told in account.told())


def _samples(file: BinaryIO, account: Account, *, with_labels: bool) -> Iterator[_Sample]:
    """Give the samples of a tar: neighbours of one key."""
    sample = _Sample()
    for one in files_of(file, account):
        found = _KEY.fullmatch(one.name)
        if found is None:
            continue
        key, ending = found[1], found[2].lower()
        if key != sample.key:
            yield sample
            sample = _Sample(key)
        if is_video(one.name):
            sample.more = sample.more or sample.video is not None
            sample.video = sample.video or one
        elif with_labels and ending in _LABELS and one.size <= LONGEST_LABEL:
            rank, reader = _LABELS[ending]
            if rank < sample.rank:
                file.seek(one.offset)
                text = reader(file.read(one.size).decode("utf-8", "replace"))
                sample.label, sample.rank = text, rank if text else sample.rank
    yield sample


def _from_json(text: str) -> str:
    found: object = None
    with suppress(json.JSONDecodeError, RecursionError):
        found = json.loads(text)
    for key in ("label", "class", "cls"):
        if isinstance(found, dict) and isinstance(found.get(key), str | int):
            return str(found[key]).strip()
    return ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


_LABELS = {"cls": (0, _first_line), "json": (1, _from_json), "txt": (2, _first_line)}


def _numbered(cells: Sequence[str]) -> tuple[NDArray[np.int64] | None, dict[int, str]]:
    kinds = Counter(bool(re.fullmatch(r"\d{1,9}", cell)) for cell in cells if cell)
    if not kinds:
        return None, {}
    if kinds[False]:
        return class_ids(cells)
    return np.array([int(cell or -1) for cell in cells], np.int64), {}
