"""Networks of other libraries behind the contract of :class:`~vidssl.backbones.Encoder`.

A family that pytorchvideo or torchvision builds keeps their names of weights under ``trunk.``, so
that published files of theirs fit once that prefix is added and the classifier's left out. Norms,
non-local blocks and the detection form of our own trunks are not offered for these.

Tensor suffixes: B clips, C channels, T frames, H and W pixels; T', H', W' of a map.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vidssl.backbones import Encoder, takes_clips


class Adapted(Encoder):
    """A network that was made elsewhere and turns clips into a map by itself."""

    def __init__(
        self, trunk: nn.Module, *, features: int, spatial_stride: int, temporal_stride: int
    ) -> None:
        """Take over ``trunk``, ``(B, C, T, H, W) -> (B, features, T', H', W')``, as it is."""
        super().__init__()
        self.features = features
        self.spatial_stride = spatial_stride
        self.temporal_stride = temporal_stride
        self.trunk = trunk

    @takes_clips
    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the trunk's map, ``(B, F, T', H', W')``.

        T', H' and W' are T, H and W over the strides, rounded up.
        """
        map_: Tensor = self.trunk(clips_BCTHW)
        return map_


@contextmanager
def importing_pytorchvideo() -> Iterator[None]:
    """Keep quiet about the one thing that importing pytorchvideo warns of.

    It scripts some activations, which PyTorch has deprecated. The import takes time too, so it
    belongs in the functions that build something.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script")
        yield


def with_clip_of(options: Any, clips: Mapping[str, tuple[int, int]], default: str) -> Any:
    """Return the options of a family with the published clip of its ``size`` where they say none.

    ``clips`` gives (frames, stride) by size. Anything but a mapping with a known size is returned
    as it is, for pydantic to judge.
    """
    if not isinstance(options, dict):
        return options
    size = options.get("size", default)
    if not isinstance(size, str) or size not in clips:
        return options
    frames, stride = clips[size]
    return {"frames": frames, "stride": stride, **options}
