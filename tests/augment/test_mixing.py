"""Mixup and CutMix against torchvision's with the same draw, and their draws."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import CutMix, MixUp

from vidssl.augment.mixing import Mix, draw_mix, mix_clips, mix_labels, soft_labels


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
