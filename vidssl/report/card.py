"""The report card of an encoder: what it scored, and what there is to see behind the scores.

Plain values, which the jobs fill in; ``card_page`` makes the page of them, ``card_file`` the JSON
that later cards compare themselves with.

Array suffixes: K classes, M points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
"""The class of a video whose class, or whose prediction, is not known."""


@dataclass(frozen=True)
class Score:
    """One score in [0, 1], more is better; ``low`` and ``high`` bound its 95 % interval.

    ``key`` is its name in files, the same on any data. ``expected``, ``evaluated`` and ``failed``
    count videos, or what ``unit`` says; those that failed count as wrong. ``protocol`` says how it
    was taken, and ``fingerprint`` stands for all of that: scores of different fingerprints are not
    to be compared. ``chance`` is the score of guessing, if that is known. Scores that are not
    ``large`` stand in a table below the others.
    """

    key: str
    title: str
    meaning: str
    value: float | None
    low: float | None = None
    high: float | None = None
    expected: int = 0
    evaluated: int = 0
    failed: int = 0
    fingerprint: str = ""
    protocol: Mapping[str, str] = field(default_factory=dict)
    chance: float | None = None
    large: bool = True
    unit: str = "videos"


@dataclass(frozen=True)
class CardVideo:
    """A video on the page: its class, the class it was taken for, and how probable both were."""

    name: str
    label: int = UNKNOWN
    predicted: int = UNKNOWN
    confidence: float | None = None
    """The probability of ``predicted``."""
    truth: float | None = None
    """The probability of ``label``."""


@dataclass(frozen=True)
class Strip:
    """A few frames of a video side by side in one picture, which the page plays one by one."""

    image: bytes
    frames: int


@dataclass(frozen=True)
class Neighbours:
    """A video and those nearest to it, each with its cosine similarity; nearest first."""

    video: int
    nearest: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Projection:
    """Features in the plane, ``xy`` ``(M, 2)``, one point for each of ``CardMap.videos``."""

    method: str
    xy: NDArray[np.float64]
    note: str = ""


@dataclass(frozen=True)
class CardMap:
    """The map of the features: which videos, and where each projection puts them."""

    videos: Sequence[int]
    projections: Sequence[Projection]
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a projection of another number of points."""
        for projection in self.projections:
            if projection.xy.shape != (len(self.videos), 2):
                expected, found = (len(self.videos), 2), projection.xy.shape
                raise ValueError(f"{projection.method}: expected points {expected}, got {found}")


@dataclass(frozen=True)
class Motion:
    """The same probe on clips whose time is damaged, and how much of the accuracy needs time.

    ``variants`` are scores of the same videos, the undamaged first. ``per_class`` ``(K,)`` is the
    share of each class's accuracy that is lost on still clips, NaN where there was none to lose.
    """

    variants: Sequence[Score]
    per_class: NDArray[np.float64] | None = None
    note: str = ""


@dataclass(frozen=True)
class LearningCurve:
    """A number over the steps of the training that made the encoder."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    meaning: str = ""


@dataclass(frozen=True)
class Rival:
    """Another encoder, or a baseline, by the scores it had; ``note`` says where they come from."""

    name: str
    scores: Sequence[Score]
    note: str = ""


@dataclass(frozen=True)
class Card:
    """All of a report card.

    ``facts`` say what the encoder is and what it was looked at with, ``costs`` what it costs to
    use, both as (name, value). ``videos`` are those that the page shows, and every number of a
    video in the card is a place among them; ``strips`` has the picture of some or all.
    ``confusion`` ``(K, K)`` counts videos, a row a true class, a column a predicted one; ``judge``
    is the probe that predicted.
    """

    name: str
    lead: str
    facts: Sequence[tuple[str, str]]
    classes: Sequence[str]
    scores: Sequence[Score]
    videos: Sequence[CardVideo] = ()
    strips: Mapping[int, Strip] = field(default_factory=dict)
    map: CardMap | None = None
    neighbours: Sequence[Neighbours] = ()
    confusion: NDArray[np.int64] | None = None
    mistakes: Sequence[int] = ()
    judge: str = ""
    motion: Motion | None = None
    curves: Sequence[LearningCurve] = ()
    costs: Sequence[tuple[str, str]] = ()
    rivals: Sequence[Rival] = ()
    failures: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse numbers of videos and classes that are not in the card."""
        count, classes = len(self.videos), len(self.classes)
        shown = [*self.strips, *self.mistakes, *(self.map.videos if self.map else ())]
        for near in self.neighbours:
            shown += [near.video, *(video for video, _ in near.nearest)]
        for place in shown:
            if not 0 <= place < count:
                raise ValueError(f"expected videos 0 to {count - 1}, got {place}")
        for video in self.videos:
            if max(video.label, video.predicted) >= classes:
                raise ValueError(f"{video.name}: expected a class below {classes}, got {video}")
        if self.confusion is not None and self.confusion.shape != (classes, classes):
            expected = (classes, classes)
            raise ValueError(f"confusion: expected {expected}, got {self.confusion.shape}")


def comparable(one: Score, other: Score) -> bool:
    """Whether two scores were taken in the same way, so that their difference means something."""
    return bool(one.fingerprint) and one.fingerprint == other.fingerprint


def differences(one: Score, other: Score) -> list[str]:
    """Return in what two protocols differ, as ``name: this, that``, for people."""
    names = dict.fromkeys([*one.protocol, *other.protocol])
    return [
        f"{name}: {one.protocol.get(name, 'not said')}, {other.protocol.get(name, 'not said')}"
        for name in names
        if one.protocol.get(name) != other.protocol.get(name)
    ]
