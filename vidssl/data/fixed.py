"""A few clips that stay the same through a training, by which it is watched.

Tensor suffixes: N clips, C channels, T frames, S pixels a side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidssl.augment import geometry
from vidssl.augment.views import normalise
from vidssl.data.clips import ClipPlan, ClipReading, ClipSample
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.data.samples import Failed, Samples
from vidssl.video.index import ClipIndex
from vidssl.video.sampling import clip_times, fitted, uniform_starts
from vidssl.video.storage import Location

CLIPS = 2
"""Of each video, one in each half."""
OF_A_CLASS = 4
"""Videos of a class, where classes are known."""


@dataclass(frozen=True)
class FixedClips:
    """Middle crops, ``clips`` ``(N, C, T, S, S)``, uint8, as they are kept through a training;
    ``video`` and ``label``, ``(N,)``, number their videos and classes, the latter -1 where it is
    not known."""

    clips: Tensor
    video: Tensor
    label: Tensor

    def batches(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """Give ``size`` clips at a time on the device, normalised, as the networks want them."""
        for start in range(0, len(self.clips), size):
            pixels = self.clips[start : start + size].to(device).float().div_(255.0)
            yield normalise(pixels)


def read_fixed(
    index: ClipIndex,
    rows: Mapping[int, int],
    *,
    frames: int,
    stride: int,
    side_px: int,
    reading: ClipReading,
    loader: LoaderConfig,
) -> FixedClips | None:
    """Return two clips of each video of ``rows``, class by row; None if none can be read.

    One that cannot be read is left out.
    """
    dataset = _Clips(index, list(rows), frames, stride, reading)
    batches = Loader(dataset, [[position] for position in range(len(rows))], loader)
    clips, video, label = [], [], []
    for number, ((sample,), class_) in enumerate(zip(batches, rows.values(), strict=True)):
        for view in sample.views:
            clips.append(_middle(view, side_px))
            video.append(number)
            label.append(class_)
    if not clips:
        return None
    return FixedClips(torch.stack(clips), torch.tensor(video), torch.tensor(label))


def choose_fixed(index: ClipIndex, classes: Mapping[Location, int], videos: int) -> dict[int, int]:
    """Return which rows of the index to watch, with the class of each, -1 where it is not known.

    At most ``videos``: with ``classes`` four each of as many classes as there is room for, at equal
    distances; otherwise any at equal distances.
    """
    by_class: dict[int, list[int]] = {}
    for row in range(len(index)) if classes else ():
        label = classes.get(index.video(row)[0])
        if label is not None:
            by_class.setdefault(label, []).append(row)
    full = [label for label in sorted(by_class) if len(by_class[label]) >= OF_A_CLASS]
    if len(full) < 2 or videos < 2 * OF_A_CLASS:
        return dict.fromkeys(spaced(range(len(index)), videos), -1)
    some = spaced(full, videos // OF_A_CLASS)
    return {row: label for label in some for row in spaced(by_class[label], OF_A_CLASS)}


def spaced(rows: Sequence[int], count: int) -> list[int]:
    """Return at most ``count`` of ``rows``, at equal distances."""
    count = min(count, len(rows))
    return [rows[int((n + 0.5) * len(rows) / count)] for n in range(count)]


def _middle(clip_THWC: Tensor, side_px: int) -> Tensor:
    _, height, width, _ = clip_THWC.shape
    view = geometry.scaled_crop(
        height, width, short_side_px=side_px, crop_px=side_px, across=0.5, down=0.5
    )
    return geometry.cut(clip_THWC, view).transpose(0, 1)


class _Clips(Samples[ClipPlan, ClipSample]):
    """Two clips of each chosen video; nothing takes the place of one that cannot be read."""

    def __init__(
        self, index: ClipIndex, rows: Sequence[int], frames: int, stride: int, reading: ClipReading
    ) -> None:
        self.index, self.rows = index, rows
        self.frames, self.stride, self.reading = frames, stride, reading

    @property
    def read(self) -> ClipReading:
        return self.reading

    def __len__(self) -> int:
        return len(self.rows)

    def plan(self, position: int, attempt: int = 0) -> ClipPlan | None:
        if attempt:
            return None
        location, duration_s = self.index.video(self.rows[position])
        starts_s = uniform_starts(duration_s, self.frames, self.stride, CLIPS)
        clips = [clip_times(start_s, self.frames, self.stride) for start_s in starts_s]
        return ClipPlan(location, np.stack([fitted(clip, duration_s) for clip in clips]), 0)

    def tell(self, sample: ClipSample, failed: Failed) -> ClipSample:
        return sample

    def lost(self, plan: ClipPlan, failed: Failed) -> ClipSample:
        return ClipSample(plan.location, (), (), 0, failed)
