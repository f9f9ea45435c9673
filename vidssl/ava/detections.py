"""What a detector saw in one video, for people and programs alike: who, when, where, doing what.

``detections.json`` holds one :class:`Detections`; ``detections.schema.json`` beside it is the same
description for programs that know JSON Schema. The form has a name and a version: fields may be
added under the same version, and none is renamed or given another meaning without a new one.

A key frame stands for the time around it: half way to the key frames before and after. An action's
interval is the run of one person's key frames in which its score is at least the threshold.

Array suffixes: N people at key frames, K classes.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidssl.errors import AnnotationError, listed

DECIMALS = 6
TOUCHING_S = 1e-6


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Video(_Row):
    """The video that was looked at."""

    file: str = Field(description="Name of the file, without its folder.")
    id: str = Field(description="The name without its suffix: the first column of the csv files.")
    width_px: int = Field(description="As displayed.")
    height_px: int = Field(description="As displayed.")
    fps: float = Field(description="Frames per second; the mean where the rate varies.")
    duration_s: float


class MadeBy(_Row):
    """What tells these detections from others of the same video."""

    detector: str = Field(description="Hash of the action detector's weights.")
    people: str = Field(description="SHA-256 (16 digits) of the boxes, or the person detector.")
    bank: str | None = Field(description="Hash of the encoder of the feature bank, if one is read.")
    min_score: float = Field(description="Least score of a person's box.")
    version: str = Field(description="Version of the program.")
    views: str = Field("not said", description="Over which views scores are averaged.")


class Action(_Row):
    """What a person does at a key frame."""

    id: int = Field(description="Number of the class.")
    name: str
    score: float = Field(ge=0, le=1, description="Sigmoid of the class: classes do not compete.")


class Person(_Row):
    """One person at one key frame."""

    track: int = Field(ge=1, description="Number of the person, from 1 in order of appearance.")
    box: tuple[float, float, float, float] = Field(
        description="x1 y1 x2 y2 as shares of the picture's width and height, from the top left."
    )
    score: float = Field(ge=0, le=1, description="How sure it is that this is a person.")
    actions: list[Action] = Field(description="Those of the highest scores, falling.")


class Instant(_Row):
    """A key frame."""

    time_s: float = Field(description="Seconds from the first frame of the video.")
    people: list[Person]


class Interval(_Row):
    """A stretch of time in which a person does something."""

    action: int = Field(description="Number of the class.")
    name: str
    from_s: float
    to_s: float
    score: float = Field(description="The highest of its key frames.")


class Track(_Row):
    """One person from key frame to key frame."""

    track: int = Field(ge=1)
    from_s: float
    to_s: float
    key_frames: int
    intervals: list[Interval] = Field(description="By start; those of different actions overlap.")


class Unread(_Row):
    """A key frame that could not be read, or lies outside of the video."""

    time_s: float
    reason: str


class Detections(_Row):
    """Detections of one video. Times are in seconds from its first frame."""

    format: Literal["vidssl.detections"] = "vidssl.detections"
    version: Literal[1] = 1
    video: Video
    made_by: MadeBy
    threshold: float = Field(description="Least score of an action in an interval.")
    top: int = Field(description="Most actions that a person at a key frame is listed with.")
    classes: dict[int, str] = Field(description="Names of all classes by number.")
    key_frames: list[Instant] = Field(description="Those with people, by rising time.")
    tracks: list[Track] = Field(description="By number.")
    unread: list[Unread] = Field(default_factory=list)


def as_json(found: Detections) -> str:
    """Return the text of ``detections.json``."""
    return found.model_dump_json(indent=1) + "\n"


def read_detections(path: Path) -> Detections:
    """Return what a file holds.

    Raises:
        AnnotationError: if it is absent, or of another form; with all differences.
    """
    try:
        return Detections.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise AnnotationError(listed(f"{path}: not vidssl.detections 1", problems)) from error


def spans_of(times_s: Sequence[float], step_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return from when to when each of one person's key frames counts.

    ``times_s`` rise. A key frame reaches half way to the next, but no further than half of
    ``step_s``, unless the next is at most 1.5 steps away, and never out of the video.

    >>> spans_of([0.0, 1.0, 4.0], 1.0, 4.2)
    [(0.0, 0.5), (0.5, 1.5), (3.5, 4.2)]
    """
    halves = [
        gap / 2 if gap <= 1.5 * step_s + TOUCHING_S else step_s / 2
        for gap in (b - a for a, b in itertools.pairwise(times_s))
    ]
    before, after = [step_s / 2, *halves], [*halves, step_s / 2]
    return [
        (round(max(time_s - b, 0.0), DECIMALS), round(max(min(time_s + a, end_s), 0.0), DECIMALS))
        for time_s, b, a in zip(times_s, before, after, strict=True)
    ]


def intervals_of(
    spans: Sequence[tuple[float, float]],
    scores_NK: NDArray[np.float64],
    threshold: float,
    names: dict[int, str],
) -> list[Interval]:
    """Return one person's intervals by start, then class; ``spans`` are those of N key frames.

    ``scores_NK`` has class ``id`` in column ``id - 1``.
    """
    found: list[Interval] = []
    for number, name in names.items():
        run: list[int] = []
        for row in [*np.flatnonzero(scores_NK[:, number - 1] >= threshold).tolist(), None]:
            touches = row is not None and (
                not run or spans[row][0] <= spans[run[-1]][1] + 2 * TOUCHING_S
            )
            if run and not touches:
                best = float(scores_NK[run, number - 1].max())
                start, stop = spans[run[0]][0], spans[run[-1]][1]
                if stop > start:
                    found.append(
                        Interval(action=number, name=name, from_s=start, to_s=stop, score=best)
                    )
                run = []
            if row is not None:
                run.append(row)
    return sorted(found, key=lambda interval: (interval.from_s, interval.action))


def as_webvtt(tracks: Sequence[Track]) -> str:
    """Return the intervals as WebVTT: a cue each, by rising start, spoken by ``Person N``.

    What a cue holds is text: names with ``<`` or ``&`` in them stay what they are.
    """
    rows = sorted(
        ((interval, track.track) for track in tracks for interval in track.intervals),
        key=lambda row: (row[0].from_s, row[1], row[0].action),
    )
    cues = [
        f"{_clock(interval.from_s)} --> {_clock(max(interval.to_s, interval.from_s + 0.001))}\n"
        f"<v Person {track}>{_escaped(interval.name)} ({interval.score:.2f})\n"
        for interval, track in rows
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _clock(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _escaped(text: str) -> str:
    """Return text for a cue: a line end would end the line, and an empty line the cue."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
