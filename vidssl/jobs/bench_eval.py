"""``vidssl bench eval``: how fast predictions are scored, against the algorithm in plain Python.

The plain side reads the files with ``csv``, keeps a heap for each key frame and matches box by box,
as ActivityNet's published script does. Both score the same rows, and must agree.
"""

import csv
import heapq
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vidssl.ava.annotations import read_annotations, read_predictions
from vidssl.ava.labels import LabelMap
from vidssl.ava.mean_ap import mean_ap
from vidssl.jobs.bench import Measurement, compared, in_turn
from vidssl.progress import Progress, silent

CLASSES, VIDEOS, PEOPLE, CAP = 60, 64, 4, 50
LABELS = LabelMap({label: str(label) for label in range(1, CLASSES + 1)})
AGREE = 1e-9


@dataclass(frozen=True)
class EvalBench:
    """What was measured, on so many predicted rows; ``agree`` says that both scores are one."""

    rows: int
    rounds: int
    mean_ap: float
    agree: bool
    measurements: list[Measurement]


def run(*, rows: int = 100_000, rounds: int = 5, progress: Progress = silent) -> EvalBench:
    """Score made-up files like a detector's on AVA, both ways in turn; the limit is their reading.

    60 actions for each of one to four people of a key frame, six decimals.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        progress("writing predictions", 0, 1)
        count = make(folder, rows)
        sides: dict[str, Callable[[], object]] = {
            "vidssl": partial(ours, folder),
            "plain": partial(plain, folder),
            "reading": partial(read_predictions, folder / "found.csv", LABELS),
        }
        times_s = in_turn(sides, rounds, progress)
        scores = ours(folder), plain(folder)
    found = compared("vidssl against plain", times_s, "vidssl", "plain", "reading", count)
    agree = abs(scores[0] - scores[1]) < AGREE
    return EvalBench(count, rounds, scores[0], agree, [replace(found, unit="rows/s")])


def make(folder: Path, rows: int) -> int:
    """Write truth.csv and found.csv of about ``rows`` predicted rows; return how many there are."""
    rng = np.random.default_rng(0)
    frames = max(1, round(rows / CLASSES / ((1 + PEOPLE) / 2)))
    count = 0
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
                count += CLASSES
    return count


def ours(folder: Path) -> float:
    """Return the score by ``vidssl``, files read anew."""
    truth = read_annotations(folder / "truth.csv", LABELS)
    return mean_ap(truth, read_predictions(folder / "found.csv", LABELS), LABELS).mean_ap


def plain(folder: Path, rows: int = sys.maxsize) -> float:
    """Return the score of the first ``rows`` as the published script has it, row by row."""
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
    return float(np.mean([area(pooled[label], count) for label, count in positives.items()]))


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
