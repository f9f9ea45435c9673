"""The moving average, number by number."""

import pytest
import torch
from torch import nn

from vidssl.nn.momentum import Momentum, follow, frozen_copy


def net(value: float) -> nn.Sequential:
    built = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.fill_(value)
    return built


@pytest.mark.parametrize(
    ("momentum", "expected"),
    [(1.0, 1.0), (0.0, 5.0), (0.75, 2.0), (0.999, 1.004)],  # m * 1 + (1 - m) * 5
)
def test_each_parameter_moves_its_share_of_the_way(momentum: float, expected: float) -> None:
    twin, ahead = net(1.0), net(5.0)
    follow(twin, ahead, momentum)
    for parameter in twin.parameters():
        assert torch.allclose(parameter, torch.full_like(parameter, expected))
    assert all((parameter == 5.0).all() for parameter in ahead.parameters())


def test_repeated_steps_close_the_gap_geometrically() -> None:
    twin, ahead = net(0.0), net(1.0)
    for _ in range(10):
        follow(twin, ahead, 0.9)
    assert next(twin.parameters())[0, 0].item() == pytest.approx(1 - 0.9**10)


def test_running_statistics_stay_the_twins_own() -> None:
    twin, ahead = net(1.0), net(1.0)
    ahead.train()(torch.randn(8, 2) * 10)
    before = [buffer.clone() for buffer in twin.buffers()]
    follow(twin, ahead, 0.0)
    for old, new in zip(before, twin.buffers(), strict=True):
        assert torch.equal(old, new)


def test_a_frozen_copy_is_equal_apart_and_without_gradient() -> None:
    original = net(2.0)
    twin = frozen_copy(original)
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in original.parameters())
    with torch.no_grad():
        next(original.parameters()).fill_(9.0)
    assert (next(twin.parameters()) == 2.0).all()
    follow(twin, original, 0.5)
    assert (next(twin.parameters()) == 5.5).all()
    assert next(twin.parameters()).grad_fn is None


def test_the_momentum_of_a_resumed_training_is_the_one_it_had() -> None:
    momentum = Momentum(0.99, anneal=True)
    momentum.after_step(0.5)
    assert momentum.value == pytest.approx(0.995)
    again = Momentum(0.99, anneal=True)
    again.load_state_dict(momentum.state_dict())
    assert again.value == momentum.value


def test_twins_follow_while_training_only() -> None:
    net, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    before = twin.weight.detach().clone()
    momentum = Momentum(0.25, anneal=False)
    momentum.eval().move((twin, net))
    assert torch.equal(twin.weight, before)
    momentum.train().move((twin, net))
    assert torch.allclose(twin.weight, 0.25 * before + 0.75 * net.weight)
