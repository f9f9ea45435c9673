"""X3D: a small network expanded one axis at a time (frames, pixels, width, depth).

Feichtenhofer, CVPR 2020, https://arxiv.org/abs/2004.04730, section 3 and table 3. The network is
pytorchvideo's. XS, S and M are one network at 160, 160 and 224 pixels; L is deeper, at 312.

The map is conv5's output, 432 channels. The paper pools that map and then widens it by one more
layer of 2048 before its classifier; here this layer belongs to the head and is left out, so counts
with a plain linear layer on top are smaller than those of the whole network, 3.79 M (L: 6.15 M).
pytorchvideo calls the stem's two convolutions by each other's names: ``conv_t`` is the 1x3x3 one.

Weights have pytorchvideo's names under ``trunk.``; of its last block only ``pool.pre_conv`` and
``pool.pre_norm``, which are conv5, are kept.
"""

from collections import OrderedDict
from typing import Any, Literal

from pydantic import PositiveInt, model_validator
from torch import nn

from vidssl.backbones import BackboneConfig, Encoder
from vidssl.backbones._adapter import Adapted, importing_pytorchvideo, with_clip_of

CLIPS = {"xs": (4, 12), "s": (13, 6), "m": (16, 5), "l": (16, 5)}
DEPTH_FACTORS = {"xs": 2.2, "s": 2.2, "m": 2.2, "l": 5.0}


class Config(BackboneConfig):
    """X3D-M over 16 frames, 5 raw frames apart, by default; other sizes bring their own clip."""

    name: Literal["x3d"] = "x3d"
    frames: PositiveInt = 16
    stride: PositiveInt = 5
    size: Literal["xs", "s", "m", "l"] = "m"
    """Gives frames and stride where they are left out: 4x12, 13x6, 16x5, 16x5."""

    @model_validator(mode="before")
    @classmethod
    def _clip_of_size(cls, options: Any) -> Any:
        return with_clip_of(options, CLIPS, "m")

    def network(self) -> Encoder:
        """Return the encoder with fresh weights; a cell is 32 pixels a side and one frame long."""
        with importing_pytorchvideo():
            from pytorchvideo.models.x3d import create_x3d
        # Its own Swish is the same function with a backward pass that PyTorch has deprecated.
        network = create_x3d(depth_factor=DEPTH_FACTORS[self.size], inner_act=nn.SiLU)
        network.blocks[-1] = conv5(network.blocks[-1].pool)
        features = network.blocks[-1].pool.pre_norm.num_features
        return Adapted(network, features=features, spatial_stride=32, temporal_stride=1)

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        return {"name": self.name, "depth_factor": DEPTH_FACTORS[self.size]}


def conv5(head: nn.Module) -> nn.Sequential:
    """Return what pytorchvideo's head does before it pools, under the names that it has there."""
    kept = OrderedDict((name, getattr(head, name)) for name in ("pre_conv", "pre_norm", "pre_act"))
    return nn.Sequential(OrderedDict(pool=nn.Sequential(kept)))
