"""What a score loses to each kind of error: what it gains when errors of that kind are mended.

After TIDE (Bolya, Foley, Hays and Hoffman, ECCV 2020, https://arxiv.org/abs/2008.08115). Its two
thresholds are kept: a box is on someone from IoU 0.5 and near someone from 0.1. Different here,
where a person has several actions and a detector scores every action for every box:

- a box on an annotated person with an action that is not theirs is ``wrong class`` even where
  somebody near has that action, which TIDE would call a wrong place;
- ``wrong class`` is mended by taking the row away; TIDE gives it the right class;
- rows near a person whose action is not theirs, TIDE's "both", are ``wrong class and place``;
- what is missed is told apart: ``missed by proposals``, where no box of the file is on the person,
  and ``missed on a box``, where one is (the row is not in the file, fell to the limit of 50 pairs,
  or claims another). Both are mended by not asking for them, as in TIDE;
- a box asks for the ground truth it overlaps most, taken or not, as the protocols do.

As in TIDE each kind is mended alone, so that the gains do not add up to what is missing.

Array suffixes: N predicted rows, M ground-truth rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.capped import Rows
from vidssl.ava.labels import LabelMap
from vidssl.ava.matching import best_truth, first_claims
from vidssl.ava.mean_ap import average_precision, mean_of
from vidssl.ava.proposals import boxes
from vidssl.ava.sides import Sides, count, of
from vidssl.boxes import Boxes

ON, NEAR = 0.5, 0.1
RIGHT = "right"
DUPLICATE, CLASS, PLACE = "duplicate", "wrong class", "wrong place"
BOTH, BACKGROUND = "wrong class and place", "background"
NO_BOX, ON_A_BOX = "missed by proposals", "missed on a box"
FALSE = (CLASS, PLACE, BOTH, DUPLICATE, BACKGROUND)
KINDS = (*FALSE, NO_BOX, ON_A_BOX)


@dataclass(frozen=True)
class Error:
    """One kind of error: rows that are such, and the mean average precision without them."""

    kind: str
    rows: int
    gain: float


@dataclass(frozen=True)
class Sorted:
    """Every predicted row by what is wrong with it, and every ground-truth row that is missed.

    ``kind`` is ``(N,)``, ``RIGHT`` or one of ``FALSE``; ``missed`` is ``(M,)``, empty where the row
    was claimed. ``row`` is the ground truth of its own action that a prediction overlaps most.
    """

    kind: NDArray[np.str_]
    missed: NDArray[np.str_]
    row: NDArray[np.int64]


def budget(sides: Sides, truth_box_M4: Boxes, found_box_N4: Boxes, labels: LabelMap) -> list[Error]:
    """Return what mending each kind of error would gain, most first.

    The boxes are those of all rows of the two files, in their order.
    """
    found = sort_errors(sides, truth_box_M4, found_box_N4)
    present = found.kind == RIGHT
    nothing = np.zeros(len(sides.truth.frame), dtype=np.bool_)
    base = _mean(sides, labels, present, np.ones(len(present), dtype=np.bool_), nothing)
    errors = []
    for kind in KINDS:
        mended = _mended(sides, found, labels, kind)
        rows = int((found.kind == kind).sum() + (found.missed == kind).sum())
        errors.append(Error(kind, rows, mended - base))
    return sorted(errors, key=lambda error: -error.gain)


def sort_errors(sides: Sides, truth_box_M4: Boxes, found_box_N4: Boxes) -> Sorted:
    """Return what is wrong with each row; the boxes are those of all rows of the two files."""
    row, iou = sides.best
    is_true = first_claims(row, (iou >= ON) & (row >= 0))
    people = _people(sides, truth_box_M4)
    _, anyone = best_truth(*people, sides.found.frame, sides.found.box)
    kind = np.select(
        [is_true, iou >= ON, anyone >= ON, iou >= NEAR, anyone >= NEAR],
        [RIGHT, DUPLICATE, CLASS, PLACE, BOTH],
        BACKGROUND,
    )
    claimed = np.zeros(len(sides.truth.frame), dtype=np.bool_)
    claimed[row[is_true]] = True
    known = sides.counts[sides.found_frame] & ~np.isnan(found_box_N4).any(axis=1)
    proposals = boxes(sides.found_frame, found_box_N4, known)
    _, boxed = best_truth(*proposals, sides.truth.frame, sides.truth.box)
    missed = np.select([claimed, boxed >= ON], ["", ON_A_BOX], NO_BOX)
    return Sorted(kind, missed, row)


def _people(sides: Sides, box_M4: Boxes) -> tuple[NDArray[np.int64], Boxes]:
    """Return everyone annotated, those too whose actions are not scored, by key frame."""
    known = sides.counts[sides.truth_frame] & ~np.isnan(box_M4).any(axis=1)
    return boxes(sides.truth_frame, box_M4, known)


def _mended(sides: Sides, found: Sorted, labels: LabelMap, kind: str) -> float:
    """Return the mean average precision with one kind of error mended."""
    right, stays = found.kind == RIGHT, found.kind != kind
    if kind == PLACE:
        # Moved onto the person, the best of them is right unless somebody has claimed that row.
        free = found.kind == PLACE
        free[free] = found.missed[found.row[free]] != ""
        moved = _best_of_each(sides.found, found.row, free)
        right, stays = right | moved, stays | moved
    left_out = found.missed == kind
    return _mean(sides, labels, right, stays, left_out)


def _best_of_each(
    rows: Rows, row_N: NDArray[np.int64], free_N: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return the best row for each ground-truth row, ``(N,)``; of equal scores the first."""
    order = np.argsort(-rows.score, kind="stable")
    best = np.zeros(len(row_N), dtype=np.bool_)
    best[order] = first_claims(row_N[order], free_N[order])
    return best


def _mean(
    sides: Sides,
    labels: LabelMap,
    right_N: NDArray[np.bool_],
    stays_N: NDArray[np.bool_],
    left_out_M: NDArray[np.bool_],
) -> float:
    """Return the mean over the classes with ground truth; 1 for one with nothing left to find."""
    ap = {}
    for label in labels.ids:
        here = of(label, sides.found)
        falling = np.argsort(sides.found.score[here])[::-1]
        falling = falling[stays_N[here][falling]]
        asked = count(label, sides.truth)
        left = asked - int(left_out_M[of(label, sides.truth)].sum())
        area = average_precision(right_N[here][falling], left)
        ap[label] = 1.0 if asked and not left else area
    return mean_of(ap, labels.size)
