"""Neighbours, votes and retrieval against slow references and scikit-learn, ties included."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from vidssl.probe import neighbours
from vidssl.probe.neighbours import (
    LeaveOut,
    centred,
    first_right,
    knn_scores,
    nearest,
    recalls,
    retrieval,
    vote,
)

Features = NDArray[np.float64]


def signs(rng: np.random.Generator, count: int, features: int = 16) -> Features:
    """Features of +-1, 16 of them: length 4, so that every cosine is exact and many are equal."""
    return rng.choice([-1.0, 1.0], size=(count, features))


def slow_nearest(
    train: Features, test: Features, count: int, leave_out: LeaveOut | None = None
) -> list[list[tuple[int, float]]]:
    found = []
    for query, one in enumerate(test):
        seen = []
        for row, other in enumerate(train):
            if leave_out and leave_out.gallery[row] == leave_out.query[query]:
                continue
            length = float(np.linalg.norm(one) * np.linalg.norm(other))
            seen.append((row, float(one @ other) / length if length else 0.0))
        found.append(sorted(seen, key=lambda pair: (-pair[1], pair[0]))[:count])
    return found


@pytest.fixture
def in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    monkeypatch.setattr(neighbours, "ROWS", 64)


@pytest.mark.parametrize("count", [1, 5, 50])
def test_nearest_is_the_slow_search_with_many_ties(count: int, in_small_chunks: None) -> None:
    rng = np.random.default_rng(0)
    train, test = signs(rng, 300), signs(rng, 40)
    assert len(np.unique(train @ test.T)) < 18  # 300 rows share some 9 cosines each
    rows, cosines = nearest(train, test, count)
    slow = slow_nearest(train, test, count)
    assert rows.tolist() == [[row for row, _ in one] for one in slow]
    assert cosines.tolist() == [[cosine for _, cosine in one] for one in slow]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(500, 24)), rng.normal(size=(90, 24))
    train[250:] = train[:250]  # every row twice
    whole = nearest(train, test, 20)
    assert (whole[0][:, ::2] + 250 == whole[0][:, 1::2]).all()  # the first of the two comes first
    monkeypatch.setattr(neighbours, "QUERIES", 11)
    monkeypatch.setattr(neighbours, "ROWS", 64)
    rows, cosines = nearest(train, test, 20)
    assert (rows == whole[0]).all()
    assert np.allclose(cosines, whole[1], atol=1e-6)


def test_features_that_all_are_one_give_the_first_rows(in_small_chunks: None) -> None:
    features = np.tile(np.random.default_rng(2).normal(size=19), (200, 1))
    rows, _ = nearest(features, features[:30], 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 30
    rows, _ = nearest(features, features, 2, leave_out=LeaveOut.itself(200))
    assert rows[:3].tolist() == [[1, 2], [0, 2], [0, 1]]


def test_groups_are_left_out(in_small_chunks: None) -> None:
    rng = np.random.default_rng(3)
    features, group = signs(rng, 100), rng.integers(0, 8, 100)
    left = LeaveOut.group(group)
    rows, _ = nearest(features, features, 9, leave_out=left)
    assert (group[rows] != group[:, None]).all()
    slow = slow_nearest(features, features, 9, left)
    assert rows.tolist() == [[row for row, _ in one] for one in slow]


def test_what_may_not_be_seen_is_no_neighbour() -> None:
    features = np.eye(3)
    left = LeaveOut(np.array([0, 0, 1]), np.array([0, 0, 0]))
    rows, cosines = nearest(features, features, 3, leave_out=left)
    assert rows.tolist() == [[2, -1, -1]] * 3
    assert cosines[2].tolist() == [1.0, -np.inf, -np.inf]
    alone = LeaveOut.group(np.zeros(3, np.int64))
    labels = np.array([0, 1, 1])
    scores = knn_scores(
        features, labels, features, k=2, temperature=0.1, classes=2, leave_out=alone
    )
    assert not scores.any()


def test_a_feature_of_zeros_is_as_near_to_all() -> None:
    rows, cosines = nearest(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[-1.0, 0.0]]), 2)
    assert rows.tolist() == [[0, 1]]
    assert cosines.tolist() == [[0.0, -1.0]]


def test_votes_by_hand() -> None:
    # Cosines 1, 0.6 and 0 to rows of classes 0, 1, 1; T 0.5: weights e^2, e^1.2, 1.
    train = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    scores = knn_scores(
        train, np.array([0, 1, 1]), np.array([[2.0, 0.0]]), k=3, temperature=0.5, classes=3
    )
    one, other = np.exp(2), np.exp(1.2) + 1
    assert scores[0] == pytest.approx([one / (one + other), other / (one + other), 0], rel=1e-6)


def test_a_small_temperature_does_not_overflow() -> None:
    train = np.array([[1.0, 0.0], [0.0, 1.0]])
    scores = knn_scores(
        train, np.array([1, 0]), np.array([[1.0, 0.1]]), k=2, temperature=1e-5, classes=2
    )
    assert scores[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("ties", [False, True])
def test_knn_is_scikit_learns_weighted_vote(ties: bool) -> None:
    rng = np.random.default_rng(4)
    train = signs(rng, 120) if ties else rng.normal(size=(120, 16))
    test = signs(rng, 60) if ties else rng.normal(size=(60, 16))
    labels = rng.integers(0, 5, 120)
    # scikit-learn chooses among equally near rows as it likes; with all rows there is no choice.
    k, temperature = (120, 0.2) if ties else (15, 0.2)
    theirs = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda away: np.exp((1 - away) / temperature),
    ).fit(train, labels)
    ours = knn_scores(train, labels, test, k=k, temperature=temperature, classes=5)
    assert np.allclose(ours, theirs.predict_proba(test), atol=1e-6)


def test_votes_for_several_classes_are_each_a_share() -> None:
    train = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = np.array([[True, True], [False, True], [True, False]])
    rows, cosines = nearest(train, np.array([[1.0, 0.0]]), 2)
    assert vote(rows, cosines, labels, temperature=1.0, classes=2).tolist() == [[0.5, 1.0]]


def test_retrieval_is_the_slow_search_with_ties(in_small_chunks: None) -> None:
    rng = np.random.default_rng(5)
    train, test = signs(rng, 150), signs(rng, 50)
    labels, wanted = rng.integers(0, 12, 150), rng.integers(0, 12, 50)
    found = retrieval(train, labels, test, wanted, centre=False)
    slow = slow_nearest(train, test, 50)
    for k, share in found.items():
        right = [
            any(labels[row] == label for row, _ in one[:k])
            for one, label in zip(slow, wanted, strict=True)
        ]
        assert share == np.mean(right)


def test_each_set_is_centred_by_itself() -> None:
    rng = np.random.default_rng(6)
    train, test = rng.normal(size=(80, 8)), rng.normal(size=(30, 8))
    labels, wanted = rng.integers(0, 6, 80), rng.integers(0, 6, 30)
    shifted = retrieval(train + 5, labels, test - 3, wanted)
    by_hand = retrieval(
        train - train.mean(axis=0), labels, test - test.mean(axis=0), wanted, centre=False
    )
    assert shifted == by_hand
    assert shifted != retrieval(train + 5, labels, test - 3, wanted, centre=False)
    assert np.allclose(centred(train + 1e4).mean(axis=0), 0, atol=1e-3)


def test_painted_labels_are_found_and_failed_queries_are_not() -> None:
    labels = np.repeat(np.arange(4), 5)
    painted = np.eye(4)[labels]
    leave = LeaveOut.itself(20)
    assert retrieval(painted, labels, painted, labels, leave_out=leave)[1] == 1.0
    # 20 of 25 expected queries have features, and find one.
    assert retrieval(painted, labels, painted, labels, leave_out=leave, failed=5)[1] == 0.8
    scores = knn_scores(painted, labels, painted, k=3, temperature=0.07, classes=4, leave_out=leave)
    assert (scores.argmax(axis=1) == labels).all()


def test_shuffled_labels_score_chance() -> None:
    rng = np.random.default_rng(7)
    labels = np.repeat(np.arange(4), 500)
    features = np.eye(4)[rng.permutation(labels)] + rng.normal(size=(2000, 4))
    scores = knn_scores(
        *(features, labels, features),
        k=20,
        temperature=0.1,
        classes=4,
        leave_out=LeaveOut.itself(2000),
    )
    assert abs((scores.argmax(axis=1) == labels).mean() - 0.25) < 0.04  # four standard deviations


def test_places_and_recalls_by_hand() -> None:
    train = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    query = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    place = first_right(
        train, np.array([0, 1, 2]), query, np.array([0, 2, 3]), most=3, centre=False
    )
    assert place.tolist() == [1, 3, 0]
    assert recalls(place, (1, 2, 3), failed=1) == {1: 0.25, 2: 0.25, 3: 0.5}


def test_wrong_calls_are_refused() -> None:
    good = np.eye(3)
    with pytest.raises(ValueError, match=r"\(N, F\) and \(M, F\)"):
        nearest(good, np.eye(2), 1)
    with pytest.raises(ValueError, match="query features are not finite"):
        nearest(good, np.full((1, 3), np.nan), 1)
    with pytest.raises(ValueError, match="at least 1 neighbour"):
        nearest(good, good, 0)
    with pytest.raises(ValueError, match="labels from 0 to 1, got 2"):
        knn_scores(good, np.arange(3), good, k=1, temperature=1.0, classes=2)
    with pytest.raises(ValueError, match="temperature"):
        knn_scores(good, np.arange(3), good, k=1, temperature=0.0, classes=3)
    with pytest.raises(ValueError, match="without a query"):
        recalls(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="groups of shapes"):
        nearest(good, good[:1], 1, leave_out=LeaveOut.itself(3))


def test_memory_does_not_grow_with_what_is_compared() -> None:
    rng = np.random.default_rng(8)
    train, test = (rng.normal(size=(n, 32)).astype(np.float16) for n in (24_000, 3_000))
    tracemalloc.start()
    nearest(train, test, 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All similarities would be 288 MB; a chunk of 1024 by 4096 is 17 MB, held about three times.
    assert peak < 80e6
