"""Catch-the-Patch: tell where patches that were pasted into a video go to, and how they grow.

Wang et al., "Unsupervised Visual Representation Learning by Tracking Patches in Video", CVPR 2021,
https://arxiv.org/abs/2105.02545, after the authors' released code; the game itself is
``vidssl.augment.paste``. No negatives, no second network: what is learned is motion, and little of
appearance.

Differences: the released head is tied to the number of frames, by a convolution over all T' steps
of the map and a regressor of T * 4 numbers. Here any T goes: a convolution over three neighbouring
steps, to which the clip's mean and first step are added, and each step of the map tells the changes
over its own ``temporal_stride`` frames, summed up from the first frame on; so a patch has not moved
in the first frame, by construction. A change is told as a share of the game's greatest, where the
release's layer has to grow to the size of its targets. Boxes are read in pixels of a 112-pixel side
whatever the crop, so a target does not depend on it. The mean of a term is over boxes, frames and
both coordinates.

Tensor suffixes: B clips, K patches, T frames, C, D features, T', H and W steps and cells of a map.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from torchvision.ops import roi_align

from vidssl.augment.paste import SIDE_PX, GameConfig, draw_games, paste
from vidssl.backbones import Encoder
from vidssl.errors import RecipeError
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.health import spread

ROI = 5
CENTRE_STD, SIZE_STD = 0.8, 0.04
"""What differences of centres in pixels, and of logarithms of sides, are divided by."""


class Config(MethodConfig):
    """The game, and the width of the head."""

    name: Literal["ctp"] = "ctp"
    game: GameConfig = GameConfig()
    hidden: PositiveInt = 512
    """Channels of the convolution over time, and features of the layer after the RoIs."""

    def build(self, encoder: Encoder) -> "CtP":
        """Return the method around ``encoder``."""
        return CtP(encoder, self)

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with patches pasted, and ``boxes`` ``(B, K, T, 4)`` as targets.

        Raises:
            ValueError: if clips are of a single frame.
        """
        clips_BCTHW = batch.views[0]
        game = draw_games(batch.seeds, clips_BCTHW.shape[2], self.game)
        boxes = game.boxes.to(clips_BCTHW.device)
        return replace(batch, views=(paste(clips_BCTHW, game),), targets={"boxes": boxes})

    def require_map(self, clips: torch.Size, map_: torch.Size) -> None:
        """Refuse clips of a single frame, and a map of a single cell, which knows no places."""
        if clips[2] < 2:
            raise RecipeError(
                f"method ctp: a patch moves from frame to frame; expected backbone.frames of at "
                f"least 2, found {clips[2]}"
            )
        if min(map_[3:]) < 2:
            raise RecipeError(
                f"method ctp: the backbone's map of {clips[3]} x {clips[4]} pixels is {map_[3]} x "
                f"{map_[4]} cells, too few to follow a patch; take a larger augment.crop_px, or "
                "backbone.form: detection where the backbone has it"
            )


class CtP(SSLMethod):
    """One clip, an encoder, and a head that follows each box of the first frame."""

    collapse_causes: ClassVar[str] = (
        "a rate that is too high (a lower optim.lr or optim.clip_grad_norm), or patches that are "
        "too small or too still to be followed (method.game), so that guessing no movement is best"
    )
    num_views = 1
    greatest: Tensor

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        width, hidden = encoder.features, config.hidden
        self.near = nn.Conv3d(width, hidden, (3, 1, 1), padding=(1, 0, 0))
        self.whole = nn.Conv3d(2 * width, hidden, 1, bias=False)
        self.region = nn.Linear(hidden * ROI * ROI, hidden)
        self.changes = nn.Linear(hidden, encoder.temporal_stride * 4)
        # The head tells a frame's changes as shares of the game's greatest.
        game = config.game
        greatest = [game.speed_px / CENTRE_STD] * 2 + [game.growth / SIZE_STD] * 2
        self.register_buffer("greatest", torch.tensor(greatest), persistent=False)
        nn.init.zeros_(self.changes.bias)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss; ``centre_error`` is 1 for a guess that patches never move.

        Raises:
            ValueError: if the batch has not been through ``prepare``.
        """
        if "boxes" not in batch.targets:
            raise ValueError("expected targets['boxes']; Config.prepare makes them")
        boxes_BKT4 = batch.targets["boxes"]
        map_BCTHW = self.encoder.maps(batch.views[0])
        found = self.follow(map_BCTHW, boxes_BKT4[:, :, 0], batch.views[0])
        found_BKT4 = found[:, :, : boxes_BKT4.shape[2]]
        wanted_BKT4 = encode(boxes_BKT4)
        centre = F.smooth_l1_loss(found_BKT4[..., :2], wanted_BKT4[..., :2])
        size = F.smooth_l1_loss(found_BKT4[..., 2:], wanted_BKT4[..., 2:])
        scalars = {"centre": centre.detach(), "size": size.detach()}
        if batch.watched:
            scalars |= spread(map_BCTHW.detach().mean(dim=(2, 3, 4)))
            scalars["centre_error"] = centre_error(found_BKT4.detach(), wanted_BKT4)
        return StepOutput(centre + size, scalars)

    def follow(self, map_BCTHW: Tensor, first_BK4: Tensor, clips_BCTHW: Tensor) -> Tensor:
        """Return codes as :func:`encode` makes them, ``(B, K, T' * temporal_stride, 4)``."""
        over_time = torch.stack([map_BCTHW.mean(dim=2), map_BCTHW[:, :, 0]], dim=1)
        whole = self.whole(over_time.flatten(1, 2)[:, :, None])
        dense_BDTHW = F.relu(self.near(map_BCTHW) + whole)
        regions = self._regions(dense_BDTHW, first_BK4, clips_BCTHW)
        shares = self.changes(F.relu(self.region(regions))).float()
        B, K = first_BK4.shape[:2]
        steps = dense_BDTHW.shape[2]
        changes = shares.view(B, steps, K, -1, 4) * self.greatest
        summed = changes.transpose(1, 2).flatten(2, 3).cumsum(dim=2)
        moved: Tensor = summed - summed[:, :, :1]
        return moved

    def _regions(self, dense_BDTHW: Tensor, first_BK4: Tensor, clips_BCTHW: Tensor) -> Tensor:
        """Return what the first frame's boxes cover in each step, ``(B * T' * K, D * 25)``."""
        steps = dense_BDTHW.shape[2]
        height, width = clips_BCTHW.shape[3:]
        cells = first_BK4.new_tensor([width, height, width, height]) / self.encoder.spatial_stride
        boxes = (first_BK4 * cells).repeat_interleave(steps, dim=0)
        frames = dense_BDTHW.transpose(1, 2).flatten(0, 1).float()
        cells_NDRR: Tensor = roi_align(frames, list(boxes), ROI, sampling_ratio=2, aligned=True)
        return cells_NDRR.flatten(1)


def encode(boxes_BKT4: Tensor) -> Tensor:
    """Return how boxes differ from the first of each track, ``(B, K, T, 4)``.

    The movement of the centre in pixels of a 112-pixel side, x and y, and the logarithms of how
    many times as wide and as high, over their standard deviations.
    """
    centre, side = _centres_and_sides(boxes_BKT4)
    moved = (centre - centre[:, :, :1]) * SIDE_PX / CENTRE_STD
    return torch.cat([moved, (side / side[:, :, :1]).log() / SIZE_STD], dim=-1)


def decode(codes_BKT4: Tensor, first_BK4: Tensor) -> Tensor:
    """Return the boxes that :func:`encode` makes these codes of, normalised x1 y1 x2 y2."""
    centre, side = _centres_and_sides(first_BK4[:, :, None])
    centre = centre + codes_BKT4[..., :2] * CENTRE_STD / SIDE_PX
    half = side * (codes_BKT4[..., 2:] * SIZE_STD).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def centre_error(found_BKT4: Tensor, wanted_BKT4: Tensor) -> Tensor:
    """Return how far off centres are in the last frame, over how far off unmoved ones would be."""
    off = (found_BKT4 - wanted_BKT4)[:, :, -1, :2].norm(dim=-1).mean()
    stays: Tensor = wanted_BKT4[:, :, -1, :2].norm(dim=-1).mean().clamp(min=1e-6)
    error: Tensor = off / stays
    return error


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
