"""Why a score is zero: short reasons read off the ground truth and the predictions."""

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.annotations import Annotations, Predictions
from vidssl.ava.columns import PIXELS
from vidssl.ava.frames import frame_codes
from vidssl.ava.labels import LabelMap
from vidssl.ava.matching import best_truth, cells
from vidssl.ava.sides import Sides, of

HALF = 0.5  # the overlap that counts as meeting
HARDLY = 0.05  # the share of the key frames that may meet by chance when the times are wrong
SAMPLE = 20_000  # predicted rows that are looked at; more would not change the reason
SAMPLE_TIMES = 2_000  # of one video: more than the 897 key frames of AVA's
NAMED_CLASSES = 5  # of those without predictions, in one message


def explain_zero(annotations: Annotations, predictions: Predictions, labels: LabelMap) -> list[str]:
    """Return why the mean, or single classes, may have scored 0; empty if nothing stands out.

    Looked at in turn: predictions without a box or without a known action, videos that do not meet,
    key frames that do not meet (with the shift in seconds that would make them), boxes in pixels or
    as y1 x1 y2 x2, labels off by one, classes that were never predicted.
    """
    reasons = _nothing_to_score(predictions, labels) or _videos(annotations, predictions)
    reasons = reasons or _times(annotations, predictions) or _boxes(annotations, predictions)
    return reasons or _shifted_labels(annotations, predictions) + _absent(
        annotations, predictions, labels
    )


def explain_classes(
    sides: Sides, predictions: Predictions, ap: Mapping[int, float], labels: LabelMap
) -> list[str]:
    """Return why single classes score 0: a line for each reason, with some of its classes."""
    iou = sides.best[1]
    known = sides.counts[sides.found_frame]
    reasons: dict[str, list[int]] = {}
    for label, value in ap.items():
        if value != 0:
            continue
        here, rows = of(label, sides.found), predictions.action == label
        if not rows.any():
            reason = "never predicted"
        elif not (rows & known).any():
            reason = "predicted on other key frames only"
        elif here.start == here.stop:
            reason = "always below the best pairs of their key frames, which alone count"
        elif not (iou[here] >= HALF).any():
            reason = "no box of theirs overlaps an annotated one by half"
        else:
            continue
        reasons.setdefault(reason, []).append(label)
    return [f"AP 0, {reason}: {_some(found, labels)}" for reason, found in reasons.items()]


def _some(found: list[int], labels: LabelMap) -> str:
    named = ", ".join(f"{label} ({labels.names[label]})" for label in found[:NAMED_CLASSES])
    more = f" and {len(found) - NAMED_CLASSES} more" if len(found) > NAMED_CLASSES else ""
    return f"{named}{more}"


def _nothing_to_score(predictions: Predictions, labels: LabelMap) -> list[str]:
    actions = predictions.action[predictions.action > 0]
    if not len(actions):
        return ["the predictions hold no box"]
    if np.isin(actions, labels.ids).any():
        return []
    predicted = f"{actions.min()}..{actions.max()}"
    known = f"{min(labels.ids)}..{max(labels.ids)}"
    return [f"no predicted action is in the label map: predicted {predicted}, map {known}"]


def _videos(annotations: Annotations, predictions: Predictions) -> list[str]:
    truth, found = set(annotations.video.tolist()), set(predictions.video.tolist())
    if truth & found:
        return []
    example = f"{min(truth)!r} is annotated, {min(found)!r} is predicted"
    bare = {PurePath(name).stem for name in found}
    hint = "; leave out the folder and the extension" if truth & bare else ""
    return [f"no video is in both files: {example}{hint}"]


def _times(annotations: Annotations, predictions: Predictions) -> list[str]:
    truth, found = (np.unique(frames) for frames in _codes(annotations, predictions))
    met = len(np.intersect1d(truth, found))
    if met > HARDLY * min(len(truth), len(found)):
        return []
    known = set(annotations.video.tolist())
    shared = Counter(video for video in predictions.video.tolist() if video in known)
    name = shared.most_common(1)[0][0]
    annotated = np.unique(annotations.timestamp[annotations.video == name])[:SAMPLE_TIMES]
    predicted = np.unique(predictions.timestamp[predictions.video == name])[:SAMPLE_TIMES]
    spans = f"annotated {_span(annotated)} s, predicted {_span(predicted)} s"
    count = f"{met} of {len(found)} predicted key frames are annotated"
    return [f"{count}: {name!r} is {spans}{_shift(annotated, predicted)}"]


def _span(times: NDArray[np.float64]) -> str:
    return f"{times[0]:g}..{times[-1]:g}"


def _shift(annotated: NDArray[np.float64], predicted: NDArray[np.float64]) -> str:
    """Return a hint if one shift makes at least half of the predicted times annotated ones."""
    shifts = Counter(np.round(annotated[:, None] - predicted[None], 6).ravel().tolist())
    shift, count = shifts.most_common(1)[0]
    if 2 * count < len(predicted):
        return ""
    return f"; adding {shift:g} s to the predicted times makes {count} of {len(predicted)} meet"


def _boxes(annotations: Annotations, predictions: Predictions) -> list[str]:
    found = predictions.box[predictions.action > 0]
    if np.mean(found.max(axis=1) > PIXELS) > HALF:
        return ["the predicted boxes look like pixels; divide by the frame size"]
    truth_frame, found_frame = _codes(annotations, predictions)
    boxed = np.flatnonzero(annotations.action > 0)
    rows = _sample(predictions)
    truth = (truth_frame[boxed], annotations.box[boxed])
    box = predictions.box[rows]
    if (best_truth(*truth, found_frame[rows], box)[1] >= HALF).any():
        return []
    swapped = best_truth(*truth, found_frame[rows], box[:, [1, 0, 3, 2]])[1] >= HALF
    hint = "; they look like y1,x1,y2,x2" if swapped.any() else ""
    return [f"no predicted box overlaps an annotated one by half{hint}"]


def _shifted_labels(annotations: Annotations, predictions: Predictions) -> list[str]:
    truth_frame, found_frame = _codes(annotations, predictions)
    truth_cell = cells(truth_frame, annotations.action)
    rows = _sample(predictions)

    def agreement(shift: int) -> float:
        cell = cells(found_frame[rows], predictions.action[rows] + shift)
        iou = best_truth(truth_cell, annotations.box, cell, predictions.box[rows])[1]
        # Weighted, because many files hold every class for every box.
        return float(predictions.score[rows][iou >= HALF].sum())

    shift = max((0, -1, 1), key=agreement)
    if agreement(shift) <= 2 * agreement(0):
        return []
    return [f"labels look off by one: they agree best after adding {shift:+d} to the predicted ids"]


def _absent(annotations: Annotations, predictions: Predictions, labels: LabelMap) -> list[str]:
    truth = set(annotations.action.tolist()) & set(labels.ids)
    absent = sorted(truth - set(predictions.action.tolist()))
    if not absent:
        return []
    named = ", ".join(f"{label} ({labels.names[label]})" for label in absent[:NAMED_CLASSES])
    more = ", ..." if len(absent) > NAMED_CLASSES else ""
    return [f"{len(absent)} of {len(truth)} annotated actions are never predicted: {named}{more}"]


def _codes(
    annotations: Annotations, predictions: Predictions
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    truth, found = frame_codes(
        (annotations.video, annotations.timestamp), (predictions.video, predictions.timestamp)
    )
    return truth, found


def _sample(predictions: Predictions) -> NDArray[np.int64]:
    rows = np.flatnonzero(predictions.action > 0)
    return rows[:: len(rows) // SAMPLE + 1]
