"""Tubes: by hand, against the published way played through, and what is refused."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vidssl.ava import bootstrap
from vidssl.ava.mean_ap import COCO, average_precision
from vidssl.ava.tubes import (
    Area,
    Tubes,
    TubeScore,
    notes,
    read_tubes,
    trapezoids,
    tube_score,
)
from vidssl.errors import AnnotationError

Write = Callable[..., Path]
Row = tuple[str, float, tuple[float, float, float, float], str, str, float]
Box = tuple[float, float, float, float]
Tube = dict[float, Box]


def tubes_of(rows: list[Row]) -> Tubes:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Tubes(*columns)


def random_rows(rng: np.random.Generator, tubes: int, scored: bool) -> list[Row]:
    """Tubes of some frames each, without gaps, boxes on a grid of pixels, some actions rare."""
    rows: list[Row] = []
    for tube in range(tubes):
        video, action = str(rng.choice([*"uvw"])), str(rng.choice([*"abc"], p=[0.6, 0.3, 0.1]))
        first, length = int(rng.integers(1, 6)), int(rng.integers(1, 7))
        x, y = rng.integers(0, 4, 2) * 5.0
        score = float(rng.random())
        for frame in range(first, first + length):
            box = (x, y, x + float(rng.integers(20, 40)), y + float(rng.integers(20, 40)))
            own = score + float(rng.normal(0, 0.01)) if scored else 1.0
            rows.append((video, float(frame), box, action, str(tube), own))
    return rows


# --- the published way: tube by tube, box by box, with an inclusive pixel or without


def overlap(one: Box, two: Box, extra: float) -> float:
    w = min(one[2], two[2]) - max(one[0], two[0]) + extra
    h = min(one[3], two[3]) - max(one[1], two[1]) + extra
    if w <= 0 or h <= 0:
        return 0.0
    areas = [(b[2] - b[0] + extra) * (b[3] - b[1] + extra) for b in (one, two)]
    return w * h / (areas[0] + areas[1] - w * h)


def tube_overlap(one: Tube, two: Tube, extra: float) -> float:
    low, high = max(min(one), min(two)), min(max(one), max(two))
    if high < low:
        return 0.0
    shared = high - low + 1
    whole = max(max(one), max(two)) - min(min(one), min(two)) + 1
    frames = np.arange(low, high + 1)
    return float(np.mean([overlap(one[f], two[f], extra) for f in frames])) * shared / whole


def area_of(hits: list[bool], positives: int) -> float:
    points, true = [(1.0, 0.0)], 0
    for rank, hit in enumerate(hits, start=1):
        true += hit
        points.append((true / rank, true / positives))
    return sum(
        (after[1] - before[1]) * (after[0] + before[0]) / 2 for before, after in pairwise(points)
    )


def claims(
    found: Sequence[tuple[float, str, object]],
    truth: dict[str, list[object]],
    measure: Callable[..., float],
    threshold: float,
) -> list[bool]:
    """Which predictions, by falling score, take a true one, which then is gone."""
    left = {key: list(values) for key, values in truth.items()}
    hits = []
    for _, key, one in sorted(found, key=lambda entry: -entry[0]):
        over = [measure(other, one) for other in left.get(key, [])]
        hit = bool(over) and max(over) >= threshold
        if hit:
            del left[key][over.index(max(over))]
        hits.append(hit)
    return hits


def grouped(rows: list[Row], action: str) -> dict[tuple[str, str], tuple[Tube, list[float]]]:
    tubes: dict[tuple[str, str], tuple[Tube, list[float]]] = {}
    for video, frame, box, own, tube, score in rows:
        if own == action:
            boxes, scores = tubes.setdefault((video, tube), ({}, []))
            boxes[frame] = box
            scores.append(score)
    return tubes


def slow(truth: list[Row], found: list[Row], extra: float, iou: float) -> tuple[float, float]:
    """Frame-mAP at one half and video-mAP at ``iou``."""
    frames, videos = [], []
    known = {row[0] for row in truth}
    found = [row for row in found if row[0] in known]
    for action in sorted({row[3] for row in truth}):
        true_boxes: dict[str, list[object]] = {}
        for video, frame, box, own, _, _ in truth:
            if own == action:
                true_boxes.setdefault(f"{video} {frame}", []).append(box)
        boxes = [(s, f"{v} {f}", b) for v, f, b, own, _, s in found if own == action]
        hits = claims(boxes, true_boxes, lambda a, b: overlap(a, b, extra), 0.5)
        frames.append(area_of(hits, sum(map(len, true_boxes.values()))))
        true_tubes: dict[str, list[object]] = {}
        for (video, _), (tube, _) in grouped(truth, action).items():
            true_tubes.setdefault(video, []).append(tube)
        tubes = [
            (float(np.mean(scores)), video, tube)
            for (video, _), (tube, scores) in grouped(found, action).items()
        ]
        hits = claims(tubes, true_tubes, lambda a, b: tube_overlap(a, b, extra), iou)
        videos.append(area_of(hits, sum(map(len, true_tubes.values()))))
    return float(np.mean(frames)), float(np.mean(videos))


@pytest.mark.parametrize("extra", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_score_is_that_of_the_published_way(seed: int, extra: float) -> None:
    rng = np.random.default_rng(seed)
    truth = random_rows(rng, 12, scored=False)
    found = random_rows(rng, 60, scored=True)
    found += [  # every other true one, shifted; all of them tie
        (v, f, (b[0] + 2, b[1] + 2, b[2] + 2, b[3] + 2), a, f"near {t}", 0.5)
        for v, f, b, a, t, _ in truth
        if int(t) % 2
    ]
    found += [("elsewhere", *row[1:]) for row in found[:9]]
    order = rng.permutation(len(found))
    score = tube_score(
        tubes_of(truth), tubes_of([found[row] for row in order]), inclusive=bool(extra)
    )
    assert score.ignored_videos == 1
    for iou, value in score.video_map.items():
        frame_map, video_map = slow(truth, [found[row] for row in order], extra, iou)
        assert score.frame_map == pytest.approx(frame_map, abs=1e-12)
        assert value == pytest.approx(video_map, abs=1e-12)
    over = [slow(truth, [found[row] for row in order], extra, iou)[1] for iou in COCO]
    assert score.coco == pytest.approx(float(np.mean(over)), abs=1e-12)
    assert score.frame_map > 0


# --- by hand


P, Q = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)


def one_tube(frames: range, box: Box = P, tube: str = "0", score: float = 1.0) -> list[Row]:
    return [("v", float(frame), box, "run", tube, score) for frame in frames]


def scored(truth: list[Row], found: list[Row], area: Area = "trapezoid") -> TubeScore:
    return tube_score(tubes_of(truth), tubes_of(found), area=area)


def test_the_truth_scores_1() -> None:
    truth = random_rows(np.random.default_rng(0), 9, scored=False)
    told = scored(truth, truth)
    # Equal boxes in one place claim one another's truth, of which there is the same number.
    assert told.frame_map == told.coco == 1.0
    assert set(told.video_map.values()) == {1.0}


def test_a_tube_of_half_the_frames_overlaps_by_half() -> None:
    # 5 of 10 frames shared, each with IoU 1: 1 * 5/10. Right at 0.2 and 0.5, wrong at 0.75.
    told = scored(one_tube(range(10)), one_tube(range(5)))
    assert told.video_map == {0.2: 1.0, 0.5: 1.0, 0.75: 0.0}
    assert told.coco == 0.1
    # Frame-mAP: 5 of 10 boxes found, no wrong one.
    assert told.frame_map == 0.5


def test_a_gap_counts_as_frames_that_one_tube_lacks() -> None:
    found = one_tube(range(3)) + one_tube(range(7, 10))
    told = scored(one_tube(range(10)), found)  # 6 of 10 frames
    assert told.video_map == {0.2: 1.0, 0.5: 1.0, 0.75: 0.0}
    assert told.coco == pytest.approx(0.3)  # at 0.5, 0.55 and 0.6


def test_a_second_claim_passes_on_to_a_free_one() -> None:
    # Both predictions are on P; the truth has P twice, as two tubes.
    truth = one_tube(range(2)) + one_tube(range(2), tube="1")
    found = one_tube(range(2), score=0.9) + one_tube(range(2), tube="1", score=0.8)
    assert scored(truth, found).frame_map == 1.0
    assert scored(truth[:2], found).video_map[0.5] == 1.0  # the second comes too late to harm
    assert scored(one_tube(range(2)), one_tube(range(2), Q, "1", 0.95) + found).frame_map < 1


def test_the_area_is_summed_by_trapezoids_or_under_the_envelope() -> None:
    # Wrong, right, of one: from (1, 0) to (0, 0), then to (1/2, 1): (0 + 1/2) / 2. Envelope: 1/2.
    assert trapezoids(np.array([False, True]), 1) == 0.25
    found = one_tube(range(1), Q, "1", 0.9) + one_tube(range(1), P, "0", 0.8)
    assert scored(one_tube(range(1)), found).frame_map == 0.25
    assert scored(one_tube(range(1)), found, "interpolated").frame_map == 0.5


def test_a_tube_bears_the_mean_score_of_its_boxes() -> None:
    # Right one: (0.9 + 0.1) / 2 = 0.5, below the wrong one's 0.6; by boxes it is first and last.
    right = [("v", 0.0, P, "run", "0", 0.9), ("v", 1.0, P, "run", "0", 0.1)]
    wrong = one_tube(range(2), Q, "1", 0.6)
    told = tube_score(tubes_of(one_tube(range(2))), tubes_of([*right, *wrong]))
    assert told.video_map[0.5] == 0.25
    assert told.tubes == {"run": 1}


def test_times_need_not_be_whole() -> None:
    rows = [("v", at, P, "run", "0", 1.0) for at in (0.04, 0.08, 0.12)]
    shifted = [("v", at + 1e-9, *row[2:]) for row in rows for at in (row[1],)]
    assert scored(rows, shifted).coco == 1.0


def test_an_action_that_is_never_predicted_scores_0() -> None:
    truth = [*one_tube(range(2)), ("v", 0.0, Q, "sit", "0", 1.0)]
    told = scored(truth, one_tube(range(2)))
    assert told.frame_ap == {"run": 1.0, "sit": 0.0}
    assert told.frame_map == told.video_map[0.5] == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: ("w", *row[1:]), "no video is in both files: 'v' is true, 'w' predicted"),
        (lambda row: (*row[:3], "hop", *row[4:]), "no action is in both files"),
        (lambda row: (row[0], row[1] + 900, *row[2:]), "no frame is in both files: true 0..1"),
        (lambda row: (*row[:2], (0.0, 0.0, 0.1, 0.1), *row[3:]), "one file's boxes are pixels"),
    ],
)
def test_a_score_of_0_has_its_reason(change: Callable[[Row], Row], words: str) -> None:
    truth, found = one_tube(range(2)), [change(row) for row in one_tube(range(2))]
    told = scored(truth, found)
    assert told.frame_map == told.coco == 0.0
    assert words in notes(tubes_of(truth), tubes_of(found), told)[-1]
    assert notes(tubes_of(truth), tubes_of(truth), scored(truth, truth)) == []


# --- files


TRUE_LINE, FOUND_LINE = "v,1,0,0,10,10,run,0", "v,1,0,0,10,10,run,0,0.5"


def test_files_are_read_with_a_header_or_without(write: Write) -> None:
    header = "video,frame,x1,y1,x2,y2,action,tube"
    truth = read_tubes(write("t.csv", header, TRUE_LINE), scored=False)
    assert (truth.video[0], truth.frame[0], truth.action[0], truth.tube[0]) == ("v", 1, "run", "0")
    found = read_tubes(write("f.csv", f"{header},score", FOUND_LINE), scored=True)
    assert found.score.tolist() == [0.5]
    assert tube_score(truth, found).coco == 1.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("v,x,0,0,1,1,run,0", "malformed frame: expected a number from 0 up, found 'x'"),
        ("v,-1,0,0,1,1,run,0", "malformed frame"),
        ("v,2,a,0,1,1,run,0", "malformed number: expected x1 as a number, found 'a'"),
        ("v,2,0,0,0,1,run,0", "empty box: expected x1 < x2"),
        ("v,2,0,2,1,1,run,0", "empty box: expected y1 < y2"),
        ("v,1,0,0,1,1,,0", "no action"),
        ("v,1,0,0,1,1,run,", "no tube"),
        (",1,0,0,1,1,run,0", "no video"),
        ("v,1,0,0,1,1,run", "wrong number of columns: expected 8"),
        (TRUE_LINE, "two boxes: expected one box of a tube in a frame, found tube 0 of run again"),
    ],
)
def test_a_mistake_is_refused_with_its_line(write: Write, line: str, words: str) -> None:
    with pytest.raises(AnnotationError, match="1 problem") as caught:
        read_tubes(write("t.csv", TRUE_LINE, line), scored=False)
    assert f"t.csv:2: {words}" in str(caught.value)


def test_predictions_need_a_score_and_a_file_rows(write: Write) -> None:
    with pytest.raises(AnnotationError, match="malformed number: expected the score, found 'high'"):
        read_tubes(write("f.csv", f"{TRUE_LINE},high"), scored=True)
    with pytest.raises(AnnotationError, match="wrong number of columns: expected 9"):
        read_tubes(write("f.csv", TRUE_LINE), scored=True)
    with pytest.raises(AnnotationError, match="empty: expected rows"):
        read_tubes(write("f.csv", ""), scored=True)


@pytest.mark.parametrize("area", ["trapezoid", "interpolated"])
def test_an_interval_is_that_of_rows_written_as_often_as_their_video_is_drawn(area: Area) -> None:
    rng = np.random.default_rng(0)
    measure = trapezoids if area == "trapezoid" else average_precision
    resample = bootstrap.resampled_trapezoids if area == "trapezoid" else bootstrap.resampled
    for rows in (0, 1, 40):
        is_true, video = rng.random(rows) > 0.5, rng.integers(0, 5, rows)
        truth = np.concatenate([video[is_true], rng.integers(0, 4, 6)])
        weights_VD = bootstrap.draws_of(5, draws=200)
        found = resample(is_true, video, truth, weights_VD)
        for draw, times in enumerate(weights_VD.T.astype(int)):
            positives = int(times[truth].sum())
            slow = measure(np.repeat(is_true, times[video]), positives) if positives else np.nan
            assert found[draw] == pytest.approx(slow, nan_ok=True)
        assert len(set(found.round(6).tolist())) > 20 or rows < 40
