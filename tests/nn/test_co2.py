"""CO2 among the clips of a batch: against a slow formula, its zero, and its gradients."""

import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax
from torch import Tensor

from vidssl.nn.co2 import Co2Config, among_clips


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=1)


def test_it_is_the_slow_sum_over_both_directions_without_the_own_positive() -> None:
    torch.manual_seed(0)
    one, two = unit(5, 8), unit(5, 8)
    slow = 0.0
    for query, positive in ((one, two), (two, one)):
        for i in range(5):
            others = torch.cat([positive[:i], positive[i + 1 :]]).double()
            sees = [softmax((others @ z[i].double()).numpy() / 0.1) for z in (query, positive)]
            slow += float(rel_entr(*sees).sum() + rel_entr(*reversed(sees)).sum()) / 2 / 5
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
