"""Schedules at points worked out by hand, and which weights decay."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn, optim

from vidssl.train.optim import LARS, OptimConfig, optimizer, schedule


def config(**options: Any) -> OptimConfig:
    return OptimConfig(**{"lr": 0.4, "batch": 8, "steps": 100, **options})


@pytest.mark.parametrize(
    ("progress", "expected"),
    # 0.4 (1 + cos(pi p)) / 2
    [(0.0, 0.4), (0.25, 0.3414214), (0.5, 0.2), (0.75, 0.0585786), (0.999, 0.4 * 2.467e-6)],
)
def test_the_cosine_falls_from_the_peak_to_nothing(progress: float, expected: float) -> None:
    assert schedule(config())(progress) == pytest.approx(expected, rel=1e-3)


def test_the_warm_up_rises_to_the_cosines_own_value() -> None:
    # Over the first fifth, from 0.004 to 0.4 (1 + cos 36 degrees) / 2 = 0.3618034.
    rate = schedule(config(warmup=0.2))
    assert rate(0.0) == pytest.approx(0.004)
    assert rate(0.1) == pytest.approx((0.004 + 0.3618034) / 2)
    assert rate(0.2 - 1e-9) == pytest.approx(0.3618034, rel=1e-5)
    assert rate(0.2) == pytest.approx(0.3618034, rel=1e-5)
    assert rate(0.5) == pytest.approx(0.2)  # from here it is the cosine without a warm-up
    assert rate(0.75) == pytest.approx(0.0585786, rel=1e-5)


def test_a_constant_rate_stays_and_may_be_warmed_up_to() -> None:
    assert [schedule(config(schedule="constant"))(p) for p in (0.0, 0.5, 0.99)] == [0.4] * 3
    rate = schedule(config(schedule="constant", warmup=0.5))
    assert [rate(p) for p in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([0.004, 0.202, 0.4, 0.4])


def test_every_share_of_warm_up_is_possible() -> None:
    for step in range(1000):
        rate = schedule(config(warmup=step / 1000))
        assert 0.0 < rate(0.0) <= 0.4
        assert rate(0.9999) < 0.41


class Net(nn.Module):
    """One of each: a convolution, a normalisation, a frozen layer, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)
        self.norm = nn.BatchNorm3d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))


def test_vectors_and_scalars_do_not_decay_and_frozen_weights_do_not_train() -> None:
    net = Net()
    built = optimizer(net, config(weight_decay=0.1))
    matrices, vectors = built.param_groups
    assert matrices["weight_decay"] == 0.1
    assert vectors["weight_decay"] == 0.0
    assert {id(p) for p in matrices["params"]} == {id(net.conv.weight)}
    small = (net.conv.bias, net.norm.weight, net.norm.bias, net.scale)
    assert {id(p) for p in vectors["params"]} == {id(p) for p in small}


def test_decay_alone_shrinks_matrices_and_nothing_else() -> None:
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    built = optimizer(net, config(weight_decay=0.1, momentum=0.0))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    for name, parameter in net.named_parameters():
        shrunk = 1 - 0.4 * 0.1 if name == "conv.weight" else 1.0
        assert torch.allclose(parameter, before[name] * shrunk), name


def test_the_optimizer_is_the_one_asked_for() -> None:
    built = optimizer(Net(), config(momentum=0.8, nesterov=True))
    assert isinstance(built, optim.SGD)
    assert all(group["momentum"] == 0.8 and group["nesterov"] for group in built.param_groups)
    assert isinstance(optimizer(Net(), config(optimizer="adamw")), optim.AdamW)


def test_a_frozen_network_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="every parameter is frozen"):
        optimizer(Net().requires_grad_(False), config())


def test_the_length_is_given_once_as_steps_or_epochs() -> None:
    assert config(steps=7).total_steps(1000) == 7
    # 2.5 epochs of 100 samples, 8 a step: 31.25 steps.
    assert config(steps=None, epochs=2.5).total_steps(100) == 31
    assert config(steps=None, epochs=0.001).total_steps(10) == 1
    for both in ({"steps": 5, "epochs": 1.0}, {"steps": None}):
        with pytest.raises(ValidationError, match="as steps or as epochs, not both"):
            config(**both)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"batch": 0},
        {"warmup": 1.0},
        {"momentum": 1.0},
        {"lr": math.nan},
        {"rate": 1},
        {"trust": 0.0},
    ],
)
def test_values_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        config(**wrong)


# --- LARS


def lars(weight: Tensor, **options: Any) -> LARS:
    group = {"params": [weight], "trust": 0.001, **options}
    return LARS([group], lr=2.0, momentum=0.5)


def test_lars_steps_in_proportion_to_a_weights_own_norm() -> None:
    # w = (3, 4), |w| = 5; d = (0, 1) + 0.1 w = (0.3, 1.4), |d| = sqrt(2.05) = 1.4317821.
    # The ratio is 0.001 * 5 / 1.4317821 = 0.00349215; the step 2 * 0.00349215 * d.
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    weight.grad = torch.tensor([[0.0, 1.0]])
    lars(weight, weight_decay=0.1).step()
    expected = [3 - 2 * 0.00349215 * 0.3, 4 - 2 * 0.00349215 * 1.4]
    assert weight[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_lars_is_the_slow_formula_over_many_steps_with_its_momentum() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    built = lars(weight, weight_decay=0.01)
    slow, remembered = weight.detach().flatten().tolist(), [0.0] * 6
    for step in range(7):
        grad = torch.randn(3, 2, dtype=torch.float64)
        rate = 1.0 + step
        built.param_groups[0]["lr"] = rate  # as the loop sets it before each step
        weight.grad = grad
        built.step()
        d = [g + 0.01 * w for g, w in zip(grad.flatten().tolist(), slow, strict=True)]
        ratio = 0.001 * math.hypot(*slow) / math.hypot(*d)
        remembered = [0.5 * v + ratio * x for v, x in zip(remembered, d, strict=True)]
        slow = [w - rate * v for w, v in zip(slow, remembered, strict=True)]
        assert weight.flatten().tolist() == pytest.approx(slow, rel=1e-12)


def test_the_length_of_a_gradient_does_not_matter_to_lars() -> None:
    ends = []
    for length in (1e-6, 1.0, 1e6):
        weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        weight.grad = length * torch.tensor([[1.0, -2.0]])
        lars(weight).step()
        ends.append(weight.detach())
        # 2 * 0.001 of the norm of 5
        assert math.dist(weight[0].tolist(), [3.0, 4.0]) == pytest.approx(0.01, rel=1e-4)
    assert torch.allclose(ends[0], ends[1])
    assert torch.allclose(ends[2], ends[1])


def test_lars_is_plain_sgd_on_vectors_and_leaves_them_undecayed() -> None:
    torch.manual_seed(0)
    net, twin = Net(), Net()
    twin.load_state_dict(net.state_dict())
    one = optimizer(net, config(optimizer="lars", weight_decay=0.1, momentum=0.8))
    two = optimizer(twin, config(weight_decay=0.1, momentum=0.8))
    assert isinstance(one, LARS)
    for _ in range(3):
        for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        one.step()
        two.step()
    expected = dict(twin.named_parameters())
    for name, parameter in net.named_parameters():
        same = torch.allclose(parameter, expected[name], atol=1e-7)
        assert same == (name != "conv.weight"), name


def test_lars_takes_a_zero_weight_or_gradient_as_sgd_would() -> None:
    start = nn.Parameter(torch.zeros(1, 2))
    start.grad = torch.tensor([[1.0, -1.0]])
    lars(start).step()
    assert start[0].tolist() == [-2.0, 2.0]  # rate 2, ratio 1
    still = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    still.grad = torch.zeros(1, 2)
    built = lars(still)
    built.step()
    assert still[0].tolist() == [3.0, 4.0]
    still.grad = None
    built.step()  # a weight without gradient rests
    assert still[0].tolist() == [3.0, 4.0]


def test_lars_goes_on_from_its_saved_state_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gradients = [[torch.randn_like(p) for p in Net().parameters()] for _ in range(6)]
    options = config(optimizer="lars", trust=0.02)

    def steps(net: nn.Module, built: optim.Optimizer, some: list[list[Tensor]]) -> None:
        for grads in some:
            for parameter, grad in zip(net.parameters(), grads, strict=True):
                parameter.grad = grad.clone()
            built.step()

    whole, first, second = Net(), Net(), Net()
    first.load_state_dict(whole.state_dict())
    steps(whole, optimizer(whole, options), gradients)
    stopped = optimizer(first, options)
    steps(first, stopped, gradients[:3])
    torch.save((first.state_dict(), stopped.state_dict()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(weights)
    restored = optimizer(second, options)
    restored.load_state_dict(state)
    assert restored.param_groups[0]["trust"] == 0.02
    assert restored.param_groups[1]["trust"] is None
    steps(second, restored, gradients[3:])
    for mine, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_lars_returns_what_its_closure_returns() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    built = lars(weight)

    def closure() -> Tensor:
        loss = weight.square().sum()
        torch.autograd.backward(loss)
        return loss.detach()

    assert float(built.step(closure)) == 25.0
    assert float(weight.detach().square().sum()) < 25.0


def test_lars_with_nesterov_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"nesterov is for optimizer: sgd, found .*lars"):
        config(optimizer="lars", nesterov=True)
