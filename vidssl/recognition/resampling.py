"""How far a score could have come out otherwise, had other videos been drawn: a bootstrap.

Efron, Annals of Statistics 1979: as many videos as there are, drawn with replacement, again and
again. It tells of the choice of videos alone, neither of training seeds nor of labels; videos that
were cut from one film are no independent draws, which makes the true interval wider.

Array suffixes: N videos, K classes, D draws.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS, SEED, LEVEL = 1_000, 0, 0.95
AT_ONCE = 4_000_000  # numbers of one array

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Where the middle ``level`` of the draws lies, and of how many videos and draws it is."""

    low: float
    high: float
    level: float = LEVEL
    videos: int = 0
    draws: int = DRAWS
    seed: int = SEED


def of_mean(value_N: Floats) -> Interval | None:
    """Return the interval of a mean over videos; None with fewer than two."""
    return _interval(len(value_N), lambda counts_DN: counts_DN @ value_N / len(value_N))


def of_class_mean(value_N: Floats, label_N: NDArray[np.int64]) -> Interval | None:
    """Return the interval of the mean over classes of their means; None with fewer than two videos.

    A draw without a video of some class is a mean over the others.
    """
    order = np.argsort(label_N, kind="stable")
    starts = np.flatnonzero(np.diff(label_N[order], prepend=-1))

    def mean(counts_DN: Floats) -> Floats:
        drawn_DN = counts_DN[:, order]
        count_DK = np.add.reduceat(drawn_DN, starts, axis=1)
        sum_DK = np.add.reduceat(drawn_DN * value_N[order], starts, axis=1)
        there_DK = count_DK > 0
        means_DK = np.divide(sum_DK, count_DK, out=np.zeros_like(sum_DK), where=there_DK)
        return np.asarray(means_DK.sum(axis=1) / there_DK.sum(axis=1))

    return _interval(len(value_N), mean)


def of_mean_precision(
    scores_NK: NDArray[np.float32], truth_NK: NDArray[np.bool_], scored_N: NDArray[np.bool_]
) -> Interval | None:
    """Return the interval of the mean average precision; None with fewer than two videos.

    Videos that were not ``scored`` are drawn as well: what is true of them is never found. A draw
    has some videos twice, which raises average precision: the fewer there are, the higher it is
    by chance. So the draws are moved until their mean is the score itself.
    """
    classes = np.flatnonzero(truth_NK.any(axis=0)).tolist()
    if not classes:
        return None

    def mean(counts_DN: Floats) -> Floats:
        known_D = np.zeros(len(counts_DN))
        sum_D = np.zeros(len(counts_DN))
        for k in classes:  # made anew for each: all together outgrow the memory
            one = _Ranked.of(scores_NK[:, k], truth_NK[:, k], scored_N)
            precision_D = one.precision(counts_DN)
            known_D += ~np.isnan(precision_D)
            sum_D += np.nan_to_num(precision_D)
        return np.divide(sum_D, known_D, out=np.full_like(sum_D, np.nan), where=known_D > 0)

    once = float(mean(np.ones((1, len(scores_NK))))[0])
    return _interval(len(scores_NK), mean, around=once)


@dataclass(frozen=True)
class _Ranked:
    """One class's T scored videos that are true of it, by number.

    ``above``, ``(N, T)``, says which scored videos score no less than each; ``found``, ``(T, T)``,
    which of those are true.
    """

    true: NDArray[np.int64]
    above: Floats
    found: Floats
    every_true: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        score_N: NDArray[np.float32],
        is_true_N: NDArray[np.bool_],
        scored_N: NDArray[np.bool_],
    ) -> "_Ranked":
        true = np.flatnonzero(is_true_N & scored_N)
        no_less_NT = scored_N[:, None] & (score_N[:, None] >= score_N[true][None, :])
        above_NT = no_less_NT.astype(np.float64)
        return cls(true, above_NT, above_NT[true], np.flatnonzero(is_true_N))

    def precision(self, counts_DN: Floats) -> Floats:
        """Return the average precision in each draw, ``(D,)``: over its true videos, the mean of
        how many of those that score no less are true. NaN without a true one."""
        positives_D = counts_DN[:, self.every_true].sum(axis=1)
        own_DT = counts_DN[:, self.true]
        rank_DT = counts_DN @ self.above
        area_D = (own_DT * (own_DT @ self.found) / np.maximum(rank_DT, 1)).sum(axis=1)
        nothing = np.full_like(area_D, np.nan)
        return np.asarray(np.divide(area_D, positives_D, out=nothing, where=positives_D > 0))


def _interval(
    videos: int, mean: Callable[[Floats], Floats], around: float | None = None
) -> Interval | None:
    if videos < 2:
        return None
    means = np.concatenate([mean(counts_DN) for counts_DN in _draws(videos)])
    known = means[~np.isnan(means)]
    if not len(known):
        return None
    if around is not None:
        known = np.clip(known + around - known.mean(), 0.0, 1.0)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(low, high, videos=videos)


def _draws(videos: int) -> Iterator[Floats]:
    """Give how often each video is drawn, ``(D, N)``, some draws at a time, all in all DRAWS."""
    rng = np.random.default_rng(SEED)
    step = max(1, AT_ONCE // videos)
    for first in range(0, DRAWS, step):
        chosen = rng.integers(videos, size=(min(step, DRAWS - first), videos))
        chosen += videos * np.arange(len(chosen))[:, None]
        counts = np.bincount(chosen.reshape(-1), minlength=chosen.size)
        yield counts.reshape(chosen.shape).astype(np.float64)
