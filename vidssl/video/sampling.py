"""Which times to read: pure functions from a video's length to seconds.

Frame steps are counted as in the papers, in frames of a video with 30 a second, so that a clip
covers the same time whatever the video's own rate. Every random choice comes from the generator
that is passed in: the same generator state gives the same clip.

Array suffixes: N clips, T frames.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VideoError

Times = NDArray[np.float64]

PAPER_FPS = 30.0
END_S = 1e-3
"""The last time asked of a video lies this much before its end, where its last frame still is."""

Short = Literal["repeat", "loop", "slow", "refuse"]
"""What becomes of a video shorter than the clip: its last frame repeats; it begins anew; the step
shrinks until the clip fits; it is refused."""

Indexing = Literal["stride", "linspace"]
"""How a clip's frames follow each other: at the exact stride, or as PySlowFast picks them."""

Crop = Literal["left", "centre", "right"]
"""Which part of the long side is kept; of an upright picture, left is the top."""

CROPS: tuple[Crop, ...] = ("left", "centre", "right")


@dataclass(frozen=True)
class EvalView:
    """One of the views over which the scores of a video are averaged."""

    start_s: float
    crop: Crop


def step_s(stride: float) -> float:
    """Return the seconds between two fed frames for a stride in frames at 30 per second."""
    return stride / PAPER_FPS


def span_s(frames: int, stride: float, indexing: Indexing = "stride") -> float:
    """Return the seconds from a clip's first frame to its last."""
    if indexing == "linspace":
        return step_s(frames * stride - 1)
    return (frames - 1) * step_s(stride)


def last_s(duration_s: float) -> float:
    """Return the last time that is asked of a video, at which its last frame is on the screen."""
    return max(0.0, duration_s - END_S)


def latest_start_s(
    duration_s: float, frames: int, stride: float, indexing: Indexing = "stride"
) -> float:
    """Return the latest start at which a clip lies within the video; 0 where it never does."""
    return max(0.0, duration_s - span_s(frames, stride, indexing) - END_S)


def clip_times(start_s: float, frames: int, stride: float, indexing: Indexing = "stride") -> Times:
    """Return the times of a clip's frames, ``(T,)``, the first at ``start_s``.

    ``linspace`` is PySlowFast's choice, with which its published weights were trained: of a clip
    of ``L = T * stride`` frames the whole numbers below ``linspace(start, start + L - 1, T)``, so
    that 8 frames of stride 8 lie 9 apart. They are counted in frames at 30 per second, where
    PySlowFast counts those of the video; at other rates the two differ by less than two frames.
    """
    if indexing == "stride":
        return np.asarray(start_s + np.arange(frames) * step_s(stride), dtype=np.float64)
    start = start_s * PAPER_FPS
    # A start that is a whole frame must not fall to the one before it by rounding.
    indices_T = np.floor(np.linspace(start, start + frames * stride - 1, frames) + 1e-6)
    return np.asarray(indices_T / PAPER_FPS, dtype=np.float64)


def fitted(times_T: Times, duration_s: float, short: Short = "repeat") -> Times:
    """Return the times brought into ``[0, duration_s)`` by the policy, in the same order.

    ``repeat`` shows the first and last frame for times outside, ``loop`` begins anew at the end.
    ``slow`` moves a clip that sticks out back into the video, and one longer than the video
    shrinks about its start; it expects times in increasing order. Clips that fit are returned as
    they are.

    Raises:
        VideoError: if the policy is to refuse and a time lies outside; its reason is ``too_short``.
    """
    end_s = last_s(duration_s)
    if times_T.min() >= 0 and times_T.max() <= end_s:
        return times_T
    if short == "refuse":
        raise VideoError(
            f"expected a video of at least {times_T.max() - min(times_T.min(), 0):.2f} s "
            f"for the clip, found {duration_s:.2f} s",
            reason="too_short",
        )
    if short == "loop":
        # The remainder of a tiny negative time rounds to the whole length.
        return np.asarray(np.minimum(times_T % duration_s, end_s)) if end_s else times_T * 0.0
    if short == "slow":
        length_s = times_T[-1] - times_T[0]
        shrunk_T = (times_T - times_T[0]) * min(1.0, end_s / length_s if length_s else 1.0)
        start_s = min(max(times_T[0], 0.0), end_s - shrunk_T[-1])
        return np.asarray(np.clip(shrunk_T + start_s, 0.0, end_s))
    return np.asarray(np.clip(times_T, 0.0, end_s))


def random_starts(
    rng: np.random.Generator, duration_s: float, frames: int, stride: float, count: int
) -> Times:
    """Return ``count`` clip starts in order of time, each uniform over the starts that fit.

    A video shorter than the clip gives starts of 0; its last frame then repeats.
    Source: independent starts over the whole video, any overlap, sorted (Feichtenhofer et al.,
    CVPR 2021, https://arxiv.org/abs/2104.14558, section 3).
    """
    return np.sort(rng.uniform(0.0, latest_start_s(duration_s, frames, stride), size=count))


def uniform_starts(
    duration_s: float,
    frames: int,
    stride: float,
    count: int,
    *,
    reach_end: bool = False,
    indexing: Indexing = "stride",
) -> Times:
    """Return ``count`` starts at equal distances, the first at 0: ``latest * i / count``.

    As in PySlowFast the last clip stops short of the video's end, unless ``reach_end`` divides by
    ``count - 1``; a single clip then lies in the middle.
    """
    latest_s = latest_start_s(duration_s, frames, stride, indexing)
    if reach_end and count == 1:
        return np.array([latest_s / 2])
    return np.arange(count) * np.float64(latest_s / (count - 1 if reach_end else count))


def multi_views(
    duration_s: float,
    frames: int,
    stride: float,
    *,
    clips: int = 10,
    crops: int = 3,
    reach_end: bool = False,
    indexing: Indexing = "stride",
) -> list[EvalView]:
    """Return the ``clips`` x ``crops`` views of a video, all crops of a clip side by side.

    Raises:
        ValueError: if ``crops`` is neither 1 (the centre) nor 3.
    """
    if crops not in (1, 3):
        raise ValueError(f"expected 1 or 3 crops of each clip, got {crops}")
    sides = CROPS if crops == 3 else CROPS[1:2]
    starts_s = uniform_starts(
        duration_s, frames, stride, clips, reach_end=reach_end, indexing=indexing
    )
    return [EvalView(float(start_s), side) for start_s in starts_s for side in sides]


def interval_starts(
    rng: np.random.Generator,
    duration_s: float,
    frames: int,
    stride: float,
    *,
    power: float = 1.0,
    short: Short = "loop",
) -> Times:
    """Return the starts of two clips, ``(2,)``, near ones more often than far ones, in any order.

    Their distance has density proportional to ``1 - (d / M) ** power`` over the M seconds of valid
    starts (CVRL, Qian et al., CVPR 2021, https://arxiv.org/abs/2008.03800, section 3.2), mean M / 3
    for power 1. That one is drawn by the exact inverse, ``M * (1 - sqrt(1 - u))``; any other as the
    product of a uniform draw and the ``1 / (power + 1)``-th power of a second, which has the very
    same density.

    Of a video shorter than the clip both starts are uniform over the whole of it, for clips that
    loop as CVRL's do; with any other policy they are 0.

    Raises:
        ValueError: if ``power`` is not positive.
    """
    if power <= 0:
        raise ValueError(f"the power of the interval distribution must be positive, got {power}")
    latest_s = latest_start_s(duration_s, frames, stride)
    if latest_s == 0:
        return rng.uniform(0.0, last_s(duration_s) if short == "loop" else 0.0, size=2)
    if power == 1:
        share = 1 - np.sqrt(1 - rng.random())
    else:
        share = rng.random() * rng.random() ** (1 / (power + 1))
    distance_s = latest_s * share
    first_s = rng.uniform(0.0, latest_s - distance_s)
    return rng.permutation(np.array([first_s, first_s + distance_s]))


def nested_starts(
    rng: np.random.Generator,
    duration_s: float,
    *,
    long: tuple[int, float],
    short: tuple[int, float],
) -> Times:
    """Return the starts ``(2,)`` of a long clip and of a short one that lies inside it.

    ``long`` and ``short`` are (frames, stride). Both starts are uniform, the long one's over the
    starts that fit, the short one's over those that keep it within the long clip and the video.
    Source: TeG (Qian et al., https://arxiv.org/abs/2112.04480); the paper's text gives the nesting,
    the uniform draw is a reconstruction.

    Raises:
        ValueError: if the short clip spans more time than the long one.
    """
    long_s, short_s = span_s(*long), span_s(*short)
    if short_s > long_s:
        raise ValueError(f"the short clip spans {short_s:.2f} s, the long one only {long_s:.2f} s")
    outer_s = rng.uniform(0.0, latest_start_s(duration_s, *long))
    room_s = min(long_s, last_s(duration_s) - outer_s) - short_s
    return np.array([outer_s, outer_s + rng.uniform(0.0, max(0.0, room_s))])


def centred_times(center_s: float, frames: int, stride: float) -> Times:
    """Return the times of a clip around a key frame, ``(T,)``: frame T // 2 is the key frame.

    As in the AVA loaders of SlowFast, ``range(center - T * stride / 2, ..., stride)``; times
    before the video are answered by its first frame, times after it by its last.
    """
    offsets = np.arange(frames) - frames // 2
    return np.asarray(center_s + offsets * step_s(stride), dtype=np.float64)


def sliding_times(
    duration_s: float,
    frames: int,
    stride: float,
    *,
    every_s: float = 1.0,
    first_s: float = 0.0,
    short: Short = "repeat",
) -> Times:
    """Return windows over a whole video, ``(N, T)``, centred every ``every_s`` from ``first_s``.

    Each is a clip around a key frame, brought into the video by the policy. N is at least 1.

    Raises:
        ValueError: if ``every_s`` is not positive.
        VideoError: if the policy is to refuse and a window sticks out of the video.
    """
    if every_s <= 0:
        raise ValueError(f"the step between windows must be positive, got {every_s}")
    end_s = last_s(duration_s)
    first_s = min(max(first_s, 0.0), end_s)
    centres_N = first_s + every_s * np.arange(int((end_s - first_s) / every_s + 1e-9) + 1)
    windows = (centred_times(center_s, frames, stride) for center_s in centres_N)
    return np.stack([fitted(times_T, duration_s, short) for times_T in windows])


def segment_times(duration_s: float, frames: int, rng: np.random.Generator | None = None) -> Times:
    """Return one time in each of ``frames`` equal parts of the video, ``(T,)``, in order.

    Uniform within its part for a generator, its middle for None (TSN, Wang et al., ECCV 2016,
    https://arxiv.org/abs/1608.00859; the loaders of Something-Something use it).
    """
    places = np.full(frames, 0.5) if rng is None else rng.random(frames)
    times_T = (np.arange(frames) + places) * (duration_s / frames)
    return np.asarray(np.minimum(times_T, last_s(duration_s)), dtype=np.float64)
