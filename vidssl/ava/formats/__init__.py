"""The annotations of other tools: ``vidssl/ava/formats/NAME.py`` reads what tool NAME exports.

A format has ``read(path, hints)``, which returns the people of its file as tracks, ``EVERY_S``, how
far apart key frames are by default (0: the tool's own moments), and first lines that say what is
read. Its file name is its name on the command line.

What is an action? In all formats, in this order: the attributes that a person names; attributes
called action, actions or activity; where the tool has labels, the label of the box. A choice among
options is the action of its option, a check box that is ticked the action that it is called after,
a text one action or several with commas between.
"""

import importlib
import math
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from vidssl.ava.formats._faults import Faults, Node
from vidssl.ava.tracks import Box, Track
from vidssl.errors import AnnotationError, nearest

__all__ = ["Facts", "Hints", "Imported", "find", "formats"]

ACTION_NAMES = ("action", "actions", "activity")
PERSON_NAMES = ("person", "person_id", "track", "track_id", "instance", "instance_id")
NOTHING = ("", "__undefined__")
FARTHEST = 0.5
"""A box may stick out by half a picture; further out its numbers belong to another picture size."""


@dataclass(frozen=True)
class Facts:
    """What is known of a video: pictures a second, width and height in pixels, seconds."""

    fps: float | None = None
    size_px: tuple[int, int] | None = None
    length_s: float | None = None


@dataclass(frozen=True)
class Hints:
    """What a file may not say itself.

    ``attributes`` are those that hold actions; ``stated`` is what a person says of all videos, and
    goes before the file; ``videos`` is what the videos at hand are, and fills in. ``first_frame``
    is the number of the first picture in file names.
    """

    attributes: tuple[str, ...] = ()
    stated: Facts = Facts()
    videos: Mapping[str, Facts] = field(default_factory=dict)
    first_frame: int = 0

    def fps(self, video: str, said: float | None = None) -> float | None:
        """Return a video's pictures a second, of which the file says ``said``."""
        return self.stated.fps or said or self.videos.get(video, Facts()).fps

    def size_px(self, video: str, said: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Return a video's width and height, of which the file says ``said``."""
        return self.stated.size_px or said or self.videos.get(video, Facts()).size_px

    def length_s(self, video: str) -> float | None:
        """Return how long a video is, if it is at hand."""
        return self.videos.get(video, Facts()).length_s


@dataclass(frozen=True)
class Imported:
    """The content of a file.

    ``actions`` are the names in the tool's order, those of no box among them; ``ids`` has their
    numbers where the tool gives them some. ``remarks`` tell of what was passed over.
    """

    tracks: Sequence[Track]
    actions: Sequence[str]
    ids: Mapping[str, int] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def formats() -> list[str]:
    """Return the names of all formats."""
    return [module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"]


def find(name: str) -> ModuleType:
    """Return the module of a format.

    Raises:
        AnnotationError: if there is none of that name.
    """
    if name not in formats():
        choices = ", ".join(formats())
        hint = nearest(name, formats())
        raise AnnotationError(
            f"no format {name!r} in vidssl.ava.formats{hint} (choices: {choices})"
        )
    return importlib.import_module(f"vidssl.ava.formats.{name}")


def video_of(name: str) -> str:
    """Return the id of a video: its file's name without folder and suffix."""
    file = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    stem, dot, _ = file.rpartition(".")
    return stem if dot and stem else file


def chosen_attributes(
    hints: Hints, known: Iterable[str], faults: Faults, *, has_labels: bool
) -> tuple[str, ...]:
    """Return the attributes that hold actions; none where the labels of boxes are the actions.

    Raises:
        AnnotationError: if a named attribute is not there, or nothing tells which it is.
    """
    there = list(dict.fromkeys(known))
    for name in hints.attributes:
        if name not in there:
            raise AnnotationError(
                f"{faults.path.name}: --attribute: no attribute {name!r} of a box"
                f"{nearest(name, there)} (there are: {', '.join(there) or 'none'})"
            )
    if hints.attributes:
        return hints.attributes
    own = tuple(name for name in there if name.strip().lower() in ACTION_NAMES)
    if own or has_labels:
        return own
    others = [name for name in there if name.strip().lower() not in PERSON_NAMES]
    if len(others) == 1:
        return (others[0],)
    raise AnnotationError(
        f"{faults.path.name}: which attributes hold actions? Say it with --attribute "
        f"(there are: {', '.join(there) or 'none'})"
    )


def told_apart(text: str) -> list[str]:
    """Return the actions that a text names, with commas between."""
    return [name for part in text.split(",") if (name := part.strip()) not in NOTHING]


def person_of(said: Iterable[Node]) -> str | None:
    """Return the first of several names of a person; None where all are null or blank."""
    names = (str(one.value).strip() for one in said if not one.is_absent)
    return next((name for name in names if name), None)


def normalised(
    box_px: tuple[float, float, float, float],
    size_px: tuple[float, float],
    where: str,
    faults: Faults,
) -> Box:
    """Return x1 y1 x2 y2 by the size of the picture; note a box that cannot be of that size."""
    width, height = size_px
    x1, y1, x2, y2 = box_px
    box = (x1 / width, y1 / height, x2 / width, y2 / height)
    if any(map(math.isnan, box)):
        return box  # was told of where it was read
    shown = ",".join(f"{value:g}" for value in box_px)
    if not (x1 < x2 and y1 < y2):
        faults.add(where, "empty box", "a width and a height above 0", shown)
    elif (
        min(box) < -FARTHEST
        or max(box) > 1 + FARTHEST
        or max(box[0], box[1]) >= 1
        or min(box[2], box[3]) <= 0
    ):
        expected = f"a box inside of {width:g}x{height:g} (is that the picture's size?)"
        faults.add(where, "box outside of the picture", expected, shown)
    return box


def turned(
    box_px: tuple[float, float, float, float], degrees: float, pivot_px: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return the upright box around one that was turned clockwise about a point."""
    if not degrees:
        return box_px
    x1, y1, x2, y2 = box_px
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    px, py = pivot_px
    corners = [
        (px + (x - px) * cos - (y - py) * sin, py + (x - px) * sin + (y - py) * cos)
        for x in (x1, x2)
        for y in (y1, y2)
    ]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def needed(value: object, video: str, what: str, option: str, faults: Faults) -> bool:
    """Note that something of a video is not known, if so; return whether it is."""
    if value is None:
        faults.add(f"video {video!r}", f"{what} not known", f"{option} or --videos", "neither")
    return value is not None
