"""Training and inference against pytorchvideo's networks, and what recomputed activations save.

    python tools/bench/backbones.py [--clips 2] [--crop 224] [--rounds 5] [--compile] [--json FILE]

Steps: SlowFast R50 8x8 and Slow R50 8x8, each as `vidssl bench step` times them. Memory: the most
that PyTorch held during one training step of our networks beyond weights and clips, with and
without `activation_checkpointing`, each in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from vidssl.jobs import bench_step

MODELS = ("slowfast_r50_8x8", "slow_r50_8x8")
PEAK = """
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from vidssl.jobs.models import SETTINGS
from vidssl.nn.layout import laid_out
from vidssl.recognition.classifier import Classifier
from vidssl.train.trainer import device_of

name, saving, clips, crop = sys.argv[1], sys.argv[2] == "saving", *map(int, sys.argv[3:])
device = device_of()
config = SETTINGS[name].config.model_copy(update={"activation_checkpointing": saving})
network = laid_out(Classifier(config.build(), num_classes=400), device)
given = torch.rand(clips, 3, config.frames, crop, crop, device=device)
given = given.contiguous(memory_format=torch.channels_last_3d)


def step():
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = network(given).square().mean()
    loss.backward()


if device.type == "cuda":
    before = torch.cuda.memory_allocated(device)
    step()
    print(torch.cuda.max_memory_allocated(device) - before)
else:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = most = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    print(most)
"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = {}
    for name in MODELS:
        steps = measured(name, asked)
        for step in steps["measurements"]:
            say(
                f"{name}, {step['name']}: {step['ours']:.3f} and {step['other']:.3f} clips/s, "
                f"ratio {step['ratio']:.2f}, {step['share_of_limit']:.2f} of the largest product"
            )
        memory = {form: peak_bytes(name, form, asked) for form in ("plain", "saving")}
        saved = 1 - memory["saving"] / memory["plain"]
        say(f"{name}, recomputed activations: {saved:.0%} less memory {memory}")
        found[name] = {"steps": steps, "memory_bytes": memory, "memory_saved": saved}
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(name: str, asked: argparse.Namespace) -> dict:
    """Return the times of one model."""
    return asdict(
        bench_step.run(
            name,
            clips=asked.clips,
            crop_px=asked.crop,
            rounds=asked.rounds,
            compiled=asked.compile,
        )
    )


def peak_bytes(name: str, form: str, asked: argparse.Namespace) -> int:
    """Return the peak memory of one training step in a process of its own."""
    given = [name, form, str(asked.clips), str(asked.crop)]
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, *given], check=True, stdout=subprocess.PIPE, text=True
    )
    return int(ran.stdout.split()[-1])


def say(line: str) -> None:
    """Print at once, as rounds take long."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
