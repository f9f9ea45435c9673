"""Nearest neighbours by cosine: a weighted vote (kNN), and retrieval.

kNN: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR
2018, https://arxiv.org/abs/1805.01978, section 3.4: each of the k nearest votes for its class with
``exp(cosine / T)``; there k is 200 and T 0.07. Here votes are divided by their sum, which changes
no ranking.

Retrieval: as in CoCLR's released code (Han et al., NeurIPS 2020, https://arxiv.org/abs/2010.09709):
the mean of its own set is subtracted from each feature, cosine, and R@k is the share of queries
with one of their class among the k nearest. Videos that could not be read, which count as wrong
here, are left out there.

Similarities are computed in float32. Of equal ones the row that comes first in the gallery is the
nearer; every column of a product goes through the same sums, so equal rows are equally near.

Array suffixes: N gallery rows, M queries, C neighbours, F features, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

QUERIES, ROWS = 1024, 4096
"""Of one product: 16 MiB of similarities, and 32 MiB of the gallery at F 2048."""
RANKS = (1, 5, 10, 20, 50)


@dataclass(frozen=True)
class LeaveOut:
    """Which gallery rows a query may not see: those of its own group.

    ``gallery`` and ``query`` are numbers of groups, as of the film that a clip was cut from.
    """

    gallery: NDArray[np.int64]
    query: NDArray[np.int64]

    @classmethod
    def itself(cls, count: int) -> Self:
        """Leave one out: gallery and queries are the same ``count`` rows."""
        return cls(np.arange(count), np.arange(count))

    @classmethod
    def group(cls, group_N: NDArray[np.int64]) -> Self:
        """Leave the own group out: gallery and queries are the same rows, in these groups."""
        return cls(group_N, group_N)


def nearest(
    train_NF: NDArray[np.floating],
    test_MF: NDArray[np.floating],
    count: int,
    *,
    leave_out: LeaveOut | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return rows and cosines ``(M, C)`` of the ``count`` nearest, the nearest first.

    C is ``count``, or N if that is less. Where fewer rows may be seen the row is -1 and the cosine
    -inf. A feature of zeros has the cosine 0 with all.

    Memory besides the arguments and the result: neither set is ever copied whole; some 200 MiB at
    F 2048 and C 200, however large N and M are.

    Raises:
        ValueError: if the features are not finite, do not agree in F, or ``count`` is not positive.
    """
    _require(train_NF, test_MF, count, leave_out)
    count = min(count, len(train_NF))
    rows_MC = np.empty((len(test_MF), count), np.int64)
    cosines_MC = np.empty((len(test_MF), count), np.float32)
    for first in range(0, len(test_MF), QUERIES):
        part = slice(first, first + QUERIES)
        mine = None
        if leave_out is not None:
            mine = LeaveOut(leave_out.gallery, leave_out.query[part])
        rows_MC[part], cosines_MC[part] = _nearest(train_NF, unit(test_MF[part]), count, mine)
    return rows_MC, cosines_MC


def knn_scores(
    train_NF: NDArray[np.floating],
    labels_N: NDArray[np.integer] | NDArray[np.bool_],
    test_MF: NDArray[np.floating],
    *,
    k: int,
    temperature: float,
    classes: int,
    leave_out: LeaveOut | None = None,
) -> NDArray[np.float64]:
    """Return the share of the votes that each class gets, ``(M, K)``.

    ``labels_N`` may be ``(N, K)`` of booleans, where a row votes for each of its classes; shares
    then need not sum to 1. Where no neighbour may be seen all shares are 0.

    Raises:
        ValueError: as :func:`nearest`, or if labels are not classes or the temperature is not
            positive.
    """
    near = nearest(train_NF, test_MF, k, leave_out=leave_out)
    return vote(*near, labels_N, temperature=temperature, classes=classes)


def vote(
    rows_MC: NDArray[np.int64],
    cosines_MC: NDArray[np.float32],
    labels_N: NDArray[np.integer] | NDArray[np.bool_],
    *,
    temperature: float,
    classes: int,
) -> NDArray[np.float64]:
    """Return :func:`knn_scores` of neighbours that are known already.

    Raises:
        ValueError: if labels are not classes, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")
    weights_MC = np.zeros(cosines_MC.shape)
    if cosines_MC.size:
        # Against the nearest, so that no small temperature overflows.
        away_MC = cosines_MC.astype(np.float64) - np.maximum(cosines_MC[:, :1], -1.0)
        weights_MC = np.where(rows_MC >= 0, np.exp(away_MC / temperature), 0.0)
    total_M = weights_MC.sum(axis=1, keepdims=True)
    weights_MC = np.divide(weights_MC, total_M, out=np.zeros_like(weights_MC), where=total_M > 0)
    scores_MK = np.zeros((len(rows_MC), classes))
    query = np.arange(len(rows_MC))
    if labels_N.ndim == 2:
        if labels_N.shape[1] != classes:
            raise ValueError(f"expected labels of {classes} classes, got {labels_N.shape[1]}")
        for place in range(rows_MC.shape[1]):
            scores_MK += weights_MC[:, place, None] * labels_N[rows_MC[:, place]]
        return scores_MK
    require_classes(labels_N, classes)
    for place in range(rows_MC.shape[1]):  # one place of each query: no class twice at once
        scores_MK[query, labels_N[rows_MC[:, place]]] += weights_MC[:, place]
    return scores_MK


def first_right(
    train_NF: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    test_MF: NDArray[np.floating],
    labels_M: NDArray[np.integer],
    *,
    most: int = RANKS[-1],
    centre: bool = True,
    leave_out: LeaveOut | None = None,
) -> NDArray[np.int64]:
    """Return at which place, from 1, each query finds one of its class; 0: not among the ``most``.

    Raises:
        ValueError: as :func:`nearest`.
    """
    if centre:
        train_NF, test_MF = centred(train_NF), centred(test_MF)
    rows_MC, _ = nearest(train_NF, test_MF, most, leave_out=leave_out)
    right_MC = (rows_MC >= 0) & (labels_N[rows_MC] == labels_M[:, None])
    return np.where(right_MC.any(axis=1), right_MC.argmax(axis=1) + 1, 0)


def retrieval(
    train_NF: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    test_MF: NDArray[np.floating],
    labels_M: NDArray[np.integer],
    *,
    at: Sequence[int] = RANKS,
    centre: bool = True,
    leave_out: LeaveOut | None = None,
    failed: int = 0,
) -> dict[int, float]:
    """Return R@k for each k of ``at``; ``failed`` queries without features find nothing.

    Raises:
        ValueError: as :func:`nearest`, or if there is no query.
    """
    place_M = first_right(
        *(train_NF, labels_N, test_MF, labels_M),
        most=max(at),
        centre=centre,
        leave_out=leave_out,
    )
    return recalls(place_M, at, failed=failed)


def recalls(
    place_M: NDArray[np.int64], at: Sequence[int] = RANKS, *, failed: int = 0
) -> dict[int, float]:
    """Return R@k by k, given what :func:`first_right` found.

    Raises:
        ValueError: if there is no query.
    """
    expected = len(place_M) + failed
    if not expected:
        raise ValueError("retrieval without a query")
    return {k: float(((place_M > 0) & (place_M <= k)).sum() / expected) for k in at}


def centred(features_NF: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return features less their mean, ``(N, F)``."""
    mean_F = features_NF.mean(axis=0, dtype=np.float64) if len(features_NF) else 0.0
    less_NF: NDArray[np.float32] = np.subtract(features_NF, mean_F, dtype=np.float32)
    return less_NF


def unit(features_NF: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return features of length 1, ``(N, F)``; those of zeros stay so."""
    single_NF = np.asarray(features_NF, dtype=np.float32)
    length_N = np.sqrt(np.einsum("nf,nf->n", single_NF, single_NF, dtype=np.float64))
    unit_NF: NDArray[np.float32] = (
        single_NF / np.where(length_N > 0, length_N, 1.0).astype(np.float32)[:, None]
    )
    return unit_NF


def require_classes(labels_N: NDArray[np.integer] | NDArray[np.bool_], classes: int) -> None:
    """Refuse labels that are not classes from 0 on.

    Raises:
        ValueError: with the first such label.
    """
    numbers_N = labels_N.astype(np.int64)
    wrong = np.flatnonzero((numbers_N < 0) | (numbers_N >= classes))
    if len(wrong):
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {numbers_N[wrong[0]]}")


def _nearest(
    train_NF: NDArray[np.floating],
    query_MF: NDArray[np.float32],
    count: int,
    leave_out: LeaveOut | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest of a chunk of queries, given at length 1, over the gallery's chunks."""
    rows_MC = np.full((len(query_MF), count), -1, np.int64)
    cosines_MC = np.full((len(query_MF), count), -np.inf, np.float32)
    for first, chunk_RF in _chunks(train_NF):
        size = min(ROWS, len(train_NF) - first)
        alike_MR = (query_MF @ chunk_RF.T)[:, :size]
        if leave_out is not None:
            own = leave_out.gallery[first : first + size]
            alike_MR[own[None, :] == leave_out.query[:, None]] = -np.inf
        _take_over(rows_MC, cosines_MC, alike_MR, first)
    return rows_MC, cosines_MC


def _chunks(train_NF: NDArray[np.floating]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Give (first row, rows of length 1), as many each time: the last are filled with zeros.

    A product of another size, or a column at its edge, may be summed in another order.
    """
    size = min(ROWS, -(-len(train_NF) // 64) * 64)
    for first in range(0, len(train_NF), ROWS):
        chunk_RF = np.zeros((size, train_NF.shape[1]), np.float32)
        part_RF = unit(train_NF[first : first + ROWS])
        chunk_RF[: len(part_RF)] = part_RF
        yield first, chunk_RF


def _take_over(
    rows_MC: NDArray[np.int64],
    cosines_MC: NDArray[np.float32],
    alike_MR: NDArray[np.float32],
    first: int,
) -> None:
    """Put what is nearer of a chunk of the gallery among the nearest so far."""
    queries, count = rows_MC.shape
    floor_M = cosines_MC[:, -1:]
    # What only equals the last comes later in the gallery, so it is farther.
    nearer_MR = alike_MR > floor_M
    if nearer_MR.sum() > 4 * queries * count and alike_MR.shape[1] > count:
        least_M = np.partition(alike_MR, -count, axis=1)[:, -count, None]
        nearer_MR &= alike_MR >= least_M
    query, column = np.nonzero(nearer_MR)
    if not len(query):
        return
    queries_all = np.concatenate([np.repeat(np.arange(queries), count), query])
    rows_all = np.concatenate([rows_MC.reshape(-1), column + first])
    cosines_all = np.concatenate([cosines_MC.reshape(-1), alike_MR[query, column]])
    order = np.lexsort((rows_all, -cosines_all, queries_all))
    starts = np.searchsorted(queries_all[order], np.arange(queries))
    kept = order[starts[:, None] + np.arange(count)]
    rows_MC[:], cosines_MC[:] = rows_all[kept], cosines_all[kept]


def _require(
    train_NF: NDArray[np.floating],
    test_MF: NDArray[np.floating],
    count: int,
    leave_out: LeaveOut | None,
) -> None:
    shapes = f"{train_NF.shape} and {test_MF.shape}"
    if train_NF.ndim != 2 or test_MF.ndim != 2 or train_NF.shape[1] != test_MF.shape[1]:
        raise ValueError(f"expected features (N, F) and (M, F), got {shapes}")
    if count < 1:
        raise ValueError(f"expected at least 1 neighbour, got {count}")
    for name, features in (("gallery", train_NF), ("query", test_MF)):
        for first in range(0, len(features), ROWS):
            if not np.isfinite(features[first : first + ROWS]).all():
                raise ValueError(f"the {name} features are not finite")
    if leave_out is None:
        return
    found = (leave_out.gallery.shape, leave_out.query.shape)
    if found != ((len(train_NF),), (len(test_MF),)):
        raise ValueError(f"groups of shapes {found} for features {shapes}")
