"""Two processes of one thread each against one process of two threads, on the same steps.

    python tools/bench/processes.py [--clips 8] [--crop 112] [--steps 12] [--rounds 3]

Both train MoCo on a Slow R50 of random clips through the training loop of ``vidssl pretrain``, with
one global batch; the two processes are joined by gloo. They take turns. Told are the clips a second
of both, medians over all steps but the first few of each round, and their ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from vidssl.methods import Batch, moco
from vidssl.nn.distributed import joined, rank, world_size
from vidssl.progress import silent
from vidssl.section import choose
from vidssl.train.folder import RunFolder, read_log
from vidssl.train.loop import fit
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer

WARM = 3
SIDES = {"one process": (1, 2), "two processes": (2, 1)}
"""Of each side, processes and the threads of each."""


def main() -> None:
    """Let both sides take turns, or be one of the processes of a side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--width", type=int, default=64, help="of the network's first stage")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train is not None:
        train(asked)
        return
    speeds: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(asked.rounds):
        for name, (processes, threads) in SIDES.items():
            speed = timed(asked, processes, threads)
            speeds[name].append(speed)
            sys.stderr.write(f"round {number}, {name}: {speed:.3f} clips/s\n")
    one, two = (statistics.median(taken) for taken in speeds.values())
    each = [b / a for a, b in zip(*speeds.values(), strict=True)]
    found = {"clips_per_s": speeds, "ratio": two / one, "ratios": each}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def timed(asked: argparse.Namespace, processes: int, threads: int) -> float:
    """Return the clips a second of one side."""
    with tempfile.TemporaryDirectory() as scratch:
        words = ["--clips", asked.clips, "--crop", asked.crop, "--width", asked.width]
        words += ["--steps", asked.steps]
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        command = [
            *(sys.executable, *launcher, "--nproc-per-node", str(processes)),
            *(__file__, *map(str, words), "--train", f"{scratch}/run"),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        log = read_log(Path(scratch) / "run")
    return float(statistics.median(row["clips_per_s"] for row in log[WARM:]))


def train(asked: argparse.Namespace) -> None:
    """Train as one of the processes of a side."""
    torch.manual_seed(0)
    with joined():
        local = asked.clips // world_size()
        encoder = choose(
            "vidssl.backbones", {"name": "slow", "frames": 4, "width": asked.width}
        ).build()
        method = moco.Config(queue=4096, shuffle=False).build(encoder)
        config = OptimConfig(lr=1e-3, batch=asked.clips, steps=asked.steps)
        plan = Plan(config, asked.steps, seed=0, log_every=1)
        trainer = Trainer(method, plan, torch.device("cpu"))
        views = tuple(torch.randn(local, 3, 4, asked.crop, asked.crop) for _ in range(2))
        seeds = tuple(rank() * local + clip for clip in range(local))
        with RunFolder(asked.train, {"command": "bench"}, "") as folder:
            fit(
                trainer,
                lambda first, last: range(first, last),
                lambda raw, step: Batch(views, step, seeds=seeds),
                folder,
                silent,
            )


if __name__ == "__main__":
    main()
