"""Gaussian blur of clips, frame by frame, borders mirrored as torchvision mirrors them.

Equal to ``torchvision.transforms.v2.functional.gaussian_blur`` of the same kernel width to 1e-5.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, K taps of the kernel.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEGLIGIBLE = 1e-7
"""Taps that weigh less than this share of the middle one are left out."""


def radius_px(sigma_px: float, width_px: int | None = None) -> int:
    """Return how many pixels a kernel reaches to either side.

    Of a kernel ``width_px`` wide, which is rounded up to an odd number, half of it; otherwise 2.5
    sigma.
    """
    if width_px is None:
        return max(1, math.ceil(2.5 * sigma_px))
    reach = math.ceil(sigma_px * math.sqrt(-2 * math.log(NEGLIGIBLE)))
    return max(1, min(width_px // 2, reach))


def blur(
    clip_CTHW: Tensor, sigma_px: float, width_px: int | None = None, out: Tensor | None = None
) -> Tensor:
    """Return the clip blurred by a Gaussian of the given deviation.

    The kernel never reaches farther than the picture. ``out`` may be the clip itself.
    """
    height, width = clip_CTHW.shape[2:]
    if clip_CTHW.is_cuda:
        blurred = _by_matrices(clip_CTHW[None], [sigma_px], width_px)[0]
        return blurred if out is None else out.copy_(blurred)
    radius = min(radius_px(sigma_px, width_px), height - 1, width - 1)
    taps = _kernel(sigma_px, radius).tolist()
    blurred = torch.empty_like(clip_CTHW) if out is None else out
    # A channel at a time. Adding shifted pictures takes a fourth of a convolution's time.
    for picture_THW, out_THW in zip(clip_CTHW, blurred, strict=True):
        padded = F.pad(picture_THW[None], (radius,) * 4, mode="reflect")[0]
        rows = _weighted([padded[:, shift : shift + height] for shift in range(len(taps))], taps)
        columns = [rows[:, :, shift : shift + width] for shift in range(len(taps))]
        _weighted(columns, taps, out_THW)
    return blurred


def blur_batch(
    clips_BCTHW: Tensor, sigmas_px: Sequence[float | None], width_px: int | None = None
) -> Tensor:
    """Return each clip blurred by its own deviation, those without one unchanged.

    A few large matrix products, which a GPU prefers to thousands of small steps.
    """
    chosen = [index for index, sigma_px in enumerate(sigmas_px) if sigma_px is not None]
    if not chosen:
        return clips_BCTHW
    sigmas = [sigma_px for sigma_px in sigmas_px if sigma_px is not None]
    where = torch.tensor(chosen, device=clips_BCTHW.device)
    return clips_BCTHW.index_copy(0, where, _by_matrices(clips_BCTHW[where], sigmas, width_px))


def _weighted(
    shifted: Sequence[Tensor], taps: Sequence[float], out: Tensor | None = None
) -> Tensor:
    total = torch.mul(shifted[0], taps[0], out=out)
    for picture, tap in zip(shifted[1:], taps[1:], strict=True):
        total.add_(picture, alpha=tap)
    return total


def _kernel(sigma_px: float, radius: int) -> Tensor:
    grid_K = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel_K = torch.exp(-0.5 * (grid_K / sigma_px) ** 2)
    return kernel_K / kernel_K.sum()


def _by_matrices(clips_BCTHW: Tensor, sigmas_px: Sequence[float], width_px: int | None) -> Tensor:
    height, width = clips_BCTHW.shape[3:]
    reach = [min(radius_px(sigma, width_px), height - 1, width - 1) for sigma in sigmas_px]
    kernels_BK = torch.stack(
        [
            F.pad(_kernel(sigma, radius), (max(reach) - radius,) * 2)
            for sigma, radius in zip(sigmas_px, reach, strict=True)
        ]
    ).to(clips_BCTHW)
    down, across = _banded(kernels_BK, height), _banded(kernels_BK, width)
    lines = clips_BCTHW.reshape(len(clips_BCTHW), -1, width) @ across.transpose(1, 2)
    return down[:, None, None] @ lines.view_as(clips_BCTHW)


def _banded(kernels_BK: Tensor, size: int) -> Tensor:
    """Return the matrices ``(B, size, size)`` that blur a line of pixels, its ends mirrored."""
    count, taps = kernels_BK.shape
    places = torch.arange(size, device=kernels_BK.device)
    shifts = torch.arange(taps, device=kernels_BK.device) - taps // 2
    source = (places[:, None] + shifts).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    weights = kernels_BK[:, None].expand(count, size, taps)
    matrices = kernels_BK.new_zeros(count, size, size)
    return matrices.scatter_add_(2, source.expand(count, size, taps), weights)
