"""Scoring action predictions: ``vidssl`` against the official algorithm in plain Python, in turn.

    python tools/bench/scoring.py [--rows 1000000] [--plain-rows 100000] [--rounds 3] [--protocol P]

Files like a detector's on AVA are made: 60 actions for each of one to four people of a key frame,
six decimals. The plain side reads them with ``csv``, keeps a heap for each key frame and matches
box by box, as the published script does; it gets the first ``--plain-rows``. Each side is a
process of its own held to one core. Told, as JSON, are the rows a second of both (reading the csv
included, starting Python not) by the clock and by the processor's time, which others on the machine
hardly change, the ratio of the latter, the memory of ours, and whether both scores agree on the
plain side's rows.
"""

import argparse
import csv
import heapq
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from vidssl.ava.annotations import read_annotations, read_predictions
from vidssl.ava.labels import LabelMap
from vidssl.ava.mean_ap import mean_ap

CLASSES, VIDEOS, PEOPLE, CAP = 60, 64, 4, 50
LABELS = LabelMap({label: str(label) for label in range(1, CLASSES + 1)})


def make(folder: Path, rows: int) -> None:
    """Write truth.csv and found.csv of about ``rows`` predicted rows to ``folder``."""
    rng = np.random.default_rng(0)
    frames = round(rows / CLASSES / ((1 + PEOPLE) / 2))
    with (folder / "truth.csv").open("w") as truth, (folder / "found.csv").open("w") as found:
        for frame in range(frames):
            video, second = divmod(frame, -(-frames // VIDEOS))
            name = f"-5KQ66BBWC{video // 10}{video % 10},{902 + second:04d}"
            for person in range(int(rng.integers(1, PEOPLE + 1))):
                corner = rng.uniform(0, 0.5, 2)
                box = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, 2)])
                true = rng.choice(CLASSES, int(rng.integers(1, 4)), replace=False) + 1
                text = ",".join(f"{v:.3f}" for v in box)
                truth.writelines(f"{name},{text},{label},{person}\n" for label in true)
                moved = np.clip(box + rng.normal(0, 0.02, 4), 0, 1)
                text = ",".join(f"{v:.6f}" for v in moved)
                logits = rng.normal(-5, 2, CLASSES)
                logits[true - 1] += 4
                scores = 1 / (1 + np.exp(-logits))
                found.writelines(
                    f"{name},{text},{label},{score:.6f}\n"
                    for label, score in enumerate(scores, start=1)
                )


def plain(folder: Path, rows: int) -> dict[str, Any]:
    """Score the first ``rows`` as the published script does, row by row."""
    start, cpu = time.perf_counter(), time.process_time()
    truth = grouped(folder / "truth.csv", sys.maxsize, 0)
    found = grouped(folder / "found.csv", rows, CAP)
    pooled: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    positives: dict[int, int] = defaultdict(int)
    for entries in truth.values():
        for entry in entries:
            positives[entry[1]] += 1
    for key, entries in found.items():
        taken: set[int] = set()
        boxes = truth.get(key)
        if boxes is None:
            continue
        table = np.array([entry[2:] for entry in boxes])
        for score, label, *box in entries:
            rivals = [at for at, entry in enumerate(boxes) if entry[1] == label]
            hit = False
            if rivals:
                overlap = overlaps(np.array(box), table[rivals])
                best = int(np.argmax(overlap))
                hit = bool(overlap[best] >= 0.5) and rivals[best] not in taken
                if hit:
                    taken.add(rivals[best])
            pooled[label].append((score, hit))
    areas = [area(pooled[label], count) for label, count in positives.items()]
    return {
        "mean_ap": float(np.mean(areas)),
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
    }


def grouped(path: Path, rows: int, cap: int) -> dict[str, list[tuple[Any, ...]]]:
    """Return the entries (score, action, x1, y1, x2, y2) of each key frame by falling score."""
    heaps: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    with path.open() as file:
        for number, row in enumerate(csv.reader(file)):
            if number == rows:
                break
            heap = heaps[f"{row[0]},{float(row[1]):.6f}"]
            entry = (float(row[7]), int(row[6]), *map(float, row[2:6]))
            if not cap or len(heap) < cap:
                heapq.heappush(heap, entry)
            elif entry[0] > heap[0][0]:
                heapq.heapreplace(heap, entry)
    return {key: sorted(heap, key=lambda entry: -entry[0]) for key, heap in heaps.items()}


def overlaps(box: Any, boxes: Any) -> Any:
    """Return the IoU of one box with each of several."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    own = (box[2:] - box[:2]).prod()
    return shared / (own + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared)


def area(pooled: list[tuple[float, bool]], positives: int) -> float:
    """Return the area under the interpolated curve."""
    if not pooled:
        return 0.0
    order = np.argsort(np.array([score for score, _ in pooled]))[::-1]
    true = np.cumsum(np.array([hit for _, hit in pooled])[order])
    precision = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(true / positives, prepend=0.0) * precision))


def ours(folder: Path, protocol: Any) -> dict[str, Any]:
    """Score everything with ``vidssl``."""
    start, cpu = time.perf_counter(), time.process_time()
    annotations = read_annotations(folder / "truth.csv", LABELS)
    read = time.perf_counter()
    predictions = read_predictions(folder / "found.csv", LABELS)
    done = time.perf_counter()
    score = mean_ap(annotations, predictions, LABELS, protocol=protocol)
    end = time.perf_counter()
    return {
        "mean_ap": score.mean_ap,
        "rows": len(predictions.score),
        "seconds": end - start,
        "cpu": time.process_time() - cpu,
        "parts": {"truth": read - start, "predictions": done - read, "score": end - done},
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def child(folder: Path, *words: object) -> dict[str, Any]:
    """Run one side in a process of its own, on one core."""
    command = [sys.executable, __file__, "--folder", str(folder), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def head(folder: Path, to: Path, rows: int) -> None:
    """Write a folder like ``folder`` with the first ``rows`` predictions alone."""
    to.mkdir()
    (to / "truth.csv").write_bytes((folder / "truth.csv").read_bytes())
    with (folder / "found.csv").open() as file, (to / "found.csv").open("w") as out:
        out.writelines(line for _, line in zip(range(rows), file, strict=False))


def main() -> None:
    """Let both sides take turns, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--plain-rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--protocol", default="activitynet", choices=["activitynet", "slowfast"])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        here = asked.folder
        found = ours(here, asked.protocol) if asked.side == "ours" else plain(here, asked.rows)
        sys.stdout.write(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder, asked.rows)
        small = folder / "head"
        head(folder, small, asked.plain_rows)
        turns = [
            (
                child(folder, "--side", "ours", "--protocol", asked.protocol),
                child(small, "--side", "plain", "--rows", asked.plain_rows),
            )
            for _ in range(asked.rounds)
        ]
        same = child(small, "--side", "ours")["mean_ap"]
    speeds = {
        clock: {
            "ours": [one["rows"] / one[clock] for one, _ in turns],
            "plain": [asked.plain_rows / other[clock] for _, other in turns],
        }
        for clock in ("seconds", "cpu")
    }
    ours_cpu, plain_cpu = (statistics.median(side) for side in speeds["cpu"].values())
    told = {
        "rows": turns[0][0]["rows"],
        "rows_per_s": speeds["seconds"],
        "rows_per_cpu_s": speeds["cpu"],
        "ratio": ours_cpu / plain_cpu,
        "peak_mib": max(one["peak_mib"] for one, _ in turns),
        "parts_s": [one["parts"] for one, _ in turns],
        "agree": abs(same - turns[0][1]["mean_ap"]) < 1e-9,
    }
    sys.stdout.write(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
