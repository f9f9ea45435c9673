"""Mean average precision over action boxes, number for number as two published programs give it.

``activitynet`` is the official one (Gu et al., CVPR 2018, https://arxiv.org/abs/1705.08421;
github.com/activitynet/ActivityNet, Evaluation/get_ava_performance.py): boxes are taken by falling
score, the 50 best (box, action) pairs of a key frame count, predictions outside the key frames of
the ground truth are ignored, and exclusions are left to whoever makes the files.

``slowfast`` is the copy in PySlowFast and Long-Term Feature Banks
(facebookresearch/SlowFast, slowfast/utils/ava_eval_helper.py): boxes are taken in the order of the
file, without a limit, predictions outside the ground truth are false positives, and excluded key
frames leave both sides. Times are whole seconds and key frames without a box cannot be said.

Both: a box may only claim the ground truth of its class that it overlaps most; a second claim is a
false positive and is not passed on. Average precision is the area under the interpolated curve (all
points, Pascal VOC 2010). Ties of the score fall as they do there, in the reverse of an unstable
sort, so they depend on the order of the rows.

Array suffixes: N rows.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.annotations import Annotations, Predictions
from vidssl.ava.columns import NOBODY
from vidssl.ava.explain import explain_zero
from vidssl.ava.frames import frame_codes, frame_columns, numbered
from vidssl.ava.labels import LabelMap
from vidssl.ava.matching import best_truth, cells, first_claims
from vidssl.boxes import Boxes
from vidssl.errors import AnnotationError, listed

__all__ = ["Protocol", "Score", "average_precision", "explain_zero", "mean_ap"]

Protocol = Literal["activitynet", "slowfast"]
PAIRS_PER_FRAME = 50


@dataclass(frozen=True)
class Score:
    """A mean average precision, and over what it was taken.

    ``ap`` and ``positives`` (ground-truth rows) are by class id, for every id of the label map;
    classes without ground truth have NaN and are left out of the mean. ``expected`` counts the key
    frames of the ground truth (without the excluded ones, where the protocol excludes),
    ``evaluated`` those of them with a row in the predictions. ``ignored_images`` counts predicted
    key frames that the protocol passes over, ``excluded`` key frames of the ground truth that were
    taken out. ``fingerprint`` holds the settings that two scores must share to be compared.
    """

    mean_ap: float
    ap: dict[int, float]
    positives: dict[int, int]
    protocol: str
    expected: int
    evaluated: int
    ignored_images: int
    excluded: int
    fingerprint: dict[str, str | int | float]

    @property
    def without_predictions(self) -> int:
        """Key frames of the ground truth for which the predictions have no row."""
        return self.expected - self.evaluated


@dataclass(frozen=True)
class _Rows:
    """Boxes of the ground truth or of the predictions: ``(N,)``, ``(N, 4)``, ``(N,)``, ``(N,)``."""

    frame: NDArray[np.int64]
    box: Boxes
    action: NDArray[np.int64]
    score: NDArray[np.float64]

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> "_Rows":
        return _Rows(self.frame[which], self.box[which], self.action[which], self.score[which])

    def without(self, frames: NDArray[np.int64]) -> "_Rows":
        return self.take(~np.isin(self.frame, frames)) if len(frames) else self


def mean_ap(
    annotations: Annotations,
    predictions: Predictions,
    labels: LabelMap,
    *,
    protocol: Protocol = "activitynet",
    excluded: frozenset[tuple[str, float]] = frozenset(),
    iou_threshold: float = 0.5,
) -> Score:
    """Return the score of the predictions over the classes of the label map.

    Rows of other classes are passed over, as in both programs.

    Raises:
        AnnotationError: if the protocol is ``slowfast`` and the ground truth has key frames without
            a box, or a time is no whole second.
        ValueError: if there is no such protocol.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"expected a protocol of {get_args(Protocol)}, got {protocol!r}")
    official = protocol == "activitynet"
    if not official:
        _refuse_for_slowfast(annotations, predictions)
    truth, found, dropped = _coded(annotations, predictions, excluded)
    drop = dropped[:0] if official else dropped
    kept = truth.without(drop)
    key_frames, seen = np.unique(kept.frame), np.unique(found.frame)
    ignored = np.setdiff1d(seen, key_frames)
    found = found.without(ignored if official else drop)
    kept, found = (rows.take(np.isin(rows.action, labels.ids)) for rows in (kept, found))
    if official:
        kept, found = _as_read_officially(kept, 0), _as_read_officially(found, PAIRS_PER_FRAME)
    else:
        found = found.take(np.argsort(numbered(found.frame), kind="stable"))
    ap = _average_precisions(kept, found, labels.ids, iou_threshold)
    return Score(
        mean_ap=_mean(ap, labels.size),
        ap=ap,
        positives={label: int((kept.action == label).sum()) for label in labels.ids},
        protocol=protocol,
        expected=len(key_frames),
        evaluated=len(np.intersect1d(key_frames, seen)),
        ignored_images=len(ignored) if official else 0,
        excluded=len(np.unique(truth.frame)) - len(key_frames),
        fingerprint=_fingerprint(protocol, labels, excluded, iou_threshold),
    )


def average_precision(is_true_N: NDArray[np.bool_], positives: int) -> float:
    """Return the area under the interpolated precision-recall curve.

    ``is_true_N`` says of each prediction, by falling score, whether it is a true positive;
    ``positives`` is the number of those that could be. NaN if that is 0.
    """
    if positives == 0:
        return float("nan")
    true = np.cumsum(is_true_N)
    precision = np.concatenate([[0.0], true / np.arange(1, len(true) + 1), [0.0]])
    recall = np.concatenate([[0.0], true / positives, [1.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(np.sum((recall[steps] - recall[steps - 1]) * envelope[steps]))


def _mean(ap: dict[int, float], size: int) -> float:
    """Return the mean without NaN, summed as both programs do: over all ids up to ``size``."""
    values = np.full(size, np.nan)
    values[np.array([*ap]) - 1] = [*ap.values()]
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def _refuse_for_slowfast(annotations: Annotations, predictions: Predictions) -> None:
    problems = []
    if bare := int((annotations.action == 0).sum()):
        problems.append(f"ground truth: expected a box in every row, found {bare} rows without one")
    for name, table in (("ground truth", annotations), ("predictions", predictions)):
        broken = np.flatnonzero(table.timestamp != np.rint(table.timestamp))
        if len(broken):
            row = broken[0]
            found = f"{table.video[row]} at {table.timestamp[row]:g} ({len(broken)} such rows)"
            problems.append(f"{name}: expected whole seconds, found {found}")
    if problems:
        raise AnnotationError(
            listed("the slowfast protocol cannot score these; use activitynet", problems)
        )


def _coded(
    annotations: Annotations, predictions: Predictions, excluded: frozenset[tuple[str, float]]
) -> tuple[_Rows, _Rows, NDArray[np.int64]]:
    """Return the ground truth, the predictions and the excluded frames, frames numbered alike."""
    truth, found, dropped = frame_codes(
        (annotations.video, annotations.timestamp),
        (predictions.video, predictions.timestamp),
        frame_columns(excluded),
    )
    # The official reader takes the person id for a score. It decides which of two ground-truth
    # boxes comes first for a prediction that overlaps both exactly alike.
    rank = np.where(annotations.person == NOBODY, 1.0, annotations.person)
    return (
        _Rows(truth, annotations.box, annotations.action, rank),
        _Rows(found, predictions.box, predictions.action, predictions.score),
        dropped,
    )


def _as_read_officially(rows: _Rows, limit: int) -> _Rows:
    """Return the rows as the official reader hands them on: by frame, then by falling score.

    It keeps a heap for each frame, of at most ``limit`` entries unless that is 0, and sorts that,
    so the order among equal scores is the heap's.
    """
    heaps: dict[int, list[tuple[float, ...]]] = {}
    for frame, score, action, x1, y1, x2, y2 in _entries(rows):
        heap = heaps.setdefault(frame, [])
        if not limit or len(heap) < limit:
            heapq.heappush(heap, (score, action, y1, x1, y2, x2))
        elif score > heap[0][0]:
            heapq.heapreplace(heap, (score, action, y1, x1, y2, x2))
    ordered = [entry for heap in heaps.values() for entry in sorted(heap, key=lambda e: -e[0])]
    table = np.array(ordered, dtype=np.float64).reshape(-1, 6)
    frames = np.repeat(np.array([*heaps], np.int64), [len(heap) for heap in heaps.values()])
    return _Rows(frames, table[:, [3, 2, 5, 4]], table[:, 1].astype(np.int64), table[:, 0])


def _entries(rows: _Rows) -> Iterable[tuple[int, float, int, float, float, float, float]]:
    columns = (rows.frame, rows.score, rows.action, *np.asarray(rows.box).T)
    return zip(*(column.tolist() for column in columns), strict=True)


def _average_precisions(
    truth: _Rows, found: _Rows, ids: Iterable[int], iou_threshold: float
) -> dict[int, float]:
    found = found.take(np.all(found.box[:, :2] < found.box[:, 2:], axis=1))  # both drop empty boxes
    row, iou = best_truth(
        cells(truth.frame, truth.action), truth.box, cells(found.frame, found.action), found.box
    )
    is_true = first_claims(row, (iou >= iou_threshold) & (row >= 0))
    ap = {}
    for label in ids:
        rows = np.flatnonzero(found.action == label)
        falling = np.argsort(found.score[rows])[::-1]  # unstable on purpose: see the module
        ap[label] = average_precision(is_true[rows[falling]], int((truth.action == label).sum()))
    return ap


def _fingerprint(
    protocol: Protocol,
    labels: LabelMap,
    excluded: frozenset[tuple[str, float]],
    iou_threshold: float,
) -> dict[str, str | int | float]:
    official = protocol == "activitynet"
    use = "ignored" if official else "removed"
    return {
        "protocol": protocol,
        "classes": len(labels.ids),
        "iou_threshold": iou_threshold,
        "interpolation": "all points",
        "order_in_frame": "score" if official else "file",
        "pairs_per_frame": PAIRS_PER_FRAME if official else "all",
        "frames_outside_ground_truth": "ignored" if official else "false positives",
        "time_key": "microseconds" if official else "whole seconds",
        "exclusions": f"{use} ({len(excluded)})" if excluded else "none",
    }
