"""Bootstrap intervals and few shots."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.probe.few_shot import few_shot
from vidssl.probe.intervals import interval_of, mean_interval


def test_the_interval_of_a_share_is_the_binomials() -> None:
    right = np.arange(400) < 300
    found = mean_interval(right, draws=4000)
    # The standard deviation of a share of 3/4 over 400 is sqrt(0.75 * 0.25 / 400) = 0.02165.
    assert found.value == 0.75
    assert found.low == pytest.approx(0.75 - 1.96 * 0.02165, abs=0.003)
    assert found.high == pytest.approx(0.75 + 1.96 * 0.02165, abs=0.003)
    assert (found.units, found.draws, found.level) == (400, 4000, 0.95)


def test_clips_of_one_film_are_drawn_together() -> None:
    films = np.repeat(np.arange(20), 20)
    right = films < 15
    alone, together = mean_interval(right), mean_interval(right, group_M=films)
    assert together.units == 20
    # Twenty equal clips tell what one does: sqrt(20) times as wide.
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(20), rel=0.15)


def test_any_statistic_has_the_interval_of_the_mean() -> None:
    scores = np.random.default_rng(0).normal(size=80)
    groups = np.arange(80) // 2

    def mean(chosen: NDArray[np.int64]) -> float:
        return float(scores[chosen].mean())

    one = mean_interval(scores, group_M=groups, draws=3000)
    other = interval_of(mean, 80, group_M=groups, draws=3000)
    assert other.value == pytest.approx(one.value)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.02)


def test_draws_without_an_answer_are_left_out_and_one_unit_has_no_interval() -> None:
    found = interval_of(lambda rows: float("nan") if 0 in rows else 1.0, 3)
    assert np.isnan(found.value)
    assert (found.low, found.high) == (1.0, 1.0)
    alone = mean_interval(np.ones(3), group_M=np.zeros(3, np.int64))
    assert alone.value == 1.0
    assert np.isnan(alone.low)
    with pytest.raises(ValueError, match="no video"):
        mean_interval(np.zeros(0))
    with pytest.raises(ValueError, match="not finite"):
        mean_interval(np.array([np.nan]))


def test_few_shots_of_painted_labels_are_all_right() -> None:
    labels = np.repeat(np.arange(5), 4)
    painted = np.eye(5)[labels] * 3
    found = few_shot(painted, labels, painted, labels, shots=1, classes=6)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    assert (len(found.accuracies), found.short, found.absent) == (100, 0, 1)
    # Five of 25 expected videos could not be read.
    assert (
        few_shot(painted, labels, painted, labels, shots=1, classes=5, failed=5).accuracies[0]
        == 0.8
    )
    assert few_shot(painted, labels, painted, labels, shots=5, classes=5).short == 5


def test_a_draw_is_the_slow_nearest_mean() -> None:
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(9, 4)), rng.normal(size=(30, 4))
    labels, wanted = np.repeat(np.arange(3), 3), rng.integers(0, 3, 30)
    found = few_shot(train, labels, test, wanted, shots=3, classes=3, draws=2)
    right = 0
    for one, label in zip(test, wanted, strict=True):
        means = [sum(row / np.linalg.norm(row) for row in train[labels == k]) / 3 for k in range(3)]
        alike = [mean @ one / np.linalg.norm(mean) for mean in means]
        right += int(np.argmax(alike)) == label
    assert found.accuracies == (right / 30, right / 30)  # all three: every draw is the same


def test_more_shots_are_better_and_draws_are_seeded() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(4), 40)
    features = np.eye(4)[labels] + rng.normal(size=(160, 4)) * 0.7
    one, many = (
        few_shot(features, labels, features, labels, shots=shots, classes=4) for shots in (1, 20)
    )
    assert one.low < one.mean < one.high < many.mean
    assert one == few_shot(features, labels, features, labels, shots=1, classes=4)
    with pytest.raises(ValueError, match="need training videos"):
        few_shot(features, labels, features, labels, shots=0, classes=4)
