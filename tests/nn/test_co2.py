"""CO2 among the clips of a batch: against a slow formula, its zero, and its gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax
from torch import Tensor

from vidssl.nn.co2 import Co2Config, among_clips, among_keys, among_regions


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def slow_kl(query: Tensor, positive: Tensor, others: Tensor, temperature: float) -> float:
    others = others.double()
    sees = [softmax((others @ z.double()).numpy() / temperature) for z in (query, positive)]
    return float(rel_entr(*sees).sum() + rel_entr(*reversed(sees)).sum()) / 2


def test_it_is_the_slow_sum_over_both_directions_without_the_own_positive() -> None:
    torch.manual_seed(0)
    one, two = unit(5, 8), unit(5, 8)
    slow = 0.0
    for query, positive in ((one, two), (two, one)):
        for i in range(5):
            others = torch.cat([positive[:i], positive[i + 1 :]])
            slow += slow_kl(query[i], positive[i], others, 0.1) / 5
    assert among_clips(one, two, 0.1).item() == pytest.approx(slow, rel=1e-5)


def test_equal_views_agree_and_so_do_two_clips_which_have_one_negative() -> None:
    torch.manual_seed(0)
    one, two = unit(6, 8), unit(6, 8)
    assert among_clips(one, one, 0.05).item() == pytest.approx(0.0, abs=1e-7)
    assert among_clips(one[:2], two[:2], 0.05).item() == 0.0
    assert among_clips(one[:3], two[:3], 0.05).item() > 0.01
    with pytest.raises(ValueError, match="at least 3 clips a step over all processes, found 2"):
        Co2Config(alpha=1.0).require_batch(2)
    Co2Config(alpha=1.0).require_batch(3)
    Co2Config().require_batch(1)


def test_neither_the_order_of_views_nor_that_of_clips_matters() -> None:
    torch.manual_seed(0)
    one, two, order = unit(6, 8), unit(6, 8), torch.randperm(6)
    expected = among_clips(one, two, 0.1).item()
    assert among_clips(two, one, 0.1).item() == pytest.approx(expected, rel=1e-6)
    assert among_clips(one[order], two[order], 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_its_gradient_is_that_of_finite_differences_and_not_zero() -> None:
    torch.manual_seed(0)
    one, two = (unit(4, 5).requires_grad_() for _ in range(2))
    torch.autograd.backward(among_clips(one, two, 0.5))
    for view, leaf in enumerate((one, two)):
        assert leaf.grad is not None
        assert leaf.grad.abs().max() > 1e-2
        for row, column in ((0, 0), (3, 2)):
            moved = []
            for step in (1e-2, -1e-2):
                views = [one.detach().clone(), two.detach().clone()]
                views[view][row, column] += step
                moved.append(among_clips(views[0], views[1], 0.5).item())
            slope = (moved[0] - moved[1]) / 2e-2
            assert leaf.grad[row, column].item() == pytest.approx(slope, abs=2e-3)


def test_it_is_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    one, two = unit(5, 8), unit(5, 8)
    full = among_clips(one, two, 0.05).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert among_clips(one, two, 0.05).item() == full


def test_towards_keys_without_gradient_it_is_half_and_trains_the_queries_alone() -> None:
    torch.manual_seed(0)
    one, two = unit(5, 8).requires_grad_(), unit(5, 8)
    there, back = among_keys(one, two, 0.1), among_keys(two, one.detach(), 0.1)
    both = among_clips(one, two, 0.1).item()
    assert (there + back).item() == pytest.approx(both, rel=1e-6)
    (gradient,) = torch.autograd.grad(there, one)
    assert (gradient.abs().amax(dim=1) > 1e-3).all()


# --- regions


def test_regions_are_seen_by_those_of_other_videos_as_in_a_slow_sum() -> None:
    torch.manual_seed(0)
    query, positive, other = unit(3, 4, 6), unit(3, 4, 6), unit(3, 4, 6)
    valid = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]], dtype=torch.bool)
    costs = []
    for video, n in valid.nonzero().tolist():
        others = torch.cat([other[:video], other[video + 1 :]]).flatten(0, 1)
        costs.append(slow_kl(query[video, n], positive[video, n], others, 0.2))
    found = among_regions(query, positive, other, valid, 0.2).item()
    assert found == pytest.approx(sum(costs) / 5, rel=1e-5)
    assert among_regions(query, query, other, valid, 0.2).item() == 0.0
    assert among_regions(query, positive, other, valid & False, 0.2).item() == 0.0


def test_one_region_a_video_is_a_clip() -> None:
    torch.manual_seed(0)
    one, two, valid = unit(5, 8), unit(5, 8), torch.ones(5, 1, dtype=torch.bool)
    found = among_regions(one[:, None], two[:, None], two[:, None], valid, 0.1).item()
    assert found == pytest.approx(among_keys(one, two, 0.1).item(), rel=1e-6)


def test_regions_of_the_same_video_do_not_matter_and_gradients_are_finite() -> None:
    torch.manual_seed(0)
    query, positive, other = (unit(2, 3, 6).requires_grad_() for _ in range(3))
    valid = torch.tensor([[1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    term = among_regions(query, positive, other, valid, 0.05)
    to_query, to_positive, to_other = torch.autograd.grad(term, (query, positive, other))
    for gradient in (to_query[0], to_positive[0], to_other[1]):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 1e-3
    for gradient in (to_query[1], to_positive[1], to_other[0]):
        assert (gradient == 0).all()


SHARE = """
import torch
import torch.nn.functional as F

from vidssl.nn.co2 import among_clips, among_keys, among_regions
from vidssl.nn.distributed import joined, local_rows

torch.manual_seed(0)
whole = [F.normalize(torch.randn(4, 3, 6), dim=2) for _ in range(3)]
valid = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)
terms = (
    among_regions,
    lambda q, p, o, valid, tau: among_clips(q[:, 0], p[:, 1], tau),
    lambda q, p, o, valid, tau: among_keys(q[:, 0], p[:, 1], tau),
)
expected = []
for term in terms:
    leaves = [z.clone().requires_grad_() for z in whole]
    alone = term(*leaves, valid, 0.2)
    expected.append((alone.detach(), torch.autograd.grad(alone, leaves, allow_unused=True)))
with joined():
    for term, (alone, wanted) in zip(terms, expected, strict=True):
        leaves = [local_rows(z).clone().requires_grad_() for z in whole]
        here = term(*leaves, local_rows(valid), 0.2)
        found = torch.autograd.grad(here, leaves, allow_unused=True)
        total = here.detach().clone()
        torch.distributed.all_reduce(total)
        torch.testing.assert_close(total / 2, alone)
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours / 2, local_rows(theirs))
    print(len(terms))
"""
"""What each process has of the batch; DDP halves the sums over two of them."""


def test_two_processes_have_the_terms_and_the_gradients_of_one(
    in_two_processes: Callable[..., list[str]],
) -> None:
    assert [out.strip() for out in in_two_processes(SHARE)] == ["3", "3"]
