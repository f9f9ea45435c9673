"""The linear probe: what it finds, how it divides videos, and average precision."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vidssl.probe import linear
from vidssl.probe.linear import (
    class_ap,
    cross_validated,
    fit_linear,
    fit_linear_multilabel,
    held_out,
    mean_ap,
    split,
    standardised,
)


def test_it_is_scikit_learns_pipeline_of_the_chosen_strength() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    features = np.eye(3)[labels] @ rng.normal(size=(3, 6)) + rng.normal(size=(90, 6))
    other = rng.normal(size=(10, 6))
    found = fit_linear(features, labels, other, classes=4)
    assert found.chosen_by.keys() == set(linear.STRENGTHS)
    assert found.chosen_by[found.strength] == max(found.chosen_by.values())
    assert found.held_out == 18  # a fifth of each class
    assert found.converged
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=found.strength, max_iter=1000))
    expected = theirs.fit(features, labels).predict_proba(other)
    assert np.allclose(found.probabilities[:, :3], expected, atol=1e-4)
    assert not found.probabilities[:, 3].any()  # a class that nothing was trained for


def test_of_equally_good_strengths_the_likeliest_is_taken() -> None:
    labels = np.repeat([0, 1], 10)
    painted = np.eye(2)[labels]
    found = fit_linear(painted, labels, painted, classes=2)
    assert set(found.chosen_by.values()) == {1.0}
    assert found.strength == max(linear.STRENGTHS)  # nothing is surer of what can be told apart
    assert (found.probabilities.argmax(axis=1) == labels).all()


def test_without_a_part_to_hold_out_the_strength_is_one() -> None:
    found = fit_linear(np.eye(3), np.arange(3), np.eye(3), classes=3)
    assert (found.strength, found.chosen_by, found.held_out) == (1.0, {}, 0)


def test_a_stopped_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "ITERATIONS", 1)
    rng = np.random.default_rng(1)
    found = fit_linear(rng.normal(size=(40, 5)), np.arange(40) % 2, np.zeros((1, 5)), classes=2)
    assert not found.converged


def test_a_constant_feature_is_only_shifted() -> None:
    train, test = standardised(np.array([[1.0, 0.1], [3.0, 0.1]]), np.array([[2.0, 0.4]]))
    assert train.tolist() == [[-1, 0], [1, 0]]
    assert test[0] == pytest.approx([0.0, 0.3])


def test_no_group_is_on_both_sides_of_what_is_held_out() -> None:
    rng = np.random.default_rng(2)
    group = rng.integers(0, 60, 300)
    labels = group % 4  # a group is of one class
    held = held_out(labels, group)
    assert not set(group[held]) & set(group[~held])
    assert set(labels[held]) == set(labels[~held]) == {0, 1, 2, 3}
    assert 0.1 < held.mean() < 0.3
    assert (held == held_out(labels, group)).all()


def test_a_class_of_one_group_is_not_held_out() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    assert not held_out(labels, np.array([0, 0, 0, 1, 1])).any()
    held = held_out(labels, np.array([0, 0, 0, 1, 2]))
    assert held[3:].sum() == 1
    assert not held[:3].any()


def test_folds_keep_groups_together_and_classes_apart() -> None:
    rng = np.random.default_rng(3)
    group = rng.integers(0, 40, 400)
    labels = group % 5
    fold = split(labels, group, 5)
    assert all(len(set(fold[group == one])) == 1 for one in set(group))
    for one in range(5):
        assert set(labels[fold == one]) == set(range(5))
    single = split(np.repeat(np.arange(4), 10), None, 5)
    assert np.bincount(single).tolist() == [8] * 5


def test_cross_validation_never_sees_the_group_that_it_answers() -> None:
    # A feature names the group; the class of a group has nothing to do with it.
    group = np.repeat(np.arange(20), 3)
    labels = np.random.default_rng(4).permutation(20)[group] % 2
    features = np.eye(20)[group]
    by_group, models = cross_validated(features, labels, classes=2, group_N=group)
    by_video, _ = cross_validated(features, labels, classes=2)
    assert len(models) == 5
    assert (by_video.argmax(axis=1) == labels).mean() > 0.9  # others of the group give it away
    assert (by_group.argmax(axis=1) == labels).mean() < 0.8


def test_several_classes_a_video() -> None:
    rng = np.random.default_rng(5)
    labels = rng.random((120, 3)) < 0.4
    labels[:, 2] = False
    features = np.concatenate([labels[:, :2] * 2.0, rng.normal(size=(120, 4))], axis=1)
    found = fit_linear_multilabel(features, labels, features)
    assert mean_ap(found.probabilities, labels) == 1.0
    assert not found.probabilities[:, 2].any()
    assert found.held_out == 24


def test_average_precision_by_hand() -> None:
    # Ranks 1 and 3 of 4 are right: 1/2 x 1 + 1/2 x 2/3.
    scores = np.array([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.6, 0.1]])
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], np.bool_)
    assert class_ap(scores, labels)[0] == pytest.approx(5 / 6)
    assert np.isnan(class_ap(scores, labels)[1])
    assert mean_ap(scores, labels) == pytest.approx(5 / 6)
    # One score for all: one step, of which half is right.
    assert class_ap(np.ones((4, 2)), labels)[0] == 0.5


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="two classes"):
        fit_linear(np.eye(2), np.zeros(2, np.int64), np.eye(2), classes=2)
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        fit_linear(np.eye(3), np.arange(3), np.eye(3), classes=2)
    with pytest.raises(ValueError, match="tells training videos apart"):
        fit_linear_multilabel(np.eye(2), np.ones((2, 1), np.bool_), np.eye(2))
