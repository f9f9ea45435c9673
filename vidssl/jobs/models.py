"""The table of known settings: size and cost computed from the built network, accuracy quoted.

Parameters and multiply-adds belong to the encoder with a 400-class linear layer on top. The
multiply-adds are those of convolutions and matrix products, for one view, as papers count them.
X3D's own head has one more layer of 2048, which is not counted. Only accuracies are typed in, each
with its source; the networks here are untrained.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vidssl.backbones import (
    BackboneConfig,
    c2d,
    csn,
    fast,
    i3d,
    mvit,
    r2plus1d,
    r3d,
    resnet18_3d,
    resnet_rs,
    slow,
    slowfast,
    x3d,
)
from vidssl.nn.non_local import NonLocalConfig
from vidssl.progress import Progress, silent

CLASSES = 400

PAPER = "arXiv:1812.03982"  # Feichtenhofer et al., SlowFast, the Kinetics-400 tables
ZOO = "PySlowFast model zoo"
PTV = "PyTorchVideo model zoo"
MMACTION = "MMAction2 model zoo"
TF_MODELS = "tensorflow/models, 3D ResNet-RS"
TORCHVISION = "torchvision"


@dataclass(frozen=True)
class Published:
    """Somebody else's accuracy on Kinetics-400, in per cent, over ``views`` crops of each video."""

    top1: float
    views: int
    source: str


@dataclass(frozen=True)
class ModelRow:
    """One setting; ``stride`` counts raw frames of 1/30 s, ``crop`` is in pixels."""

    name: str
    params: int
    gflops: float
    frames: int
    stride: int
    crop: int
    feature_dim: int
    published: Published | None


@dataclass(frozen=True)
class Setting:
    """A backbone under the name that papers know it by."""

    config: BackboneConfig
    published: Published | None = None
    crop_px: int = 256
    """Of one view where the accuracy was measured."""


def _r101(**options: Any) -> slowfast.Config:
    return slowfast.Config(depths=(3, 4, 23, 3), fusion_kernel=5, **options)


# Of res4's 23 blocks only the first 6 look along time, in both pathways (50_50) or in the Slow one
# (50_101). The paper's multiply-adds are those of 50_50.
_PART = (3, 4, 6, 3)
_50_50: dict[str, Any] = {"slow_temporal_blocks": _PART, "fast_temporal_blocks": _PART}
_18: dict[str, Any] = {"block": "basic", "depths": (2, 2, 2, 2)}
_FIVE = NonLocalConfig(res3=(1, 3), res4=(1, 3, 5))
_THREE = NonLocalConfig(res4=(6, 13, 20), similarity="dot_product", pool=(2, 2, 2))


def _rs(depth: int, top1: float | None = None, frames: int = 32) -> Setting:
    config = resnet_rs.Config(depths=resnet_rs.DEPTHS[depth], frames=frames)
    return Setting(config, None if top1 is None else Published(top1, 30, TF_MODELS))


SETTINGS = {
    "c2d_r50_8x8": Setting(c2d.Config(), Published(71.46, 30, PTV)),
    "i3d_r50_8x8": Setting(i3d.Config(), Published(73.5, 30, ZOO)),
    "i3d_nln_r50_8x8": Setting(i3d.Config(non_local=_FIVE), Published(74.0, 30, ZOO)),
    "fast_r50_32x2": Setting(fast.Config(), Published(51.7, 30, PAPER)),
    "slow_r18_8x8": Setting(slow.Config(**_18)),
    "slow_r50_4x16": Setting(slow.Config(frames=4, stride=16), Published(72.6, 30, PAPER)),
    "slow_r50_8x8": Setting(slow.Config(), Published(74.8, 30, ZOO)),
    "slow_r101_8x8": Setting(slow.Config(depths=(3, 4, 23, 3)), Published(76.59, 30, MMACTION)),
    "slowfast_r18_8x8": Setting(slowfast.Config(**_18)),
    "slowfast_r50_4x16": Setting(
        slowfast.Config(alpha=8, fusion_kernel=5), Published(75.6, 30, PAPER)
    ),
    "slowfast_r50_8x8": Setting(slowfast.Config(), Published(77.0, 30, PAPER)),
    "slowfast_r101_8x8": Setting(_r101(**_50_50), Published(77.9, 30, PAPER)),
    "slowfast_r101_8x8_50_101": Setting(_r101(slow_temporal_blocks=_PART)),
    "slowfast_r101_8x8_101_101": Setting(_r101(), Published(77.9, 30, PTV)),
    "slowfast_r101_16x8": Setting(_r101(**_50_50, frames=64), Published(78.9, 30, PAPER)),
    "slowfast_r101_16x8_nl": Setting(
        _r101(**_50_50, frames=64, non_local=_THREE), Published(79.8, 30, PAPER)
    ),
    "r3d_50_32x2": Setting(r3d.Config(frames=32), Published(77.0, 30, TF_MODELS)),
    "resnet_rs_50": _rs(50, 78.2),
    "resnet_rs_101": _rs(101, 79.5),
    "resnet_rs_152": _rs(152, 79.9),
    "resnet_rs_200": _rs(200, 80.4),
    "resnet_rs_200_48": _rs(200, 81.0, frames=48),
    "resnet_rs_270": _rs(270),
    "resnet_rs_300": _rs(300),
    "resnet_rs_350": _rs(350),
    "r2plus1d_r50_16x4": Setting(r2plus1d.Config(), Published(76.01, 30, PTV)),
    "csn_r101_32x2": Setting(csn.Config(), Published(77.0, 30, PTV)),
    "x3d_xs": Setting(x3d.Config(frames=4, stride=12, size="xs"), Published(69.12, 30, PTV), 182),
    "x3d_s": Setting(x3d.Config(frames=13, stride=6, size="s"), Published(73.33, 30, PTV), 182),
    "x3d_m": Setting(x3d.Config(), Published(75.94, 30, PTV)),
    "x3d_l": Setting(x3d.Config(size="l"), Published(77.44, 30, PTV), 356),
    "mvit_b_16x4": Setting(mvit.Config(), Published(78.4, 5, ZOO), 224),
    "mvit_b_32x3": Setting(
        mvit.Config(frames=32, stride=3, size="b32x3"), Published(80.4, 5, ZOO), 224
    ),
    "r3d_18": Setting(resnet18_3d.Config(), Published(63.2, 5, TORCHVISION), 112),
    "mc3_18": Setting(resnet18_3d.Config(kind="mc3"), Published(63.96, 5, TORCHVISION), 112),
    "r2plus1d_18": Setting(
        resnet18_3d.Config(kind="r2plus1d"), Published(67.46, 5, TORCHVISION), 112
    ),
}


def run(progress: Progress = silent) -> list[ModelRow]:
    """Return one row a setting; takes some seconds, because every network is built, if not run."""
    rows: list[ModelRow] = []
    for name, setting in SETTINGS.items():
        progress("counting", len(rows), len(SETTINGS))
        rows.append(measure(name, setting))
    progress("counting", len(rows), len(SETTINGS))
    return rows


def measure(name: str, setting: Setting, crop_px: int | None = None) -> ModelRow:
    """Build the network of one setting and count its parameters and multiply-adds.

    ``crop_px`` is the setting's own unless another is given.
    """
    config, crop_px = setting.config, crop_px or setting.crop_px
    with torch.device("meta"):
        encoder = config.build()
        classifier = nn.Sequential(encoder, nn.Linear(encoder.features, CLASSES)).eval()
        clip = torch.empty(1, 3, config.frames, crop_px, crop_px)
    return ModelRow(
        name=name,
        params=sum(parameter.numel() for parameter in classifier.parameters()),
        gflops=multiply_adds(classifier, clip) / 1e9,
        frames=config.frames,
        stride=config.stride,
        crop=crop_px,
        feature_dim=encoder.features,
        published=setting.published,
    )


def multiply_adds(network: nn.Module, clip_BCTHW: torch.Tensor) -> int:
    """Count the multiply-adds of convolutions and matrix products in one forward pass.

    PyTorch's own counter, which also works on the meta device, where nothing is really computed;
    fvcore's, which must run the network, agrees with it to the last one.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(clip_BCTHW)
    return int(counter.get_total_flops()) // 2
