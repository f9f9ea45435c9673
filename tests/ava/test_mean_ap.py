"""The score against worked examples, the official programs' numbers and a slow obvious oracle."""

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from vidssl.ava.annotations import (
    Annotations,
    Predictions,
    read_annotations,
    read_excluded,
    read_predictions,
    write_predictions,
)
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.mean_ap import Protocol, Score, average_precision, mean_ap
from vidssl.errors import AnnotationError

Write = Callable[..., Path]
Frames = frozenset[tuple[str, float]]
Row = tuple[str, float, tuple[float, ...], int, float]  # the last is a person or a score

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
RUN_SIT_STAND = LabelMap({10: "run/jog", 11: "sit", 12: "stand"})

TRUTH = [
    "A,0902,.1,.1,.5,.9,12,0",
    "A,0902,.55,.1,.95,.9,12,1",
    "A,0902,.1,.1,.5,.9,79,0",  # a class that is not scored
    "A,0903,.2,.2,.6,.8,12,2",
    "A,0903,.2,.2,.6,.8,11,2",
    "A,0904",  # looked at, nobody there
    "B,0902,.3,.3,.7,.9,11,3",
]
FOUND = [
    "A,0902,.1,.1,.5,.85,12,.60",
    "A,0902,.1,.1,.5,.9,12,.90",
    "A,0902,.5,.1,.95,.9,12,.40",
    "A,0903,.2,.2,.6,.8,12,.30",
    "A,0903,.2,.2,.6,.8,11,.80",
    "A,0904,.1,.1,.2,.2,12,.95",
    "A,0905,.1,.1,.2,.2,12,.99",  # not in the ground truth
    "B,0902,.3,.3,.7,.9,11,.20",
    "B,0902,0,0,.2,.2,11,.70",
    "B,0902,0,0,.2,.2,10,.70",
]


def golden(write: Write, truth: list[str] = TRUTH) -> tuple[Annotations, Predictions]:
    annotations = read_annotations(write("truth.csv", *truth), RUN_SIT_STAND)
    return annotations, read_predictions(write("found.csv", *FOUND), RUN_SIT_STAND)


def test_the_official_score_of_the_worked_example(write: Write) -> None:
    # stand, by score: .95 on the empty frame is false, .90 true, .60 is a second claim, .40 and
    # .30 are true: precisions 1/2, 2/4, 3/5 at three of 3 positives, enveloped 3/5 each.
    # sit: .80 true, .70 false, .20 true: 1/2 * 1 + 1/2 * 2/3 = 5/6. run: no ground truth.
    score = mean_ap(*golden(write), RUN_SIT_STAND)
    assert score.ap[12] == pytest.approx(0.6)
    assert score.ap[11] == pytest.approx(5 / 6)
    assert math.isnan(score.ap[10])
    assert score.mean_ap == pytest.approx(0.716667, abs=1e-6)
    assert score.positives == {10: 0, 11: 2, 12: 3}
    assert (score.expected, score.evaluated, score.without_predictions) == (4, 4, 0)
    assert (score.ignored_images, score.excluded) == (1, 0)


def test_the_slowfast_score_of_the_worked_example(write: Write) -> None:
    # stand: .99 on a frame outside the ground truth is false too, and the .60 box comes before the
    # .90 one, so that one is the second claim: true at ranks 4, 5, 6 of .99 .95 .90 .60 .40 .30.
    tables = golden(write, [row for row in TRUTH if row.count(",") > 1])
    score = mean_ap(*tables, RUN_SIT_STAND, protocol="slowfast")
    assert score.ap[12] == pytest.approx(0.5)
    assert score.ap[11] == pytest.approx(5 / 6)
    assert score.mean_ap == pytest.approx(0.666667, abs=1e-6)
    assert (score.expected, score.evaluated, score.ignored_images) == (3, 3, 0)


def test_every_point_of_the_curve_counts() -> None:
    # .9 true, .8 false, .7 true, .6 false, of 3: 1/3 * 1 + 1/3 * 2/3 = 5/9.
    assert average_precision(np.array([True, False, True, False]), 3) == pytest.approx(5 / 9)


def test_a_class_without_predictions_scores_0_and_one_without_ground_truth_nothing() -> None:
    nothing = np.zeros(0, dtype=np.bool_)
    assert average_precision(nothing, 3) == 0.0
    assert math.isnan(average_precision(nothing, 0))


def expected_scores(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted((folder / "ava_eval").glob("*/expected.json")):
        entries = json.loads(path.read_text())
        found += [
            (path.parent, entry) for entry in (entries if isinstance(entries, list) else [entries])
        ]
    assert len(found) == 4
    return found


def read_case(
    folder: Path, files: dict[str, str | None]
) -> tuple[Annotations, Predictions, LabelMap, Frames]:
    labels = read_labels(folder / str(files["labelmap"]))
    excluded = files["exclusions"]
    return (
        read_annotations(folder / str(files["groundtruth"]), labels),
        read_predictions(folder / str(files["detections"]), labels),
        labels,
        read_excluded(folder / excluded) if excluded else frozenset(),
    )


@pytest.mark.parametrize(
    ("protocol", "key"),
    [
        ("activitynet", "activitynet_2018_get_ava_performance"),
        ("slowfast", "slowfast_style_with_exclusions"),
    ],
)
def test_the_numbers_of_the_official_programs_are_reproduced(
    shared_data: Path, protocol: Protocol, key: str
) -> None:
    for folder, entry in expected_scores(shared_data):
        annotations, predictions, labels, excluded = read_case(folder, entry["files"])
        score = mean_ap(annotations, predictions, labels, protocol=protocol, excluded=excluded)
        by_name = {labels.names[label]: value for label, value in score.ap.items()}
        classes = {k.split("IOU/", 1)[1]: v for k, v in entry[key].items() if "IOU/" in k}
        assert score.mean_ap == pytest.approx(
            entry[key]["PascalBoxes_Precision/mAP@0.5IOU"], abs=1e-9
        )
        assert by_name.keys() == classes.keys()
        for name, value in classes.items():
            expected = math.nan if value is None else value
            assert by_name[name] == pytest.approx(expected, abs=1e-9, nan_ok=True), name


def test_the_order_of_the_rows_of_a_real_file_does_not_matter(shared_data: Path) -> None:
    folder, entry = expected_scores(shared_data)[0]
    annotations, predictions, labels, _ = read_case(folder, entry["files"])
    order = np.random.default_rng(0).permutation(len(predictions.score))
    shuffled = mean_ap(annotations, rows_of(predictions, order), labels)
    assert shuffled.mean_ap == mean_ap(annotations, predictions, labels).mean_ap


def rows_of(table: Predictions, rows: Any) -> Predictions:
    return Predictions(
        table.video[rows],
        table.timestamp[rows],
        table.box[rows],
        table.action[rows],
        table.score[rows],
    )


def annotations_of(rows: list[Row]) -> Annotations:
    video, seconds, box, action, person = columns_of(rows)
    return Annotations(video, seconds, box, action, person.astype(np.int64))


def columns_of(rows: list[Row]) -> tuple[Any, ...]:
    video, seconds, box, action, last = zip(*rows, strict=True)
    return (
        np.array(video),
        np.array(seconds, dtype=np.float64),
        np.array(box, dtype=np.float64),
        np.array(action, dtype=np.int64),
        np.array(last, dtype=np.float64),
    )


def random_rows(
    rng: np.random.Generator, count: int, frames: int, classes: int, tied: bool
) -> list[Row]:
    """Boxes on a coarse grid (so that overlaps tie), repeats, classes from 1 to ``classes``."""
    rows: list[Row] = []
    for _ in range(count):
        x, y = rng.integers(0, 4, 2) / 8
        width, height = rng.integers(2, 5, 2) / 8
        last = rng.integers(0, 4) / 4 if tied else rng.random()
        video = str(rng.choice(["a", "b"]))
        box = (x, y, x + width, y + height)
        rows.append(
            (video, float(rng.integers(0, frames)), box, int(rng.integers(1, classes + 1)), last)
        )
    return rows


def overlap(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return width * height / (areas[0] + areas[1] - width * height)


def by_frame(rows: list[Row], ids: set[int], official: bool, limit: int) -> dict[Any, list[Row]]:
    """Group rows as the programs' readers do: in file order, or through a bounded heap."""
    if not official:
        groups = defaultdict(list)
        for row in rows:
            if row[3] in ids:
                groups[row[:2]].append(row)
        return groups
    heaps: dict[Any, list[Any]] = defaultdict(list)
    for video, seconds, (x1, y1, x2, y2), action, score in rows:
        if action in ids:
            heap, entry = heaps[video, seconds], (score, action, y1, x1, y2, x2)
            if not limit or len(heap) < limit:
                heapq.heappush(heap, entry)
            elif score > heap[0][0]:
                heapq.heapreplace(heap, entry)
    return {
        key: [
            (*key, (x1, y1, x2, y2), action, score)
            for score, action, y1, x1, y2, x2 in sorted(heap, key=lambda entry: -entry[0])
        ]
        for key, heap in heaps.items()
    }


def slow_ap(truth: list[Row], found: list[Row], label: int) -> list[tuple[float, bool]]:
    """Score and truth of one class in one frame: every box asks its best ground truth only."""
    boxes = [row[2] for row in truth if row[3] == label]
    taken: set[int] = set()
    results = []
    for row in found:
        if row[3] != label:
            continue
        overlaps = [overlap(row[2], box) for box in boxes]
        best = overlaps.index(max(overlaps)) if overlaps else -1
        true = best >= 0 and overlaps[best] >= 0.5 and best not in taken
        if true:
            taken.add(best)
        results.append((row[4], true))
    return results


def slow_area(results: list[tuple[float, bool]], positives: int) -> float:
    if not positives:
        return math.nan
    order = np.argsort(np.array([score for score, _ in results]))[::-1]
    points, true = [], 0
    for rank, index in enumerate(order, start=1):
        true += results[index][1]
        points.append((true / positives, true / rank))
    area, before = 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * max((p for r, p in points if r >= recall), default=0.0)
        before = recall
    return area


def slow_mean_ap(
    truth: list[Row], found: list[Row], ids: set[int], protocol: Protocol, excluded: Frames
) -> dict[int, float]:
    official = protocol == "activitynet"
    if official:
        # AVA's reader takes the person, the last column of the ground truth, for a score.
        known = {row[:2] for row in truth}
        found = [row for row in found if row[:2] in known]
    else:
        truth, found = ([row for row in rows if row[:2] not in excluded] for rows in (truth, found))
    truths = by_frame(truth, ids, official, 0)
    founds = by_frame(found, ids, official, 50)
    return {
        label: slow_area(
            [
                pair
                for key, rows in founds.items()
                for pair in slow_ap(truths.get(key, []), rows, label)
            ],
            sum(row[3] == label for row in truth),
        )
        for label in ids
    }


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(12))
def test_the_fast_score_equals_the_slow_one(protocol: Protocol, seed: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    # Classes 1 to 6 occur, 2 is not scored, 7 is scored and never occurs; frames 0 to 3 of two
    # videos are annotated, 0 to 4 predicted, with about 80 boxes each: more than 50.
    ids = {1, 3, 4, 5, 6, 7}
    labels = LabelMap({label: str(label) for label in sorted(ids)})
    truth = [
        (video, seconds, box, action, float(round(4 * last)))
        for video, seconds, box, action, last in random_rows(rng, 60, 4, 6, tied)
    ]
    found = random_rows(rng, 800, 5, 6, tied)
    excluded: Frames = frozenset({("a", 1.0), ("z", 3.0)})
    expected = slow_mean_ap(truth, found, ids, protocol, excluded)
    score = mean_ap(
        annotations_of(truth),
        Predictions(*columns_of(found)),
        labels,
        protocol=protocol,
        excluded=excluded,
    )
    assert score.ap == pytest.approx(expected, abs=1e-12, nan_ok=True)
    present = [value for value in expected.values() if not math.isnan(value)]
    assert score.mean_ap == pytest.approx(sum(present) / len(present))


@pytest.mark.parametrize("classes", [60, 80])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(2))
def test_what_files_may_not_hold_is_scored_in_memory_as_the_programs_do(
    protocol: Protocol, seed: int, classes: int, shared_data: Path
) -> None:
    # Boxes that leave the frame, scores that are no number, rows twice, AVA's lists of 60 and 80;
    # the rows are of few actions, so that most classes are empty on one side or on both.
    name = {60: "ava_action_list_v2.2_for_activitynet_2019", 80: "ava_action_list_v2.2"}[classes]
    labels = read_labels(shared_data / "ava_annotations" / f"{name}.pbtxt")
    assert len(labels.ids) == classes
    rng = np.random.default_rng(seed)
    truth, found = (
        [
            (video, seconds, tuple(2 * side - 0.5 for side in box), 3 * action, last)
            for video, seconds, box, action, last in random_rows(rng, count, 4, 26, tied=True)
        ]
        for count in (120, 900)
    )
    truth = [(*row[:4], float(round(4 * row[4]))) for row in truth]
    found = [(*row[:4], math.nan if at % 53 == 0 else row[4]) for at, row in enumerate(found)]
    found += found[:40]
    # One key frame is not annotated, another is excluded.
    truth = [row for row in truth if row[:2] != ("a", 0.0)]
    excluded: Frames = frozenset({("b", 2.0)})
    expected = slow_mean_ap(truth, found, set(labels.ids), protocol, excluded)
    tables = annotations_of(truth), Predictions(*columns_of(found))
    score = mean_ap(*tables, labels, protocol=protocol, excluded=excluded)
    assert score.ap == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert score.mean_ap > 0


def test_constant_scores_give_the_frequency_of_the_class() -> None:
    # The right box in every frame with one score for every class: at any recall the precision is
    # the share of annotated frames that have the class, but for chance at the start of the curve.
    rng = np.random.default_rng(7)
    box = (0.1, 0.1, 0.5, 0.5)
    shares = {1: 0.1, 2: 0.5, 3: 0.9}
    truth: list[Row] = [
        ("a", float(frame), box, label, 0.0)
        for frame in range(20_000)
        for label, share in shares.items()
        if rng.random() < share
    ]
    found: list[Row] = [
        ("a", float(frame), box, label, 0.5) for frame in range(20_000) for label in shares
    ]
    score = mean_ap(
        annotations_of(truth), Predictions(*columns_of(found)), LabelMap({1: "a", 2: "b", 3: "c"})
    )
    frequency = {label: count / score.expected for label, count in score.positives.items()}
    assert score.ap == pytest.approx(frequency, abs=0.01)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(5))
def test_the_ground_truth_scores_1(protocol: Protocol, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = {
        row[:4]: row for row in random_rows(rng, 60, 6, 5, tied=False)
    }  # no box and class twice
    truth = annotations_of(list(rows.values()))
    found = Predictions(truth.video, truth.timestamp, truth.box, truth.action, np.ones(len(rows)))
    labels = LabelMap({label: str(label) for label in range(1, 9)})
    score = mean_ap(truth, found, labels, protocol=protocol)
    assert score.mean_ap == 1.0
    assert set(score.ap[label] for label in range(1, 6)) == {1.0}


@pytest.mark.parametrize("seed", range(5))
def test_the_official_score_does_not_depend_on_the_order_of_the_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = LabelMap({label: str(label) for label in range(1, 6)})
    truth = random_rows(rng, 60, 4, 5, tied=False)
    found = Predictions(*columns_of(random_rows(rng, 600, 4, 5, tied=False)))
    found = replace(
        found, box=found.box + rng.normal(0, 1e-3, found.box.shape)
    )  # no equal overlaps
    score = mean_ap(annotations_of(truth), found, labels)
    order = [truth[index] for index in rng.permutation(len(truth))]
    shuffled = mean_ap(annotations_of(order), rows_of(found, rng.permutation(600)), labels)
    assert shuffled.ap == pytest.approx(score.ap, abs=1e-12)
    assert score.mean_ap > 0


def test_a_repeated_ground_truth_row_can_be_reached_once() -> None:
    # Both boxes of the prediction prefer the first of two equal rows: 1 of 2 positives found.
    row: Row = ("a", 1.0, (0.1, 0.1, 0.5, 0.5), 1, 0.0)
    found = Predictions(*columns_of([(*row[:4], 0.9), (*row[:4], 0.8)]))
    score = mean_ap(annotations_of([row, row]), found, LabelMap({1: "a"}))
    assert score.mean_ap == 0.5


def test_a_box_of_half_overlap_counts() -> None:
    # 0.5 x 1 of 1 x 1: IoU exactly 0.5.
    truth = annotations_of([("a", 1.0, (0.0, 0.0, 1.0, 1.0), 1, 0.0)])
    found = Predictions(*columns_of([("a", 1.0, (0.0, 0.0, 0.5, 1.0), 1, 0.9)]))
    labels = LabelMap({1: "a"})
    assert mean_ap(truth, found, labels).mean_ap == 1.0
    assert mean_ap(truth, found, labels, iou_threshold=0.51).mean_ap == 0.0


def test_only_the_50_best_pairs_of_a_frame_count_officially() -> None:
    # 50 false boxes of class 2 above one true box of class 1.
    false: list[Row] = [("a", 1.0, (0.8, 0.8, 0.9, 0.9), 2, 0.9) for _ in range(50)]
    true: Row = ("a", 1.0, (0.1, 0.1, 0.5, 0.5), 1, 0.5)
    truth = annotations_of([(*true[:4], 0.0)])
    labels = LabelMap({1: "a", 2: "b"})
    found = Predictions(*columns_of([*false, true]))
    assert mean_ap(truth, found, labels).mean_ap == 0.0
    assert mean_ap(truth, rows_of(found, slice(1, None)), labels).mean_ap == 1.0
    assert mean_ap(truth, found, labels, protocol="slowfast").mean_ap == 1.0
    # Rows of a class that is not scored take no place.
    assert mean_ap(truth, found, LabelMap({1: "a"})).mean_ap == 1.0


def test_fractions_of_a_second_are_different_frames() -> None:
    box = (0.1, 0.1, 0.5, 0.5)
    truth = annotations_of([("a", 1.25, box, 1, 0.0), ("a", 1.5, box, 1, 0.0)])
    found = Predictions(*columns_of([("a", 1.2500000001, box, 1, 0.9), ("a", 1.4, box, 1, 0.8)]))
    score = mean_ap(truth, found, LabelMap({1: "a"}))
    assert score.mean_ap == 0.5
    assert (score.expected, score.evaluated, score.ignored_images) == (2, 1, 1)


def test_a_score_says_over_how_many_key_frames_it_was_taken(write: Write) -> None:
    annotations, predictions = golden(write)
    without_b = rows_of(predictions, predictions.video != "B")
    score = mean_ap(annotations, without_b, RUN_SIT_STAND)
    assert (score.expected, score.evaluated, score.without_predictions) == (4, 3, 1)


def test_a_prediction_row_without_a_box_says_that_the_frame_was_looked_at(write: Write) -> None:
    annotations, predictions = golden(write)
    rows = [row for row in FOUND if not row.startswith("B")]
    looked = read_predictions(write("looked.csv", *rows, "B,0902"))
    score = mean_ap(annotations, looked, RUN_SIT_STAND)
    assert score.without_predictions == 0
    unseen = rows_of(predictions, predictions.video != "B")
    assert score.ap == pytest.approx(mean_ap(annotations, unseen, RUN_SIT_STAND).ap, nan_ok=True)


def test_exclusions_leave_both_sides_under_slowfast_and_are_ignored_officially(
    write: Write,
) -> None:
    tables = golden(write, [row for row in TRUTH if row.count(",") > 1])
    out: Frames = frozenset({("A", 905.0), ("B", 902.0), ("Z", 1.0)})
    score = mean_ap(*tables, RUN_SIT_STAND, protocol="slowfast", excluded=out)
    assert (score.expected, score.evaluated, score.excluded) == (2, 2, 1)
    assert score.positives[11] == 1
    assert score.ap[11] == 1.0
    assert score.fingerprint["exclusions"] == "removed (3)"
    official = mean_ap(*tables, RUN_SIT_STAND, excluded=out)
    assert official.mean_ap == mean_ap(*tables, RUN_SIT_STAND).mean_ap
    assert (official.expected, official.excluded) == (3, 0)
    assert official.fingerprint["exclusions"] == "ignored (3)"


def test_scores_of_different_settings_have_different_fingerprints(write: Write) -> None:
    tables = golden(write, [row for row in TRUTH if row.count(",") > 1])
    scores: list[Score] = [
        mean_ap(*tables, RUN_SIT_STAND),
        mean_ap(*tables, RUN_SIT_STAND, iou_threshold=0.75),
        mean_ap(*tables, RUN_SIT_STAND, protocol="slowfast"),
        mean_ap(*tables, LabelMap({11: "sit", 12: "stand"})),
    ]
    assert len({json.dumps(score.fingerprint) for score in scores}) == 4
    assert scores[0].fingerprint["pairs_per_frame"] == 50
    assert scores[2].fingerprint["frames_outside_ground_truth"] == "false positives"


def test_key_frames_without_a_box_and_fractions_are_refused_under_slowfast(write: Write) -> None:
    annotations, predictions = golden(write)
    halves = replace(predictions, timestamp=predictions.timestamp + 0.5)
    with pytest.raises(AnnotationError) as caught:
        mean_ap(annotations, halves, RUN_SIT_STAND, protocol="slowfast")
    assert str(caught.value).splitlines() == [
        "the slowfast protocol cannot score these; use activitynet:",
        "  ground truth: expected a box in every row, found 1 rows without one",
        "  predictions: expected whole seconds, found A at 902.5 (10 such rows)",
    ]


def test_an_unknown_protocol_is_a_wrong_call(write: Write) -> None:
    with pytest.raises(ValueError, match="got 'voc'"):
        mean_ap(*golden(write), RUN_SIT_STAND, protocol="voc")  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_predictions_at_all_score_0(protocol: Protocol) -> None:
    truth = annotations_of([("a", 1.0, (0.1, 0.1, 0.5, 0.5), 1, 0.0)])
    none = np.zeros(0)
    nothing = Predictions(none.astype(str), none, np.zeros((0, 4)), none.astype(int), none)
    score = mean_ap(truth, nothing, LabelMap({1: "a"}), protocol=protocol)
    assert (score.mean_ap, score.expected, score.evaluated) == (0.0, 1, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_empty_box_in_memory_is_dropped_and_not_counted_as_false(protocol: Protocol) -> None:
    truth = annotations_of([("a", 1.0, (0.1, 0.1, 0.5, 0.5), 1, 0.0)])
    boxes = [(0.5, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.5)]
    found = Predictions(
        *columns_of([("a", 1.0, box, 1, 0.9 - i / 9) for i, box in enumerate(boxes)])
    )
    assert mean_ap(truth, found, LabelMap({1: "a"}), protocol=protocol).mean_ap == 1.0


def test_no_class_with_ground_truth_has_no_mean(write: Write) -> None:
    score = mean_ap(*golden(write), LabelMap({10: "run/jog"}))
    assert math.isnan(score.mean_ap)


def test_predictions_that_were_written_score_the_same_to_the_last_digit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = LabelMap({label: str(label) for label in range(1, 6)})
    truth = annotations_of(random_rows(rng, 60, 4, 5, tied=False))
    found = Predictions(*columns_of(random_rows(rng, 600, 5, 5, tied=False)))
    jitter = rng.normal(0, 0.01, found.box.shape)
    found = replace(found, box=np.clip(found.box + jitter, 0, 1), timestamp=found.timestamp)
    write_predictions(tmp_path / "found.csv", found)
    again = read_predictions(tmp_path / "found.csv")
    for protocol in PROTOCOLS:
        one, two = (mean_ap(truth, table, labels, protocol=protocol) for table in (found, again))
        assert one.ap == two.ap
        assert one.mean_ap == two.mean_ap > 0
