"""Action tubes: frame-mAP and video-mAP, as for UCF101-24 and JHMDB.

The measures are those of ACT (Kalogeiton, Weinzaepfel, Ferrari and Schmid, ICCV 2017,
https://arxiv.org/abs/1705.01861) and of what descends from its script (vkalogeiton/caffe, branch
act-detector, ACT.py): by falling score each prediction claims what it overlaps most of what is
still free, so that a second claim passes on to the next, unlike in the AVA score. The area under
precision and recall is summed by trapezoids from (1, 0) without an envelope (``trapezoid``), or
over the envelope as in Pascal VOC 2010 (``interpolated``).

The overlap of two tubes is the mean IoU of the frames both have, times the frames both have by the
frames either has. The script takes first and last frame for that, which is the same for tubes
without gaps; there a gap is an error, here its frames are in neither.

Different: corners are continuous coordinates, unless ``inclusive``, which adds 1 pixel to each box
as the script does; equal scores fall in the order of the file, there as numpy's sort leaves them;
sums are in double precision. A tube's score is the mean of its boxes'.

Array suffixes: N predicted rows or tubes, M true ones, K pairs of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidssl.ava import bootstrap
from vidssl.ava.columns import Columns
from vidssl.ava.frames import Names, Seconds, frame_codes, numbered, time_keys
from vidssl.ava.matching import paired_iou, pairs
from vidssl.ava.mean_ap import COCO, average_precision
from vidssl.ava.rows import Problems, blocks, floats
from vidssl.boxes import Boxes
from vidssl.errors import AnnotationError

Area = Literal["trapezoid", "interpolated"]
TIMES = frozenset({"frame", "frames", "time", "timestamp", "second", "seconds", "sec"})
ROW = "video,frame,x1,y1,x2,y2,action,tube"
TRUE, SCORED = {8: ROW}, {9: f"{ROW},score"}
FRAME_IOU = 0.5
VIDEO_IOUS = (0.2, 0.5, 0.75)
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Tubes:
    """Rows of tubes: ``box`` ``(N, 4)`` in any unit, the rest ``(N,)``; ``score`` 1 in a truth.

    ``frame`` is a number of a frame or a time. One action and one name make one tube of a video.
    """

    video: Names
    frame: Seconds
    box: Boxes
    action: Names
    tube: Names
    score: NDArray[np.float64]


@dataclass(frozen=True)
class TubeScore:
    """Average precisions by action that the truth has, and their means.

    ``frame_ap`` is at IoU 0.5; ``video_ap`` by IoU of tubes; ``coco`` is the mean of video-mAP at
    0.5 to 0.95. ``tubes`` counts the true ones of each action, ``videos`` those of the truth,
    ``evaluated`` those of them with a prediction. ``ignored_videos`` counts predicted videos
    without truth, ``ignored_actions`` predicted actions without: both are passed over.
    ``interval`` is that of video-mAP by IoU of tubes, a bootstrap over the videos of the truth;
    empty with fewer than two.
    """

    frame_ap: dict[str, float]
    video_ap: dict[float, dict[str, float]]
    coco: float
    tubes: dict[str, int]
    videos: int
    evaluated: int
    ignored_videos: int
    ignored_actions: int
    interval: dict[float, tuple[float, float]]

    @property
    def frame_map(self) -> float:
        """The mean of ``frame_ap``."""
        return _mean(self.frame_ap)

    @property
    def video_map(self) -> dict[float, float]:
        """The mean of ``video_ap`` at each IoU."""
        return {iou: _mean(ap) for iou, ap in self.video_ap.items()}


def read_tubes(path: Path, *, scored: bool) -> Tubes:
    """Return the rows of a csv file of tubes, with a score as the ninth column or without.

    Raises:
        AnnotationError: if the file is absent, empty or has a mistake; with all of them.
    """
    problems = Problems(path)
    parts, lines = [], []
    for block in blocks(path, SCORED if scored else TRUE, problems, TIMES):
        columns = Columns(block, problems)
        video, action, tube = (np.array(block.cells[at], dtype=np.str_) for at in (0, 6, 7))
        for cells, at, name in ((video, 0, "video"), (action, 6, "action"), (tube, 7, "tube")):
            columns.refuse(cells == "", at, f"no {name}", f"the name of one: {ROW}")
        frame = floats(block.cells[1])
        columns.refuse(~(frame >= 0), 1, "malformed frame", "a number from 0 up")
        box = _box(columns)
        score = columns.score(8) if scored else np.ones(len(video))
        parts.append((video, frame, box, action, tube, score))
        lines.append(block.lines)
    if parts:
        found = Tubes(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        _refuse_twins(found, np.concatenate(lines), problems)
    problems.check()
    if not parts:
        raise AnnotationError(f"{path}: empty: expected rows of a csv file, found none")
    return found


def _box(columns: Columns) -> Boxes:
    cells = columns.block.cells
    box = np.stack([floats(cells[at]) for at in range(2, 6)], axis=1)
    for column, name in enumerate(("x1", "y1", "x2", "y2")):
        wrong = np.isnan(box[:, column])
        columns.refuse(wrong, 2 + column, "malformed number", f"{name} as a number")
    for low, name in ((0, "x1 < x2"), (1, "y1 < y2")):
        empty = box[:, low] >= box[:, low + 2]
        columns.refuse(empty, 4 + low, "empty box", name)
    return box


def _refuse_twins(found: Tubes, lines: Numbers, problems: Problems) -> None:
    known = np.flatnonzero(~np.isnan(found.frame))
    tube, time = _tube_codes(found)[0][known], time_keys(found.frame[known])
    order = np.lexsort((time, tube))  # stable: the first in the file comes first
    same = (np.diff(tube[order]) == 0) & (np.diff(time[order]) == 0)
    for row in known[order[1:][same]]:
        name = f"tube {found.tube[row]} of {found.action[row]} again at {found.frame[row]:g}"
        problems.add(int(lines[row]), "two boxes", "one box of a tube in a frame", name)


def tube_score(
    truth: Tubes, found: Tubes, *, inclusive: bool = False, area: Area = "trapezoid"
) -> TubeScore:
    """Return frame-mAP and video-mAP over the actions of the truth.

    Only videos that the truth has count; there, predictions of an action that is not in the video
    are false.
    """
    actions = sorted(set(truth.action.tolist()))
    known = np.isin(found.video, truth.video)
    ignored = set(found.video[~known].tolist()), set(found.action.tolist()) - set(actions)
    videos = set(truth.video.tolist())
    evaluated = videos & set(found.video.tolist())
    found = _take(found, np.flatnonzero(known & np.isin(found.action, np.array(actions))))
    number = {action: code for code, action in enumerate(actions)}
    action_M, action_N = (
        np.array([number[action] for action in table.action.tolist()], dtype=np.int64)
        for table in (truth, found)
    )
    one, two = (table.box + inclusive * np.array([0, 0, 1, 1]) for table in (truth, found))
    frame_M, frame_N = frame_codes((truth.video, truth.frame), (found.video, found.frame))
    true_K, count = pairs(frame_M * len(actions) + action_M, frame_N * len(actions) + action_N)
    found_K = np.repeat(np.arange(len(frame_N)), count)
    iou_K = paired_iou(two[found_K], one[true_K])
    by_frame = _by_action(
        actions, _hits(found.score, found_K, true_K, iou_K, FRAME_IOU), found.score,
        action_N, action_M, area,
    )  # fmt: skip

    (tube_M, tube_N), first_M, first_N = _tubes(truth, found)
    score_N = np.bincount(tube_N, found.score, len(first_N)) / np.maximum(np.bincount(tube_N), 1)
    places = _overlaps(tube_M, tube_N, true_K, found_K, iou_K)
    video_ap, hit = {}, {}
    for iou in sorted({*VIDEO_IOUS, *COCO}):
        hit[iou] = _hits(score_N, *places, iou)
        video_ap[iou] = _by_action(
            actions, hit[iou], score_N, action_N[first_N], action_M[first_M], area
        )
    sides = _Sides(
        score_N,
        *(action_N[first_N], action_M[first_M]),
        *_video_codes(found.video[first_N], truth.video[first_M]),
    )
    return TubeScore(
        frame_ap=by_frame,
        video_ap={iou: video_ap[iou] for iou in VIDEO_IOUS},
        coco=float(np.mean([_mean(video_ap[iou]) for iou in COCO])),
        tubes={a: int((action_M[first_M] == code).sum()) for a, code in number.items()},
        videos=len(videos),
        evaluated=len(evaluated),
        ignored_videos=len(ignored[0]),
        ignored_actions=len(ignored[1]),
        interval={iou: _interval(sides, hit[iou], area) for iou in VIDEO_IOUS}
        if len(videos) > 1
        else {},
    )


@dataclass(frozen=True)
class _Sides:
    """Predicted tubes ``(N,)`` and true ones ``(M,)``: actions and videos by number."""

    score: NDArray[np.float64]
    found_action: Numbers
    true_action: Numbers
    found_video: Numbers
    true_video: Numbers


def _video_codes(found_N: Names, true_M: Names) -> tuple[Numbers, Numbers]:
    """Return the number of each tube's video, of which the truth has all."""
    videos, true = np.unique(true_M, return_inverse=True)
    return np.searchsorted(videos, found_N), true


def _interval(sides: _Sides, hits_N: NDArray[np.bool_], area: Area) -> tuple[float, float]:
    weights_VD = bootstrap.draws_of(int(sides.true_video.max()) + 1)
    resample = bootstrap.resampled_trapezoids if area == "trapezoid" else bootstrap.resampled
    falling = np.argsort(-sides.score, kind="stable")
    by_action = []
    for action in np.unique(sides.true_action):
        rows = falling[sides.found_action[falling] == action]
        true = sides.true_video[sides.true_action == action]
        by_action.append(resample(hits_N[rows], sides.found_video[rows], true, weights_VD))
    return bootstrap.middle_of_mean(np.stack(by_action))


def _overlaps(
    tube_M: Numbers, tube_N: Numbers, true_K: Numbers, found_K: Numbers, iou_K: NDArray[np.float64]
) -> tuple[Numbers, Numbers, NDArray[np.float64]]:
    """Return the pairs of tubes that share a frame and their overlaps: found, true, ``(K,)`` each.

    The mean over shared frames times shared by all frames is the sum by all frames.
    """
    width = max(int(tube_M.max(initial=-1)) + 1, 1)
    both, place = np.unique(tube_N[found_K] * width + tube_M[true_K], return_inverse=True)
    found, true = both // width, both % width
    shared = np.bincount(place, minlength=len(both))
    size_M, size_N = np.bincount(tube_M), np.bincount(tube_N)
    either = size_N[found] + size_M[true] - shared
    return found, true, np.bincount(place, iou_K, len(both)) / np.maximum(either, 1)


def _hits(
    score_N: NDArray[np.float64],
    found_K: Numbers,
    true_K: Numbers,
    iou_K: NDArray[np.float64],
    threshold: float,
) -> NDArray[np.bool_]:
    """Return which predictions claim a free true one, ``(N,)``: the best of the free ones each."""
    rank = np.empty(len(score_N), dtype=np.int64)
    rank[np.argsort(-score_N, kind="stable")] = np.arange(len(score_N))
    near = np.flatnonzero(iou_K >= threshold)
    near = near[np.lexsort((true_K[near], -iou_K[near], rank[found_K[near]]))]
    hits = np.zeros(len(score_N), dtype=np.bool_)
    taken: set[int] = set()
    for found, true in zip(found_K[near].tolist(), true_K[near].tolist(), strict=True):
        if not hits[found] and true not in taken:
            hits[found] = True
            taken.add(true)
    return hits


def _by_action(
    actions: list[str],
    hits_N: NDArray[np.bool_],
    score_N: NDArray[np.float64],
    action_N: Numbers,
    action_M: Numbers,
    area: Area,
) -> dict[str, float]:
    falling = np.argsort(-score_N, kind="stable")
    measure = trapezoids if area == "trapezoid" else average_precision
    return {
        action: measure(hits_N[falling[action_N[falling] == code]], int((action_M == code).sum()))
        for code, action in enumerate(actions)
    }


def trapezoids(is_true_N: NDArray[np.bool_], positives: int) -> float:
    """Return the area under precision over recall, straight from point to point from (1, 0).

    ``is_true_N`` says of each prediction, by falling score, whether it is right.
    """
    true = np.cumsum(is_true_N)
    precision = np.concatenate([[1.0], true / np.arange(1, len(true) + 1)])
    recall = np.concatenate([[0.0], true / positives])
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def _tubes(truth: Tubes, found: Tubes) -> tuple[list[Numbers], Numbers, Numbers]:
    """Return the tube of every row of both, each numbered on its own, and a row of each tube."""
    codes = [_tube_codes(table)[0] for table in (truth, found)]
    first_M, first_N = (np.unique(code, return_index=True)[1] for code in codes)
    return codes, first_M, first_N


def _tube_codes(*tables: Tubes) -> list[Numbers]:
    """Number the tubes of each table, from 0 in order of first appearance."""
    codes = []
    for table in tables:
        columns = (np.unique(c, return_inverse=True) for c in (table.action, table.tube))
        code = np.unique(table.video, return_inverse=True)[1]
        for names, inverse in columns:
            code = code * max(len(names), 1) + inverse
        codes.append(numbered(code))
    return codes


def _take(table: Tubes, rows: Numbers) -> Tubes:
    return Tubes(*(column[rows] for column in vars(table).values()))


def _mean(ap: dict[str, float]) -> float:
    return float(np.mean([*ap.values()]))


def notes(truth: Tubes, found: Tubes, score: TubeScore) -> list[str]:
    """Return what a person should look at: sides that do not meet, another unit of the boxes."""
    told = []
    if score.ignored_videos:
        told.append(f"{score.ignored_videos} predicted videos are not in the truth: passed over")
    if score.ignored_actions:
        told.append(f"{score.ignored_actions} predicted actions are not in the truth: passed over")
    if score.frame_map > 0:
        return told
    if not score.evaluated:
        example = f"{min(truth.video.tolist())!r} is true, {min(found.video.tolist())!r} predicted"
        return [*told, f"no video is in both files: {example}"]
    if not set(truth.action.tolist()) & set(found.action.tolist()):
        example = (
            f"{min(truth.action.tolist())!r} is true, {min(found.action.tolist())!r} predicted"
        )
        return [*told, f"no action is in both files: {example}"]
    if (truth.box.max() > 2) != (found.box.max() > 2):
        return [*told, "one file's boxes are pixels, the other's shares of the frame"]
    frames = [
        set(zip(t.video.tolist(), time_keys(t.frame).tolist(), strict=True)) for t in (truth, found)
    ]
    if not frames[0] & frames[1]:
        spans = (f"{table.frame.min():g}..{table.frame.max():g}" for table in (truth, found))
        return [*told, "no frame is in both files: true {}, predicted {}".format(*spans)]
    return told
