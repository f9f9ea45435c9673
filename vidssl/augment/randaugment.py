"""RandAugment of clips: the same operations with the same magnitudes for all frames.

Cubuk et al., 2020, https://arxiv.org/abs/1909.13719, with torchvision's table of operations and
31 magnitudes, which differs from the paper's and from timm's. The operations are torchvision's own,
applied to the frames together; none of them lets one frame depend on another.

Tensor suffixes: C channels, T frames, H and W pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torchvision.transforms.v2.functional as tv
from torch import Tensor

BINS = 31
"""Magnitudes go from 0 to ``BINS - 1``."""

# What the greatest magnitude means; translations are shares of the picture's side.
SIGNED = {
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateX": 150 / 331,
    "TranslateY": 150 / 331,
    "Rotate": 30.0,
    "Brightness": 0.9,
    "Color": 0.9,
    "Contrast": 0.9,
    "Sharpness": 0.9,
}
OPERATIONS = ("Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")


@dataclass(frozen=True)
class Operation:
    """One operation with what torchvision calls its magnitude: degrees, pixels, bits, ..."""

    name: str
    magnitude: float = 0.0


def draw_operations(
    rng: np.random.Generator, size: tuple[int, int], *, count: int, magnitude: int
) -> tuple[Operation, ...]:
    """Return ``count`` operations for a picture of ``size``, (height, width).

    Each is as likely as any other, and where a sign makes sense either sign is. ``magnitude`` is
    the place in torchvision's table, from 0 to 30.
    """
    drawn = []
    for _ in range(count):
        name = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        sign = -1.0 if rng.random() < 0.5 else 1.0
        drawn.append(Operation(name, meaning(name, magnitude, size, sign)))
    return tuple(drawn)


def meaning(name: str, magnitude: int, size: tuple[int, int], sign: float = 1.0) -> float:
    """Return what a place in the table means for an operation: degrees, pixels, bits, ..."""
    share = magnitude / (BINS - 1)
    if name == "Posterize":
        return float(round(8 - 4 * share))
    if name == "Solarize":
        return 1 - share
    side = {"TranslateX": size[1], "TranslateY": size[0]}.get(name, 1)
    return sign * share * SIGNED.get(name, 0.0) * side


def apply_operations(clip_TCHW: Tensor, operations: Sequence[Operation]) -> Tensor:
    """Return the uint8 clip after the operations; what comes in from outside is black."""
    for operation in operations:
        clip_TCHW = _apply(clip_TCHW, operation)
    return clip_TCHW


def _apply(clip_TCHW: Tensor, operation: Operation) -> Tensor:
    name, magnitude = operation.name, operation.magnitude
    if name in ("ShearX", "ShearY"):
        degrees = math.degrees(math.atan(magnitude))
        shear = [degrees, 0.0] if name == "ShearX" else [0.0, degrees]
        return _affine(clip_TCHW, shear=shear, center=[0, 0])
    if name in ("TranslateX", "TranslateY"):
        pixels = int(magnitude)
        return _affine(clip_TCHW, translate=[pixels, 0] if name[-1] == "X" else [0, pixels])
    changes: dict[str, Callable[[], Tensor]] = {
        "Identity": lambda: clip_TCHW,
        "Rotate": lambda: tv.rotate(clip_TCHW, magnitude),
        "Brightness": lambda: tv.adjust_brightness(clip_TCHW, 1 + magnitude),
        "Color": lambda: tv.adjust_saturation(clip_TCHW, 1 + magnitude),
        "Contrast": lambda: tv.adjust_contrast(clip_TCHW, 1 + magnitude),
        "Sharpness": lambda: tv.adjust_sharpness(clip_TCHW, 1 + magnitude),
        "Posterize": lambda: tv.posterize(clip_TCHW, int(magnitude)),
        "Solarize": lambda: tv.solarize(clip_TCHW, 255 * magnitude),
        "AutoContrast": lambda: tv.autocontrast(clip_TCHW),
        "Equalize": lambda: tv.equalize(clip_TCHW),
    }
    return changes[name]()


def _affine(
    clip_TCHW: Tensor,
    *,
    translate: Sequence[int] = (0, 0),
    shear: Sequence[float] = (0.0, 0.0),
    center: list[int] | None = None,
) -> Tensor:
    moved: Tensor = tv.affine(
        clip_TCHW, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear), center=center
    )
    return moved
