"""CSN: a 3D ResNet whose 3x3x3 convolutions look at each channel by itself.

Tran, Wang, Torresani and Feiszli, ICCV 2019, https://arxiv.org/abs/1904.02811, section 3: the
interaction-reduced network (ir-CSN), where channels meet in the bottleneck's 1x1x1 convolutions
alone. The network is pytorchvideo's, with the max pool after the stem that its published 101-layer
model has; that one, with a 400-class linear layer, has 22,213,776 parameters and reads clips of 32
frames, 2 apart, at 224 pixels.

Difference from the paper: depths other than 101 are the same layout with that pool, and nobody has
published weights of pytorchvideo's names for them.

Weights have pytorchvideo's names under ``trunk.``; its last block, the classifier, is left out.
"""

from typing import Any, Literal

from pydantic import PositiveInt
from torch import nn

from vidssl.backbones import BackboneConfig, Encoder
from vidssl.backbones._adapter import Adapted, importing_pytorchvideo


class Config(BackboneConfig):
    """The published CSN-101 over 32 frames, 2 raw frames apart, by default."""

    name: Literal["csn"] = "csn"
    frames: PositiveInt = 32
    stride: PositiveInt = 2
    depth: Literal[50, 101, 152] = 101
    """Layers; published weights have 101."""

    def network(self) -> Encoder:
        """Return the encoder with fresh weights; a cell is 32 pixels a side and 8 frames long."""
        with importing_pytorchvideo():
            from pytorchvideo.models.csn import create_csn
        network = create_csn(model_depth=self.depth, stem_pool=nn.MaxPool3d)
        del network.blocks[-1]
        return Adapted(network, features=2048, spatial_stride=32, temporal_stride=8)

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        return {"name": self.name, "depth": self.depth}
