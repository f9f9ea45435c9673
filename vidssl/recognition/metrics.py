"""How right class scores are: top-k and class accuracy of one label a video, mAP of several.

Equal scores: the true class takes each place among those that score as it does with the same
chance, and what counts is the expected value. So a network that scores all classes alike has a
top-k of k / K, which is chance; the order of the classes in memory decides nothing.

Average precision is the step sum ``sum_n (R_n - R_{n-1}) P_n`` over distinct scores, without
interpolation, as scikit-learn computes it and as Charades is scored (Sigurdsson et al., ECCV 2016,
https://arxiv.org/abs/1604.01753). AVA's, which interpolates, is ``vidssl.ava.mean_ap``.

Array suffixes: N videos, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def top_k(scores_NK: NDArray[np.floating[Any]], label_N: NDArray[np.int64], k: int) -> Floats:
    """Return the chance that each video's class is among its ``k`` best, ``(N,)``: 0 or 1 unless
    other classes score the same.

    Raises:
        ValueError: if ``k`` is not positive, or a score is not a number.
    """
    if k < 1:
        raise ValueError(f"expected k of at least 1, got {k}")
    if np.isnan(scores_NK).any():
        raise ValueError("a score is not a number")
    own_N1 = np.take_along_axis(scores_NK, label_N[:, None], axis=1)
    better_N = (scores_NK > own_N1).sum(axis=1)
    equal_N = (scores_NK == own_N1).sum(axis=1)
    return np.asarray(np.clip((k - better_N) / equal_N, 0.0, 1.0), dtype=np.float64)


def by_class(value_N: Floats, label_N: NDArray[np.int64], classes: int) -> Floats:
    """Return the mean over each class's videos, ``(K,)``; NaN for a class without any."""
    count_K = np.bincount(label_N, minlength=classes)
    sum_K = np.bincount(label_N, weights=value_N, minlength=classes)
    nothing = np.full(classes, np.nan)
    return np.asarray(np.divide(sum_K, count_K, out=nothing, where=count_K > 0))


def average_precision(
    score_N: NDArray[np.float32], is_true_N: NDArray[np.bool_], positives: int | None = None
) -> float:
    """Return the average precision of one class; NaN without positives.

    ``positives`` counts more of them than ``is_true_N`` where some were never scored: they are
    never found.
    """
    positives = int(is_true_N.sum()) if positives is None else positives
    if positives == 0:
        return float("nan")
    order = np.argsort(score_N, kind="stable")[::-1]
    falling_N = score_N[order]
    last = np.flatnonzero(np.append(falling_N[1:] != falling_N[:-1], True)[: len(order)])
    found = np.cumsum(is_true_N[order])[last]
    new = np.diff(found, prepend=0)
    return float((new * (found / (last + 1))).sum() / positives)


def class_precisions(
    scores_NK: NDArray[np.float32],
    truth_NK: NDArray[np.bool_],
    positives_K: NDArray[np.int64] | None = None,
) -> Floats:
    """Return the average precision of every class, ``(K,)``; NaN for one without positives."""
    if positives_K is None:
        positives_K = truth_NK.sum(axis=0)
    columns = zip(scores_NK.T, truth_NK.T, positives_K.tolist(), strict=True)
    return np.array([average_precision(*column) for column in columns])


def mean_of(value_K: Floats) -> float:
    """Return the mean over classes that have a value; NaN if none has."""
    known = value_K[~np.isnan(value_K)]
    return float(known.mean()) if len(known) else float("nan")


def confusion(
    scores_NK: NDArray[np.float32], label_N: NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    """Return (true class, best-scored class, videos), most videos first, no row of none.

    Of classes that score the same the lowest number stands for the best.
    """
    classes = scores_NK.shape[1]
    pairs, counts = np.unique(label_N * classes + scores_NK.argmax(axis=1), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        (int(p // classes), int(p % classes), int(n))
        for p, n in zip(pairs[order], counts[order], strict=True)
    ]
