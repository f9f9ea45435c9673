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
from collections.abc import Callable, Sequence
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
_RETURN_CHANCE = 0.65
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
    track: Floats
    """``(F, 3)``: centre x, centre y in pixels, angle in ``TURN`` units."""
    boxes: Floats
    """``(F, 4)``: the tight box of the actor's outline in pixels, not cut to the picture."""

    @property
    def first(self) -> int:
        """The video's frame that row 0 of the arrays belongs to."""
        return max(self.start, 0)

    def present(self, frame: int) -> bool:
        """Tell whether the visit has a row for this frame of the video."""
        return 0 <= frame - self.first < len(self.track)

    def box(self, frame: int) -> Floats:
        """Return the outline's box at a frame of the video, ``(4,)`` pixels, not cut."""
        return np.asarray(self.boxes[frame - self.first])

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
    sense: int
    """1 for around the ellipse clockwise, -1 for the other way."""

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
        self._next: Callable[[], float] = random.Random(mixed).random

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
        # Not sum(): Python 3.12 made it round differently.
        return (self._next() + self._next() + self._next() + self._next() - 2.0) * 1.732

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
    homes = _homes(Draw(seed, index, 4), stays, actors)
    visits = tuple(
        _visit(Draw(seed, index, 5, number), number, stays, homes, interactions, frames)
        for number in range(len(stays))
    )
    # Which scene an index gets is shifted by the seed; neighbours differ, so splits are balanced.
    scene = SCENES[(index + Draw(seed).below(len(SCENES))) % len(SCENES)]
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
        arm, tip = 0.36, 0.93
        corner = [(tip, -arm), (tip, arm), (arm, arm)]
        # Each turn by a quarter of the circle takes (x, y) to (-y, x).
        turned = [[(-y, x) for x, y in corner], [(-x, -y) for x, y in corner]]
        return np.array([*corner, *turned[0], *turned[1], *[(y, -x) for x, y in corner]])
    counts = {"disc": 32, "square": 4, "triangle": 3, "star": 10}
    if shape not in counts:
        raise ValueError(f"no shape {shape!r} (choices: {', '.join(SHAPES)})")
    corners = np.arange(counts[shape])
    angles = corners * TURN // counts[shape]
    radius = np.where(corners % 2, 0.5, 1.0) if shape == "star" else np.ones(len(corners))
    return np.stack([radius * cosine(angles), radius * sine(angles)], axis=1)


def outlines(actor: Actor, track_F3: Floats) -> Floats:
    """Return the vertices of an actor along its track, ``(F, V, 2)`` in pixels."""
    x_V, y_V = outline(actor.shape).T * actor.radius_px
    angle_F1 = track_F3[:, 2:].astype(np.int64)
    sin_F1, cos_F1 = sine(angle_F1), cosine(angle_F1)
    x_FV = track_F3[:, :1] + (x_V * cos_F1 - y_V * sin_F1)
    y_FV = track_F3[:, 1:2] + (x_V * sin_F1 + y_V * cos_F1)
    return np.stack([x_FV, y_FV], axis=2)


def _moment(draw: Draw, second: int) -> int:
    """Return the frame in ``second`` at which a change begins, mostly clear of key frames."""
    offset = draw.pick((2, 3, 4, 5)) if draw.chance(0.85) else draw.pick((0, 1, 6, 7))
    return second * FPS + offset


def _stays(draw: Draw, seconds: int) -> list[_Stay]:
    """Fill the lanes from before the video's beginning; stays are in order of coming in."""
    due = [draw.below(8) - 6 for _ in _LANES_X]
    left: dict[int, int] = {}  # by actor who may still come back: the second of going out
    stays: list[_Stay] = []
    newcomer = 0
    for now in range(-6, max(seconds - 1, 1)):
        for lane in range(len(_LANES_X)):
            if due[lane] != now:
                continue
            leave = now + draw.pick((3, 4, 5, 5, 6, 6, 6))
            due[lane] = leave + 2 + draw.below(5)
            if leave < 1:  # over before the video begins
                continue
            away = [a for a, since in left.items() if AWAY_S + 1 <= now - since <= 15]
            if away and draw.chance(_RETURN_CHANCE):
                actor = draw.pick(away)
            else:
                actor, newcomer = newcomer, newcomer + 1
            left[actor] = leave
            begin, end = _moment(draw, now), _moment(draw, leave) + CHANGE
            stays.append(_Stay(actor, lane, now, leave, begin, end))
    return stays


def _cast(draw: Draw, count: int) -> tuple[Actor, ...]:
    """Give each identity its look; any ten in a row differ in hue, any five in shape."""
    hues, shapes = draw.shuffled(range(HUES)), draw.shuffled(SHAPES)
    digits = draw.shuffled(range(DIGITS))
    actors = []
    for number in range(count):
        shape = shapes[(number + number // HUES) % len(SHAPES)]
        large = shape in ("triangle", "star")
        actors.append(
            Actor(
                shape=shape,
                hue=(hues[number % HUES] + draw.uniform(-0.2, 0.2)) / HUES % 1.0,
                radius_px=draw.uniform(16.5, 19.0) if large else draw.uniform(14.0, 17.5),
                photo=draw.below(2),
                crop=(draw.uniform(0, 1), draw.uniform(0, 1)),
                digit=digits[number % DIGITS],
                dark=draw.chance(0.5),
            )
        )
    return tuple(actors)


def _interactions(draw: Draw, stays: Sequence[_Stay]) -> list[Interaction]:
    """Pair stays that share at least two seconds, each with one other at a time."""
    # Stays are in order of coming in; nobody meets whoever came eight stays earlier.
    pairs = [(one, two) for two in range(len(stays)) for one in range(max(0, two - 8), two)]
    taken: list[tuple[int, int, int]] = []  # stay, second of entering, second of leaving
    made = []
    for one, two in pairs:
        begin = max(stays[one].enter, stays[two].enter)
        span = min(stays[one].leave, stays[two].leave) - begin
        if span < 2 or not draw.chance(0.95):
            continue
        length = min(span, 3 + draw.below(3))
        begin += draw.below(span - length + 1)
        end = begin + length
        busy = any(who in (one, two) and begin <= b and a <= end for who, a, b in taken)
        if busy or _in_the_way(stays, one, two, begin, end):
            continue
        taken += [(one, begin, end), (two, begin, end)]
        active, other = draw.shuffled((one, two))
        # Only one of the two gets the label of a chase or a following, both that of a meeting.
        kind = draw.pick(("chase", "chase", "chase", "follow", "follow", "follow", "meet", "meet"))
        enter, leave = _moment(draw, begin), _moment(draw, end)
        made.append(Interaction(kind, active, other, enter, leave, draw.pick((-1, 1))))
    return made


def _in_the_way(stays: Sequence[_Stay], one: int, two: int, begin: int, end: int) -> bool:
    """Tell whether somebody is in the middle lane while the two are in the outer ones."""
    outer = abs(stays[one].lane - stays[two].lane) == 2
    return outer and any(
        stay.lane == 1 and stay.enter <= end and begin <= stay.leave for stay in stays
    )


@dataclass(frozen=True)
class _Home:
    """Where a stay's actor is when nothing calls it elsewhere."""

    x: float
    y: float
    actor: Actor


def _homes(draw: Draw, stays: Sequence[_Stay], actors: Sequence[Actor]) -> list[_Home]:
    """Return a place in its lane for each stay."""
    return [
        _Home(_LANES_X[stay.lane], draw.uniform(38.0, 58.0), actors[stay.actor]) for stay in stays
    ]


def _visit(
    draw: Draw,
    number: int,
    stays: Sequence[_Stay],
    homes: Sequence[_Home],
    interactions: Sequence[Interaction],
    frames: int,
) -> Visit:
    """Return stay ``number`` with its path: drift, then interactions, then motion, then edges."""
    stay, home = stays[number], homes[number]
    frame_F = np.arange(max(stay.start, 0), min(stay.end, frames))
    motions, changes = _motions(draw, stay)
    track_F3 = np.stack([*_drift(draw, home, frame_F), np.zeros(len(frame_F))], axis=1)
    for what in interactions:
        if number in (what.active, what.other):
            share_F = _ramp(frame_F, what.enter) * (1.0 - _ramp(frame_F, what.leave))
            path_F2 = _path(what, number, homes, frame_F)
            track_F3[:, :2] += share_F[:, None] * (path_F2 - track_F3[:, :2])
            changes += [(what.enter, what.enter + CHANGE), (what.leave, what.leave + CHANGE)]
    track_F3 += _motion(draw, motions, stay, frame_F)
    track_F3[:, :2] += _edges(draw, stay, home, track_F3, frame_F)
    corners_FV2 = outlines(home.actor, track_F3)
    boxes_F4 = np.concatenate([corners_FV2.min(axis=1), corners_FV2.max(axis=1)], axis=1)
    return Visit(
        stay.actor, stay.lane, stay.start, stay.end, motions, tuple(changes), track_F3, boxes_F4
    )


def _motions(draw: Draw, stay: _Stay) -> tuple[tuple[tuple[int, str], ...], list[tuple[int, int]]]:
    """Return the motions of a stay with their first frames, and its changes so far."""
    first = draw.pick(MOTIONS)
    motions = [(stay.start, first)]
    changes = [(stay.start, stay.start + CHANGE), (stay.end - CHANGE, stay.end)]
    length = stay.leave - stay.enter
    if length >= 4 and draw.chance(0.4):
        change = _moment(draw, stay.enter + 2 + draw.below(length - 3))
        second = draw.pick([name for name in MOTIONS if name != first])
        motions.append((change + CHANGE // 2, second))
        changes.append((change, change + CHANGE))
    return tuple(motions), changes


def _drift(draw: Draw, home: _Home, frame_F: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return x and y of a slow wandering around the home: 4 px at most, 5 px/s at most."""
    x_F = home.x + 3.0 * sine(draw.below(TURN) + (7 + draw.below(5)) * frame_F)
    y_F = home.y + 4.0 * sine(draw.below(TURN) + (7 + draw.below(5)) * frame_F)
    return x_F, y_F


def _path(
    what: Interaction, number: int, homes: Sequence[_Home], frame_F: NDArray[np.int64]
) -> Floats:
    """Return where an interaction wants one of its two visits to be, ``(F, 2)`` pixels."""
    active, other = homes[what.active], homes[what.other]
    mid_x, apart = (active.x + other.x) / 2, abs(active.x - other.x) / 2
    if what.kind == "meet":
        beside = (active.actor.radius_px + other.actor.radius_px) / 2 + 2.0
        x = mid_x + (beside if homes[number].x > mid_x else -beside)
        return np.broadcast_to(np.array([x, (active.y + other.y) / 2]), (len(frame_F), 2))
    rate = _CHASE_RATE if what.kind == "chase" else _FOLLOW_RATE
    # The one in front starts on its own side. On the flat ellipse of two outer lanes a smaller
    # lead keeps about the same distance: 35 to 50 px between the centres.
    angle_F = (0 if other.x > mid_x else TURN // 2) + what.sense * rate * (frame_F - what.enter)
    if number == what.active:
        angle_F = angle_F - what.sense * (276 if apart < 30 else 200)
    return np.stack([mid_x + apart * cosine(angle_F), 48.0 + 26.0 * sine(angle_F)], axis=1)


def _motion(
    draw: Draw, motions: Sequence[tuple[int, str]], stay: _Stay, frame_F: NDArray[np.int64]
) -> Floats:
    """Return what the motions add to a track, ``(F, 3)``; the angle starts at a random tilt."""
    add_F3 = np.zeros((len(frame_F), 3))
    add_F3[:, 2] = draw.below(TURN)
    ends = [since for since, _ in motions[1:]] + [stay.end]
    for (since, name), end in zip(motions, ends, strict=True):
        here_F = (frame_F >= since) & (frame_F < end)
        # Past its end a motion leaves the place as it was and the angle as it has become.
        elapsed_F = np.clip(frame_F - since, 0, end - since)
        if name == "shake":
            rate = _SHAKE_RATE + draw.below(31) - 15
            add_F3[:, 0] += here_F * (_SHAKE_PX * sine(rate * elapsed_F))
        elif name == "bounce":
            rate = _BOUNCE_RATE + draw.below(17) - 8
            add_F3[:, 1] += here_F * (_BOUNCE_PX * sine(rate * elapsed_F))
        elif name == "spin":
            low, high = _SPIN_RATE
            add_F3[:, 2] += draw.pick((-1, 1)) * (low + draw.below(high - low)) * elapsed_F
    return add_F3


def _edges(
    draw: Draw, stay: _Stay, home: _Home, track_F3: Floats, frame_F: NDArray[np.int64]
) -> Floats:
    """Return the way in from outside the picture and the way out, ``(F, 2)`` pixels."""
    sideways = {0: ("left",), 1: (), 2: ("right",)}[stay.lane]
    sides = ("top", "bottom", *sideways)
    way_in = _outside(draw.pick(sides), home, track_F3[0])
    way_out = _outside(draw.pick(sides), home, track_F3[-1])
    still_out_F1 = 1.0 - _ramp(frame_F, stay.start)[:, None]
    going_F1 = _ramp(frame_F, stay.end - CHANGE)[:, None]
    return np.asarray(still_out_F1 * way_in + going_F1 * way_out)


def _outside(side: str, home: _Home, place_3: Floats) -> Floats:
    """Return the step from a place to just outside one side of the picture, ``(2,)`` pixels."""
    x, y, radius = place_3[0], place_3[1], home.actor.radius_px + 1.0
    steps = {
        "left": (-x - radius, 0.0),
        "right": (WIDTH - x + radius, 0.0),
        "top": (0.0, -y - radius),
        "bottom": (0.0, HEIGHT - y + radius),
    }
    return np.array(steps[side])


def _ramp(frame_F: NDArray[np.int64], since: int) -> Floats:
    """Return 0 before a frame, 1 from ``CHANGE`` frames after it, and a smooth rise between."""
    share_F = np.clip((frame_F - since) / CHANGE, 0.0, 1.0)
    return np.asarray(share_F * share_F * (3.0 - 2.0 * share_F))
