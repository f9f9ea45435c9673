"""Colour changes of a batch of clips: one draw a clip, shared by its frames.

Each change is torchvision's (``torchvision.transforms.v2.functional`` on float frames), frame by
frame, to 1e-5: brightness, contrast (towards the mean grey value of each frame), saturation, hue
in HSV, grey. Changes in a row are composed and carried out in one pass; between two of them there
is a pass of its own only where the first may have left [0, 1], which torchvision cuts off.

Tensor suffixes: B clips, C channels, T frames, H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.nn.changes import LUMA, luma

CHUNK = 2**17
"""Pixels turned in hue at a time on a CPU, so that what lies between stays in its cache."""
GPU_CHUNK = 2**25
"""The same on a GPU, so that what lies between takes about a gigabyte at most."""

Order = Literal["fixed", "random"]
_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Jitter:
    """One draw of the colour jitter: three factors, and hue in turns."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[int, ...] = (0, 1, 2, 3)
    """The fields above by number, in the order in which they are applied."""


def draw_jitter(
    rng: np.random.Generator, strengths: Sequence[float], order: Order = "fixed"
) -> Jitter:
    """Return a jitter of the given strengths of brightness, contrast, saturation and hue.

    Each factor is uniform in ``[max(0, 1 - s), 1 + s]``, hue in ``[-s, s]`` turns.
    """
    brightness, contrast, saturation = (rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths[:3])
    hue = rng.uniform(-strengths[3], strengths[3])
    if order == "fixed":
        return Jitter(brightness, contrast, saturation, hue)
    turn = tuple(int(place) for place in rng.permutation(4))
    return Jitter(brightness, contrast, saturation, hue, turn)


def recolour(
    clips_BCTHW: Tensor,
    jitters: Sequence[Jitter | None],
    greys: Sequence[bool],
    *,
    white: float = 1.0,
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Return the clips jittered, then grey where asked, as ``(x - mean) / std`` of x in [0, 1].

    ``clips_BCTHW`` are floats from 0 to ``white``; they are overwritten.
    """
    pending = _Pending(clips_BCTHW, white)
    draws = [jitter or Jitter() for jitter in jitters]
    grey_B = np.array(greys, dtype=bool)
    for place in range(4):
        # What is not this clip's turn at this place changes nothing.
        changes = np.tile([1.0, 1.0, 1.0, 0.0], (len(draws), 1))
        for change, draw in zip(changes, draws, strict=True):
            field = draw.order[place]
            change[field] = (draw.brightness, draw.contrast, draw.saturation, draw.hue)[field]
        pending.brighten(changes[:, 0])
        pending.contrast(changes[:, 1])
        pending.saturate(changes[:, 2])
        pending.turn(changes[:, 3])
    pending.saturate(np.where(grey_B, 0.0, 1.0))
    pending.flush(mean, std)
    return clips_BCTHW


def turn_hue(clips_BCTHW: Tensor, turns: Sequence[float]) -> Tensor:
    """Return the clips with hue turned by shares of a full turn, as in HSV; they are overwritten.

    Value and saturation stay. Floats of any range: a common factor and offset of the three
    channels leaves hue alone. Grey stays as it is.
    """
    turns_B = torch.tensor([turn % 1.0 for turn in turns], dtype=torch.float32)
    turns_B = turns_B.to(clips_BCTHW.device)[:, None, None, None]
    count, _, frames, height, width = clips_BCTHW.shape
    chunk = GPU_CHUNK if clips_BCTHW.is_cuda else CHUNK
    step = max(1, chunk // (count * height * width))
    for start in range(0, frames, step):
        _turn_hue(clips_BCTHW[:, :, start : start + step], turns_B)
    return clips_BCTHW


def solarise(clips: Tensor, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Return the clips with everything above one half inverted: of x and 1 - x, the darker.

    ``clips`` are ``(x - mean) / std`` of x in [0, 1], and so is the result.
    """
    return torch.minimum(clips, (1 - 2 * mean) / std - clips)


class _Pending:
    """Changes of a batch that wait to be carried out together.

    A pixel's channel x of grey value L becomes ``scale * x + weight * L + offset``: brightness,
    contrast, saturation and grey all have that form, and so does one after another.
    """

    def __init__(self, clips_BCTHW: Tensor, white: float) -> None:
        self.clips = clips_BCTHW
        self._start()
        self.scale_B /= white

    def _start(self) -> None:
        count = len(self.clips)
        self.scale_B: _Numbers = np.ones(count)
        self.weight_B: _Numbers = np.zeros(count)
        self.offset_BT = self.clips.new_zeros(count, self.clips.shape[2])
        self.cut = False  # whether a value may lie outside [0, 1]

    def brighten(self, factors_B: _Numbers) -> None:
        if (factors_B == 1).all():
            return
        self._cut_off()
        self._compose(factors_B, 0.0 * factors_B)

    def contrast(self, factors_B: _Numbers) -> None:
        if (factors_B == 1).all():
            return
        self._cut_off()
        grey_BT = self._mean_luma() * self._device(1 - factors_B)[:, None]
        self._compose(factors_B, 0.0 * factors_B)
        self.offset_BT = self.offset_BT + grey_BT

    def saturate(self, factors_B: _Numbers) -> None:
        if (factors_B == 1).all():
            return
        self._cut_off()
        self._compose(factors_B, 1 - factors_B)

    def turn(self, turns_B: _Numbers) -> None:
        if not turns_B.any():
            return
        self._cut_off()
        if self.weight_B.any():
            self.flush()
        # A factor and an offset that the channels share may as well come after it.
        turn_hue(self.clips, turns_B.tolist())

    def flush(self, mean: float = 0.0, std: float = 1.0) -> None:
        """Carry out what is pending, then ``(x - mean) / std``."""
        cut = self.cut
        red_BTHW, green_BTHW, blue_BTHW = self.clips.unbind(1)
        offset_BT11 = ((self.offset_BT - mean) / std)[:, :, None, None]
        scale_B, weight_B = self.scale_B / std, self.weight_B / std
        if len(self.clips) == 1:  # numbers that the host knows spare a pass each
            grey = offset_BT11
            if weight_B.any():
                shares = [float(weight_B[0]) * share for share in LUMA]
                grey = torch.add(grey, red_BTHW, alpha=shares[0])
                grey.add_(green_BTHW, alpha=shares[1]).add_(blue_BTHW, alpha=shares[2])
            torch.add(grey[:, None], self.clips, alpha=float(scale_B[0]), out=self.clips)
        else:
            grey = offset_BT11
            if weight_B.any():
                grey = luma(self.clips).mul_(self._device(weight_B)[:, None, None, None]).add_(grey)
            self.clips.mul_(self._device(scale_B)[:, None, None, None, None]).add_(grey[:, None])
        if cut:
            self.clips.clamp_((0 - mean) / std, (1 - mean) / std)
        self._start()

    def _cut_off(self) -> None:
        if self.cut:
            self.flush()

    def _compose(self, keep_B: _Numbers, grey_B: _Numbers) -> None:
        """Let ``keep`` times the value and ``grey`` times its grey value follow."""
        total = sum(LUMA)
        self.weight_B = keep_B * self.weight_B + grey_B * (self.scale_B + self.weight_B * total)
        self.scale_B = keep_B * self.scale_B
        self.offset_BT = self.offset_BT * self._device(keep_B + grey_B * total)[:, None]
        self.cut = bool((keep_B > 1).any())

    def _mean_luma(self) -> Tensor:
        """Return each frame's mean grey value, after what is pending, ``(B, T)``."""
        total = sum(LUMA)
        kept_B = self._device(self.scale_B + self.weight_B * total)
        return kept_B[:, None] * luma(self.clips.mean(dim=(3, 4))) + total * self.offset_BT

    def _device(self, values_B: _Numbers) -> Tensor:
        return torch.from_numpy(values_B).to(self.clips.device, torch.float32)


def _turn_hue(clips_BCTHW: Tensor, turns: Tensor) -> None:
    """Turn hue in place.

    With V the greatest and m the least channel, red is ``m + (V - m) * clamp(|6 h - 3| - 1, 0, 1)``
    and green and blue ``m + (V - m) * clamp(2 - |6 h - n|, 0, 1)`` for n of 2 and 4. Conditions are
    kept as floats, 0 or 1: selecting by a mask takes longer than all the rest.
    """
    red, green, blue = clips_BCTHW.unbind(1)
    blue_over_green = torch.lt(green, blue, out=torch.empty_like(red))
    high, low = torch.maximum(green, blue), torch.minimum(green, blue)
    red_trails = torch.lt(red, high, out=torch.empty_like(red))
    middle = torch.minimum(red, high)
    high = torch.maximum(red, high, out=high)
    least = torch.minimum(middle, low)
    chroma = high.sub_(least)

    # 6 h = |z + (middle - low) / chroma|. Where red leads, z is -6 if blue comes second and else
    # 0; where red trails, 4 if blue leads and else -2.
    hue = middle.sub_(low).div_(torch.clamp(chroma, min=1e-12, out=low))
    hue.add_(red_trails, alpha=-2.0)
    hue.add_(blue_over_green, alpha=-6.0)
    hue.add_(blue_over_green.mul_(red_trails), alpha=12.0)
    hue = torch.add(turns, hue.abs_(), alpha=1 / 6, out=hue).frac_()

    third = red_trails  # memory that is free again
    # A single number may stay on the CPU whatever the device.
    three, two, four = (torch.tensor(number) for number in (-3.0, -2.0, -4.0))
    below = least - chroma  # 1 + f times chroma on top of it is f times chroma on top of the least
    above = torch.add(least, chroma, alpha=2.0, out=low)
    torch.add(three, hue, alpha=6.0, out=third).abs_().clamp_(1.0, 2.0)
    torch.addcmul(below, third, chroma, out=red)
    torch.add(two, hue, alpha=6.0, out=third).abs_().clamp_(1.0, 2.0)
    torch.addcmul(above, third, chroma, value=-1.0, out=green)
    torch.add(four, hue, alpha=6.0, out=third).abs_().clamp_(1.0, 2.0)
    torch.addcmul(above, third, chroma, value=-1.0, out=blue)
