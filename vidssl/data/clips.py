"""Clips for self-supervised pretraining: several of each video, drawn at random times.

Array suffixes: T frames, H and W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidssl.data.order import Order, rng_for
from vidssl.errors import VideoError
from vidssl.video.index import ClipIndex
from vidssl.video.reader import open_reader
from vidssl.video.sampling import clip_times, random_starts
from vidssl.video.storage import Location

MAX_FAILURES = 16
"""Videos in a row that may fail before a sample gives up: more are a fault of the storage."""


@dataclass(frozen=True)
class ClipSample:
    """``views`` are V clips ``(T, H, W, 3)`` of one video, uint8; ``times_s`` their frames' times.

    ``seed`` makes every random choice that is still to come for this sample. ``failed`` tells of
    the videos that came before this one in the order and could not be decoded.
    """

    video: str
    views: tuple[Tensor, ...]
    times_s: tuple[Tensor, ...]
    seed: int
    failed: tuple[tuple[str, str], ...] = ()


class ClipDataset(Dataset[ClipSample]):
    """Samples by position in the endless order; the same position gives the same clips anywhere."""

    def __init__(
        self,
        index: ClipIndex,
        *,
        frames: int,
        stride: int,
        views: int,
        seed: int,
        short_side_px: int | None = None,
    ) -> None:
        """Take what to read; ``stride`` counts frames at 30 per second."""
        self.index = index
        self.order = Order(len(index), seed)
        self.frames, self.stride, self.views = frames, stride, views
        self.short_side_px = short_side_px

    def __len__(self) -> int:
        """Return the number of videos; positions go on past it, into further epochs."""
        return len(self.index)

    def __getitem__(self, position: int) -> ClipSample:
        """Return the sample at ``position``.

        A video that cannot be decoded is told of in ``failed``, and the next one of the same order
        takes its place.

        Raises:
            VideoError: if too many videos fail in a row.
        """
        failed: list[tuple[str, str]] = []
        for attempt in range(min(MAX_FAILURES, len(self.index))):
            epoch, index = self.order.at(position, attempt)
            path, duration_s = self.index.video(index)
            try:
                return self._read(path, duration_s, epoch, index, tuple(failed))
            except VideoError as error:
                failed.append((path, str(error)))
        raise VideoError(f"{len(failed)} videos in a row failed; the last: {failed[-1][1]}")

    def _read(
        self,
        path: Location,
        duration_s: float,
        epoch: int,
        index: int,
        failed: tuple[tuple[str, str], ...],
    ) -> ClipSample:
        rng = rng_for(self.order.seed, epoch, index)
        starts_s = random_starts(rng, duration_s, self.frames, self.stride, self.views)
        times_s = [clip_times(start_s, self.frames, self.stride) for start_s in starts_s]
        with open_reader(path) as reader:
            clip = reader.frames_at(np.concatenate(times_s), self.short_side_px)
        return ClipSample(
            video=path,
            views=tuple(torch.from_numpy(f) for f in np.split(clip.frames, self.views)),
            times_s=tuple(torch.from_numpy(t) for t in np.split(clip.times_s, self.views)),
            seed=int(rng.integers(2**62)),
            failed=failed,
        )
