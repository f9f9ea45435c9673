"""Video backbones: one family a file, and the contract that they share.

A family is chosen by its file's name; adding one means adding ``vidssl/backbones/NAME.py`` with a
``Config`` whose ``build`` returns an ``Encoder``.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, F features; T', H', W' of a map.
"""

from abc import ABC, abstractmethod
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from vidssl.section import Section


class Encoder(nn.Module, ABC):
    """A trunk that turns clips into a feature map.

    ``features`` is F. One cell of the map covers ``spatial_stride`` pixels a side and
    ``temporal_stride`` frames.
    """

    features: int
    spatial_stride: int
    temporal_stride: int
    spares_weights: bool = False
    """Whether ``maps`` leaves some weights out, which then get no gradient."""
    parts: int = 1
    """How many parts clips go through in, one after the other, while training; families mark what
    takes clips with :func:`~vidssl.nn.recompute.in_parts`."""

    @abstractmethod
    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the last feature map, ``(B, F, T', H', W')``."""

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the map's mean over time and space, ``(B, F)``."""
        return self.maps(clips_BCTHW).mean(dim=(2, 3, 4))


class BackboneConfig(Section, ABC):
    """The options of one family; each family gives ``frames`` and ``stride`` defaults of its own.

    A clip holds ``frames`` frames, one in ``stride`` of a video at 30 frames per second: the
    "T x tau" of papers.
    """

    name: Any
    frames: PositiveInt
    """Frames of the clip that the encoder is given."""
    stride: PositiveInt
    """Raw frames, 1/30 s each, from one frame of the clip to the next."""

    @abstractmethod
    def build(self) -> Encoder:
        """Return the encoder with fresh weights."""

    @abstractmethod
    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights.

        Two configs with equal dictionaries can exchange weights, however many frames they read and
        whatever their strides (the detection form has the clip form's weights).
        """

    def require_side(self, side_px: int | None, key: str) -> None:
        """Refuse clips that the encoder cannot take; most take all.

        ``side_px`` is the pixels a side of a square clip, None if pictures stay whole; ``key`` is
        where the recipe says so.

        Raises:
            ValueError: if no clip of that size can be encoded.
        """

    def require_batch(self, clips: int) -> None:
        """Refuse a number of clips that the encoder cannot be trained on; most take all.

        Raises:
            ValueError: if so many clips cannot be encoded while training.
        """
