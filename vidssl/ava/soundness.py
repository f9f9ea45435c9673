"""Whether the files of a data set are sound: every mistake with its line, and what does not fit.

The readers of ``vidssl.ava.annotations`` refuse a file with its first mistakes; here all rows of
all files are looked at, and then held against one another. A *problem* is a mistake; a *warning* is
something that may be meant so.

Array suffixes: N rows of a table.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.annotations import (
    ANNOTATION_LAYOUTS,
    FRAME,
    PERSON_LAYOUTS,
    PREDICTION_LAYOUTS,
    Annotations,
    Predictions,
)
from vidssl.ava.columns import NOBODY, Columns
from vidssl.ava.frames import Codes, Names, Seconds, frame_codes, runs, video_codes
from vidssl.ava.labels import LabelMap
from vidssl.ava.matching import best_truth
from vidssl.ava.rows import BARE, Problems, blocks
from vidssl.boxes import Boxes
from vidssl.errors import AnnotationError, nearest

ANNOTATIONS, PREDICTIONS, PEOPLE, EXCLUDED = "annotations", "predictions", "boxes", "excluded"
LAYOUTS: Mapping[str, Mapping[int, str]] = {
    ANNOTATIONS: ANNOTATION_LAYOUTS,
    PREDICTIONS: PREDICTION_LAYOUTS,
    PEOPLE: PERSON_LAYOUTS,
    EXCLUDED: {BARE: FRAME},
}
HALF = 0.5  # the overlap that counts as meeting
NAMED = 5  # of many names, those that a message has
CROWDED = 0.1  # key frames closer than this share of the usual distance are one, mistyped


@dataclass(frozen=True)
class Finding:
    """Something about a file, at a line from 1 where there is one."""

    file: str
    what: str
    line: int | None = None

    def __str__(self) -> str:
        """Return it as messages have it."""
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


@dataclass
class Findings:
    """What has been found so far."""

    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def problem(self, path: Path, what: str, line: int | None = None) -> None:
        """Note a mistake."""
        self.problems.append(Finding(path.name or str(path), what, line))

    def warning(self, path: Path, what: str, line: int | None = None) -> None:
        """Note what may be meant so."""
        self.warnings.append(Finding(path.name or str(path), what, line))


@dataclass(frozen=True)
class Table:
    """The sound rows of a file, with their lines; ``score`` and ``person`` as the file has them.

    ``box`` is NaN and ``action`` 0 in rows without a box; ``action`` is 0 in a file of people.
    """

    path: Path
    line: NDArray[np.int64]
    video: Names
    timestamp: Seconds
    box: Boxes
    action: NDArray[np.int64]
    person: NDArray[np.int64]
    score: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.line)

    def take(self, which_N: NDArray[Any]) -> "Table":
        """Return some of the rows."""
        columns = ("line", "video", "timestamp", "box", "action", "person", "score")
        return replace(self, **{name: getattr(self, name)[which_N] for name in columns})

    @property
    def frames(self) -> tuple[Names, Seconds]:
        """The key frame of each row."""
        return self.video, self.timestamp

    @property
    def boxed(self) -> "Table":
        """The rows that have a box."""
        return self.take(self.has_box)

    @property
    def has_box(self) -> NDArray[np.bool_]:
        """Which rows have a box, ``(N,)``."""
        return np.asarray(~np.isnan(self.box).any(axis=1))

    def as_annotations(self) -> Annotations:
        """Return the rows as the ground truth that scoring takes."""
        return Annotations(self.video, self.timestamp, self.box, self.action, self.person)

    def as_predictions(self) -> Predictions:
        """Return the rows as the predictions that scoring takes."""
        return Predictions(self.video, self.timestamp, self.box, self.action, self.score)


class _Noted(Problems):
    """Problems of one file, kept for the report of all."""

    def __init__(self, path: Path, findings: Findings) -> None:
        super().__init__(path)
        self.findings = findings
        self.lines: set[int] = set()

    def add(self, line: int, reason: str, expected: str, found: object) -> None:
        """Note one problem."""
        self.lines.add(int(line))
        what = f"{reason}: expected {expected}, found {found}"
        self.findings.problem(self.path, what, int(line))


def read_table(path: Path, kind: str, labels: LabelMap | None, findings: Findings) -> Table | None:
    """Return the rows of a file without mistakes; None, and a problem, where there are none.

    ``kind`` is a key of ``LAYOUTS``.
    """
    noted = _Noted(path, findings)
    parts: list[tuple[NDArray[Any], ...]] = []
    before = len(findings.problems)
    try:
        for block in blocks(path, LAYOUTS[kind], noted):
            parts.append((block.lines, *_cells(Columns(block, noted), kind, labels)))
    except AnnotationError as error:
        refused(path, error, findings)
        return None
    own = findings.problems[before:]
    findings.problems[before:] = sorted(own, key=lambda finding: finding.line or 0)
    if not parts:
        if kind != EXCLUDED and len(findings.problems) == before:
            findings.problem(path, "empty: expected rows of a csv file, found none")
        return None
    table = Table(path, *(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return table.take(~np.isin(table.line, list(noted.lines)))


def _cells(columns: Columns, kind: str, labels: LabelMap | None) -> Iterator[NDArray[Any]]:
    """Give the columns of a block in the order of a table."""
    rows = len(columns.block.lines)
    yield from columns.frame()
    yield np.full((rows, 4), np.nan) if kind == EXCLUDED else columns.box()
    has_action = kind in (ANNOTATIONS, PREDICTIONS)
    yield columns.action(labels) if has_action else np.zeros(rows, np.int64)
    yield columns.person() if kind == ANNOTATIONS else np.full(rows, NOBODY, np.int64)
    if kind == PREDICTIONS:
        yield columns.score(7)
    else:
        yield columns.detection_score() if kind == PEOPLE else np.ones(rows)


def refused(path: Path, error: AnnotationError, findings: Findings) -> None:
    """Note what a reader says of a file, line by line of the file."""
    head, *rest = str(error).splitlines()
    for told in [one.strip() for one in rest] or [head]:
        told = told.removeprefix(f"{path}: ").removeprefix(f"{path.name}:")
        number, colon, what = told.partition(": ")
        if colon and number.isascii() and number.isdigit():
            findings.problem(path, what, int(number))
        else:
            findings.problem(path, told)


# --- one file


def check_annotations(table: Table, labels: LabelMap, findings: Findings) -> None:
    """Look for rows that say the same, people in two places, classes and times that stand out."""
    frame = frame_codes(table.frames)[0]
    boxed = table.has_box
    _repeated(table, frame, boxed, findings)
    _two_places(table, frame, boxed, findings)
    _bare(table, frame, boxed, findings)
    counted_from_0 = any(
        "counted from 0" in p.what for p in findings.problems if p.file == table.path.name
    )
    there = set(table.action[boxed].tolist())
    if counted_from_0 and labels.size not in there:
        findings.warning(table.path, f"no row has label {labels.size}, some have 0: add 1 to all?")
    if missing := [label for label in labels.ids if label not in there]:
        names = _some(f"{label} ({labels.names[label]})" for label in missing)
        what = f"{len(missing)} of {len(labels.ids)} classes have no row: {names}"
        findings.warning(table.path, what)
    if strange := sorted(there - set(labels.ids)):
        rows = int(np.isin(table.action, strange).sum())
        what = f"{rows} rows are of {len(strange)} labels that the map does not score"
        findings.warning(table.path, f"{what}: {_some(map(str, strange))}")
    _spacing(table, findings)


def _repeated(table: Table, frame: Codes, boxed: NDArray[np.bool_], findings: Findings) -> None:
    rows = np.flatnonzero(boxed)
    seen: dict[tuple[float, ...], int] = {}
    keys = np.column_stack([frame, table.action, table.box])[rows]
    for row, key in zip(rows.tolist(), map(tuple, keys.tolist()), strict=True):
        first = seen.setdefault(key, row)
        if first != row:
            where = f"{table.video[row]} at {table.timestamp[row]:g} s"
            what = (
                f"repeated row: expected each box and class once in a key frame, found that of "
                f"line {table.line[first]} again ({where}); no prediction can meet the second"
            )
            findings.problem(table.path, what, int(table.line[row]))


def _two_places(table: Table, frame: Codes, boxed: NDArray[np.bool_], findings: Findings) -> None:
    rows = np.flatnonzero(boxed & (table.person != NOBODY))
    seen: dict[tuple[int, int], int] = {}
    for row in rows.tolist():
        first = seen.setdefault((int(frame[row]), int(table.person[row])), row)
        if not np.array_equal(table.box[first], table.box[row]):
            what = (
                f"person {table.person[row]} in two places: expected the box of line "
                f"{table.line[first]}, found another in the same key frame"
            )
            findings.problem(table.path, what, int(table.line[row]))


def _bare(table: Table, frame: Codes, boxed: NDArray[np.bool_], findings: Findings) -> None:
    peopled = np.isin(frame, frame[boxed]) & ~boxed
    for row in np.flatnonzero(peopled).tolist():
        what = "an empty key frame: expected no boxes in it, found some in other rows"
        findings.problem(table.path, what, int(table.line[row]))


def _spacing(table: Table, findings: Findings) -> None:
    """Warn of key frames that are much closer than the others of their video."""
    usual, close = spacing_s(table), []
    if usual is None:
        return
    for video, rows in by_video(table.video).items():
        times = np.unique(np.round(table.timestamp[rows], 6))
        for at in np.flatnonzero(np.diff(times) < CROWDED * usual).tolist():
            close.append(f"{video} at {times[at]:g} and {times[at + 1]:g} s")
    if close:
        what = f"key frames nearly on top of one another, {usual:g} s apart elsewhere"
        findings.warning(table.path, f"{what}: {_some(close)}")


def by_video(video_N: Names) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each video, rising, the videos in order of appearance."""
    (code_N,) = video_codes(video_N)
    order = np.argsort(code_N, kind="stable")
    starts = runs(code_N[order])[0]
    groups = np.split(order, starts[1:]) if len(order) else []
    return {str(video_N[rows[0]]): rows for rows in groups}


def spacing_s(table: Table) -> float | None:
    """Return the commonest distance between two key frames of a video; None where none has two."""
    gaps: list[float] = []
    order = np.lexsort((table.timestamp, table.video))
    video, time = table.video[order], np.round(table.timestamp[order], 6)
    same = (video[1:] == video[:-1]) & (time[1:] > time[:-1])
    gaps = np.round(np.diff(time)[same], 3).tolist()
    if not gaps:
        return None
    values, counts = np.unique(gaps, return_counts=True)
    return float(values[np.argmax(counts)])


# --- one file against another


def check_names(
    there: Sequence[str],
    annotated: Collection[str],
    path: Path,
    findings: Findings,
    what: str = "videos",
    *,
    must_meet: bool = True,
) -> None:
    """Hold the videos of another file, or the videos themselves, against the annotated ones.

    Of a file that need not meet them, as exclusions of a whole data set, nothing is expected.
    """
    strange = [name for name in dict.fromkeys(there) if name not in annotated]
    met = len(set(there) & set(annotated))
    for name in strange[:NAMED]:
        if hint := _misspelt(name, annotated):
            findings.problem(path, f"{name!r} is not annotated: {hint}")
    if there and not met and must_meet:
        example = f"{min(there)!r} here, {min(annotated)!r} there"
        findings.problem(path, f"no video is annotated: {example}")
    elif strange:
        found = f"{len(strange)} of {len(set(there))} {what} are not annotated"
        findings.warning(path, f"{found}: {_some(strange)}")


def _misspelt(name: str, known: Collection[str]) -> str:
    """Return what is wrong with a name that differs from a known one in how it is written."""
    pure = PurePath(name)
    if pure.stem in known or pure.name in known:
        right = pure.name if pure.name in known else pure.stem
        return f"leave out the folder and the suffix, as in {right!r}"
    folded = {one.lower(): one for one in known}
    if name.strip().lower() in folded:
        return f"it is written {folded[name.strip().lower()]!r} there"
    if any(PurePath(one).stem == name for one in known):
        return "there the names have folders or suffixes, which ids have not"
    return ""


@dataclass(frozen=True)
class Coverage:
    """How far boxes reach: key frames with one, and annotated boxes that one meets at IoU 0.5."""

    key_frames: int
    with_boxes: int
    people: int
    met: int


def coverage(truth: Table, boxes: Table) -> Coverage:
    """Return how many key frames and annotated people the boxes reach."""
    truth_frame, box_frame = frame_codes(truth.frames, boxes.boxed.frames)
    people = np.flatnonzero(truth.has_box)
    rows = np.unique(np.column_stack([truth_frame, truth.box])[people], axis=0)
    codes, boxes_N4 = rows[:, 0].astype(np.int64), rows[:, 1:]
    overlap = best_truth(box_frame, boxes.boxed.box, codes, boxes_N4)[1]
    frames = np.unique(truth_frame)
    return Coverage(
        key_frames=len(frames),
        with_boxes=int(np.isin(frames, box_frame).sum()),
        people=len(rows),
        met=int((overlap >= HALF).sum()),
    )


def check_coverage(truth: Table, boxes: Table, findings: Findings) -> Coverage:
    """Tell of key frames without boxes, and of times or boxes that never meet."""
    found = coverage(truth, boxes)
    shared = set(truth.video.tolist()) & set(boxes.video.tolist())
    if not shared:
        return found  # told of by check_names
    box_frame, truth_frame = frame_codes(boxes.frames, truth.frames)
    if not found.with_boxes and np.isin(box_frame, truth_frame).any():
        what = "no box is in an annotated key frame: those that are here are told to have nobody"
        findings.problem(boxes.path, what)
        return found
    if not found.with_boxes:
        video = min(shared)
        spans = [_span(table.timestamp[table.video == video]) for table in (truth, boxes)]
        what = f"no box is in an annotated key frame: {video!r} is annotated {spans[0]} s, "
        findings.problem(boxes.path, f"{what}has boxes {spans[1]} s (another time origin?)")
        return found
    if not found.met and found.people:
        findings.problem(boxes.path, "no box meets an annotated one (IoU 0.5): y1,x1,y2,x2?")
    if lacking := found.key_frames - found.with_boxes:
        what = f"{lacking} of {found.key_frames} annotated key frames have no box"
        findings.warning(boxes.path, f"{what}; nothing can be predicted there")
    unused = len(np.unique(frame_codes(boxes.boxed.frames)[0])) - found.with_boxes
    if unused:
        findings.warning(boxes.path, f"{unused} key frames with boxes are not annotated")
    return found


def check_excluded(truth: Table, excluded: Table, findings: Findings) -> None:
    """Tell of excluded key frames that are annotated all the same."""
    truth_frame, frame = frame_codes(truth.frames, excluded.frames)
    kept = np.flatnonzero(np.isin(frame, truth_frame))
    if len(kept):
        row = kept[0]
        example = f"{excluded.video[row]} at {excluded.timestamp[row]:g} s"
        what = f"{len(kept)} excluded key frames are annotated, the first {example}"
        findings.warning(excluded.path, what, int(excluded.line[row]))


def check_times(
    truth: Table,
    lengths_s: Mapping[str, float],
    origins_s: Mapping[str, float],
    slack_s: float,
    findings: Findings,
) -> int:
    """Tell of key frames before or behind their video; return how many there are."""
    outside = 0
    seen: set[tuple[str, float]] = set()
    for row in range(len(truth)):
        video, time_s = str(truth.video[row]), round(float(truth.timestamp[row]), 6)
        if video not in lengths_s or (video, time_s) in seen:
            continue
        seen.add((video, time_s))
        origin_s = origins_s.get(video, 0.0)
        into_s = time_s - origin_s
        if -slack_s <= into_s <= lengths_s[video] + slack_s:
            continue
        outside += 1
        end_s = lengths_s[video] + origin_s
        what = f"outside of the video: expected {origin_s:g} to {end_s:.2f} s, found {time_s:g} s"
        findings.problem(truth.path, f"{what} ({video})", int(truth.line[row]))
    return outside


def names_told(names: Sequence[str], choices: Collection[str]) -> str:
    """Return some of the names, each with the nearest of the choices."""
    return _some(f"{name}{nearest(name, choices)}" for name in names)


def _some(names: "Iterator[str] | Sequence[str] | map[str]") -> str:
    found = list(names)
    return ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")


def _span(times: Seconds) -> str:
    return f"{times.min():g}..{times.max():g}"
