"""The tables of AVA and AVA-Kinetics: annotations, person boxes, predictions, excluded key frames.

Formats: AVA v1.0 to v2.2 and AVA-Kinetics v1.0 (https://research.google.com/ava/download.html),
and the person boxes published with Long-Term Feature Banks and PySlowFast. A byte order mark and
CRLF line ends change nothing. A file with mistakes is refused whole, every mistake with its line.

Array suffixes: N rows of a table.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.ava import bulk
from vidssl.ava.columns import NOBODY, Columns
from vidssl.ava.frames import (
    MICROSECONDS,
    Codes,
    Names,
    Seconds,
    frame_codes,
    frame_columns,
    numbered,
)
from vidssl.ava.labels import LabelMap
from vidssl.ava.rows import BARE, Problems, blocks, written_aside
from vidssl.boxes import Boxes
from vidssl.errors import AnnotationError

FRAME = "video,timestamp"
BOX = f"{FRAME},x1,y1,x2,y2"
ANNOTATION_LAYOUTS = {8: f"{BOX},action,person", 7: f"{BOX},action", BARE: FRAME}
PREDICTION_LAYOUTS = {8: f"{BOX},action,score", BARE: FRAME}
PERSON_LAYOUTS = {8: f"{BOX},(empty),score", 7: f"{BOX},score", 6: BOX}


@dataclass(frozen=True)
class Annotations:
    """Who does what: a row for each pair of a box and an action.

    ``timestamp`` is in seconds; ``box`` is ``(N, 4)``. A key frame in which nobody was annotated is
    a row with action 0 and a box of NaN. ``person`` is -1 where the file gives none.
    """

    video: Names
    timestamp: Seconds
    box: Boxes
    action: NDArray[np.int64]
    person: NDArray[np.int64]


@dataclass(frozen=True)
class PersonBoxes:
    """Detected people: ``timestamp`` in seconds, ``box`` ``(N, 4)``, ``score`` in [0, 1]."""

    video: Names
    timestamp: Seconds
    box: Boxes
    score: NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """Predicted actions: a row for each pair of a box and an action, in the order of the file.

    As in the ground truth, a key frame that was looked at and in which nothing was found may be a
    row with action 0, a box of NaN and score 0; it counts as evaluated.
    """

    video: Names
    timestamp: Seconds
    box: Boxes
    action: NDArray[np.int64]
    score: NDArray[np.float64]


@dataclass(frozen=True)
class KeyFrame:
    """The annotated people of one key frame.

    ``timestamp`` in seconds; ``boxes`` ``(P, 4)``; ``labels`` ``(P, num_classes)`` multi-hot,
    action ``id`` in column ``id - 1``; ``persons`` ``(P,)``, -1 where unknown. P is 0 where the
    frame was annotated as empty.
    """

    video: str
    timestamp: float
    boxes: Boxes
    labels: NDArray[np.bool_]
    persons: NDArray[np.int64]


def read_annotations(path: Path, labels: LabelMap | None = None) -> Annotations:
    """Return the table of an annotation file with 8, 7 or (nothing in the frame) 2 columns.

    With ``labels``, actions beyond ``labels.limit`` are refused.

    Raises:
        AnnotationError: if the file is absent, empty or has a mistake; with all of them.
    """
    limit = None if labels is None else labels.limit
    found = bulk.read(path, ANNOTATION_LAYOUTS, limit, whole_last=True)
    if found is not None:
        person = found.last if found.last is not None else np.full(len(found.video), NOBODY)
        return Annotations(found.video, found.timestamp, found.box, found.action, person)
    problems = Problems(path)
    parts = [
        (*columns.frame(), columns.box(), columns.action(labels), columns.person())
        for columns in _columns(path, ANNOTATION_LAYOUTS, problems)
    ]
    return Annotations(*_joined(parts, problems))


def read_predictions(path: Path, labels: LabelMap | None = None) -> Predictions:
    """Return the table of a prediction file with 8 columns or (nothing found) 2, in its order.

    With ``labels``, actions beyond ``labels.limit`` are refused.

    Raises:
        AnnotationError: if the file is absent, empty or has a mistake; with all of them.
    """
    limit = None if labels is None else labels.limit
    found = bulk.read(path, PREDICTION_LAYOUTS, limit, whole_last=False)
    if found is not None and found.last is not None:
        return Predictions(found.video, found.timestamp, found.box, found.action, found.last)
    problems = Problems(path)
    parts = [
        (*columns.frame(), columns.box(), columns.action(labels), columns.score(7))
        for columns in _columns(path, PREDICTION_LAYOUTS, problems)
    ]
    return Predictions(*_joined(parts, problems))


def read_person_boxes(path: Path, min_score: float = 0.0) -> PersonBoxes:
    """Return the people of at least ``min_score``.

    The published form has 8 columns with the action, the 7th, empty; 7 columns end in the score,
    6 have none, which counts as 1.

    Raises:
        AnnotationError: if the file is absent, empty or has a mistake; with all of them.
    """
    problems = Problems(path)
    parts = [
        (*columns.frame(), columns.box(), columns.detection_score())
        for columns in _columns(path, PERSON_LAYOUTS, problems)
    ]
    table = _joined(parts, problems)
    keep = table[-1] >= min_score
    return PersonBoxes(*(column[keep] for column in table))


def read_excluded(path: Path) -> frozenset[tuple[str, float]]:
    """Return the key frames of a file of videos and seconds; an empty file excludes none.

    Raises:
        AnnotationError: if the file is absent or has a mistake; with all of them.
    """
    problems = Problems(path)
    parts = [columns.frame() for columns in _columns(path, {BARE: FRAME}, problems)]
    problems.check()
    return frozenset(frame for part in parts for frame in _frame_keys(*part))


def keyframes(annotations: Annotations) -> list[tuple[str, float]]:
    """Return every annotated key frame once, (video, seconds), in order of first appearance."""
    frame = frame_codes((annotations.video, annotations.timestamp))[0]
    first = np.unique(frame, return_index=True)[1]
    return list(_frame_keys(annotations.video[first], annotations.timestamp[first]))


def group_keyframes(
    annotations: Annotations,
    num_classes: int,
    excluded: frozenset[tuple[str, float]] = frozenset(),
) -> list[KeyFrame]:
    """Return the key frames that are not excluded, in order of first appearance.

    Rows of one frame with exactly the same box are one person. The arrays of all frames are views
    of three large ones.

    Raises:
        AnnotationError: if an action is above ``num_classes``.
    """
    if (annotations.action > num_classes).any():
        highest = int(annotations.action.max())
        raise AnnotationError(f"labels: expected ids up to {num_classes} classes, found {highest}")
    table = (annotations.video, annotations.timestamp)
    frame, dropped = frame_codes(table, frame_columns(excluded))
    rows = np.flatnonzero(annotations.action > 0)
    person = _distinct(frame[rows], annotations.box[rows])
    first = rows[np.unique(person, return_index=True)[1]]  # a row of each person
    order = np.argsort(frame[first], kind="stable")  # the people, frame by frame
    labels = np.zeros((len(first), num_classes), dtype=np.bool_)
    labels[np.argsort(order)[person], annotations.action[rows] - 1] = True
    boxes, persons = annotations.box[first[order]], annotations.person[first[order]]
    counts = np.bincount(frame[first], minlength=int(frame.max(initial=-1)) + 1)
    stops = np.cumsum(counts)
    drop = set(dropped.tolist())
    spans = zip(keyframes(annotations), stops - counts, stops, strict=True)
    return [
        KeyFrame(video, seconds, boxes[start:stop], labels[start:stop], persons[start:stop])
        for code, ((video, seconds), start, stop) in enumerate(spans)
        if code not in drop
    ]


def write_annotations(path: Path, annotations: Annotations) -> None:
    """Write 8 columns, or 7 if no row has a person; every number can be read back exactly.

    Raises:
        OutputError: if the file cannot be written.
    """
    last = [annotations.person] if (annotations.person != NOBODY).any() else []
    _write(path, annotations, [annotations.action, *last], bare=annotations.action == 0)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write 8 columns; coordinates and scores in full, so that the file scores the same.

    Raises:
        OutputError: if the file cannot be written.
    """
    columns = [predictions.action, predictions.score]
    _write(path, predictions, columns, bare=predictions.action == 0)


def write_person_boxes(path: Path, people: PersonBoxes) -> None:
    """Write the published form: 8 columns, the 7th empty, the score last.

    Raises:
        OutputError: if the file cannot be written.
    """
    columns = [np.full(len(people.score), ""), people.score]
    _write(path, people, columns, bare=np.zeros(len(people.score), dtype=np.bool_))


def write_excluded(path: Path, excluded: Iterable[tuple[str, float]]) -> None:
    """Write key frames, sorted, as videos and seconds.

    Raises:
        OutputError: if the file cannot be written.
    """
    with written_aside(path) as file:
        rows = ((video, stamp(timestamp)) for video, timestamp in sorted(excluded))
        csv.writer(file, lineterminator="\n").writerows(rows)


def stamp(timestamp_s: float) -> str:
    """Return the time as the files have it: 4 digits for a whole second, else 6 decimals."""
    timestamp_s = round(timestamp_s, MICROSECONDS)
    return f"{int(timestamp_s):04d}" if timestamp_s.is_integer() else f"{timestamp_s:.6f}"


def _write(
    path: Path,
    table: Annotations | Predictions | PersonBoxes,
    last: Sequence[NDArray[Any]],
    bare: NDArray[np.bool_],
) -> None:
    stamps = [stamp(timestamp) for timestamp in table.timestamp.tolist()]
    box = np.asarray(table.box, dtype=np.float64).T.tolist()  # (4, N)
    columns = [table.video.tolist(), stamps, *box, *(column.tolist() for column in last)]
    full = zip(*columns, strict=True)
    rows = (row[:BARE] if short else row for row, short in zip(full, bare.tolist(), strict=True))
    with written_aside(path) as file:
        csv.writer(file, lineterminator="\n").writerows(rows)  # floats by repr: shortest exact


def _columns(path: Path, layouts: Mapping[int, str], problems: Problems) -> Iterator[Columns]:
    return (Columns(block, problems) for block in blocks(path, layouts, problems))


def _joined(parts: Sequence[tuple[NDArray[Any], ...]], problems: Problems) -> list[NDArray[Any]]:
    problems.check()
    if not parts:
        raise AnnotationError(f"{problems.path}: empty: expected rows of a csv file, found none")
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


def _frame_keys(video: Names, timestamp: Seconds) -> Iterator[tuple[str, float]]:
    seconds = np.round(timestamp, MICROSECONDS)
    return zip(video.tolist(), seconds.tolist(), strict=True)


def _distinct(frame_N: Codes, box_N4: Boxes) -> Codes:
    """Number the different boxes of each frame, ``(N,)``, from 0 in order of first appearance."""
    order = np.lexsort((*box_N4.T, frame_N))
    rows = np.column_stack([frame_N, box_N4])[order]
    starts = np.ones(len(rows), dtype=np.int64)
    starts[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    codes = np.empty(len(rows), dtype=np.int64)
    codes[order] = np.cumsum(starts)
    return numbered(codes)
