"""``vidssl propose``: boxes of people by a detector, or tracks of given boxes.

Boxes are written in the published form, ``video,second,x1,y1,x2,y2,,score``. It has no place for
who it is, so that tracks go to a file of their own beside it, ``NAME.tracks.csv``, with the line
``video,second,person`` for each line of the boxes.
"""

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidssl.ava.annotations import (
    PersonBoxes,
    keyframes,
    read_annotations,
    read_person_boxes,
    stamp,
    write_person_boxes,
)
from vidssl.ava.linking import NO_TRACK, Linking, link
from vidssl.ava.origins import summary
from vidssl.ava.rows import written_aside
from vidssl.data.keyframes import KeyFrameSample, Moment, Placed, Reading, VideoChunks
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.detection.proposals import PERSON, Found, PersonDetector, require_model
from vidssl.errors import AnnotationError, Interrupted, OutputError, listed
from vidssl.files import sha256
from vidssl.jobs import _detector as shared
from vidssl.jobs._stopping import stoppable, terminated_like_ctrl_c
from vidssl.jobs.index import open_index, set_aside
from vidssl.progress import Progress, silent
from vidssl.published.jail import open_checkpoint
from vidssl.train.trainer import device_of
from vidssl.video.index import read_tables
from vidssl.video.storage import stat, video_id
from vidssl.video.workers import preload

CHUNK = 4
"""Pictures that the detector gets at a time."""
MODEL = "fasterrcnn_resnet50_fpn_v2"
LEAST_S = 0.01
LEAST_SCORE = 0.1
STILL = Reading(frames=1, stride=1)


class NobodyFoundError(AnnotationError):
    """Not one person, though every key frame could be read."""


@dataclass(frozen=True)
class Detect:
    """How a detector is to look for people.

    ``times`` names a csv file in AVA layout whose key frames are looked at, in place of every
    ``every_s`` seconds of each video from its beginning on. ``label`` is the person's class.
    """

    weights: Path
    model: str = MODEL
    times: Path | None = None
    every_s: float = 1.0
    min_score: float = LEAST_SCORE
    label: int = PERSON
    short_side_px: int | None = None
    time_origin: str = "auto"
    workers: int = 2


@dataclass(frozen=True)
class ProposeResult:
    """What was written; ``empty`` key frames have nobody, ``failed`` ones could not be read.

    ``tracks`` names the file of tracks and ``people`` counts them, where boxes were linked;
    ``dropped`` counts the boxes of tracks that were not kept.
    """

    boxes: Path
    rows: int
    key_frames: int
    empty: int = 0
    failed: int = 0
    unusable_videos: dict[str, str] | None = None
    time_origins: list[dict[str, object]] | None = None
    tracks: Path | None = None
    people: int = 0
    dropped: int = 0


def detect(
    videos: str, out: Path, request: Detect, *, progress: Progress = silent
) -> ProposeResult:
    """Write the people that a detector finds to ``out``, or finish what was stopped.

    Raises:
        AnnotationError: if the times are wrong, or no key frame can be read, or not one person is
            found.
        CheckpointError: if the weights cannot be read, or do not fit the model.
        SourceError: if there is no video.
        OutputError: if ``out`` is there, or was begun with other settings.
        Interrupted: on Ctrl-C; the same call goes on from there.
    """
    shared.require_alone("propose")
    require_free(out)
    require_model(request.model)
    preload(["vidssl.data.keyframes"])
    wanted = None if request.times is None else keyframes(read_annotations(request.times))
    if not request.every_s >= LEAST_S:
        raise AnnotationError(
            f"--every: expected seconds from {LEAST_S} up, found {request.every_s}"
        )
    contents = open_checkpoint(request.weights)
    detector = PersonDetector(
        request.model,
        contents.tensors,
        str(request.weights),
        label=request.label,
        short_side_px=request.short_side_px,
    ).to(device_of())
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "index.parquet"
        moments = [
            _nobody(video, time_s)
            for video, time_s in wanted or _every(videos, cache, request.every_s, progress)
        ]
        origin = request.time_origin if wanted else "0"
        placed = shared.place_moments(moments, videos, cache, progress, origin)
        unusable = dict(placed.unusable)
        if not wanted:
            index = open_index(videos, cache)
            unusable |= {video_id(path): why for path, why in set_aside(index).items()}
    journal = _Journal(out, _identity(request, placed))
    lost = _look(detector, placed, request, journal, out, progress)
    people = journal.people()
    if not len(people.score):
        journal.discard()
        kind = AnnotationError if lost else NobodyFoundError
        raise kind(_why_nobody(request, len(placed.moments), lost))
    write_person_boxes(out, people)
    journal.discard()
    occupied = len({*zip(people.video.tolist(), people.timestamp.tolist(), strict=True)})
    return ProposeResult(
        out,
        rows=len(people.score),
        key_frames=len(moments),
        empty=len(placed.moments) - len(lost) - occupied,
        failed=len(lost) + placed.lost,
        unusable_videos=unusable | lost,
        time_origins=summary(placed.origins),
    )


def track(boxes: Path, out: Path, rules: Linking) -> ProposeResult:
    """Link the boxes of a file, and write those that are kept, with their tracks beside.

    Raises:
        AnnotationError: if the file is absent or has mistakes, or no track is kept.
        OutputError: if an output is there already, or cannot be written.
    """
    require_free(out)
    beside = tracks_of(out)
    require_free(beside)
    people = read_person_boxes(boxes)
    track_N = link(people, rules)
    order = np.lexsort((track_N, people.timestamp, people.video))
    rows = order[track_N[order] != NO_TRACK]
    if not len(rows):
        raise AnnotationError(f"{boxes}: no track is kept of {len(people.score)} boxes")
    kept = PersonBoxes(
        people.video[rows], people.timestamp[rows], people.box[rows], people.score[rows]
    )
    _write_tracks(beside, kept, track_N[rows].tolist())
    try:
        write_person_boxes(out, kept)
    except OutputError:
        beside.unlink(missing_ok=True)
        raise
    return ProposeResult(
        out,
        rows=len(rows),
        key_frames=len({*zip(kept.video.tolist(), kept.timestamp.tolist(), strict=True)}),
        tracks=beside,
        people=len({*zip(kept.video.tolist(), track_N[rows].tolist(), strict=True)}),
        dropped=len(people.score) - len(rows),
    )


def tracks_of(out: Path) -> Path:
    """Return the file of tracks that belongs to a file of boxes."""
    return out.with_name(f"{out.stem}.tracks.csv")


def require_free(out: Path) -> None:
    """Refuse to write over a file.

    Raises:
        OutputError: if there is one.
    """
    if os.path.lexists(out):
        raise OutputError(f"{out}: is there already; choose another name for --out")


def _write_tracks(path: Path, people: PersonBoxes, tracks: Sequence[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stamps = map(stamp, people.timestamp.tolist())
    with written_aside(path) as file:
        rows = zip(people.video.tolist(), stamps, tracks, strict=True)
        csv.writer(file, lineterminator="\n").writerows(rows)


def _nobody(video: str, time_s: float) -> Moment:
    return Moment(video, time_s, np.zeros((0, 4)), np.zeros((0, 0), np.bool_), np.zeros(0))


def _every(videos: str, cache: Path, every_s: float, progress: Progress) -> list[tuple[str, float]]:
    """Return a key frame every so many seconds of each usable video."""
    index = open_index(videos, cache, progress)
    columns = ["path", "status", "duration_s"]
    return [
        (video_id(row["path"]), round(number * every_s, 6))
        for part in read_tables(index.path, columns)
        for row in part.to_pylist()
        if row["status"] == "ok"
        for number in range(max(int(np.ceil(row["duration_s"] / every_s - 1e-9)), 1))
    ]


def _identity(request: Detect, placed: Placed) -> str:
    """Return what tells one run from others: the same weights, settings, key frames and videos."""
    settings = {k: str(v) for k, v in asdict(request).items() if k not in ("weights", "times")}
    del settings["workers"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(sha256(request.weights).encode())
    digest.update(shared.fingerprint(placed).encode())
    for video, path in sorted(placed.paths.items()):
        digest.update(f"{video} {stat(path).bytes}\n".encode())
    return digest.hexdigest()[:16]


def _look(
    detector: PersonDetector,
    placed: Placed,
    request: Detect,
    journal: "_Journal",
    out: Path,
    progress: Progress,
) -> dict[str, str]:
    """Look at every key frame that is not in the journal; return why some could not be read."""
    left = [m for m in placed.moments if (m.video, m.timestamp) not in journal.done]
    dataset = VideoChunks(replace(placed, moments=left), STILL, CHUNK, None)
    lost: dict[str, str] = {}
    total, done = len(placed.moments), len(placed.moments) - len(left)
    loader = Loader(
        dataset, [[i] for i in range(len(dataset))], LoaderConfig(workers=request.workers)
    )
    try:
        with terminated_like_ctrl_c():
            for (samples,) in stoppable(loader):
                done += len(samples)
                if samples[0].clip.numel():
                    _take(detector, samples, request.min_score, journal)
                else:
                    failed = samples[0].failed[0][1]
                    lost |= {
                        f"{s.moment.video} at {s.moment.timestamp:g} s": failed for s in samples
                    }
                progress("looking for people", done, total)
    except KeyboardInterrupt:
        raise Interrupted(f"{out}: {done} of {total} key frames have been looked at") from None
    finally:
        journal.close()
    return lost


def _why_nobody(request: Detect, count: int, lost: Mapping[str, str]) -> str:
    """Return why there is nobody in so many key frames, of which some could not be read."""
    reasons = [f"{where}: {why}" for where, why in lost.items()]
    if len(lost) == count:
        return listed(f"none of {count} key frames could be read", reasons)
    nobody = (
        f"{request.weights}: found nobody of a score of at least {request.min_score:g} in "
        f"{count - len(lost)} key frames; is --class {request.label} the person?"
    )
    return listed(f"{nobody} {len(lost)} more could not be read", reasons) if lost else nobody


def _take(
    detector: PersonDetector,
    samples: Sequence[KeyFrameSample],
    min_score: float,
    journal: "_Journal",
) -> None:
    for sample in samples:
        (found,) = detector.find(sample.clip, min_score)
        journal.add(sample.moment, found)


class _Journal:
    """The key frames that have been looked at, a line each, in a file beside ``out`` until then."""

    def __init__(self, out: Path, identity: str) -> None:
        self.path = out.with_name(f".{out.name}.frames.jsonl")
        self.done: dict[tuple[str, float], dict[str, Any]] = {}
        self.out = out
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._taken_up(identity) if self.path.exists() else 0
            self._file = self.path.open("r+b" if whole else "wb")
            self._file.seek(whole)
            self._file.truncate()  # a line that was being written when the machine stopped
            if not whole:
                self._line({"identity": identity})
        except OSError as error:
            raise OutputError(f"{out}: cannot be written: {error.strerror}") from error

    def add(self, moment: Moment, found: Found) -> None:
        """Write down the people of a key frame."""
        key = moment.video, moment.timestamp
        row = {"video": key[0], "second": key[1], "box": found.box.tolist()}
        row["score"] = found.score.tolist()
        self.done[key] = row
        try:
            self._line(row)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written: {error.strerror}") from error

    def people(self) -> PersonBoxes:
        """Return everybody found, by video and time."""
        rows = [self.done[key] for key in sorted(self.done)]
        counts = [len(row["score"]) for row in rows]
        return PersonBoxes(
            np.repeat(np.array([row["video"] for row in rows], dtype=np.str_), counts),
            np.repeat(np.array([row["second"] for row in rows], dtype=np.float64), counts),
            np.array([b for row in rows for b in row["box"]], dtype=np.float64).reshape(-1, 4),
            np.array([s for row in rows for s in row["score"]], dtype=np.float64),
        )

    def close(self) -> None:
        """Close the file; it stays for the next run."""
        with suppress(OSError):
            self._file.close()

    def discard(self) -> None:
        """Remove the file."""
        self.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _line(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def _taken_up(self, identity: str) -> int:
        """Take up the rows of an earlier run; return how many bytes of them are whole."""
        whole = 0
        for line in _lines(self.path):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not whole and row != {"identity": identity}:
                raise OutputError(
                    f"{self.out}: was begun with other weights, settings or videos; choose another "
                    f"name for --out, or delete {self.path}"
                )
            if whole and not _is_row(row):
                break
            if whole:
                self.done[row["video"], row["second"]] = row
            whole += len(line)
        return whole


def _is_row(row: object) -> bool:
    """Return whether a line of the journal has the people of a key frame."""
    if not isinstance(row, dict) or row.keys() != {"video", "second", "box", "score"}:
        return False
    try:
        box, score = np.asarray(row["box"], float), np.asarray(row["score"], float)
    except (TypeError, ValueError):
        return False
    if score.ndim != 1:
        return False
    is_frame = isinstance(row["video"], str) and isinstance(row["second"], (int, float))
    shape = (len(score), 4) if score.size else (0,)
    return is_frame and box.shape == shape


def _lines(path: Path) -> Iterator[bytes]:
    """Give the lines that end."""
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))
