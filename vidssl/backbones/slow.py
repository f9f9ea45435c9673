"""Slow-only: a ResNet over few, widely spaced frames that looks along time in its last stages.

Feichtenhofer et al., SlowFast, ICCV 2019, https://arxiv.org/abs/1812.03982, section 3.1 and the
"Slow-only" rows of its tables. With width 64 and a 400-class linear layer the depths (3, 4, 6, 3)
have the authors' 32,454,096 parameters. Differences: ``width`` and ``depths`` are free, and
``block="basic"`` gives the 18-layer form, which the paper does not have.

Tensor suffixes: B clips, C channels, T frames, H and W pixels; T', H', W' of a map.
"""

from typing import Any, Literal

from pydantic import PositiveInt
from torch import Tensor

from vidssl.backbones import BackboneConfig, Encoder
from vidssl.backbones import _residual as residual


class Config(BackboneConfig):
    """A Slow-only ResNet-50 over 8 frames, 8 raw frames apart (the paper's 8x8), by default."""

    name: Literal["slow"] = "slow"
    frames: PositiveInt = 8
    stride: PositiveInt = 8
    width: PositiveInt = 64
    """Channels of the stem and inner channels of res2; each later stage doubles them."""
    depths: residual.Depths = (3, 4, 6, 3)
    """Blocks in res2 to res5."""
    block: residual.Block = "bottleneck"
    temporal_kernels: residual.Kernels = (1, 1, 1, 3, 3)
    """Of the stem and of res2 to res5, in frames."""
    temporal_blocks: residual.Counts | None = None
    """How many blocks of each stage, the first ones, have its temporal kernel; all if null."""
    form: residual.Form = "clip"
    """``detection`` dilates res5 instead of striding; it has the clip form's weights."""

    def build(self) -> "Slow":
        """Return the encoder with fresh weights."""
        return Slow(self)

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        return {
            "name": self.name,
            "width": self.width,
            "block": self.block,
            "temporal_kernels": list(self.kernels_by_block()),
        }

    def kernels_by_block(self) -> tuple[int, list[list[int]]]:
        """Return the temporal kernels: the stem's, then one list a stage with one a block."""
        return residual.kernels_by_block(self.temporal_kernels, self.depths, self.temporal_blocks)


class Slow(Encoder):
    """One pathway; any number of frames in, as many out."""

    def __init__(self, config: Config) -> None:
        """Make fresh weights."""
        super().__init__()
        self.features = 8 * residual.EXPANSION[config.block] * config.width
        self.spatial_stride = 32 if config.form == "clip" else 16
        self.temporal_stride = 1
        self.slow = residual.pathway(
            config.block, config.width, config.kernels_by_block(), form=config.form
        )

    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return res5's map, ``(B, F, T, H/32, W/32)``, or H/16 and W/16 in the detection form."""
        map_: Tensor = self.slow(clips_BCTHW)
        return map_
