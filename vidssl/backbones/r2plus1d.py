"""R(2+1)D: every 3D convolution as one over space and one over time, with a ReLU in between.

Tran, Wang, Torresani, Ray, LeCun and Paluri, CVPR 2018, https://arxiv.org/abs/1711.11248, section
3.5. The network is pytorchvideo's bottleneck version, whose 50-layer form with a 400-class linear
layer has 28,107,600 parameters and is published for clips of 16 frames, 4 apart, at 224 pixels.

Differences from the paper, which has basic blocks (``resnet18_3d`` with ``kind: r2plus1d``): the
pair of convolutions is the middle of a bottleneck, time first, as wide in between as outside
rather than widened until it has the 3D convolution's parameters; the stem is a 1x7x7 convolution;
stages stride space by 2 from res2 on, and time by 2 in res4 and res5 alone.

Weights have pytorchvideo's names under ``trunk.``; its last block, the classifier, is left out.
"""

from typing import Any, Literal

from pydantic import PositiveInt

from vidssl.backbones import BackboneConfig, Encoder
from vidssl.backbones._adapter import Adapted, importing_pytorchvideo


class Config(BackboneConfig):
    """The published R(2+1)D-50 over 16 frames, 4 raw frames apart, by default."""

    name: Literal["r2plus1d"] = "r2plus1d"
    frames: PositiveInt = 16
    stride: PositiveInt = 4
    depth: Literal[50, 101, 152] = 50
    """Layers; published weights have 50."""

    def network(self) -> Encoder:
        """Return the encoder with fresh weights; a cell is 32 pixels a side and 4 frames long."""
        with importing_pytorchvideo():
            from pytorchvideo.models.r2plus1d import create_r2plus1d
        network = create_r2plus1d(model_depth=self.depth)
        del network.blocks[-1]
        return Adapted(network, features=2048, spatial_stride=32, temporal_stride=4)

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        return {"name": self.name, "depth": self.depth}
