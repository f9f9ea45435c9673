"""What the boxes of a prediction file allow: the score of a perfect classifier on them.

Array suffixes: N rows, B different boxes, Q pairs of such a box and an action of its key frame.
"""

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.capped import Rows
from vidssl.ava.frames import runs
from vidssl.ava.matching import best_truth, cells
from vidssl.ava.sides import Sides, count
from vidssl.boxes import Boxes


def boxes(
    frame_N: NDArray[np.int64], box_N4: Boxes, wanted_N: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Boxes]:
    """Return each different box of each key frame once, ``(B,)`` and ``(B, 4)``, by frame."""
    rows = np.flatnonzero(wanted_N)
    starts, _ = runs(frame_N[rows], *box_N4[rows].T)  # actions of one box mostly stand together
    rows = rows[starts]
    rows = rows[np.lexsort((*box_N4[rows].T, frame_N[rows]))]
    starts, _ = runs(frame_N[rows], *box_N4[rows].T)
    return frame_N[rows[starts]], box_N4[rows[starts]]


def ceiling(
    sides: Sides, found_box_N4: Boxes, ids: tuple[int, ...], iou_threshold: float = 0.5
) -> dict[int, float]:
    """Return, by class, the average precision of a classifier without mistakes on these boxes.

    ``found_box_N4`` are all boxes of the prediction file, ``(N, 4)``. Such a classifier gives one
    box of each ground-truth row that a box can claim, and nothing else: its average precision is
    the share of rows that can be claimed. A box claims what it overlaps most of each action, as in
    the score; the limit of 50 pairs a frame is lifted. NaN for a class without ground truth.
    """
    known_N = sides.counts[sides.found_frame] & ~np.isnan(found_box_N4).any(axis=1)
    frame_B, box_B4 = boxes(sides.found_frame, found_box_N4, known_N)
    truth = sides.truth
    cell = cells(truth.frame, truth.action)
    wanted = np.unique(cell, return_index=True)[1]  # by frame, then by action
    start = np.searchsorted(truth.frame[wanted], frame_B, side="left")
    size = np.searchsorted(truth.frame[wanted], frame_B, side="right") - start
    begin = np.cumsum(size) - size
    within = np.arange(size.sum()) - np.repeat(begin, size)
    cell_Q = cell[wanted][np.repeat(start, size) + within]
    row_Q, iou_Q = best_truth(cell, truth.box, cell_Q, np.repeat(box_B4, size, axis=0))
    claimed = np.zeros(len(cell), dtype=np.bool_)
    claimed[row_Q[(row_Q >= 0) & (iou_Q >= iou_threshold)]] = True
    return {label: _share(label, truth, claimed) for label in ids}


def _share(label: int, truth: Rows, claimed: NDArray[np.bool_]) -> float:
    positives = count(label, truth)
    return float(claimed[truth.action == label].sum()) / positives if positives else float("nan")
