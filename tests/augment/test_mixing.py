"""Mixup and CutMix against torchvision's with the same draw, Un-Mix by hand, and all draws."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import CutMix, MixUp

from vidssl.augment.mixing import (
    Mix,
    UnmixConfig,
    draw_mix,
    mix_clips,
    mix_labels,
    mix_reversed,
    soft_labels,
)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 2, 10, 12, generator=generator), torch.tensor([0, 2, 1, 2])


@pytest.mark.parametrize("mix", [Mix(0.3), Mix(0.75, (2, 1, 8, 6))])
def test_clips_and_labels_are_mixed_as_by_torchvision(mix: Mix) -> None:
    clips, labels = batch()
    theirs: Any = (CutMix if mix.box_px else MixUp)(num_classes=3)
    params = {"labels": labels, "batch_size": 4, "lam": mix.keep, "box": mix.box_px}
    params["lam_adjusted"] = mix.keep
    # Torchvision takes a video as (T, C, H, W).
    expected = theirs.transform(clips.transpose(1, 2).flatten(1, 2), params)
    expected = expected.unflatten(1, (2, 3)).transpose(1, 2)
    assert torch.allclose(mix_clips(clips, mix), expected, atol=1e-6)
    found = mix_labels(soft_labels(labels, 3), mix)
    assert torch.allclose(found, theirs.transform(labels, params), atol=1e-6)


def test_labels_by_hand() -> None:
    # The second clip, of class 2, keeps 0.75 and takes 0.25 of the first, of class 0.
    shares = mix_labels(soft_labels(torch.tensor([0, 2]), 3), Mix(0.75))
    assert shares.tolist() == [[0.75, 0.0, 0.25], [0.25, 0.0, 0.75]]


def test_the_clips_themselves_are_left_as_they_were() -> None:
    clips, labels = batch()
    shares = soft_labels(labels, 3)
    for mix in (Mix(0.3), Mix(0.75, (2, 1, 8, 6))):
        mix_clips(clips, mix)
        mix_labels(shares, mix)
    assert torch.equal(clips, batch()[0])
    assert torch.equal(shares, soft_labels(labels, 3))


def test_a_box_gives_the_share_of_pixels_that_it_leaves() -> None:
    rng = np.random.default_rng(0)
    boxed = 0
    for _ in range(200):
        mix = draw_mix(rng, (10, 12), mixup=0.0, cutmix=1.0)
        assert mix is not None
        assert mix.box_px is not None
        left, top, right, bottom = mix.box_px
        assert 0 <= left <= right <= 12
        assert 0 <= top <= bottom <= 10
        clips = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 1, 2, 10, 12)
        mixed = mix_clips(clips, mix)
        assert float(mixed[1].mean()) == pytest.approx(mix.keep)
        boxed += right > left
    assert boxed > 150


def test_which_way_of_mixing_is_drawn_follows_the_weights() -> None:
    rng = np.random.default_rng(0)
    assert draw_mix(rng, (10, 12), mixup=0.0, cutmix=0.0) is None
    only = [draw_mix(rng, (10, 12), mixup=0.8, cutmix=0.0) for _ in range(50)]
    assert all(mix is not None and mix.box_px is None for mix in only)
    both = [draw_mix(rng, (10, 12), mixup=0.8, cutmix=1.0) for _ in range(1000)]
    assert sum(mix is not None and mix.box_px is None for mix in both) == pytest.approx(500, abs=60)
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)): 1/12 for a = 1.
    keeps = [draw_mix(rng, (10, 12), mixup=1.0, cutmix=0.0) for _ in range(3000)]
    values = np.array([mix.keep for mix in keeps if mix is not None])
    assert values.mean() == pytest.approx(0.5, abs=0.02)
    assert values.var() == pytest.approx(1 / 12, rel=0.05)


# --- Un-Mix


def clips(count: int) -> torch.Tensor:
    """Clips whose every pixel is the number of the clip."""
    return torch.arange(float(count)).view(count, 1, 1, 1, 1).expand(count, 3, 8, 10, 12).clone()


def drawn(many: int = 300, **options: Any) -> list[Mix]:
    config = UnmixConfig(prob=1.0, **options)
    mixes = [config.draw(0, step, clips(2)) for step in range(many)]
    return [mix for mix in mixes if mix is not None]


def test_whole_clips_are_mixed_with_those_of_the_batch_in_reverse() -> None:
    mixed = mix_reversed(clips(4), Mix(0.75))
    # 0.75 of 0, 1, 2, 3 and 0.25 of 3, 2, 1, 0.
    assert mixed[:, 0, 0, 0, 0].tolist() == [0.75, 1.25, 1.75, 2.25]
    assert torch.equal(mixed, mixed[:, :1, :1, :1, :1].expand_as(mixed))
    middle = mix_reversed(clips(3), Mix(0.75))[1]
    assert torch.equal(middle, clips(3)[1])  # of an odd batch


@pytest.mark.parametrize("mix", [Mix(0.3), Mix(0.75, (2, 1, 8, 6)), Mix(0.5, frames=(1, 5))])
def test_the_mixture_in_reverse_is_that_of_the_share_taken(mix: Mix) -> None:
    # A pixel that one clip keeps, the clip at its mirrored place has taken.
    before = torch.rand(6, 3, 8, 10, 12, generator=torch.Generator().manual_seed(0))
    kept = before.clone()
    mixed = mix_reversed(before, mix)
    assert torch.equal(before, kept)
    assert torch.allclose(mixed + mixed.flip(0), before + before.flip(0), atol=1e-6)


@pytest.mark.parametrize("region", ["space", "time"])
def test_the_share_kept_of_a_region_is_what_is_counted(region: str) -> None:
    regions = drawn(global_share=0.0, region=region)
    for mix in regions:
        changed = mix_reversed(clips(2), mix)[0] != clips(2)[0]
        assert 1 - changed.float().mean().item() == pytest.approx(mix.keep, abs=1e-6)
        if region == "space":
            assert torch.equal(changed, changed[:, :1].expand_as(changed))  # in every frame
        else:
            whole = changed[0, :, 0, 0]
            assert torch.equal(changed, whole[None, :, None, None].expand_as(changed))
            assert int(whole.diff().sum()) <= 2  # one run
    assert len({mix.keep for mix in regions}) > (20 if region == "space" else 7)
    assert sum(mix.keep < 1 for mix in regions) > 200


def test_the_draws_of_a_step_are_its_own() -> None:
    config = UnmixConfig(prob=0.5)
    views = clips(2)
    for step in range(50):
        assert config.draw(7, step, views) == config.draw(7, step, views)
    # On every process, however many clips it has.
    assert [config.draw(7, s, views) for s in range(50)] == [
        config.draw(7, s, clips(5)) for s in range(50)
    ]
    assert [config.draw(7, s, views) for s in range(50)] != [
        config.draw(8, s, views) for s in range(50)
    ]


def test_steps_and_whole_clips_are_chosen_by_their_shares() -> None:
    assert not any(UnmixConfig().draw(0, step, clips(2)) for step in range(100))
    quarter = [UnmixConfig(prob=0.25).draw(0, step, clips(2)) for step in range(1000)]
    assert sum(mix is not None for mix in quarter) == pytest.approx(250, abs=45)
    mixes = drawn(1000, global_share=0.5)
    whole = [mix for mix in mixes if mix.box_px is None]
    assert len(whole) == pytest.approx(500, abs=50)
    # Beta(1, 1) is uniform: mean 1/2, variance 1/12.
    keeps = np.array([mix.keep for mix in drawn(2000, global_share=1.0)])
    assert keeps.mean() == pytest.approx(0.5, abs=0.03)
    assert keeps.var() == pytest.approx(1 / 12, rel=0.08)
    peaked = np.array([mix.keep for mix in drawn(500, global_share=1.0, beta=50.0)])
    assert peaked.std() == pytest.approx(0.05, abs=0.01)  # 1 / sqrt(4 (2 beta + 1))
