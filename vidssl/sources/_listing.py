"""What a source gives: its videos, what the list says of them, and the account of both.

The rows are Arrow columns, not objects: a million of them cost some 50 MB.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vidssl.errors import SourceError, listed
from vidssl.sources._tables import resolved
from vidssl.video.storage import Location, is_address, shown, video_id

ENTRIES = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.int32()),
        ("labels", pa.list_(pa.int32())),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)
"""One row a labelled item: its video's id; the video's place among ``Listing.videos``, null where
it is missing; its classes; from when to when within the video, null for all of it. Sources may add
columns of their own, which they describe."""
SHOWN_EXTRA = 1000


@dataclass(frozen=True)
class Ledger:
    """What the published list promises against what is there.

    ``missing`` are ids, in the list's order; ``duplicates`` are ids that the list names more than
    once, or that several files have; ``extra`` are files that the list does not name; ``unusable``
    tells of files and folders that cannot be taken at all. ``undecodable`` is not known (None)
    until the videos have been indexed.
    """

    expected: int
    present: int
    missing: tuple[str, ...] = ()
    extra: tuple[Location, ...] = ()
    duplicates: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    undecodable: tuple[str, ...] | None = None
    fingerprint: str = ""
    """Of the ids of a list that are present, whatever their order: two copies with one print hold
    the same videos, though perhaps in other encodings. Empty where there is no list."""
    found: Sequence[tuple[str, str, Location]] = field(default=(), repr=False, compare=False)
    """Of what is present: its name in the list, its id and location. Empty without a list."""

    def indexed(self, undecodable: Iterable[Location], absent: Iterable[Location] = ()) -> "Ledger":
        """Return the ledger with the videos that an index set aside, or found absent after all."""
        gone = set(absent)
        names: tuple[str, ...]
        if self.found:
            names = tuple(name for name, _, location in self.found if location in gone)
        else:
            names = tuple(sorted(gone - set(self.missing)))
        if not names:
            return replace(self, undecodable=tuple(undecodable))
        found = [one for one in self.found if one[2] not in gone]
        return replace(
            self,
            present=self.present - len(names),
            missing=(*self.missing, *names),
            undecodable=tuple(undecodable),
            found=found,
            fingerprint=fingerprint(one for _, one, _ in found) if self.found else self.fingerprint,
        )

    def sentence(self) -> str:
        """Return the account in one sentence."""
        share = f" ({self.present / self.expected:.1%})" if self.expected else ""
        parts = [f"{self.present:,} of {self.expected:,} videos are present{share}"]
        for what, count in (
            ("missing", len(self.missing)),
            ("not decodable", len(self.undecodable or ())),
            ("named twice or more", len(self.duplicates)),
            ("not in the list", len(self.extra)),
            ("unusable", len(self.unusable)),
        ):
            if count:
                parts.append(f"{count:,} {what}")
        return ", ".join(parts)

    def as_json(self) -> dict[str, object]:
        """Return the account for machines; of ``extra`` files the first are named."""
        found: dict[str, object] = {"expected": self.expected, "present": self.present}
        for name in ("missing", "duplicates", "unusable", "undecodable"):
            found[name] = _counted(getattr(self, name))
        found["extra"] = {**_counted(self.extra[:SHOWN_EXTRA]), "count": len(self.extra)}
        if self.undecodable is None:
            found["undecodable"] = None
        return {**found, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class Listing:
    """``videos`` are there, each once, in a fixed order; ``classes`` are names by id.

    A plain list keeps its absent files among ``videos``, where an index gives each a row of its
    own; a published list knows ids only, and its absent videos are in the ledger alone.
    """

    source: str
    videos: list[Location]
    entries: pa.Table
    ledger: Ledger
    classes: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def plain(
        cls, source: str, videos: Sequence[Location], unusable: Sequence[str] = ()
    ) -> "Listing":
        """Return videos of which nothing is known but that they are there."""
        ledger = Ledger(len(videos), len(videos), unusable=tuple(unusable))
        return cls(source, list(videos), ENTRIES.empty_table(), ledger)

    def by_class(self) -> dict[int, tuple[int, int]]:
        """Return how many entries of each class the list has, and how many have their video."""
        labels = self.entries["labels"].combine_chunks()
        lengths = np.asarray(labels.value_lengths().fill_null(0), dtype=np.int64)
        here = np.asarray(self.entries["video"].is_valid())
        flat = np.asarray(labels.flatten(), dtype=np.int64)
        size = int(flat.max(initial=-1)) + 1
        named = np.bincount(flat, minlength=size)
        found = np.bincount(flat[np.repeat(here, lengths)], minlength=size)
        return {int(n): (int(named[n]), int(found[n])) for n in np.flatnonzero(named)}


@dataclass(frozen=True)
class Columns:
    """The rows of a list before its videos are looked for; all columns are of one length.

    ``labels`` holds a number a row, -1 for none, or the numbers of each; None is no labels at all.
    """

    ids: Sequence[str]
    labels: NDArray[np.int64] | Sequence[Sequence[int]] | None = None
    start_s: Sequence[float] | NDArray[np.float64] | None = None
    end_s: Sequence[float] | NDArray[np.float64] | None = None
    more: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def table(self, position: Mapping[str, int]) -> pa.Table:
        """Return the rows as a table, given the videos' positions by id."""
        count = len(self.ids)
        columns = {
            "id": pa.array(self.ids, pa.string()),
            "video": pa.array([position.get(name) for name in self.ids], pa.int32()),
            "labels": _lists(self.labels, count),
            "start_s": _seconds(self.start_s, count),
            "end_s": _seconds(self.end_s, count),
        }
        return pa.table({**columns, **{name: pa.array(more) for name, more in self.more.items()}})


def matched(
    source: str,
    title: str,
    columns: Columns,
    files: "Files",
    *,
    ids: Iterable[str] | None = None,
    find: Callable[[str], Sequence[int]] | None = None,
    once: bool = False,
    also: Iterable[str] = (),
    classes: Mapping[int, str] | None = None,
) -> Listing:
    """Return the listing of a published list, having looked for its videos among ``files``.

    ``title`` names the list in messages. ``ids`` are the videos that it names, by default those of
    its rows; ``find`` gives the files of an id, best first, by default those of that name. ``once``
    says that a row is a video, so that an id in two rows is a duplicate. ``also`` are ids that
    the list names but that are not wanted: their files are not extra.

    Raises:
        SourceError: if the list is empty, or none of its videos is there.
    """
    find = find or (lambda name: files.find([name]))
    twice: dict[str, None] = {}
    wanted: dict[str, None] = {}
    for name in columns.ids if ids is None else ids:
        if once and name in wanted:
            twice[name] = None
        wanted[name] = None
    if not wanted:
        raise SourceError(f"{title}: the list names no video")
    at: dict[str, int] = {}  # which of the files an id has
    for name in wanted:
        found = find(name)
        if found:
            at[name] = found[0]
            if len(found) > 1:
                twice[name] = None
    absent = [name for name in wanted if name not in at]
    if not at:
        what = [f"no file for {shown(name)}" for name in absent]
        where = f"{title}: none of its {len(wanted):,} videos is in {shown(files.root)}"
        raise SourceError(listed(where, what, 8))
    chosen = {file: number for number, file in enumerate(dict.fromkeys(at.values()))}
    known = set(chosen)
    for name in (*wanted, *also):
        known.update(find(name))
    ledger = Ledger(
        expected=len(wanted),
        present=len(at),
        missing=tuple(absent),
        extra=tuple(file for n, file in enumerate(files.paths) if n not in known),
        duplicates=tuple(twice),
        unusable=tuple(files.unusable),
        fingerprint=fingerprint(at),
        found=[(name, name, files.paths[number]) for name, number in at.items()],
    )
    table = columns.table({name: chosen[file] for name, file in at.items()})
    return Listing(source, [files.paths[n] for n in chosen], table, ledger, dict(classes or {}))


class Files:
    """The videos below a folder, found by name: ``FOLDER/STEM`` or ``STEM`` alone."""

    def __init__(
        self, root: Location, paths: Sequence[Location], unusable: Sequence[str] = ()
    ) -> None:
        """Keep ``paths``; ``unusable`` tells of what else is there."""
        self.root, self.paths, self.unusable = root, paths, unusable

    @cached_property
    def _by_stem(self) -> dict[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for number, path in enumerate(self.paths):
            numbers.setdefault(video_id(path), []).append(number)
        return numbers

    def find(self, names: Sequence[str]) -> list[int]:
        """Return which of ``paths`` have the first of ``names`` that any has."""
        for name in names:
            folder, _, stem = name.rpartition("/")
            found = self._by_stem.get(stem, [])
            if folder:
                found = [n for n in found if self._folder(n) == folder.rpartition("/")[2]]
            if found:
                return found
        return []

    def located(self, names: Mapping[str, str]) -> dict[str, list[int]]:
        """Return which of ``paths`` have the paths in a list, given by id; none where it is absent.

        That is the very file, seen from the root. Else it is one with another suffix whose folders
        agree with those of the list: all of the one, or all from the root on of the other, as a
        list may begin above the root or below. A file that several of the list could mean is none
        of theirs. Only where no folder agrees are files found by their names alone, and only if
        these differ.
        """
        number_of = {path: number for number, path in enumerate(self.paths)}
        exact = {
            key: number_of[place]
            for key, name in names.items()
            if (place := resolved(self.root or ".", name)) in number_of
        }
        taken = set(exact.values())
        found = {key: [number] for key, number in exact.items()}
        best: dict[int, list[tuple[int, str]]] = {}
        for key, name in names.items():
            if key not in exact:
                for agreeing, number in self._agreeing(name):
                    if number not in taken:
                        best.setdefault(number, []).append((agreeing, key))
        for number, keys in best.items():
            most = max(keys)[0]
            chosen = [key for agreeing, key in keys if agreeing == most]
            if len(chosen) == 1:
                found.setdefault(chosen[0], []).append(number)
        in_folders = bool(best) or any("/" in names[key] for key in exact)
        stems = {key: os.path.splitext(name.rpartition("/")[2])[0] for key, name in names.items()}
        if not in_folders and len(set(stems.values())) == len(stems):
            for key, stem in stems.items():
                there = [n for n in self._by_stem.get(stem, []) if n not in taken]
                if key not in found and there:
                    found[key] = there
        return found

    def _agreeing(self, name: str) -> list[tuple[int, int]]:
        """Return (folders that agree, number) of the files that agree most with a listed path."""
        *folders, file = [part for part in name.split("/") if part not in {"", "."}]
        best: list[tuple[int, int]] = []
        for number in self._by_stem.get(os.path.splitext(file)[0], []):
            path = self.paths[number]
            whole = path.split("/")[:-1]
            inside = path.removeprefix(self._top).count("/") if path.startswith(self._top) else None
            count = 0
            for one, other in zip(reversed(whole), reversed(folders), strict=False):
                if one != other:
                    break
                count += 1
            if count and (count == len(folders) or (inside is not None and count >= inside)):
                best.append((count, number))
        most = max(best, default=(0, 0))[0]
        return [one for one in best if one[0] == most]

    @cached_property
    def _top(self) -> str:
        """The root as the paths begin with it."""
        root = self.root if is_address(self.root) else os.path.abspath(self.root or ".")
        return root.rstrip("/") + "/"

    def stems(self) -> Iterable[str]:
        """Return the names that files have."""
        return self._by_stem.keys()

    def alias(self, stem: str, name: str) -> None:
        """Let the files called ``stem`` be found as ``name`` too."""
        if stem != name:
            self._by_stem.setdefault(name, []).extend(self._by_stem[stem])

    def _folder(self, number: int) -> str:
        return self.paths[number].rsplit("/", 2)[-2]


def fingerprint(names: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that stand for a set of names."""
    whole = hashlib.sha256()
    for name in sorted(set(names)):
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return whole.hexdigest()[:16]


def class_ids(names: Sequence[str]) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Return the number of each row's class, -1 for none, and the classes, numbered as sorted."""
    classes = {number: name for number, name in enumerate(sorted(set(names) - {""}))}
    number_of = {name: number for number, name in classes.items()}
    return np.array([number_of.get(name, -1) for name in names], np.int64), classes


def _counted(names: Sequence[str] | None) -> dict[str, object]:
    return {"count": len(names or ()), "names": [shown(name) for name in names or ()]}


def _lists(labels: NDArray[np.int64] | Sequence[Sequence[int]] | None, count: int) -> pa.Array:
    kind = ENTRIES.field("labels").type
    if labels is None:
        return pa.array([[]] * count, kind)
    if isinstance(labels, np.ndarray):
        ends = np.concatenate([[0], np.cumsum(labels >= 0)]).astype(np.int32)
        return pa.ListArray.from_arrays(ends, pa.array(labels[labels >= 0].astype(np.int32)))
    return pa.array(labels, kind)


def _seconds(times: Sequence[float] | NDArray[np.float64] | None, count: int) -> pa.Array:
    values = np.full(count, np.nan) if times is None else np.asarray(times, np.float64)
    return pa.array(values, pa.float64(), from_pandas=True)  # NaN is null
