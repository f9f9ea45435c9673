"""Sinkhorn's codes against a slow reference, and prototypes that stay on unit length."""

import json
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.nn.prototypes import Prototypes, equal_codes


def cosines(clips: int, prototypes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(clips, prototypes, generator=generator) * 2 - 1


def slow_codes(scores: list[list[float]], epsilon: float, iterations: int) -> list[list[float]]:
    """The paper's algorithm in plain numbers: prototypes to 1 / K, clips to 1 / G, in turn."""
    q = [[math.exp(s / epsilon) for s in row] for row in scores]
    clips, prototypes = len(q), len(q[0])
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        sums = [sum(row[k] for row in q) for k in range(prototypes)]
        q = [[x / sums[k] / prototypes for k, x in enumerate(row)] for row in q]
        q = [[x / sum(row) / clips for x in row] for row in q]
    return [[x * clips for x in row] for row in q]


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_codes_are_those_of_the_slow_algorithm(iterations: int, epsilon: float) -> None:
    scores = cosines(7, 4)
    slow = torch.tensor(slow_codes(scores.tolist(), epsilon, iterations))
    assert torch.allclose(equal_codes(scores, epsilon, iterations), slow, atol=1e-5)


@pytest.mark.parametrize(("clips", "prototypes"), [(12, 4), (4, 12), (8, 8)])
def test_after_many_turns_clips_and_prototypes_have_equal_shares(
    clips: int, prototypes: int
) -> None:
    codes = equal_codes(cosines(clips, prototypes), 0.2, 500)
    assert codes.sum(dim=1).tolist() == pytest.approx([1.0] * clips, abs=1e-4)
    share = clips / prototypes
    assert codes.sum(dim=0).tolist() == pytest.approx([share] * prototypes, abs=1e-4)


def test_clips_have_a_whole_code_after_a_single_turn() -> None:
    codes = equal_codes(cosines(9, 5), 0.05, 1)
    assert codes.sum(dim=1).tolist() == pytest.approx([1.0] * 9, abs=1e-6)
    assert codes.sum(dim=0).tolist() != pytest.approx([9 / 5] * 5, abs=1e-2)


def test_clips_that_all_like_one_prototype_are_shared_out_all_the_same() -> None:
    scores = cosines(8, 4) * 0.1
    scores[:, 0] += 0.9
    assert (scores.argmax(dim=1) == 0).all()
    codes = equal_codes(scores, 0.05, 3)
    assert codes.sum(dim=0).tolist() == pytest.approx([2.0] * 4, abs=0.2)


def test_equal_scores_make_even_codes() -> None:
    assert torch.allclose(equal_codes(torch.full((6, 4), 0.3), 0.05, 3), torch.full((6, 4), 0.25))


def test_a_common_offset_of_all_scores_changes_nothing() -> None:
    scores = cosines(6, 4)
    assert torch.allclose(
        equal_codes(scores, 0.05, 3), equal_codes(scores + 1.0, 0.05, 3), atol=1e-4
    )


@pytest.mark.parametrize("epsilon", [1e-4, 1e-3])
def test_an_epsilon_too_small_for_the_exponential_is_none_for_the_codes(epsilon: float) -> None:
    # exp(1 / 0.001) is no number of single or double precision.
    codes = equal_codes(cosines(8, 4), epsilon, 3)
    assert codes.isfinite().all()
    assert codes.sum(dim=1).tolist() == pytest.approx([1.0] * 8, abs=1e-5)


def test_codes_have_no_gradient_and_full_precision() -> None:
    scores = cosines(6, 4).requires_grad_()
    full = equal_codes(scores, 0.05, 3)
    assert not full.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(equal_codes(scores, 0.05, 3), full)


def test_scores_are_cosines_in_full_precision() -> None:
    torch.manual_seed(0)
    layer = Prototypes(dim=8, count=5)
    z = F.normalize(torch.randn(3, 8), dim=1)
    expected = F.cosine_similarity(z[:, None], layer.weight[None], dim=2)
    assert torch.allclose(layer(z), expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(layer(z), expected, atol=1e-6)
    assert [p.shape for p in layer.parameters()] == [(5, 8)]  # and no bias


def test_rows_come_back_to_unit_length_in_place_and_keep_their_directions() -> None:
    torch.manual_seed(0)
    layer = Prototypes(dim=8, count=5)
    weight, before = layer.weight, layer.weight.detach().clone()
    with torch.no_grad():
        weight.mul_(torch.rand(5, 1) + 0.5)
    layer.renormalise()
    assert layer.weight is weight  # which an optimizer holds
    assert torch.allclose(weight, before, atol=1e-6)


def test_held_prototypes_give_the_same_scores_and_a_gradient_of_zero() -> None:
    torch.manual_seed(0)
    layer = Prototypes(dim=8, count=5)
    z = torch.randn(3, 8, requires_grad=True)
    free, held = layer(z), layer(z, hold=True)
    assert torch.equal(free, held)
    torch.autograd.backward(held.square().sum())
    assert layer.weight.grad is not None
    assert z.grad is not None
    assert torch.equal(layer.weight.grad, torch.zeros(5, 8))
    assert z.grad.abs().max() > 0


RANKS = """
import json

import torch

from vidssl.nn.distributed import joined, local_rows, rank
from vidssl.nn.prototypes import equal_codes

generator = torch.Generator().manual_seed(0)
scores = torch.rand(8, 5, generator=generator) * 2 - 1
scores[:4, 0] += 1  # the first process alone would share out otherwise
alone = equal_codes(scores, 0.05, 3)
with joined():
    together = equal_codes(local_rows(scores), 0.05, 3)
    mine = local_rows(alone)
    print(json.dumps({"off": (together - mine).abs().max().item()}))
    print(json.dumps({"sums": equal_codes(local_rows(scores), 0.2, 300).sum(0).tolist()}))
"""


def test_two_processes_share_out_their_clips_together(
    in_two_processes: Callable[..., list[str]],
) -> None:
    sums = []
    for out in in_two_processes(RANKS):
        off, share = map(json.loads, out.splitlines())
        assert off["off"] == pytest.approx(0, abs=1e-6)
        sums.append(torch.tensor(share["sums"]))
    # After many turns each process's own shares are uneven; those of both are even, 8 / 5.
    assert (sums[0] - sums[1]).abs().max() > 0.3
    assert (sums[0] + sums[1]).tolist() == pytest.approx([1.6] * 5, abs=1e-4)
