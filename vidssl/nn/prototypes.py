"""Prototypes, and codes that share a batch out among them equally.

Caron et al., "SwAV", NeurIPS 2020, https://arxiv.org/abs/2006.09882, section 3.

Tensor suffixes: B clips of this process, G of all processes, D projected features, K prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidssl.nn.distributed import gather


class Prototypes(nn.Module):
    """K directions, trained; scores are cosines."""

    def __init__(self, dim: int, count: int) -> None:
        """Start at random directions."""
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    @torch.no_grad()
    def renormalise(self) -> None:
        """Put the rows back on unit length, which an optimizer's step takes them off."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, z_BD: Tensor, *, hold: bool = False) -> Tensor:
        """Return the scores ``(B, K)`` of features on unit length, in full precision.

        With ``hold`` the prototypes get a gradient of zero: none at all would leave processes
        waiting for it.
        """
        weight = self.weight.detach() + 0.0 * self.weight if hold else self.weight
        with torch.autocast(z_BD.device.type, enabled=False):
            return z_BD.float() @ weight.T


@torch.no_grad()
def equal_codes(scores_BK: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return codes ``(B, K)``: each clip's sum to 1, each prototype's over all G clips to G / K.

    The latter nearly, the more iterations the nearer: Sinkhorn's algorithm on
    ``exp(score / epsilon)``, which scales prototypes and clips in turn and ends with the clips. The
    clips are those of all processes. In logarithms, so no epsilon is too small for the exponential.
    """
    with torch.autocast(scores_BK.device.type, enabled=False):
        log_BK = scores_BK.float() / epsilon
        for _ in range(iterations):
            # Prototypes: the sum of each over this process's clips, then over all. What it should
            # be, G / K, is one number for all of them, which the clips' turn takes away again.
            here_1K = log_BK.logsumexp(dim=0, keepdim=True)
            log_BK = log_BK - gather(here_1K).logsumexp(dim=0)
            log_BK = F.log_softmax(log_BK, dim=1)
        return log_BK.exp()
