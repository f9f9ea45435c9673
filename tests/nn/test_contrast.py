"""Contrastive losses against golden values, slow formulas, and themselves in two processes."""

import json
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax
from torch import Tensor

from vidssl.nn.contrast import consistency, info_nce, nt_xent

InTwo = Callable[..., list[str]]


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=1).float()


def slow_nt_xent(one: Tensor, two: Tensor, temperature: float) -> float:
    """Both directions, each clip against every other row of both views."""
    total = 0.0
    rows = [*one.double(), *two.double()]
    count = len(one)
    for i, row in enumerate(rows):
        partner = (i + count) % (2 * count)
        similar = [math.exp(float(row @ other) / temperature) for other in rows]
        total -= math.log(similar[partner] / (sum(similar) - similar[i])) / count
    return total


def test_nt_xent_has_the_published_unit_test_s_value() -> None:
    one = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [4, 3, 2, 1], [8, 7, 6, 5]])
    two = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1], [5, 6, 7, 8], [8, 7, 6, 5]])
    loss = nt_xent(F.normalize(one, dim=1), F.normalize(two, dim=1), 0.1)
    assert loss.item() == pytest.approx(4.136947, abs=1e-6)


@pytest.mark.parametrize("clips", [2, 5, 512])
def test_nt_xent_of_equal_features_is_that_of_a_blind_guess(clips: int) -> None:
    same = F.normalize(torch.ones(clips, 8), dim=1)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(2 * math.log(2 * clips - 1), rel=1e-5)


def test_nt_xent_equals_a_slow_softmax() -> None:
    torch.manual_seed(0)
    one, two = unit(5, 6), unit(5, 6)
    assert nt_xent(one, two, 0.3).item() == pytest.approx(slow_nt_xent(one, two, 0.3), rel=1e-5)


def test_nt_xent_does_not_care_which_view_is_first_nor_for_the_order_of_clips() -> None:
    torch.manual_seed(0)
    one, two = unit(6, 8), unit(6, 8)
    order = torch.randperm(6)
    expected = nt_xent(one, two, 0.1).item()
    assert nt_xent(two, one, 0.1).item() == pytest.approx(expected, rel=1e-6)
    assert nt_xent(one[order], two[order], 0.1).item() == pytest.approx(expected, rel=1e-6)


def test_losses_are_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    one, two, queue = unit(5, 8), unit(5, 8), unit(9, 8)
    losses: tuple[Callable[[], Tensor], ...] = (
        lambda: nt_xent(one, two, 0.1),
        lambda: info_nce(one, two, queue, 0.1),
        lambda: consistency(one, two, queue, 0.1),
    )
    for loss in losses:
        full = loss().item()
        with torch.autocast("cpu", torch.bfloat16):
            assert loss().item() == full


@pytest.mark.parametrize("negatives", [1, 10, 65536])
def test_equal_logits_cost_the_log_of_their_number(negatives: int) -> None:
    # Every similarity is 1: the softmax over the key and K negatives is 1 / (1 + K).
    one = F.normalize(torch.ones(1, 4))
    loss = info_nce(one.expand(3, 4), one.expand(3, 4), one.expand(negatives, 4), 0.2)
    assert loss.item() == pytest.approx(math.log(1 + negatives), rel=1e-5)


@pytest.mark.parametrize(("temperature", "expected"), [(0.07, 0.087), (0.1, 1.69), (0.2, 6.19)])
def test_a_query_that_equals_its_key_costs_what_the_papers_setting_gives(
    temperature: float, expected: float
) -> None:
    # 65536 random keys of 128 numbers, as in the image version.
    torch.manual_seed(0)
    q, queue = unit(64, 128), unit(65536, 128)
    assert info_nce(q, q, queue, temperature).item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.2])
def test_a_query_and_key_of_chance_cost_more_than_a_blind_guess(temperature: float) -> None:
    # ln(1 + K) and half the variance of a similarity over the temperature, 1 / 128 / tau ** 2.
    torch.manual_seed(0)
    q, k, queue = unit(256, 128), unit(256, 128), unit(65536, 128)
    # A key and its opposite: the similarity to the key itself, which is 0 on average, cancels.
    both = [info_nce(q, key, queue, temperature).item() for key in (k, -k)]
    expected = math.log(1 + 65536) + 1 / (2 * 128 * temperature**2)
    assert sum(both) / 2 == pytest.approx(expected, abs=0.03)


def test_info_nce_equals_a_slow_softmax() -> None:
    torch.manual_seed(0)
    q, k, queue = unit(5, 4), unit(5, 4), unit(7, 4)
    slow = 0.0
    for i in range(5):
        own = math.exp(float(q[i] @ k[i]) / 0.3)
        others = sum(math.exp(float(q[i] @ row) / 0.3) for row in queue)
        slow -= math.log(own / (own + others)) / 5
    assert info_nce(q, k, queue, 0.3).item() == pytest.approx(slow, rel=1e-5)


def test_consistency_is_the_mean_of_two_relative_entropies_without_the_positive() -> None:
    torch.manual_seed(0)
    q, p, queue = unit(4, 8), unit(4, 8), unit(10, 8)
    ours = consistency(q, p, queue, 0.05).item()
    sees_q = softmax((q @ queue.T).double().numpy() / 0.05, axis=1)
    sees_p = softmax((p @ queue.T).double().numpy() / 0.05, axis=1)
    slow = (rel_entr(sees_p, sees_q).sum(1) + rel_entr(sees_q, sees_p).sum(1)).mean() / 2
    assert ours == pytest.approx(float(slow), rel=1e-4)
    assert consistency(p, q, queue, 0.05).item() == pytest.approx(ours, rel=1e-5)
    assert consistency(q, q, queue, 0.05).item() == pytest.approx(0.0, abs=1e-7)


def test_consistency_moves_the_query_and_only_it() -> None:
    # Of the first half, KL(P || Q) with P constant, the gradient on the query's logits, that is on
    # q times each negative, is (Q - P) / (2 tau); of the second it follows from the definition.
    torch.manual_seed(0)
    q, p, queue = unit(3, 8).requires_grad_(), unit(3, 8), unit(10, 8)
    torch.autograd.backward(consistency(q, p, queue, 0.5))
    assert q.grad is not None
    sees_q, sees_p = ((z @ queue.T / 0.5).softmax(1) for z in (q.detach(), p))
    ratio = (sees_q / sees_p).log()
    second = sees_q * (ratio - (sees_q * ratio).sum(1, keepdim=True))
    logits = ((sees_q - sees_p) + second) / 2 / 0.5 / 3
    assert torch.allclose(q.grad, logits @ queue, atol=1e-6)
    assert q.grad.abs().max() > 1e-3


TWO = """
import json
import sys

import torch
import torch.nn.functional as F

from vidssl.nn.contrast import nt_xent
from vidssl.nn.distributed import joined, local_rows, world_size

with joined():
    torch.manual_seed(0)
    one, two = (F.normalize(torch.randn(6, 8), dim=1) for _ in range(2))
    mine = [local_rows(z).clone().requires_grad_() for z in (one, two)]
    loss = nt_xent(*mine, 0.1)
    (loss / world_size()).backward()
    print(json.dumps({"loss": loss.item(), "grads": [z.grad.tolist() for z in mine]}))
"""


def test_two_processes_have_the_loss_and_the_gradients_of_one(in_two_processes: InTwo) -> None:
    torch.manual_seed(0)
    one, two = (F.normalize(torch.randn(6, 8), dim=1).requires_grad_() for _ in range(2))
    torch.autograd.backward(nt_xent(one, two, 0.1))
    said = [json.loads(out) for out in in_two_processes(TWO)]
    expected = nt_xent(one, two, 0.1).item()
    assert sum(out["loss"] for out in said) / 2 == pytest.approx(expected, rel=1e-5)
    for view, leaf in enumerate((one, two)):
        both = torch.tensor([row for out in said for row in out["grads"][view]])
        assert leaf.grad is not None
        assert torch.allclose(both, leaf.grad, atol=1e-6)
