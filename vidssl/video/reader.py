"""The contract of every decoder: times in seconds in, RGB uint8 frames and their true times out.

A frame is the answer for time t if it is on the screen at t: the last one that begins at or before
t. Times before the first frame get the first, times after the last decodable frame get the last.
Times count from the first frame of the video stream. Frames are display-rotated. Of several video
streams the first is read.

``vidssl/video/decoders/NAME.py`` holds one decoder: its class ``Reader`` and its ``VERSION``.
"""

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from vidssl.video.backends import resolved
from vidssl.video.storage import Location, is_frames, shown

Decoder = Literal["auto", "torchcodec", "pyav", "decord"]
"""``auto`` is PyAV: no other reads more files, or faster (see ``vidssl.video.backends``)."""

EPSILON_S = 1e-6
"""A time this much before a frame's start still gets that frame."""

BLOCK_BYTES = 64 << 20
"""Decoded frames that are held at a time where all frames of a video are wanted."""


@dataclass(frozen=True)
class Clip:
    """Decoded frames ``(T, H, W, 3)``, RGB uint8, and the time at which each begins, ``(T,)``."""

    frames: NDArray[np.uint8]
    times_s: NDArray[np.float64]


class Reader(ABC):
    """One open video. Not to be shared between threads, nor carried across a fork."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._pid = os.getpid()

    @abstractmethod
    def frames_at(self, times_s: NDArray[np.float64], short_side_px: int | None = None) -> Clip:
        """Return the frames on the screen at ``times_s``, in the order asked.

        ``short_side_px`` shrinks frames whose short side is longer, keeping the shape of the
        picture.

        Raises:
            VideoError: if not a single frame can be decoded.
            ValueError: if no time is given.
            RuntimeError: in another process than the one that opened the video.
        """

    def in_turn(
        self, times_s: NDArray[np.float64], short_side_px: int | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Give the frames ``(H, W, 3)`` on the screen at rising ``times_s``, one after another.

        The same as ``frames_at``, for more frames than fit into memory.

        Raises:
            VideoError, RuntimeError: as ``frames_at``.
        """
        block = 1  # until the size of a frame is known
        while len(times_s):
            frames = self.frames_at(times_s[:block], short_side_px).frames
            yield from frames
            times_s, block = times_s[block:], max(1, BLOCK_BYTES // frames[0].nbytes)

    @abstractmethod
    def close(self) -> None:
        """Release the decoder at once."""

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the video."""
        self.close()

    def _require_right_use(self, times_s: NDArray[np.float64]) -> None:
        if len(times_s) == 0:
            raise ValueError("expected at least one time, got none")
        if os.getpid() != self._pid:
            where = shown(self.location)
            raise RuntimeError(
                f"{where}: a reader cannot be carried across a fork; open it in the process itself"
            )


def open_reader(location: Location, decoder: Decoder = "auto", *, threads: int = 1) -> Reader:
    """Open a video with the chosen decoder; a folder of frames with the only one that can.

    Raises:
        VideoError: if there is no such video, or it cannot be read by that decoder.
    """
    name = "frames" if is_frames(location) else resolved(decoder)
    module = importlib.import_module(f"vidssl.video.decoders.{name}")
    reader: Reader = module.Reader(location, threads=threads)
    return reader


def decoder_version(decoder: Decoder = "auto") -> str:
    """Return name and version of a decoder, as it is written beside what was made with it."""
    name = resolved(decoder)
    version: str = importlib.import_module(f"vidssl.video.decoders.{name}").VERSION
    return version
