"""I3D: a ResNet whose kernels are inflated along time in every second block.

Carreira and Zisserman, CVPR 2017, https://arxiv.org/abs/1705.07750, in the ResNet form of Wang et
al., "Non-local Neural Networks", CVPR 2018, https://arxiv.org/abs/1711.07971, section 4.1, as
released with SlowFast: stem 5 x 7 x 7, temporal kernels of 3 in all of res2 and in every second
block of later stages, one temporal maximum over pairs of frames behind res2.
"""

from typing import Literal

from pydantic import PositiveInt

from vidssl.backbones import _residual as residual


class Config(residual.SingleConfig):
    """An I3D ResNet-50 over 8 frames, 8 raw frames apart, by default."""

    name: Literal["i3d"] = "i3d"
    frames: PositiveInt = 8
    stride: PositiveInt = 8
    temporal_kernels: residual.Kernels = (5, 3, (3, 1), (3, 1), (1, 3))

    def plan(self) -> residual.Plan:
        """Return the pathway: half as many frames out as in."""
        return residual.Plan(
            self, self.kernels_by_block(), self.width, pool_frames=2, non_local=self.non_local
        )
