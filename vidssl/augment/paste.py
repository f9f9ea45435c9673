"""Catch-the-Patch's game: patches of a video move over it, change size, and hide now and then.

Wang et al., "Unsupervised Visual Representation Learning by Tracking Patches in Video", CVPR 2021,
https://arxiv.org/abs/2105.02545, after the rules of the authors' released code. All lengths are in
pixels of a 112-pixel side, whatever the crop; boxes are rounded to such whole pixels and cut at the
picture's edges. A centre never leaves the picture.

The rules leave open, and these are choices: the aspect ratios between 1/2 and 2; that a soft edge
falls linearly over the outer quarter; that the opacity changes linearly between key frames; that
each stretch between key frames draws its own pace. The release pastes before the colour jitter,
which is the same for a patch of the same video but for rounding.

Tensor suffixes: B clips, K patches, C channels, T frames, H and W pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from vidssl.section import Section

SIDE_PX = 112.0
INNER = (0.5, 0.3, 0.2)
"""Probability of 0, 1 and 2 key frames between the first and the last."""
PACES = (0.7, 0.15, 0.15)
"""Of an even, an accelerating and a decelerating stretch."""
OUTLINES = (0.5, 0.35, 0.15)
"""Of a rectangle, an ellipse and a rhombus."""
EDGE = 0.25
STREAM = 0xC1B
"""Keeps the game's draws apart from those of augmentation, which have the same seed."""

DRAWS = 31
"""Numbers that a patch is drawn from, besides one a frame for hiding."""

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Window = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


class GameConfig(Section):
    """How many patches there are, how large, how fast, and how often they hide."""

    patches: PositiveInt = 3
    sizes_px: tuple[PositiveFloat, ...] = (16.0, 24.0, 28.0, 32.0, 48.0, 64.0)
    aspects: tuple[PositiveFloat, ...] = (1 / 2, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 2.0)
    """Width over height."""
    size_jitter: NonNegativeFloat = 0.18
    """Greatest change of the logarithm of either side."""
    speed_px: NonNegativeFloat = 3.0
    """Greatest movement a frame along either axis, on average between two key frames."""
    growth: NonNegativeFloat = 0.025
    """The same for the logarithm of either side."""
    hidden: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Probability that a frame does not show a patch; the first and its source always do."""


@dataclass(frozen=True)
class Game:
    """The draw of B clips; the patch that is pasted first is the largest."""

    boxes: Tensor
    """``(B, K, T, 4)``, normalised x1 y1 x2 y2."""
    source: Tensor
    """``(B, K)``, the frame that a patch is cut from, at its box there."""
    opacity: Tensor
    """``(B, K, T)`` of the patch; 0 in frames that do not show it."""
    outline: Tensor
    """``(B, K)``: 0 a rectangle, 1 an ellipse, 2 a rhombus."""
    soft: Tensor
    """``(B, K)``, whether the edge is soft."""

    def to(self, device: torch.device) -> "Game":
        """Return the game on a device."""
        return self._each(lambda values: values.to(device))

    def of(self, clips: slice) -> "Game":
        """Return the game of some clips."""
        return self._each(lambda values: values[clips])

    def reordered(self, order_BK: Tensor) -> "Game":
        """Return the game with the patches of each clip in another order."""
        clips_B1 = torch.arange(len(order_BK))[:, None]
        return self._each(lambda values: values[clips_B1, order_BK])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Game":
        return Game(*(change(getattr(self, field.name)) for field in fields(self)))


def draw_games(seeds: Sequence[int], frames: int, config: GameConfig) -> Game:
    """Return the games of clips of T frames; each follows from its own clip's seed alone.

    Raises:
        ValueError: if there are fewer than two frames, between which something could move.
    """
    if frames < 2:
        raise ValueError(f"expected at least 2 frames for something to move, got {frames}")
    shape = (config.patches, DRAWS + frames)
    u = np.stack([np.random.default_rng([seed, STREAM]).random(shape) for seed in seeds])
    u_BKN, hide_BKT = u[..., :DRAWS], u[..., DRAWS:]
    sides_BK2 = _sides(u_BKN[..., 0:4], config)
    centre_BK2 = sides_BK2 / 2 + u_BKN[..., 4:6] * (SIDE_PX - sides_BK2)
    at, keys = key_frames(
        u_BKN[..., 6:21], np.concatenate([centre_BK2, np.log(sides_BK2)], axis=-1), frames, config
    )
    boxes_BKT4 = _boxes(between_keys(at, keys, _chosen(u_BKN[..., 21:24], PACES), frames))
    opacity_BKT = between_keys(at, 0.8 + 0.2 * u_BKN[..., 24:28, None], None, frames)[..., 0]
    source_BK = (u_BKN[..., 28] * frames).astype(np.int64)
    shown_BKT = hide_BKT >= config.hidden
    shown_BKT[..., 0] = True
    np.put_along_axis(shown_BKT, source_BK[..., None], True, axis=-1)
    area_BK = np.prod(boxes_BKT4[:, :, 0, 2:] - boxes_BKT4[:, :, 0, :2], axis=-1)
    game = Game(
        torch.from_numpy(boxes_BKT4 / SIDE_PX).float(),
        torch.from_numpy(source_BK),
        torch.from_numpy(opacity_BKT * shown_BKT).float(),
        torch.from_numpy(_chosen(u_BKN[..., 29], OUTLINES)),
        torch.from_numpy(u_BKN[..., 30] < 0.5),
    )
    return game.reordered(torch.from_numpy(np.argsort(-area_BK, axis=1, kind="stable")))


def paste(clips_BCTHW: Tensor, game: Game) -> Tensor:
    """Return the clips with their patches, ``(1 - alpha) * clip + alpha * patch`` one by one.

    Patches are cut from the clips as they came, and resized bilinearly.
    """
    game, pasted = game.to(clips_BCTHW.device), clips_BCTHW.clone()
    if pasted.is_cuda:
        _paste_into(pasted, clips_BCTHW, game, (0, 0, pasted.shape[4], pasted.shape[3]))
        return pasted
    for clip in range(len(pasted)):  # a CPU is quicker with the few pixels that a patch reaches
        one = slice(clip, clip + 1)
        _paste_into(pasted[one], clips_BCTHW[one], game.of(one), None)
    return pasted


def _paste_into(
    pasted_BCTHW: Tensor, clips_BCTHW: Tensor, game: Game, window_px: Window | None
) -> None:
    """Paste all patches, the pixels of the window alone; None is where a patch ever is."""
    for patch in range(game.source.shape[1]):
        boxes_BT4 = game.boxes[:, patch]
        window = window_px or _reach(boxes_BT4, clips_BCTHW.shape[3:])
        left, top, right, bottom = window
        alpha_BTHW = alphas(game, patch, clips_BCTHW.shape[3:], window)
        part_BCTHW = pasted_BCTHW[..., top:bottom, left:right]
        patch_BCTHW = cut(clips_BCTHW, game, patch, window)
        part_BCTHW.lerp_(patch_BCTHW, alpha_BTHW[:, None].to(patch_BCTHW.dtype))


def alphas(game: Game, patch: int, size: Sequence[int], window_px: Window) -> Tensor:
    """Return the opacity of one patch in the pixels of a window, ``(B, T, H, W)``.

    ``size`` is the frames' (height, width). A pixel is what its centre is.
    """
    across_BTW, down_BTH = _inside(game.boxes[:, patch], size, window_px)
    x, y = (2 * across_BTW - 1).abs()[:, :, None, :], (2 * down_BTH - 1).abs()[:, :, :, None]
    outline = game.outline[:, patch, None, None, None]
    # How far out a pixel lies: 0 in the middle of the patch, 1 on its edge.
    out = torch.where(outline == 1, (x.square() + y.square()).sqrt(), torch.maximum(x, y))
    out = torch.where(outline == 2, x + y, out)
    soft = game.soft[:, patch, None, None, None]
    shape = torch.where(soft, ((1 - out) / EDGE).clamp(0, 1), (out <= 1).float())
    return shape * game.opacity[:, patch, :, None, None]


def cut(clips_BCTHW: Tensor, game: Game, patch: int, window_px: Window) -> Tensor:
    """Return the pixels of a window of one patch resized to its boxes, ``(B, C, T, H, W)``.

    Outside the box its edge goes on; nothing beside the source box gets in.
    """
    B, C, T, H, W = clips_BCTHW.shape
    clips = torch.arange(B, device=clips_BCTHW.device)
    source_B = game.source[:, patch]
    box_B4 = game.boxes[clips, patch, source_B]
    across_BTW, down_BTH = _inside(game.boxes[:, patch], (H, W), window_px)
    x_BTW = _read_at(across_BTW, box_B4[:, 0], box_B4[:, 2], W)
    y_BTH = _read_at(down_BTH, box_B4[:, 1], box_B4[:, 3], H)
    size = (B, T, y_BTH.shape[2], x_BTW.shape[2])
    grid = torch.stack(
        [x_BTW[:, :, None, :].expand(size), y_BTH[:, :, :, None].expand(size)], dim=-1
    )
    frames_BCHW = clips_BCTHW[clips, :, source_B]
    read = F.grid_sample(
        frames_BCHW,
        grid.flatten(1, 2).to(frames_BCHW.dtype),
        padding_mode="border",
        align_corners=False,
    )
    return read.view(B, C, *size[1:])


def _reach(boxes_BT4: Tensor, size: Sequence[int]) -> Window:
    """Return the pixels that any of the boxes touches, in frames of (height, width)."""
    height, width = size
    low, high = boxes_BT4.flatten(0, 1).amin(dim=0), boxes_BT4.flatten(0, 1).amax(dim=0)
    left, top = int(low[0] * width), int(low[1] * height)
    return left, top, math.ceil(float(high[2]) * width), math.ceil(float(high[3]) * height)


def _inside(boxes_BT4: Tensor, size: Sequence[int], window_px: Window) -> tuple[Tensor, Tensor]:
    """Return where a window's columns ``(B, T, W)`` and rows ``(B, T, H)`` lie in a box.

    0 to 1 is inside.
    """
    shares = []
    for axis, pixels in ((0, size[1]), (1, size[0])):
        places = torch.arange(window_px[axis], window_px[axis + 2], device=boxes_BT4.device)
        low, high = boxes_BT4[:, :, axis, None], boxes_BT4[:, :, axis + 2, None]
        shares.append(((places + 0.5) / pixels - low) / (high - low))
    return shares[0], shares[1]


def _read_at(share_BTN: Tensor, low_B: Tensor, high_B: Tensor, pixels: int) -> Tensor:
    """Return the places in the source box that are read, in the [-1, 1] of ``grid_sample``."""
    low, high = low_B[:, None, None], high_B[:, None, None]
    half = torch.minimum((high - low) / 2, torch.full_like(low, 0.5 / pixels))
    at = torch.clamp(low + share_BTN * (high - low), low + half, high - half)
    return 2 * at - 1


# --- the draw, from numbers uniform in [0, 1)


def key_frames(
    u_BKN: Array, first_BK4: Array, frames: int, config: GameConfig
) -> tuple[Array, Array]:
    """Return when the four key frames of a patch are, and centre and log sides there.

    ``(B, K, 4)`` and ``(B, K, 4, 4)``; where there are fewer, the last one repeats.
    """
    inner_BK1 = _chosen(u_BKN[..., 0], INNER)[..., None]
    length = (frames - 1) / (inner_BK1 + 1)
    jitter = np.zeros((*first_BK4.shape[:2], 4))
    jitter[..., 1:3] = (2 * u_BKN[..., 1:3] - 1) / 3
    number = np.arange(4)
    at_BK4 = np.where(number > inner_BK1, frames - 1.0, (number + jitter) * length)
    most = np.array([config.speed_px] * 2 + [config.growth] * 2)
    keys = [first_BK4]
    for stretch, gap_BK in enumerate(np.moveaxis(np.diff(at_BK4), -1, 0)):
        moved = (2 * u_BKN[..., 3 + 4 * stretch : 7 + 4 * stretch] - 1) * most
        key_BK4 = keys[-1] + moved * gap_BK[..., None]
        key_BK4[..., :2] = np.clip(key_BK4[..., :2], 0, SIDE_PX)
        keys.append(key_BK4)
    return at_BK4, np.stack(keys, axis=2)


def between_keys(at_BK4: Array, keys: Array, paces_BK3: Numbers | None, frames: int) -> Array:
    """Return the values ``(B, K, 4, D)`` of key frames in every frame, ``(B, K, T, D)``.

    A stretch between two goes evenly (0, or no paces given), accelerates (1) or slows down (2).
    """
    now_T = np.arange(frames)
    stretch_BKT = (now_T > at_BK4[:, :, 1:3, None]).sum(axis=2)
    gap_BKT = np.take_along_axis(np.diff(at_BK4), stretch_BKT, axis=2)
    begun_BKT = np.take_along_axis(at_BK4, stretch_BKT, axis=2)
    share = np.divide(now_T - begun_BKT, gap_BKT, out=np.ones_like(gap_BKT), where=gap_BKT > 0)
    if paces_BK3 is not None:
        pace = np.take_along_axis(paces_BK3, stretch_BKT, axis=2)
        share = np.choose(pace, [share, share**2, 1 - (1 - share) ** 2])
    before = np.take_along_axis(keys, stretch_BKT[..., None], axis=2)
    after = np.take_along_axis(keys, stretch_BKT[..., None] + 1, axis=2)
    return np.asarray(before + (after - before) * share[..., None])


def _sides(u_BK4: Array, config: GameConfig) -> Array:
    """Return width and height of a patch in pixels, ``(B, K, 2)``."""
    size = np.asarray(config.sizes_px)[(u_BK4[..., 0] * len(config.sizes_px)).astype(np.int64)]
    aspect = np.asarray(config.aspects)[(u_BK4[..., 1] * len(config.aspects)).astype(np.int64)]
    sides = np.stack([size * np.sqrt(aspect), size / np.sqrt(aspect)], axis=-1)
    return np.asarray(
        np.minimum(sides * np.exp(config.size_jitter * (2 * u_BK4[..., 2:4] - 1)), SIDE_PX)
    )


def _boxes(tracks: Array) -> Array:
    """Return boxes from centres and log sides, rounded, cut at the edges, at least a pixel."""
    half = np.exp(tracks[..., 2:]) / 2
    low, high = np.round(tracks[..., :2] - half), np.round(tracks[..., :2] + half)
    low = np.clip(low, 0, SIDE_PX - 1)
    return np.concatenate([low, np.clip(high, low + 1, SIDE_PX)], axis=-1)


def _chosen(u: Array, shares: Sequence[float]) -> Numbers:
    """Return numbers from 0 on, each as often as its share."""
    return np.searchsorted(np.cumsum(shares)[:-1], u, side="right")
