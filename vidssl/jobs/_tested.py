"""The videos that a classifier is tested on, with their labels as columns of its scores."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vidssl.errors import CheckpointError, SourceError, listed, nearest
from vidssl.recognition.scores import Scores
from vidssl.sources import Listing, read
from vidssl.video.storage import Location, shown

SHOWN = 8
SPLIT_IN_PARTS = ("ucf101", "hmdb51")
PUBLISHED: Mapping[tuple[str, int], tuple[int, str]] = {
    # Counted in the published lists themselves; a split that is not here is not known.
    ("kinetics", 400): (19_906, "the published validation list of Kinetics-400"),
    ("ucf101", 101): (3_783, "test list 1 of UCF101"),
    ("epic", 97): (9_668, "the validation list of EPIC-KITCHENS-100"),
    ("epic", 300): (9_668, "the validation list of EPIC-KITCHENS-100"),
}
OTHER_LISTS = re.compile(r"split=(2|3|train)|part=(all|train)|[/=_][^/,]*train[^/,]*\.\w+(,|$)")
"""Of a source, what says that it is not the list whose length is known."""


@dataclass(frozen=True)
class Item:
    """One row of the scores: a video, or what lies between two times of one.

    ``path`` is None where the video is missing.
    """

    id: str
    labels: tuple[int, ...]
    path: Location | None
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Tested:
    """What is to be scored; ``classes`` names numbers where the source does.

    ``fingerprint`` stands for ids, labels and times, whatever their order; ``published`` says how
    many videos the published list has, where that is known.
    """

    source: str
    items: list[Item]
    classes: Mapping[int, str]
    has_many: bool
    notes: list[str] = field(default_factory=list)
    account: str = ""
    published: dict[str, Any] | None = None

    def fingerprint(self) -> str:
        """Return a short hash of what is expected, whether or not it is there."""
        whole = hashlib.sha256()
        for one in sorted(self.items, key=lambda item: item.id):
            names = sorted(self.classes.get(label, str(label)) for label in one.labels)
            line = f"{one.id}\0{names}\0{one.start_s}\0{one.end_s}\n"
            whole.update(line.encode("utf-8", "surrogateescape"))
        return whole.hexdigest()[:16]


def source_of(text: str, target: str | None = None) -> str:
    """Return the source as it is tested: the test part of a set that is split in parts, and of
    verbs and nouns the ``target`` that a network was trained for.

    Raises:
        SourceError: if the source asks for the other of the two.
    """
    name, colon, _ = text.partition(":")
    if colon and name in SPLIT_IN_PARTS and ",part=" not in text:
        return f"{text},part=test"
    if colon and name == "epic" and target in ("verb", "noun"):
        if ",label=" not in text:
            return f"{text},label={target}"
        if f",label={target}" not in text:
            raise SourceError(f"{shown(text)}: the network was trained for label={target}")
    return text


def expected_of(source: str) -> Tested:
    """Return what a source expects to be scored, in its order.

    Rows without a label are left out, but for Charades, whose videos may show none of its actions;
    of equal rows one counts. What is left out is noted.

    Raises:
        SourceError: if there is nothing of that name, it has no labels, or it mixes several splits.
    """
    listing = read(source)
    if listing.source == "folder":
        listing = _class_folders(source, listing)
    require_one_split(listing)
    has_many = listing.source == "charades"
    items = _videos(listing) if has_many else _entries(listing)
    notes = []
    if unlabelled := 0 if has_many else sum(not item.labels for item in items):
        items = [item for item in items if item.labels]
        notes.append(f"{unlabelled} rows without a label are not scored")
    if not any(item.labels for item in items):
        raise SourceError(
            f"{shown(source)}: the videos have no labels; expected a csv with columns path and "
            "label, class folders, or a published list as kinetics:FOLDER"
        )
    has_many = has_many or any(len(item.labels) > 1 for item in items)
    once = _once(items, listing.source)
    if twice := len(items) - len(once):
        notes.append(f"{twice} rows are in the list twice; they count once")
    found = Tested(
        listing.source,
        _told_apart(once),
        dict(listing.classes),
        has_many,
        notes,
        listing.ledger.sentence(),
    )
    return _beside_published(found, source)


def _once(items: Sequence[Item], source: str) -> list[Item]:
    """Return the items without equal ones.

    Of a person's list missing files are all kept: two of one name may lie in two folders.
    """
    kept: dict[tuple[Item, int], Item] = {}
    for number, item in enumerate(items):
        is_own = item.path is None and source == "listing"
        kept.setdefault((item, number if is_own else -1), item)
    return list(kept.values())


def _class_folders(source: str, listing: Listing) -> Listing:
    """Return a folder's videos with the folder above each as its class."""
    from vidssl.sources._folder import find
    from vidssl.sources.kinetics import by_folder

    found = by_folder("folder", find(source))
    return found if found.classes else listing


def require_one_split(listing: Listing, done: str = "scored", part: str = "") -> None:
    """Refuse a list of several parts, which would all be ``done``; ``part`` is what is wanted.

    Raises:
        SourceError: if rows of the list are of several parts.
    """
    if "split" not in listing.entries.column_names:
        return
    names = sorted({str(name) for name in listing.entries["split"].to_pylist()})
    if len(names) > 1:
        in_parts = listing.source in SPLIT_IN_PARTS
        usual = part if part in names else "test" if in_parts else names[-1]
        option = f"{'part' if in_parts else 'split'}={usual}"
        raise SourceError(
            f"{listing.source}: the list holds several parts ({', '.join(names[:SHOWN])}), which "
            f"would be {done} as one; name one of them, as with the option {option}"
        )


def _entries(listing: Listing) -> list[Item]:
    table = listing.entries
    names = table["narration_id" if "narration_id" in table.column_names else "id"].to_pylist()
    columns = (table[name].to_pylist() for name in ("labels", "video", "start_s", "end_s"))
    return [
        Item(
            str(name),
            tuple(dict.fromkeys(labels or ())),
            None if video is None else listing.videos[video],
            start_s,
            end_s,
        )
        for name, labels, video, start_s, end_s in zip(names, *columns, strict=True)
    ]


def _videos(listing: Listing) -> list[Item]:
    """Return an item a video with all classes of its rows; those without any are expected too."""
    labels: dict[str, dict[int, None]] = {}
    for name, own in zip(
        listing.entries["id"].to_pylist(), listing.entries["labels"].to_pylist(), strict=True
    ):
        labels.setdefault(name, {}).update(dict.fromkeys(own))
    there = [(name, path) for name, _, path in listing.ledger.found]
    absent = [(name, None) for name in listing.ledger.missing]
    return [
        Item(name, tuple(sorted(labels.get(name, ()))), path) for name, path in [*there, *absent]
    ]


def _told_apart(items: Sequence[Item]) -> list[Item]:
    """Return the items with ids of their own: with times, or numbered, where they share one."""
    count: dict[str, int] = {}
    for item in items:
        count[item.id] = count.get(item.id, 0) + 1
    told, seen = [], dict[str, int]()
    for item in items:
        name = item.id
        if count[name] > 1 and item.start_s is not None:
            name = f"{name} {item.start_s:g}-{'' if item.end_s is None else f'{item.end_s:g}'}"
        number = seen[name] = seen.get(name, 0) + 1
        plain = count[item.id] == 1 or (number == 1 and name != item.id)
        told.append(replace(item, id=name if plain else f"{name} #{number}"))
    return told


def _beside_published(found: Tested, source: str) -> Tested:
    key = (found.source, len(found.classes))
    if key not in PUBLISHED or OTHER_LISTS.search(source.lower()):
        return found
    count, name = PUBLISHED[key]
    if len(found.items) != count:
        found.notes.append(
            f"the list names {len(found.items):,} videos, {name} {count:,}: scores of other "
            "videos are not comparable with published ones"
        )
    return replace(found, published={"list": name, "videos": count})


# --- the classes of a source and those of a network


def matched(
    found: Tested, num_classes: int, names: Sequence[str] | None, where: str
) -> tuple[Tested, tuple[str, ...] | None]:
    """Return the items with labels as columns of the scores, and the columns' names if known.

    By name where both have names, in any order; else by number, where the counts must agree: the
    numbers of a list without names are places in the network's list of classes, unless its classes
    are called by numbers themselves. What was taken for granted is noted.

    Raises:
        CheckpointError: if the source has classes that the network does not know.
    """
    if names is not None and list(names) == [str(number) for number in range(num_classes)]:
        names = None  # numbers, as a list without names was trained on
    notes = list(found.notes)
    if names is not None and found.classes:
        column = _by_name(found, list(names), where)
    elif names is not None and all(name.isdecimal() for name in names):
        numbers = {label: str(label) for label in sorted(_labels(found))}
        column = _by_name(replace(found, classes=numbers), [str(int(n)) for n in names], where)
        notes.append("the network's classes are called by numbers, and the list's labels are these")
    else:
        column = _by_number(found, names, num_classes, where)
        if names is not None:
            told = _named(enumerate(names))
            notes.append(f"labels are numbers, taken as places in the network's classes: {told}")
        elif found.classes:
            told = _named(sorted(found.classes.items()))
            notes.append(f"the network's classes have no names, taken to be the list's: {told}")
    items = [replace(i, labels=tuple(column[label] for label in i.labels)) for i in found.items]
    own = None if names is None else tuple(names)
    if own is None and found.classes:
        own = tuple(found.classes[number] for number in range(num_classes))
    if idle := sorted({*range(num_classes)} - {label for item in items for label in item.labels}):
        which = "" if own is None else f": {_some([own[number] for number in idle])}"
        notes.append(f"{len(idle)} of {num_classes} classes have no video in the list{which}")
    named = dict(enumerate(own)) if own is not None else {}
    return replace(found, items=items, classes=named, notes=notes), own


def _labels(found: Tested) -> set[int]:
    return {label for item in found.items for label in item.labels}


def _named(pairs: Iterable[tuple[int, str]]) -> str:
    return _some([f"{number} is {name}" for number, name in pairs])


def _some(words: Sequence[str]) -> str:
    return ", ".join([*words[:SHOWN], *(["..."] if len(words) > SHOWN else [])])


def _by_name(found: Tested, names: list[str], where: str) -> dict[int, int]:
    column = {name: number for number, name in enumerate(names)}
    if len(column) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(f"{where}: several classes are called {twice!r}")
    strange = [
        f"{name!r} is none of the network's {len(names)} classes{nearest(name, names)}"
        for name in found.classes.values()
        if name not in column
    ]
    if strange:
        title = f"{where}: was trained for other classes than {found.source} has"
        raise CheckpointError(listed(title, strange, SHOWN))
    return {number: column[name] for number, name in found.classes.items()}


def _by_number(
    found: Tested, names: Sequence[str] | None, num_classes: int, where: str
) -> dict[int, int]:
    if found.classes and sorted(found.classes) != list(range(num_classes)):
        raise CheckpointError(
            f"{where}: has {num_classes} classes without names, {found.source} {len(found.classes)}"
            " with names; expected as many, as columns go by their numbers"
        )
    if strange := sorted(label for label in _labels(found) if label >= num_classes):
        ends = "" if names is None else f" ({names[0]} to {names[-1]})"
        told = [
            f"label {label}, of {sum(label in item.labels for item in found.items)} videos"
            for label in strange[:SHOWN]
        ]
        told += [f"label {label}" for label in strange[SHOWN:]]
        raise CheckpointError(
            listed(
                f"{where}: has {num_classes} classes, 0 to {num_classes - 1}{ends}; "
                f"{found.source} has others",
                told,
                SHOWN,
            )
        )
    return {number: number for number in _labels(found)}


def labelled(scores: Scores, found: Tested, name: str) -> tuple[Scores, list[str]]:
    """Return the scores of a source's videos with that source's labels, and what is to be told.

    A video that has no scores has failed.

    Raises:
        SourceError: if none of the source's videos has scores.
    """
    at = {key: number for number, key in enumerate(scores.ids)}
    rows = [at.get(item.id) for item in found.items]
    if all(row is None for row in rows):
        some = ", ".join(item.id for item in found.items[:3])
        raise SourceError(
            f"{name}: has scores of none of the {len(rows)} videos of {found.source} "
            f"({some}, ...), but of {', '.join(scores.ids[:3])}, ..."
        )
    kept = np.zeros((len(rows), scores.about.num_classes), np.float32)
    reasons = []
    for number, row in enumerate(rows):
        if row is not None:
            kept[number] = scores.scores[row]
        reasons.append(f"not among the scores of {name}" if row is None else scores.reasons[row])
    others = len(scores.ids) - sum(row is not None for row in rows)
    notes = [f"{others} videos of {name} are not in the list; they do not count"] if others else []
    told = {**scores.about.protocol, "videos": len(rows), "data": found.fingerprint()}
    about = replace(scores.about, has_many=found.has_many, protocol=told)
    ids = tuple(item.id for item in found.items)
    labels = tuple(item.labels for item in found.items)
    return Scores(ids, labels, kept, tuple(reasons), about), notes
