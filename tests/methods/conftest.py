"""A backbone small enough to work out by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder


class MeanColour(Encoder):
    """The mean colour of a clip through one matrix, with no normalisation between clips."""

    features = 3
    spatial_stride = temporal_stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(3) + 0.1 * torch.randn(3, 3))

    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        mixed: Tensor = torch.einsum("ij,bjthw->bithw", self.mix, clips_BCTHW)
        return mixed


class Normed(MeanColour):
    """The same with BatchNorm, whose statistics tell clips that are encoded together."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(3)

    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().maps(clips_BCTHW))
        return normed


@pytest.fixture
def mean_colour() -> Callable[[], Encoder]:
    return MeanColour


@pytest.fixture
def normed() -> Callable[[], Encoder]:
    return Normed
