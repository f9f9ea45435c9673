"""Crops and flips: boxes are found in the pixels where the arithmetic says that they are."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from vidssl.augment.geometry import (
    View,
    apply,
    carry,
    cut,
    random_crop,
    random_resized_crop,
    scaled_crop,
    short_side_size,
    whole,
)

HEIGHT, WIDTH = 60, 80


def painted(box_px: tuple[int, int, int, int], frames: int = 2) -> Tensor:
    """A black clip with a white box, ``(T, H, W, 3)``."""
    clip = torch.zeros(frames, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    x1, y1, x2, y2 = box_px
    clip[:, y1:y2, x1:x2] = 255
    return clip


def found(clip_CTHW: Tensor) -> list[int] | None:
    """The box in pixels, with its far edges exclusive; None if it cannot be seen."""
    bright = clip_CTHW[0, 0] > 0.5
    rows, columns = bright.any(dim=1).nonzero()[:, 0], bright.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def views(kind: str, count: int) -> list[View]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        if kind == "resized":
            view = random_resized_crop(
                rng, HEIGHT, WIDTH, crop_px=112, area=(0.2, 0.8), aspect=(3 / 4, 4 / 3)
            )
        else:
            short_px = int(rng.integers(112, 160))
            view = random_crop(rng, HEIGHT, WIDTH, short_side_px=short_px, crop_px=112)
        made.append(View(**{**vars(view), "flip": number % 2 == 1}))
    return made


@pytest.mark.parametrize("kind", ["resized", "plain"])
def test_a_painted_box_is_found_where_the_carried_box_says(kind: str) -> None:
    # Linear interpolation crosses one half exactly at a painted edge, so the edge that is found
    # lies within half a pixel of the true one, and no farther.
    rng, seen = np.random.default_rng(1), 0
    for view in views(kind, 60):
        x1, x2 = sorted(int(x) for x in rng.choice(WIDTH + 1, 2, replace=False))
        y1, y2 = sorted(int(y) for y in rng.choice(HEIGHT + 1, 2, replace=False))
        share = torch.tensor(
            [[x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]], dtype=torch.float64
        )
        carried_px = (carry(share, view) * 112)[0]
        box = found(apply(painted((x1, y1, x2, y2)), view))
        width, height = carried_px[2] - carried_px[0], carried_px[3] - carried_px[1]
        if min(width, height) < 2:
            continue  # too thin to cross one half for sure
        seen += 1
        assert box is not None
        assert box == pytest.approx(carried_px.tolist(), abs=0.51)
    assert seen > 30


def test_a_box_by_hand() -> None:
    # The right half, mirrored: x in [0.6, 0.9] becomes (x - 0.5) / 0.5 = [0.2, 0.8], then the
    # mirror image [0.2, 0.8]; y stays.
    view = View(0.5, 0.0, 1.0, 1.0, 10, 10, flip=True)
    boxes = torch.tensor([[0.6, 0.1, 0.9, 0.3], [0.7, 0.1, 1.0, 0.3], [0.0, 0.0, 0.4, 1.0]])
    carried = carry(boxes, view)
    assert carried[0].tolist() == pytest.approx([0.2, 0.1, 0.8, 0.3])
    assert carried[1].tolist() == pytest.approx([0.0, 0.1, 0.6, 0.3])
    # Outside it, nothing is left of a box, but it stays in its row.
    assert carried[2, 2] - carried[2, 0] == 0
    assert carry(torch.zeros(0, 4), view).shape == (0, 4)


def test_boxes_stay_boxes_under_any_view() -> None:
    torch.manual_seed(0)
    corners = torch.rand(50, 2, 2).sort(dim=1).values.flatten(1)
    for view in views("resized", 10):
        carried = carry(corners, view)
        assert (carried[:, 2:] >= carried[:, :2]).all()
        assert carried.min() >= 0
        assert carried.max() <= 1


def test_the_whole_picture_at_its_own_size_is_the_picture() -> None:
    clip = torch.randint(0, 256, (3, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    same = apply(clip, whole(HEIGHT, WIDTH))
    assert same.shape == (3, 3, HEIGHT, WIDTH)
    assert torch.equal((same * 255).round().to(torch.uint8).permute(1, 2, 3, 0), clip)
    mirrored = apply(clip, whole(HEIGHT, WIDTH, flip=True))
    assert torch.equal(mirrored.flip(3), same)
    boxes = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    assert torch.equal(carry(boxes, whole(7, 9)), boxes)


def test_shrinking_takes_the_mean_of_what_falls_together() -> None:
    # Black and white columns in turn: a fourth of the width is grey, not black or white.
    clip = torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    clip[:, :, ::2] = 255
    small = apply(clip, whole(HEIGHT // 4, WIDTH // 4))
    assert small[..., 2:-2].sub(0.5).abs().max() < 0.03


def test_every_frame_is_cut_alike() -> None:
    clip = painted((20, 10, 50, 40), frames=5)
    for view in views("resized", 5):
        cut = apply(clip, view)
        assert all(torch.equal(cut[:, 0], cut[:, t]) for t in range(5))


def test_random_crops_keep_the_area_and_aspect_that_were_asked_for() -> None:
    rng = np.random.default_rng(0)
    crops = [
        random_resized_crop(rng, 480, 640, crop_px=112, area=(0.2, 0.6), aspect=(3 / 4, 4 / 3))
        for _ in range(500)
    ]
    shares = np.array([(v.right - v.left) * (v.bottom - v.top) for v in crops])
    ratios = np.array([(v.right - v.left) * 640 / ((v.bottom - v.top) * 480) for v in crops])
    assert 0.2 - 0.01 < shares.min() < 0.25 < 0.55 < shares.max() < 0.6 + 0.01
    assert 3 / 4 - 0.01 < ratios.min() < 0.8 < 1.25 < ratios.max() < 4 / 3 + 0.01
    # Log-uniform: as many crops are upright as lie across.
    assert np.mean(ratios < 1) == pytest.approx(0.5, abs=0.07)
    lefts = np.array([v.left / (1 - (v.right - v.left)) for v in crops if v.right - v.left < 0.9])
    assert lefts.mean() == pytest.approx(0.5, abs=0.05)


def test_where_no_draw_fits_the_largest_centred_crop_is_taken() -> None:
    # 100 x 10 pixels, and the whole area at an aspect near 1 wanted: 4/3 of the height, centred.
    rng = np.random.default_rng(0)
    view = random_resized_crop(rng, 10, 100, crop_px=8, area=(0.9, 1.0), aspect=(3 / 4, 4 / 3))
    assert (view.top, view.bottom) == (0.0, 1.0)
    assert view.right - view.left == pytest.approx(10 * 4 / 3 / 100, abs=0.011)
    assert (view.left + view.right) / 2 == pytest.approx(0.5, abs=0.006)


def test_a_plain_crop_is_square_at_the_size_of_the_short_side() -> None:
    # 60 x 80 brought to a short side of 120: 112 of 120 and of 160 pixels.
    view = random_crop(np.random.default_rng(0), 60, 80, short_side_px=120, crop_px=112)
    assert (view.bottom - view.top) * 60 == pytest.approx(56, abs=1)
    assert (view.right - view.left) * 80 == pytest.approx(56, abs=1)
    # Larger than the picture: all of it.
    view = random_crop(np.random.default_rng(0), 60, 80, short_side_px=100, crop_px=112)
    assert (view.top, view.bottom) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("size", "short", "multiple", "expected"),
    [
        ((480, 640), 256, 1, (256, 341)),
        ((640, 480), 256, 1, (341, 256)),
        ((480, 640), 256, 32, (256, 352)),
        ((480, 640), 224, 32, (224, 288)),  # 298.67 lies nearer to 288 than to 320
        ((10, 300), 4, 32, (32, 128)),  # never less than one multiple
    ],
)
def test_the_short_side_and_its_fellow_are_rounded_to_a_multiple(
    size: tuple[int, int], short: int, multiple: int, expected: tuple[int, int]
) -> None:
    assert short_side_size(*size, short, multiple) == expected


def test_a_crop_thinner_than_a_pixel_still_shows_one() -> None:
    view = View(0.999, 0.999, 1.0, 1.0, 4, 4)
    clip = painted((WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT))
    assert math.isclose(float(apply(clip, view).mean()), 1.0)


def noise(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("flip", [False, True])
def test_a_resized_crop_is_that_of_torchvision_to_the_last_byte(flip: bool) -> None:
    # Columns 10 to 50 of 80 and rows 6 to 36 of 60, enlarged and shrunk.
    for size in ((64, 48), (15, 20)):
        view = View(10 / 80, 6 / 60, 50 / 80, 36 / 60, *size, flip)
        for frame_HWC, ours in zip(noise(), cut(noise(), view), strict=True):
            frame = frame_HWC.permute(2, 0, 1)
            theirs = tv.resized_crop(frame, 6, 10, 30, 40, list(size), antialias=True)
            assert torch.equal(ours, tv.horizontal_flip(theirs) if flip else theirs)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60)])
def test_a_scaled_crop_is_cut_by_torchvision_from_the_resized_frame(
    height: int, width: int
) -> None:
    # A short side of 48: 48 x 64 or 64 x 48. A third of the way: 8 * 0.3 -> 3, 24 * 0.3 -> 8.
    view = scaled_crop(height, width, short_side_px=48, crop_px=40, across=0.3, down=0.3)
    top, left = (3, 8) if height < width else (8, 3)
    for frame_HWC, ours in zip(noise(height, width), cut(noise(height, width), view), strict=True):
        resized = tv.resize(frame_HWC.permute(2, 0, 1), [48], antialias=True)
        assert torch.equal(ours, tv.crop(resized, top, left, 40, 40))


def test_a_scaled_crop_carries_boxes_and_its_long_side_is_rounded_down() -> None:
    # 60 x 85 brought to a short side of 40: 40 x 56.67, of which torchvision makes 40 x 56.
    view = scaled_crop(60, 85, short_side_px=40, crop_px=40, across=0.5, down=0.5)
    assert view.scaled_px == (40, 56)
    assert (view.left, view.right) == (8 / 56, 48 / 56)
    # In pixels of the resized picture the box from 14 to 42 lies at 6 to 34 of the crop.
    carried = carry(torch.tensor([[0.25, 0.0, 0.75, 1.0]]), view)
    assert carried[0].tolist() == pytest.approx([6 / 40, 0.0, 34 / 40, 1.0])
    with pytest.raises(ValueError, match="a crop of 41 does not fit a short side of 40"):
        scaled_crop(60, 85, short_side_px=40, crop_px=41, across=0.5, down=0.5)


@pytest.mark.gpu
def test_a_view_on_a_gpu_is_that_of_the_cpu_but_for_the_rounding_of_bytes() -> None:
    clip = torch.randint(0, 256, (2, 40, 60, 3), dtype=torch.uint8)
    view = whole(20, 30, flip=True)
    here, there = apply(clip, view), apply(clip.cuda(), view).cpu()
    assert torch.allclose(here, there, atol=1 / 255)
