"""Clips of labelled videos, for training a classifier.

A sample is an entry of a list, whose clips lie between its times, or a whole video, each clip of
which shows the classes of the entries that it overlaps, as PySlowFast trains on Charades.

Array suffixes: N samples, T frames, V clips of a sample, L labels of all samples.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from vidssl.augment.recognition import RecognitionConfig, recognition_view
from vidssl.data.clips import ClipPlan, ClipReading, ClipSample
from vidssl.data.order import Order, rng_for
from vidssl.data.samples import MAX_FAILURES, Failed, Samples
from vidssl.errors import SourceError, VideoError, listed
from vidssl.section import Section
from vidssl.sources import Listing
from vidssl.video.index import ClipIndex
from vidssl.video.sampling import (
    Indexing,
    Short,
    clip_times,
    fitted,
    last_s,
    latest_start_s,
    segment_times,
)
from vidssl.video.storage import Location, shown

Target = Literal["label", "verb", "noun"]
SHOWN = 8


class LabelsConfig(Section):
    """How many of the labels are learnt from; the videos of the others are not looked at.

    Of each class the same share, at least one sample; the less is part of the more, and the order
    of the list does not matter. Where samples have several classes the share is drawn from all of
    them alike, with the first drawn of each class besides.
    """

    share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    seed: NonNegativeInt = 0
    """Of the draw: which samples they are."""


class LabelledSampling(Section):
    """Which clips of a labelled video are read."""

    samples: Literal["entries", "videos"] = "entries"
    """``entries``: each row of a list is a sample, its clips between its times; ``videos``: each
    video is one, and a clip shows the classes of the rows that it overlaps."""
    frames: Literal["clip", "segments"] = "clip"
    """``clip``: frames a stride apart from a random start; ``segments``: one at random from each of
    so many equal parts of the whole (TSN)."""
    clips: PositiveInt = 1
    """Of a sample in a step; ``optim.batch`` counts samples."""
    indexing: Indexing = "stride"
    """As in pretraining; ``linspace`` is PySlowFast's choice of frames."""
    short_videos: Short = "repeat"
    """Of a sample that is shorter than the clip."""


@dataclass(frozen=True)
class Examples:
    """N samples of which the videos are there, and the names of the K classes in order.

    Sample n is from ``start_s[n]`` to ``end_s[n]`` of usable video ``video[n]`` of an index. Its
    labels are ``labels[ends[n - 1]:ends[n]]``, each holding from ``from_s`` to ``to_s``. ``key``
    names a sample whatever its place in the list. ``lost`` counts rows that cannot be trained on,
    by reason.
    """

    classes: tuple[str, ...]
    video: NDArray[np.int64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]
    from_s: NDArray[np.float64]
    to_s: NDArray[np.float64]
    key: Sequence[str] = field(repr=False)
    lost: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return N."""
        return len(self.video)

    def slice_of(self, number: int) -> slice:
        """Return where the labels of a sample stand."""
        return slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))

    def labels_between(self, number: int, first_s: float, last_s: float) -> tuple[int, ...]:
        """Return the classes that hold somewhere between two times of a sample, each once."""
        own = self.slice_of(number)
        holds = (self.from_s[own] <= last_s) & (self.to_s[own] >= first_s)
        return tuple(int(label) for label in np.unique(self.labels[own][holds]))

    def counts(self) -> NDArray[np.int64]:
        """Return how many samples show each class, ``(K,)``."""
        owner_L = np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))
        pairs = np.unique(np.stack([owner_L, self.labels], axis=1), axis=0)
        return np.bincount(pairs[:, 1], minlength=len(self.classes))

    def taken(self, numbers: NDArray[np.int64]) -> "Examples":
        """Return some of the samples, in the given order."""
        places = [np.arange(own.start, own.stop) for own in map(self.slice_of, numbers)]
        kept = np.concatenate([*places, np.empty(0, np.int64)]).astype(np.int64)
        return replace(
            self,
            video=self.video[numbers],
            start_s=self.start_s[numbers],
            end_s=self.end_s[numbers],
            ends=np.cumsum([len(place) for place in places]).astype(np.int64),
            labels=self.labels[kept],
            from_s=self.from_s[kept],
            to_s=self.to_s[kept],
            key=[self.key[int(n)] for n in numbers],
        )

    def fingerprint(self, index: ClipIndex) -> str:
        """Return a short hash of samples, times, labels, classes and of the videos' index."""
        digest = hashlib.sha256(index.fingerprint().encode())
        digest.update("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for array in (self.video, self.start_s, self.end_s, self.ends, self.labels):
            digest.update(array.tobytes())
        digest.update(self.from_s.tobytes() + self.to_s.tobytes())
        return digest.hexdigest()[:16]


# --- from a list to samples


def require_labels(
    listing: Listing, target: Target = "label", *, one_class: bool = True
) -> tuple[str, ...]:
    """Return the classes of a list that can be learnt from, before its videos are looked at.

    Raises:
        SourceError: as :func:`examples` does.
    """
    rows = _rows(listing, target)
    classes = _class_names(listing, rows)
    if one_class:
        _require_one_class(listing, rows, len(classes))
    return classes


def examples(
    listing: Listing,
    index: ClipIndex,
    *,
    target: Target = "label",
    samples: Literal["entries", "videos"] = "entries",
    one_class: bool = True,
) -> Examples:
    """Return the samples of a list whose videos can be read, in the list's order.

    ``one_class`` says that a sample has exactly one class. Rows without a class are left out, and
    so are those that begin behind the end of their video.

    Raises:
        SourceError: if the list has no labels, or not of the kind that is asked for; if the numbers
            of its classes have gaps; if nothing is left to train on.
    """
    rows = _rows(listing, target)
    classes = _class_names(listing, rows)
    if one_class:
        _require_one_class(listing, rows, len(classes))
    position = {path: number for number, path in enumerate(index.paths())}
    at = np.array([position.get(path, -1) for path in listing.videos], np.int64)
    video = np.where(rows.video >= 0, at[rows.video], -1)
    duration_s = np.asarray(index.duration_s)[index.positions]
    length_s = np.where(video >= 0, duration_s[video], np.inf)
    is_labelled = np.diff(rows.ends, prepend=0) > 0
    begins = np.nan_to_num(rows.start_s, nan=0.0) < np.maximum(length_s, 1e-9)
    lost = {
        "no class": int((~is_labelled).sum()),
        "video missing or not decodable": int((is_labelled & (video < 0)).sum()),
        "begins behind its video's end": int((is_labelled & (video >= 0) & ~begins).sum()),
    }
    rows = replace(rows, video=video)
    keep = is_labelled & (video >= 0) & begins
    found = _by_entry(rows, keep, length_s, classes)
    if samples == "videos":
        found = _by_video(found, listing, at, duration_s)
    found = replace(found, lost={why: count for why, count in lost.items() if count})
    if not len(found):
        problems = [f"{count} rows: {why}" for why, count in found.lost.items()]
        raise SourceError(listed(f"{listing.source}: nothing is left to train on", problems))
    return found


def with_labels(found: Examples, config: LabelsConfig) -> Examples:
    """Return the share of samples whose labels are used, in their order.

    The draw ranks samples by a hash of the seed and of what names them, so that it depends neither
    on the order of the list nor on what else is in it.
    """
    if config.share == 1.0:
        return found
    rank = _ranks(found, config.seed)
    labels = [found.labels[found.slice_of(n)] for n in range(len(found))]
    if all(len(np.unique(own)) == 1 for own in labels):
        class_N = np.array([own[0] for own in labels])
        parts = [np.flatnonzero(class_N == number) for number in np.unique(class_N)]
        chosen = [part[np.argsort(rank[part])][: _least_one(config.share, part)] for part in parts]
    else:
        every = np.argsort(rank)
        chosen = [every[: _least_one(config.share, every)]]
        first: dict[int, int] = {}
        for number in every:
            for label in labels[number]:
                first.setdefault(int(label), int(number))
        chosen.append(np.array(sorted(first.values()), np.int64))
    return found.taken(np.unique(np.concatenate(chosen)))


def _least_one(share: float, part: NDArray[np.int64]) -> int:
    return max(1, int(share * len(part) + 0.5))


def _ranks(found: Examples, seed: int) -> NDArray[np.int64]:
    """Return each sample's place in the draw."""
    drawn = [
        hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogateescape")).digest()
        for key in found.key
    ]
    # Rows of one name, time and class are one sample, listed twice.
    order = sorted(range(len(drawn)), key=lambda n: (drawn[n], found.key[n], n))
    ranks = np.empty(len(drawn), np.int64)
    ranks[order] = np.arange(len(drawn))
    return ranks


@dataclass(frozen=True)
class _Rows:
    """The columns of a list, labels as in :class:`Examples`."""

    id: Sequence[str]
    video: NDArray[np.int64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]


def _rows(listing: Listing, target: Target) -> _Rows:
    table = listing.entries.combine_chunks()
    labels = _labels(listing, table, target)
    if not len(labels) or not len(labels.flatten()):
        raise SourceError(
            f"{listing.source}: the videos have no labels; expected a csv with columns path and "
            "label, class folders as kinetics:FOLDER, or a published list as ucf101:FOLDER,split=1"
        )
    counts = np.asarray(labels.value_lengths().fill_null(0), np.int64)
    return _Rows(
        id=table["id"].to_pylist(),
        video=table["video"].fill_null(-1).to_numpy().astype(np.int64),
        start_s=table["start_s"].fill_null(np.nan).to_numpy(),
        end_s=table["end_s"].fill_null(np.nan).to_numpy(),
        ends=np.cumsum(counts),
        labels=np.asarray(labels.flatten(), np.int64),
    )


def _labels(listing: Listing, table: pa.Table, target: Target) -> pa.ListArray:
    """Return the labels of each row.

    Raises:
        SourceError: if the source's own labels are not those that the recipe wants.
    """
    own = table["labels"].combine_chunks()
    if target == "label":
        return own
    if target not in table.column_names:
        raise SourceError(
            f"{listing.source}: has no {target}s; head.target: {target} is for lists as EPIC's"
        )
    numbers = table[target].to_numpy()
    if not np.array_equal(np.asarray(own.flatten()), numbers[numbers >= 0]):
        raise SourceError(
            f"{listing.source}: its labels are not its {target}s, which head.target asks for; "
            f"name the source with the option label={target}"
        )
    return own


def _class_names(listing: Listing, rows: _Rows) -> tuple[str, ...]:
    """Return the K names in order.

    Raises:
        SourceError: if numbers are left out, or two classes have one name.
    """
    names, found = dict(listing.classes), set(np.unique(rows.labels).tolist())
    if not names:
        count = max(found) + 1
        if absent := sorted(set(range(count)) - found):
            shown_ones = ", ".join(map(str, absent[:SHOWN])) + (", ..." if absent[SHOWN:] else "")
            raise SourceError(
                f"{listing.source}: classes are numbered up to {count - 1}, yet {len(absent)} of "
                f"them have no sample ({shown_ones}); expected numbers from 0 without gaps, or a "
                "source that names its classes"
            )
        return tuple(str(number) for number in range(count))
    count = max(names) + 1
    if absent := sorted(set(range(count)) - names.keys()):
        raise SourceError(
            f"{listing.source}: {len(names)} classes are named and numbered up to {count - 1}; "
            f"expected numbers from 0 without gaps, number {absent[0]} is missing"
        )
    if unnamed := sorted(found - names.keys()):
        raise SourceError(
            f"{listing.source}: class {unnamed[0]} has no name; expected one for each of 0 to "
            f"{max(found)}, found {count}"
        )
    ordered = tuple(names[number] for number in range(count))
    if twice := sorted({name for name in ordered if ordered.count(name) > 1}):
        raise SourceError(f"{listing.source}: several classes are called {shown(twice[0])!r}")
    return ordered


def _require_one_class(listing: Listing, rows: _Rows, classes: int) -> None:
    """Refuse samples of several classes where one is expected, and a single class in all."""
    counts = np.diff(rows.ends, prepend=0)
    if several := [rows.id[n] for n in np.flatnonzero(counts > 1).tolist()]:
        title = (
            f"{listing.source}: {len(several)} rows have several classes; expected one each "
            "(head.loss: sigmoid learns any number)"
        )
        raise SourceError(listed(title, [shown(one) for one in several], SHOWN))
    if classes < 2:
        raise SourceError(f"{listing.source}: has a single class; there is nothing to tell apart")


def _by_entry(
    rows: _Rows, keep: NDArray[np.bool_], length_s: NDArray[np.float64], classes: tuple[str, ...]
) -> Examples:
    """Return the kept rows as samples; each of their labels holds throughout."""
    begin_s = np.nan_to_num(rows.start_s, nan=0.0)
    finish_s = np.where(np.isnan(rows.end_s), length_s, np.minimum(rows.end_s, length_s))
    spans = (f"{rows.start_s[n]:.3f} {rows.end_s[n]:.3f}" for n in range(len(rows.id)))
    firsts = np.concatenate([[0], rows.ends[:-1]])
    whole = Examples(
        classes=classes,
        video=rows.video,
        start_s=begin_s,
        end_s=np.maximum(finish_s, begin_s),
        ends=rows.ends,
        labels=rows.labels,
        from_s=np.repeat(begin_s, rows.ends - firsts),
        to_s=np.repeat(np.maximum(finish_s, begin_s), rows.ends - firsts),
        key=[
            f"{name} {span} {[classes[label] for label in rows.labels[first:end]]}"
            for name, span, first, end in zip(rows.id, spans, firsts, rows.ends, strict=True)
        ],
    )
    return whole.taken(np.flatnonzero(keep))


def _by_video(
    found: Examples, listing: Listing, at: NDArray[np.int64], duration_s: NDArray[np.float64]
) -> Examples:
    """Return a sample a video: those of rows with labels, and those that the list has no row of."""
    rows_of: dict[int, list[int]] = {}
    for number, video in enumerate(found.video):
        rows_of.setdefault(int(video), []).append(number)
    named = set(listing.entries["video"].drop_null().to_pylist())
    bare = (int(at[n]) for n in range(len(listing.videos)) if n not in named and at[n] >= 0)
    wanted = {*rows_of, *bare}
    chosen = [int(video) for video in at if int(video) in wanted]
    order = list(dict.fromkeys(chosen))
    places: list[int] = [
        place
        for video in order
        for number in rows_of.get(video, ())
        for place in range(found.slice_of(number).start, found.slice_of(number).stop)
    ]
    counts = [
        sum(found.slice_of(n).stop - found.slice_of(n).start for n in rows_of.get(video, ()))
        for video in order
    ]
    name_of = {int(at[n]): path.rpartition("/")[2] for n, path in enumerate(listing.videos)}
    return replace(
        found,
        video=np.array(order, np.int64),
        start_s=np.zeros(len(order)),
        end_s=duration_s[order],
        ends=np.cumsum(counts).astype(np.int64),
        labels=found.labels[places],
        from_s=found.from_s[places],
        to_s=found.to_s[places],
        key=[name_of[video] for video in order],
    )


# --- from samples to clips


@dataclass(frozen=True)
class LabelledPlan:
    """Which clips to read, and the classes that each of them shows."""

    clip: ClipPlan
    labels: tuple[tuple[int, ...], ...]

    @property
    def location(self) -> Location:
        """The one video that is read."""
        return self.clip.location


@dataclass(frozen=True)
class LabelledSample:
    """V clips of one sample, as :class:`ClipSample` has them, and the classes each shows."""

    clip: ClipSample
    labels: tuple[tuple[int, ...], ...]

    @property
    def failed(self) -> Failed:
        """The videos that came before this one in the order and could not be decoded."""
        return self.clip.failed


@dataclass(frozen=True)
class LabelledReading:
    """How labelled clips are read, in any process."""

    reading: ClipReading

    def __call__(self, plan: LabelledPlan) -> LabelledSample:
        """Return the sample of a plan.

        Raises:
            VideoError: if the video cannot be read.
        """
        return LabelledSample(self.reading(plan.clip), plan.labels)


def recognised(config: RecognitionConfig, sample: ClipSample) -> ClipSample:
    """Return the sample with its clips as a classifier wants them, ``(C, T, S, S)``, normalised."""
    views = (
        recognition_view(clip, sample.seed + view, config) for view, clip in enumerate(sample.views)
    )
    return replace(sample, views=tuple(views))


class LabelledClips(Samples[LabelledPlan, LabelledSample]):
    """Samples by position in the endless order; the same position gives the same clips anywhere."""

    def __init__(
        self,
        found: Examples,
        index: ClipIndex,
        *,
        frames: int,
        stride: int,
        seed: int,
        sampling: LabelledSampling | None = None,
        reading: ClipReading | None = None,
    ) -> None:
        """Take what to read; ``stride`` counts frames at 30 per second."""
        self.examples, self.index = found, index
        self.order = Order(len(found), seed)
        self.frames, self.stride = frames, stride
        self.sampling = sampling or LabelledSampling()
        self.reading = LabelledReading(reading or ClipReading())

    @property
    def read(self) -> LabelledReading:
        """What reads a plan."""
        return self.reading

    def __len__(self) -> int:
        """Return the number of samples; positions go on past it, into further epochs."""
        return len(self.examples)

    def plan(self, position: int, attempt: int = 0) -> LabelledPlan | None:
        """Return the clips at a position: a pure function of the seed, the epoch and the sample."""
        if attempt >= min(MAX_FAILURES, len(self)):
            return None
        epoch, number = self.order.at(position, attempt)
        location, duration_s = self.index.video(int(self.examples.video[number]))
        start_s = float(self.examples.start_s[number])
        length_s = float(self.examples.end_s[number]) - start_s
        rng = rng_for(self.order.seed, epoch, number)
        refused = ""
        clips = [self._times(rng, length_s) for _ in range(self.sampling.clips)]
        try:
            clips = [fitted(clip, length_s, self.sampling.short_videos) for clip in clips]
        except VideoError as error:
            refused = str(error)
        # The last moment of a video is no part of it.
        clips = [np.minimum(clip + start_s, last_s(duration_s)) for clip in clips]
        # From its earliest frame to its latest: a clip that begins anew ends before it began.
        spans = [(float(clip.min()), float(clip.max())) for clip in clips]
        labels = [self.examples.labels_between(number, *span) for span in spans]
        clip = ClipPlan(location, np.stack(clips), int(rng.integers(2**62)), refused)
        return LabelledPlan(clip, tuple(labels))

    def _times(self, rng: np.random.Generator, length_s: float) -> NDArray[np.float64]:
        """Return the times of a clip within a stretch of so many seconds, from its start."""
        how = self.sampling
        if how.frames == "segments":
            return segment_times(length_s, self.frames, rng)
        latest_s = latest_start_s(length_s, self.frames, self.stride, how.indexing)
        return clip_times(rng.uniform(0.0, latest_s), self.frames, self.stride, how.indexing)

    def tell(self, sample: LabelledSample, failed: Failed) -> LabelledSample:
        """Return the sample with word of the videos that failed before it."""
        return replace(sample, clip=replace(sample.clip, failed=failed))
