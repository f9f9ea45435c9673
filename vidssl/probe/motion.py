"""Does it look at motion? Clips whose time is damaged, and the share of accuracy that needs time.

The same probe is fitted anew and scored on the features of damaged clips, gallery and queries
alike: what is lost is what the features told of time, not what a probe was used to.

Array suffixes: T frames, M videos, K classes, D draws.
"""

import zlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vidssl.probe.intervals import DRAWS, LEVEL, SEED

Time = Literal["normal", "shuffled", "reversed", "single", "static"]
"""``shuffled``: the frames of each clip in an order of its own, by a seed; ``reversed``: from last
to first; ``single``: the middle frame as a clip of one frame, for backbones that take it;
``static``: the middle frame as often as the clip has frames, so that nothing moves. Each clip of a
video for itself: those of several clips still show several moments."""
TIMES: tuple[Time, ...] = get_args(Time)


@dataclass(frozen=True)
class Share:
    """The share of the accuracy that needs time, ``(normal - static) / normal``, from 0 to 1.

    NaN where nothing was right on normal clips. ``low`` and ``high`` are a bootstrap over videos,
    which takes both accuracies of the same draw.
    """

    value: float
    low: float
    high: float


def frame_order(time: Time, frames: int, *, name: str = "", clip: int = 0) -> NDArray[np.int64]:
    """Return which frames of a clip are shown in turn, ``(T,)``, or one for ``single``.

    ``name`` of the video and the number of the ``clip`` decide how it is shuffled: never as it was,
    if there are two frames.
    """
    order_T = np.arange(frames)
    if time == "normal":
        return order_T
    if time == "reversed":
        return order_T[::-1].copy()
    middle = np.array([frames // 2])
    if time == "single":
        return middle
    if time == "static":
        return np.repeat(middle, frames)
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode("utf-8", "surrogateescape")), clip])
    shuffled_T = order_T
    while frames > 1 and (shuffled_T == order_T).all():
        shuffled_T = rng.permutation(frames)
    return shuffled_T


def needs_time(
    normal_M: NDArray[np.generic],
    static_M: NDArray[np.generic],
    *,
    label_M: NDArray[np.integer] | None = None,
    classes: int = 0,
    group_M: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> tuple[Share, tuple[Share, ...]]:
    """Return the share over all videos, and of each class where ``label_M`` tells them.

    ``normal_M`` and ``static_M`` say how right each video was, from 0 to 1. The interval is NaN
    with fewer than two units of drawing.

    Raises:
        ValueError: if shapes differ.
    """
    if normal_M.shape != static_M.shape or (
        label_M is not None and label_M.shape != static_M.shape
    ):
        raise ValueError("expected as many videos on normal and on static clips, and labels")
    units, unit_M = np.unique(
        np.arange(len(normal_M)) if group_M is None else group_M, return_inverse=True
    )
    unit_M = unit_M.reshape(-1)
    rng = np.random.default_rng(seed)
    times_DU = np.zeros((0, len(units)))
    if len(units) > 1:
        even_U = np.full(len(units), 1 / len(units))
        times_DU = rng.multinomial(len(units), even_U, size=draws).astype(np.float64)

    def of(chosen_M: NDArray[np.bool_]) -> Share:
        sums = [
            np.bincount(unit_M[chosen_M], side[chosen_M].astype(np.float64), len(units))
            for side in (normal_M, static_M)
        ]
        value = float(_share(sums[0].sum(), sums[1].sum()))
        if not len(times_DU):
            return Share(value, np.nan, np.nan)
        normal_D, static_D = (times_DU @ one for one in sums)
        drawn_D = _share(normal_D, static_D)
        known_D = drawn_D[~np.isnan(drawn_D)]
        if not len(known_D):
            return Share(value, np.nan, np.nan)
        rest = (1 - LEVEL) / 2
        low, high = np.quantile(known_D, (rest, 1 - rest))
        return Share(value, float(low), float(high))

    whole = of(np.ones(len(normal_M), np.bool_))
    if label_M is None:
        return whole, ()
    return whole, tuple(of(label_M == label) for label in range(classes))


def _share(
    normal: NDArray[np.float64] | np.float64, static: NDArray[np.float64] | np.float64
) -> NDArray[np.float64]:
    least = np.where(normal > 0, normal, np.nan)
    return np.asarray(np.clip((normal - static) / least, 0.0, 1.0))
