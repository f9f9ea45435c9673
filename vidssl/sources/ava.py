"""AVA: rows of ``video_id, timestamp, x1, y1, x2, y2, action_id, person_id`` without a header.

Videos are called by their id, with any suffix. An entry is one row: its action as class (none where
a row has two columns only) at an instant, ``start_s`` equal to ``end_s``, in seconds of the list's
own clock. The boxes are read by ``vidssl.ava``.

    ava:PATH[,list=FILE][,split=train|val]
"""

from collections.abc import Callable, Sequence

import numpy as np

from vidssl.sources._folder import find
from vidssl.sources._listing import Columns, Files, Listing, matched
from vidssl.sources._place import Place
from vidssl.sources._tables import Problems, rows_of, seconds, whole
from vidssl.video.storage import shown

OPTIONS = {
    "list": "the csv file, from here or from the folder of the videos",
    "split": "train or val: which of several lists, by its name",
}
WIDTHS = {2, 7, 8}
AVOID = "excluded|included|detection|predict|class|videos|visits|action_list"


def read(place: Place) -> Listing:
    """Return the videos and actions of a list.

    Raises:
        SourceError: if there is no list, it has mistakes, or none of its videos is there.
    """
    patterns = ["ava_train*.csv", "ava_val*.csv", "ava_test*.csv", "train.csv", "val.csv"]
    return read_rows("ava", place, patterns, lambda files: None)


def read_rows(
    source: str, place: Place, patterns: Sequence[str], prepare: Callable[[Files], None]
) -> Listing:
    """Return the videos and actions of a list of this form; ``prepare`` may give files names.

    Raises:
        SourceError: if there is no list, it has mistakes, or none of its videos is there.
    """
    place.check()
    path = place.needed_list(("", "annotations"), patterns, avoid=AVOID)
    ids: list[str] = []
    times: list[float] = []
    labels: list[int] = []
    problems = Problems(path)
    for number, (line, row) in enumerate(rows_of(path)):
        time = seconds(row[1].strip()) if len(row) in WIDTHS else None
        if number == 0 and time is None and len(row) in WIDTHS and row[1].strip().isalpha():
            continue  # a header
        action = row[6].strip() if len(row) > 6 else ""
        if len(row) not in WIDTHS:
            problems.add(line, f"expected 2, 7 or 8 columns, found {len(row)}")
        elif time is None:
            problems.add(line, f"expected a time in seconds, found {shown(row[1])[:40]!r}")
        elif action and whole(action) is None:
            problems.add(line, f"expected an action's number, found {shown(action)[:40]!r}")
        else:
            ids.append(row[0].strip())
            times.append(time)
            labels.append(int(action) if action else -1)
    problems.refuse()
    files = find(place.root or ".")
    prepare(files)
    time_s = np.array(times, np.float64)
    return matched(source, shown(path), Columns(ids, np.array(labels), time_s, time_s), files)
