"""SlowFast: the authors' sizes and shapes, its frames, and the one-way street between pathways."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vidssl.backbones.slowfast import Config, SlowFast, slow_frames

R50_4X16 = Config(alpha=8, fusion_kernel=5)
R50_8X8 = Config()
R101: dict[str, Any] = {"depths": (3, 4, 23, 3), "fusion_kernel": 5}
PART = (3, 4, 6, 3)
SMALL = Config(width=16, depths=(1, 1, 1, 1), frames=16)


def on_meta(config: Config) -> SlowFast:
    """Build without memory or arithmetic: enough for names, shapes and counts."""
    with torch.device("meta"):
        return config.network()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "classes", "expected"),
    [
        (R50_4X16, 400, 34_480_216),
        (R50_8X8, 400, 34_566_488),
        (R50_8X8, 80, 33_828_888),
        (Config(**R101, slow_temporal_blocks=PART, fast_temporal_blocks=PART), 400, 53_774_808),
        (Config(**R101, slow_temporal_blocks=PART), 400, 53_914_072),
        (Config(**R101), 400, 62_826_968),
    ],
)
def test_parameters_are_the_authors(config: Config, classes: int, expected: int) -> None:
    encoder = on_meta(config)
    assert encoder.features == 2304
    assert size(encoder) + size(nn.Linear(2304, classes)) == expected


@pytest.mark.parametrize(
    ("frames", "alpha", "expected"),
    [
        (32, 8, [0, 10, 20, 31]),
        (32, 4, [0, 4, 8, 13, 17, 22, 26, 31]),
        (64, 4, [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]),
        (8, 8, [0]),
    ],
)
def test_slow_frames_of_the_authors_settings(frames: int, alpha: int, expected: list[int]) -> None:
    assert slow_frames(frames, alpha).tolist() == expected


def test_slow_frames_are_the_truncated_even_spread() -> None:
    for alpha in (1, 2, 3, 4, 5, 8, 16):
        for frames in range(alpha, 129, alpha):
            spread = torch.linspace(0, frames - 1, frames // alpha).long()
            assert torch.equal(slow_frames(frames, alpha), spread)


def test_the_slow_pathway_sees_those_frames() -> None:
    seen: list[Tensor] = []
    encoder = SMALL.network().eval()
    encoder.get_submodule("slow.stem").register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    numbered = torch.arange(16.0).view(1, 1, 16, 1, 1).expand(1, 3, 16, 32, 32)
    with torch.no_grad():
        encoder(numbered)
    assert len(seen) == 1
    assert seen[0][0, 0, :, 0, 0].tolist() == [0, 5, 10, 15]


def test_shapes_inside_the_8x8_network_at_224_pixels() -> None:
    encoder = on_meta(R50_8X8)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(pathway: str, stage: str) -> None:
        module = encoder.get_submodule(f"{pathway}.{stage}")
        module.register_forward_hook(
            lambda _, inputs, output: shapes.update(
                {
                    f"{pathway} into {stage}": inputs[0].shape[1:],
                    f"{pathway} {stage}": output.shape[1:],
                }
            )
        )

    for pathway in ("slow", "fast"):
        for stage in ("stem", "res2", "res3", "res4", "res5"):
            note(pathway, stage)
    encoder(torch.empty(1, 3, 32, 224, 224, device="meta"))

    assert shapes["slow stem"] == (64, 8, 56, 56)
    assert shapes["fast stem"] == (8, 32, 56, 56)
    assert shapes["slow into res2"] == (80, 8, 56, 56)
    assert shapes["slow into res3"] == (320, 8, 56, 56)
    assert shapes["slow into res4"] == (640, 8, 28, 28)
    assert shapes["slow into res5"] == (1280, 8, 14, 14)
    assert shapes["slow res5"] == (2048, 8, 7, 7)
    assert shapes["fast res5"] == (256, 32, 7, 7)


@pytest.mark.parametrize(("form", "cells"), [("clip", 7), ("detection", 14)])
def test_the_map_of_a_224_pixel_clip(form: str, cells: int) -> None:
    encoder = on_meta(Config.model_validate({"form": form}))
    clips = torch.empty(1, 3, 32, 224, 224, device="meta")
    assert encoder.maps(clips).shape == (1, 2304, 8, cells, cells)
    assert (encoder.spatial_stride, encoder.temporal_stride) == (224 // cells, 4)
    slow, fast = encoder.pathways(clips)
    assert slow.shape == (1, 2048, 8, cells, cells)
    assert fast.shape == (1, 256, 32, cells, cells)


def test_the_detection_form_has_the_clip_forms_weights_and_another_map() -> None:
    torch.manual_seed(0)
    clip = SMALL.network().eval()
    detection = SMALL.model_copy(update={"form": "detection"}).build().eval()
    detection.load_state_dict(clip.state_dict(), strict=True)
    clips = torch.rand(1, 3, 16, 64, 64)
    with torch.no_grad():
        assert clip.maps(clips).shape == (1, 576, 4, 2, 2)
        assert detection.maps(clips).shape == (1, 576, 4, 4, 4)


def test_the_pooled_feature_is_each_pathways_mean_over_all_its_frames() -> None:
    torch.manual_seed(0)
    encoder = SMALL.network().eval()
    clips = torch.rand(2, 3, 16, 64, 64)
    with torch.no_grad():
        slow, fast = encoder.pathways(clips)
        pooled = encoder(clips)
        map_ = encoder.maps(clips)
    expected = torch.cat([slow.flatten(2).mean(dim=2), fast.flatten(2).mean(dim=2)], dim=1)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected)
    # A cell holds four Fast frames: the second one frames 4 to 7.
    torch.testing.assert_close(map_[:, 512:, 1], fast[:, :, 4:8].mean(dim=2))


def blank(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Replace what a layer is given by zeros."""
    return (torch.zeros_like(inputs[0]),)


def test_blanking_the_fast_input_changes_the_slow_features() -> None:
    torch.manual_seed(0)
    encoder = SMALL.network().eval()
    clips = torch.rand(1, 3, 16, 64, 64)
    with torch.no_grad():
        slow, _ = encoder.pathways(clips)
        encoder.get_submodule("fast.stem").register_forward_pre_hook(blank)
        other, _ = encoder.pathways(clips)
    assert not torch.allclose(slow, other)


def test_blanking_the_slow_input_leaves_the_fast_features_alone() -> None:
    torch.manual_seed(0)
    encoder = SMALL.network().eval()
    clips = torch.rand(1, 3, 16, 64, 64)
    with torch.no_grad():
        slow, fast = encoder.pathways(clips)
        encoder.get_submodule("slow.stem").register_forward_pre_hook(blank)
        other_slow, other_fast = encoder.pathways(clips)
    assert not torch.allclose(slow, other_slow)
    assert torch.equal(fast, other_fast)


@pytest.mark.parametrize("after", ["stem", "res2", "res3", "res4"])
def test_every_lateral_connection_is_live(after: str) -> None:
    torch.manual_seed(0)
    encoder = SMALL.network().eval()
    clips = torch.rand(1, 3, 16, 64, 64)
    place = ["stem", "res2", "res3", "res4"].index(after)
    with torch.no_grad():
        slow, _ = encoder.pathways(clips)
        encoder.laterals[place].register_forward_pre_hook(blank)
        other, _ = encoder.pathways(clips)
    assert not torch.allclose(slow, other)


def test_the_order_of_frames_matters() -> None:
    torch.manual_seed(0)
    encoder = SMALL.network().eval()
    clips = torch.rand(1, 3, 16, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(encoder(clips), encoder(clips.flip(2)))


@pytest.mark.parametrize("frames", [4, 8, 32])
def test_other_multiples_of_alpha_work(frames: int) -> None:
    assert SMALL.build().maps(torch.rand(2, 3, frames, 32, 32)).shape == (2, 576, frames // 4, 1, 1)


def test_a_clip_that_alpha_does_not_divide_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="a multiple of alpha = 4 frames, got 15"):
        SMALL.build()(torch.rand(1, 3, 15, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 20}, "width 20 is not a multiple of beta_inverse 8"),
        ({"frames": 30}, "frames 30 is not a multiple of alpha 4"),
        ({"fusion_kernel": 6}, "Input should be 5 or 7"),
        (
            {"fast_temporal_blocks": (3, 4, 23, 3)},
            "fast_temporal_blocks: 23 blocks in res4, which has 6",
        ),
    ],
)
def test_ratios_that_do_not_divide_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(options)


def test_it_compiles_as_one_graph() -> None:
    torch.manual_seed(0)
    encoder = SMALL.network().eval()
    clips = torch.rand(1, 3, 16, 32, 32)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(clips), encoder(clips))
