"""What changes in a clip from each frame to the next: its movement, without its colours.

Tensor suffixes: B clips, C channels, T frames, H and W pixels.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""The shares of red, green and blue in grey, with torchvision's digits."""


def difference(clips_BCTHW: Tensor) -> Tensor:
    """Return what changes in grey from each frame to the next, alike in all channels.

    The last frame repeats the change before it; a still clip, and one of a single frame, is 0
    throughout.
    """
    grey_B1THW = luma(clips_BCTHW)[:, None]
    change = grey_B1THW.diff(dim=2)
    if change.shape[2] == 0:
        return torch.zeros_like(clips_BCTHW)
    return torch.cat([change, change[:, :, -1:]], dim=2).expand_as(clips_BCTHW)


def luma(clips_BC: Tensor) -> Tensor:
    """Return the grey value, the channels being the second dimension."""
    red, green, blue = clips_BC.unbind(1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
