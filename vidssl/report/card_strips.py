"""Clips small enough that a page can hold thousands: a few frames side by side in one picture.

A page shows the first frame and moves the picture along to play the others, so that nothing moves
until somebody looks, and a clip costs about as much as one picture of its area.

Array suffixes: T frames, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidssl.report.card import Strip

Frames = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Rung:
    """How a clip is kept: frames of so many pixels, as WebP of so high a quality (0 to 100)."""

    width_px: int
    height_px: int
    frames: int
    quality: int


LADDER = (
    Rung(128, 96, 8, 55),
    Rung(96, 72, 8, 45),
    Rung(80, 60, 6, 40),
    Rung(64, 48, 6, 35),
    Rung(64, 48, 4, 30),
    Rung(48, 36, 4, 25),
    Rung(48, 36, 2, 25),
    Rung(48, 36, 1, 25),
)
"""From the best to the smallest; each takes clearly less than the one before."""
TOO_MUCH = 1.15
"""Clips that nobody has measured may be larger than those that were, on average."""


def strip(frames: Frames, rung: Rung) -> Strip:
    """Return ``rung.frames`` of the frames ``(H, W, 3)``, evenly spaced, as one WebP.

    Fewer where there are fewer. Each is shrunk, and its middle cut to the rung's shape.

    Raises:
        ValueError: if there is no frame.
    """
    if not frames:
        raise ValueError("a strip needs at least one frame")
    count = min(rung.frames, len(frames))
    chosen = [frames[int((n + 0.5) * len(frames) / count)] for n in range(count)]
    whole = Image.new("RGB", (rung.width_px * count, rung.height_px))
    for number, frame in enumerate(chosen):
        whole.paste(_cut(frame, rung), (number * rung.width_px, 0))
    buffer = BytesIO()
    whole.save(buffer, format="WEBP", quality=rung.quality, method=4)
    return Strip(buffer.getvalue(), count)


def rung_for(
    examples: Sequence[Frames], count: int, room: int, ladder: Sequence[Rung] = LADDER
) -> Rung | None:
    """Return the best rung of which ``count`` clips like ``examples`` fit into ``room`` bytes.

    None if not even the smallest does, or there is no example.
    """
    if not examples:
        return None
    for rung in ladder:
        mean = sum(len(strip(example, rung).image) for example in examples) / len(examples)
        if mean * TOO_MUCH * count <= room:
            return rung
    return None


def within(strips: Mapping[int, Strip], room: int, first: Sequence[int] = ()) -> dict[int, Strip]:
    """Return as many strips as fit into ``room`` bytes: those of ``first``, then by number."""
    kept: dict[int, Strip] = {}
    for video in dict.fromkeys([*first, *sorted(strips)]):
        if video in strips and len(strips[video].image) <= room:
            kept[video] = strips[video]
            room -= len(strips[video].image)
    return kept


def _cut(frame: NDArray[np.uint8], rung: Rung) -> Image.Image:
    height, width = frame.shape[:2]
    scale = max(rung.width_px / width, rung.height_px / height)
    wide, high = rung.width_px / scale, rung.height_px / scale
    left, top = (width - wide) / 2, (height - high) / 2
    return Image.fromarray(frame).resize(
        (rung.width_px, rung.height_px),
        Image.Resampling.BILINEAR,
        box=(left, top, left + wide, top + high),
        reducing_gap=2.0,
    )
