"""HMDB51: the official split lists, ``CLASS_test_split1.txt`` with 0, 1 or 2 behind each name.

1 is train, 2 is test, 0 is in neither. The lists lie in the folder, in
``testTrainMulti_7030_splits`` below or beside it, or where ``lists`` says. Videos are found by name
with any suffix in the folder of their class, or all without such folders. Classes are
numbered as sorted.

    hmdb51:PATH[,split=1|2|3][,part=all|train|test][,lists=FOLDER]
"""

import re

from vidssl.errors import SourceError
from vidssl.sources._folder import find
from vidssl.sources._listing import Columns, Listing, class_ids, matched
from vidssl.sources._place import Place
from vidssl.sources._tables import Problems, lines_of
from vidssl.video.storage import file_name, shown

OPTIONS = {
    "split": "1, 2 or 3: which of the official splits",
    "part": "all, train or test of the split",
    "lists": "the folder of the files CLASS_test_split1.txt",
}
FOLDERS = ("", "testTrainMulti_7030_splits", "../testTrainMulti_7030_splits", "splits")
PARTS = {"1": "train", "2": "test", "0": "unused"}


def read(place: Place) -> Listing:
    """Return the videos of a split.

    Raises:
        SourceError: if its lists are not there or have mistakes, or none of its videos is.
    """
    place.check()
    split = place.one_of("split", ("1", "2", "3"))
    part = place.one_of("part", ("all", "train", "test"))
    folders = [place.option("lists")] if place.option("lists") else FOLDERS
    paths = place.usual(folders, [f"*_test_split{split}.txt"])
    if not paths:
        looked = ", ".join(name or "." for name in folders)
        raise SourceError(
            f"{shown(place.path)}: no file CLASS_test_split{split}.txt (looked in {looked}); "
            "say where with lists=FOLDER"
        )
    ids, names, parts, also = [], [], [], []
    for path in paths:
        label = file_name(path).rpartition("_test_split")[0]
        problems = Problems(path)
        for line, text in lines_of(path):
            found = re.fullmatch(r"([^/]+)\.\w+\s+([012])", text)
            if found is None:
                problems.add(line, f"expected VIDEO.avi and 0, 1 or 2, found {shown(text)[:60]!r}")
                continue
            one = PARTS[found[2]]
            also.append(f"{label}/{found[1]}")
            if one != "unused" and part in {"all", one}:
                ids.append(also[-1])
                names.append(label)
                parts.append(one)
        problems.refuse()
    labels, classes = class_ids(names)
    files = find(place.root or ".")
    where = files.located({name: f"{name}.avi" for name in also})
    return matched(
        "hmdb51",
        f"{shown(place.path)} (split {split}, {part})",
        Columns(ids, labels, more={"split": parts}),
        files,
        find=lambda name: where.get(name, ()),
        once=True,
        also=also,
        classes=classes,
    )
