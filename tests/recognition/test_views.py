"""The scores of views, place by place, and what becomes of them: against a loop."""

from typing import Literal

import numpy as np
import pytest
import torch

from vidssl.backbones import BackboneConfig, slow, slowfast
from vidssl.errors import RecipeError
from vidssl.recognition.classifier import Classifier
from vidssl.recognition.protocol import Protocol, differences, parse_views
from vidssl.recognition.views import clip_scores, pools_its_map, video_scores

TINY = {"width": 8, "depths": (1, 1, 1, 1), "frames": 4}
BACKBONES: list[BackboneConfig] = [
    slow.Config.model_validate(TINY),
    slowfast.Config.model_validate({**TINY, "alpha": 2}),
]


def classifier(backbone: BackboneConfig) -> Classifier:
    torch.manual_seed(0)
    network = Classifier(backbone.build(), num_classes=5).eval()
    torch.nn.init.normal_(network.classifier.weight)
    return network


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda one: str(one.name))
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_each_window_is_scored_by_itself_and_then_the_mean_is_taken(
    backbone: BackboneConfig, activation: Literal["softmax", "sigmoid"]
) -> None:
    network, clips = classifier(backbone), torch.randn(2, 3, 4, 128, 160)
    with torch.inference_mode():
        found = clip_scores(network, clips, activation, window=2)
        maps = network.encoder.maps(clips)
        assert maps.shape[3:] == (4, 5)
        for clip in range(2):
            rows = []
            for top in range(3):
                for left in range(4):
                    part = maps[clip, :, :, top : top + 2, left : left + 2].mean(dim=(1, 2, 3))
                    logits = network.classifier(part)
                    if activation == "softmax":
                        rows.append(logits.exp() / logits.exp().sum())
                    else:
                        rows.append(1 / (1 + (-logits).exp()))
            torch.testing.assert_close(found[clip], torch.stack(rows).mean(dim=0))
        assert not torch.allclose(found, clip_scores(network, clips, activation, None), atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda one: str(one.name))
def test_at_the_size_of_the_training_windows_and_the_whole_map_are_one(
    backbone: BackboneConfig,
) -> None:
    network, clips = classifier(backbone), torch.randn(2, 3, 4, 64, 64)
    with torch.inference_mode():
        one = clip_scores(network, clips, "softmax", window=2)
        torch.testing.assert_close(one, clip_scores(network, clips, "softmax", None))
        larger = clip_scores(network, clips, "softmax", window=7)  # than the map
        torch.testing.assert_close(one, larger)


def test_views_are_averaged_or_their_greatest_is_taken() -> None:
    views = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]])
    assert video_scores(views, "mean").tolist() == pytest.approx([0.3, 0.7])
    assert video_scores(views, "max").tolist() == pytest.approx([0.6, 0.9])


def test_a_trunk_that_does_not_pool_its_map_is_known() -> None:
    network = classifier(BACKBONES[0])
    assert pools_its_map(network.encoder)

    class WithToken(type(network.encoder)):  # type: ignore[misc]
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(clips), self.features)

    network.encoder.__class__ = WithToken
    assert not pools_its_map(network.encoder)


# --- which clips


def protocol(**changes: object) -> Protocol:
    usual: dict[str, object] = {
        **{"clips": 10, "crops": 3, "frames": 8, "stride": 8, "sampling": "uniform"},
        **{"indexing": "stride", "reach_end": False, "short_side_px": 256, "crop_px": 256},
        **{"decode_short_side_px": 256, "window": 7, "activation": "softmax"},
        **{"gathering": "mean", "precision": "fp32"},
    }
    return Protocol(**{**usual, **changes})  # type: ignore[arg-type]


def test_ten_clips_begin_at_tenths_of_the_latest_start() -> None:
    # 8 frames 8/30 s apart span 56/30 s; the latest start of 10 s is 10 - 56/30 - 0.001.
    times = protocol().times(10.0)
    latest_s = 10 - 56 / 30 - 0.001
    assert times.shape == (10, 8)
    assert times[:, 0] == pytest.approx([latest_s * n / 10 for n in range(10)])
    assert np.diff(times, axis=1) == pytest.approx(8 / 30)
    assert protocol(reach_end=True).times(10.0)[-1, 0] == pytest.approx(latest_s)


def test_a_single_clip_lies_in_the_middle() -> None:
    (times,) = protocol(clips=1).times(10.0)
    assert (times[0] + times[-1]) / 2 == pytest.approx(5.0, abs=0.001)


def test_segments_give_one_frame_from_the_middle_of_each_part() -> None:
    (times,) = protocol(clips=1, sampling="segments").times(8.0)
    assert times.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    with pytest.raises(RecipeError, match=r"--views 10x3.*expected 1x3"):
        protocol(sampling="segments")


def test_a_video_shorter_than_a_clip_shows_its_last_frame_again() -> None:
    times = protocol().times(1.0)
    assert times.shape == (10, 8)
    assert times.max() == pytest.approx(0.999)


@pytest.mark.parametrize("text", ["10", "10x2", "0x3", "x3", "10x3x1", "ten"])
def test_views_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--views: expected CLIPSxCROPS"):
        parse_views(text)
    assert parse_views("10X3") == (10, 3)


def test_two_protocols_differ_by_what_decides_scores_alone() -> None:
    one = {**protocol().fingerprint(), "classifier": "a", "code": "1"}
    two = {**protocol(crops=1).fingerprint(), "classifier": "b", "code": "2"}
    assert differences(one, {**one, "classifier": "c"}) == []
    assert differences(one, two) == [
        "views: 10x3 and 10x1",
        "crops: left centre right and centre",
    ]
