"""What supervised training and testing on whole clips may ask of augmentation, and the batches.

The defaults are those of Kinetics training in SlowFast (Feichtenhofer et al., ICCV 2019,
https://arxiv.org/abs/1812.03982): short side 256 to 320, a random crop of 224, a flip; three crops
of 256 in testing. The rest is for training from random weights and for fine-tuning.

Tensor suffixes: B clips, C channels, T frames, H and W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor

from vidssl.augment import colour, geometry
from vidssl.augment.randaugment import BINS, Operation, apply_operations, draw_operations
from vidssl.augment.views import MEAN, STD, Share, Strengths
from vidssl.section import Section
from vidssl.video.sampling import CROPS, Crop

ERASE_TRIES = 10


class RecognitionConfig(Section):
    """Crop, flip, RandAugment, colour jitter and erasing a clip; mixing a batch."""

    crop_px: PositiveInt = 224
    short_side_px: tuple[PositiveInt, PositiveInt] | None = (256, 320)
    """Range of the random short side, of which a square is cut; null cuts by area and aspect."""
    area: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    """Least and greatest share of the picture's area that a crop keeps, without a short side."""
    aspect: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    operations: NonNegativeInt = 0
    """How many operations RandAugment applies to a clip."""
    magnitude: Annotated[int, Field(ge=0, lt=BINS)] = 9
    """How strong they are, from 0 to 30."""
    jitter: Share = 0.0
    """Probability of the colour jitter."""
    strengths: Strengths = (0.4, 0.4, 0.4, 0.1)
    """Brightness, contrast, saturation, hue."""
    erase: Share = 0.0
    """Probability that one box of a clip is erased, in all its frames."""
    erase_area: tuple[PositiveFloat, PositiveFloat] = (0.02, 0.33)
    erase_aspect: tuple[PositiveFloat, PositiveFloat] = (0.3, 3.3)
    erase_with: Literal["mean", "noise"] = "mean"
    """The mean colour, or normal noise that is the same in all frames."""
    mixup: NonNegativeFloat = 0.0
    """Weight of the Beta distribution; 0 mixes nothing."""
    cutmix: NonNegativeFloat = 0.0
    test_short_side_px: PositiveInt = 256
    test_crop_px: PositiveInt = 256

    @model_validator(mode="after")
    def _ranges_make_sense(self) -> Self:
        for name in ("short_side_px", "area", "aspect", "erase_area", "erase_aspect"):
            low, high = getattr(self, name) or (0, 0)
            if low > high:
                raise ValueError(f"{name} must go from low to high, found {low} to {high}")
        for name in ("area", "erase_area"):
            if getattr(self, name)[1] > 1:
                found = getattr(self, name)[1]
                raise ValueError(f"{name} is a share of the picture, at most 1, found {found}")
        if self.short_side_px is not None and self.crop_px > self.short_side_px[0]:
            short_px = self.short_side_px[0]
            raise ValueError(f"crop_px {self.crop_px} is longer than the short side, {short_px}")
        if self.test_crop_px > self.test_short_side_px:
            raise ValueError(
                f"test_crop_px {self.test_crop_px} is longer than the short side in testing, "
                f"{self.test_short_side_px}"
            )
        return self


@dataclass(frozen=True)
class Erasure:
    """A box in pixels and the seed of the noise that fills it; None fills it with the mean."""

    left: int
    top: int
    width: int
    height: int
    noise: int | None = None


@dataclass(frozen=True)
class Draw:
    """Every random choice for one clip."""

    crop: geometry.View
    operations: tuple[Operation, ...]
    jitter: colour.Jitter | None
    erasure: Erasure | None


def recognition_views(
    clips_THWC: Sequence[Tensor], seeds: Sequence[int], config: RecognitionConfig
) -> Tensor:
    """Return each uint8 clip cropped and augmented, ``(B, C, T, crop, crop)``, normalised."""
    return torch.stack(
        [recognition_view(clip, seed, config) for clip, seed in zip(clips_THWC, seeds, strict=True)]
    )


def recognition_view(clip_THWC: Tensor, seed: int, config: RecognitionConfig) -> Tensor:
    """Return a uint8 clip cropped and augmented, ``(C, T, crop, crop)``, normalised.

    In order: crop, flip, RandAugment, colour jitter, erasing. The seed alone decides every draw.
    """
    draw = draw_recognition(seed, (clip_THWC.shape[1], clip_THWC.shape[2]), config)
    cut_TCHW = geometry.cut(clip_THWC, draw.crop)
    if draw.operations:
        if cut_TCHW.is_floating_point():  # a GPU's resizing leaves fractions of bytes
            cut_TCHW = cut_TCHW.round().to(torch.uint8)
        cut_TCHW = apply_operations(cut_TCHW, draw.operations)
    view_CTHW = _normalised(cut_TCHW, draw.jitter)
    return view_CTHW if draw.erasure is None else erase(view_CTHW, draw.erasure)


def side_crops(
    clip_THWC: Tensor, config: RecognitionConfig, crops: Sequence[Crop] = CROPS
) -> Tensor:
    """Return crops of a uint8 clip along its long side, ``(N, C, T, crop, crop)``, normalised.

    The picture is resized once. Of an upright picture, left is the top and right the bottom.
    """
    _, height, width, _ = clip_THWC.shape
    places = {"left": 0.0, "centre": 0.5, "right": 1.0}
    size, views = (0, 0), []
    for crop in crops:
        place = places[crop]
        view = geometry.scaled_crop(
            height,
            width,
            short_side_px=config.test_short_side_px,
            crop_px=config.test_crop_px,
            across=place if width >= height else 0.5,
            down=0.5 if width >= height else place,
        )
        size = view.scaled_px or size
        views.append(replace(view, scaled_px=None))
    resized_TCHW = geometry.cut(clip_THWC, geometry.whole(*size))
    resized_THWC = resized_TCHW.permute(0, 2, 3, 1)
    return torch.stack([_normalised(geometry.cut(resized_THWC, view), None) for view in views])


def draw_recognition(seed: int, size: tuple[int, int], config: RecognitionConfig) -> Draw:
    """Return what the seed draws for a picture of ``size``, (height, width)."""
    rng = np.random.default_rng(seed)
    if config.short_side_px is None:
        crop = geometry.random_resized_crop(
            rng, *size, crop_px=config.crop_px, area=config.area, aspect=config.aspect
        )
    else:
        low, high = config.short_side_px
        short_side_px = int(rng.integers(low, high + 1))
        crop = geometry.random_scaled_crop(
            rng, *size, short_side_px=short_side_px, crop_px=config.crop_px
        )
    crop = replace(crop, flip=bool(rng.random() < config.flip))
    square = (config.crop_px, config.crop_px)
    operations = draw_operations(rng, square, count=config.operations, magnitude=config.magnitude)
    jitter = None
    if rng.random() < config.jitter:
        jitter = colour.draw_jitter(rng, config.strengths)
    erasure = None
    if rng.random() < config.erase:
        erasure = _draw_erasure(rng, config)
    return Draw(crop, operations, jitter, erasure)


def erase(view_CTHW: Tensor, erasure: Erasure) -> Tensor:
    """Return a normalised clip without what was in the box; the clip is overwritten.

    Zhong et al., 2020, https://arxiv.org/abs/1708.04896. Noise is drawn on the CPU, so that it is
    the same on any device.
    """
    rows = slice(erasure.top, erasure.top + erasure.height)
    columns = slice(erasure.left, erasure.left + erasure.width)
    if erasure.noise is None:
        view_CTHW[:, :, rows, columns] = 0.0
        return view_CTHW
    shape = (len(view_CTHW), 1, erasure.height, erasure.width)
    noise = np.random.default_rng(erasure.noise).standard_normal(shape, dtype=np.float32)
    view_CTHW[:, :, rows, columns] = torch.from_numpy(noise).to(view_CTHW.device)
    return view_CTHW


def _draw_erasure(rng: np.random.Generator, config: RecognitionConfig) -> Erasure | None:
    """Return a box of random area and aspect (height / width), None where ten draws do not fit."""
    side = config.crop_px
    noise = int(rng.integers(2**62)) if config.erase_with == "noise" else None
    for _ in range(ERASE_TRIES):
        pixels = side * side * rng.uniform(*config.erase_area)
        low, high = config.erase_aspect
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        height, width = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if height < side and width < side:
            top = int(rng.integers(side - height + 1))
            left = int(rng.integers(side - width + 1))
            return Erasure(left, top, width, height, noise)
    return None


def _normalised(cut_TCHW: Tensor, jitter: colour.Jitter | None) -> Tensor:
    floats_CTHW = cut_TCHW.permute(1, 0, 2, 3).to(
        torch.float32, copy=True, memory_format=torch.contiguous_format
    )
    batch_BCTHW = colour.recolour(
        floats_CTHW[None], [jitter], [False], white=255.0, mean=MEAN, std=STD
    )
    return batch_BCTHW[0]
