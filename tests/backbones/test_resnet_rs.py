"""3D ResNet-RS: where its gates and rates stand, and what averages its weights."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.ops import StochasticDepth

from vidssl.backbones import Encoder, resnet_rs
from vidssl.nn.gates import SelfGate, SqueezeExcitation
from vidssl.nn.momentum import follow, frozen_copy

NARROW: dict[str, Any] = {"width": 8, "depths": (1, 1, 1, 1), "frames": 8}


def published() -> Encoder:
    """Build RS-50 without memory or arithmetic."""
    with torch.device("meta"):
        return resnet_rs.Config().build()


def test_rs_has_a_rate_for_each_stage_and_no_rising_one() -> None:
    encoder = resnet_rs.Config(width=8, depths=(2, 2, 2, 2)).build()
    rates = [m.p for m in encoder.modules() if isinstance(m, StochasticDepth)]
    assert rates == [0.04, 0.04, 0.06, 0.06, 0.08, 0.08, 0.10, 0.10]
    with pytest.raises(
        ValidationError, match=r"drop_path 0\.3: resnet_rs has a rate for each stage"
    ):
        resnet_rs.Config(drop_path=0.3)


def test_rs_has_sixteen_frames_left_of_thirty_two() -> None:
    map_ = published().maps(torch.empty(1, 3, 32, 224, 224, device="meta"))
    assert map_.shape == (1, 2048, 16, 7, 7)


def test_gates_stand_where_the_code_has_them() -> None:
    encoder = published()
    gated = [name for name, m in encoder.named_modules() if isinstance(m, SelfGate)]
    assert gated == [f"trunk.res{s}.{b}.branch.gate" for s, b in ((2, 2), (3, 3), (4, 5), (5, 2))]
    branch = encoder.get_submodule("trunk.res2.2.branch")
    assert [name for name, _ in branch.named_children()][-4:] == ["norm3", "gate", "excite", "drop"]
    excited = [m for m in encoder.modules() if isinstance(m, SqueezeExcitation)]
    assert len(excited) == 16
    assert {m.squeeze.in_channels // m.squeeze.out_channels for m in excited} == {4}


def test_with_open_gates_rs_is_the_plain_network_behind_a_deep_stem() -> None:
    torch.manual_seed(0)
    gated = resnet_rs.Config(**NARROW).build()
    plain = resnet_rs.Config(**NARROW, self_gating="none", squeeze_excitation=False).build()
    plain.load_state_dict(gated.state_dict(), strict=False)
    for model in (gated, plain):
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm3d)):
            nn.init.ones_(norm.weight)
    clips = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(gated.eval()(clips), plain.eval()(clips), atol=1e-3)
        for gate in (m for m in gated.modules() if isinstance(m, (SelfGate, SqueezeExcitation))):
            last = list(gate.children())[-1]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.constant_(last.bias, 100.0)  # type: ignore[arg-type]
        torch.testing.assert_close(gated.eval()(clips), plain.eval()(clips))


def test_at_the_start_stochastic_depth_has_nothing_to_leave_out() -> None:
    torch.manual_seed(0)
    always = (0.9, 0.9, 0.9, 0.9)
    encoder = resnet_rs.Config(**NARROW, norm="frozen", stochastic_depth=always).build()
    clips = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder.train()(clips), encoder.eval()(clips))


def test_the_average_of_weights_and_statistics_is_what_rs_is_scored_with() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2, momentum=1.0)
    net = nn.Sequential(conv, norm)
    average = frozen_copy(net)
    assert norm.running_mean is not None
    expected = norm.running_mean.clone()
    for step in range(3):
        net(torch.rand(2, 1, 2, 2, 2) + step)
        with torch.no_grad():
            conv.weight += 1.0
        follow(average, net, 0.5, buffers=True)
        expected = 0.5 * expected + 0.5 * norm.running_mean
    found = average.state_dict()
    torch.testing.assert_close(found["1.running_mean"], expected)
    assert found["1.num_batches_tracked"] == 3
    # From w over w + 1, w + 2 and w + 3, each half way: w + 0.125 + 2 x 0.25 + 3 x 0.5.
    torch.testing.assert_close(found["0.weight"], conv.weight.detach() - 3.0 + 2.125)
