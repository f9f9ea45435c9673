"""Mixtures of the clips of a batch: mixup and CutMix with their labels, and Un-Mix without any.

Zhang et al., 2018, https://arxiv.org/abs/1710.09412; Yun et al., 2019,
https://arxiv.org/abs/1905.04899. As in torchvision each clip is mixed with the one before it in the
batch, and one draw serves the whole batch; a box of CutMix is the same in all frames.

Un-Mix, Shen et al., AAAI 2022, https://arxiv.org/abs/2003.05438: each query is mixed with that of
the batch in reverse, and is as near to both clips' keys as it holds of them; see
:func:`of_both`. As in the authors' code one draw serves the batch, and a mixed clip goes through
the encoder in training mode, so that its running statistics see mixtures too. For video, ours: the
box is the same in all frames, and ``region: time`` swaps a run of frames. The middle clip of an odd
batch is mixed with itself. Every process reverses the clips that it has itself: what is mixed with
what therefore depends on the number of processes.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from vidssl.section import Section

UNMIX = 0x756D
"""Tells Un-Mix's draws from all others that come from the same seed and step."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class Mix:
    """The share that a clip keeps; with a box (left, top, right, bottom), pixels change inside.

    With ``frames``, first and one past the last, whole frames change instead.
    """

    keep: float
    box_px: tuple[int, int, int, int] | None = None
    frames: tuple[int, int] | None = None


class UnmixConfig(Section):
    """Un-Mix; a step that uses it costs one more pass of the queries, about half as much again."""

    prob: Share = 0.0
    """Probability that a step uses it."""
    global_share: Share = 0.5
    """Share of such steps that mix whole clips; the others swap a region."""
    beta: PositiveFloat = 1.0
    """Of Beta(beta, beta), from which the share that a clip keeps is drawn."""
    region: Literal["space", "time"] = "space"
    """``space``: the same box in every frame; ``time``: a run of whole frames."""

    def draw(self, seed: int, step: int, clips_BCTHW: Tensor) -> Mix | None:
        """Return the mix of a step, equal on all processes, or None if the step has none.

        The share kept is that of the pixels that stay: a box is cut at the picture's edges.
        """
        rng = np.random.default_rng([seed, step, UNMIX])
        if rng.random() >= self.prob:
            return None
        whole = rng.random() < self.global_share
        keep = float(rng.beta(self.beta, self.beta))
        if whole:
            return Mix(keep)
        frames, height, width = clips_BCTHW.shape[-3:]
        if self.region == "space":
            return _boxed(rng, keep, (height, width))
        taken = round((1 - keep) * frames)
        first = int(rng.integers(frames - taken + 1))
        return Mix(1 - taken / frames, frames=(first, first + taken))


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
    return _boxed(rng, keep, size)


def soft_labels(labels_B: Tensor, classes: int) -> Tensor:
    """Return class numbers as shares, ``(B, K)``: 1 for the class, 0 for all others."""
    return F.one_hot(labels_B, classes).to(torch.float32)


def mix_clips(clips: Tensor, mix: Mix) -> Tensor:
    """Return clips ``(B, ..., H, W)`` mixed with the clip before each, the first with the last."""
    return _mixed(clips, clips.roll(1, 0), mix)


def mix_reversed(clips_BCTHW: Tensor, mix: Mix) -> Tensor:
    """Return clips mixed with those of the batch in reverse: the first with the last."""
    return _mixed(clips_BCTHW, clips_BCTHW.flip(0), mix)


def of_both(loss: Callable[[Tensor], Tensor], mixed_BD: Tensor, mix: Mix) -> Tensor:
    """Return Un-Mix's loss of mixed queries: ``loss``, by the share kept, against both clips.

    Features of the batch in reverse are those of the mirrored mixture: what was taken is kept.
    """
    return mix.keep * loss(mixed_BD) + (1 - mix.keep) * loss(mixed_BD.flip(0))


def mix_labels(labels_BK: Tensor, mix: Mix) -> Tensor:
    """Return the shares of the classes in clips that were mixed, ``(B, K)``."""
    return labels_BK.roll(1, 0).mul_(1 - mix.keep).add_(labels_BK, alpha=mix.keep)


def _boxed(rng: np.random.Generator, keep: float, size: tuple[int, int]) -> Mix:
    """Return a mix by a box anywhere in a picture of ``size``, (height, width), cut at its edges.

    The box has the share ``1 - keep`` before it is cut.
    """
    height, width = size
    x, y = int(rng.integers(width)), int(rng.integers(height))
    half = 0.5 * math.sqrt(1 - keep)
    across, down = int(half * width), int(half * height)
    left, right = max(0, x - across), min(width, x + across)
    top, bottom = max(0, y - down), min(height, y + down)
    share = 1 - (right - left) * (bottom - top) / (width * height)
    return Mix(share, (left, top, right, bottom))


def _mixed(clips: Tensor, others: Tensor, mix: Mix) -> Tensor:
    """Return a new tensor: ``clips`` with a part of ``others``, which may be overwritten."""
    if mix.frames is not None:
        first, end = mix.frames
        mixed = clips.clone()
        mixed[..., first:end, :, :] = others[..., first:end, :, :]
        return mixed
    if mix.box_px is None:
        return others.mul_(1 - mix.keep).add_(clips, alpha=mix.keep)
    left, top, right, bottom = mix.box_px
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed
