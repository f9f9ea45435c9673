"""Top-k, class accuracy and average precision: by hand, and against slow or other references."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vidssl.ava.mean_ap import average_precision as ava_precision
from vidssl.recognition import metrics, resampling


def scores(*rows: list[float]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32)


def test_top_k_counts_the_classes_that_score_more() -> None:
    found = scores([0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5])
    labels = np.array([1, 1, 0])
    assert metrics.top_k(found, labels, 1).tolist() == [1, 0, 0]
    assert metrics.top_k(found, labels, 2).tolist() == [1, 1, 0]
    assert metrics.top_k(found, labels, 3).tolist() == [1, 1, 1]


def test_equal_scores_share_the_places_among_them() -> None:
    # One class is better, three share places 2 to 4: of the two best places one is left for them.
    found = scores([0.4, 0.2, 0.2, 0.2])
    assert metrics.top_k(found, np.array([2]), 1).tolist() == [0]
    assert metrics.top_k(found, np.array([2]), 2).tolist() == [pytest.approx(1 / 3)]
    assert metrics.top_k(found, np.array([2]), 4).tolist() == [1]


def test_a_network_that_scores_all_classes_alike_is_at_chance() -> None:
    labels = np.arange(60) % 20
    same = np.full((60, 20), 0.05, np.float32)
    assert metrics.top_k(same, labels, 1).mean() == pytest.approx(1 / 20)
    assert metrics.top_k(same, labels, 5).mean() == pytest.approx(5 / 20)


def test_top_k_is_the_mean_over_all_orders_of_equal_classes() -> None:
    rng = np.random.default_rng(0)
    found = rng.integers(0, 4, size=(30, 6)).astype(np.float32)
    labels = rng.integers(0, 6, size=30)
    for k in (1, 2, 5):
        seen = np.zeros(30)
        for _ in range(4000):
            noise = rng.random((30, 6)) * 0.5
            best = np.argsort(-(found + noise), axis=1)[:, :k]
            seen += (best == labels[:, None]).any(axis=1)
        assert np.abs(metrics.top_k(found, labels, k) - seen / 4000).max() < 0.05


def test_what_is_no_number_is_no_score() -> None:
    with pytest.raises(ValueError, match="not a number"):
        metrics.top_k(scores([0.1, float("nan")]), np.array([0]), 1)


def test_class_accuracy_is_a_mean_over_classes_that_have_videos() -> None:
    # Class 0: 1 of 3, class 1: 1 of 1, class 2 has none: (1/3 + 1) / 2.
    by_class = metrics.by_class(np.array([1.0, 0, 0, 1]), np.array([0, 0, 0, 1]), 3)
    assert by_class[:2].tolist() == [pytest.approx(1 / 3), 1]
    assert np.isnan(by_class[2])
    assert metrics.mean_of(by_class) == pytest.approx(2 / 3)


def test_average_precision_is_the_step_sum_by_hand() -> None:
    # By falling score: right, wrong, right: 1/2 * 1 + 1/2 * 2/3 = 5/6. AVA's agrees on that; in
    # wrong, right, right it takes the best precision to come, 2/3, where the steps are 1/2, 2/3.
    first = np.array([0.9, 0.8, 0.7], np.float32)
    assert metrics.average_precision(first, np.array([True, False, True])) == pytest.approx(5 / 6)
    late = np.array([False, True, True])
    assert metrics.average_precision(first, late) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert ava_precision(late, 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_is_that_of_scikit_learn(levels: int) -> None:
    rng = np.random.default_rng(levels)
    found = (rng.integers(0, levels, size=(80, 12)) / levels).astype(np.float32)
    truth = rng.random((80, 12)) < 0.2
    expected = average_precision_score(truth, found, average=None)
    assert np.allclose(metrics.class_precisions(found, truth), expected, rtol=1e-12, atol=0)


def test_average_precision_is_not_there_without_positives_and_with_one_score_is_their_share() -> (
    None
):
    none = np.zeros(4, np.bool_)
    assert np.isnan(metrics.average_precision(np.zeros(4, np.float32), none))
    some = np.array([True, False, False, False])
    assert metrics.average_precision(np.zeros(4, np.float32), some) == pytest.approx(1 / 4)


def test_positives_that_were_never_scored_are_never_found() -> None:
    found, truth = np.array([0.9, 0.1], np.float32), np.array([True, False])
    assert metrics.average_precision(found, truth, positives=4) == pytest.approx(1 / 4)


def test_the_confused_classes_are_counted() -> None:
    found = scores([0.1, 0.9], [0.2, 0.8], [0.7, 0.3])
    assert metrics.confusion(found, np.array([0, 0, 1])) == [(0, 1, 2), (1, 0, 1)]


# --- intervals


def test_the_interval_of_a_share_is_that_of_the_binomial_law() -> None:
    # 1000 videos, half of them right: the deviation is sqrt(0.25 / 1000) = 0.0158.
    found = resampling.of_mean(np.arange(1000) % 2 == 0)
    assert found is not None
    assert found.low == pytest.approx(0.5 - 1.96 * 0.0158, abs=0.004)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.0158, abs=0.004)
    assert (found.videos, found.draws) == (1000, 1000)


def test_the_intervals_follow_a_slow_count_of_the_same_draws() -> None:
    rng = np.random.default_rng(1)
    count, classes = 25, 4
    label = rng.integers(0, classes, size=count)
    right = rng.random(count).round()
    found = rng.integers(0, 5, size=(count, classes)).astype(np.float32)
    truth = rng.random((count, classes)) < 0.4
    scored = rng.random(count) < 0.9
    own, means, precisions = [], [], []
    again = np.random.default_rng(resampling.SEED).integers(count, size=(resampling.DRAWS, count))
    for rows in again:
        own.append(right[rows].mean())
        present = [right[rows][label[rows] == k].mean() for k in set(label[rows].tolist())]
        means.append(np.mean(present))
        kept = rows[scored[rows]]
        columns = [
            metrics.average_precision(found[kept, k], truth[kept, k], int(truth[rows, k].sum()))
            for k in range(classes)
        ]
        precisions.append(metrics.mean_of(np.array(columns)))
    every = [
        metrics.average_precision(found[scored, k], truth[scored, k], int(truth[:, k].sum()))
        for k in range(classes)
    ]
    shift = float(np.mean(every) - np.mean(precisions))
    assert shift < 0  # a draw has some videos twice, which raises the precision
    for interval, values in (
        (resampling.of_mean(right), own),
        (resampling.of_class_mean(right, label), means),
        (resampling.of_mean_precision(found, truth, scored), [one + shift for one in precisions]),
    ):
        assert interval is not None
        expected = np.quantile(values, [0.025, 0.975])
        assert [interval.low, interval.high] == pytest.approx(expected.tolist())


def test_the_memory_of_an_interval_does_not_grow_with_the_classes() -> None:
    rng = np.random.default_rng(2)
    found = rng.random((600, 40)).astype(np.float32)
    truth = rng.random((600, 40)) < 0.3
    peaks = []
    for classes in (4, 40):
        tracemalloc.start()
        scored = np.ones(600, np.bool_)
        resampling.of_mean_precision(found[:, :classes], truth[:, :classes], scored)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_one_video_has_no_interval() -> None:
    assert resampling.of_mean(np.ones(1)) is None
