"""C2D: a 2D ResNet on each frame, joined by one pooling over pairs of frames; blind to their order.

Wang et al., "Non-local Neural Networks", CVPR 2018, https://arxiv.org/abs/1711.07971, table 1, in
the form of the released SlowFast code: stem 1 x 7 x 7, no temporal kernel anywhere, one temporal
maximum over pairs of frames behind res2. The paper's own pools time further on.
"""

from typing import Literal

from pydantic import PositiveInt

from vidssl.backbones import _residual as residual


class Config(residual.SingleConfig):
    """A C2D ResNet-50 over 8 frames, 8 raw frames apart, by default."""

    name: Literal["c2d"] = "c2d"
    frames: PositiveInt = 8
    stride: PositiveInt = 8
    temporal_kernels: residual.Kernels = (1, 1, 1, 1, 1)

    def plan(self) -> residual.Plan:
        """Return the pathway: half as many frames out as in."""
        return residual.Plan(
            self, self.kernels_by_block(), self.width, pool_frames=2, non_local=self.non_local
        )
