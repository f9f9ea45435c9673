"""People followed through a video, as annotation tools have them, and their boxes at key frames.

A tool stores a box now and then and what it means between; AVA layout wants a box at each key
frame. Boxes are normalised x1 y1 x2 y2 throughout.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vidssl.ava.annotations import Annotations, PersonBoxes
from vidssl.ava.columns import NOBODY
from vidssl.errors import AnnotationError

Box = tuple[float, float, float, float]
DECIMALS = 6  # of what is written: a millionth of the picture, a microsecond
ROUNDING_S = 1e-6  # times this close are one
MOST = 10_000_000  # key frames of one person: four months of them, each second
DIGITS = 18  # of a number that a column of person ids can hold
LATEST_S = 1e12  # thirty thousand years: a larger number of microseconds is not kept exactly
LEEWAY_S = 2e-6  # so long a moment without any length lasts


@dataclass(frozen=True)
class Shape:
    """A person at one moment.

    ``goes_on`` says that the box lasts until the next shape, moving there in a straight line;
    ``actions`` last as long. A shape that is not ``visible`` only ends the one before it.
    """

    time_s: float
    box: Box
    actions: tuple[str, ...] = ()
    visible: bool = True
    goes_on: bool = True


@dataclass(frozen=True)
class Track:
    """One person of one video, with shapes by rising time.

    ``person`` is what the tool calls the person, None where it follows nobody. The last shape lasts
    until ``until_s``, if that is later. ``slack_s`` is half the time that a picture stays: so far
    from a key frame's time a shape still counts as being at it.
    """

    video: str
    person: str | None
    shapes: Sequence[Shape]
    slack_s: float = 0.0
    until_s: float = -math.inf


@dataclass(frozen=True)
class Sampled:
    """Boxes at key frames: a row of ``rows`` is video, seconds, box, person id, actions.

    ``moments`` counts the shapes that the tool holds, ``between`` those of them that stand alone
    and belong to no key frame, ``cut`` the boxes that stuck out of the picture, ``twice`` boxes of
    one person that were there already, ``without_action`` the rows that have none.
    """

    rows: list[tuple[str, float, Box, int, tuple[str, ...]]]
    moments: int = 0
    between: int = 0
    cut: int = 0
    twice: int = 0
    without_action: int = 0


def at_key_frames(tracks: Sequence[Track], every_s: float) -> Sampled:
    """Return everybody's box at every multiple of ``every_s``, sorted by video and time.

    With 0, the key frames of a track are the moments of its shapes. People get the number that the
    tool gave them, if all have one, else numbers by video in order of appearance.

    Raises:
        AnnotationError: if a track is so long, or so late, that its times cannot be meant.
    """
    people = _numbers(tracks)
    found: dict[tuple[str, float, Box, int], dict[str, None]] = {}
    moments = between = cut = twice = 0
    for track in tracks:
        used = 0
        for time_s, box, actions in _samples(track, every_s):
            used += 1
            inside = _inside(box)
            cut += inside != box
            if inside[0] >= inside[2] or inside[1] >= inside[3]:
                continue  # nothing of it is left
            key = (track.video, time_s, inside, people.get((track.video, track.person), NOBODY))
            twice += key in found
            found.setdefault(key, {}).update(dict.fromkeys(actions))
        moments += sum(shape.visible for shape in track.shapes)
        if not any(shape.goes_on for shape in track.shapes):
            between += len(track.shapes) - used
    rows = [(*key, tuple(actions)) for key, actions in found.items()]
    rows.sort(key=lambda row: (row[0], row[1], row[3]))
    without = sum(not row[4] for row in rows)
    return Sampled(rows, moments, between, cut, twice, without)


def as_annotations(sampled: Sampled, ids: dict[str, int]) -> Annotations:
    """Return a row for each action of each box; people without any are left out.

    Rows with one box, action and frame are one, whoever they are of: the second could never be met
    by a prediction.
    """
    rows = {
        (video, time_s, box, ids[action]): person
        for video, time_s, box, person, actions in reversed(sampled.rows)
        for action in actions
    }
    keys = sorted(rows, key=lambda key: (key[0], key[1], rows[key], key[2], key[3]))
    return Annotations(
        video=np.array([key[0] for key in keys], dtype=np.str_),
        timestamp=np.array([key[1] for key in keys], dtype=np.float64),
        box=np.array([key[2] for key in keys], dtype=np.float64).reshape(-1, 4),
        action=np.array([key[3] for key in keys], dtype=np.int64),
        person=np.array([rows[key] for key in keys], dtype=np.int64),
    )


def as_person_boxes(sampled: Sampled) -> PersonBoxes:
    """Return everybody, with an action or without, as detections of score 1."""
    rows = dict.fromkeys((video, time_s, box) for video, time_s, box, _, _ in sampled.rows)
    return PersonBoxes(
        video=np.array([row[0] for row in rows], dtype=np.str_),
        timestamp=np.array([row[1] for row in rows], dtype=np.float64),
        box=np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4),
        score=np.ones(len(rows)),
    )


def _samples(track: Track, every_s: float) -> Iterator[tuple[float, Box, tuple[str, ...]]]:
    """Give (time, box, actions) at each key frame in which the person is to be seen."""
    first_s, last_s = track.shapes[0].time_s, max(track.shapes[-1].time_s, track.until_s)
    if every_s and last_s - first_s > MOST * every_s:
        raise AnnotationError(
            f"video {track.video!r}: from {first_s:g} to {last_s:g} s there would be more than "
            f"{MOST:,} key frames; are the times in seconds?"
        )
    if not last_s <= LATEST_S:
        raise AnnotationError(
            f"video {track.video!r}: a time of {last_s:g} s: expected at most {LATEST_S:g} s"
        )
    if not every_s:
        for shape in track.shapes:
            if shape.visible:
                yield round(shape.time_s, DECIMALS), shape.box, shape.actions
        return
    for shape, following, start_s, stop_s in _spans(track):
        for time_s in _grid(start_s, stop_s, every_s) if shape.visible else ():
            share = 0.0
            if shape.goes_on and following.time_s > shape.time_s:
                share = (time_s - shape.time_s) / (following.time_s - shape.time_s)
            box = _between(shape.box, following.box, min(max(share, 0.0), 1.0))
            yield time_s, box, shape.actions


def _spans(track: Track) -> Iterator[tuple[Shape, Shape, float, float]]:
    """Give each shape, the next (itself, if it is the last), and from when to when it counts."""
    taken_s = -math.inf
    for shape, following in itertools.pairwise([*track.shapes, None]):
        assert shape is not None
        stop_s = shape.time_s + max(track.slack_s, LEEWAY_S)
        if following is None:
            stop_s = max(track.until_s, stop_s) if shape.goes_on else stop_s
        elif shape.goes_on:
            stop_s = following.time_s - track.slack_s
        else:  # a shape close behind takes over half way
            stop_s = min(stop_s, (shape.time_s + following.time_s) / 2)
        yield shape, following or shape, max(shape.time_s - track.slack_s, taken_s), stop_s
        taken_s = stop_s


def _grid(start_s: float, stop_s: float, every_s: float) -> Iterable[float]:
    """Return the multiples of ``every_s`` from ``start_s`` on and before ``stop_s``, from 0 up."""
    first = max(math.ceil((start_s - ROUNDING_S) / every_s), 0)
    last = math.ceil((stop_s - ROUNDING_S) / every_s)
    return (round(number * every_s, DECIMALS) for number in range(first, last))


def _between(one: Box, two: Box, share: float) -> Box:
    x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(one, two, strict=True))
    return x1, y1, x2, y2


def _inside(box: Box) -> Box:
    x1, y1, x2, y2 = (round(min(max(value, 0.0), 1.0), DECIMALS) for value in box)
    return x1, y1, x2, y2


def _numbers(tracks: Sequence[Track]) -> dict[tuple[str, str | None], int]:
    """Return each person's number, by video and the tool's name for them."""
    named = dict.fromkeys((t.video, t.person) for t in tracks if t.person is not None)
    if all(
        name is not None and name.isascii() and name.isdigit() and len(name) < DIGITS
        for _, name in named
    ):
        return {key: int(key[1] or 0) for key in named}
    numbers: dict[tuple[str, str | None], int] = {}
    counts: dict[str, int] = {}
    for video, name in named:
        numbers[video, name] = counts.get(video, 0)
        counts[video] = numbers[video, name] + 1
    return numbers
