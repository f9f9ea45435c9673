"""``vidssl bench bank``: how fast the windows of an extraction are read, and a bank's are served.

Reading: one key frame a second, 32 frames from the window of 64 around each, 256 pixels high, as
SlowFast R50 8x8 sees them. Ours reads eight key frames at a time and decodes what they share once;
in turn with it go the same windows one by one. The limit is decoding every frame once.

Serving: windows of 60 s with up to five rows a second, at random places of a bank.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from vidssl.data.keyframes import KeyFramePlan, Moment, Reading, read_keyframes
from vidssl.features import Bank
from vidssl.jobs.bench import Measurement, compared, in_turn, render
from vidssl.jobs.index import open_index
from vidssl.progress import Progress, silent
from vidssl.video.reader import open_reader
from vidssl.video.sampling import centred_times

FRAMES, STRIDE, SIDE_PX = 32, 2, 256
CHUNK = 8
WINDOWS, BEFORE_S, AFTER_S, PER_STEP = 1000, 30, 30, 5


@dataclass(frozen=True)
class Serving:
    """A bank at work: milliseconds to open it, and windows a second in one process."""

    rows: int
    open_ms: float
    windows_per_s: float


@dataclass(frozen=True)
class BankBench:
    """What was measured, on so many ``clips``; ``serving`` where a bank was given."""

    videos: str
    clips: int
    rounds: int
    measurements: list[Measurement]
    serving: Serving | None


def run(
    source: str | None,
    *,
    seconds: int = 24,
    rounds: int = 5,
    bank: Path | None = None,
    progress: Progress = silent,
) -> BankBench:
    """Measure the reading of about ``seconds`` key frames, and the serving of ``bank``.

    Raises:
        SourceError: if there is nothing to read.
        BankError: if there is no bank, or it is damaged.
    """
    serving = None if bank is None else served(bank, rounds)
    with tempfile.TemporaryDirectory() as scratch:
        if source is None:
            render(Path(scratch) / "videos", videos=2, seconds=max(4, -(-seconds // 2)))
        found = source or str(Path(scratch) / "videos")
        index = open_index(found, Path(scratch) / "index.parquet", progress)
        plans: list[KeyFramePlan] = []
        for position in range(len(index)):
            plans += plans_of(*index.video(position))
            if sum(len(plan.moments) for plan in plans) >= seconds:
                break
        how = Reading(FRAMES, STRIDE, SIDE_PX)
        sides: dict[str, Callable[[], object]] = {
            "shared": partial(_each, partial(read_keyframes, how, None), plans),
            "one by one": partial(_each, one_by_one, plans),
            "every frame once": partial(_each, decode, plans),
        }
        times_s = in_turn(sides, rounds, progress)
    clips = sum(len(plan.moments) for plan in plans)
    name = "windows of an extraction, shared against one by one"
    measured = compared(name, times_s, "shared", "one by one", "every frame once", clips)
    measurements = [replace(measured, unit="clips/s")]
    return BankBench(source or "rendered", clips, rounds, measurements, serving)


def plans_of(path: str, duration_s: float) -> list[KeyFramePlan]:
    """Return what is read together: eight key frames a second apart, with nobody in them."""
    none = np.zeros((0, 4)), np.zeros((0, 0), np.bool_), np.zeros(0)
    moments = [Moment("", float(second), *none) for second in range(1, max(2, int(duration_s)))]
    parts = [tuple(moments[first : first + CHUNK]) for first in range(0, len(moments), CHUNK)]
    return [KeyFramePlan(path, part, (0,) * len(part)) for part in parts]


def one_by_one(plan: KeyFramePlan) -> None:
    """Read key frame after key frame from a file that is opened once."""
    with open_reader(plan.location) as reader:
        for one in plan.moments:
            reader.frames_at(centred_times(one.timestamp, FRAMES, STRIDE), SIDE_PX)


def decode(plan: KeyFramePlan) -> None:
    """Decode what the plan's windows cover, every frame once."""
    first = centred_times(plan.moments[0].timestamp, FRAMES, STRIDE)[0]
    last = centred_times(plan.moments[-1].timestamp, FRAMES, STRIDE)[-1]
    with open_reader(plan.location) as reader:
        reader.frames_at(np.arange(max(first, 0), last, STRIDE / 30), SIDE_PX)


def served(folder: Path, rounds: int) -> Serving:
    """Return how a bank is opened and read, medians of the rounds; the first one warms up."""
    opened_s, taken_s = [], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        bank = Bank.open(folder)
        opened_s.append(time.perf_counter() - start)
        taken_s.append(timed_windows(bank, WINDOWS))
    return Serving(
        len(bank),
        1000 * statistics.median(opened_s[1:]),
        WINDOWS / statistics.median(taken_s[1:]),
    )


def timed_windows(bank: Bank, count: int) -> float:
    """Return the seconds that ``count`` windows around rows of the bank take."""
    rng = np.random.default_rng(0)
    moments = [
        (video, second)
        for table, _ in bank.shards()
        for video, second in zip(
            table["video"].to_pylist(), table["second"].to_pylist(), strict=True
        )
    ] or [(video, 0.0) for video in bank.videos]
    chosen = [moments[i] for i in rng.integers(len(moments), size=count)] if moments else []
    start = time.perf_counter()
    for video, second in chosen:
        bank.window(
            video,
            second,
            before_s=BEFORE_S,
            after_s=AFTER_S,
            per_step=PER_STEP,
            pick="random",
            seed=0,
        )
    return time.perf_counter() - start


def _each(read: Callable[[KeyFramePlan], object], plans: Sequence[KeyFramePlan]) -> None:
    for plan in plans:
        read(plan)
