"""A linear classifier on frozen features: scikit-learn's logistic regression.

Features are standardised by the training set; the strength of the L2 penalty is chosen on a part of
the training set that is held out, then all of it is fitted. Unlike the linear protocols of papers
(SGD on augmented clips, the backbone's BatchNorm perhaps adapting) there is no augmentation, the
optimum is reached, and nothing of the backbone moves: a number of its own.

Array suffixes: N training videos, M test videos, F features, K classes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from vidssl.probe.neighbours import require_classes

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
HELD_OUT, FOLDS, SEED = 0.2, 5, 0
UNCHOSEN = 1.0
ITERATIONS = 1000


@dataclass(frozen=True)
class Linear:
    """Probabilities ``(M, K)`` of a fitted classifier, and how it came about.

    ``strength`` is scikit-learn's C, the inverse of the penalty; ``chosen_by`` holds the score of
    each C on the held-out videos (accuracy, or mean AP where videos have several classes), nothing
    where none could be held out and C is 1. Classes without a training video have probability 0.
    """

    probabilities: NDArray[np.float64]
    strength: float
    chosen_by: dict[float, float] = field(default_factory=dict)
    held_out: int = 0
    iterations: int = 0
    converged: bool = True


def fit_linear(
    train_NF: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    test_MF: NDArray[np.floating],
    *,
    classes: int,
    group_N: NDArray[np.int64] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = SEED,
) -> Linear:
    """Return the classifier's probabilities on the test videos.

    Of equally good C that under which the held-out labels are likeliest is taken. Memory: two
    copies of the features in float64.

    Raises:
        ValueError: if labels are not classes, or fewer than two are there.
    """
    require_classes(labels_N, classes)
    if len(np.unique(labels_N)) < 2:
        raise ValueError("a classifier needs training videos of two classes")
    held_N = held_out(labels_N, group_N, seed=seed)
    chosen_by: dict[float, float] = {}
    likely: dict[float, float] = {}
    if held_N.any() and len(strengths) > 1:
        kept_NF, other_NF = standardised(train_NF[~held_N], train_NF[held_N])
        model = _logistic()
        for strength in sorted(strengths):
            model.set_params(C=strength)
            _fit(model, kept_NF, labels_N[~held_N])
            found = model.predict_proba(other_NF)
            place_N = np.searchsorted(model.classes_, labels_N[held_N])  # each class is in both
            chosen_by[strength] = float((found.argmax(axis=1) == place_N).mean())
            likely[strength] = _likelihood(found[np.arange(len(found)), place_N])
    best = max(chosen_by, key=lambda one: (chosen_by[one], likely[one])) if chosen_by else UNCHOSEN
    strength = best if chosen_by or len(strengths) > 1 else strengths[0]
    all_NF, wanted_MF = standardised(train_NF, test_MF)
    model = _logistic().set_params(C=strength)
    converged = _fit(model, all_NF, labels_N)
    probabilities_MK = np.zeros((len(test_MF), classes))
    if len(test_MF):
        probabilities_MK[:, model.classes_] = model.predict_proba(wanted_MF)
    return Linear(
        probabilities_MK,
        strength,
        chosen_by,
        int(held_N.sum()),
        int(np.max(model.n_iter_)),
        converged,
    )


def fit_linear_multilabel(
    train_NF: NDArray[np.floating],
    labels_NK: NDArray[np.bool_],
    test_MF: NDArray[np.floating],
    *,
    group_N: NDArray[np.int64] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = SEED,
) -> Linear:
    """Return the probability of each class by itself, one against the rest, one C for all.

    A class that all or none of the training videos have is answered with 1 or 0. The part that is
    held out is drawn by groups without regard to classes.

    Raises:
        ValueError: if no class tells training videos apart.
    """
    telling_K = labels_NK.any(axis=0) & ~labels_NK.all(axis=0)
    if not telling_K.any():
        raise ValueError("no class tells training videos apart")
    held_N = held_out(np.zeros(len(labels_NK), np.int64), group_N, seed=seed)
    chosen_by: dict[float, float] = {}
    likely: dict[float, float] = {}
    if held_N.any() and len(strengths) > 1:
        kept_NF, other_NF = standardised(train_NF[~held_N], train_NF[held_N])
        for strength in sorted(strengths):
            found, _, _ = _one_by_one(kept_NF, labels_NK[~held_N], other_NF, strength)
            score = mean_ap(found, labels_NK[held_N])
            if not np.isnan(score):
                chosen_by[strength] = score
                likely[strength] = _likelihood(np.where(labels_NK[held_N], found, 1 - found))
    best = max(chosen_by, key=lambda one: (chosen_by[one], likely[one])) if chosen_by else UNCHOSEN
    strength = best if chosen_by or len(strengths) > 1 else strengths[0]
    all_NF, wanted_MF = standardised(train_NF, test_MF)
    found, iterations, converged = _one_by_one(all_NF, labels_NK, wanted_MF, strength)
    return Linear(found, strength, chosen_by, int(held_N.sum()), iterations, converged)


def cross_validated(
    features_NF: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    *,
    classes: int,
    group_N: NDArray[np.int64] | None = None,
    folds: int = FOLDS,
    seed: int = SEED,
) -> tuple[NDArray[np.float64], list[Linear]]:
    """Return each video's probabilities ``(N, K)`` by a classifier that has not seen its group.

    The second is the classifier of each fold, of which C was chosen within its training part. A
    video whose fold leaves fewer than two classes to train on has probabilities of 0.

    Raises:
        ValueError: if labels are not classes.
    """
    require_classes(labels_N, classes)
    fold_N = split(labels_N, group_N, folds, seed=seed)
    probabilities_NK = np.zeros((len(labels_N), classes))
    models = []
    for fold in np.unique(fold_N):
        mine_N = fold_N == fold
        if len(np.unique(labels_N[~mine_N])) < 2:
            continue
        model = fit_linear(
            features_NF[~mine_N],
            labels_N[~mine_N],
            features_NF[mine_N],
            classes=classes,
            group_N=None if group_N is None else group_N[~mine_N],
            seed=seed,
        )
        probabilities_NK[mine_N] = model.probabilities
        models.append(model)
    return probabilities_NK, models


def held_out(
    labels_N: NDArray[np.integer],
    group_N: NDArray[np.int64] | None,
    *,
    share: float = HELD_OUT,
    seed: int = SEED,
) -> NDArray[np.bool_]:
    """Return which videos to hold out: whole groups, about a ``share`` of each class.

    Never all of a class, and more than half of none; so a class of one group is not held out.
    """
    groups, number_N = np.unique(
        np.arange(len(labels_N)) if group_N is None else group_N, return_inverse=True
    )
    total = np.bincount(labels_N)
    wanted, held = np.ceil(share * total), np.zeros(len(total))
    members = _members(number_N.reshape(-1))
    held_N = np.zeros(len(labels_N), np.bool_)
    for group in np.random.default_rng(seed).permutation(len(groups)):
        mine = members[group]
        new = np.bincount(labels_N[mine], minlength=len(total))
        fits = (held + new <= wanted) | ((held == 0) & (new <= total / 2))
        if (fits & (held + new < total))[new > 0].all():
            held, held_N[mine] = held + new, True
    return held_N


def split(
    labels_N: NDArray[np.integer],
    group_N: NDArray[np.int64] | None,
    folds: int,
    *,
    seed: int = SEED,
) -> NDArray[np.int64]:
    """Return the fold of each video, whole groups together, classes spread as evenly as they go.

    Groups are taken from the largest, in random order where equal, each to the fold that has least
    of its classes, then least videos.
    """
    groups, number_N = np.unique(
        np.arange(len(labels_N)) if group_N is None else group_N, return_inverse=True
    )
    members = _members(number_N.reshape(-1))
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort([-len(members[group]) for group in order], kind="stable")]
    classes = int(labels_N.max(initial=0)) + 1
    there = np.zeros((folds, classes))
    fold_N = np.zeros(len(labels_N), np.int64)
    for group in order:
        mine = members[group]
        new = np.bincount(labels_N[mine], minlength=classes)
        fold = int(np.lexsort((there.sum(axis=1), there @ new))[0])
        there[fold] += new
        fold_N[mine] = fold
    return fold_N


def standardised(
    train_NF: NDArray[np.floating], test_MF: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both sets with the training set's mean taken off, over its standard deviation.

    A feature that never varies is only shifted.
    """
    wide_NF = train_NF.astype(np.float64)
    mean_F, deviation_F = wide_NF.mean(axis=0), wide_NF.std(axis=0)
    # What only rounding varies is a constant too.
    scale_F = np.where(deviation_F > 1e-12 * np.abs(mean_F) + 1e-30, deviation_F, 1.0)
    wide_NF -= mean_F
    wide_NF /= scale_F
    return wide_NF, (test_MF - mean_F) / scale_F


def mean_ap(scores_MK: NDArray[np.floating], labels_MK: NDArray[np.bool_]) -> float:
    """Return the mean of :func:`class_ap` over classes with positives; NaN if there are none."""
    known_K = class_ap(scores_MK, labels_MK)
    known_K = known_K[~np.isnan(known_K)]
    return float(known_K.mean()) if len(known_K) else float("nan")


def class_ap(scores_MK: NDArray[np.floating], labels_MK: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the average precision of each class, a sum of steps as Charades'; NaN: no positive.

    Equal scores are one step: their order does not count.
    """
    ap_K = np.full(labels_MK.shape[1], np.nan)
    for label in np.flatnonzero(labels_MK.any(axis=0)):
        ap_K[label] = average_precision_score(labels_MK[:, label], scores_MK[:, label])
    return ap_K


def _members(number_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    if not len(number_N):
        return []
    return np.split(np.argsort(number_N, kind="stable"), np.cumsum(np.bincount(number_N))[:-1])


def _likelihood(probability: NDArray[np.float64]) -> float:
    return float(np.log(np.maximum(probability, 1e-12)).mean())


def _logistic() -> Any:
    return LogisticRegression(max_iter=ITERATIONS, warm_start=True)


def _fit(model: Any, features_NF: NDArray[np.float64], labels_N: NDArray[np.generic]) -> bool:
    """Fit, and return whether the optimum was reached."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features_NF, labels_N)
    return bool(np.max(model.n_iter_) < ITERATIONS)


def _one_by_one(
    train_NF: NDArray[np.float64],
    labels_NK: NDArray[np.bool_],
    test_MF: NDArray[np.float64],
    strength: float,
) -> tuple[NDArray[np.float64], int, bool]:
    found_MK = np.zeros((len(test_MF), labels_NK.shape[1]))
    iterations, converged = 0, True
    for label in range(labels_NK.shape[1]):
        mine_N = labels_NK[:, label]
        if mine_N.all() or not mine_N.any():
            found_MK[:, label] = float(mine_N.all())
            continue
        model = _logistic().set_params(C=strength)
        converged &= _fit(model, train_NF, mine_N)
        iterations = max(iterations, int(np.max(model.n_iter_)))
        if len(test_MF):
            found_MK[:, label] = model.predict_proba(test_MF)[:, 1]
    return found_MK, iterations, converged
