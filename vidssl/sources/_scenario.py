"""What happens in a playground video: pure data, decided by a seed, computed without rendering.

Time is counted in frames (``FPS`` a second) and in whole seconds, whose first frame is the key
frame. Everything that changes, an actor coming or going, an interaction beginning, a motion
changing, does so within one second and takes ``CHANGE`` frames, mostly away from the key frames.

Three lanes share the picture. Each holds one actor after another; who comes next is either an
actor who has been away for 8 to 16 s or a new one, by the toss of a coin. The toss depends on
nothing else, so no frame of a visit says whether its actor was here before or will be here again.

Labels must come out equal everywhere. Hence only ``random.Random.random``, whose sequence Python
guarantees, elementwise float arithmetic, and sines from a rounded table.

Positions and boxes are in pixels, x to the right and y down. Angles are whole numbers of
``TURN`` in a circle. Array suffixes: F frames of a visit, V vertices, N boxes.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choice = TypeVar("Choice")

FPS = 15
HEIGHT, WIDTH = 96, 128
TURN = 1024
CHANGE = 8
AWAY_S = 8

MOTIONS = ("shake", "bounce", "spin", "glide")
INTERACTIONS = ("chase", "follow", "meet")
SHAPES = ("disc", "square", "triangle", "star", "cross")
SCENES = ("temple_day", "temple_night", "garden_day", "garden_dusk")
HUES = 10
DIGITS = 40

_SINE = np.array([round(math.sin(2 * math.pi * i / TURN), 6) for i in range(TURN)])
_RETURN_CHANCE = 0.5
_LANES_X = (24.0, 64.0, 104.0)
_SHAKE_PX, _BOUNCE_PX = 5.0, 8.0
# Turns of the circle a frame: 3 Hz, 1.5 Hz, and a turn in 1.2 to 1.9 s.
_SHAKE_RATE, _BOUNCE_RATE, _SPIN_RATE = TURN * 3 // FPS, TURN * 3 // (2 * FPS), (36, 57)
# Once around in 2.8 s and in 8.5 s: 50 to 60 and 17 to 20 px/s.
_CHASE_RATE, _FOLLOW_RATE = 24, 8


@dataclass(frozen=True)
class Actor:
    """How one identity looks. It looks so on every visit, except for the tilt."""

    shape: str
    hue: float
    """Position on the colour circle, 0 to 1."""
    radius_px: float
    """From the centre to the farthest vertex."""
    photo: int
    """Which photograph the texture is cut from, 0 or 1."""
    crop: tuple[float, float]
    """Where, as shares of the height and width that a crop can move in."""
    digit: int
    """Which handwritten digit is drawn on it."""
    dark: bool
    """Whether the rim and the digit are dark, not light."""


@dataclass(frozen=True)
class Visit:
    """One stay of an actor. Arrays run over its frames inside the video, ``start`` onwards."""

    actor: int
    lane: int
    start: int
    """First frame of coming in, when the actor is still wholly outside; may be negative."""
    end: int
    """Frame after the last of going out; may lie past the end of the video."""
    motions: tuple[tuple[int, str], ...]
    """(frame, motion): each holds from its frame to the next."""
    changes: tuple[tuple[int, int], ...]
    """(first, last) frame of everything that changes, interactions included."""
    track_F3: Floats
    """Centre x, centre y in pixels, angle in ``TURN`` units, for frame ``max(start, 0)`` onwards."""
    boxes_F4: Floats
    """The tight box of the actor's outline in pixels, not cut to the picture."""

    @property
    def first(self) -> int:
        """The video's frame that row 0 of the arrays belongs to."""
        return max(self.start, 0)

    def present(self, frame: int) -> bool:
        """Tell whether the visit has a row for this frame of the video."""
        return 0 <= frame - self.first < len(self.track_F3)

    def box(self, frame: int) -> Floats:
        """Return the outline's box at a frame of the video, ``(4,)`` pixels, not cut."""
        return np.asarray(self.boxes_F4[frame - self.first])

    def motion(self, frame: int) -> str:
        """Return the motion that holds at a frame of the video."""
        return [name for since, name in self.motions if since <= frame or since == self.start][-1]

    def changing(self, frame: int) -> bool:
        """Tell whether something changes within a frame of this one."""
        return any(first - 1 <= frame <= last + 1 for first, last in self.changes)


@dataclass(frozen=True)
class Interaction:
    """Two visits that have to do with each other.

    chase: ``active`` runs after ``other`` around an ellipse, once in 2.8 s. follow: the same path
    and the same distance at a walk, once in 8.5 s. meet: both come together and stay side by side,
    their outlines 2 px apart at most before their own motions.
    """

    kind: str
    active: int
    other: int
    enter: int
    """First frame of the change into it; it holds ``CHANGE`` frames later."""
    leave: int
    """First frame of the change out of it."""

    def holds(self, frame: int) -> bool:
        """Tell whether both actors are fully in it."""
        return self.enter + CHANGE <= frame <= self.leave


@dataclass(frozen=True)
class Scenario:
    """Everything that a video shows, apart from pixels."""

    seed: int
    index: int
    frames: int
    scene: str
    actors: tuple[Actor, ...]
    visits: tuple[Visit, ...]
    interactions: tuple[Interaction, ...]

    def keyframes(self) -> range:
        """Return the seconds that have annotations or detections: all but the first frame."""
        return range(1, (self.frames - 1) // FPS + 1)


class Draw:
    """Random decisions of one purpose, equal on every machine and Python version."""

    def __init__(self, *key: int) -> None:
        mixed = 0
        for part in key:
            mixed = mixed * 1_000_003 + part + 1
        self._next = random.Random(mixed).random

    def uniform(self, low: float, high: float) -> float:
        """Return a number between the two."""
        return low + (high - low) * self._next()

    def below(self, stop: int) -> int:
        """Return a whole number from 0 up to ``stop``, not included."""
        return int(self._next() * stop)

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """Return one of ``choices``."""
        return choices[self.below(len(choices))]

    def chance(self, share: float) -> bool:
        """Return true in ``share`` of the calls."""
        return self._next() < share

    def bell(self) -> float:
        """Return a number of mean 0 and deviation 1 between -3.5 and 3.5, nearly normal."""
        return (sum(self._next() for _ in range(4)) - 2.0) * 3.0**0.5

    def shuffled(self, choices: Sequence[Choice]) -> list[Choice]:
        """Return ``choices`` in random order."""
        left = list(choices)
        return [left.pop(self.below(len(left))) for _ in range(len(left))]


@dataclass(frozen=True)
class _Stay:
    """A visit before its path: it comes in during second ``enter``, goes during ``leave``."""

    actor: int
    lane: int
    enter: int
    leave: int
    start: int
    end: int


@dataclass(frozen=True)
class _Pull:
    """What an interaction does to one of its two visits: a path, and when it holds."""

    enter: int
    leave: int
    path_F2: Floats


def scenario(seed: int, index: int, seconds: float) -> Scenario:
    """Return what happens in video ``index`` of the playground of ``seed``.

    Raises:
        ValueError: if ``seconds`` is below 1 or a seed or index is negative.
    """
    if seconds < 1 or seed < 0 or index < 0:
        raise ValueError(f"no scenario for seed {seed}, video {index}, {seconds} s")
    frames = round(seconds * FPS)
    stays = _stays(Draw(seed, index, 1), -(-frames // FPS))
    actors = _cast(Draw(seed, index, 2), 1 + max(stay.actor for stay in stays))
    interactions = _interactions(Draw(seed, index, 3), stays)
    draw = Draw(seed, index, 4)
    homes = [(_LANES_X[stay.lane], draw.uniform(38.0, 58.0)) for stay in stays]
    pulls = _pulls(Draw(seed, index, 5), stays, interactions, homes, actors)
    visits = tuple(
        _visit(Draw(seed, index, 6, number), stay, actors[stay.actor], home, pulls[number], frames)
        for number, (stay, home) in enumerate(zip(stays, homes, strict=True))
    )
    # Which scene an index gets is shifted by the seed; neighbours differ, so splits are balanced.
    scene = SCENES[(index + Draw(seed, 7).below(len(SCENES))) % len(SCENES)]
    return Scenario(seed, index, frames, scene, actors, visits, tuple(interactions))


def sine(angle: NDArray[np.int64] | int) -> Floats:
    """Return the sine of angles in ``TURN`` units, to six decimals."""
    return np.asarray(_SINE[np.asarray(angle) % TURN])


def cosine(angle: NDArray[np.int64] | int) -> Floats:
    """Return the cosine of angles in ``TURN`` units, to six decimals."""
    return sine(np.asarray(angle) + TURN // 4)


def outline(shape: str) -> Floats:
    """Return the vertices of a shape of radius 1 around the origin, ``(V, 2)``, in order.

    Raises:
        ValueError: if the shape is not one of ``SHAPES``.
    """
    if shape == "cross":
        arm = 0.38
        quarter = np.array([[arm, -arm], [0.92, -arm], [0.92, arm]])
        turns = [quarter @ np.array([[0, 1], [-1, 0]]).T.astype(float) ** 1 for _ in ()]
        return np.concatenate([quarter, *turns])
    counts = {"disc": 32, "square": 4, "triangle": 3, "star": 10}
    if shape not in counts:
        raise ValueError(f"no shape {shape!r} (choices: {', '.join(SHAPES)})")
    corners = np.arange(counts[shape])
    angles = corners * TURN // counts[shape]
    radius = np.where(corners % 2, 0.5, 1.0) if shape == "star" else np.ones(len(corners))
    return np.stack([radius * cosine(angles), radius * sine(angles)], axis=1)
