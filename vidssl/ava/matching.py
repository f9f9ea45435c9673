"""Boxes against the ground truth of the same frame and class, all frames at once.

A *cell* is a frame and a class as one number; only rows of one cell meet.
Array suffixes: N predicted rows, M ground-truth rows, K pairs of them.
"""

import numpy as np
from numpy.typing import NDArray

from vidssl.boxes import Boxes, area

NONE = -1
ID_LIMIT = 1 << 20  # action ids are below it


def cells(frame_N: NDArray[np.int64], action_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return frame and class as one number, ``(N,)``."""
    return frame_N * ID_LIMIT + action_N


def best_truth(
    truth_cell_M: NDArray[np.int64],
    truth_box_M4: Boxes,
    cell_N: NDArray[np.int64],
    box_N4: Boxes,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the row of the ground truth that each box overlaps most, and their IoU, ``(N,)`` both.

    Of equal overlaps the first row counts. In a cell without ground truth the row is ``NONE`` and
    the IoU 0.
    """
    truth_K, count = pairs(truth_cell_M, cell_N)
    begin = np.cumsum(count) - count  # of each box's pairs
    iou_K = paired_iou(np.repeat(box_N4, count, axis=0), truth_box_M4[truth_K])

    row_N = np.full(len(cell_N), NONE, dtype=np.int64)
    iou_N = np.zeros(len(cell_N))
    met = count > 0
    if met.any():
        iou_N[met] = np.maximum.reduceat(iou_K, begin[met])
        tops = np.flatnonzero(iou_K == np.repeat(iou_N, count))
        row_N[met] = truth_K[tops[np.searchsorted(tops, begin[met])]]
    return row_N, iou_N


def pairs(
    truth_cell_M: NDArray[np.int64], cell_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ground-truth rows of each row's cell, row by row, and how many they are.

    ``(K,)`` and ``(N,)``; the rows of a cell stand in their order.
    """
    order = np.argsort(truth_cell_M, kind="stable")
    start = np.searchsorted(truth_cell_M[order], cell_N, side="left")
    count = np.searchsorted(truth_cell_M[order], cell_N, side="right") - start
    begin = np.cumsum(count) - count
    within = np.arange(count.sum()) - np.repeat(begin, count)
    return order[np.repeat(start, count) + within], count


def paired_iou(one_K4: Boxes, two_K4: Boxes) -> NDArray[np.float64]:
    """Return intersection over union of ``one[k]`` with ``two[k]``, ``(K,)``; 0 without an area."""
    top_left = np.maximum(one_K4[:, :2], two_K4[:, :2])
    bottom_right = np.minimum(one_K4[:, 2:], two_K4[:, 2:])
    sides = np.clip(bottom_right - top_left, 0.0, None)
    overlap = sides[:, 0] * sides[:, 1]
    union = area(one_K4) + area(two_K4) - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def first_claims(row_N: NDArray[np.int64], hit_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which hits are the first of their ground-truth row, ``(N,)``; the order decides."""
    hits = np.flatnonzero(hit_N)
    claims = np.zeros(len(row_N), dtype=np.bool_)
    claims[hits[np.unique(row_N[hits], return_index=True)[1]]] = True
    return claims
