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
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vidssl.ava.annotations import read_annotations, read_predictions
from vidssl.ava.mean_ap import mean_ap
from vidssl.jobs.bench_eval import LABELS, make, plain


def timed_plain(folder: Path, rows: int) -> dict[str, Any]:
    """Score the first ``rows`` as the published script does."""
    start, cpu = time.perf_counter(), time.process_time()
    return {
        "mean_ap": plain(folder, rows),
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
    }


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
        found = (
            ours(here, asked.protocol) if asked.side == "ours" else timed_plain(here, asked.rows)
        )
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
