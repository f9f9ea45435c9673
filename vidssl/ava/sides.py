"""Ground truth and predictions as a protocol lets them meet: what counts, in which order.

All scores of one pair of files, and what explains them, start from the same ``Sides``.

Array suffixes: N rows, F key frames.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.annotations import Annotations, Predictions
from vidssl.ava.capped import Rows, by_action, by_action_officially
from vidssl.ava.columns import NOBODY
from vidssl.ava.frames import frame_codes, frame_columns, video_codes
from vidssl.ava.labels import LabelMap
from vidssl.ava.matching import best_truth, cells
from vidssl.errors import AnnotationError, listed

Protocol = Literal["activitynet", "slowfast"]
PAIRS_PER_FRAME = 50


@dataclass(frozen=True)
class Sides:
    """The rows that count, class by class, and the key frames they are of.

    ``truth`` and ``found`` hold the classes of the label map only, by rising action; within one,
    in the order in which the protocol takes them. ``video`` numbers the video of each key frame and
    ``counts`` says which can be scored. ``truth_frame`` and ``found_frame`` hold the key frame of
    every row of the two files, whatever came of it.
    ``expected`` counts the key frames of the ground truth, ``evaluated`` those of them that have a
    row in the predictions, ``ignored`` predicted ones that the protocol passes over, ``excluded``
    those of the ground truth that were taken out. ``exclusions`` is how many were to be.
    """

    truth: Rows
    found: Rows
    video: NDArray[np.int64]
    counts: NDArray[np.bool_]
    truth_frame: NDArray[np.int64]
    found_frame: NDArray[np.int64]
    expected: int
    evaluated: int
    ignored: int
    excluded: int
    protocol: Protocol
    exclusions: int

    @cached_property
    def best(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The row of ``truth`` that each row of ``found`` overlaps most, and the IoU.

        ``(N,)`` both; of one frame and action only, the row -1 where there is none.
        """
        truth, found = self.truth, self.found
        return best_truth(
            *(cells(truth.frame, truth.action), truth.box),
            *(cells(found.frame, found.action), found.box),
        )


def of(label: int, rows: Rows) -> slice:
    """Return where the rows of a class stand among rows by rising action."""
    return slice(*np.searchsorted(rows.action, [label, label + 1]).tolist())


def count(label: int, rows: Rows) -> int:
    """Return the number of rows of a class among rows by rising action."""
    here = of(label, rows)
    return int(here.stop - here.start)


def meet(
    annotations: Annotations,
    predictions: Predictions,
    labels: LabelMap,
    *,
    protocol: Protocol = "activitynet",
    excluded: frozenset[tuple[str, float]] = frozenset(),
) -> Sides:
    """Return both sides as the protocol takes them; rows of other classes are passed over.

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
    truth, found, dropped = _frames(annotations, predictions, excluded)
    number = 1 + max(part.max(initial=-1) for part in (truth, found, dropped))
    annotated, seen, out = (_marked(part, number) for part in (truth, found, dropped))
    if official:
        out[:] = False
    in_truth = annotated & ~out
    # The official reader takes the person id for a score. It decides which of two ground-truth
    # boxes comes first for a prediction that overlaps both exactly alike.
    rank = np.where(annotations.person == NOBODY, 1.0, annotations.person)
    wanted = _among(annotations.action, labels) & in_truth[truth]
    kept = Rows(truth, annotations.action, annotations.box, rank).take(wanted)
    wanted = _among(predictions.action, labels) & (in_truth if official else ~out)[found]
    claims = Rows(found, predictions.action, predictions.box, predictions.score).take(wanted)
    if official:
        kept = kept.take(by_action_officially(kept, 0))
        claims = claims.take(by_action_officially(claims, PAIRS_PER_FRAME))
    else:
        kept, claims = kept.take(by_action(kept)), claims.take(by_action(claims))
    x1, y1, x2, y2 = claims.box.T
    return Sides(
        truth=kept,
        found=claims.take((x1 < x2) & (y1 < y2)),  # both programs drop empty boxes
        video=_videos(annotations, predictions, truth, found, number),
        counts=in_truth if official else ~out & (annotated | seen),
        truth_frame=truth,
        found_frame=found,
        expected=int(in_truth.sum()),
        evaluated=int((in_truth & seen).sum()),
        ignored=int((seen & ~annotated).sum()) if official else 0,
        excluded=int((annotated & out).sum()),
        protocol=protocol,
        exclusions=len(excluded),
    )


def _frames(
    annotations: Annotations, predictions: Predictions, excluded: frozenset[tuple[str, float]]
) -> list[NDArray[np.int64]]:
    """Return the key frame of each row of the three tables, numbered alike."""
    return frame_codes(
        (annotations.video, annotations.timestamp),
        (predictions.video, predictions.timestamp),
        frame_columns(excluded),
    )


def _videos(
    annotations: Annotations,
    predictions: Predictions,
    truth: NDArray[np.int64],
    found: NDArray[np.int64],
    number: int,
) -> NDArray[np.int64]:
    """Return the video of each key frame, -1 of those that are only excluded."""
    video_F = np.full(number, -1, dtype=np.int64)
    for frame, video in zip(
        (truth, found), video_codes(annotations.video, predictions.video), strict=True
    ):
        video_F[frame] = video
    return video_F


def _marked(frame_N: NDArray[np.int64], number: int) -> NDArray[np.bool_]:
    marked = np.zeros(number, dtype=np.bool_)
    marked[frame_N] = True
    return marked


def _among(action_N: NDArray[np.int64], labels: LabelMap) -> NDArray[np.bool_]:
    return np.isin(action_N, np.array(labels.ids, dtype=np.int64))


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
