"""What is true of a playground scenario: labelled boxes, exclusions, and what a detector would see.

Boxes are normalised x1 y1 x2 y2 unless the name ends in ``_px``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.sources._scenario import (
    AWAY_S,
    FPS,
    HEIGHT,
    INTERACTIONS,
    MOTIONS,
    WIDTH,
    Draw,
    Scenario,
)

Box = tuple[float, float, float, float]

_DETECTIONS = 20  # the purpose of a stream of random decisions


@dataclass(frozen=True)
class Label:
    """One action of the label map."""

    number: int
    name: str
    kind: str


LABELS = (
    *(Label(n, name, "PERSON_MOVEMENT") for n, name in enumerate(MOTIONS, 1)),
    *(Label(n, name, "PERSON_INTERACTION") for n, name in enumerate(INTERACTIONS, 5)),
    Label(8, "has returned", "LONG_MEMORY"),
    Label(9, "will be met again", "LONG_MEMORY"),
)
_NUMBER = {label.name: label.number for label in LABELS}


@dataclass(frozen=True)
class Annotation:
    """One labelled box: a row of AVA's csv for each of its actions."""

    second: int
    box: Box
    """Normalised x1 y1 x2 y2, cut to the picture."""
    actions: tuple[int, ...]
    person: int
    """The number of the visit; who came twice has two numbers, as two tracks would."""


def annotations(what: Scenario) -> list[Annotation]:
    """Return the labelled boxes of a video, by second and then by visit."""
    dropped = set(excluded(what))
    return [
        Annotation(second, _cut(visit.box(second * FPS)), _actions(what, number, second), number)
        for second in what.keyframes()
        if second not in dropped
        for number, visit in enumerate(what.visits)
        if visit.present(second * FPS)
    ]


def excluded(what: Scenario) -> list[int]:
    """Return the seconds without reliable labels: somebody comes, goes or changes what they do."""
    return [
        second
        for second in what.keyframes()
        if any(v.present(second * FPS) and v.changing(second * FPS) for v in what.visits)
    ]


def detections(what: Scenario) -> list[tuple[int, Box, float]]:
    """Return (second, box, score) as a detector might see every second, excluded ones too.

    Boxes are the true ones with errors of about 4% of their sides; 8% are missed, and so is who is
    mostly outside the picture. There are 0 to 2 false ones a second, with scores below 0.45.
    """
    draw = Draw(what.seed, what.index, _DETECTIONS)
    found = []
    for second in what.keyframes():
        here = [v.box(second * FPS) for v in what.visits if v.present(second * FPS)]
        true = [_noisy(draw, box) for box in here if _inside(box) > 0.4]
        seen = [(second, _cut(box), score) for box, score in true if not draw.chance(0.08)]
        false = [_false_alarm(draw) for _ in range(draw.below(3))]
        found += sorted(
            seen + [(second, _cut(box), score) for box, score in false], key=lambda row: -row[2]
        )
    return found


def visits(what: Scenario) -> list[tuple[int, int, float, float]]:
    """Return (person, actor, begin, end) of each visit; times in seconds, within the video."""
    last = what.frames / FPS
    return [
        (number, visit.actor, max(visit.start / FPS, 0.0), min(visit.end / FPS, last))
        for number, visit in enumerate(what.visits)
    ]


def _actions(what: Scenario, number: int, second: int) -> tuple[int, ...]:
    """Return the labels of a visit at a second, in ascending order."""
    visit = what.visits[number]
    names = [visit.motion(second * FPS)]
    names += [
        link.kind
        for link in what.interactions
        if link.holds(second * FPS)
        and (number == link.active or (link.kind == "meet" and number == link.other))
    ]
    same = [other for other in what.visits if other.actor == visit.actor]
    if any(visit.start - other.end >= AWAY_S * FPS for other in same):
        names.append("has returned")
    if any(other.start - visit.end >= AWAY_S * FPS for other in same):
        names.append("will be met again")
    return tuple(sorted(_NUMBER[name] for name in names))


def _cut(box_px: NDArray[np.float64]) -> Box:
    """Return a pixel box normalised and cut to the picture."""
    x1, y1, x2, y2 = (float(side) for side in box_px)
    return (
        min(max(x1 / WIDTH, 0.0), 1.0),
        min(max(y1 / HEIGHT, 0.0), 1.0),
        min(max(x2 / WIDTH, 0.0), 1.0),
        min(max(y2 / HEIGHT, 0.0), 1.0),
    )


def _inside(box_px: NDArray[np.float64]) -> float:
    """Return the share of a pixel box that lies in the picture."""
    x1, y1, x2, y2 = _cut(box_px)
    return (x2 - x1) * WIDTH * (y2 - y1) * HEIGHT / float(np.prod(box_px[2:] - box_px[:2]))


def _noisy(draw: Draw, box_px: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return a true box as a detector finds it, and the detector's score, mostly high."""
    width, height = box_px[2] - box_px[0], box_px[3] - box_px[1]
    shift = [draw.bell() * 0.04 * side for side in (width, height, width, height)]
    score = draw.uniform(0.8, 0.999) if draw.chance(0.8) else draw.uniform(0.3, 0.8)
    return box_px + np.array(shift), score


def _false_alarm(draw: Draw) -> tuple[NDArray[np.float64], float]:
    """Return a box with nobody meant, and its low score."""
    width, height = draw.uniform(12.0, 44.0), draw.uniform(12.0, 44.0)
    x, y = draw.uniform(0.0, WIDTH - width), draw.uniform(0.0, HEIGHT - height)
    share = draw.uniform(0.0, 1.0)
    return np.array([x, y, x + width, y + height]), 0.05 + 0.4 * share * share
