"""What a recipe may ask of augmentation, and the batch that comes of it.

``SSLConfig`` is the set of the video methods (Feichtenhofer et al., CVPR 2021, "aug+"; CVRL);
``DetectionConfig`` is that of AVA training. Pixels leave as ``(x - 0.45) / 0.225``, the constants
of the SlowFast code base for every channel.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, N boxes.
"""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from vidssl.augment import colour, geometry
from vidssl.section import Section

MEAN, STD = 0.45, 0.225

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class SSLConfig(Section):
    """Random resized crop, flip, colour jitter, grey and blur, each drawn once a clip."""

    crop_px: PositiveInt = 224
    area: tuple[PositiveFloat, PositiveFloat] = (0.2, 0.766)
    """Least and greatest share of the picture's area that a crop keeps."""
    aspect: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    jitter: Share = 0.8
    """Probability of the colour jitter."""
    strengths: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (
        0.6,
        0.6,
        0.6,
        0.15,
    )
    """Brightness, contrast, saturation, hue."""
    grey: Share = 0.2
    blur: Share = 0.5
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Range of the blur in pixels of a 224-pixel crop; scaled with ``crop_px``."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name in ("area", "aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must go from low to high, found {low} to {high}")
        if self.area[1] > 1:
            raise ValueError(f"area is a share of the picture, at most 1, found {self.area[1]}")
        return self


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


def ssl_views(clips_THWC: Sequence[Tensor], seeds: Sequence[int], config: SSLConfig) -> Tensor:
    """Return one augmented view of each uint8 clip, ``(B, C, T, crop, crop)``, normalised."""
    rngs = [np.random.default_rng(seed) for seed in seeds]
    clips = [
        geometry.apply(clip, _ssl_crop(rng, clip, config))
        for clip, rng in zip(clips_THWC, rngs, strict=True)
    ]
    batch_BCTHW = torch.stack(clips)
    luma_B = batch_BCTHW.mean(dim=(2, 3, 4)).cpu().numpy() @ colour.LUMA
    changes = [_recolouring(rng, float(m), config) for rng, m in zip(rngs, luma_B, strict=True)]
    batch_BCTHW = colour.recolour(batch_BCTHW, [m for m, _ in changes], [o for _, o in changes])
    for clip_CTHW, rng in zip(batch_BCTHW, rngs, strict=True):
        if rng.random() < config.blur:
            sigma_px = rng.uniform(*config.blur_sigma) * config.crop_px / 224
            clip_CTHW.copy_(colour.blur(clip_CTHW, sigma_px))
    return normalise(batch_BCTHW)


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
    return geometry.View(**{**vars(view), "flip": flip})


def normalise(clips: Tensor) -> Tensor:
    """Return pixels in [0, 1] as the networks want them."""
    return clips.sub(MEAN).div_(STD)


def _ssl_crop(rng: np.random.Generator, clip_THWC: Tensor, config: SSLConfig) -> geometry.View:
    _, height, width, _ = clip_THWC.shape
    view = geometry.random_resized_crop(
        rng, height, width, crop_px=config.crop_px, area=config.area, aspect=config.aspect
    )
    return geometry.View(**{**vars(view), "flip": bool(rng.random() < config.flip)})


def _recolouring(
    rng: np.random.Generator, mean_luma: float, config: SSLConfig
) -> tuple[colour.Matrix, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    matrix, offset = np.eye(3), np.zeros(3)
    if rng.random() < config.jitter:
        matrix, offset = colour.jitter_matrix(rng, config.strengths, mean_luma)
    if rng.random() < config.grey:
        grey = colour.luma_mix(0.0)
        matrix, offset = grey @ matrix, grey @ offset
    return matrix, offset
