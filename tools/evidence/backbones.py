"""What the choices of a backbone are worth on the playground, each with three seeds.

    python tools/evidence/backbones.py OUT [--only NAME ...] [--seeds 0 1 2] [--steps 300]

Trains small detectors from fresh weights with one thing changed at a time, scores them on true
boxes, and writes OUT/table.txt. What is done is not done again, so a stopped run goes on.

- slow, slowfast: a pair of equal multiply-adds;
- group, batch-of-2: slowfast with GroupNorm, and with BatchNorm statistics over 2 clips each
  (GroupNorm sees each clip alone: its row stands for 2 clips a device and for 16);
- group-8, group-rate: GroupNorm in groups of more channels, and with a higher learning rate;
- two-clips, two-clips-group: both norms in steps of 2 clips, eight times as many;
- non-local: slowfast with a block after res3 and res4;
- scratch-N, pretrained-N: slowfast after N steps from fresh weights, and from an encoder that was
  trained on other videos first, for --steps steps; "clips seen" counts both trainings.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

VIDSSL = Path(sys.executable).with_name("vidssl")
KINDS = {"motion": (1, 2, 3, 4), "interactions": (5, 6, 7), "memory": (8, 9)}
GROUP, BATCH_OF_2 = "backbone.norm=group", "backbone.norm={kind: sub-batch, splits: 8}"
TWO = ["optim.batch=2", "optim.lr=0.001"]
NON_LOCAL = "backbone.non_local={res3: [0], res4: [0]}"


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    target, source = playground(asked.out / "target", 0), playground(asked.out / "source", 7)
    runs = variants(asked.steps)
    chosen = asked.only or list(runs)
    for seed in asked.seeds:
        for name in chosen:
            recipe, changes, steps, pretrained = runs[name]
            encoder = "random"
            if pretrained:
                start = asked.out / f"source-{seed}"
                train(source, start, "playground_slowfast", [], asked.steps, seed, "random")
                encoder = str(start)
            folder = asked.out / f"{name}-{seed}"
            train(target, folder, recipe, changes, steps, seed, encoder)
            score(target, folder, asked.out / f"{name}-{seed}.json")
            (asked.out / "table.txt").write_text(table(asked.out, list(runs), asked.seeds))


def variants(steps: int) -> dict[str, tuple[str, list[str], int, bool]]:
    """Return recipe, changes, steps and whether the encoder is pretrained, by name."""
    both = "playground_slowfast"
    lengths = (steps // 3, steps, 2 * steps)
    return {
        "slow": ("playground_slow", [], steps, False),
        "slowfast": (both, [], steps, False),
        "group": (both, [GROUP], steps, False),
        "group-8": (both, ["backbone.norm={kind: group, groups: 8}"], steps, False),
        "group-rate": (both, [GROUP, "optim.lr=0.01"], steps, False),
        "batch-of-2": (both, [BATCH_OF_2], steps, False),
        "two-clips": (both, TWO, 8 * steps, False),
        "two-clips-group": (both, [GROUP, *TWO], 8 * steps, False),
        "non-local": (both, [NON_LOCAL], steps, False),
        **{f"pretrained-{n}": ("playground_pretrained", [], n, True) for n in lengths},
        **{f"scratch-{n}": ("playground_scratch", [], n, False) for n in lengths if n != steps},
    }


def playground(folder: Path, seed: int) -> Path:
    """Render the videos and write their true boxes, as a faultless detector would give them."""
    vidssl("playground", "--out", folder, "--videos", 48, "--seconds", 40, "--seed", seed)
    with (folder / "val.csv").open() as file:
        boxes = sorted({(*row[:6], "", "1.0") for row in csv.reader(file)})
    with (folder / "val_true_boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(boxes)
    return folder


def train(
    data: Path, out: Path, recipe: str, changes: list[str], steps: int, seed: int, encoder: str
) -> None:
    """Train one detector, or go on with it."""
    if (out / "detector.safetensors").exists():
        return
    given = [*changes, f"seed={seed}"]
    vidssl(
        "finetune", recipe, "--encoder", encoder, "--videos", data / "videos", "--out", out,
        "--annotations", data / "train.csv", "--labels", data / "action_list.pbtxt",
        "--excluded", data / "train_excluded_timestamps.csv", "--steps", steps,
        *(part for change in given for part in ("--set", change)),
    )  # fmt: skip


def score(data: Path, run: Path, out: Path) -> None:
    """Score one detector on the true boxes of the validation videos."""
    if not out.exists():
        vidssl(
            "eval-ava", "--checkpoint", run, "--videos", data / "videos", "--json", out,
            "--boxes", data / "val_true_boxes.csv", "--annotations", data / "val.csv",
            "--labels", data / "action_list.pbtxt",
            "--excluded", data / "val_excluded_timestamps.csv",
        )  # fmt: skip


def vidssl(*words: object) -> None:
    """Run a command of the toolkit; its progress goes to this script's stderr."""
    subprocess.run([VIDSSL, *map(str, words)], check=True, stdout=sys.stderr)


def table(out: Path, names: list[str], seeds: list[int]) -> str:
    """Return mean and spread of each kind of label over the seeds that are done."""
    lines = [f"{'':16}" + "".join(f"{kind:>18}" for kind in KINDS) + f"{'clips seen':>12}  seeds"]
    for name in names:
        done = [out / f"{name}-{seed}.json" for seed in seeds]
        results = [json.loads(path.read_text()) for path in done if path.exists()]
        if not results:
            continue
        cells = []
        for labels in KINDS.values():
            each = [statistics.mean(found["ap"][str(n)] for n in labels) for found in results]
            spread = statistics.stdev(each) if len(each) > 1 else float("nan")
            cells.append(f"{statistics.mean(each):>10.3f} ± {spread:.3f}")
        lines.append(f"{name:16}{''.join(cells)}{clips(done[0].with_suffix('')):>12}  {len(each)}")
    return "\n".join(lines) + "\n"


def clips(run: Path) -> str:
    """Return the clips that an encoder has seen in all, its pretraining included, if it says so."""
    trained = json.loads((run / "encoder.json").read_text())["trained_by"]
    counts = [trained.get(name) for name in ("samples_seen", "samples_seen_before")]
    return "" if None in counts else str(sum(counts))


if __name__ == "__main__":
    main()
