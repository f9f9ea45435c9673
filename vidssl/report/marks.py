"""People marked in the frames of a video: a box, a number, and what they do.

Boxes move in straight lines from key frame to key frame of a person. Colours are Okabe and Ito's
(as in ``figures``) and go by the person's number; the number is written as well, for those who
cannot tell them apart.

Array suffixes: H and W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vidssl.report._short import printable

COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#B0B0B0")
"""By a person's number, from 1, over and over."""
LINES_A_PICTURE = 28
LEAST_LETTERS_PX = 9
LONGEST = 34
INK = "#000000"


def colour_of(track: int) -> str:
    """Return the colour of a person, by number from 1."""
    return COLOURS[(track - 1) % len(COLOURS)]


@dataclass(frozen=True)
class Seen:
    """A person at a key frame: normalised ``box``, and from when to when ``lines`` are shown."""

    time_s: float
    from_s: float
    to_s: float
    box: tuple[float, float, float, float]
    lines: Sequence[str]


@dataclass(frozen=True)
class Mark:
    """What to draw in one frame."""

    track: int
    box: tuple[float, ...]
    lines: Sequence[str]


class Course:
    """People by number, with their key frames by rising time."""

    def __init__(self, people: Mapping[int, Sequence[Seen]]) -> None:
        self._rows = {
            track: (np.array([s.from_s for s in seen]), np.array([s.to_s for s in seen]), seen)
            for track, seen in people.items()
        }
        # A long film has thousands of people, and few at a time.
        self._in_second: dict[int, list[int]] = {}
        for track, seen in people.items():
            spans = (range(int(one.from_s), int(one.to_s) + 1) for one in seen)
            for second in {second for span in spans for second in span}:
                self._in_second.setdefault(second, []).append(track)

    def at(self, time_s: float) -> list[Mark]:
        """Return everybody who is to be seen at a time."""
        marks = []
        for track in self._in_second.get(int(time_s), ()):
            from_s, to_s, seen = self._rows[track]
            row = int(np.searchsorted(from_s, time_s + 1e-6, side="right")) - 1
            if row >= 0 and time_s < to_s[row] + 1e-6:
                marks.append(Mark(track, _box_at(seen, row, time_s), seen[row].lines))
        return marks


def _box_at(seen: Sequence[Seen], row: int, time_s: float) -> tuple[float, ...]:
    """Return the box between two key frames that touch, else that of key frame ``row``."""
    here = seen[row]
    other = row + (1 if time_s > here.time_s else -1)
    if not 0 <= other < len(seen):
        return here.box
    first, second = (here, seen[other]) if other > row else (seen[other], here)
    if second.from_s > first.to_s + 2e-6 or second.time_s <= first.time_s:
        return here.box
    share = (time_s - first.time_s) / (second.time_s - first.time_s)
    return tuple(a + (b - a) * share for a, b in zip(first.box, second.box, strict=True))


class Pen:
    """What draws marks into frames; it keeps its letters from frame to frame."""

    def __init__(self) -> None:
        self._letters: dict[int, ImageFont.FreeTypeFont] = {}

    def draw(self, frame_HW3: NDArray[np.uint8], marks: Sequence[Mark]) -> NDArray[np.uint8]:
        """Return the frame, RGB uint8, with marks; itself if there are none."""
        if not marks:
            return frame_HW3
        picture = Image.fromarray(frame_HW3)
        pen = ImageDraw.Draw(picture)
        width, height = picture.size
        if height not in self._letters:
            self._letters[height] = _letters(height)
        thick = max(2, height // 240)
        for mark in marks:
            x1, y1, x2, y2 = _pixels(mark.box, width, height)
            for grown, colour in ((1, INK), (0, colour_of(mark.track))):
                outline = (x1 - grown, y1 - grown, x2 + grown, y2 + grown)
                pen.rectangle(outline, outline=colour, width=thick + 2 * grown)
        for mark in marks:  # on top of all boxes
            _caption(pen, mark, (width, height), self._letters[height])
        return np.asarray(picture)


def _caption(
    pen: ImageDraw.ImageDraw, mark: Mark, size: tuple[int, int], letters: ImageFont.FreeTypeFont
) -> None:
    """Write the number and the lines above the box, or into it where there is no room."""
    width, height = size
    text = "\n".join(printable(line, LONGEST) for line in (f"Person {mark.track}", *mark.lines))
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=letters, spacing=1)
    wide, high = right - left + 4, bottom - top + 4
    x1, y1, _, _ = _pixels(mark.box, width, height)
    x = max(0, min(x1, width - wide))
    y = y1 - high if y1 >= high else max(0, min(y1, height - high))
    pen.rectangle((x, y, x + wide, y + high), fill=colour_of(mark.track))
    pen.multiline_text((x + 2 - left, y + 2 - top), text, fill=INK, font=letters, spacing=1)


def _pixels(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the corners in the picture; a box is at least one pixel wide and high."""
    sizes = (width, height, width, height)
    x1, y1, x2, y2 = (
        round(min(max(v, 0.0), 1.0) * (s - 1)) for v, s in zip(box, sizes, strict=True)
    )
    return x1, y1, max(x2, x1), max(y2, y1)


def _letters(height: int) -> ImageFont.FreeTypeFont:
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(font), max(LEAST_LETTERS_PX, height // LINES_A_PICTURE))
