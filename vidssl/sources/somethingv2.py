"""Something-Something V2: json lists of objects with ``id`` and ``template``.

Videos are called by their id, with any suffix (``78687.webm``). The classes are the templates
without brackets, numbered as in ``something-something-v2-labels.json`` (or ``labels.json``) where
it lies beside the list, else as sorted. The list of the test part has no labels.

    somethingv2:PATH[,list=FILE][,split=train|validation|test]
"""

import json

import numpy as np

from vidssl.errors import SourceError, listed
from vidssl.sources._folder import find
from vidssl.sources._listing import Columns, Listing, class_ids, matched
from vidssl.sources._place import TOLD, Place, beside
from vidssl.sources._tables import read_text, whole
from vidssl.video.storage import Location, shown

OPTIONS = {
    "list": "the json file, from here or from the folder of the videos",
    "split": "train, validation or test: which of several lists, by its name",
}
PATTERNS = ["something-something-v2*.json", "train.json", "validation.json", "test.json"]


def read(place: Place) -> Listing:
    """Return the videos of a list.

    Raises:
        SourceError: if there is no list, it has mistakes, or none of its videos is there.
    """
    place.check()
    path = place.needed_list(("", "annotations", "labels"), PATTERNS, avoid="label|answer")
    rows = _json(path)
    if not isinstance(rows, list):
        raise SourceError(f"{shown(path)}: expected a json list of videos, found another value")
    wrong = [
        f"item {n}: expected an object with id (and template), found {shown(repr(row))[:60]}"
        for n, row in enumerate(rows, 1)
        if not isinstance(row, dict)
        or not isinstance(row.get("id"), str)
        or not isinstance(row.get("template", ""), str)
    ]
    if wrong:
        raise SourceError(listed(f"{shown(path)}: {len(wrong)} mistakes", wrong, TOLD))
    ids = [row["id"] for row in rows]
    names = [row.get("template", "").replace("[", "").replace("]", "") for row in rows]
    labels, classes = _numbered(path, names)
    columns = Columns(ids, labels)
    files = find(place.root or ".")
    return matched("somethingv2", shown(path), columns, files, once=True, classes=classes)


def _numbered(
    path: Location, names: list[str]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], dict[int, str]]:
    at = beside(path, "*labels.json")
    if at is None:
        labels, classes = class_ids(names)
        return labels, classes
    numbers = _json(at)
    if not isinstance(numbers, dict) or not all(
        whole(str(one)) is not None for one in numbers.values()
    ):
        raise SourceError(f"{shown(at)}: expected an object of class names and their numbers")
    lacking = sorted(set(names) - {""} - numbers.keys())
    if lacking:
        raise SourceError(listed(f"{shown(at)}: lacks classes", [*map(shown, lacking)], TOLD))
    labels = np.array([int(numbers[name]) if name else -1 for name in names], np.int64)
    return labels, {int(number): name for name, number in numbers.items()}


def _json(path: Location) -> object:
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise SourceError(f"{shown(path)}: not a json file ({error})") from None
