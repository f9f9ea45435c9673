"""Blur against torchvision's, and against what it must leave alone."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as tv

from vidssl.augment.blur import blur, blur_batch, radius_px


@pytest.mark.parametrize("sigma_px", [0.1, 0.7, 2.0, 5.0])
def test_blur_keeps_what_is_flat_and_the_mean_of_the_rest(sigma_px: float) -> None:
    torch.manual_seed(0)
    flat = torch.full((3, 2, 16, 20), 0.4)
    assert torch.allclose(blur(flat, sigma_px), flat)
    dot = torch.zeros(3, 2, 41, 41)
    dot[:, :, 20, 20] = 1.0
    blurred = blur(dot, sigma_px)
    assert blurred.sum(dim=(2, 3)).flatten().tolist() == pytest.approx([1.0] * 6, rel=1e-5)
    assert torch.allclose(blurred, blurred.flip(2))
    assert torch.allclose(blurred, blurred.transpose(2, 3))


def test_a_blurred_dot_is_a_bell_of_the_asked_width() -> None:
    dot = torch.zeros(1, 1, 41, 41)
    dot[..., 20, 20] = 1.0
    row = blur(dot, 2.0)[0, 0].sum(dim=0)
    # Of a Gaussian, the neighbour n pixels away has exp(-n^2 / (2 sigma^2)) of the middle's share.
    for n in range(1, 5):
        assert float(row[20 + n] / row[20]) == pytest.approx(math.exp(-(n**2) / 8), rel=1e-4)
    assert float(blur(dot, 0.01)[0, 0, 20, 20]) == pytest.approx(1.0)


def test_blur_mixes_neither_frames_nor_channels() -> None:
    torch.manual_seed(0)
    clip = torch.zeros(3, 4, 9, 9)
    clip[1, 2] = torch.rand(9, 9)
    blurred = blur(clip, 1.5)
    assert blurred[1, 2].abs().max() > 0.1
    blurred[1, 2] = 0
    assert blurred.abs().max() == 0.0


@pytest.mark.parametrize("width_px", [None, 5, 23])
@pytest.mark.parametrize("sigma_px", [0.1, 0.9, 2.0])
def test_frames_are_blurred_as_by_torchvision(sigma_px: float, width_px: int | None) -> None:
    torch.manual_seed(0)
    clip_CTHW = torch.rand(3, 2, 31, 27)
    kernel_px = width_px or 2 * math.ceil(2.5 * sigma_px) + 1
    for t in range(2):
        theirs = tv.gaussian_blur(clip_CTHW[:, t], kernel_px, sigma_px)
        assert torch.allclose(blur(clip_CTHW, sigma_px, width_px)[:, t], theirs, atol=1e-5)
        in_matrices = blur_batch(clip_CTHW[None], [sigma_px], width_px)[0, :, t]
        assert torch.allclose(in_matrices, theirs, atol=1e-5)


def test_a_batch_is_blurred_clip_by_clip_and_some_clips_not_at_all() -> None:
    torch.manual_seed(0)
    clips = torch.rand(3, 3, 2, 17, 21)
    together = blur_batch(clips, [1.5, None, 0.4])
    assert torch.allclose(together[0], blur(clips[0], 1.5), atol=1e-6)
    assert torch.equal(together[1], clips[1])
    assert torch.allclose(together[2], blur(clips[2], 0.4), atol=1e-6)
    assert torch.equal(blur_batch(clips, [None] * 3), clips)


def test_the_result_may_take_the_place_of_the_clip() -> None:
    torch.manual_seed(0)
    clip = torch.rand(3, 2, 17, 21)
    expected = blur(clip, 1.5)
    assert blur(clip, 1.5, out=clip) is clip
    assert torch.equal(clip, expected)


def test_a_kernel_reaches_half_its_width_unless_its_ends_weigh_nothing() -> None:
    assert radius_px(2.0) == 5
    assert radius_px(2.0, 23) == 11
    # exp(-0.5 * (n / 0.5)^2) < 1e-7 from n of 2.84 on.
    assert radius_px(0.5, 23) == 3
    assert radius_px(0.5) == 2


def test_a_kernel_never_reaches_farther_than_a_small_picture() -> None:
    torch.manual_seed(0)
    tiny = torch.rand(3, 1, 4, 3)
    blurred = blur(tiny, 5.0)
    assert blurred.shape == tiny.shape
    assert blurred.max() - blurred.min() < tiny.max() - tiny.min()
