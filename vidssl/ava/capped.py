"""The order in which the official program takes rows, without its heaps where they do not show.

Its reader (github.com/activitynet/ActivityNet, Evaluation/get_ava_performance.py) pushes every row
onto a heap of its frame, of at most 50 entries in predictions, and sorts what is left by falling
score. The heap can be told from the outcome only among equal scores: where kept rows of one action
tie, or a kept row ties with one that is not. In those frames the heap is played through; everywhere
else sorting gives what the heap gives.

Array suffixes: N rows, K rows that are kept, F groups of one size, S their size.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.frames import numbered, runs
from vidssl.boxes import Boxes

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Boxes of the ground truth or of the predictions: ``(N,)``, ``(N,)``, ``(N, 4)``, ``(N,)``."""

    frame: Numbers
    action: Numbers
    box: Boxes
    score: NDArray[np.float64]

    def take(self, which: NDArray[np.bool_] | Numbers) -> "Rows":
        """Return some of the rows."""
        rows = np.flatnonzero(which) if which.dtype == np.bool_ else which
        frame, action = self.frame.take(rows), self.action.take(rows)
        return Rows(frame, action, self.box.take(rows, axis=0), self.score.take(rows))


def by_action(rows: Rows) -> Numbers:
    """Return all rows, ``(N,)``: by action, frames as they first appear, then in file order."""
    order = np.argsort(numbered(rows.frame), kind="stable")
    return order[_stable(rows.action[order])]


def by_action_officially(rows: Rows, limit: int) -> Numbers:
    """Return the rows that count, ``(K,)``: by action, frames as they first appear, then by score.

    At most ``limit`` rows of a frame count, all where that is 0.
    """
    frame = numbered(rows.frame)
    order = np.argsort(frame, kind="stable")
    starts, sizes = runs(frame[order])
    kept, unclear = _cut(rows.score[order], starts, sizes, limit)

    chosen = order[kept]
    chosen = chosen[_stable(rows.action[chosen])]
    chosen, tied = _by_falling_score(chosen, rows)
    unclear[frame[tied]] = True
    if not unclear.any():
        return chosen
    heaped = [
        _heaped(rows, order[start : start + size], limit)
        for start, size in zip(starts[unclear].tolist(), sizes[unclear].tolist(), strict=True)
    ]
    chosen = np.concatenate([chosen[~unclear[frame[chosen]]], *heaped])
    return chosen[_stable(rows.action[chosen] * len(starts) + frame[chosen])]


def _cut(
    score_N: NDArray[np.float64], starts: Numbers, sizes: Numbers, limit: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows are among the best of their frame, and the frames where that is unclear."""
    kept = np.ones(len(score_N), dtype=np.bool_)
    unclear = np.zeros(len(starts), dtype=np.bool_)
    unclear[np.repeat(np.arange(len(starts)), sizes)[np.isnan(score_N)]] = True
    for groups, at_FS in _by_size(starts, sizes) if limit else ():
        cut = at_FS.shape[1] - limit
        if cut <= 0:
            continue
        score_FS = score_N[at_FS]
        parted_FS = np.partition(score_FS, (cut - 1, cut), axis=1)
        unclear[groups] |= parted_FS[:, cut - 1] == parted_FS[:, cut]
        kept[at_FS] = score_FS >= parted_FS[:, cut, None]
    return kept, unclear


def _by_falling_score(chosen_K: Numbers, rows: Rows) -> tuple[Numbers, Numbers]:
    """Return the rows sorted within each cell of action and frame, and one of each that has a tie.

    The rows of a cell stand together.
    """
    starts, sizes = runs(rows.action[chosen_K], rows.frame[chosen_K])
    score_K = rows.score[chosen_K]
    sorted_K = chosen_K.copy()
    tied = [chosen_K[:0]]
    for _, at_FS in _by_size(starts, sizes):
        if at_FS.shape[1] == 1:
            continue
        score_FS = -score_K[at_FS]
        falling_FS = np.argsort(score_FS, axis=1, kind="stable")
        sorted_K[at_FS] = np.take_along_axis(chosen_K[at_FS], falling_FS, axis=1)
        score_FS = np.take_along_axis(score_FS, falling_FS, axis=1)
        ties_F = (score_FS[:, 1:] == score_FS[:, :-1]).any(axis=1)
        tied.append(chosen_K[at_FS[ties_F, 0]])
    return sorted_K, np.concatenate(tied)


def _heaped(rows: Rows, frame_S: Numbers, limit: int) -> Numbers:
    """Return the rows that the official reader keeps of one frame's, in its order."""
    x1, y1, x2, y2 = rows.box[frame_S].T.tolist()
    score, action = rows.score[frame_S].tolist(), rows.action[frame_S].tolist()
    heap: list[tuple[float, ...]] = []
    places: dict[tuple[float, ...], list[int]] = {}
    for row, entry in enumerate(zip(score, action, y1, x1, y2, x2, strict=True)):
        if not limit or len(heap) < limit:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)
        else:
            continue
        places.setdefault(entry, []).append(row)
    # Rows of one entry are alike in everything, so that any of them will do.
    heap.sort(key=lambda entry: -entry[0])
    return frame_S[[places[entry].pop() for entry in heap]]


def _by_size(starts: Numbers, sizes: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Give, for each size, the groups that have it and where their rows are, (F,) and (F, S)."""
    for size in np.unique(sizes):
        groups = np.flatnonzero(sizes == size)
        yield groups, starts[groups, None] + np.arange(size)


def _stable(keys_N: Numbers) -> Numbers:
    """Return the order by ``keys_N``; small keys are sorted by their digits, which is faster."""
    if len(keys_N) and keys_N.min() >= 0 and keys_N.max() < 1 << 16:
        keys_N = keys_N.astype(np.uint16)
    return np.argsort(keys_N, kind="stable")
