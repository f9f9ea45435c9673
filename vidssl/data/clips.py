"""Clips for self-supervised pretraining: several of each video, drawn at random times.

Array suffixes: T frames, H and W pixels, V views, P people.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from vidssl.augment import geometry
from vidssl.augment.views import SSLConfig, draw_view, ssl_view
from vidssl.data.order import Order, rng_for
from vidssl.data.people import People
from vidssl.data.samples import MAX_FAILURES, Failed, Samples
from vidssl.errors import RecipeError, VideoError
from vidssl.section import Section
from vidssl.video.index import ClipIndex
from vidssl.video.reader import Decoder, open_reader
from vidssl.video.sampling import (
    Indexing,
    Short,
    clip_times,
    fitted,
    interval_starts,
    nested_starts,
    random_starts,
)
from vidssl.video.storage import Location, shown

LEAST_SHARE = 0.5
"""A box counts in a view that holds more of its area than this."""


class SamplingConfig(Section):
    """Which clips of a video are read; a pure function of the seed, the epoch and the video."""

    starts: Literal["random", "interval", "nested"] = "random"
    """``random``: each start for itself over the whole video (rho clips); ``interval``: two clips,
    near ones more often than far ones (CVRL); ``nested``: a long one and a short one inside it
    (TeG)."""
    strides: tuple[PositiveInt, PositiveInt] | None = None
    """Of nested clips, the long one's and the short one's; null is the backbone's for both."""
    interval_power: PositiveFloat = 1.0
    """Of CVRL's distribution of intervals."""
    indexing: Indexing = "stride"
    """``stride`` takes frames exactly a stride apart; ``linspace`` spreads them over the window as
    PySlowFast does, for weights that were trained so."""
    short_videos: Short = "repeat"
    """Of a video that is shorter than the clip: repeat its last frame, loop it, slow it down, or
    refuse it, so that another takes its place."""

    @model_validator(mode="after")
    def _strides_nest(self) -> Self:
        if self.strides is None:
            return self
        if self.starts != "nested":
            raise ValueError(f"strides are for starts: nested, found starts: {self.starts}")
        if self.strides[0] < self.strides[1]:
            raise ValueError(f"strides go from long to short, found {list(self.strides)}")
        return self


@dataclass(frozen=True)
class ClipSample:
    """``views`` are V clips of one video, ``times_s`` the times of their frames.

    A view is ``(T, H, W, 3)``, uint8, until it is augmented; see :func:`augmented`.

    ``seed`` makes every random choice that is still to come for this sample; view v takes
    ``seed + v``. ``failed`` tells of the videos that came before this one in the order and could
    not be decoded.
    """

    video: str
    views: tuple[Tensor, ...]
    times_s: tuple[Tensor, ...]
    seed: int
    failed: Failed = ()
    size_px: tuple[int, int] = (0, 0)
    """Height and width of the pictures as they were decoded."""
    people: tuple[Tensor, ...] = ()
    """Around the middle frame of each view, ``(P, 5)`` float32: a box of the whole picture as it
    was decoded, and its score; empty for data without boxes."""


@dataclass(frozen=True)
class ClipPlan:
    """Which clips to read: the times of V clips ``(V, T)`` of one video."""

    location: Location
    times_s: NDArray[np.float64]
    seed: int
    refused: str = ""
    """Why the video cannot give such clips, if so."""
    people: tuple[NDArray[np.float32], ...] = ()
    """As the sample has them."""


@dataclass(frozen=True)
class ClipReading:
    """How clips are read, in any process; ``finish`` is what a worker does with each sample."""

    short_side_px: int | None = None
    decoder: Decoder = "auto"
    finish: Callable[[ClipSample], ClipSample] | None = None

    def __call__(self, plan: ClipPlan) -> ClipSample:
        """Return the sample of a plan; the views share one open video and its decoded frames.

        Raises:
            VideoError: if the video cannot be read.
        """
        if plan.refused:
            raise VideoError(f"{shown(plan.location)}: {plan.refused}", "too_short")
        views = len(plan.times_s)
        with open_reader(plan.location, self.decoder) as reader:
            clip = reader.frames_at(plan.times_s.reshape(-1), self.short_side_px)
        sample = ClipSample(
            video=plan.location,
            views=tuple(torch.from_numpy(f) for f in np.split(clip.frames, views)),
            times_s=tuple(torch.from_numpy(t) for t in np.split(clip.times_s, views)),
            seed=plan.seed,
            size_px=(clip.frames.shape[1], clip.frames.shape[2]),
            people=tuple(torch.from_numpy(people.copy()) for people in plan.people),
        )
        return self.finish(sample) if self.finish else sample


def augmented(config: SSLConfig, sample: ClipSample) -> ClipSample:
    """Return the sample with its views as a method wants them, ``(C, T, S, S)``, normalised."""
    views = (
        ssl_view(clip, sample.seed + view, config, view) for view, clip in enumerate(sample.views)
    )
    return replace(sample, views=tuple(views))


def carried(sample: ClipSample, config: SSLConfig, most: int) -> tuple[Tensor, Tensor]:
    """Return the people of each augmented view, ``(V, most, 4)``, and who is there, ``(V, most)``.

    Boxes are normalised to the view and go through its crop and flip. One counts if more than half
    of its area is left, a reconstruction: ConST-CL's released code has no boxes of people. The
    surest ``most`` stay, the surest first; places that nobody takes are 0 and not there.
    """
    boxes_V4 = torch.zeros(len(sample.views), most, 4)
    valid_V = torch.zeros(len(sample.views), most, dtype=torch.bool)
    for view, people_P5 in enumerate(sample.people):
        crop = draw_view(sample.seed + view, sample.size_px, config.of(view)).crop
        inside_P4 = geometry.carry(people_P5[:, :4], crop)
        of_picture = (crop.right - crop.left) * (crop.bottom - crop.top)
        left_P = _area(inside_P4) * of_picture
        seen = left_P > LEAST_SHARE * _area(people_P5[:, :4])
        surest = people_P5[seen, 4].argsort(descending=True, stable=True)[:most]
        boxes_V4[view, : len(surest)] = inside_P4[seen][surest]
        valid_V[view, : len(surest)] = True
    return boxes_V4, valid_V


def _area(boxes_P4: Tensor) -> Tensor:
    return (boxes_P4[:, 2] - boxes_P4[:, 0]) * (boxes_P4[:, 3] - boxes_P4[:, 1])


def require_views(sampling: SamplingConfig, views: int) -> None:
    """Refuse a number of clips of a video that the sampling does not draw.

    Raises:
        RecipeError: if it draws two, and others are wanted.
    """
    if sampling.starts != "random" and views != 2:
        raise RecipeError(
            f"sampling.starts: {sampling.starts} is for methods of 2 views, this one has {views}"
        )


class ClipDataset(Samples[ClipPlan, ClipSample]):
    """Samples by position in the endless order; the same position gives the same clips anywhere."""

    def __init__(
        self,
        index: ClipIndex,
        *,
        frames: int,
        stride: int,
        views: int,
        seed: int,
        sampling: SamplingConfig | None = None,
        reading: ClipReading | None = None,
        people: People | None = None,
    ) -> None:
        """Take what to read; ``stride`` counts frames at 30 per second.

        With ``people``, those around the middle frame of each view come along.

        Raises:
            RecipeError: if the sampling gives another number of clips than ``views``.
        """
        self.index = index
        self.order = Order(len(index), seed)
        self.frames, self.stride, self.views = frames, stride, views
        self.sampling = sampling or SamplingConfig()
        self.reading = reading or ClipReading()
        self.people = people
        require_views(self.sampling, views)

    @property
    def read(self) -> ClipReading:
        """What reads a plan."""
        return self.reading

    def __len__(self) -> int:
        """Return the number of videos; positions go on past it, into further epochs."""
        return len(self.index)

    def plan(self, position: int, attempt: int = 0) -> ClipPlan | None:
        """Return the clips at a position: a pure function of the seed, the epoch and the video."""
        if attempt >= min(MAX_FAILURES, len(self.index)):
            return None
        epoch, index = self.order.at(position, attempt)
        location, duration_s = self.index.video(index)
        rng = rng_for(self.order.seed, epoch, index)
        clips = [
            clip_times(start_s, self.frames, stride, self.sampling.indexing)
            for start_s, stride in zip(self._starts(rng, duration_s), self._strides(), strict=True)
        ]
        seed, refused = int(rng.integers(2**62)), ""
        try:
            clips = [fitted(clip, duration_s, self.sampling.short_videos) for clip in clips]
        except VideoError as error:
            refused = str(error)
        people = self.people
        near = [people.near(index, clip[self.frames // 2]) for clip in clips] if people else []
        return ClipPlan(location, np.stack(clips), seed, refused, tuple(near))

    def _starts(self, rng: np.random.Generator, duration_s: float) -> NDArray[np.float64]:
        how, frames, stride = self.sampling, self.frames, self.stride
        if how.starts == "random":
            return random_starts(rng, duration_s, frames, stride, self.views)
        if how.starts == "nested":
            long, short_clip = ((frames, stride) for stride in self._strides())
            return nested_starts(rng, duration_s, long=long, short=short_clip)
        power, short = how.interval_power, how.short_videos
        return interval_starts(rng, duration_s, frames, stride, power=power, short=short)

    def _strides(self) -> tuple[int, ...]:
        return self.sampling.strides or (self.stride,) * self.views

    def tell(self, sample: ClipSample, failed: Failed) -> ClipSample:
        """Return the sample with word of the videos that failed before it."""
        return replace(sample, failed=failed)
