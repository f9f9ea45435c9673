"""Losses of clips against loops over their definitions, PyTorch's own, and values by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.augment.mixing import Mix, mix_labels, soft_labels
from vidssl.recognition.losses import class_weights, multi_hot, sigmoid_loss, softmax_loss


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0])


def slow_softmax(logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor) -> float:
    """The mean over clips of - sum_k w_k t_k log p_k, a term at a time."""
    total, classes = 0.0, logits.shape[1]
    for row, shares in zip(logits.tolist(), targets.tolist(), strict=True):
        whole = sum(math.exp(value) for value in row)
        for value, share, weight in zip(row, shares, weights.tolist(), strict=True):
            smooth = share * (1 - smoothing) + smoothing / classes
            total -= weight * smooth * math.log(math.exp(value) / whole)
    return total / len(logits)


def slow_sigmoid(logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor) -> float:
    total = 0.0
    for row, shares in zip(logits.tolist(), targets.tolist(), strict=True):
        for value, share, weight in zip(row, shares, weights.tolist(), strict=True):
            p, t = 1 / (1 + math.exp(-value)), share * (1 - smoothing) + smoothing / 2
            total -= weight * (t * math.log(p) + (1 - t) * math.log(1 - p))
    return total / logits.numel()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_losses_are_their_definitions_a_term_at_a_time(
    logits: Tensor, smoothing: float, keep: float
) -> None:
    targets = mix_labels(soft_labels(LABELS, 5), Mix(keep))
    for fast, slow in ((softmax_loss, slow_softmax), (sigmoid_loss, slow_sigmoid)):
        found = fast(logits, targets, smoothing=smoothing, weights_K=WEIGHTS)
        assert found.item() == pytest.approx(slow(logits, targets, smoothing, WEIGHTS), rel=1e-5)


def test_a_class_each_has_pytorchs_loss(logits: Tensor) -> None:
    targets = soft_labels(LABELS, 5)
    for smoothing in (0.0, 0.2):
        expected = F.cross_entropy(logits, LABELS, label_smoothing=smoothing)
        assert torch.allclose(softmax_loss(logits, targets, smoothing=smoothing), expected)
        # PyTorch divides by the weights of the classes in the batch, we by its clips.
        weighed = F.cross_entropy(logits, LABELS, weight=WEIGHTS, label_smoothing=smoothing)
        found = softmax_loss(logits, targets, smoothing=smoothing, weights_K=WEIGHTS)
        assert torch.allclose(found * 6 / WEIGHTS[LABELS].sum(), weighed)


def test_a_mixture_has_the_losses_of_both_clips_by_their_shares(logits: Tensor) -> None:
    targets = mix_labels(soft_labels(LABELS, 5), Mix(0.7))
    own = F.cross_entropy(logits, LABELS)
    before = F.cross_entropy(logits, LABELS.roll(1))
    assert torch.allclose(softmax_loss(logits, targets), 0.7 * own + 0.3 * before)


def test_guessing_costs_the_published_starts() -> None:
    # ln 400 = 5.9915 of one class in 400, whatever is smoothed or mixed; ln 2 of each on its own.
    zeros = torch.zeros(2, 400)
    targets = soft_labels(torch.tensor([3, 399]), 400)
    for smoothing in (0.0, 0.1):
        found = softmax_loss(zeros, mix_labels(targets, Mix(0.4)), smoothing=smoothing)
        assert found.item() == pytest.approx(5.9915, abs=5e-5)
        assert sigmoid_loss(zeros, targets, smoothing=smoothing).item() == pytest.approx(0.693147)


def test_parts_of_a_batch_have_the_loss_of_the_whole(logits: Tensor) -> None:
    targets = soft_labels(LABELS, 5)
    for loss in (softmax_loss, sigmoid_loss):
        whole = loss(logits, targets, weights_K=WEIGHTS)
        parts = [loss(logits[n::2], targets[n::2], weights_K=WEIGHTS) for n in (0, 1)]
        assert torch.allclose(whole, torch.stack(parts).mean())


def test_half_precision_is_no_coarser_than_its_logits(logits: Tensor) -> None:
    rounded, targets = logits.bfloat16(), soft_labels(LABELS, 5)
    for loss in (softmax_loss, sigmoid_loss):
        assert torch.equal(loss(rounded, targets), loss(rounded.float(), targets))


def test_weights_of_classes_by_hand() -> None:
    # 12 samples of 3 classes: N / (K n) = 12 / (3 * 6), 12 / (3 * 4), 12 / (3 * 2).
    assert class_weights([6, 4, 2], "inverse", "softmax") == pytest.approx([2 / 3, 1.0, 2.0])
    # Roots 1/2, 1, 1/3 of 4, 1, 9; over 14 samples their mean is (2 + 1 + 3) / 14 = 3/7.
    assert class_weights([4, 1, 9], "sqrt_inverse", "softmax") == pytest.approx(
        [7 / 6, 7 / 3, 7 / 9]
    )
    # Of several classes a clip: 1/6, 1/4, 1/2 over their mean 11/36.
    assert class_weights([6, 4, 2], "inverse", "sigmoid") == pytest.approx(
        [6 / 11, 9 / 11, 18 / 11]
    )
    assert class_weights([6, 4, 2], "none", "softmax") == pytest.approx([1, 1, 1])
    # A class that nothing shows weighs as one shown once.
    assert class_weights([4, 0, 1], "inverse", "softmax")[1:] == pytest.approx([2.5, 2.5])


@pytest.mark.parametrize("weighing", ["inverse", "sqrt_inverse"])
def test_weights_are_one_on_average_over_the_samples(weighing: str) -> None:
    counts = np.array([100, 3, 17, 1])
    found = class_weights(counts, weighing, "softmax")  # type: ignore[arg-type]
    assert (found * counts).sum() / counts.sum() == pytest.approx(1.0)
    assert list(np.argsort(found)) == [0, 2, 1, 3]


def test_labels_become_a_one_for_each_class() -> None:
    found = multi_hot([(1,), (), (0, 3)], 4)
    assert found.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
