"""Nearest neighbours: hand-made features whose neighbours are plain to see."""

import pytest
import torch

from vidssl.nn.neighbours import same_class, same_video


def test_the_nearest_other_clip_decides_for_the_video() -> None:
    # Directions by angle: 0, 5 | 90, 100 | 45, 3 degrees; the last clip is nearest to the second.
    angle = torch.deg2rad(torch.tensor([0.0, 5.0, 90.0, 100.0, 45.0, 3.0]))
    features = torch.stack([angle.cos(), angle.sin()], dim=1) * torch.tensor([[2.0]])
    video = torch.tensor([0, 0, 1, 1, 2, 2])
    # 0 -> 3 degrees (video 2), 5 -> 3 (2), 90 -> 100 (1), 100 -> 90 (1), 45 -> 5 (0), 3 -> 5 (0)
    assert same_video(features, video).item() == pytest.approx(2 / 6)


def test_clips_of_the_same_video_do_not_vote_for_their_class() -> None:
    features = torch.eye(2).repeat_interleave(4, dim=0)
    video = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    label = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert same_class(features, video, label).item() == 1.0
    # Each video a class of its own pair: the nearest others are of the wrong class.
    assert same_class(features, video, torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])).item() == 0.0


def test_clips_without_a_class_neither_vote_nor_count() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.95, 0.05]])
    video, label = torch.arange(5), torch.tensor([0, 0, 1, 1, -1])
    assert same_class(features, video, label).item() == 1.0
