"""Views for supervised training and testing, against torchvision's with the same draws."""

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment

from vidssl.augment.recognition import (
    Erasure,
    RecognitionConfig,
    draw_recognition,
    erase,
    recognition_view,
    recognition_views,
    side_crops,
)
from vidssl.augment.views import MEAN, STD


def noise(seed: int, height: int = 40, width: int = 52, frames: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=generator)


PLAIN: dict[str, Any] = {"crop_px": 32, "short_side_px": (36, 48), "flip": 0.0}
FULL = RecognitionConfig(
    **{**PLAIN, "flip": 0.5}, operations=2, magnitude=12, jitter=0.5, erase=0.5
)


def normalised(frame_CHW: Tensor) -> Tensor:
    floats = tv.to_dtype(frame_CHW, torch.float32, scale=True)
    result: Tensor = tv.normalize(floats, [MEAN] * 3, [STD] * 3)
    return result


def torchvisions(frame_HWC: Tensor, seed: int, config: RecognitionConfig) -> Tensor:
    """One frame by torchvision's functions alone, with the draws of the seed."""
    draw = draw_recognition(seed, (frame_HWC.shape[0], frame_HWC.shape[1]), config)
    frame = frame_HWC.permute(2, 0, 1)
    assert draw.crop.scaled_px is not None
    height, width = draw.crop.scaled_px
    top, left = round(draw.crop.top * height), round(draw.crop.left * width)
    frame = tv.resize(frame, [min(height, width)], antialias=True)
    frame = tv.crop(frame, top, left, config.crop_px, config.crop_px)
    frame = tv.horizontal_flip(frame) if draw.crop.flip else frame
    for step in draw.operations:
        frame = RandAugment()._apply_image_or_video_transform(
            frame, step.name, step.magnitude, InterpolationMode.NEAREST, fill={}
        )
    frame = tv.to_dtype(frame, torch.float32, scale=True)
    if draw.jitter is not None:
        frame = tv.adjust_brightness(frame, draw.jitter.brightness)
        frame = tv.adjust_contrast(frame, draw.jitter.contrast)
        frame = tv.adjust_saturation(frame, draw.jitter.saturation)
        frame = tv.adjust_hue(frame, draw.jitter.hue)
    frame = tv.normalize(frame, [MEAN] * 3, [STD] * 3)
    if (box := draw.erasure) is not None:
        black = torch.zeros(3, 1, 1)
        frame = tv.erase(frame, box.top, box.left, box.height, box.width, black)
    return torch.as_tensor(frame)


def test_a_view_is_torchvisions_with_the_same_draws_frame_by_frame() -> None:
    for seed in range(40):
        clip = noise(seed) if seed % 2 else noise(seed, height=60, width=40)
        found = recognition_view(clip, seed, FULL)
        assert found.shape == (3, 3, 32, 32)
        for t, frame in enumerate(clip):
            assert torch.allclose(found[:, t], torchvisions(frame, seed, FULL), atol=1e-4)


def test_a_seed_decides_a_view_whatever_else_is_in_the_batch() -> None:
    clips = [noise(0), noise(1, height=64, width=33), noise(2)]
    config = FULL.model_copy(update={"erase_with": "noise", "erase": 1.0})
    batch = recognition_views(clips, [5, 6, 7], config)
    for clip, seed, found in zip(clips, [5, 6, 7], batch, strict=True):
        assert torch.equal(found, recognition_view(clip, seed, config))
    assert (recognition_view(clips[0], 8, config) - batch[0]).abs().mean() > 0.1


def test_all_frames_change_alike() -> None:
    still = noise(0, frames=1).expand(4, 40, 52, 3)
    config = FULL.model_copy(update={"erase_with": "noise", "erase": 1.0, "jitter": 1.0})
    for seed in range(20):
        view = recognition_view(still, seed, config)
        assert all(torch.equal(view[:, 0], view[:, t]) for t in range(1, 4))


def test_the_clip_itself_is_left_as_it_was() -> None:
    clip = noise(0, height=32, width=32)
    config = RecognitionConfig(crop_px=32, short_side_px=(32, 32), erase=1.0, jitter=1.0)
    recognition_view(clip, 0, config)
    assert torch.equal(clip, noise(0, height=32, width=32))


def test_short_sides_and_places_cover_their_ranges() -> None:
    draws = [draw_recognition(seed, (40, 52), RecognitionConfig(**PLAIN)) for seed in range(600)]
    short = {min(draw.crop.scaled_px or (0, 0)) for draw in draws}
    assert short == set(range(36, 49))
    room = np.array(
        [draw.crop.left / (1 - 32 / (draw.crop.scaled_px or (1, 1))[1]) for draw in draws]
    )
    assert room.min() == 0.0
    assert room.max() == 1.0
    assert room.mean() == pytest.approx(0.5, abs=0.06)


def test_without_a_short_side_the_crop_has_an_area_and_an_aspect() -> None:
    config = RecognitionConfig(crop_px=32, short_side_px=None, area=(0.2, 0.5))
    for seed in range(100):
        crop = draw_recognition(seed, (400, 520), config).crop
        assert crop.scaled_px is None
        assert 0.19 < (crop.right - crop.left) * (crop.bottom - crop.top) < 0.51


def test_boxes_are_erased_as_often_and_as_large_as_asked() -> None:
    config = RecognitionConfig(**PLAIN, erase=0.4, erase_area=(0.1, 0.2))
    boxes = [draw_recognition(seed, (40, 52), config).erasure for seed in range(800)]
    there = [box for box in boxes if box is not None]
    assert len(there) / 800 == pytest.approx(0.4, abs=0.05)
    shares = [box.width * box.height / 32**2 for box in there]
    assert 0.08 < min(shares) < max(shares) < 0.22
    assert all(box.left + box.width <= 32 and box.top + box.height <= 32 for box in there)


def test_noise_fills_the_box_and_nothing_else() -> None:
    view = torch.full((3, 4, 20, 20), 7.0)
    erase(view, Erasure(left=2, top=5, width=10, height=12, noise=3))
    inside = view[:, :, 5:17, 2:12]
    assert inside.std() == pytest.approx(1.0, abs=0.1)
    assert inside.mean() == pytest.approx(0.0, abs=0.15)
    assert int((view == 7.0).sum()) == 3 * 4 * (400 - 120)


@pytest.mark.parametrize(("height", "width"), [(60, 85), (85, 60)])
def test_three_crops_lie_side_by_side_along_the_long_side(height: int, width: int) -> None:
    # A short side of 40: 56 along the long one, of which 32 from 0, (56 - 32) / 2 = 12 and 24 on;
    # across it from (40 - 32) / 2 = 4 on.
    config = RecognitionConfig(test_short_side_px=40, test_crop_px=32)
    clip = noise(0, height, width)
    crops = side_crops(clip, config)
    assert crops.shape == (3, 3, 3, 32, 32)
    for crop_CTHW, along in zip(crops, (0, 12, 24), strict=True):
        top, left = (4, along) if width > height else (along, 4)
        for t, frame in enumerate(clip):
            resized = tv.resize(frame.permute(2, 0, 1), [40], antialias=True)
            expected = normalised(tv.crop(resized, top, left, 32, 32))
            assert torch.allclose(crop_CTHW[:, t], expected, atol=1e-5)
    (centre,) = side_crops(clip, config, ["centre"])
    assert torch.equal(centre, crops[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"short_side_px": (320, 256)}, "short_side_px must go from low to high, found 320 to 256"),
        ({"crop_px": 300}, "crop_px 300 is longer than the short side, 256"),
        ({"test_crop_px": 300}, "test_crop_px 300 is longer than the short side in testing, 256"),
        ({"erase_area": (0.1, 1.2)}, "erase_area is a share of the picture, at most 1, found 1.2"),
        ({"magnitude": 31}, "less than 31"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RecognitionConfig(**wrong)
