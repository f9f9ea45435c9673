"""What explains a score, against slow obvious versions: interval, ceiling, errors, groups."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidssl.ava import bootstrap, budget, groups, proposals
from vidssl.ava.annotations import Annotations, Predictions
from vidssl.ava.explain import explain_classes
from vidssl.ava.fingerprint import dataset, differences
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.mean_ap import (
    COCO,
    Protocol,
    average_precision,
    by_class,
    mean_ap,
    mean_of,
    over_thresholds,
    right,
)
from vidssl.ava.sides import Sides, meet, of

Write = Callable[..., Path]
Row = tuple[str, float, tuple[float, float, float, float], int, float]
LABELS = LabelMap({1: "a", 2: "b", 3: "c", 5: "never true"})
PROTOCOLS: tuple[Protocol, ...] = ("activitynet", "slowfast")


def annotations_of(rows: list[Row]) -> Annotations:
    video, seconds, box, action, person = (np.array(column) for column in zip(*rows, strict=True))
    return Annotations(video, seconds, box, action, person.astype(np.int64))


def predictions_of(rows: list[Row]) -> Predictions:
    return Predictions(*(np.array(column) for column in zip(*rows, strict=True)))


def random_rows(rng: np.random.Generator, count: int, actions: int, frames: int = 4) -> list[Row]:
    rows: list[Row] = []
    for _ in range(count):
        x, y = rng.integers(0, 5, 2) / 10
        w, h = rng.integers(3, 6, 2) / 10
        box = (float(x), float(y), float(x + w), float(y + h))
        video, second = str(rng.choice([*"pqrs"])), float(rng.integers(0, frames))
        rows.append((video, second, box, int(rng.integers(1, actions + 1)), float(rng.random())))
    return rows


def random_sides(
    seed: int, protocol: Protocol = "activitynet"
) -> tuple[Annotations, Predictions, Sides]:
    """About as many rows in a frame as are kept, and actions that are annotated and not scored."""
    rng = np.random.default_rng(seed)
    truth = annotations_of(random_rows(rng, 50, 4))
    found = predictions_of(random_rows(rng, 900, 4, frames=5))
    return truth, found, meet(truth, found, LABELS, protocol=protocol)


def overlap(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    w, h = min(one[2], two[2]) - max(one[0], two[0]), min(one[3], two[3]) - max(one[1], two[1])
    if w <= 0 or h <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return w * h / (areas[0] + areas[1] - w * h)


# --- the interval


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("way", ["few videos", "many videos", "many rows"])
def test_a_draw_of_videos_scores_as_files_that_hold_them_so_often(
    way: str, seed: int, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "few videos":
        monkeypatch.setattr(bootstrap, "DENSE", 0)
        monkeypatch.setattr(bootstrap, "AT_ONCE", 1 if way == "many rows" else 1_000_000)
    # The slow way: the rows of each class repeated, and the ordinary average precision.
    _, _, sides = random_sides(seed, protocol)
    weights = np.random.default_rng(seed).integers(0, 4, (4, 7)).astype(np.float64)
    is_true = right(sides)
    for label in LABELS.ids:
        here, truth = of(label, sides.found), of(label, sides.truth)
        falling = np.argsort(sides.found.score[here])[::-1]
        video, hit = sides.video[sides.found.frame[here]][falling], is_true[here][falling]
        truth_video = sides.video[sides.truth.frame[truth]]
        found = bootstrap.resampled(hit, video, truth_video, weights)
        for draw in range(weights.shape[1]):
            times = weights[:, draw].astype(int)
            repeated = np.repeat(hit, times[video])
            expected = average_precision(repeated, int(times[truth_video].sum()))
            assert found[draw] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_every_video_once_is_the_score_itself() -> None:
    truth, found, sides = random_sides(1)
    score = mean_ap(truth, found, LABELS)
    for label in (1, 2, 3):
        here = of(label, sides.found)
        falling = np.argsort(sides.found.score[here])[::-1]
        video = sides.video[sides.found.frame[here]][falling]
        truth_video = sides.video[sides.truth.frame[of(label, sides.truth)]]
        ap = bootstrap.resampled(right(sides)[here][falling], video, truth_video, np.ones((4, 1)))
        assert ap[0] == pytest.approx(score.ap[label], abs=1e-12)


def test_the_interval_is_that_of_its_seed_and_holds_the_score() -> None:
    truth, found, sides = random_sides(2)
    score, is_true = mean_ap(truth, found, LABELS), right(sides)
    one, two = (bootstrap.interval(sides, is_true, LABELS.ids, draws=300) for _ in range(2))
    other = bootstrap.interval(sides, is_true, LABELS.ids, draws=300, seed=1)
    assert one is not None
    assert one == two != other
    assert one.low < score.mean_ap < one.high
    assert [*one.ap] == [1, 2, 3]  # 5 is never true
    assert (one.videos, one.draws, one.seed, one.level) == (4, 300, 0, 0.95)


def test_videos_that_are_all_alike_leave_no_doubt_and_one_video_no_interval() -> None:
    rows = random_rows(np.random.default_rng(3), 60, 3)
    alike = [(video, *row[1:]) for video in "pqrs" for row in rows]
    truth = annotations_of([(*row[:4], 0.0) for row in alike[::3]])
    one_video = annotations_of([("p", *row[1:4], 0.0) for row in rows])
    alone = meet(one_video, predictions_of([("p", *row[1:]) for row in rows]), LABELS)
    assert bootstrap.interval(alone, right(alone), LABELS.ids) is None
    truth = annotations_of([(v, *row[1:4], 0.0) for v in "pqrs" for row in rows[::2]])
    sides = meet(truth, predictions_of(alike), LABELS)
    found = bootstrap.interval(sides, right(sides), LABELS.ids, draws=100)
    assert found is not None
    # Ties between the copies fall differently from draw to draw, and no more than that.
    assert found.high - found.low < 0.06


def test_a_video_without_ground_truth_of_a_class_may_be_all_that_is_drawn() -> None:
    truth = annotations_of(
        [("p", 1.0, (0.1, 0.1, 0.5, 0.5), 1, 0.0), ("q", 1.0, (0.1, 0.1, 0.5, 0.5), 2, 0.0)]
    )
    found = predictions_of([("p", 1.0, (0.1, 0.1, 0.5, 0.5), 1, 0.5)])
    sides = meet(truth, found, LABELS)
    drawn = bootstrap.interval(sides, right(sides), LABELS.ids)
    assert drawn is not None
    # Two videos: p twice scores 1 (q's class is out of that draw), q twice 0, one of each 1/2.
    assert (drawn.low, drawn.high) == (0.0, 1.0)
    assert drawn.ap == {1: (1.0, 1.0), 2: (0.0, 0.0)}


# --- the ceiling


@pytest.mark.parametrize("seed", range(6))
def test_the_ceiling_is_the_share_of_rows_that_some_box_can_claim(seed: int) -> None:
    truth, found, sides = random_sides(seed)
    expected: dict[int, list[bool]] = {label: [] for label in LABELS.ids}
    keys = list(zip(truth.video.tolist(), truth.timestamp.tolist(), strict=True))
    for label in LABELS.ids:
        rows = np.flatnonzero(truth.action == label)
        claimed = set()
        for row in range(len(found.score)):
            key = (found.video[row], found.timestamp[row])
            rivals = [r for r in by_person(rows, truth) if keys[r] == key]
            over = [overlap(tuple(found.box[row]), tuple(truth.box[r])) for r in rivals]
            if over and max(over) >= 0.5:
                claimed.add(rivals[over.index(max(over))])
        expected[label] = [row in claimed for row in rows]
    ceiling = proposals.ceiling(sides, found.box, LABELS.ids)
    for label, hits in expected.items():
        share = sum(hits) / len(hits) if hits else math.nan
        assert ceiling[label] == pytest.approx(share, nan_ok=True)


def by_person(rows: np.ndarray, truth: Annotations) -> list[int]:
    """The order of the official reader, in which the first of equal overlaps counts."""
    return sorted(rows.tolist(), key=lambda row: -truth.person[row])


def test_the_ceiling_is_what_a_perfect_classifier_scores_on_these_boxes() -> None:
    rng = np.random.default_rng(5)
    people = {(row[0], row[1]): row for row in random_rows(rng, 40, 3)}  # one in a frame
    truth = annotations_of([(*row[:4], 0.0) for row in people.values()])
    boxes = random_rows(rng, 200, 3)
    found, seen = [], set()
    for video, second, box, _, _ in boxes:
        person = people.get((video, second))
        if person and (video, second) not in seen and overlap(box, person[2]) >= 0.5:
            seen.add((video, second))
            found.append((video, second, box, person[3], 1.0))
    sides = meet(truth, predictions_of(boxes), LABELS)
    ceiling = proposals.ceiling(sides, predictions_of(boxes).box, LABELS.ids)
    perfect = mean_ap(truth, predictions_of(found), LABELS)
    assert 0 < perfect.mean_ap < 1
    assert ceiling == pytest.approx(perfect.ap, nan_ok=True)


def test_a_score_is_not_above_its_ceiling() -> None:
    for seed in range(5):
        truth, found, sides = random_sides(seed, "slowfast")
        ceiling = proposals.ceiling(sides, found.box, LABELS.ids)
        score = mean_ap(truth, found, LABELS, protocol="slowfast")
        assert all(score.ap[label] <= ceiling[label] for label in (1, 2, 3))


# --- the errors


def slow_kinds(truth: Annotations, found: Predictions, sides: Sides) -> list[str]:
    """What each row that counts is: every pair of boxes of its frame looked at in turn."""
    kinds = []
    claimed: set[tuple[int, int]] = set()
    frame_of = sides.truth_frame.tolist()
    for frame, action, box in zip(
        sides.found.frame.tolist(), sides.found.action.tolist(), sides.found.box, strict=True
    ):
        own = [
            (overlap(tuple(box), tuple(sides.truth.box[row])), -row)
            for row in range(len(sides.truth.frame))
            if sides.truth.frame[row] == frame and sides.truth.action[row] == action
        ]
        anyone = [
            overlap(tuple(box), tuple(truth.box[row]))
            for row in range(len(frame_of))
            if frame_of[row] == frame
        ]
        best, row = max(own, default=(0.0, 1))
        close = max(anyone, default=0.0)
        if best >= 0.5:
            kinds.append("duplicate" if (frame, row) in claimed else "right")
            claimed.add((frame, row))
        elif close >= 0.5:
            kinds.append("wrong class")
        elif best >= 0.1:
            kinds.append("wrong place")
        else:
            kinds.append("wrong class and place" if close >= 0.1 else "background")
    return kinds


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_what_looking_at_all_pairs_says(seed: int, protocol: Protocol) -> None:
    truth, found, sides = random_sides(seed, protocol)
    kinds = budget.sort_errors(sides, truth.box, found.box).kind.tolist()
    assert kinds == slow_kinds(truth, found, sides)
    assert len(set(kinds)) == 6 or protocol == "activitynet"


P1, P2, FAR = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9), (0.0, 0.6, 0.3, 0.9)
NEAR_P1 = (0.2, 0.0, 0.6, 0.4)  # half of each: IoU 1/3


def errors_of(truth: list[Row], found: list[Row], labels: LabelMap) -> dict[str, tuple[int, Any]]:
    one, two = annotations_of(truth), predictions_of(found)
    told = budget.budget(meet(one, two, labels), one.box, two.box, labels)
    assert [error.gain for error in told] == sorted((e.gain for e in told), reverse=True)
    return {error.kind: (error.rows, pytest.approx(error.gain)) for error in told}


def test_each_kind_of_error_is_found_and_its_worth_is_that_worked_out_by_hand() -> None:
    one = LabelMap({1: "a"})
    truth: list[Row] = [("v", 1.0, P1, 1, 0.0)]
    # A false row above the only true one halves the score; without it the score is 1.
    for kind, box in (("background", FAR), ("duplicate", P1)):
        found: list[Row] = [("v", 1.0, box, 1, 0.9), ("v", 1.0, P1, 1, 0.8)]
        told = errors_of(truth, found, one)
        if kind == "duplicate":  # the better one is right, and the second costs nothing
            assert told[kind] == (1, 0.0)
        else:
            assert told[kind] == (1, 0.5)
    # A person of another action, which is not even scored: the row on them is of the wrong class.
    told = errors_of(
        [*truth, ("v", 1.0, P2, 7, 0.0)],
        [("v", 1.0, P2, 1, 0.9), ("v", 1.0, P1, 1, 0.8)],
        one,
    )
    assert told["wrong class"] == (1, 0.5)
    # Near the only person: moved onto them it is right, and nothing is missed any more.
    told = errors_of(truth, [("v", 1.0, NEAR_P1, 1, 0.9)], one)
    assert told["wrong place"] == (1, 1.0)
    # The person without a box is not asked for; what is left to find is nothing.
    assert told["missed by proposals"] == (1, 1.0)
    assert told["missed on a box"] == (0, 0.0)
    # Moved onto a person who is claimed by another, it goes.
    told = errors_of(truth, [("v", 1.0, NEAR_P1, 1, 0.9), ("v", 1.0, P1, 1, 0.8)], one)
    assert told["wrong place"] == (1, 0.5)
    # Of two near ones the better takes the place and the other goes.
    far_one: Row = ("v", 2.0, P1, 1, 0.0)
    told = errors_of(
        [*truth, far_one], [("v", 1.0, NEAR_P1, 1, 0.9), ("v", 1.0, NEAR_P1, 1, 0.8)], one
    )
    assert told["wrong place"] == (2, 0.5)
    # Near somebody with another action alone.
    told = errors_of(
        [*truth, ("v", 2.0, P1, 7, 0.0)],
        [("v", 2.0, NEAR_P1, 1, 0.9), ("v", 1.0, P1, 1, 0.8)],
        one,
    )
    assert told["wrong class and place"] == (1, 0.5)
    # A box is on the person, but no row gives it their action.
    told = errors_of(truth, [("v", 1.0, P1, 7, 0.9)], one)
    assert told["missed on a box"] == (1, 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_mending_an_error_takes_nothing(seed: int) -> None:
    truth, found, sides = random_sides(seed)
    told = budget.budget(sides, truth.box, found.box, LABELS)
    assert {error.kind for error in told} == set(budget.KINDS)
    assert all(error.gain >= 0 for error in told)
    false = sum(error.rows for error in told if error.kind in budget.FALSE)
    assert false == len(sides.found.frame) - int(right(sides).sum())
    missed = sum(error.rows for error in told if error.kind not in budget.FALSE)
    assert missed == len(sides.truth.frame) - int(right(sides).sum())


# --- thresholds, groups, reasons, fingerprints


def test_the_score_over_cocos_thresholds_is_that_of_each_alone() -> None:
    truth, found, sides = random_sides(4)
    told = over_thresholds(sides, LABELS)
    assert [*told] == list(COCO) == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    for threshold, value in told.items():
        assert value == mean_ap(truth, found, LABELS, iou_threshold=threshold).mean_ap
    assert told[0.95] < told[0.5]


def test_avas_groups_are_told_by_id_and_own_ones_by_name(shared_data: Path) -> None:
    folder = shared_data / "ava_annotations"
    sixty = read_labels(folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt")
    eighty = read_labels(folder / "ava_action_list_v2.2.pbtxt")
    sizes = {name: len(ids) for name, ids in groups.groups(eighty).items()}
    assert sizes == {"pose": 14, "object": 49, "person": 17}
    told = groups.groups(sixty)
    assert {name: len(ids) for name, ids in told.items()} == {
        "pose": 13,
        "object": 32,
        "person": 15,
    }
    by_type: dict[str, list[int]] = {}
    for label in eighty.ids:
        by_type.setdefault(eighty.groups[label], []).append(label)
    assert list(by_type.values()) == list(groups.groups(eighty).values())
    assert groups.groups(LABELS) == {}
    own = LabelMap({1: "a", 2: "b", 3: "c"}, {1: "near", 3: "near"})
    assert groups.groups(own) == {"near": [1, 3]}


def test_a_groups_mean_leaves_out_classes_without_ground_truth() -> None:
    told = groups.group_means({"x": [1, 2, 3], "y": [2]}, {1: 0.25, 2: math.nan, 3: 0.75})
    assert told["x"] == 0.5
    assert math.isnan(told["y"])


def test_a_class_that_scores_0_has_its_reason() -> None:
    labels = LabelMap({label: f"c{label}" for label in range(1, 6)})
    truth: list[Row] = [("v", 1.0, P1, label, 0.0) for label in (1, 2, 3, 4, 5)]
    found: list[Row] = [
        ("v", 1.0, P1, 1, 0.9),
        *[("v", 1.0, FAR, 1, 0.8)] * 49,
        ("v", 1.0, P1, 2, 0.1),  # the 51st
        ("w", 1.0, P1, 3, 0.9),
        ("v", 1.0, FAR, 4, 0.95),
    ]
    one, two = annotations_of(truth), predictions_of(found[:49] + found[50:])
    sides = meet(one, two, labels)
    ap = by_class(sides, right(sides), labels.ids)
    # 49 rows of class 1 and one of 4 fill the 50 places.
    assert explain_classes(sides, two, ap, labels) == [
        "AP 0, always below the best pairs of their key frames, which alone count: 2 (c2)",
        "AP 0, predicted on other key frames only: 3 (c3)",
        "AP 0, no box of theirs overlaps an annotated one by half: 4 (c4)",
        "AP 0, never predicted: 5 (c5)",
    ]


def test_the_dataset_is_told_by_the_list_and_the_name(shared_data: Path) -> None:
    path = shared_data / "ava_annotations" / "ava_action_list_v2.1_for_activitynet_2018.pbtxt.txt"
    sixty = read_labels(path)
    told = dataset(sixty, Path("x/ava_val_v2.2.csv"))
    assert told == "AVA, v2.2 by the file's name, 60 of 80 actions"
    assert dataset(sixty, Path("val.csv")) == "AVA, version not said, 60 of 80 actions"
    assert dataset(LABELS, Path("ava_val_v2.2.csv")) == "own"


def test_fingerprints_differ_by_settings_and_not_by_what_is_compared() -> None:
    one = {"protocol": "activitynet", "classes": 60, "detector": "x", "views": 1}
    assert differences(one, {**one, "detector": "y", "bank": "z"}) == []
    two = {"protocol": "slowfast", "classes": 60, "boxes": "b"}
    assert differences(one, two) == [
        "protocol: activitynet and slowfast",
        "views: 1 and not said",
        "boxes: not said and b",
    ]


def test_the_mean_of_nothing_is_not_a_number() -> None:
    assert math.isnan(mean_of({1: math.nan}, 3))
