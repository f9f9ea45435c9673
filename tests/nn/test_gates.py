"""Gates: worked out by hand."""

import pytest
import torch
from torch import nn

from vidssl.nn.gates import SelfGate, SqueezeExcitation


def test_a_self_gate_scales_by_the_sigmoid_of_a_linear_map_of_the_means() -> None:
    gate = SelfGate(2)
    with torch.no_grad():
        gate.weigh.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]).view(2, 2, 1, 1, 1))
        # Means of 2 and 4 over four cells; gates sigmoid(2) and sigmoid(-4).
        x = torch.tensor([[1.0, 3.0, 1.0, 3.0], [4.0, 4.0, 4.0, 4.0]]).view(1, 2, 1, 2, 2)
        out = gate(x)
    assert out[0, 0, 0, 0, 1].item() == pytest.approx(3 * 0.880797, rel=1e-5)
    assert out[0, 1, 0, 0, 0].item() == pytest.approx(4 * 0.0179862, rel=1e-5)


def test_squeeze_and_excitation_passes_a_quarter_of_the_channels() -> None:
    gate = SqueezeExcitation(8)
    assert sum(p.numel() for p in gate.parameters()) == (8 * 2 + 2) + (2 * 8 + 8)
    with torch.no_grad():
        gate.squeeze.weight.fill_(0.5)
        gate.excite.weight.fill_(0.25)
        # All means 1: each hidden unit is 8 x 0.5 = 4, each gate sigmoid(2 x 4 x 0.25).
        out = gate(torch.ones(1, 8, 1, 2, 2))
        assert out[0, 0, 0, 0, 0].item() == pytest.approx(0.880797, rel=1e-5)
        # Means of -1 are cut off by the ReLU: sigmoid(0).
        assert gate(-torch.ones(1, 8, 1, 2, 2))[0, 3, 0, 1, 1].item() == pytest.approx(-0.5)


@pytest.mark.parametrize("gate", [SelfGate(8), SqueezeExcitation(8)])
def test_gates_forced_open_change_nothing(gate: nn.Module) -> None:
    *_, last = gate.children()
    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
    nn.init.constant_(last.bias, 100.0)  # type: ignore[arg-type]
    x = torch.rand(2, 8, 2, 3, 3)
    assert torch.equal(gate(x), x)


def test_fewer_channels_than_the_reduction_leave_one() -> None:
    assert SqueezeExcitation(2)(torch.ones(1, 2, 1, 2, 2)).shape == (1, 2, 1, 2, 2)
