"""Mixup and CutMix: clips of a batch mixed with their neighbours, and their labels with them.

Zhang et al., 2018, https://arxiv.org/abs/1710.09412; Yun et al., 2019,
https://arxiv.org/abs/1905.04899. As in torchvision each clip is mixed with the one before it in the
batch, and one draw serves the whole batch; a box of CutMix is the same in all frames.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, K classes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """The share that a clip keeps; with a box (left, top, right, bottom), pixels change inside."""

    keep: float
    box_px: tuple[int, int, int, int] | None = None


def draw_mix(
    rng: np.random.Generator, size: tuple[int, int], *, mixup: float, cutmix: float
) -> Mix | None:
    """Return a mix for clips of ``size``, (height, width), or None where both weights are 0.

    ``mixup`` and ``cutmix`` are the weights of the Beta distribution of the share that is kept;
    where both are above 0, either way of mixing is as likely. The box of CutMix is cut at the
    picture's edges, and the share made that of the pixels that are kept.
    """
    if mixup <= 0 and cutmix <= 0:
        return None
    cut = cutmix > 0 and (mixup <= 0 or rng.random() < 0.5)
    weight = cutmix if cut else mixup
    keep = float(rng.beta(weight, weight))
    if not cut:
        return Mix(keep)
    height, width = size
    x, y = int(rng.integers(width)), int(rng.integers(height))
    half = 0.5 * math.sqrt(1 - keep)
    across, down = int(half * width), int(half * height)
    left, right = max(0, x - across), min(width, x + across)
    top, bottom = max(0, y - down), min(height, y + down)
    share = 1 - (right - left) * (bottom - top) / (width * height)
    return Mix(share, (left, top, right, bottom))


def soft_labels(labels_B: Tensor, classes: int) -> Tensor:
    """Return class numbers as shares, ``(B, K)``: 1 for the class, 0 for all others."""
    return F.one_hot(labels_B, classes).to(torch.float32)


def mix_clips(clips: Tensor, mix: Mix) -> Tensor:
    """Return clips ``(B, ..., H, W)`` mixed with the clip before each, the first with the last."""
    if mix.box_px is None:
        return clips.roll(1, 0).mul_(1 - mix.keep).add_(clips, alpha=mix.keep)
    left, top, right, bottom = mix.box_px
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips.roll(1, 0)[..., top:bottom, left:right]
    return mixed


def mix_labels(labels_BK: Tensor, mix: Mix) -> Tensor:
    """Return the shares of the classes in clips that were mixed, ``(B, K)``."""
    return labels_BK.roll(1, 0).mul_(1 - mix.keep).add_(labels_BK, alpha=mix.keep)
