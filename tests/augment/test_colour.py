"""Colour changes against torchvision and against what they must leave alone."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from vidssl.augment.colour import LUMA, blur, hue_turn, jitter_matrix, luma_mix, recolour


class Fixed:
    """Stands for a generator whose draws are given."""

    def __init__(self, *draws: float) -> None:
        self.draws = iter(draws)

    def uniform(self, low: float, high: float) -> float:
        draw = next(self.draws)
        assert low <= draw <= high
        return draw


def jittered(clip_CTHW: Tensor, *draws: float) -> Tensor:
    """The clip through the jitter of the given brightness, contrast, saturation and hue."""
    luma = float(clip_CTHW.mean(dim=(1, 2, 3)).numpy() @ LUMA)
    strengths = (0.9, 0.9, 0.9, 0.5)
    matrix, offset = jitter_matrix(Fixed(*draws), strengths, luma)  # type: ignore[arg-type]
    return recolour(clip_CTHW[None], [matrix], [offset])[0]


@pytest.fixture
def clip() -> Tensor:
    """A clip ``(C, T, H, W)`` of one frame, in which no factor below reaches 0 or 1."""
    torch.manual_seed(0)
    return 0.3 + 0.2 * torch.rand(3, 1, 8, 9)


def frame(clip_CTHW: Tensor) -> Tensor:
    return clip_CTHW[:, 0]


@pytest.mark.parametrize("factor", [0.3, 0.7, 1.0, 1.6])
def test_single_factors_are_those_of_torchvision(factor: float, clip: Tensor) -> None:
    pairs = [
        (jittered(clip, factor, 1, 1, 0), tv.adjust_brightness(frame(clip), factor)),
        (jittered(clip, 1, factor, 1, 0), tv.adjust_contrast(frame(clip), factor)),
        (jittered(clip, 1, 1, factor, 0), tv.adjust_saturation(frame(clip), factor)),
    ]
    for ours, theirs in pairs:
        assert torch.allclose(frame(ours), theirs, atol=2e-3)  # their grey weights have 4 digits
    in_turn = tv.adjust_saturation(
        tv.adjust_contrast(tv.adjust_brightness(frame(clip), factor), 1.2), 0.8
    )
    assert torch.allclose(frame(jittered(clip, factor, 1.2, 0.8, 0)), in_turn, atol=3e-3)


def test_no_colour_left_is_grey(clip: Tensor) -> None:
    grey = recolour(clip[None], [luma_mix(0.0)], [np.zeros(3)])[0]
    assert torch.allclose(frame(grey), tv.rgb_to_grayscale(frame(clip), 3), atol=1e-3)
    assert torch.allclose(grey[0], grey[2])
    assert luma_mix(1.0) == pytest.approx(np.eye(3))


def test_a_full_turn_of_hue_is_none_and_grey_has_no_hue() -> None:
    assert hue_turn(1.0) == pytest.approx(np.eye(3), abs=1e-9)
    assert hue_turn(0.3) @ hue_turn(0.7) == pytest.approx(np.eye(3), abs=1e-9)
    for turns in (-0.5, -0.15, 0.1, 0.25, 0.5):
        matrix = hue_turn(turns)
        assert matrix @ np.ones(3) == pytest.approx(np.ones(3), abs=1e-3)
        colour = np.array([0.2, 0.7, 0.4])
        assert LUMA @ (matrix @ colour) == pytest.approx(LUMA @ colour, abs=1e-6)
        assert matrix @ colour != pytest.approx(colour, abs=0.01)


def test_factors_and_turns_lie_within_their_strengths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        matrix, offset = jitter_matrix(rng, (0.4, 0.0, 0.0, 0.0), 0.5)
        assert 0.6 <= matrix[0, 0] <= 1.4
        assert matrix == pytest.approx(matrix[0, 0] * np.eye(3), abs=1e-9)
        assert offset == pytest.approx(np.zeros(3))
    for _ in range(50):
        matrix, offset = jitter_matrix(rng, (0.0, 0.0, 0.0, 0.0), 0.5)
        assert matrix == pytest.approx(np.eye(3), abs=1e-9)
    factors = [jitter_matrix(rng, (1.5, 0, 0, 0), 0.5)[0][0, 0] for _ in range(200)]
    assert min(factors) >= 0.0  # brightness never turns negative
    assert max(factors) > 2.0


def test_results_are_cut_to_what_can_be_shown(clip: Tensor) -> None:
    bright = recolour(clip[None], [np.eye(3) * 5], [np.zeros(3)])
    dark = recolour(clip[None], [np.eye(3)], [np.full(3, -1.0)])
    assert bright.max() == 1.0
    assert dark.max() == 0.0


def test_each_clip_of_a_batch_has_its_own_colours_and_its_frames_share_them() -> None:
    torch.manual_seed(0)
    still = 0.3 + 0.3 * torch.rand(2, 3, 1, 5, 5).expand(2, 3, 4, 5, 5)
    matrices = [np.eye(3) * 0.5, hue_turn(0.2)]
    offsets = [np.full(3, 0.1), np.zeros(3)]
    both = recolour(still, matrices, offsets)
    assert all(torch.equal(both[:, :, 0], both[:, :, t]) for t in range(4))
    assert torch.allclose(both[0], still[0] * 0.5 + 0.1)
    slow = torch.einsum("ij,jthw->ithw", torch.as_tensor(matrices[1]).float(), still[1])
    assert torch.allclose(both[1], slow.clamp(0, 1), atol=1e-6)


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
    clip = torch.zeros(3, 4, 9, 9)
    clip[1, 2] = torch.rand(9, 9)
    blurred = blur(clip, 1.5)
    blurred[1, 2] = 0
    assert blurred.abs().max() == 0.0
