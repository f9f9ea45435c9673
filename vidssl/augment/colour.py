"""Colour changes of a batch of clips: one draw a clip, shared by its frames.

Brightness, contrast and saturation follow torchvision's ColorJitter; the order is fixed
(brightness, contrast, saturation, hue) where torchvision draws one, the result is cut to [0, 1]
once at the end, and hue turns the colour in the YIQ plane where torchvision shifts it in HSV. That
makes the whole change one 3 x 4 matrix a clip, one pass over the pixels.

Tensor suffixes: B clips, C channels, T frames, H and W pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def luma_mix(keep: float) -> Matrix:
    """Return the matrix that keeps a share of the colour and takes the rest from the grey value."""
    return keep * np.eye(3) + (1 - keep) * np.outer(np.ones(3), LUMA)


def hue_turn(turns: float) -> Matrix:
    """Return the matrix that turns hue by a share of a full turn, grey values unchanged."""
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return np.asarray(np.linalg.inv(YIQ) @ turn @ YIQ)


def jitter_matrix(
    rng: np.random.Generator, strengths: Sequence[float], mean_luma: float
) -> tuple[Matrix, NDArray[np.float64]]:
    """Return (matrix ``(3, 3)``, offset ``(3,)``) of one random jitter.

    ``strengths`` are those of brightness, contrast, saturation (each factor uniform in
    ``[max(0, 1 - s), 1 + s]``) and hue (uniform in ``[-s, s]`` turns). Contrast pulls towards
    ``mean_luma``, the clip's mean grey value, after brightness.
    """
    factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths[:3]]
    brightness, contrast, saturation = factors
    colour = hue_turn(rng.uniform(-strengths[3], strengths[3])) @ luma_mix(saturation)
    offset = np.full(3, (1 - contrast) * brightness * mean_luma)
    return colour * (brightness * contrast), colour @ offset


def recolour(
    clips_BCTHW: Tensor, matrices: Sequence[Matrix], offsets: Sequence[NDArray[np.float64]]
) -> Tensor:
    """Return each clip's colours through its matrix and offset, cut to [0, 1]."""
    matrix_BCC = torch.as_tensor(np.stack(matrices), dtype=torch.float32, device=clips_BCTHW.device)
    offset_BC1 = torch.as_tensor(np.stack(offsets), dtype=torch.float32, device=clips_BCTHW.device)
    flat_BCP = clips_BCTHW.flatten(2)
    changed = torch.baddbmm(offset_BC1[:, :, None], matrix_BCC, flat_BCP)
    return changed.clamp_(0.0, 1.0).view_as(clips_BCTHW)


def blur(clip_CTHW: Tensor, sigma_px: float) -> Tensor:
    """Return the clip blurred by a Gaussian, frame by frame, borders mirrored."""
    radius = max(1, min(math.ceil(2.5 * sigma_px), min(clip_CTHW.shape[2:]) - 1))
    grid = torch.arange(-radius, radius + 1, device=clip_CTHW.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (grid / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    frames = clip_CTHW.flatten(0, 1)[:, None]  # each channel of each frame alone: (C * T, 1, H, W)
    frames = F.conv2d(
        F.pad(frames, (radius, radius, 0, 0), mode="reflect"), kernel[None, None, None]
    )
    kernel_column = kernel[None, None, :, None]
    frames = F.conv2d(F.pad(frames, (0, 0, radius, radius), mode="reflect"), kernel_column)
    return frames.view_as(clip_CTHW)
