"""Slow-only: the authors' sizes, fresh weights, and what its map depends on."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from vidssl.backbones import Encoder
from vidssl.backbones.slow import Config

SMALL = Config(width=8, depths=(1, 2, 1, 1), frames=4)


def on_meta(config: Config) -> Encoder:
    """Build without memory or arithmetic: enough for names, shapes and counts."""
    with torch.device("meta"):
        return config.build()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("classes", "expected"), [(400, 32_454_096), (80, 31_798_416)])
def test_parameters_are_the_authors(classes: int, expected: int) -> None:
    encoder = on_meta(Config())
    assert size(encoder) + size(nn.Linear(encoder.features, classes)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(), (1, 2048, 8, 7, 7)),
        (Config(form="detection"), (1, 2048, 8, 14, 14)),
        (Config(block="basic", depths=(2, 2, 2, 2)), (1, 512, 8, 7, 7)),
    ],
)
def test_the_map_of_a_224_pixel_clip(config: Config, expected: tuple[int, ...]) -> None:
    encoder = on_meta(config)
    map_ = encoder.maps(torch.empty(1, 3, 8, 224, 224, device="meta"))
    assert map_.shape == expected
    assert encoder.features == expected[1]
    assert encoder.spatial_stride == 224 // expected[-1]
    assert encoder.temporal_stride == 1


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_any_number_of_frames_is_kept(frames: int) -> None:
    assert SMALL.build().maps(torch.rand(2, 3, frames, 32, 64)).shape == (2, 256, frames, 1, 2)


def test_the_pooled_feature_is_the_mean_of_the_map() -> None:
    torch.manual_seed(0)
    encoder = SMALL.build().eval()
    clips = torch.rand(2, 3, 4, 64, 64)
    with torch.no_grad():
        pooled = encoder(clips)
        assert pooled.dtype == torch.float32
        torch.testing.assert_close(pooled, encoder.maps(clips).flatten(2).mean(dim=2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_a_fresh_block_with_an_identity_shortcut_is_the_identity(
    training: bool, block: str
) -> None:
    torch.manual_seed(0)
    config = Config.model_validate({"width": 8, "depths": [2, 1, 1, 1], "block": block})
    encoder = config.build().train(training)
    with torch.no_grad():
        stem, first, second = map(
            encoder.get_submodule, ("trunk.stem", "trunk.res2.0", "trunk.res2.1")
        )
        one = first(stem(torch.rand(2, 3, 4, 32, 32)))
        assert torch.equal(second(one), one)
    assert one.std() > 0


def test_fresh_weights_are_kaiming_fan_out_with_one_zero_gamma_a_block() -> None:
    torch.manual_seed(0)
    encoder = Config(depths=(1, 2, 1, 1)).build()
    weights = {
        name: module.weight
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Conv3d)
    }
    # conv3 of res5 has 512 inputs, 2048 outputs and a kernel of 1: a fan-out of 2048.
    std = weights["trunk.res5.0.branch.conv3"].std().item()
    assert std == pytest.approx(math.sqrt(2 / 2048), rel=0.01)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}
    zeros = [norm for norm in norms if torch.equal(norm.weight, torch.zeros_like(norm.weight))]
    ones = [norm for norm in norms if torch.equal(norm.weight, torch.ones_like(norm.weight))]
    assert len(zeros) == 5  # 1 + 2 + 1 + 1 blocks
    assert len(ones) == len(norms) - 5


def test_without_temporal_kernels_frames_do_not_meet() -> None:
    torch.manual_seed(0)
    encoder = Config(width=8, depths=(1, 1, 1, 1), temporal_kernels=(1, 1, 1, 1, 1)).build().eval()
    clips = torch.rand(1, 3, 4, 32, 32)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.maps(clips[:, :, order]), encoder.maps(clips)[:, :, order]
        )


def test_only_the_first_blocks_of_a_stage_look_along_time_when_asked() -> None:
    config = Config(depths=(1, 1, 3, 2), temporal_blocks=(1, 1, 2, 0))
    assert config.kernels_by_block() == (1, [[1], [1], [3, 3, 1], [1, 1]])


def test_the_detection_form_has_the_clip_forms_weights() -> None:
    clip, detection = on_meta(Config()), on_meta(Config(form="detection"))
    assert {name: value.shape for name, value in clip.state_dict().items()} == {
        name: value.shape for name, value in detection.state_dict().items()
    }


def test_an_even_temporal_kernel_is_refused_with_its_value() -> None:
    with pytest.raises(ValidationError, match="must be odd to keep the number of frames, got 4"):
        Config(temporal_kernels=(1, 1, 1, 4, 3))
