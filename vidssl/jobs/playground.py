"""Render the playground into a folder: videos, AVA-style annotations, and the truth behind them."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import Interrupted, OutputError, listed
from vidssl.files import write_text
from vidssl.progress import Progress, silent
from vidssl.sources import playground
from vidssl.sources.playground import Pictures, Scenario
from vidssl.video.write import write_video

_ARGUMENTS = "playground.json"
_CRF = 23


@dataclass(frozen=True)
class PlaygroundResult:
    """What lies in the folder now."""

    folder: Path
    videos: int
    rows: int
    """Rows of train.csv and val.csv."""
    bytes: int


def run(
    out: Path,
    *,
    videos: int = 40,
    seconds: float = 45,
    seed: int = 0,
    progress: Progress = silent,
) -> PlaygroundResult:
    """Fill ``out`` with ``videos`` videos of ``seconds`` each, a quarter of them for validation.

    Videos that are there already, from an earlier call with the same arguments that was stopped,
    are kept. Equal arguments make equal annotations everywhere.

    Raises:
        Interrupted: when stopped from the keyboard; the same call continues.
        OutputError: if ``out`` holds something else, or a playground of other arguments.
        ValueError: for fewer than 2 videos, under 4 or over 9999 seconds, or a negative seed.
    """
    if videos < 2 or not 4 <= seconds <= 9999 or seed < 0:
        raise ValueError(
            "expected at least 2 videos, 4 to 9999 seconds and a seed from 0, "
            f"got {videos}, {seconds} and {seed}"
        )
    _claim(out, {"format": playground.FORMAT, "videos": videos, "seconds": seconds, "seed": seed})
    scenarios = [playground.scenario(seed, index, seconds) for index in range(videos)]
    files = [out / "videos" / f"{playground.name_of(i, videos)[0]}.mp4" for i in range(videos)]
    _render(scenarios, files, progress)
    texts = playground.tables(scenarios)
    for name, text in texts.items():
        write_text(out / name, text)
    written = [*files, out / _ARGUMENTS, *(out / name for name in texts)]
    return PlaygroundResult(
        folder=out,
        videos=videos,
        rows=sum(texts[name].count("\n") for name in ("train.csv", "val.csv")),
        bytes=sum(path.stat().st_size for path in written),
    )


def _claim(out: Path, arguments: dict[str, float]) -> None:
    """Make ``out`` the folder of a playground of these arguments.

    Raises:
        OutputError: if it is something else already.
    """
    path = out / _ARGUMENTS
    if path.is_file():
        _compare(path, arguments)
        return
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: expected a folder, found a file")
    others = sorted(p.name for p in out.iterdir() if p.suffix != ".part") if out.exists() else []
    if others:
        raise OutputError(
            f"{out}: expected a new or empty folder, found {others[0]}"
            + (f" and {len(others) - 1} more" if len(others) > 1 else "")
        )
    write_text(path, json.dumps(arguments, indent=2) + "\n")


def _compare(path: Path, arguments: dict[str, float]) -> None:
    """Refuse a playground of other arguments.

    Raises:
        OutputError: naming the arguments that differ.
    """
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise OutputError(f"{path}: expected the arguments of a playground, found something else")
    differing = [
        f"{name}: asked for {value}, the folder has {there.get(name, 'none')}"
        for name, value in arguments.items()
        if there.get(name) != value
    ]
    if differing:
        raise OutputError(listed(f"{path.parent}: holds another playground", differing))


def _render(scenarios: Sequence[Scenario], files: Sequence[Path], progress: Progress) -> None:
    """Render the files that are not there, on as many threads as the process has cores.

    Raises:
        Interrupted: when stopped from the keyboard, once every thread has let go of its file.
    """
    missing = [pair for pair in zip(scenarios, files, strict=True) if not pair[1].is_file()]
    done = len(files) - len(missing)
    progress("rendering videos", done, len(files))
    if not missing:
        return
    pictures, stop = playground.pictures(), threading.Event()
    # Threads are enough: encoding, most of the work, holds no interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(_film, what, pictures, path, stop) for what, path in missing]
        try:
            for future in as_completed(futures):
                future.result()
                done += 1
                progress("rendering videos", done, len(files))
        except KeyboardInterrupt:
            raise Interrupted(f"stopped with {done} of {len(files)} videos rendered") from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _film(what: Scenario, pictures: Pictures, path: Path, stop: threading.Event) -> None:
    """Render one video; nothing is left of it if ``stop`` is set meanwhile."""
    frames = _until(stop, playground.frames(what, pictures))
    write_video(
        path,
        frames,
        playground.FPS,
        playground.sound(what),
        audio_rate=playground.AUDIO_RATE,
        crf=_CRF,
    )


def _until(
    stop: threading.Event, frames: Iterator[NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8]]:
    """Give ``frames``; fail between two of them once ``stop`` is set."""
    for frame in frames:
        if stop.is_set():
            raise Interrupted("rendering was stopped")
        yield frame
