"""Feature banks: reading the windows of an extraction, and serving a large bank.

    python tools/bench/bank.py [--videos SOURCE] [--seconds 24] [--rounds 5] [--rows 400000]

Reading: one key frame a second, 32 frames from the window of 64 around each, 256 pixels high, as
SlowFast R50 8x8 sees them. Ours reads eight key frames at
a time and decodes what they share once; in turn with it, the same windows one by one, from a file
that stays open and from one that is opened for each; the limit is decoding every frame once.

Serving: a bank of 2048 numbers a row, about five boxes a second in videos of 15 minutes, each of
whose windows is 60 s of up to five boxes. Told are the time to open it, windows a second in one
process, and how much its private memory grew between the first and the last thousand windows.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vidssl.data.keyframes import KeyFramePlan, Reading, read_keyframes
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter
from vidssl.jobs import playground
from vidssl.jobs.bench import in_turn
from vidssl.jobs.bench_bank import FRAMES, SIDE_PX, STRIDE, decode, one_by_one, plans_of
from vidssl.jobs.index import open_index
from vidssl.progress import silent

DIM = 2048
A_SECOND = 5
VIDEO_S = 897


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", help="by default, rendered ones")
    parser.add_argument("--seconds", type=int, default=24, help="key frames, of how many videos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400_000, help="0 leaves serving out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = {"reading": reading(asked, Path(scratch))}
        if asked.rows:
            found["serving"] = serving(asked.rows, Path(scratch))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def reading(asked: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """Return clips a second of each side."""
    source = asked.videos
    if source is None:
        playground.run(scratch / "pg", videos=2, seconds=max(12, asked.seconds))
        source = str(scratch / "pg" / "videos")
    index = open_index(source, scratch / "index.parquet")
    plans: list[KeyFramePlan] = []
    for position in range(len(index)):
        plans += plans_of(*index.video(position))
        if sum(len(plan.moments) for plan in plans) >= asked.seconds:
            break
    how = Reading(FRAMES, STRIDE, SIDE_PX)
    apart = [KeyFramePlan(plan.location, (one,), (0,)) for plan in plans for one in plan.moments]
    sides: dict[str, Callable[[], object]] = {
        "shared": partial(each, partial(read_keyframes, how, None), plans),
        "one by one": partial(each, one_by_one, plans),
        "opened for each": partial(each, partial(read_keyframes, how, None), apart),
        "every frame once": partial(each, decode, plans),
    }
    times_s = in_turn(sides, asked.rounds, silent)
    clips = len(apart)
    speeds = {name: clips / statistics.median(taken) for name, taken in times_s.items()}
    return {
        "clips": clips,
        "clips_per_s": speeds,
        "ratio": speeds["shared"] / speeds["one by one"],
        "share_of_limit": speeds["shared"] / speeds["every frame once"],
        "times_s": times_s,
    }


def each(read: Callable[[KeyFramePlan], object], plans: list[KeyFramePlan]) -> None:
    """Read plan after plan."""
    for plan in plans:
        read(plan)


def serving(rows: int, scratch: Path) -> dict[str, object]:
    """Return what a large bank takes to open and to read."""
    folder = scratch / "bank"
    videos = [f"video-{n:04d}" for n in range(-(-rows // (A_SECOND * VIDEO_S)))]
    plan = [videos[i : i + 8] for i in range(0, len(videos), 8)]
    writer = BankWriter(folder, dim=DIM, identity=BankIdentity("f00d"), plan=plan)
    rng = np.random.default_rng(0)
    left = rows
    for shard, names in enumerate(plan):
        count = min(left, len(names) * A_SECOND * VIDEO_S)
        left -= count
        place = np.arange(count)
        writer.write_shard(
            shard,
            BankRows(
                [names[i // (A_SECOND * VIDEO_S)] for i in range(count)],
                902.0 + place // A_SECOND % VIDEO_S,
                np.tile(np.array([0.1, 0.1, 0.6, 0.9]), (count, 1)),
                rng.random(count),
                rng.standard_normal((count, DIM), np.float32),
            ),
        )
    writer.close()
    opened_s = []
    for _ in range(5):
        start = time.perf_counter()
        bank = Bank.open(folder)
        opened_s.append(time.perf_counter() - start)
    thousand = partial(windows, bank, videos, rng)
    thousand()
    before = private_kib()
    taken_s = [thousand() for _ in range(10)]
    return {
        "rows": len(bank),
        "open_ms": 1000 * statistics.median(opened_s),
        "windows_per_s": 1000 / statistics.median(taken_s),
        "private_growth_mib": (private_kib() - before) / 1024,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def windows(bank: Bank, videos: list[str], rng: np.random.Generator) -> float:
    """Return the seconds that a thousand windows of 60 s take."""
    names = [videos[i] for i in rng.integers(len(videos), size=1000)]
    seconds = rng.integers(902, 902 + VIDEO_S, size=1000)
    start = time.perf_counter()
    for name, second in zip(names, seconds.tolist(), strict=True):
        bank.window(name, second, before_s=30, after_s=30, per_step=5, pick="random", seed=0)
    return time.perf_counter() - start


def private_kib() -> int:
    """Return this process's own memory; mapped pages of files are not in it."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines()]
    return sum(int(line[1]) for line in lines if line[0] in {"Private_Dirty:", "Anonymous:"}) // 2


if __name__ == "__main__":
    main()
