"""Kinetics: the published csv files, the lists that PySlowFast and mmaction2 use, or class folders.

The csv has the columns ``label, youtube_id, time_start, time_end, split``; its videos are called
``ID_SSSSSS_EEEEEE`` (seconds, six digits each) or ``ID``, with any suffix, in one folder or in one
a class. Classes are numbered as sorted, which is the usual numbering of the whole set; for part of
it name ``classes``. The other lists hold ``PATH LABEL``, apart by a space or comma, with a number
for label. Without a list, the folder above each video is its class.

Times in the csv are those of the cut from the original: the files are taken to have been cut, so
the entries have none, but for ``cut=no``.

    kinetics:PATH[,list=FILE][,split=NAME][,classes=FILE][,cut=no][,outside=allow]
"""

import os
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from vidssl.errors import SourceError, nearest
from vidssl.sources._folder import find
from vidssl.sources._listing import Columns, Files, Listing, class_ids, matched
from vidssl.sources._place import OUTSIDE, Place, joined
from vidssl.sources._tables import (
    UNSAFE,
    Problems,
    Table,
    leaves,
    lines_of,
    read_table,
    read_text,
    whole,
)
from vidssl.video.storage import Location, file_name, shown, video_id

OPTIONS = {
    "list": "the list file, from here or from the folder of the videos",
    "split": "the rows of a csv, by its column split (train, val, ...), or which of several lists",
    "classes": "a file with the name of a class a line, in the order of their numbers",
    "cut": "no: the files are whole videos, which the times of the list are in",
    **OUTSIDE,
}
USUAL = (
    *("*kinetics*.csv", "k[0-9]*.csv", "train*.csv", "val*.csv", "test*.csv", "tiny*.csv"),
    *("*_list*.txt", "train.txt", "val.txt", "test.txt"),
)
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
SAME_SPLIT = {"val": ("val", "validate", "validation"), "validate": ("val", "validate")}


def read(place: Place) -> Listing:
    """Return the videos of a Kinetics folder that its list names, or all by class folder.

    Raises:
        SourceError: if there is none, several lists could be meant, or the list has mistakes.
    """
    place.check()
    path = place.list_file(("", "annotations"), USUAL, avoid="label")
    files = find(place.root or ".")
    if path is None:
        return by_folder("kinetics", files)
    names = _class_names(place)
    if "youtube_id" in _first_line(path).lower():
        return _official(place, path, files, names)
    return _paths(place, path, files, names)


def by_folder(source: str, files: Files) -> Listing:
    """Return all videos, the folder above each as its class; those at the top have none."""
    top = os.path.abspath(files.root)
    above = [os.path.dirname(path) for path in files.paths]
    names = ["" if folder in {top, files.root} else file_name(folder) for folder in above]
    labels, classes = class_ids(names)
    ids = [video_id(path) for path in files.paths]
    plain = Listing.plain(source, files.paths, files.unusable)
    table = Columns(ids, labels).table({})
    table = table.set_column(1, "video", pa.array(np.arange(len(ids)), pa.int32()))
    return Listing(source, plain.videos, table, plain.ledger, classes)


def _official(place: Place, path: Location, files: Files, names: Sequence[str]) -> Listing:
    table = read_table(path, COLUMNS, ["split"])
    times = _times(table)
    ids = [
        f"{video}_{start:06d}_{end:06d}"
        for video, (start, end) in zip(table.cells["youtube_id"], times, strict=True)
    ]
    keep = _rows_of_split(place, table)
    labels, classes = _numbered(path, table.lines, table.cells["label"], names)
    cut = place.one_of("cut", ("yes", "no")) == "yes"
    start_s = None if cut else [float(times[n][0]) for n in keep]
    end_s = None if cut else [float(times[n][1]) for n in keep]
    more = {"split": [table.cells["split"][n] for n in keep]} if "split" in table.cells else {}
    columns = Columns([ids[n] for n in keep], labels[keep], start_s, end_s, more)
    _rename(files)
    return matched(
        "kinetics",
        shown(path),
        columns,
        files,
        find=lambda name: files.find((name, name[:-14])),
        once=True,
        also=ids,
        classes=classes,
    )


def _rename(files: Files) -> None:
    """Let files be found whose seconds have not six digits, as in ``ID_5_15``."""
    for stem in list(files.stems()):
        found = re.fullmatch(r"(.+)_(\d{1,6})_(\d{1,6})", stem)
        if found:
            files.alias(stem, f"{found[1]}_{int(found[2]):06d}_{int(found[3]):06d}")


def _times(table: Table) -> list[tuple[int, int]]:
    problems = Problems(table.path)
    times = []
    for line, video, start, end in zip(
        table.lines,
        *(table.cells[name] for name in ("youtube_id", "time_start", "time_end")),
        strict=True,
    ):
        begin, stop = whole(start.removesuffix(".0")), whole(end.removesuffix(".0"))
        if not video:
            problems.add(line, "no youtube_id in this row")
        if begin is None or stop is None or begin >= stop:
            problems.add(
                line,
                "expected whole seconds, time_start before time_end, "
                f"found {shown(start)!r}, {shown(end)!r}",
            )
            begin, stop = 0, 0
        times.append((begin, stop))
    problems.refuse()
    return times


def _rows_of_split(place: Place, table: Table) -> list[int]:
    wanted = place.option("split")
    if not wanted or "split" not in table.cells:
        place.check_split(table.path)
        return list(range(len(table)))
    cells = table.cells["split"]
    names = SAME_SPLIT.get(wanted, (wanted,))
    keep = [n for n, cell in enumerate(cells) if cell in names]
    if not keep:
        known = sorted(set(cells))
        raise SourceError(
            f"{shown(table.path)}: no row of the split {shown(wanted)!r}, "
            f"found {', '.join(map(shown, known[:8]))}{nearest(wanted, known)}"
        )
    return keep


def _numbered(
    path: Location, lines: Sequence[int], cells: Sequence[str], names: Sequence[str]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], dict[int, str]]:
    if not names:
        labels, classes = class_ids(cells)
        return labels, classes
    number_of = {name: number for number, name in enumerate(names)}
    problems = Problems(path)
    for line, cell in zip(lines, cells, strict=True):
        if cell and cell not in number_of:
            problems.add(line, f"no class {shown(cell)!r} among {len(names)}{nearest(cell, names)}")
    problems.refuse()
    labels = np.array([number_of.get(cell, -1) for cell in cells], np.int64)
    return labels, dict(enumerate(names))


def _paths(place: Place, path: Location, files: Files, names: Sequence[str]) -> Listing:
    """Read ``PATH LABEL`` lists."""
    place.check_split(path)
    listed, labels = [], []
    problems = Problems(path)
    for line, text in lines_of(path):
        name, label = _parted(text)
        if not place.outside and (why := leaves(files.root, name)):
            problems.add(line, f"{shown(name)}: {why}; {UNSAFE}")
        elif not os.path.splitext(name)[1]:
            problems.add(line, f"expected PATH LABEL, found {shown(text)[:60]!r}")
        listed.append(name)
        labels.append(label)
    problems.refuse()
    if place.outside:
        files = _with_outside(files, path)
    id_of = _ids(listed)
    found = files.located({one: name for name, one in id_of.items()})
    columns = Columns([id_of[name] for name in listed], np.array(labels, np.int64))
    return matched(
        "kinetics",
        shown(path),
        columns,
        files,
        find=lambda name: found.get(name, ()),
        once=True,
        classes=dict(enumerate(names)),
    )


def _ids(listed: Sequence[str]) -> dict[str, str]:
    """Return the id of each path: itself without its suffix, unless others differ by that alone."""
    stems = {name: os.path.splitext(name)[0] for name in listed}
    counts = Counter(stems.values())
    return {name: stem if counts[stem] == 1 else name for name, stem in stems.items()}


def _parted(text: str) -> tuple[str, int]:
    """Return the path and the label of a line, -1 where it has none."""
    found = re.search(r"(?<=[\s,])-?\d{1,9}$", text)
    path, label = (text[: found.start()], int(found[0])) if found else (text, -1)
    return path.rstrip(" \t,").strip('"'), label


def _with_outside(files: Files, path: Location) -> Files:
    """Return the files, and those that a list names elsewhere."""
    others = []
    for _, text in lines_of(path):
        name, _ = _parted(text)
        if leaves(files.root, name) and os.path.isfile(joined(files.root, name)):
            others.append(os.path.abspath(joined(files.root, name)))
    known = set(files.paths)
    more = [name for name in dict.fromkeys(others) if name not in known]
    return Files(files.root, [*files.paths, *more], files.unusable)


def _class_names(place: Place) -> list[str]:
    path = place.file("classes")
    return [name for _, name in lines_of(path)] if path else []


def _first_line(path: Location) -> str:
    return read_text(path).partition("\n")[0]
