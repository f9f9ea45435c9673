"""How far a score could have come out otherwise, had other videos been drawn: a bootstrap.

Efron, Annals of Statistics 1979: as many videos as there are, drawn with replacement, again and
again. Videos, not key frames: the frames of one film are no independent draws. The interval tells
of the choice of videos alone, neither of training seeds nor of labels.

Array suffixes: V videos, D draws, T true positives of a class by falling score.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.sides import Sides, of

DRAWS, SEED, LEVEL = 1_000, 0, 0.95
DENSE = 4_000_000  # numbers of a table of rows by true positive and video
AT_ONCE = 1_000_000  # numbers of one array, or as many as a class has rows


@dataclass(frozen=True)
class Interval:
    """Where the middle ``level`` of the draws lies, and of how many videos and draws it is.

    ``ap`` holds (low, high) by class with ground truth. A draw in which a class has no ground truth
    says nothing of that class, and its mean is taken over the other classes.
    """

    low: float
    high: float
    ap: dict[int, tuple[float, float]]
    level: float
    videos: int
    draws: int
    seed: int


def interval(
    sides: Sides,
    is_true_N: NDArray[np.bool_],
    ids: Iterable[int],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Interval | None:
    """Return the interval of the mean and of each class; None with fewer than two videos.

    ``is_true_N`` says which rows of ``sides.found`` are right.
    """
    present, video = np.unique(sides.video[sides.counts], return_inverse=True)
    if len(present) < 2:
        return None
    place = np.full(len(sides.video), -1, dtype=np.int64)
    place[sides.counts] = video
    weights_VD = draws_of(len(present), draws, seed)
    by_class = {}
    for label in ids:
        truth = place[sides.truth.frame[of(label, sides.truth)]]
        if len(truth):
            here = of(label, sides.found)
            falling = np.argsort(sides.found.score[here])[::-1]
            found = place[sides.found.frame[here]][falling]
            by_class[label] = resampled(is_true_N[here][falling], found, truth, weights_VD)
    if not by_class:
        return None
    low, high = _middle(_mean(np.stack([*by_class.values()])))
    ap = {label: _middle(values_D) for label, values_D in by_class.items()}
    return Interval(low, high, ap, LEVEL, len(present), draws, seed)


def resampled(
    is_true_N: NDArray[np.bool_],
    video_N: NDArray[np.int64],
    truth_video_M: NDArray[np.int64],
    weights_VD: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the average precision of a class in each draw, ``(D,)``; NaN without ground truth.

    The predictions stand by falling score. A video drawn ``w`` times has each of its rows ``w``
    times, one after the other. The curve is followed from one true positive to the next: only there
    does the recall rise, and between them the precision falls.
    """
    videos, draws = weights_VD.shape
    positives_D = np.bincount(truth_video_M, minlength=videos) @ weights_VD
    true = np.flatnonzero(is_true_N)
    if not len(true):
        return _ratio(np.zeros(draws), positives_D)
    # What follows the last true positive counts for none.
    video_N = video_N[: true[-1] + 1]
    few = len(true) * videos <= max(DENSE, len(video_N))  # then a product of matrices is faster
    rows_TV = _by_video(true, video_N, videos) if few else None
    step = max(1, AT_ONCE // (len(true) if few else len(video_N)))
    starts_T = np.concatenate([[0], true[:-1] + 1])
    parts = []
    for first in range(0, draws, step):
        some_VD = weights_VD[:, first : first + step]
        own_TD = some_VD[video_N[true]]
        if rows_TV is not None:
            between_TD = rows_TV @ some_VD
        else:
            between_TD = np.add.reduceat(some_VD[video_N], starts_T, axis=0)
        rank_TD = np.cumsum(between_TD, axis=0)
        precision_TD = np.cumsum(own_TD, axis=0) / np.maximum(rank_TD, 1)
        envelope_TD = np.maximum.accumulate(precision_TD[::-1], axis=0)[::-1]
        parts.append((own_TD * envelope_TD).sum(axis=0))
    return _ratio(np.concatenate(parts), positives_D)


def resampled_trapezoids(
    is_true_N: NDArray[np.bool_],
    video_N: NDArray[np.int64],
    truth_video_M: NDArray[np.int64],
    weights_VD: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the area under precision over recall of a class in each draw, ``(D,)``.

    As :func:`resampled`, but straight from point to point from (1, 0), without an envelope.
    """
    videos, draws = weights_VD.shape
    positives_D = np.bincount(truth_video_M, minlength=videos) @ weights_VD
    true = np.flatnonzero(is_true_N)
    if not len(true):
        return _ratio(np.zeros(draws), positives_D)
    starts_T = np.concatenate([[0], true[:-1] + 1])
    step = max(1, AT_ONCE // len(video_N))
    areas = []
    for first in range(0, draws, step):
        some_VD = weights_VD[:, first : first + step]
        own_TD = some_VD[video_N[true]]
        rank_TD = np.cumsum(np.add.reduceat(some_VD[video_N[: true[-1] + 1]], starts_T), axis=0)
        before_TD, right_TD = rank_TD - own_TD, np.cumsum(own_TD, axis=0) - own_TD
        area_D = np.zeros(some_VD.shape[1])
        for copy in range(int(own_TD.max())):  # each copy of a row is a point of its own
            at_TD = before_TD + copy
            one_TD = np.where(at_TD > 0, (right_TD + copy) / np.maximum(at_TD, 1), 1.0)
            two_TD = (right_TD + copy + 1) / (at_TD + 1)
            area_D += np.where(own_TD > copy, (one_TD + two_TD) / 2, 0.0).sum(axis=0)
        areas.append(area_D)
    return _ratio(np.concatenate(areas), positives_D)


def draws_of(videos: int, draws: int = DRAWS, seed: int = SEED) -> NDArray[np.float64]:
    """Return how often each video is drawn, ``(V, D)``."""
    chances = np.full(videos, 1 / videos)
    rng = np.random.default_rng(seed)
    return rng.multinomial(videos, chances, size=draws).T.astype(np.float64)


def middle_of_mean(ap_CD: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the interval of the mean over classes; NaN if no draw has any."""
    return _middle(_mean(ap_CD))


def _by_video(
    true_T: NDArray[np.int64], video_N: NDArray[np.int64], videos: int
) -> NDArray[np.float64]:
    """Return how many rows of each video follow one true positive up to the next, ``(T, V)``."""
    part_N = np.searchsorted(true_T, np.arange(len(video_N)))
    counts = np.bincount(part_N * videos + video_N, minlength=len(true_T) * videos)
    return counts.reshape(len(true_T), videos).astype(np.float64)


def _middle(values_D: NDArray[np.float64]) -> tuple[float, float]:
    known = values_D[~np.isnan(values_D)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def _ratio(areas_D: NDArray[np.float64], positives_D: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(areas_D, positives_D, out=np.full_like(areas_D, np.nan), where=positives_D > 0)


def _mean(ap_CD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the classes that a draw has, ``(D,)``; NaN if it has none."""
    known = ~np.isnan(ap_CD)
    return _ratio(np.where(known, ap_CD, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))
