"""The 18-layer 3D ResNets of torchvision: R3D-18, MC3-18 and R(2+1)D-18.

Tran, Wang, Torresani, Ray, LeCun and Paluri, CVPR 2018, https://arxiv.org/abs/1711.11248, section
3. The networks are torchvision's; its published weights read 16 frames at 15 a second (every second
raw frame) at 112 pixels. With a 400-class linear layer they have 33,371,472 (``r3d``), 11,695,440
(``mc3``) and 31,505,325 (``r2plus1d``) parameters.

- ``r3d``: all convolutions 3x3x3.
- ``mc3``: 3x3x3 in the stem and the first stage, 1x3x3 after; time is not strided.
- ``r2plus1d``: 1x3x3 and 3x1x1 in place of each 3x3x3, with as many channels in between as give
  them the 3D convolution's parameters. torchvision counts these once a block, from its first
  convolution, so the second one of a block that widens has fewer than the paper's.

The stem strides space alone, by 2, and nothing is pooled after it: a cell of the map is 16 pixels
wide, where a 50-layer network's is 32, or 8 where the last stage does not stride in space
(Catch-the-Patch, https://arxiv.org/abs/2105.02545). Of the paper's depths and mixtures this has the
18-layer R3D, MC3 and R(2+1)D alone.

Weights have torchvision's names under ``trunk.``; its ``fc`` is left out. Nothing is downloaded.
"""

from collections import OrderedDict
from typing import Any, Literal

from pydantic import PositiveInt
from torch import nn

from vidssl.backbones import BackboneConfig, Encoder
from vidssl.backbones._adapter import Adapted

BUILDERS = {"r3d": "r3d_18", "mc3": "mc3_18", "r2plus1d": "r2plus1d_18"}
TEMPORAL_STRIDES = {"r3d": 8, "mc3": 1, "r2plus1d": 8}
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


class Config(BackboneConfig):
    """R3D-18 over 16 frames, 2 raw frames apart, by default."""

    name: Literal["resnet18_3d"] = "resnet18_3d"
    frames: PositiveInt = 16
    stride: PositiveInt = 2
    kind: Literal["r3d", "mc3", "r2plus1d"] = "r3d"
    """Which convolutions."""
    last_stride: Literal[1, 2] = 2
    """How the last stage strides in space: 1 makes a map twice as fine, from the same weights."""

    def network(self) -> Encoder:
        """Return the encoder with fresh weights.

        A cell is 16 pixels a side, or 8, and 8 frames long (``mc3``: one frame).
        """
        # Imported here because it takes two seconds, and few runs need it.
        from torchvision.models import video

        network = getattr(video, BUILDERS[self.kind])(weights=None)
        trunk = nn.Sequential(OrderedDict((stage, getattr(network, stage)) for stage in STAGES))
        if self.last_stride == 1:
            for module in network.layer4.modules():
                if isinstance(module, nn.Conv3d):
                    module.stride = (module.stride[0], 1, 1)
        return Adapted(
            trunk,
            features=512,
            spatial_stride=8 * self.last_stride,
            temporal_stride=TEMPORAL_STRIDES[self.kind],
        )

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        return {"name": self.name, "kind": self.kind}
