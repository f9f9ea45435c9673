"""``vidssl bench``: how fast this machine reads, as ratios of two things timed in turn.

Times of a shared machine mean little alone. Each measurement is of two sides that take turns in one
run, and the ratio is that of their medians; beside it stands the limit, decoding alone.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidssl.augment.views import SSLConfig
from vidssl.data.clips import ClipDataset, ClipPlan, ClipReading, augmented
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.data.samples import Failed, Samples
from vidssl.errors import VideoError
from vidssl.jobs.index import open_index
from vidssl.progress import Progress, silent
from vidssl.sources import playground
from vidssl.video.backends import available
from vidssl.video.decoders.pyav import Reader
from vidssl.video.index import ClipIndex
from vidssl.video.reader import Decoder, open_reader
from vidssl.video.write import write_video

FRAMES, STRIDE, VIEWS = 8, 8, 2
"""The typical read of video methods: two views of 8 frames from windows of 64."""
WARM = 2  # samples of a loader before the clock starts: its processes are up then


@dataclass(frozen=True)
class Measurement:
    """Two sides of one question, in ``unit`` (more is better); ``ratio`` is ours by other.

    ``limit`` is what decoding alone allows, ``share_of_limit`` ours by it; ``times_s`` holds the
    seconds of each round by side.
    """

    name: str
    ours: float
    other: float
    ratio: float
    limit: float
    share_of_limit: float
    unit: str = "samples/s"
    times_s: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchResult:
    """What was measured, and on what."""

    videos: str
    samples: int
    rounds: int
    measurements: list[Measurement]


def decode(
    source: str | None, *, samples: int = 16, rounds: int = 5, progress: Progress = silent
) -> BenchResult:
    """Time one typical read with each decoder that loads, and by decoding every frame on the way.

    Raises:
        SourceError: if there is nothing to read.
    """
    with _index(source, progress) as index:
        plans = _plans(index, samples)
        sides: dict[str, Callable[[], object]] = {
            "pyav": partial(_each, plans, partial(_read, decoder="pyav")),
            "decode only": partial(_each, plans, _decode_only),
            "pyav, every frame": partial(_each, plans, _every_frame),
        }
        rivals: tuple[Literal["torchcodec", "decord"], ...] = ("torchcodec", "decord")
        for name in rivals:
            if available()[name].version and _reads(plans, name):
                sides[name] = partial(_each, plans, partial(_read, decoder=name))
        times_s = in_turn(sides, rounds, progress)
    others = [name for name in sides if name not in {"pyav", "decode only"}]
    return BenchResult(
        source or "rendered",
        samples,
        rounds,
        [
            compared(f"pyav against {other}", times_s, "pyav", other, "decode only", samples)
            for other in others
        ],
    )


def loader(
    source: str | None, *, samples: int = 24, rounds: int = 5, progress: Progress = silent
) -> BenchResult:
    """Time the loader: with augmentation in one worker and in two, and without augmentation.

    Raises:
        SourceError: if there is nothing to read.
    """
    finish = partial(augmented, SSLConfig())
    with _index(source, progress) as index:
        reading = ClipReading(decoder="pyav")
        sides: dict[str, Callable[[], float]] = {
            "loader": lambda: timed_loader(index, ClipReading(finish=finish), samples),
            "two workers": lambda: timed_loader(index, ClipReading(finish=finish), samples, 2),
            "frames only": lambda: timed_loader(index, reading, samples),
            "decode only": lambda: timed_decoding(index, samples),
            "decode only, two": lambda: timed_decoding(index, samples, 2),
        }
        times_s = in_turn(sides, rounds, progress, clocked=True)
    limit, both = "decode only", "decode only, two"
    return BenchResult(
        source or "rendered",
        samples,
        rounds,
        [
            compared("loader against decoding alone", times_s, "loader", limit, limit, samples),
            compared("without augmentation", times_s, "frames only", limit, limit, samples),
            compared("two workers against one", times_s, "two workers", "loader", both, samples),
            compared(
                "decoding alone, two workers against one", times_s, both, limit, both, samples
            ),
        ],
    )


def in_turn(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    progress: Progress = silent,
    *,
    clocked: bool = False,
) -> dict[str, list[float]]:
    """Return the seconds of each side in each round; ``clocked`` sides return their own."""
    times_s: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for place, (name, side) in enumerate(sides.items()):
            start = time.perf_counter()
            found = side()
            taken = time.perf_counter() - start
            times_s[name].append(found if clocked else taken)  # type: ignore[arg-type]
            progress(f"timing {name}", number * len(sides) + place + 1, rounds * len(sides))
    return times_s


def compared(
    name: str, times_s: dict[str, list[float]], ours: str, other: str, limit: str, samples: int
) -> Measurement:
    """Return the comparison of two sides, and of ours with the limit, by their medians."""
    rates = {side: samples / statistics.median(taken) for side, taken in times_s.items()}
    return Measurement(
        name,
        ours=rates[ours],
        other=rates[other],
        ratio=rates[ours] / rates[other],
        limit=rates[limit],
        share_of_limit=rates[ours] / rates[limit],
        times_s={side: times_s[side] for side in dict.fromkeys((ours, other, limit))},
    )


def timed_loader(index: ClipIndex, reading: ClipReading, samples: int, workers: int = 1) -> float:
    """Return the seconds in which a loader's workers give ``samples`` samples, once they are up."""
    dataset = ClipDataset(index, frames=FRAMES, stride=STRIDE, views=VIEWS, seed=0, reading=reading)
    return timed(dataset, samples, workers)


def timed_decoding(index: ClipIndex, samples: int, workers: int = 1) -> float:
    """Return the seconds in which workers decode the same frames and throw them away."""
    return timed(_Thrown(index), samples, workers)


def timed(dataset: Samples[ClipPlan, Any], samples: int, workers: int) -> float:
    """Return the seconds from the last warming sample to the last of all."""
    warm = WARM * workers
    batches = [[position] for position in range(warm + samples)]
    config = LoaderConfig(workers=workers, prefetch=2 * workers)
    start = 0.0
    for number, _ in enumerate(Loader(dataset, batches, config), 1):
        if number == warm:
            start = time.perf_counter()
    return time.perf_counter() - start


class _Thrown(Samples[ClipPlan, object]):
    """The clips of pretraining, decoded for nothing."""

    def __init__(self, index: ClipIndex) -> None:
        self.clips = ClipDataset(index, frames=FRAMES, stride=STRIDE, views=VIEWS, seed=0)

    @property
    def read(self) -> Callable[[ClipPlan], object]:
        return _decode_only

    def __len__(self) -> int:
        return len(self.clips)

    def plan(self, position: int, attempt: int = 0) -> ClipPlan | None:
        return self.clips.plan(position, attempt)

    def tell(self, sample: object, failed: Failed) -> object:
        return sample


@contextmanager
def _index(source: str | None, progress: Progress) -> Iterator[ClipIndex]:
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            render(Path(folder) / "videos", progress=progress)
        index = open_index(
            source or str(Path(folder) / "videos"), Path(folder) / "index.parquet", progress
        )
        yield index


def render(
    folder: Path,
    *,
    videos: int = 6,
    seconds: int = 10,
    size: tuple[int, int] = (256, 340),
    progress: Progress = silent,
) -> None:
    """Write H.264 videos of Kinetics' shape: photographs that a camera pans over, with noise.

    ``size`` is (height, width). 30 frames a second, a key frame every 250, as most encoders do it,
    and about as many bytes as Kinetics has: what is easy to encode is easy to decode.
    """
    folder.mkdir(parents=True)
    try:
        photos = playground.pictures().photos
        for number in range(videos):
            photo = np.kron(photos[number % len(photos)], np.ones((2, 2, 1), np.float32))
            frames = _pan(np.random.default_rng(number), photo, 30 * seconds, size)
            write_video(folder / f"{number:02d}.mp4", frames, 30, crf=21, gop=250, preset="medium")
            progress("rendering videos", number + 1, videos)
    except BaseException:
        shutil.rmtree(folder)
        raise


def _pan(
    rng: np.random.Generator, photo: NDArray[np.float32], count: int, size: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    room = np.subtract(photo.shape[:2], size)
    speeds = rng.uniform(0.3, 1.2, 2)
    for number in range(count):
        top, left = (room * (0.5 + 0.5 * np.sin(number / 30 * speeds))).astype(int)
        cut = photo[top : top + size[0], left : left + size[1]] * 255
        yield np.clip(cut + rng.normal(0, 7, cut.shape), 0, 255).astype(np.uint8)


def _plans(index: ClipIndex, samples: int) -> list[ClipPlan]:
    clips = ClipDataset(index, frames=FRAMES, stride=STRIDE, views=VIEWS, seed=0)
    plans = [clips.plan(position) for position in range(samples)]
    return [plan for plan in plans if plan is not None]


def _read(plan: ClipPlan, decoder: Decoder) -> None:
    with open_reader(plan.location, decoder) as reader:
        reader.frames_at(plan.times_s.reshape(-1))


def _each(plans: Sequence[ClipPlan], do: Callable[[ClipPlan], None]) -> None:
    for plan in plans:
        do(plan)


def _reads(plans: Sequence[ClipPlan], decoder: Decoder) -> bool:
    """Whether a decoder takes these files at all."""
    try:
        _each(plans, partial(_read, decoder=decoder))
    except VideoError:
        return False
    return True


def _decode_only(plan: ClipPlan) -> None:
    with Reader(plan.location) as reader:
        reader.decode_only(plan.times_s.reshape(-1))


def _every_frame(plan: ClipPlan) -> None:
    """Decode all from the beginning to the last wanted frame, as a plain reader does."""
    last_s = float(plan.times_s.max())
    with Reader(plan.location) as reader:
        for start_s, _ in reader.all_frames():
            if start_s >= last_s:
                break
