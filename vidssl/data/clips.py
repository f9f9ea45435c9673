"""Clips for self-supervised pretraining: several of each video, drawn at random times.

Array suffixes: T frames, H and W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.augment.views import SSLConfig, ssl_view
from vidssl.data.order import Order, rng_for
from vidssl.data.samples import MAX_FAILURES, Failed, Samples
from vidssl.video.index import ClipIndex
from vidssl.video.reader import Decoder, open_reader
from vidssl.video.sampling import clip_times, random_starts
from vidssl.video.storage import Location


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


@dataclass(frozen=True)
class ClipPlan:
    """Which clips to read: the times of V clips ``(V, T)`` of one video."""

    location: Location
    times_s: NDArray[np.float64]
    seed: int


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
        views = len(plan.times_s)
        with open_reader(plan.location, self.decoder) as reader:
            clip = reader.frames_at(plan.times_s.reshape(-1), self.short_side_px)
        sample = ClipSample(
            video=plan.location,
            views=tuple(torch.from_numpy(f) for f in np.split(clip.frames, views)),
            times_s=tuple(torch.from_numpy(t) for t in np.split(clip.times_s, views)),
            seed=plan.seed,
        )
        return self.finish(sample) if self.finish else sample


def augmented(config: SSLConfig, sample: ClipSample) -> ClipSample:
    """Return the sample with its views as a method wants them, ``(C, T, S, S)``, normalised."""
    views = (
        ssl_view(clip, sample.seed + view, config, view) for view, clip in enumerate(sample.views)
    )
    return replace(sample, views=tuple(views))


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
        reading: ClipReading | None = None,
    ) -> None:
        """Take what to read; ``stride`` counts frames at 30 per second."""
        self.index = index
        self.order = Order(len(index), seed)
        self.frames, self.stride, self.views = frames, stride, views
        self.reading = reading or ClipReading()

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
        starts_s = random_starts(rng, duration_s, self.frames, self.stride, self.views)
        times_s = np.stack([clip_times(start_s, self.frames, self.stride) for start_s in starts_s])
        return ClipPlan(location, times_s, seed=int(rng.integers(2**62)))

    def tell(self, sample: ClipSample, failed: Failed) -> ClipSample:
        """Return the sample with word of the videos that failed before it."""
        return replace(sample, failed=failed)
