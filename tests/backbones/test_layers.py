"""The maps of other layers than the last."""

import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder, slow, slowfast
from vidssl.backbones._layers import Tapped
from vidssl.errors import RecipeError

NARROW = (1, 1, 1, 1)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return slow.Config(frames=4, width=8, depths=NARROW).build().eval()


def test_a_layer_s_map_is_what_the_layer_gives(encoder: Encoder) -> None:
    clips = torch.randn(2, 3, 4, 64, 64)
    seen: list[Tensor] = []
    stage = encoder.get_submodule("trunk.res4")
    stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tapped = Tapped(encoder, ["trunk.res4"], frames=4)
    maps = tapped.maps(clips)
    torch.testing.assert_close(maps, seen[-1].mean(dim=2, keepdim=True))
    assert (tapped.features, tapped.spatial_stride) == (128, 16)
    assert maps.shape == (2, 128, 1, 4, 4)


def test_nothing_behind_the_layer_is_computed_and_no_hook_is_left(encoder: Encoder) -> None:
    def refuse(module: nn.Module, inputs: object) -> None:
        raise AssertionError("res4 was computed")

    tapped = Tapped(encoder, ["trunk.res3"], frames=4)
    hook = encoder.get_submodule("trunk.res4").register_forward_pre_hook(refuse)
    tapped.maps(torch.randn(1, 3, 4, 64, 64))
    hook.remove()
    assert not encoder.get_submodule("trunk.res3")._forward_hooks
    assert encoder.maps(torch.randn(1, 3, 4, 64, 64)).shape[1] == encoder.features


def test_layers_of_both_pathways_stand_side_by_side_in_the_order_asked_for() -> None:
    torch.manual_seed(0)
    config = slowfast.Config(frames=8, width=8, beta_inverse=2, alpha=4, depths=NARROW)
    encoder = config.build().eval()
    clips = torch.randn(1, 3, 8, 64, 64)
    both = Tapped(encoder, ["fast.res4", "slow.res4"], frames=8)
    fast, slow_ = (Tapped(encoder, [f"{way}.res4"], frames=8) for way in ("fast", "slow"))
    assert both.features == fast.features + slow_.features
    expected = torch.cat([fast.maps(clips), slow_.maps(clips)], dim=1)
    torch.testing.assert_close(both.maps(clips), expected)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["trunk.res9"], r"no 'trunk.res9'; did you mean 'trunk.res\d'"),
        (["trunk.res2", "trunk.res4"], "differ in size .trunk.res2 16x16, trunk.res4 4x4 of 64"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    encoder: Encoder, layers: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Tapped(encoder, layers, frames=4)


def test_the_last_stage_tapped_is_the_network_s_own_map(encoder: Encoder) -> None:
    clips = torch.randn(1, 3, 4, 64, 64)
    maps = Tapped(encoder, ["trunk.res5"], frames=4).maps(clips)
    torch.testing.assert_close(maps, encoder.maps(clips).mean(dim=2, keepdim=True))
