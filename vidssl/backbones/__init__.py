"""Video backbones: one family a file, and the contract that they share.

A family is chosen by its file's name; adding one means adding ``vidssl/backbones/NAME.py`` with a
``Config`` whose ``network`` returns an ``Encoder``.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, F features; T', H', W' of a map.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, TypeVar

from pydantic import PositiveInt, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from vidssl.nn.changes import difference
from vidssl.nn.recompute import in_parts
from vidssl.section import Section

Maps = TypeVar("Maps", bound=Tensor | tuple[Tensor, ...])
Sees = Literal["frames", "changes"]


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
    """How many parts clips go through in, one after the other, while training."""
    sees: Sees = "frames"
    """What the trunk is given of a clip; families mark what takes clips with
    :func:`takes_clips`."""

    @abstractmethod
    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the last feature map, ``(B, F, T', H', W')``."""

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the map's mean over time and space, ``(B, F)``."""
        return self.maps(clips_BCTHW).mean(dim=(2, 3, 4))


def takes_clips(encode: Callable[[Any, Tensor], Maps]) -> Callable[[Any, Tensor], Maps]:
    """Have a method of an encoder see what its ``sees`` says of clips, in its ``parts``."""
    parted = in_parts(encode)

    @wraps(encode)
    def seeing(encoder: Any, clips_BCTHW: Tensor) -> Maps:
        if encoder.sees == "changes":
            clips_BCTHW = difference(clips_BCTHW)
        return parted(encoder, clips_BCTHW)

    return seeing


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
    sees: Sees = "frames"
    """The frames, or what changes in grey from each to the next (movement without colours)."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``sees`` out where it is as it ever was: older runs and banks compare equal."""
        options: dict[str, Any] = dump(self)
        if self.sees == "frames":
            options.pop("sees", None)
        return options

    def build(self) -> Encoder:
        """Return the encoder with fresh weights."""
        encoder = self.network()
        encoder.sees = self.sees
        return encoder

    @abstractmethod
    def network(self) -> Encoder:
        """Return the family's network with fresh weights; :meth:`build` adds what all share."""

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
