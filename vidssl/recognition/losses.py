"""Losses of clips: one class each, or any number; smoothed labels, mixed clips, weighed classes.

Targets are shares of classes, ``(B, K)``: 1 for the class of a clip, or what of two classes a
mixture holds (see ``vidssl.augment.mixing``), or 1 for each class of several.

Label smoothing: Szegedy et al., CVPR 2016, https://arxiv.org/abs/1512.00567, section 7. Difference
from ``torch.nn.functional.cross_entropy`` with class weights: the mean is over the clips, not over
the weights of the classes that happen to be in the batch, so that parts of a batch on several
processes have the loss of the whole; :func:`class_weights` are 1 on average instead.

Tensor suffixes: B clips, K classes.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Loss = Literal["softmax", "sigmoid"]
Weighing = Literal["none", "inverse", "sqrt_inverse"]


def softmax_loss(
    logits_BK: Tensor,
    targets_BK: Tensor,
    *,
    smoothing: float = 0.0,
    weights_K: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy; of K equal logits ln K, where weights are 1."""
    targets_BK = targets_BK * (1 - smoothing) + smoothing / targets_BK.shape[1]
    if weights_K is not None:
        targets_BK = targets_BK * weights_K
    return -(targets_BK * F.log_softmax(logits_BK.float(), dim=1)).sum(dim=1).mean()


def sigmoid_loss(
    logits_BK: Tensor,
    targets_BK: Tensor,
    *,
    smoothing: float = 0.0,
    weights_K: Tensor | None = None,
) -> Tensor:
    """Return the binary cross-entropy, its mean over clips and classes; of logits 0 ln 2.

    Smoothing takes half of its share to each side: 0 becomes ``smoothing / 2``.
    """
    targets_BK = targets_BK * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits_BK.float(), targets_BK, weight=weights_K)


def class_weights(counts_K: ArrayLike, weighing: Weighing, loss: Loss) -> NDArray[np.float64]:
    """Return how much each class counts, ``(K,)``, from how many samples show it.

    ``inverse`` is in proportion to 1 / count, ``sqrt_inverse`` to its root. For a softmax they are
    1 on average over the samples, so that with ``inverse`` a class of n of N samples has
    ``N / (K n)``; for sigmoids, where each clip has all classes, 1 on average over classes. A class
    without a sample has the weight of one with a single sample.
    """
    counts = np.asarray(counts_K, np.float64)
    power = {"none": 0.0, "inverse": 1.0, "sqrt_inverse": 0.5}[weighing]
    weights: NDArray[np.float64] = np.maximum(counts, 1.0) ** -power
    if loss == "softmax":
        mean = float((weights * counts).sum() / counts.sum())
    else:
        mean = float(weights.mean())
    return np.asarray(weights / mean)


def multi_hot(labels: Sequence[Sequence[int]], classes: int) -> NDArray[np.float32]:
    """Return ``(B, K)``, 1 for each class of each sample."""
    targets_BK = np.zeros((len(labels), classes), np.float32)
    for row, found in zip(targets_BK, labels, strict=True):
        row[list(found)] = 1
    return targets_BK
