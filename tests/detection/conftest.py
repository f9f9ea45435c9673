"""A trunk small enough for a test, with all that a real one has: strides, BatchNorm, weights."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder


class TinyEncoder(Encoder):
    """One convolution of stride 4 in space and 2 in time, and BatchNorm."""

    features = 8
    spatial_stride = 4
    temporal_stride = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, kernel_size=(3, 5, 5), stride=(2, 4, 4), padding=(1, 2, 2))
        self.norm = nn.BatchNorm3d(8)

    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(clips_BCTHW))
        return normed.relu()


@pytest.fixture
def make_encoder() -> Callable[[], Encoder]:
    return TinyEncoder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost tensors this small a hundred times their work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
