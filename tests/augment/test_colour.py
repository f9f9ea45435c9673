"""Colour changes against torchvision's, frame by frame, and against arithmetic by hand."""

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from vidssl.augment.colour import (
    Jitter,
    draw_jitter,
    recolour,
    solarise,
    turn_hue,
)


def clip_of(seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """A clip ``(C, T, H, W)`` of values from low to high, frames of unlike brightness."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, 3, 9, 11, generator=generator)
    level = torch.tensor([0.6, 1.0, 0.8])[:, None, None]
    return low + (high - low) * noise * level


def torchvisions(clip_CTHW: Tensor, jitter: Jitter, *, grey: bool = False) -> Tensor:
    """The clip after torchvision's functions, one frame after the other."""
    steps: list[Callable[[Tensor], Tensor]] = [
        lambda frame: tv.adjust_brightness(frame, jitter.brightness),
        lambda frame: tv.adjust_contrast(frame, jitter.contrast),
        lambda frame: tv.adjust_saturation(frame, jitter.saturation),
        lambda frame: tv.adjust_hue(frame, jitter.hue),
    ]
    frames = []
    for frame in clip_CTHW.unbind(1):
        for place in jitter.order:
            frame = steps[place](frame)
        frames.append(tv.rgb_to_grayscale(frame, 3) if grey else frame)
    return torch.stack(frames, dim=1)


def ours(clip_CTHW: Tensor, jitter: Jitter | None, *, grey: bool = False) -> Tensor:
    return recolour(clip_CTHW[None].clone(), [jitter], [grey])[0]


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.6, 2.5])
def test_single_factors_are_those_of_torchvision(factor: float) -> None:
    clip = clip_of(0)
    for jitter in (Jitter(factor), Jitter(1, factor), Jitter(1, 1, factor)):
        theirs = torchvisions(clip, jitter)
        assert torch.allclose(ours(clip, jitter), theirs, atol=1e-5)
        if factor > 1:
            assert theirs.max() == 1.0  # something has been cut off


@pytest.mark.parametrize("turns", [-0.5, -0.2, -0.01, 0.0, 0.15, 1 / 3, 0.5])
def test_hue_is_turned_as_by_torchvision(turns: float) -> None:
    clip = clip_of(1)
    clip[:, 0, 0] = torch.tensor([0.2, 0.5, 0.9]).repeat(4)[:11]  # grey pixels
    clip[:2, 0, 1] = 0.7  # red and green alike
    clip[1:, 0, 2] = 0.7
    clip[:, 0, 3] = 0.0
    assert torch.allclose(
        ours(clip, Jitter(hue=turns)), torchvisions(clip, Jitter(hue=turns)), atol=1e-5
    )


def test_hue_is_turned_as_by_the_standard_library() -> None:
    red, green, blue = 0.2, 0.7, 0.4
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    expected = colorsys.hsv_to_rgb((hue + 0.3) % 1, saturation, value)
    pixel = torch.tensor([red, green, blue]).view(1, 3, 1, 1, 1)
    assert turn_hue(pixel, [0.3]).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_turning_hue_keeps_value_and_saturation_and_a_full_turn_everything() -> None:
    clip = clip_of(2)[None]
    turned = turn_hue(clip.clone(), [0.21])
    assert (turned - clip).abs().max() > 0.1
    assert torch.allclose(turned.amax(1), clip.amax(1), atol=1e-6)
    assert torch.allclose(turned.amin(1), clip.amin(1), atol=1e-6)
    back = turn_hue(turned, [0.79])
    assert torch.allclose(back, clip, atol=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_a_jitter_in_any_order_is_that_of_torchvision_to_the_fifth_digit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jitter = draw_jitter(rng, (0.8, 0.8, 0.8, 0.5), "random")
    for clip, grey in ((clip_of(seed), False), (clip_of(seed, 0.3, 0.5), True)):
        theirs = torchvisions(clip, jitter, grey=grey)
        assert torch.allclose(ours(clip, jitter, grey=grey), theirs, atol=1e-5)


def test_bytes_come_out_normalised_by_the_mean_and_deviation() -> None:
    bytes_CTHW = (clip_of(3) * 255).round()
    jitter = Jitter(1.3, 0.6, 1.4, 0.1)
    expected = (torchvisions(bytes_CTHW / 255, jitter) - 0.45) / 0.225
    found = recolour(bytes_CTHW[None], [jitter], [False], white=255.0, mean=0.45, std=0.225)
    assert torch.allclose(found[0], expected, atol=5e-5)
    bytes_CTHW = (clip_of(3) * 255).round()
    plain = recolour(bytes_CTHW[None].clone(), [None], [False], white=255.0, mean=0.45, std=0.225)
    assert torch.allclose(plain[0], (bytes_CTHW / 255 - 0.45) / 0.225, atol=1e-5)


def test_contrast_pulls_each_frame_towards_its_own_grey_value() -> None:
    # Frames of 0.2 and 0.6 throughout: no contrast is left in them, and nothing changes.
    clip = torch.tensor([0.2, 0.6]).view(1, 2, 1, 1).expand(3, 2, 4, 4)
    assert torch.allclose(ours(clip, Jitter(contrast=0.0)), clip, atol=1e-4)
    # A frame of halves 0.2 and 0.6 has mean 0.4: at half contrast they become 0.3 and 0.5.
    halves = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2).expand(3, 1, 4, 2)
    expected = torch.tensor([0.3, 0.5]).expand(3, 1, 4, 2)
    assert torch.allclose(ours(halves, Jitter(contrast=0.5)), expected, atol=1e-4)


def test_grey_is_that_of_torchvision_and_alike_in_all_channels() -> None:
    clip = clip_of(4)
    grey = ours(clip, None, grey=True)
    assert torch.allclose(grey, torchvisions(clip, Jitter(), grey=True), atol=1e-6)
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize("order", ["fixed", "random"])
def test_clips_together_are_what_each_is_alone(order: str) -> None:
    rng = np.random.default_rng(0)
    clips = torch.stack([clip_of(seed) for seed in range(6)])
    jitters = [draw_jitter(rng, (0.8, 0.8, 0.8, 0.2), order) for _ in range(6)]  # type: ignore[arg-type]
    some = [None if index == 2 else jitter for index, jitter in enumerate(jitters)]
    greys = [index in (1, 2) for index in range(6)]
    together = recolour(clips.clone(), some, greys)
    for clip, jitter, grey, found in zip(clips, some, greys, together, strict=True):
        assert torch.allclose(found, ours(clip, jitter, grey=grey), atol=1e-5)


def test_all_frames_of_a_clip_change_alike() -> None:
    still = clip_of(5)[:, :1].expand(3, 4, 9, 11)
    changed = ours(still, Jitter(1.2, 0.7, 1.5, 0.1))
    assert all(torch.equal(changed[:, 0], changed[:, t]) for t in range(4))


def test_long_clips_are_turned_in_pieces_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = turn_hue(clip_of(6)[None], [0.2])
    monkeypatch.setattr("vidssl.augment.colour.CHUNK", 1)
    assert torch.equal(turn_hue(clip_of(6)[None], [0.2]), whole)


def test_factors_and_turns_lie_within_their_strengths() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_jitter(rng, (0.4, 1.5, 0.0, 0.1)) for _ in range(500)]
    brightness = [draw.brightness for draw in draws]
    contrast = [draw.contrast for draw in draws]
    hue = [draw.hue for draw in draws]
    assert 0.6 <= min(brightness) < 0.62 < 1.38 < max(brightness) <= 1.4
    assert 0.0 <= min(contrast) < 0.05 < 2.4 < max(contrast) <= 2.5  # never negative
    assert {draw.saturation for draw in draws} == {1.0}
    assert -0.1 <= min(hue) < -0.095 < 0.095 < max(hue) <= 0.1
    assert {draw.order for draw in draws} == {(0, 1, 2, 3)}


def test_a_random_order_takes_each_of_the_24_about_equally_often() -> None:
    rng = np.random.default_rng(0)
    orders = [draw_jitter(rng, (0.4, 0.4, 0.4, 0.1), "random").order for _ in range(2400)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 24
    assert 60 < min(counts.values()) <= max(counts.values()) < 145


def test_solarising_inverts_what_is_brighter_than_one_half() -> None:
    clip = clip_of(7)
    assert torch.allclose(solarise(clip), tv.solarize(clip, 0.5), atol=1e-6)
    normalised = (clip - 0.45) / 0.225
    expected = (tv.solarize(clip, 0.5) - 0.45) / 0.225
    assert torch.allclose(solarise(normalised, mean=0.45, std=0.225), expected, atol=1e-5)
