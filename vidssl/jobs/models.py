"""The table of known settings: size and cost computed from the built network, accuracy quoted.

Parameters and multiply-adds belong to the encoder with a 400-class linear layer on top. The
multiply-adds are those of the convolutions and of that layer, for one view, as papers count them.
Only accuracies are typed in, each with its source; the networks here are untrained.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vidssl.backbones import BackboneConfig, slow, slowfast
from vidssl.progress import Progress, silent

CLASSES = 400
CROP_PX = 256

PAPER = "arXiv:1812.03982"  # Feichtenhofer et al., SlowFast, the Kinetics-400 tables
ZOO = "PySlowFast model zoo"


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


SETTINGS = {
    "slow_r50_4x16": Setting(slow.Config(frames=4, stride=16), Published(72.6, 30, PAPER)),
    "slow_r50_8x8": Setting(slow.Config(), Published(74.8, 30, ZOO)),
    "slowfast_r50_4x16": Setting(
        slowfast.Config(alpha=8, fusion_kernel=5), Published(75.6, 30, PAPER)
    ),
    "slowfast_r50_8x8": Setting(slowfast.Config(), Published(77.0, 30, PAPER)),
    # Of res4's 23 blocks only the first 6 look along time, in both pathways: the layout whose
    # multiply-adds are the paper's.
    "slowfast_r101_8x8": Setting(
        slowfast.Config(
            depths=(3, 4, 23, 3),
            slow_temporal_blocks=(3, 4, 6, 3),
            fast_temporal_blocks=(3, 4, 6, 3),
            fusion_kernel=5,
        ),
        Published(77.9, 30, PAPER),
    ),
}


def run(progress: Progress = silent) -> list[ModelRow]:
    """Return one row a setting; takes some seconds, because every network is built and run once."""
    rows: list[ModelRow] = []
    for name, setting in SETTINGS.items():
        progress("counting", len(rows), len(SETTINGS))
        rows.append(measure(name, setting))
    progress("counting", len(rows), len(SETTINGS))
    return rows


def measure(name: str, setting: Setting, crop_px: int = CROP_PX) -> ModelRow:
    """Build the network of one setting and count its parameters and multiply-adds."""
    config = setting.config
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
