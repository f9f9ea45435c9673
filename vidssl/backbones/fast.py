"""Fast-only: SlowFast's thin pathway alone, over many frames.

Feichtenhofer et al., SlowFast, ICCV 2019, https://arxiv.org/abs/1812.03982, section 3.2 and the
"Fast-only" row of its ablations: an eighth of the width, temporal kernels in every stage. It shows
what fine time is worth with little appearance.

Difference: the paper gives the row 0.53 million parameters and 6.4 billion multiply-adds. The
pathway of its table 1 has 0.51 million without a classifier and 6.9 billion, and these fit the
paper's two pathways without laterals (34.2 with Slow-only's 27.3).
"""

from typing import Literal

from pydantic import PositiveInt

from vidssl.backbones import _residual as residual


class Config(residual.SingleConfig):
    """A Fast-only ResNet-50 over 32 frames, 2 raw frames apart, by default."""

    name: Literal["fast"] = "fast"
    frames: PositiveInt = 32
    stride: PositiveInt = 2
    width: PositiveInt = 8
    """Channels of the stem and inner channels of res2; each later stage doubles them."""
    temporal_kernels: residual.Kernels = (5, 3, 3, 3, 3)

    def plan(self) -> residual.Plan:
        """Return the pathway: any number of frames in, as many out."""
        return residual.Plan(self, self.kernels_by_block(), self.width, non_local=self.non_local)
