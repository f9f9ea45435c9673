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

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.annotations import Annotations, Predictions
from vidssl.ava.explain import explain_zero
from vidssl.ava.labels import LabelMap
from vidssl.ava.matching import first_claims
from vidssl.ava.sides import PAIRS_PER_FRAME, Protocol, Sides, count, meet, of

__all__ = ["Protocol", "Score", "average_precision", "explain_zero", "mean_ap"]

COCO = tuple(percent / 100 for percent in range(50, 100, 5))


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
    sides = meet(annotations, predictions, labels, protocol=protocol, excluded=excluded)
    return score_of(sides, labels, iou_threshold)


def score_of(sides: Sides, labels: LabelMap, iou_threshold: float = 0.5) -> Score:
    """Return the score of two sides that have met over these labels."""
    ap = by_class(sides, right(sides, iou_threshold), labels.ids)
    return Score(
        mean_ap=mean_of(ap, labels.size),
        ap=ap,
        positives={label: count(label, sides.truth) for label in labels.ids},
        protocol=sides.protocol,
        expected=sides.expected,
        evaluated=sides.evaluated,
        ignored_images=sides.ignored,
        excluded=sides.excluded,
        fingerprint=_fingerprint(sides, labels, iou_threshold),
    )


def right(sides: Sides, iou_threshold: float = 0.5) -> NDArray[np.bool_]:
    """Return which predictions are the first to claim what they overlap most, ``(N,)``."""
    row, iou = sides.best
    return first_claims(row, (iou >= iou_threshold) & (row >= 0))


def over_thresholds(sides: Sides, labels: LabelMap) -> dict[float, float]:
    """Return the mean average precision at each IoU of ``COCO``; their mean is COCO's mAP.

    COCO's thresholds alone: boxes claim, ties fall and the curve is measured as in the protocol,
    where COCO passes a claim on to the next best box and samples the curve at 101 recalls.
    """
    row, iou = sides.best
    means = {}
    for threshold in COCO:
        is_true = first_claims(row, (iou >= threshold) & (row >= 0))
        means[threshold] = mean_of(by_class(sides, is_true, labels.ids), labels.size)
    return means


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


def by_class(sides: Sides, is_true_N: NDArray[np.bool_], ids: Iterable[int]) -> dict[int, float]:
    """Return the average precision of each class, where ``is_true_N`` says which rows are right."""
    ap = {}
    for label in ids:
        here = of(label, sides.found)
        falling = np.argsort(sides.found.score[here])[::-1]  # unstable on purpose: see the module
        ap[label] = average_precision(is_true_N[here][falling], count(label, sides.truth))
    return ap


def mean_of(ap: dict[int, float], size: int) -> float:
    """Return the mean without NaN, summed as both programs do: over all ids up to ``size``."""
    values = np.full(size, np.nan)
    values[np.array([*ap]) - 1] = [*ap.values()]
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def _fingerprint(
    sides: Sides, labels: LabelMap, iou_threshold: float
) -> dict[str, str | int | float]:
    official = sides.protocol == "activitynet"
    use = "ignored" if official else "removed"
    return {
        "protocol": sides.protocol,
        "classes": len(labels.ids),
        "iou_threshold": iou_threshold,
        "interpolation": "all points",
        "order_in_frame": "score" if official else "file",
        "pairs_per_frame": PAIRS_PER_FRAME if official else "all",
        "frames_outside_ground_truth": "ignored" if official else "false positives",
        "time_key": "microseconds" if official else "whole seconds",
        "exclusions": f"{use} ({sides.exclusions})" if sides.exclusions else "none",
    }
