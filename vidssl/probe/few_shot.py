"""A classifier of a few videos a class, drawn many times: the nearest mean by cosine.

As in prototypical networks (Snell et al., NeurIPS 2017, https://arxiv.org/abs/1703.05175, section
2.3) a class is the mean of its videos, but over all K classes rather than some drawn ones, without
training on episodes, by cosine rather than squared distance, and of features of length 1.

Array suffixes: N training videos, M test videos, F features, K classes, D draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.probe.neighbours import require_classes, unit

DRAWS, SEED, LEVEL = 100, 0, 0.95


@dataclass(frozen=True)
class FewShot:
    """Accuracy over draws of ``shots`` training videos a class.

    ``low`` and ``high`` hold the middle ``level`` of the draws: how far one draw comes out, which
    is wider than what is known of the mean. ``short`` classes have fewer videos than ``shots``, and
    all of them were taken; ``absent`` ones none, and are never answered.
    """

    shots: int
    mean: float
    low: float
    high: float
    level: float
    accuracies: tuple[float, ...]
    short: int
    absent: int
    seed: int


def few_shot(
    train_NF: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    test_MF: NDArray[np.floating],
    labels_M: NDArray[np.integer],
    *,
    shots: int,
    classes: int,
    draws: int = DRAWS,
    seed: int = SEED,
    failed: int = 0,
) -> FewShot:
    """Return the accuracies over draws; ``failed`` test videos without features are wrong in each.

    Of equally near means that of the lowest class is taken.

    Raises:
        ValueError: if labels are not classes, or there is nothing to train or test on.
    """
    require_classes(labels_N, classes)
    require_classes(labels_M, classes)
    if not len(labels_N) or not len(labels_M) + failed or min(shots, draws) < 1:
        raise ValueError("few shots need training videos, test videos, a shot and a draw")
    train_NF, test_MF = unit(train_NF), unit(test_MF)
    rows = [np.flatnonzero(labels_N == label) for label in range(classes)]
    rng = np.random.default_rng(seed)
    accuracies = []
    for _ in range(draws):
        means_KF = np.zeros((classes, train_NF.shape[1]), np.float32)
        for label, mine in enumerate(rows):
            if len(mine):
                chosen = rng.choice(mine, min(shots, len(mine)), replace=False)
                means_KF[label] = train_NF[chosen].mean(axis=0)
        alike_MK = test_MF @ unit(means_KF).T
        alike_MK[:, [not len(mine) for mine in rows]] = -np.inf
        right = int((alike_MK.argmax(axis=1) == labels_M).sum())
        accuracies.append(right / (len(labels_M) + failed))
    rest = (1 - LEVEL) / 2
    low, high = np.quantile(accuracies, (rest, 1 - rest))
    return FewShot(
        shots=shots,
        mean=float(np.mean(accuracies)),
        low=float(low),
        high=float(high),
        level=LEVEL,
        accuracies=tuple(accuracies),
        short=sum(0 < len(mine) < shots for mine in rows),
        absent=sum(not len(mine) for mine in rows),
        seed=seed,
    )
