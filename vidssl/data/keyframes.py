"""Clips around annotated moments: for training a detector, for scoring one, and for feature banks.

Array suffixes: T frames, H and W pixels, P people, K classes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.ava.annotations import KeyFrame, PersonBoxes
from vidssl.ava.origins import (
    CUT_FPS,
    SLACK_S,
    Footage,
    Origin,
    Stated,
    find_origins,
    refusal,
    strangers,
)
from vidssl.data.order import Order, rng_for
from vidssl.data.samples import MAX_FAILURES, Failed, Samples
from vidssl.errors import AnnotationError, listed
from vidssl.features import Bank, Window, WindowConfig
from vidssl.video.index import ClipIndex, read_tables
from vidssl.video.reader import Decoder, open_reader
from vidssl.video.sampling import centred_times
from vidssl.video.storage import Location, video_id

OF_FRAMES = "frames-"  # how the decoder of a folder of frames is called in an index


@dataclass(frozen=True)
class Moment:
    """The people of one key frame, annotated or detected.

    ``boxes`` ``(P, 4)``; ``labels`` ``(P, K)`` multi-hot, K = 0 where nothing is known; ``scores``
    ``(P,)`` of the detector, 1 for a true box.
    """

    video: str
    timestamp: float
    boxes: NDArray[np.float64]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]


def annotated(keyframe: KeyFrame) -> Moment:
    """Return the true people of a key frame."""
    scores = np.ones(len(keyframe.boxes))
    return Moment(keyframe.video, keyframe.timestamp, keyframe.boxes, keyframe.labels, scores)


def detected(people: PersonBoxes) -> list[Moment]:
    """Return the detected people by key frame, in order of first appearance."""
    rows: dict[tuple[str, float], list[int]] = {}
    keys = zip(people.video.tolist(), people.timestamp.round(6).tolist(), strict=True)
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return [
        Moment(video, seconds, people.box[r], np.zeros((len(r), 0), np.bool_), people.score[r])
        for (video, seconds), r in rows.items()
    ]


@dataclass(frozen=True)
class Reading:
    """How a key frame is read: the clip's ``frames``, their ``stride`` at 30 per second."""

    frames: int
    stride: int
    short_side_px: int | None = None
    window: WindowConfig | None = None
    """The part of a feature bank that comes along; None without a bank."""
    decoder: Decoder = "auto"
    shifts_s: tuple[float, ...] = (0.0,)
    """Of each clip of a key frame: where its middle lies, in seconds from the key frame."""


@dataclass(frozen=True)
class KeyFrameSample:
    """A clip ``(T, H, W, 3)``, uint8, around a key frame, with its people.

    Where the reading takes several clips of a key frame, they follow each other along T.

    ``boxes`` ``(P, 4)``, ``labels`` ``(P, K)`` as the key frame has them; ``seed`` makes the random
    choices still to come. ``failed`` tells of key frames before this one that could not be read.
    """

    moment: Moment
    clip: Tensor
    seed: int = 0
    window: Window | None = None
    failed: Failed = ()


@dataclass(frozen=True)
class Placed:
    """Key frames whose videos are there, and why others cannot be used."""

    moments: list[Moment]
    paths: dict[str, Location]
    unusable: dict[str, str] = field(default_factory=dict)
    lost: int = 0
    """Key frames of unusable videos."""
    origins: dict[str, Origin] = field(default_factory=dict)
    """From where each video's times count; from its beginning where it is not named."""

    def origin_s(self, video: str) -> float:
        """Return a video's time 0 on the clock of its key frames."""
        return self.origins[video].seconds if video in self.origins else 0.0


def place(
    moments: Sequence[Moment],
    index: ClipIndex,
    reasons: Mapping[str, str],
    stated: Stated | None = None,
    others: Iterable[Location] = (),
) -> Placed:
    """Find each key frame's video: a file of the index whose name, less its suffix, is the id.

    ``reasons`` says for videos that the index set aside why; ``stated`` from where times count, if
    that is not to be found out. Where the index holds a part of the source, ``others`` are the rest
    of it, which may have a stated origin as well.

    Raises:
        AnnotationError: if no key frame has a video, two files share an id, there is no telling
            from where times count, an origin is stated for a video that is not known, or most key
            frames lie outside of their video.
    """
    times_s = _times(moments)
    found, origins = locate(times_s, index, reasons, stated, others)
    outside = _outside(moments, {video: file.footage for video, file in found.items()}, origins)
    kept = [moment for moment in moments if moment.video in found and id(moment) not in outside]
    absent = sorted(times_s.keys() - found.keys())
    unusable = {video: reasons.get(video, "no such video") for video in absent}
    return Placed(
        kept,
        {video: file.path for video, file in found.items()},
        unusable | {m.video: outside[id(m)] for m in moments if id(m) in outside},
        len(moments) - len(kept),
        origins,
    )


@dataclass(frozen=True)
class VideoFile:
    """Where an annotated video is, and how much of it."""

    path: Location
    footage: Footage


def locate(
    times_s: Mapping[str, NDArray[np.float64]],
    index: ClipIndex,
    reasons: Mapping[str, str],
    stated: Stated | None = None,
    others: Iterable[Location] = (),
) -> tuple[dict[str, VideoFile], dict[str, Origin]]:
    """Return the files of annotated videos, those that are there, and from where times count.

    As :func:`place`; ``times_s`` are the annotated times of each video.

    Raises:
        AnnotationError: if no video is there, two files share an id, there is no telling from where
            times count, or an origin is stated for a video that is not known.
    """
    if strange := strangers(stated or Stated(), times_s.keys()) - reasons.keys():
        strange -= _files(index, strange).keys()
        if strange and (strange := strange.difference(map(video_id, others))):
            raise refusal(strange, times_s.keys())
    found = _files(index, times_s.keys())
    twice = [f"{v}: {f[0].path} and {f[1].path}" for v, f in found.items() if len(f) > 1]
    if twice:
        raise AnnotationError(listed("several files have the id of one video", twice))
    if not found:
        some = ", ".join(sorted(times_s)[:3])
        names = ", ".join(sorted(video_id(index.video(n)[0]) for n in range(min(3, len(index)))))
        raise AnnotationError(
            f"none of the {len(times_s)} annotated videos ({some}, ...) is among the "
            f"{len(index)} given ({names}, ...); ids are file names without their suffix"
        )
    files = {video: several[0] for video, several in found.items()}
    footage = {video: file.footage for video, file in files.items()}
    return files, find_origins(times_s, footage, stated)


def _files(index: ClipIndex, wanted: Collection[str]) -> dict[str, list[VideoFile]]:
    """Return the usable files of the index that have wanted ids."""
    columns = ["path", "status", "duration_s", "cut_off", "frames", "fps", "decoder"]
    ids = pa.array(sorted(wanted), pa.string())
    found: dict[str, list[VideoFile]] = {}
    for part in read_tables(index.path, columns):
        part = part.filter(pc.and_(pc.equal(part["status"], "ok"), _may_be(part["path"], ids)))
        for row in part.to_pylist():
            if (video := video_id(row["path"])) in wanted:
                # Other tools may have left cells of their index empty.
                is_of_frames = (row["decoder"] or "").startswith(OF_FRAMES)
                frames = row["frames"] if is_of_frames and row["fps"] == CUT_FPS else None
                footage = Footage(row["duration_s"] or 0.0, bool(row["cut_off"]), frames)
                found.setdefault(video, []).append(VideoFile(row["path"], footage))
    return found


def _may_be(paths: pa.ChunkedArray, ids: pa.Array) -> pa.ChunkedArray:
    """Return which paths may have one of ``ids``: of a million few are looked at one by one."""
    names = pc.replace_substring_regex(paths, r"(?s)^.*/", "")
    stems = pc.replace_substring_regex(names, r"(?s)(.)\.[^.]*$", r"\1")
    # A folder of frames has no suffix; members of tars and addresses are called by other rules.
    plain = pc.or_(pc.is_in(stems, value_set=ids), pc.is_in(names, value_set=ids))
    return pc.or_(plain, pc.match_substring_regex(paths, "!|://"))


def _times(moments: Sequence[Moment]) -> dict[str, NDArray[np.float64]]:
    """Return the key frames' times by video."""
    times_s: dict[str, list[float]] = {}
    for moment in moments:
        times_s.setdefault(moment.video, []).append(moment.timestamp)
    return {video: np.array(times) for video, times in times_s.items()}


@dataclass(frozen=True)
class KeyFramePlan:
    """Key frames of one video to read together, and what each draws at random."""

    location: Location
    moments: tuple[Moment, ...]
    seeds: tuple[int, ...]
    origin_s: float = 0.0
    """The video's time 0 on the clock of the key frames."""


def read_keyframes(reading: Reading, bank: Bank | None, plan: KeyFramePlan) -> list[KeyFrameSample]:
    """Return the samples of a plan; clips that overlap share their decoded frames.

    However many clips a key frame has, its video is gone through once.

    Raises:
        VideoError: if the video cannot be read.
    """
    times_s = [
        centred_times(m.timestamp - plan.origin_s + shift_s, reading.frames, reading.stride)
        for m in plan.moments
        for shift_s in reading.shifts_s
    ]
    with open_reader(plan.location, reading.decoder) as reader:
        clip = reader.frames_at(np.concatenate(times_s), reading.short_side_px)
    parts = np.split(clip.frames, len(plan.moments))
    return [
        KeyFrameSample(m, torch.from_numpy(c), s, read_window(bank, m, reading.window, s))
        for m, c, s in zip(plan.moments, parts, plan.seeds, strict=True)
    ]


def _read_one(reading: Reading, bank: Bank | None, plan: KeyFramePlan) -> KeyFrameSample:
    return read_keyframes(reading, bank, plan)[0]


class KeyFrameDataset(Samples[KeyFramePlan, KeyFrameSample]):
    """Training samples by position in the endless order."""

    def __init__(self, placed: Placed, reading: Reading, seed: int, bank: Bank | None) -> None:
        self.placed = placed
        self.order = Order(len(placed.moments), seed)
        self._read = partial(_read_one, reading, bank)

    @property
    def read(self) -> Callable[[KeyFramePlan], KeyFrameSample]:
        """What reads a plan."""
        return self._read

    def __len__(self) -> int:
        """Return the number of key frames; positions go on past it, into further epochs."""
        return len(self.placed.moments)

    def plan(self, position: int, attempt: int = 0) -> KeyFramePlan | None:
        """Return the key frame at a position; another of the order if its video fails."""
        if attempt >= min(MAX_FAILURES, len(self)):
            return None
        epoch, index = self.order.at(position, attempt)
        moment = self.placed.moments[index]
        seed = int(rng_for(self.order.seed, epoch, index).integers(2**62))
        origin_s = self.placed.origin_s(moment.video)
        return KeyFramePlan(self.placed.paths[moment.video], (moment,), (seed,), origin_s)

    def tell(self, sample: KeyFrameSample, failed: Failed) -> KeyFrameSample:
        """Return the sample with word of the videos that failed before it."""
        return replace(sample, failed=failed)


class VideoChunks(Samples[KeyFramePlan, list[KeyFrameSample]]):
    """Every key frame once, in chunks of one video each, in order of time.

    Clips of a chunk that overlap share their decoded frames. A chunk whose video fails gives
    samples with an empty clip and the reason in ``failed``: nothing is left out silently.
    """

    def __init__(self, placed: Placed, reading: Reading, chunk: int, bank: Bank | None) -> None:
        self.placed = placed
        self.chunks = list(chunks(placed.moments, chunk))
        self._read = partial(read_keyframes, reading, bank)

    @property
    def read(self) -> Callable[[KeyFramePlan], list[KeyFrameSample]]:
        """What reads a plan."""
        return self._read

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self.chunks)

    def plan(self, position: int, attempt: int = 0) -> KeyFramePlan | None:
        """Return the chunk at a position; nothing takes the place of one that fails."""
        if attempt or position >= len(self):
            return None
        moments = tuple(self.placed.moments[i] for i in self.chunks[position])
        video, seeds = moments[0].video, (0,) * len(moments)
        return KeyFramePlan(self.placed.paths[video], moments, seeds, self.placed.origin_s(video))

    def lost(self, plan: KeyFramePlan, failed: Failed) -> list[KeyFrameSample]:
        """Return samples with an empty clip that tell why."""
        empty = torch.empty(0, dtype=torch.uint8)
        return [KeyFrameSample(moment, empty, failed=failed) for moment in plan.moments]

    def tell(self, sample: list[KeyFrameSample], failed: Failed) -> list[KeyFrameSample]:
        """Return the samples with word of what failed before them."""
        return [replace(one, failed=failed) for one in sample]


def chunks(moments: Sequence[Moment], size: int) -> Iterator[NDArray[np.int64]]:
    """Give positions of moments, video by video in order of time, at most ``size`` a chunk."""
    order = sorted(range(len(moments)), key=lambda i: (moments[i].video, moments[i].timestamp))
    videos = np.array([moments[i].video for i in order])
    edges = np.flatnonzero(videos[1:] != videos[:-1]) + 1
    for part in np.split(np.array(order, dtype=np.int64), edges):
        for start in range(0, len(part), size):
            yield part[start : start + size]


def read_window(
    bank: Bank | None, moment: Moment, config: WindowConfig | None, seed: int
) -> Window | None:
    """Return what the key frame sees of the bank, or None without one."""
    if bank is None or config is None:
        return None
    return bank.window(
        moment.video,
        moment.timestamp,
        before_s=config.before_s,
        after_s=config.after_s,
        per_step=config.per_step,
        pick=config.pick,
        seed=seed,
    )


def _outside(
    moments: Sequence[Moment], footage: Mapping[str, Footage], origins: Mapping[str, Origin]
) -> dict[int, str]:
    """Return the reason for each moment (by identity) that lies outside of its video.

    Raises:
        AnnotationError: if that is most of them: then their times count from elsewhere.
    """
    there = [m for m in moments if m.video in footage]
    outside = {
        id(m): why
        for m in there
        if (why := _why_outside(m, footage[m.video].length_s, origins[m.video].seconds))
    }
    if 2 * len(outside) > len(there):
        title = "most key frames lie behind the end of their video (is the time origin another?)"
        raise AnnotationError(listed(title, list(outside.values()), limit=8))
    return outside


def _why_outside(moment: Moment, length_s: float, origin_s: float) -> str:
    """Return why a key frame is not in its video; nothing if it is."""
    where = f"{moment.video} at {moment.timestamp:g} s"
    clock = f", counted from {origin_s:g} s" if origin_s else ""
    if moment.timestamp - origin_s > length_s + SLACK_S:
        return f"{where}: the video ends at {length_s + origin_s:.2f} s{clock}"
    if moment.timestamp - origin_s < -SLACK_S:
        return f"{where}: the video begins at {origin_s:g} s{clock}"
    return ""
