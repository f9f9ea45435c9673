"""``vidssl ava import``: annotations of other tools into AVA layout.

Written are ``annotations.csv`` (a row for each action of each person at each key frame),
``labels.pbtxt`` (the classes) and ``boxes.csv`` (everybody, with an action or without, as person
boxes of score 1). Times count from the beginning of each video. A key frame in which nobody has an
action has no row: whether it was looked at, no tool says.
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vidssl.ava.annotations import write_annotations, write_person_boxes
from vidssl.ava.formats import Facts, Hints, Imported, find
from vidssl.ava.labels import LabelMap, has_control, read_labels, write_labels
from vidssl.ava.tracks import Sampled, as_annotations, as_person_boxes, at_key_frames
from vidssl.errors import AnnotationError, OutputError, listed, nearest
from vidssl.jobs.index import open_index, set_aside
from vidssl.progress import Progress, silent
from vidssl.video.index import read_tables
from vidssl.video.storage import video_id

ANNOTATIONS, LABELS, BOXES = "annotations.csv", "labels.pbtxt", "boxes.csv"
LEAST_S = 0.001


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    ``every_s`` is how far apart key frames are, 0 for the tool's own moments, None for what suits
    the format; ``labels`` a label map to use in place of the tool's own classes; ``videos`` the
    SOURCE of the videos, for what the file does not say; the rest is as in ``Hints``.
    """

    every_s: float | None = None
    labels: Path | None = None
    videos: str | None = None
    fps: float | None = None
    size_px: tuple[int, int] | None = None
    attributes: tuple[str, ...] = ()
    first_frame: int = 0


@dataclass(frozen=True)
class ImportResult:
    """What was written; ``rows`` are those of the annotations, ``boxes`` those of all people.

    ``without_action`` counts the boxes that are in ``boxes.csv`` alone.
    """

    annotations: Path
    labels: Path
    boxes: Path
    videos: int
    key_frames: int
    rows: int
    people_boxes: int
    without_action: int
    classes: dict[int, str]
    every_s: float
    remarks: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return what scripts get."""
        kept: dict[str, object] = json.loads(json.dumps(asdict(self), default=str))
        return kept


def run(
    name: str, source: Path, out: Path, request: Request, *, progress: Progress = silent
) -> ImportResult:
    """Read the file of the tool ``name`` and write the folder ``out``.

    Raises:
        AnnotationError: if there is no such format, or the file does not fit it, or lacks what
            neither the videos nor the person says; with every mistake.
        OutputError: if ``out`` has such files already, or cannot be written.
    """
    module = find(name)
    _require_free(out)
    every_s = module.EVERY_S if request.every_s is None else request.every_s
    if not (every_s == 0 or LEAST_S <= every_s < math.inf):
        raise AnnotationError(
            f"--every: expected 0, or seconds from {LEAST_S:g} up, found {every_s:g}"
        )
    known = read_labels(request.labels) if request.labels else None
    facts, remarks = _facts(request.videos, progress)
    stated = Facts(request.fps, request.size_px)
    hints = Hints(request.attributes, stated, facts, request.first_frame)
    progress(f"reading {source.name}", 0, 0)
    imported: Imported = module.read(source, hints)
    _check_names(imported, source)
    sampled = at_key_frames(imported.tracks, every_s)
    _check(sampled, imported, source, every_s)
    labels = _labels(imported, known, source)
    annotations = as_annotations(sampled, {label: number for number, label in labels.names.items()})
    if not len(annotations.action):
        raise AnnotationError(
            f"{source}: nobody has an action at any key frame ({len(sampled.rows)} boxes have none)"
        )
    remarks += [*imported.remarks, *_remarks(sampled, every_s)]
    remarks += _absent({video for video, *_ in sampled.rows}, facts)
    people = as_person_boxes(sampled)
    _write(
        out,
        {
            ANNOTATIONS: lambda path: write_annotations(path, annotations),
            BOXES: lambda path: write_person_boxes(path, people),
            LABELS: lambda path: write_labels(path, labels),
        },
    )
    frames = set(zip(annotations.video.tolist(), annotations.timestamp.tolist(), strict=True))
    return ImportResult(
        out / ANNOTATIONS,
        out / LABELS,
        out / BOXES,
        videos=len(set(annotations.video.tolist())),
        key_frames=len(frames),
        rows=len(annotations.action),
        people_boxes=len(people.score),
        without_action=sampled.without_action,
        classes=dict(labels.names),
        every_s=every_s,
        remarks=remarks,
    )


def _require_free(out: Path) -> None:
    there = [name for name in (ANNOTATIONS, LABELS, BOXES) if (out / name).exists()]
    if there:
        names = ", ".join(there)
        raise OutputError(f"{out}: has {names} already; choose another folder for --out")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; expected a folder to write")


def _facts(source: str | None, progress: Progress) -> tuple[dict[str, Facts], list[str]]:
    """Return what the videos at hand are, by id, and remarks about them."""
    if source is None:
        return {}, []
    columns = ["path", "status", "fps", "width", "height", "duration_s", "variable_rate"]
    facts: dict[str, Facts] = {}
    uneven = []
    with tempfile.TemporaryDirectory() as folder:
        index = open_index(source, Path(folder) / "index.parquet", progress)
        remarks = [f"set aside: {why}" for why in set_aside(index).values()]
        for part in read_tables(index.path, columns):
            for row in part.to_pylist():
                if row["status"] == "ok":
                    video = video_id(row["path"])
                    size_px = (row["width"], row["height"])
                    facts[video] = Facts(row["fps"], size_px, row["duration_s"])
                    uneven += [video] if row["variable_rate"] else []
    if uneven:
        some = ", ".join(uneven[:3])
        remarks.append(
            f"{len(uneven)} videos have no even frame rate ({some}): times that are counted in "
            "frames are off"
        )
    return facts, remarks


def _check_names(imported: Imported, source: Path) -> None:
    """Refuse names that no line of a file can hold.

    Raises:
        AnnotationError: if there are such names of videos or actions.
    """
    videos = dict.fromkeys(track.video for track in imported.tracks)
    done = dict.fromkeys(a for t in imported.tracks for s in t.shapes for a in s.actions)
    told = [f"video {name!r}" for name in videos if has_control(name)]
    told += [f"action {n!r}" for n in dict.fromkeys((*imported.actions, *done)) if has_control(n)]
    if told:
        what = "control characters in names: expected each on one line, found"
        raise AnnotationError(listed(f"{source}: {what}", told))


def _check(sampled: Sampled, imported: Imported, source: Path, every_s: float) -> None:
    """Refuse an import without key frames, or with one person in two places at once.

    Raises:
        AnnotationError: in these cases.
    """
    if not sampled.rows:
        moments = sorted({s.time_s for t in imported.tracks for s in t.shapes if s.visible})
        spans = (
            f"{len(moments)} moments from {moments[0]:g} to {moments[-1]:g} s" if moments else ""
        )
        raise AnnotationError(
            f"{source}: no box is at a multiple of {every_s:g} s: found {spans or 'none visible'}; "
            "--every 0 takes every annotated moment"
        )
    places = Counter((video, time_s, person) for video, time_s, _, person, _ in sampled.rows)
    doubled = [
        f"{video} at {time_s:g} s: person {person} has {count} boxes"
        for (video, time_s, person), count in places.items()
        if count > 1 and person >= 0
    ]
    if doubled:
        raise AnnotationError(listed(f"{source}: people in several places at once", doubled))


def _labels(imported: Imported, known: LabelMap | None, source: Path) -> LabelMap:
    """Return the label map: the person's, or the tool's classes in its order.

    Raises:
        AnnotationError: if the person's lacks an action that somebody does, or has it twice.
    """
    done = dict.fromkeys(a for t in imported.tracks for s in t.shapes for a in s.actions)
    if known is None:
        ids = imported.ids
        names = dict.fromkeys((*imported.actions, *done))
        if ids and all(name in ids for name in names):
            return LabelMap({ids[name]: name for name in sorted(names, key=lambda n: ids[n])})
        return LabelMap({number: name for number, name in enumerate(names, start=1)})
    there = set(known.names.values())
    if strange := [name for name in done if name not in there]:
        told = [f"{name!r}{nearest(name, there)}" for name in strange]
        raise AnnotationError(listed(f"{source}: actions that the label map does not have", told))
    numbers = {name: [i for i, n in known.names.items() if n == name] for name in done}
    doubled = [f"{n!r}: {', '.join(map(str, own))}" for n, own in numbers.items() if len(own) > 1]
    if doubled:
        what = "actions with several ids in the label map"
        raise AnnotationError(listed(f"{source}: {what}", doubled))
    return known


def _remarks(sampled: Sampled, every_s: float) -> list[str]:
    told = {
        f"of {sampled.moments} annotated boxes are at no multiple of {every_s:g} s and were left "
        "out (--every 0 takes every annotated moment)": sampled.between if every_s else 0,
        "boxes stuck out of the picture and were cut": sampled.cut,
        "boxes were there twice": sampled.twice,
        f"boxes have no action and are in {BOXES} alone": sampled.without_action,
    }
    return [f"{count} {what}" for what, count in told.items() if count]


def _absent(annotated: set[str], facts: Mapping[str, Facts]) -> list[str]:
    """Return a remark on annotated videos that are not at hand."""
    if not facts or not (absent := sorted(annotated - facts.keys())):
        return []
    some = ", ".join(f"{video}{nearest(video, facts)}" for video in absent[:3])
    return [f"{len(absent)} of {len(annotated)} annotated videos are not among those given: {some}"]


def _write(out: Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write the files; all of them or none."""
    is_new = not out.exists()
    done: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            done.append(out / name)  # before: it may be there when Ctrl-C comes
            write(out / name)
    except BaseException as error:  # Ctrl-C among them
        for path in done:
            path.unlink(missing_ok=True)
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
        raise
