"""UCF101: the official split lists, ``trainlist01.txt``, ``testlist01.txt`` and ``classInd.txt``.

They lie in the folder, in ``ucfTrainTestlist`` below or beside it, or where ``lists`` says. Videos
are found by name with any suffix, in class folders or not. The classes of ``classInd.txt`` (without
it: those of the names) are numbered from 0, one less than there. Groups of clips (g01 to g25) never
cross from train to test: never split anew at random. ``part`` is the entries' column ``split``.

    ucf101:PATH[,split=1|2|3][,part=all|train|test][,lists=FOLDER][,outside=allow]
"""

from collections.abc import Sequence

import numpy as np

from vidssl.errors import SourceError
from vidssl.sources._folder import find
from vidssl.sources._listing import Columns, Listing, class_ids, matched
from vidssl.sources._place import OUTSIDE, Place
from vidssl.sources._tables import UNSAFE, Problems, leaves, lines_of, whole
from vidssl.video.storage import Location, shown

OPTIONS = {
    "split": "1, 2 or 3: which of the official splits",
    "part": "all, train or test of the split",
    "lists": "the folder of trainlist01.txt, testlist01.txt and classInd.txt",
    **OUTSIDE,
}
FOLDERS = ("", "ucfTrainTestlist", "../ucfTrainTestlist", "splits", "annotations")


def read(place: Place) -> Listing:
    """Return the videos of a split.

    Raises:
        SourceError: if its lists are not there or have mistakes, or none of its videos is.
    """
    place.check()
    split = place.one_of("split", ("1", "2", "3"))
    part = place.one_of("part", ("all", "train", "test"))
    folders = [place.option("lists")] if place.option("lists") else FOLDERS
    wanted = ["train", "test"] if part == "all" else [part]
    paths = {one: _list(place, folders, f"{one}list0{split}.txt") for one in ("train", "test")}
    for one in wanted:
        if paths[one] is None:
            places = ", ".join(name or "." for name in folders)
            raise SourceError(
                f"{shown(place.path)}: no {one}list0{split}.txt (looked in {places}); "
                "say where with lists=FOLDER"
            )
    ids: list[str] = []
    parts: list[str] = []
    also: list[str] = []
    problems = []
    for one, path in paths.items():
        if path is None:
            continue
        problems.append(Problems(path))
        names = _names(place, path, problems[-1])
        also.extend(names)
        if one in wanted:
            ids.extend(names)
            parts.extend([one] * len(names))
    for told in problems:
        told.refuse()
    labels, classes = _labels(place, folders, ids)
    files = find(place.root or ".")
    found = files.located({name: f"{name}.avi" for name in also})
    return matched(
        "ucf101",
        shown(str(paths[wanted[0]])),
        Columns(ids, labels, more={"split": parts}),
        files,
        find=lambda name: found.get(name, ()),
        once=True,
        also=also,
        classes=classes,
    )


def _names(place: Place, path: Location, problems: Problems) -> list[str]:
    """Return ``CLASS/STEM`` of each line; the label behind it says the same as its folder."""
    names = []
    for line, text in lines_of(path):
        name, _, label = text.partition(" ")
        folder, _, file = name.rpartition("/")
        if not place.outside and (why := leaves(place.root, name)):
            problems.add(line, f"{shown(name)}: {why}; {UNSAFE}")
        elif not folder or "." not in file or (label and whole(label.strip()) is None):
            problems.add(
                line, f"expected CLASS/VIDEO.avi and perhaps a number, found {shown(text)[:60]!r}"
            )
        names.append(name.rpartition(".")[0])
    return names


def _labels(
    place: Place, folders: Sequence[str], ids: Sequence[str]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], dict[int, str]]:
    names = [name.split("/")[-2] for name in ids]
    path = _list(place, folders, "classInd.txt")
    if path is None:
        return class_ids(names)
    classes: dict[int, str] = {}
    problems = Problems(path)
    for line, text in lines_of(path):
        number, _, name = text.partition(" ")
        if not whole(number) or not name:
            problems.add(line, f"expected a number from 1 and a class, found {shown(text)[:60]!r}")
            continue
        classes[int(number) - 1] = name.strip()
    number_of = {name: number for number, name in classes.items()}
    for name in sorted(set(names) - number_of.keys()):
        problems.add(0, f"no class {shown(name)!r}, which the lists name")
    problems.refuse()
    return np.array([number_of[name] for name in names], np.int64), classes


def _list(place: Place, folders: Sequence[str], name: str) -> Location | None:
    found = place.usual(folders, [name.lower()])
    return found[0] if found else None
