"""Crops, resizes and flips of a clip, and the same for its boxes.

Tensor suffixes: C channels, T frames, H and W pixels, N boxes.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CROP_TRIES = 10


@dataclass(frozen=True)
class View:
    """The part of a picture that is kept, and the size that it is brought to.

    ``left, top, right, bottom`` are normalised by the picture's size; ``flip`` mirrors afterwards.
    Where ``scaled_px`` (height, width) is given, the whole picture is first resized to it and the
    part then cut as it is; otherwise the part is cut first and then resized.
    """

    left: float
    top: float
    right: float
    bottom: float
    height_px: int
    width_px: int
    flip: bool = False
    scaled_px: tuple[int, int] | None = None


def whole(height_px: int, width_px: int, *, flip: bool = False) -> View:
    """Return the view of the whole picture at the given size."""
    return View(0.0, 0.0, 1.0, 1.0, height_px, width_px, flip)


def short_side_size(
    height: int, width: int, short_side_px: int, multiple: int = 1
) -> tuple[int, int]:
    """Return (height, width) with the given short side, both rounded to a multiple."""
    scale = short_side_px / min(height, width)
    sizes = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    return next(sizes), next(sizes)


def random_resized_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    crop_px: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> View:
    """Return a crop of random area share and aspect ratio (width / height, log-uniform).

    The Inception crop: where ten draws do not fit, the largest centred crop of a fitting aspect.
    """
    for _ in range(CROP_TRIES):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w) / width, rng.uniform(0, height - h) / height
            view = View(left, top, left + w / width, top + h / height, crop_px, crop_px)
            return _on_pixels(view, height, width)
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, height * ratio), min(height, width / ratio)
    left, top = (1 - w / width) / 2, (1 - h / height) / 2
    return _on_pixels(View(left, top, 1 - left, 1 - top, crop_px, crop_px), height, width)


def random_crop(
    rng: np.random.Generator, height: int, width: int, *, short_side_px: int, crop_px: int
) -> View:
    """Return a square crop of ``crop_px`` from the picture resized to ``short_side_px``."""
    scale = short_side_px / min(height, width)
    h, w = crop_px / (height * scale), crop_px / (width * scale)
    left, top = rng.uniform(0, max(0.0, 1 - w)), rng.uniform(0, max(0.0, 1 - h))
    view = View(left, top, left + min(w, 1.0), top + min(h, 1.0), crop_px, crop_px)
    return _on_pixels(view, height, width)


def scaled_crop(
    height: int, width: int, *, short_side_px: int, crop_px: int, across: float, down: float
) -> View:
    """Return a square crop of the picture resized to ``short_side_px``, as the peers cut it.

    ``across`` and ``down`` say where it lies: 0 at the left and top, 1 at the right and bottom,
    1/2 in the middle, in whole pixels, halves rounded up as PySlowFast does. The long side is
    rounded down, as torchvision and PySlowFast do.

    Raises:
        ValueError: if the crop is longer than the short side.
    """
    height, width = _scaled(height, width, short_side_px, crop_px)
    left, top = math.ceil((width - crop_px) * across), math.ceil((height - crop_px) * down)
    return _scaled_view(height, width, left, top, crop_px)


def random_scaled_crop(
    rng: np.random.Generator, height: int, width: int, *, short_side_px: int, crop_px: int
) -> View:
    """Return a square crop of the picture resized to ``short_side_px``, any place as likely.

    Unlike :func:`random_crop` it resizes before it cuts, which costs more and is what the peers do.

    Raises:
        ValueError: if the crop is longer than the short side.
    """
    height, width = _scaled(height, width, short_side_px, crop_px)
    left, top = rng.integers(width - crop_px + 1), rng.integers(height - crop_px + 1)
    return _scaled_view(height, width, int(left), int(top), crop_px)


def apply(clip_THWC: Tensor, view: View) -> Tensor:
    """Return the view of a uint8 clip as floats in [0, 1], ``(C, T, height, width)``.

    As :func:`cut`, of which the bytes are divided by 255.
    """
    return cut(clip_THWC, view).permute(1, 0, 2, 3).to(torch.float32).div_(255.0)


def cut(clip_THWC: Tensor, view: View) -> Tensor:
    """Return the view of a uint8 clip, ``(T, C, height, width)``, pixels from 0 to 255.

    The crop is cut at whole pixels and resized bilinearly, antialiased when it shrinks: what
    torchvision's ``resized_crop`` gives. Bytes on a CPU; on a GPU floats that are not rounded.
    """
    clip_TCHW = clip_THWC.permute(0, 3, 1, 2)
    if view.scaled_px is not None:
        clip_TCHW = _resize(clip_TCHW, view.scaled_px)
    height, width = clip_TCHW.shape[2:]
    left, right = _span(view.left, view.right, width)
    top, bottom = _span(view.top, view.bottom, height)
    cut_TCHW = clip_TCHW[:, :, top:bottom, left:right]
    cut_TCHW = _resize(cut_TCHW, (view.height_px, view.width_px))
    return cut_TCHW.flip(3) if view.flip else cut_TCHW


def _scaled(height: int, width: int, short_side_px: int, crop_px: int) -> tuple[int, int]:
    """Return (height, width) with the given short side, the long one rounded down."""
    if crop_px > short_side_px:
        raise ValueError(f"a crop of {crop_px} does not fit a short side of {short_side_px}")
    long_px = int(short_side_px * max(height, width) / min(height, width))
    return (short_side_px, long_px) if height <= width else (long_px, short_side_px)


def _scaled_view(height: int, width: int, left: int, top: int, crop_px: int) -> View:
    right, bottom = (left + crop_px) / width, (top + crop_px) / height
    scaled_px = (height, width)
    return View(left / width, top / height, right, bottom, crop_px, crop_px, scaled_px=scaled_px)


def _resize(clip_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
    if clip_TCHW.shape[2:] == size:
        return clip_TCHW
    if clip_TCHW.is_cuda:  # bytes are resized on the CPU alone
        clip_TCHW = clip_TCHW.to(torch.float32)
    else:  # the CPU's fast path wants the channels of a pixel together and no gaps
        clip_TCHW = clip_TCHW.contiguous(memory_format=torch.channels_last)
    return F.interpolate(clip_TCHW, size, mode="bilinear", antialias=True)


def carry(boxes_N4: Tensor, view: View) -> Tensor:
    """Return normalised boxes in the view's coordinates, cut to it; outside it they have no area.

    As in the AVA loaders of SlowFast, a box outside the crop is clipped, not removed.
    """
    origin = boxes_N4.new_tensor([view.left, view.top] * 2)
    extent = boxes_N4.new_tensor([view.right - view.left, view.bottom - view.top] * 2)
    carried = ((boxes_N4 - origin) / extent).clamp(0.0, 1.0)
    if view.flip:
        left, top, right, bottom = carried.unbind(1)
        carried = torch.stack([1 - right, top, 1 - left, bottom], dim=1)
    return carried


def _on_pixels(view: View, height: int, width: int) -> View:
    """Return the view with edges on whole pixels, where it is cut: boxes then follow exactly."""
    left, right = _span(view.left, view.right, width)
    top, bottom = _span(view.top, view.bottom, height)
    return replace(
        view, left=left / width, top=top / height, right=right / width, bottom=bottom / height
    )


def _span(start: float, end: float, size: int) -> tuple[int, int]:
    """Return whole pixels for a normalised span, at least one."""
    first = min(round(start * size), size - 1)
    return first, max(first + 1, min(round(end * size), size))
