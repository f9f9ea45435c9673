"""The trunks against pytorchvideo's models with the same weights."""

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import BackboneConfig, slow, slowfast
from vidssl.detection.detector import Detector, HeadConfig
from vidssl.section import choose

with warnings.catch_warnings():
    # pytorchvideo scripts some activations on import, which PyTorch has deprecated.
    warnings.filterwarnings("ignore", message=".*torch.jit.script")
    from pytorchvideo.models.hub import slow_r50_detection, slowfast_r50_detection
    from pytorchvideo.models.resnet import create_resnet
    from pytorchvideo.models.slowfast import create_slowfast

TRUNK = 5  # blocks of the other library's models before the heads: a stem and four stages
DILATED = ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 2, 2))
DETECTION_STRIDES = (1, 2, 2, 1)
DILATED_RESNET: dict[str, Any] = {
    "stage_spatial_h_stride": DETECTION_STRIDES,
    "stage_spatial_w_stride": DETECTION_STRIDES,
    "stage_conv_b_dilation": DILATED,
}


def our_name(theirs: str) -> str:
    """Translate the name of a weight in a trunk."""

    def pathway(match: re.Match[str]) -> str:
        return f"{('slow', 'fast')[int(match['path'])]}.{match['stage']}."

    name = re.sub(r"^blocks\.(?P<stage>\d)\.multipathway_blocks\.(?P<path>\d)\.", pathway, theirs)
    name = re.sub(
        r"^blocks\.(\d)\.multipathway_fusion\.(conv|norm)(_fast_to_slow)?", r"laterals.\1.\2", name
    )
    name = re.sub(r"^blocks\.", "trunk.", name)
    name = re.sub(r"^(trunk|slow|fast)\.0\.", r"\1.stem.", name)
    name = re.sub(
        r"^(trunk|slow|fast)\.(\d)\.res_blocks\.", lambda m: f"{m[1]}.res{int(m[2]) + 1}.", name
    )
    name = name.replace("branch1_", "shortcut.")
    return re.sub(
        r"branch2\.(conv|norm)_([abc])", lambda m: f"branch.{m[1]}{'abc'.index(m[2]) + 1}", name
    )


def live(model: nn.Module) -> nn.Module:
    """Give batch norm statistics and scales that a mistake cannot hide behind; eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.2, 0.8)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def copy_trunk(theirs: nn.Module, ours: nn.Module, pooled: bool = False) -> None:
    """Copy all but the head; ``pooled`` trunks have a pool as their third block."""

    def without_pool(name: str) -> str:
        block = int(name.split(".")[1])
        return re.sub(r"^blocks\.\d+", f"blocks.{block - (pooled and block > 2)}", name)

    weights = {
        our_name(without_pool(name)): value
        for name, value in theirs.state_dict().items()
        if int(name.split(".")[1]) < TRUNK + pooled
    }
    ours.load_state_dict(weights, strict=True)
    ours.eval()


def through(model: nn.Module, inputs: Any, pooled: bool = False) -> Any:
    for block in model.blocks[: TRUNK + pooled]:  # type: ignore[index]
        inputs = block(inputs)
    return inputs


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["clip", "detection"])
@pytest.mark.parametrize("family", ["c2d", "i3d"])
def test_c2d_and_i3d_r50(family: str, form: str) -> None:
    torch.manual_seed(0)
    pair = [(3, 1, 1), (1, 1, 1)]
    theirs = live(
        create_resnet(
            stem_conv_kernel_size=(1 if family == "c2d" else 5, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=((1, 1, 1),) * 4
            if family == "c2d"
            else ((3, 1, 1), pair, pair, pair[::-1]),
            **(DILATED_RESNET if form == "detection" else {}),
        )
    )
    config: BackboneConfig = choose("vidssl.backbones", {"name": family, "form": form})
    ours = config.build()
    copy_trunk(theirs, ours, pooled=True)
    clips = torch.rand(2, 3, 8, 64, 64)
    with torch.no_grad():
        assert_equal(ours.maps(clips), through(theirs, clips, pooled=True))


@pytest.mark.parametrize("form", ["clip", "detection"])
def test_slow_r50(form: str) -> None:
    torch.manual_seed(0)
    theirs = live(
        create_resnet(
            stem_conv_kernel_size=(1, 7, 7), **(DILATED_RESNET if form == "detection" else {})
        )
    )
    ours = slow.Config.model_validate({"form": form, "frames": 4}).build()
    copy_trunk(theirs, ours)
    clips = torch.rand(2, 3, 4, 64, 64)
    with torch.no_grad():
        assert_equal(ours.maps(clips), through(theirs, clips))


PART_OF_RES4 = [(3, 1, 1)] * 6 + [(1, 1, 1)] * 17
KERNELS_50_50 = (
    ((1, 1, 1), (1, 1, 1), PART_OF_RES4, (3, 1, 1)),
    ((3, 1, 1), (3, 1, 1), PART_OF_RES4, (3, 1, 1)),
)
LAYOUT_50_50 = {"slow_temporal_blocks": (3, 4, 6, 3), "fast_temporal_blocks": (3, 4, 6, 3)}


@pytest.mark.parametrize(
    ("depth", "alpha", "kernel", "form", "layout"),
    [
        (50, 8, 5, "clip", "full"),
        (50, 4, 7, "clip", "full"),
        (50, 4, 7, "detection", "full"),
        (101, 4, 5, "clip", "full"),
        (101, 4, 5, "detection", "full"),
        (101, 4, 5, "clip", "50_50"),
    ],
)
def test_slowfast(depth: int, alpha: int, kernel: int, form: str, layout: str) -> None:
    torch.manual_seed(0)
    dilated: dict[str, Any] = {}
    if form == "detection":
        dilated["stage_spatial_strides"] = (DETECTION_STRIDES, DETECTION_STRIDES)
        dilated["stage_conv_b_dilations"] = (DILATED, DILATED)
    if layout == "50_50":
        dilated["stage_conv_a_kernel_sizes"] = KERNELS_50_50
    theirs = live(
        create_slowfast(
            model_depth=depth,
            slowfast_channel_reduction_ratio=(8,),
            slowfast_conv_channel_fusion_ratio=2,
            slowfast_fusion_conv_kernel_size=(kernel, 1, 1),
            slowfast_fusion_conv_stride=(alpha, 1, 1),
            **dilated,
        )
    )
    options: dict[str, Any] = {"alpha": alpha, "fusion_kernel": kernel, "form": form}
    if depth == 101:
        options["depths"] = (3, 4, 23, 3)
    if layout == "50_50":
        options |= LAYOUT_50_50
    ours = slowfast.Config.model_validate(options).network()
    copy_trunk(theirs, ours)
    clips = torch.rand(1, 3, 32, 64, 64)
    spread = torch.linspace(0, 31, 32 // alpha).long()
    with torch.no_grad():
        slow_map, fast_map = through(theirs, [clips[:, :, spread], clips])
        our_slow, our_fast = ours.pathways(clips)
        assert_equal(our_slow, slow_map)
        assert_equal(our_fast, fast_map)
        pooled = torch.cat([slow_map.mean(dim=(2, 3, 4)), fast_map.mean(dim=(2, 3, 4))], dim=1)
        assert_equal(ours(clips), pooled)


@pytest.mark.parametrize("family", ["slow", "slowfast"])
def test_the_features_and_scores_of_boxes_are_those_of_their_detection_model(family: str) -> None:
    """The published AVA models' own builders; their boxes are aligned as Caffe2 did it."""
    torch.manual_seed(0)
    is_single = family == "slow"
    theirs = live((slow_r50_detection if is_single else slowfast_r50_detection)(pretrained=False))
    # Some versions dilate the wrong stage of the Fast pathway, which has no weights to show it.
    res5 = [c for n, c in theirs.named_modules() if "model.blocks.4." in n and n.endswith("conv_b")]
    assert len(res5) == (3 if is_single else 6)
    assert {(c.dilation, c.stride[1:]) for c in res5} == {((1, 2, 2), (1, 1))}

    frames = 4 if is_single else 32
    options = {"name": family, "form": "detection", "frames": frames}
    config: BackboneConfig = choose("vidssl.backbones", options)
    ours = Detector(config.build(), HeadConfig(aligned=False), num_classes=80).eval()
    copy_trunk(theirs.model, ours.encoder)  # type: ignore[arg-type]
    ours.classifier.load_state_dict(theirs.detection_head.proj.state_dict())  # type: ignore[union-attr]

    clips = torch.rand(2, 3, frames, 64, 96)
    spread = torch.linspace(0, 31, 8).long()
    inputs: Any = clips if is_single else [clips[:, :, spread], clips]
    boxes = (torch.tensor([[0.1, 0.2, 0.6, 0.9]]), torch.tensor([[0, 0, 1, 1], [0.5, 0, 0.7, 0.4]]))
    size = torch.tensor([96, 64, 96, 64])
    rows = [[clip, *(box * size).tolist()] for clip, own in enumerate(boxes) for box in own]
    seen: list[Tensor] = []
    pooled = theirs.detection_head.pool_spatial  # type: ignore[union-attr]
    pooled.register_forward_hook(lambda *call: seen.append(call[2].flatten(1)))  # type: ignore
    with torch.no_grad():
        scores = theirs(inputs, torch.tensor(rows))
        assert ours.encoder.maps(clips).shape[3:] == (4, 6)  # a cell for 16 pixels
        assert_equal(ours.features(clips, boxes), seen[0])
        assert_equal(ours.logits(clips, boxes).sigmoid(), scores)
