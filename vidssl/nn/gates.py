"""Gates that scale the channels of a feature map by what the whole map shows.

Squeeze-and-excitation: Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507. Self-gating: Xie et
al., "Rethinking Spatiotemporal Feature Learning" (S3D-G), ECCV 2018,
https://arxiv.org/abs/1712.04851. Both in the form of the released 3D ResNet-RS.

Tensor suffixes: B maps, C channels, T frames, H and W cells.
"""

import torch
from torch import Tensor, nn

from vidssl.nn.non_local import pointwise

REDUCTION = 4


class SelfGate(nn.Module):
    """Scales each channel by the sigmoid of a linear map of all channels' means."""

    def __init__(self, channels: int) -> None:
        """Start near an even gate of one half: weights are small, the bias zero."""
        super().__init__()
        self.weigh = nn.Conv3d(channels, channels, 1)
        nn.init.trunc_normal_(self.weigh.weight, std=0.01)
        nn.init.zeros_(self.weigh.bias)  # type: ignore[arg-type]

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the scaled map, of the shape that came in."""
        return x_BCTHW * torch.sigmoid(self.weigh(x_BCTHW.mean(dim=(2, 3, 4), keepdim=True)))


class SqueezeExcitation(nn.Module):
    """Scales each channel by the sigmoid of a two-layer network of all channels' means."""

    def __init__(self, channels: int) -> None:
        """Make fresh weights; the hidden layer has a quarter of the channels."""
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.squeeze = pointwise(channels, hidden)
        self.excite = pointwise(hidden, channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the scaled map, of the shape that came in."""
        means = x_BCTHW.mean(dim=(2, 3, 4), keepdim=True)
        return x_BCTHW * torch.sigmoid(self.excite(torch.relu(self.squeeze(means))))
