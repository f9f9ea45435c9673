"""What a recipe may ask of augmentation, and the batch that comes of it.

``SSLConfig`` is the set of the video methods (Feichtenhofer et al., CVPR 2021, "aug+"; CVRL);
``DetectionConfig`` is that of AVA training. Pixels leave as ``(x - 0.45) / 0.225``, the constants
of the SlowFast code base for every channel.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, N boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from vidssl.augment import colour, geometry
from vidssl.augment.blur import blur, blur_batch
from vidssl.nn.changes import difference
from vidssl.section import Section

MEAN, STD = 0.45, 0.225

Share = Annotated[float, Field(ge=0.0, le=1.0)]


Strengths = tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]


class ViewConfig(Section):
    """What one view has otherwise than the rest; null is as ``SSLConfig`` says."""

    area: tuple[PositiveFloat, PositiveFloat] | None = None
    aspect: tuple[PositiveFloat, PositiveFloat] | None = None
    flip: Share | None = None
    jitter: Share | None = None
    strengths: Strengths | None = None
    grey: Share | None = None
    blur: Share | None = None
    blur_sigma: tuple[PositiveFloat, PositiveFloat] | None = None
    solarise: Share | None = None
    difference: Share | None = None


class SSLConfig(Section):
    """Random resized crop, flip, colour jitter, grey and blur, each drawn once a clip."""

    crop_px: PositiveInt = 224
    area: tuple[PositiveFloat, PositiveFloat] = (0.2, 0.766)
    """Least and greatest share of the picture's area that a crop keeps."""
    aspect: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    jitter: Share = 0.8
    """Probability of the colour jitter."""
    strengths: Strengths = (0.6, 0.6, 0.6, 0.15)
    """Brightness, contrast, saturation, hue."""
    order: Literal["fixed", "random"] = "fixed"
    """Whether the four follow each other as above, or in an order drawn with them."""
    grey: Share = 0.2
    blur: Share = 0.5
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Range of the blur in pixels of a 224-pixel crop; scaled with ``crop_px``."""
    blur_width: Annotated[float, Field(gt=0.0, le=0.5)] | None = None
    """Width of the blur's kernel as a share of the crop, made odd; null is 2.5 sigma each way."""
    solarise: Share = 0.0
    """Probability that what is brighter than one half is inverted."""
    difference: Share = 0.0
    """Probability that grey frames give way to their change to the next, which is 0 if still."""
    views: tuple[ViewConfig, ...] = ()
    """What is special to the first view, the second, ...; further ones are as said above."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name in ("area", "aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must go from low to high, found {low} to {high}")
        if self.area[1] > 1:
            raise ValueError(f"area is a share of the picture, at most 1, found {self.area[1]}")
        if self.strengths[3] > 0.5:
            raise ValueError(f"hue turns by at most 0.5 either way, found {self.strengths[3]}")
        for view in range(len(self.views)):
            self.of(view)
        return self

    @property
    def blur_px(self) -> int | None:
        """Width of the blur's kernel in pixels, odd; None where it follows sigma."""
        return None if self.blur_width is None else int(self.crop_px * self.blur_width) | 1

    def of(self, view: int) -> "SSLConfig":
        """Return the config of one view, counted from 0, without any further views."""
        if not self.views:
            return self
        special = self.views[view].model_dump(exclude_none=True) if view < len(self.views) else {}
        return SSLConfig.model_validate({**self.model_dump(exclude={"views"}), **special})


CVRL = SSLConfig(
    area=(0.3, 1.0),
    aspect=(0.5, 2.0),
    strengths=(0.8, 0.8, 0.8, 0.2),
    order="random",
    blur_width=0.1,
    views=(ViewConfig(blur=1.0), ViewConfig(blur=0.1, solarise=0.2)),
)
"""The settings of CVRL (Qian et al., CVPR 2021, https://arxiv.org/abs/2008.03800)."""


class DetectionConfig(Section):
    """Short-side jitter, crop and flip for training; short side alone for testing."""

    short_side_px: tuple[PositiveInt, PositiveInt] = (256, 320)
    """Range of the random short side in training."""
    crop_px: PositiveInt | None = 224
    """Side of the random square crop in training; null keeps the whole picture."""
    flip: Share = 0.5
    test_short_side_px: PositiveInt = 256
    """Short side in testing and extraction, where the whole picture is seen."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        low, high = self.short_side_px
        if low > high:
            raise ValueError(f"short_side_px must go from low to high, found {low} to {high}")
        if self.crop_px is not None and self.crop_px > low:
            raise ValueError(f"crop_px {self.crop_px} is longer than the short side, {low}")
        return self


def ssl_views(
    clips_THWC: Sequence[Tensor], seeds: Sequence[int], config: SSLConfig, view: int = 0
) -> Tensor:
    """Return one augmented view of each uint8 clip, ``(B, C, T, crop, crop)``, normalised.

    Each is that of :func:`ssl_view`: on a CPU to the last digit, on a GPU, where all clips go
    through each change together, to 1e-4.
    """
    config = config.of(view)
    frames, size = len(clips_THWC[0]), config.crop_px
    views = clips_THWC[0].new_empty(len(seeds), 3, frames, size, size, dtype=torch.float32)
    together = len(seeds) if views.is_cuda else 1
    for start in range(0, len(seeds), together):
        chosen = slice(start, start + together)
        _fill(views[chosen], clips_THWC[chosen], seeds[chosen], config)
    return views


def ssl_view(clip_THWC: Tensor, seed: int, config: SSLConfig, view: int = 0) -> Tensor:
    """Return one augmented view of a uint8 clip, ``(C, T, crop, crop)``, normalised.

    ``view`` chooses among what ``config.views`` says of single views; the seed alone decides every
    draw. In order: crop, flip, jitter, grey, blur, solarise, difference.
    """
    return ssl_views([clip_THWC], [seed], config, view)[0]


def detection_view(
    clip_THWC: Tensor, seed: int | None, config: DetectionConfig, multiple: int
) -> geometry.View:
    """Return the view of one clip: random for a seed, the test view for None.

    Whole pictures are brought to sides that are multiples of ``multiple``, the encoder's stride, so
    that one cell of its map is the same share of the picture everywhere.
    """
    _, height, width, _ = clip_THWC.shape
    if seed is None:
        size = geometry.short_side_size(height, width, config.test_short_side_px, multiple)
        return geometry.whole(*size)
    rng = np.random.default_rng(seed)
    low, high = config.short_side_px
    short_side_px = int(rng.integers(low, high + 1))
    flip = bool(rng.random() < config.flip)
    if config.crop_px is None:
        size = geometry.short_side_size(height, width, short_side_px, multiple)
        return geometry.whole(*size, flip=flip)
    view = geometry.random_crop(
        rng, height, width, short_side_px=short_side_px, crop_px=config.crop_px
    )
    return replace(view, flip=flip)


def normalise(clips: Tensor) -> Tensor:
    """Return pixels in [0, 1] as the networks want them."""
    return clips.sub(MEAN).div_(STD)


@dataclass(frozen=True)
class Draw:
    """Every random choice for one view of one clip."""

    crop: geometry.View
    jitter: colour.Jitter | None
    grey: bool
    sigma_px: float | None
    solarise: bool
    difference: bool


def draw_view(seed: int, size: tuple[int, int], config: SSLConfig) -> Draw:
    """Return what the seed draws for a picture of ``size``, (height, width)."""
    rng = np.random.default_rng(seed)
    crop = geometry.random_resized_crop(
        rng, *size, crop_px=config.crop_px, area=config.area, aspect=config.aspect
    )
    crop = replace(crop, flip=bool(rng.random() < config.flip))
    jitter = None
    if rng.random() < config.jitter:
        jitter = colour.draw_jitter(rng, config.strengths, config.order)
    grey = bool(rng.random() < config.grey)
    sigma_px = None
    if rng.random() < config.blur:
        sigma_px = rng.uniform(*config.blur_sigma) * config.crop_px / 224
    solarise, difference = rng.random(2) < (config.solarise, config.difference)
    return Draw(crop, jitter, grey, sigma_px, bool(solarise), bool(difference))


def _fill(
    views_BCTHW: Tensor, clips_THWC: Sequence[Tensor], seeds: Sequence[int], config: SSLConfig
) -> None:
    """Write the views of clips into ``views_BCTHW``."""
    draws = [
        draw_view(seed, (clip.shape[1], clip.shape[2]), config)
        for seed, clip in zip(seeds, clips_THWC, strict=True)
    ]
    for view_CTHW, clip, draw in zip(views_BCTHW, clips_THWC, draws, strict=True):
        view_CTHW.copy_(geometry.cut(clip, draw.crop).permute(1, 0, 2, 3))
    colour.recolour(
        views_BCTHW,
        [draw.jitter for draw in draws],
        [draw.grey for draw in draws],
        white=255.0,
        mean=MEAN,
        std=STD,
    )
    sigmas_px = [draw.sigma_px for draw in draws]
    if len(draws) > 1:
        views_BCTHW.copy_(blur_batch(views_BCTHW, sigmas_px, config.blur_px))
    elif sigmas_px[0] is not None:
        blur(views_BCTHW[0], sigmas_px[0], config.blur_px, out=views_BCTHW[0])
    for view_CTHW, draw in zip(views_BCTHW, draws, strict=True):
        if draw.solarise:
            view_CTHW.copy_(colour.solarise(view_CTHW, mean=MEAN, std=STD))
        if draw.difference:
            view_CTHW.copy_(difference(view_CTHW[None])[0])
