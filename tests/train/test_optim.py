"""Schedules at points worked out by hand, and which weights decay."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn, optim

from vidssl.train.optim import OptimConfig, optimizer, schedule


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
    [{"lr": 0.0}, {"batch": 0}, {"warmup": 1.0}, {"momentum": 1.0}, {"lr": math.nan}, {"rate": 1}],
)
def test_values_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        config(**wrong)
