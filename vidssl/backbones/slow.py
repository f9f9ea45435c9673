"""Slow-only: a ResNet over few, widely spaced frames that looks along time in its last stages.

Feichtenhofer et al., SlowFast, ICCV 2019, https://arxiv.org/abs/1812.03982, section 3.1 and the
"Slow-only" rows of its tables. With width 64 and a 400-class linear layer the depths (3, 4, 6, 3)
have the authors' 32,454,096 parameters. Differences: ``width`` and ``depths`` are free, and
``block="basic"`` gives the 18-layer form, which the paper does not have.
"""

from typing import Literal

from pydantic import PositiveInt

from vidssl.backbones import _residual as residual


class Config(residual.SingleConfig):
    """A Slow-only ResNet-50 over 8 frames, 8 raw frames apart (the paper's 8x8), by default."""

    name: Literal["slow"] = "slow"
    frames: PositiveInt = 8
    stride: PositiveInt = 8
    temporal_kernels: residual.Kernels = (1, 1, 1, 3, 3)

    def plan(self) -> residual.Plan:
        """Return the pathway: any number of frames in, as many out."""
        return residual.Plan(self, self.kernels_by_block(), self.width, non_local=self.non_local)
