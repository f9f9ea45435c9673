"""Whole views: one draw a clip, decided by the sample's own seed alone."""

from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from pydantic import ValidationError
from torch import Tensor

from vidssl.augment.blur import radius_px
from vidssl.augment.geometry import apply, cut
from vidssl.augment.views import (
    CVRL,
    MEAN,
    STD,
    DetectionConfig,
    SSLConfig,
    ViewConfig,
    _fill,
    detection_view,
    draw_view,
    normalise,
    ssl_view,
    ssl_views,
)


def noise(seed: int, height: int = 40, width: int = 52, frames: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=generator)


def still(seed: int) -> Tensor:
    return noise(seed, frames=1).expand(5, 40, 52, 3)


ALWAYS = SSLConfig(crop_px=24, jitter=1.0, grey=0.0, blur=1.0)


def test_pixels_leave_centred_and_scaled() -> None:
    # (x - 0.45) / 0.225
    assert normalise(torch.tensor([0.45, 0.0, 1.0])).tolist() == pytest.approx(
        [0.0, -2.0, 2.4444447]
    )


def test_views_have_the_crops_size_whatever_the_videos_was() -> None:
    clips = [noise(0), noise(1, height=33, width=25), noise(2, height=24, width=24)]
    assert ssl_views(clips, [1, 2, 3], SSLConfig(crop_px=24)).shape == (3, 3, 3, 24, 24)


def test_a_still_clip_stays_still_through_every_change() -> None:
    for seed in range(20):
        view = ssl_views([still(seed)], [seed], ALWAYS)[0]
        assert view.std() > 0.01
        for t in range(1, 5):
            assert torch.equal(view[:, 0], view[:, t])


def test_a_seed_decides_a_view_whatever_else_is_in_the_batch() -> None:
    clips = [noise(n) for n in range(6)]
    config = SSLConfig(crop_px=24)
    seeds = [10, 11, 12, 13, 14, 15]
    together = ssl_views(clips, seeds, config)
    assert torch.equal(together, ssl_views(clips, seeds, config))
    for n in range(6):
        alone = ssl_views([clips[n]], [seeds[n]], config)[0]
        assert torch.allclose(together[n], alone, atol=1e-5)
    backwards = ssl_views(clips[::-1], seeds[::-1], config).flip(0)
    assert torch.allclose(together, backwards, atol=1e-5)


def test_other_seeds_give_other_views_of_one_clip() -> None:
    clip = noise(0)
    views = ssl_views([clip] * 10, list(range(10)), SSLConfig(crop_px=24))
    apart = [(views[a] - views[b]).abs().mean() for a in range(10) for b in range(a)]
    assert min(apart) > 0.05


def test_the_global_random_state_is_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = ssl_views([noise(0)], [5], ALWAYS)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(ssl_views([noise(0)], [5], ALWAYS), first)


def share(config: SSLConfig, changed: Any) -> float:
    seeds = range(300)
    clip = noise(0, height=24, width=24, frames=1)
    views = ssl_views([clip] * 300, list(seeds), config)
    return sum(bool(changed(view)) for view in views) / 300


PLAIN: dict[str, Any] = {
    "crop_px": 24,
    "area": (1.0, 1.0),
    "aspect": (1.0, 1.0),
    "flip": 0.0,
    "jitter": 0.0,
    "grey": 0.0,
    "blur": 0.0,
    "blur_sigma": (20.0, 20.0),  # scaled to a crop of 24: 2.1 pixels
}


def torchvisions(clip_THWC: Tensor, seed: int, config: SSLConfig) -> Tensor:
    """The view that torchvision's functions give, frame by frame, with the same draws."""
    draw = draw_view(seed, (clip_THWC.shape[1], clip_THWC.shape[2]), config)
    frames = []
    for frame in cut(clip_THWC, draw.crop).float() / 255:
        if draw.jitter is not None:
            for place in draw.jitter.order:
                if place == 0:
                    frame = tv.adjust_brightness(frame, draw.jitter.brightness)
                elif place == 1:
                    frame = tv.adjust_contrast(frame, draw.jitter.contrast)
                elif place == 2:
                    frame = tv.adjust_saturation(frame, draw.jitter.saturation)
                else:
                    frame = tv.adjust_hue(frame, draw.jitter.hue)
        frame = tv.rgb_to_grayscale(frame, 3) if draw.grey else frame
        if draw.sigma_px is not None:
            kernel_px = 2 * radius_px(draw.sigma_px, config.blur_px) + 1
            frame = tv.gaussian_blur(frame, kernel_px, draw.sigma_px)
        frame = tv.solarize(frame, 0.5) if draw.solarise else frame
        frames.append(tv.normalize(frame, [MEAN] * 3, [STD] * 3))
    return torch.stack(frames, dim=1)


@pytest.mark.parametrize("config", [SSLConfig(), CVRL], ids=["aug+", "cvrl"])
def test_a_view_is_torchvisions_with_the_same_draws_frame_by_frame(config: SSLConfig) -> None:
    config = config.model_copy(update={"crop_px": 60})
    for seed in range(25):
        for view in range(2):
            found = ssl_view(noise(seed), seed, config, view)
            expected = torchvisions(noise(seed), seed, config.of(view))
            assert torch.allclose(found, expected, atol=1e-4)  # in standard deviations


def test_clips_augmented_together_are_what_each_is_alone() -> None:
    # What a GPU does with a batch, done here with three clips of unlike sizes.
    config = CVRL.model_copy(update={"crop_px": 32}).of(1)
    config = config.model_copy(update={"blur": 0.5, "difference": 0.3})
    clips = [noise(0), noise(1, height=64, width=33), noise(2)] * 5
    seeds = list(range(15))
    together = torch.empty(15, 3, 3, 32, 32)
    _fill(together, clips, seeds, config)
    for clip, seed, found in zip(clips, seeds, together, strict=True):
        assert torch.allclose(found, ssl_view(clip, seed, config), atol=1e-4)


def test_a_batch_on_a_cpu_holds_the_single_views_to_the_last_digit() -> None:
    clips = [noise(0), noise(1, height=64, width=33), noise(2)]
    config = SSLConfig(crop_px=32)
    batch = ssl_views(clips, [5, 6, 7], config, view=1)
    for clip, seed, found in zip(clips, [5, 6, 7], batch, strict=True):
        assert torch.equal(found, ssl_view(clip, seed, config, view=1))


def test_a_view_may_differ_from_the_rest_in_some_settings() -> None:
    config = SSLConfig(grey=0.1, views=(ViewConfig(blur=1.0), ViewConfig(blur=0.1, solarise=0.2)))
    assert config.of(0) == SSLConfig(grey=0.1, blur=1.0)
    assert config.of(1) == SSLConfig(grey=0.1, blur=0.1, solarise=0.2)
    assert config.of(2) == SSLConfig(grey=0.1)
    assert SSLConfig().of(1) == SSLConfig()
    blurred = SSLConfig(**{**PLAIN, "views": (ViewConfig(blur=1.0),)})
    clip = noise(0, height=24, width=24)
    assert ssl_view(clip, 0, blurred).std() < 0.5 * ssl_view(clip, 0, blurred, view=1).std()


def test_the_kernel_of_cvrl_is_a_tenth_of_the_crop_made_odd() -> None:
    # 224 // 10 = 22, made odd 23; 112 // 10 = 11.
    assert CVRL.blur_px == 23
    assert CVRL.model_copy(update={"crop_px": 112}).blur_px == 11
    assert SSLConfig().blur_px is None


def test_a_difference_of_a_still_clip_is_nothing_and_of_another_something() -> None:
    config = SSLConfig(crop_px=24, difference=1.0)
    assert ssl_view(still(0), 0, config).abs().max() < 1e-5
    moving = ssl_view(noise(0), 0, SSLConfig(**{**PLAIN, "difference": 1.0}))
    assert moving.std() > 0.1
    assert torch.equal(moving[0], moving[2])


def test_without_changes_the_picture_comes_through() -> None:
    clip = noise(0, height=24, width=24)
    (view,) = ssl_views([clip], [0], SSLConfig(**PLAIN))
    expected = normalise(clip.permute(3, 0, 1, 2).float() / 255)
    assert torch.allclose(view, expected, atol=1e-5)


def test_each_change_happens_as_often_as_asked() -> None:
    clip = noise(0, height=24, width=24, frames=1)
    (plain,) = ssl_views([clip], [0], SSLConfig(**PLAIN))

    def differs(view: Tensor) -> bool:
        return not torch.allclose(view, plain, atol=1e-4)

    def is_grey(view: Tensor) -> bool:
        return bool((view[0] - view[1]).abs().max() < 1e-4)

    for name in ("flip", "jitter", "blur", "solarise", "difference"):
        assert share(SSLConfig(**{**PLAIN, name: 0.3}), differs) == pytest.approx(0.3, abs=0.08)
        assert share(SSLConfig(**{**PLAIN, name: 1.0}), differs) == 1.0
    assert share(SSLConfig(**{**PLAIN, "grey": 0.3}), is_grey) == pytest.approx(0.3, abs=0.08)


@pytest.mark.gpu
def test_a_batch_on_a_gpu_is_that_of_the_cpu_but_for_the_rounding_of_bytes() -> None:
    clips, seeds = [noise(n) for n in range(8)], list(range(8))
    config = SSLConfig(crop_px=32)
    here = ssl_views(clips, seeds, config)
    there = ssl_views([clip.cuda() for clip in clips], seeds, config).cpu()
    # Half a grey level at most before the changes, which make some of them larger.
    assert (here - there).abs().mean() < 0.5 / 255 / STD
    assert (here - there).abs().max() < 0.1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"area": (0.8, 0.2)}, "area must go from low to high, found 0.8 to 0.2"),
        ({"area": (0.2, 1.5)}, "area is a share of the picture, at most 1, found 1.5"),
        ({"blur_sigma": (2.0, 0.1)}, "blur_sigma must go from low to high"),
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"strengths": (0.4, 0.4, 0.4, 0.6)}, "hue turns by at most 0.5 either way, found 0.6"),
        ({"views": ({"area": (0.8, 0.2)},)}, "area must go from low to high, found 0.8 to 0.2"),
        ({"views": ({"crop_px": 10},)}, "Extra inputs are not permitted"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SSLConfig(**wrong)


def test_testing_sees_the_whole_picture_at_a_multiple_of_the_stride() -> None:
    # 40 x 52 brought to a short side of 64: 64 x 83.2, which lies nearer to 96 than to 64.
    view = detection_view(noise(0), None, DetectionConfig(test_short_side_px=64), 32)
    assert (view.left, view.top, view.right, view.bottom) == (0, 0, 1, 1)
    assert (view.height_px, view.width_px, view.flip) == (64, 96, False)


def test_training_crops_at_a_random_scale_and_flips_half_the_time() -> None:
    config = DetectionConfig(short_side_px=(64, 80), crop_px=56)
    views = [detection_view(noise(0), seed, config, 32) for seed in range(200)]
    assert views == [detection_view(noise(5), seed, config, 32) for seed in range(200)]
    assert sum(view.flip for view in views) == pytest.approx(100, abs=25)
    heights = [(view.bottom - view.top) * 40 for view in views]
    # 56 of 64 to 80 pixels, in pixels of the stored 40: 28 to 35.
    assert 27.5 < min(heights) < 29.5
    assert 33.5 < max(heights) < 35.5
    assert apply(noise(0), views[0]).shape == (3, 3, 56, 56)


def test_training_on_whole_pictures_changes_their_size_alone() -> None:
    config = DetectionConfig(short_side_px=(64, 128), crop_px=None, flip=0.0)
    sizes = {
        (view.left, view.top, view.right, view.bottom, view.height_px % 32, view.width_px % 32)
        for view in (detection_view(noise(0), seed, config, 32) for seed in range(30))
    }
    assert sizes == {(0, 0, 1, 1, 0, 0)}
