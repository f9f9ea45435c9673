"""``vidssl detect``: who does what in one's own video, as files to read, to show and to look at.

``OUT`` is made whole or not at all. It holds

- ``predictions.csv``: every person's score for every class, as ``eval-ava --predictions`` reads it:
  ``video,second,x1,y1,x2,y2,class,score``;
- ``detections.json``: key frames with people and tracks with intervals; the form is described in
  ``vidssl/ava/detections.py`` and, for programs, in ``detections.schema.json``;
- ``boxes.csv``: the people, in the published form, that another run may take as ``--boxes``;
- ``timeline.vtt``: the intervals as subtitles;
- ``annotated.mp4``: the video with people marked, at its own rate and speed, without sound, its
  short side at most 720;
- ``index.html``: a page that plays it, with a time line for each person.

Times count from the first frame of the video. Scores are those of ``eval-ava`` for the same boxes:
both go one way. People are followed by the tracker of ``vidssl.ava.linking``; boxes between key
frames in the annotated video are interpolated, not detected.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidssl import __version__
from vidssl.ava.annotations import (
    PersonBoxes,
    read_person_boxes,
    write_person_boxes,
    write_predictions,
)
from vidssl.ava.detections import (
    Action,
    Detections,
    Instant,
    MadeBy,
    Person,
    Track,
    Unread,
    Video,
    as_json,
    as_webvtt,
    intervals_of,
    spans_of,
)
from vidssl.ava.linking import Linking, link, usual_gap_s
from vidssl.boxes import Boxes
from vidssl.data.keyframes import Moment, detected
from vidssl.errors import (
    AnnotationError,
    BankError,
    CheckpointError,
    Interrupted,
    SourceError,
    VideoError,
    nearest,
)
from vidssl.features import Bank
from vidssl.files import replacing_folder, sha256, write_text
from vidssl.jobs import _detector as shared
from vidssl.jobs import eval_ava, propose
from vidssl.jobs import index as index_job
from vidssl.jobs._ava_detector import Predicted, bank_for, predict
from vidssl.jobs._stopping import terminated_like_ctrl_c
from vidssl.progress import Progress, silent
from vidssl.report import player
from vidssl.report.marks import Course, Pen, Seen
from vidssl.sources import LISTS
from vidssl.video.index import read_rows
from vidssl.video.probe import VideoFacts, inert
from vidssl.video.reader import Decoder, open_reader
from vidssl.video.storage import file_name, is_frames, video_id
from vidssl.video.workers import preload
from vidssl.video.write import write_video

SHORT_SIDE_PX = 720
LARGEST_DENOMINATOR = 1001
"""Of a rate: 30000/1001 is the NTSC one."""
FASTEST = 120
LONE_S = 1.0
"""How long a key frame counts, where there is no other to tell."""


@dataclass(frozen=True)
class Request:
    """What to look at, and how.

    Either ``boxes`` or ``people`` gives the people: a csv file, or a detector and how it is to
    look. ``min_score`` is the least score of a person; None: that which the action detector's
    recipe tests with. ``threshold`` is an action's least score in an interval; ``top`` the most
    actions that a person at a key frame is listed with. ``scales``, ``flip`` and ``clips`` are the
    views over which scores are averaged, as eval-ava has them.
    """

    run: Path
    boxes: Path | None = None
    people: propose.Detect | None = None
    bank: Path | None = None
    min_score: float | None = None
    threshold: float = 0.5
    top: int = 3
    iou: float = 0.5
    scales: str | None = None
    flip: bool = False
    clips: int = 1

    def __post_init__(self) -> None:
        """Refuse a threshold that is none."""
        if not (0 <= self.threshold <= 1 and 0 <= self.iou <= 1 and self.top >= 1):
            raise ValueError(f"expected shares of 1, got {self.threshold}, {self.iou}, {self.top}")


@dataclass(frozen=True)
class DetectResult:
    """What was written, and how much of it; ``unread`` key frames could not be read."""

    out: Path
    key_frames: int
    boxes: int
    tracks: int
    intervals: int
    duration_s: float
    unread: int
    files: list[str]


@dataclass(frozen=True)
class _Followed:
    """N people at key frames: ``track`` of each, ``(N,)`` from 1, and ``scores``, ``(N, K)``."""

    people: PersonBoxes
    track: NDArray[np.int64]
    scores: NDArray[np.float64]
    step_s: float


def run(video: str, out: Path, request: Request, *, progress: Progress = silent) -> DetectResult:
    """Write what a trained detector sees in ``video`` to the folder ``out``.

    Raises:
        OutputError: if ``out`` is there, or cannot be written.
        SourceError, VideoError: if it is not one video, or cannot be decoded.
        CheckpointError: if a detector is absent, damaged or another one.
        AnnotationError: if a file of people has mistakes, or none of this video. A detector that
            finds nobody is no error: then the files say so.
        BankError: if the bank is missing, not wanted, of another encoder or of other videos.
        RecipeError: if the views make no sense.
    """
    shared.require_alone("detect")
    if (request.boxes is None) == (request.people is None):
        raise AnnotationError("give either --boxes or --detector, for where people are")
    if request.run.is_file():
        raise CheckpointError(f"{request.run}: expected the folder of a finetuning run")
    preload(["vidssl.data.keyframes"])
    with (
        terminated_like_ctrl_c(),
        replacing_folder(out) as aside,
        tempfile.TemporaryDirectory() as scratch,
    ):
        # All that may be wrong is found before hours of work.
        trained = shared.load_detector(request.run)
        bank = bank_for(trained, eval_ava.Request(run=request.run, bank=request.bank))
        views = shared.views_of(trained.recipe, request.scales, request.flip, request.clips)
        least = request.min_score
        if least is None:
            least = trained.recipe.boxes.test_min_score
        given = None if request.boxes is None else read_person_boxes(request.boxes, least)
        index = Path(scratch) / "index.parquet"
        facts = _look_at(video, index, progress)
        name = video_id(facts.path)
        _require_bank_of(bank, name, request.bank)
        if given is None:
            people, origin = _find(index, Path(scratch) / "boxes.csv", request, least, progress)
        else:
            people, origin = _own(given, name, request, least)
        wanted = detected(people)
        found = Predicted([], np.zeros((0, trained.labels.size)), [], [])
        if wanted:
            placed = shared.place_moments(wanted, str(index), index, progress, "0")
            found = predict(trained, placed, bank, views, progress)
        if found.failed and not found.moments:
            raise VideoError(f"{inert(video)}: {found.failed[0][1]}")
        followed = _follow(found, request)
        write_predictions(aside / "predictions.csv", found.table(trained.labels.ids))
        write_person_boxes(aside / "boxes.csv", followed.people)
        told = Detections(
            video=_video(facts),
            made_by=MadeBy(
                detector=trained.weights_hash,
                people=origin,
                bank=bank.encoder_hash if bank else None,
                min_score=least,
                version=__version__,
                views=views.told(trained.recipe.backbone.stride),
            ),
            threshold=request.threshold,
            top=request.top,
            classes=dict(trained.labels.names),
            key_frames=_key_frames(followed, trained.labels.names, request.top),
            tracks=_tracks(followed, trained.labels.names, request.threshold, facts.duration_s),
            unread=_unread(wanted, found, facts.duration_s),
        )
        course = _course(told, followed.step_s)
        _write(aside, told, facts, course, trained.recipe.decoder, progress=progress)
        files = sorted(path.name for path in aside.iterdir())
    return DetectResult(
        out,
        key_frames=len(told.key_frames),
        boxes=len(followed.people.score),
        tracks=len(told.tracks),
        intervals=sum(len(track.intervals) for track in told.tracks),
        duration_s=facts.duration_s,
        unread=len(told.unread),
        files=files,
    )


# --- what there is


def _look_at(video: str, index: Path, progress: Progress) -> VideoFacts:
    """Index the one video at ``index`` and return its facts."""
    if Path(video).suffix.lower() in LISTS:
        raise SourceError(f"{inert(video)}: a list; expected one video")
    source = f"frames:{video}" if is_frames(video) else video
    index_job.run(source, index, progress=progress)
    rows = read_rows(index)
    if len(rows) != 1:
        some = ", ".join(inert(file_name(row.path)) for row in rows[:3])
        raise SourceError(f"{inert(video)}: expected one video, found {len(rows)} ({some}, ...)")
    if rows[0].status != "ok":
        raise VideoError(rows[0].error, rows[0].status)
    return rows[0]


def _require_bank_of(bank: Bank | None, name: str, path: Path | None) -> None:
    if bank is not None and not bank.has(name):
        raise BankError(
            f"{path}: holds nothing of the video {name!r}; extract a bank of it first "
            "(`vidssl extract-features`, with the boxes of its people)"
        )


def _find(
    index: Path, boxes: Path, request: Request, least: float, progress: Progress
) -> tuple[PersonBoxes, str]:
    """Return the people that a detector finds, and what detector it is."""
    assert request.people is not None
    looking = replace(request.people, min_score=least)
    try:
        propose.detect(str(index), boxes, looking, progress=progress)
    except propose.NobodyFoundError:  # which is as good an answer as others
        nobody = np.zeros(0)
        people = PersonBoxes(np.zeros(0, np.str_), nobody, np.zeros((0, 4)), nobody)
    except Interrupted:  # what it could go on from goes with the scratch folder
        raise KeyboardInterrupt from None
    else:
        people = read_person_boxes(boxes)
    return people, f"{looking.model} {sha256(looking.weights)[:16]}"


def _own(people: PersonBoxes, name: str, request: Request, least: float) -> tuple[PersonBoxes, str]:
    """Return the people of the video ``name`` out of those of a file, and what file it is."""
    assert request.boxes is not None
    mine = people.video == name
    if not len(mine):
        raise AnnotationError(f"{request.boxes}: no box has a score of at least {least:g}")
    if not mine.any():
        others = sorted(set(people.video.tolist()))
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise AnnotationError(
            f"{request.boxes}: expected boxes of {name!r} (the file's name without its suffix), "
            f"found those of {some}{nearest(name, others)}"
        )
    columns = people.video, people.timestamp, people.box, people.score
    return PersonBoxes(*(column[mine] for column in columns)), sha256(request.boxes)[:16]


def _unread(wanted: Sequence[Moment], found: Predicted, duration_s: float) -> list[Unread]:
    """Return the key frames that were asked for and cannot be had, with the reason."""
    reasons = {moment.timestamp: inert(why) for moment, why in found.failed}
    there = {moment.timestamp for moment in found.moments}
    outside = f"outside of the video, which is {duration_s:.2f} s long"
    lost = sorted({moment.timestamp for moment in wanted} - there)
    return [Unread(time_s=time_s, reason=reasons.get(time_s, outside)) for time_s in lost]


def _video(facts: VideoFacts) -> Video:
    return Video(
        file=inert(file_name(facts.path)),
        id=inert(video_id(facts.path)),
        width_px=facts.width,
        height_px=facts.height,
        fps=facts.fps,
        duration_s=facts.duration_s,
    )


# --- who is who, and does what when


def _follow(found: Predicted, request: Request) -> _Followed:
    """Link people over key frames; everybody is of a track, numbered from 1."""
    counts = [len(moment.boxes) for moment in found.moments]
    people = PersonBoxes(
        np.repeat(np.array([m.video for m in found.moments], dtype=np.str_), counts),
        np.repeat(np.array([m.timestamp for m in found.moments], dtype=np.float64), counts),
        np.concatenate([np.zeros((0, 4)), *(m.boxes for m in found.moments)]),
        np.concatenate([np.zeros(0), *(m.scores for m in found.moments)]),
    )
    step_s = request.people.every_s if request.people else usual_gap_s(people) or LONE_S
    track_N = link(people, Linking(iou=request.iou, gap_s=1.5 * step_s)) + 1
    return _Followed(people, track_N, found.scores, step_s)


def _key_frames(followed: _Followed, names: dict[int, str], top: int) -> list[Instant]:
    people, instants = followed.people, []
    for time_s in np.unique(people.timestamp).tolist():
        rows = np.flatnonzero(people.timestamp == time_s).tolist()
        rows.sort(key=lambda row: int(followed.track[row]))
        seen = [
            Person(
                track=int(followed.track[row]),
                box=_four(people.box[row]),
                score=float(people.score[row]),
                actions=_actions(followed.scores[row], names, top),
            )
            for row in rows
        ]
        instants.append(Instant(time_s=time_s, people=seen))
    return instants


def _actions(scores_K: NDArray[np.float64], names: dict[int, str], top: int) -> list[Action]:
    order = sorted(names, key=lambda number: (-scores_K[number - 1], number))[:top]
    return [Action(id=n, name=names[n], score=float(scores_K[n - 1])) for n in order]


def _four(box: Boxes) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2


def _tracks(
    followed: _Followed, names: dict[int, str], threshold: float, end_s: float
) -> list[Track]:
    tracks = []
    for number in range(1, int(followed.track.max(initial=0)) + 1):
        rows = np.flatnonzero(followed.track == number)
        rows = rows[np.argsort(followed.people.timestamp[rows], kind="stable")]
        spans = spans_of(followed.people.timestamp[rows].tolist(), followed.step_s, end_s)
        intervals = intervals_of(spans, followed.scores[rows], threshold, names)
        tracks.append(
            Track(
                track=number,
                from_s=spans[0][0],
                to_s=spans[-1][1],
                key_frames=len(rows),
                intervals=intervals,
            )
        )
    return tracks


# --- what is written


def _write(
    folder: Path,
    told: Detections,
    facts: VideoFacts,
    course: Course,
    decoder: Decoder,
    *,
    progress: Progress,
) -> None:
    write_text(folder / "detections.json", as_json(told))
    schema = Detections.model_json_schema()
    write_text(folder / "detections.schema.json", json.dumps(schema, indent=1) + "\n")
    write_text(folder / "timeline.vtt", as_webvtt(told.tracks))
    fps = Fraction(facts.fps or 25).limit_denominator(LARGEST_DENOMINATOR)
    fps = min(max(fps, Fraction(1)), Fraction(FASTEST))
    frames = _marked(facts, decoder, course, fps, progress)
    write_video(folder / "annotated.mp4", frames, fps)
    player.write(folder / "index.html", told, "annotated.mp4")


def _course(told: Detections, step_s: float) -> Course:
    """Return how people move, with those of their top actions that reach the threshold."""
    at: dict[int, list[tuple[float, Person]]] = {}
    for instant in told.key_frames:
        for person in instant.people:
            at.setdefault(person.track, []).append((instant.time_s, person))
    people: dict[int, Sequence[Seen]] = {}
    for track, rows in at.items():
        spans = spans_of([time_s for time_s, _ in rows], step_s, told.video.duration_s)
        people[track] = [
            Seen(time_s, start, stop, person.box, _lines(person, told.threshold))
            for (time_s, person), (start, stop) in zip(rows, spans, strict=True)
        ]
    return Course(people)


def _lines(person: Person, threshold: float) -> list[str]:
    return [f"{a.name} {a.score:.2f}" for a in person.actions if a.score >= threshold]


def _marked(
    facts: VideoFacts, decoder: Decoder, course: Course, fps: Fraction, progress: Progress
) -> Iterator[NDArray[np.uint8]]:
    """Give the video's frames at a steady rate, marked, of even size."""
    count = max(1, round(facts.duration_s * float(fps)))
    times_s = np.arange(count) / float(fps)
    # Looked up half a frame late: times of files are rounded, and must not give the one before.
    with open_reader(facts.path, decoder) as reader:
        frames = reader.in_turn(times_s + float(1 / fps) / 2, SHORT_SIDE_PX)
        pen = Pen()
        for number, (time_s, frame) in enumerate(zip(times_s.tolist(), frames, strict=True)):
            height, width = frame.shape[:2]
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            yield pen.draw(even, course.at(time_s))
            progress("drawing", number + 1, count)
