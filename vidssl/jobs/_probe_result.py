"""What a probe found: scores with their denominators, intervals and protocols, video by video.

Array suffixes: N training videos that could be read, M test videos that could be read, E test
videos that are expected, F features, K classes.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.files import write_text
from vidssl.probe.motion import Share, Time


@dataclass(frozen=True)
class ProbedVideo:
    """A test video: ``reason`` says why it could not be read, if so; then it counts as wrong.

    ``path`` is None where there is no such video.
    """

    id: str
    path: str | None
    labels: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True)
class ProbeScore:
    """One score in [0, 1].

    ``value`` counts videos that failed as wrong, ``over_evaluated`` leaves them out; ``low`` and
    ``high`` are a 95 % interval of the former, by ``interval``: a bootstrap over so many ``units``
    (videos, or groups of them), or the spread of draws of training videos. NaN where there is none.
    ``chance`` is the score of guessing, NaN where that has no simple value. ``fingerprint`` stands
    for ``protocol``: scores compare where it is the same. ``facts`` tell how the probe came out.
    """

    probe: str
    metric: str
    value: float
    over_evaluated: float
    low: float
    high: float
    interval: str
    units: int
    expected: int
    evaluated: int
    failed: int
    chance: float
    protocol: dict[str, Any]
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A name in files, as ``knn.top1``."""
        return f"{self.probe}.{self.metric}"


@dataclass(frozen=True)
class SplitAccount:
    """A source: how many videos it names, how many could be read, and why others could not.

    ``account`` tells of what the source promises; ``published`` how many videos the published list
    has, where that is known; ``features`` is the folder of the banks.
    """

    source: str
    expected: int
    evaluated: int
    failed: int
    failures: dict[str, str]
    account: str
    published: dict[str, Any] | None
    data: str
    features: Path
    decoded: int


@dataclass(frozen=True)
class ClassResult:
    """A class of the test videos: ``right`` is top-1, or average precision, by probe.

    NaN for a class without a test video. ``needs_time`` is its share, if motion was looked at.
    """

    number: int
    name: str
    train: int
    expected: int
    evaluated: int
    right: dict[str, float]
    needs_time: Share | None = None


@dataclass(frozen=True)
class Motion:
    """One probe on damaged clips.

    ``scores`` are by way of showing a clip; ``drop`` what is lost against normal ones; ``share`` is
    ``(normal - static) / normal``, None where videos have several classes.
    """

    probe: str
    scores: dict[Time, ProbeScore]
    drop: dict[Time, float]
    share: Share | None


@dataclass(frozen=True)
class ProbeResult:
    """Everything that was found.

    ``test`` is None where one source was probed against itself. ``predictions`` are by probe the
    class of each expected test video, -1 for one that failed or of which nothing is known.

    The arrays are not part of the JSON: ``probabilities`` by probe, ``(E, K)``, 0 for failed ones;
    features of normal clips, or of those that ``time`` asked for, and the rows' places among
    ``videos`` (``test_rows``) and labels.
    """

    encoder: str
    encoder_hash: str
    backbone: dict[str, Any]
    dim: int
    time: Time
    classes: tuple[str, ...]
    several_classes: bool
    train: SplitAccount
    test: SplitAccount | None
    videos: tuple[ProbedVideo, ...]
    scores: tuple[ProbeScore, ...]
    predictions: dict[str, tuple[int, ...]]
    by_class: tuple[ClassResult, ...]
    motion: Motion | None
    notes: tuple[str, ...]
    seconds: float
    probabilities: Mapping[str, NDArray[np.float32]] = field(repr=False, compare=False)
    train_features: NDArray[np.float32] = field(repr=False, compare=False)
    train_labels: NDArray[np.int64] | NDArray[np.bool_] = field(repr=False, compare=False)
    test_features: NDArray[np.float32] = field(repr=False, compare=False)
    test_rows: NDArray[np.int64] = field(repr=False, compare=False)

    @property
    def expected(self) -> int:
        """How many test videos there should be."""
        return len(self.videos)

    @property
    def failed(self) -> int:
        """How many of them could not be read."""
        return sum(bool(video.reason) for video in self.videos)

    def score(self, key: str) -> ProbeScore:
        """Return the score of a name, as ``knn.top1``.

        Raises:
            KeyError: if there is none.
        """
        return next((s for s in self.scores if s.key == key), None) or _absent(key)


def _absent(key: str) -> ProbeScore:
    raise KeyError(key)


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Return a short hash of how a score was taken."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Return a result as dictionaries and lists for JSON: no arrays, None for a NaN."""
    if is_dataclass(value):
        return {
            one.name: plain(getattr(value, one.name))
            for one in fields(value)
            if one.compare  # arrays are not compared
        }
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value


def write_classes(result: ProbeResult, path: Path) -> None:
    """Write a csv row for each class; what is not known is an empty cell.

    Raises:
        OutputError: if the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    probes = list(result.predictions)
    columns = ["number", "name", "train", "expected", "evaluated", *probes]
    writer.writerow([*columns, "needs_time", "needs_time_low", "needs_time_high"])
    for one in result.by_class:
        share = one.needs_time
        spans = (share.value, share.low, share.high) if share else (math.nan,) * 3
        cells = [*(one.right.get(probe, math.nan) for probe in probes), *spans]
        told = ["" if math.isnan(cell) else f"{cell:.6f}" for cell in cells]
        writer.writerow([one.number, one.name, one.train, one.expected, one.evaluated, *told])
    write_text(path, text.getvalue())
