"""Which times to read: pure functions from a video's length to seconds.

Frame steps are counted as in the papers, in frames of a video with 30 a second, so that a clip
covers the same time whatever the video's own rate.

Array suffixes: T frames.
"""

import numpy as np
from numpy.typing import NDArray

PAPER_FPS = 30.0


def step_s(stride: int) -> float:
    """Return the seconds between two fed frames for a stride in frames at 30 per second."""
    return stride / PAPER_FPS


def clip_times(start_s: float, frames: int, stride: int) -> NDArray[np.float64]:
    """Return the times of a clip's frames, ``(T,)``, the first at ``start_s``."""
    return np.asarray(start_s + np.arange(frames) * step_s(stride), dtype=np.float64)


def random_starts(
    rng: np.random.Generator, duration_s: float, frames: int, stride: int, count: int
) -> NDArray[np.float64]:
    """Return ``count`` clip starts in order of time, each uniform over the starts that fit.

    A video shorter than the clip gives starts of 0; its last frame then repeats.
    Source: independent starts over the whole video, any overlap, sorted (Feichtenhofer et al.,
    CVPR 2021, https://arxiv.org/abs/2104.14558, section 3).
    """
    latest_s = max(0.0, duration_s - (frames - 1) * step_s(stride) - 1e-3)
    return np.sort(rng.uniform(0.0, latest_s, size=count))


def centred_times(center_s: float, frames: int, stride: int) -> NDArray[np.float64]:
    """Return the times of a clip around a key frame, ``(T,)``: frame T // 2 is the key frame.

    As in the AVA loaders of SlowFast, ``range(center - T * stride / 2, ..., stride)``; times
    before the video are answered by its first frame, times after it by its last.
    """
    offsets = np.arange(frames) - frames // 2
    return np.asarray(center_s + offsets * step_s(stride), dtype=np.float64)
