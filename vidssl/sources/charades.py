"""Charades: the csv with the columns ``id`` and ``actions``, as in ``c092 11.90 21.20;c147 ...``.

Videos are called by their id, with any suffix. An entry is one action from when to when; ``c092``
is class 92, with its name where ``Charades_v1_classes.txt`` lies beside the list. Videos without
actions have no entries, and are expected all the same. Times are as published: some end after the
video does.

    charades:PATH[,list=FILE][,split=train|test]
"""

import re

import numpy as np

from vidssl.sources._folder import find
from vidssl.sources._listing import Columns, Listing, matched
from vidssl.sources._place import Place, beside
from vidssl.sources._tables import Problems, lines_of, read_table, seconds
from vidssl.video.storage import Location, shown

OPTIONS = {
    "list": "the csv file, from here or from the folder of the videos",
    "split": "train or test: which of several lists, by its name",
}


def read(place: Place) -> Listing:
    """Return the videos and actions of a list.

    Raises:
        SourceError: if there is no list, it has mistakes, or none of its videos is there.
    """
    place.check()
    path = place.needed_list(("", "annotations", "Charades"), ["charades*.csv"], avoid="ego|class")
    table = read_table(path, ["id", "actions"])
    ids: list[str] = []
    labels: list[int] = []
    start_s: list[float] = []
    end_s: list[float] = []
    problems = Problems(path)
    for line, video, actions in zip(
        table.lines, table.cells["id"], table.cells["actions"], strict=True
    ):
        for action in filter(None, actions.split(";")):
            name, *times = action.split()
            span = [seconds(time) for time in times]
            if not re.fullmatch(r"c\d{3}", name) or len(span) != 2 or None in span:
                problems.add(line, f"expected c000 START END, found {shown(action)[:60]!r}")
                continue
            ids.append(video)
            labels.append(int(name[1:]))
            start_s.append(span[0] or 0.0)
            end_s.append(span[1] or 0.0)
    problems.refuse()
    columns = Columns(ids, np.array(labels, np.int64), start_s, end_s)
    return matched(
        "charades",
        shown(path),
        columns,
        find(place.root or "."),
        ids=table.cells["id"],
        once=True,
        classes=_classes(path),
    )


def _classes(path: Location) -> dict[int, str]:
    names = beside(path, "charades_v1_classes.txt")
    found = [line.split(" ", 1) for _, line in lines_of(names)] if names else []
    return {int(one[0][1:]): one[1] for one in found if len(one) == 2 and one[0][1:].isdecimal()}
