"""EPIC-KITCHENS: a csv with the video, the times, the verb and the noun of each segment.

Its columns are ``video_id, start_timestamp, stop_timestamp, verb_class, noun_class``.
Videos are called by their id (``P01_11``), with any suffix, at any depth. An entry is one segment,
with the columns ``narration_id``, ``verb`` and ``noun`` of its own (-1 in a list without labels);
``label`` says which of the two is its class. Classes have names where ``EPIC_100_verb_classes.csv``
and the like lie beside the list.

    epic:PATH[,list=FILE][,split=train|validation|test][,label=verb|noun]
"""

from collections.abc import Sequence

import numpy as np

from vidssl.sources._folder import find
from vidssl.sources._listing import Columns, Listing, matched
from vidssl.sources._place import Place, beside
from vidssl.sources._tables import Problems, Table, read_table, seconds, whole
from vidssl.video.storage import Location, shown

OPTIONS = {
    "list": "the csv file, from here or from the folder of the videos",
    "split": "train, validation or test: which of several lists, by its name",
    "label": "verb or noun: which of the two is the class",
}


def read(place: Place) -> Listing:
    """Return the videos and segments of a list.

    Raises:
        SourceError: if there is no list, it has mistakes, or none of its videos is there.
    """
    place.check()
    label = place.one_of("label", ("verb", "noun"))
    folders = ("", "annotations", "epic-kitchens-100-annotations")
    path = place.needed_list(folders, ["epic*.csv"], avoid="class|info|retrieval|sentence|hash")
    table = read_table(
        path,
        ["video_id", "start_timestamp", "stop_timestamp"],
        ["narration_id", "verb_class", "noun_class"],
    )
    problems = Problems(path)
    times = {name: _times(table, name, problems) for name in ("start_timestamp", "stop_timestamp")}
    for number, line in enumerate(table.lines):
        start_s, stop_s = (times[name][number] for name in times)
        if not table.cells["video_id"][number]:
            problems.add(line, "no video_id in this row")
        if start_s is not None and stop_s is not None and stop_s < start_s:
            problems.add(line, f"stop_timestamp {stop_s:g} s is before start_timestamp {start_s:g}")
    numbers = {name: _numbers(table, f"{name}_class", problems) for name in ("verb", "noun")}
    problems.refuse()
    more: dict[str, Sequence[object]] = {name: list(found) for name, found in numbers.items()}
    if "narration_id" in table.cells:
        more["narration_id"] = table.cells["narration_id"]
    columns = Columns(
        table.cells["video_id"],
        np.array(numbers[label], np.int64),
        np.array(times["start_timestamp"], np.float64),
        np.array(times["stop_timestamp"], np.float64),
        more,
    )
    files = find(place.root or ".")
    return matched("epic", shown(path), columns, files, classes=_classes(path, label))


def _times(table: Table, name: str, problems: Problems) -> list[float | None]:
    found = []
    for line, cell in zip(table.lines, table.cells[name], strict=True):
        value = seconds(cell)
        if value is None:
            problems.add(line, f"expected {name} as HH:MM:SS.ss, found {shown(cell)[:40]!r}")
        found.append(value)
    return found


def _numbers(table: Table, name: str, problems: Problems) -> list[int]:
    if name not in table.cells:
        return [-1] * len(table)
    found = []
    for line, cell in zip(table.lines, table.cells[name], strict=True):
        value = whole(cell)
        if value is None:
            problems.add(line, f"expected a number as {name}, found {shown(cell)[:40]!r}")
        found.append(-1 if value is None else value)
    return found


def _classes(path: Location, label: str) -> dict[int, str]:
    names = beside(path, f"epic*{label}_classes*.csv")
    if names is None:
        return {}
    table = read_table(names, ["id", "key"])
    rows = zip(table.cells["id"], table.cells["key"], strict=True)
    return {int(number): name for number, name in rows if whole(number) is not None}
