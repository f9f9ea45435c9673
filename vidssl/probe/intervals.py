"""How far a score could have come out otherwise, had other videos been drawn: a bootstrap.

Efron, Annals of Statistics 1979: as many videos as there are, drawn with replacement, again and
again; the interval is where the middle of the draws lies (the percentile method). Where clips come
from one film, films are drawn: clips of one are no independent draws. It tells of the choice of
test videos alone, neither of training videos nor of seeds.

Array suffixes: M videos, G groups, D draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS, SEED, LEVEL = 1_000, 0, 0.95
AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A score, and where the middle ``level`` of ``draws`` draws lies of as many ``units``.

    ``low`` and ``high`` are NaN with fewer than two units, of which nothing can be said.
    """

    value: float
    low: float
    high: float
    level: float
    units: int
    draws: int
    seed: int


def mean_interval(
    score_M: NDArray[np.generic],
    *,
    group_M: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Interval:
    """Return the mean of a score of each video, with its interval.

    ``group_M`` are the films that videos come from, by number; without it each is one of its own.

    Raises:
        ValueError: if there is no video, or a score is not finite.
    """
    values_M = np.asarray(score_M, dtype=np.float64)
    if not np.isfinite(values_M).all():
        raise ValueError("a score is not finite")
    unit_M, units = _units(len(values_M), group_M)
    sums_U = np.bincount(unit_M, values_M, units)
    counts_U = np.bincount(unit_M, minlength=units).astype(np.float64)
    rng = np.random.default_rng(seed)
    parts = []
    step = max(1, AT_ONCE // units)
    for first in range(0, draws, step):
        size = min(step, draws - first)
        times_DU = rng.multinomial(units, np.full(units, 1 / units), size=size)
        parts.append(times_DU @ sums_U / (times_DU @ counts_U))
    return _interval(float(values_M.mean()), np.concatenate(parts), units, draws, seed)


def interval_of(
    statistic: Callable[[NDArray[np.int64]], float],
    count: int,
    *,
    group_M: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Interval:
    """Return any ``statistic`` of ``count`` videos, with its interval.

    It is given which videos are drawn, a number as often as it is drawn; first all of them once. A
    draw of which it makes NaN, as one without a class, is left out.

    Raises:
        ValueError: if there is no video.
    """
    unit_M, units = _units(count, group_M)
    members = np.split(np.argsort(unit_M, kind="stable"), np.cumsum(np.bincount(unit_M))[:-1])
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        chosen = rng.integers(units, size=units)
        values[draw] = statistic(np.concatenate([members[unit] for unit in chosen]))
    return _interval(statistic(np.arange(count)), values, units, draws, seed)


def _units(count: int, group_M: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], int]:
    """Return the number of each video's unit of drawing, and how many units there are."""
    if count == 0:
        raise ValueError("an interval of no video")
    if group_M is None:
        return np.arange(count), count
    if group_M.shape != (count,):
        raise ValueError(f"groups of shape {group_M.shape} for {count} videos")
    present, unit_M = np.unique(group_M, return_inverse=True)
    return unit_M.reshape(-1), len(present)


def _interval(
    value: float, values_D: NDArray[np.float64], units: int, draws: int, seed: int
) -> Interval:
    known_D = values_D[np.isfinite(values_D)]
    if units < 2 or not len(known_D):
        return Interval(value, np.nan, np.nan, LEVEL, units, draws, seed)
    rest = (1 - LEVEL) / 2
    low, high = np.quantile(known_D, (rest, 1 - rest))
    return Interval(value, float(low), float(high), LEVEL, units, draws, seed)
