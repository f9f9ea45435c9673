"""What encoders are worth on real clips: frozen, and trained further with all or few labels.

    python tools/evidence/jhmdb_recognition.py JHMDB OUT probe NAME=RUN... [--random SEED...]
    python tools/evidence/jhmdb_recognition.py JHMDB OUT finetune NAME=RUN... [--shares 1.0 0.1]

JHMDB is a folder with clips.csv (path, label, split1, split2, split3) and the clips. ``probe`` runs
``vidssl probe`` on each of the three splits; ``--random`` adds fresh weights of the first run's
network. ``finetune`` trains a classifier with ``vidssl finetune recognition_small`` on each split,
the seed being the split's number, and scores it with ``vidssl eval-kinetics``; RUN ``random`` means
fresh weights, of the network of the first RUN that is one. ``{split}`` in a RUN stands for the
split's number, for encoders that have seen a split's training clips. What is done is not done
again; each score is a file OUT/WHAT-NAME-...-SPLIT.json, as the commands write them.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import probes
import yaml

VIDSSL = Path(sys.executable).with_name("vidssl")
SPLITS = (1, 2, 3)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jhmdb", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", choices=["probe", "finetune"])
    parser.add_argument("runs", nargs="+", help="NAME=RUN")
    parser.add_argument("--random", nargs="*", type=int, default=[])
    parser.add_argument("--shares", nargs="*", type=float, default=[1.0, 0.1])
    parser.add_argument("--steps", type=int, default=150)
    asked = parser.parse_args()
    lists(asked.jhmdb, asked.out)
    runs = dict(run.split("=", 1) for run in asked.runs)
    if asked.what == "probe":
        for name, run in runs.items():
            probe(asked.out, name, run)
        for seed in asked.random:
            probe(asked.out, f"random-{seed}", next(iter(runs.values())), "--random", seed)
    else:
        network = next(run for run in runs.values() if run != "random")
        recipe = Path(network.format(split=SPLITS[0])) / "recipe.yaml"
        backbone = yaml.safe_load(recipe.read_text())["backbone"]
        for share in asked.shares:
            for name, run in runs.items():
                finetune(asked.out, name, run, backbone, share, asked.steps)


def lists(jhmdb: Path, out: Path) -> None:
    """Write small copies of the clips, and the lists of each split's two parts."""
    out.mkdir(parents=True, exist_ok=True)
    rows = list(probes.rows_of(jhmdb / "clips.csv"))
    (out / "all.txt").write_text("".join(f"{jhmdb / row['path']}\n" for row in rows))
    vidssl("transcode", out / "all.txt", "--out", out / "small", "--short-side", 80, "--gop", 8)
    copies = {path.stem: path for path in (out / "small").rglob("*.mp4")}
    for split in SPLITS:
        for part in ("train", "test"):
            with (out / f"{part}-{split}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "label"])
                for row in rows:
                    if row[f"split{split}"] == part:
                        writer.writerow([copies[Path(row["path"]).stem], row["label"]])


def probe(out: Path, name: str, run: str, *more: object) -> None:
    """Score frozen features on the three splits."""
    for split in SPLITS:
        found = out / f"probe-{name}-{split}.json"
        if not found.exists():
            vidssl(
                *("probe", "--encoder", run.format(split=split), *more, "--cache", out / "cache"),
                *("--train", out / f"train-{split}.csv", "--test", out / f"test-{split}.csv"),
                *("--workers", 1, "--json", found),
            )


def finetune(
    out: Path, name: str, run: str, backbone: dict[str, Any], share: float, steps: int
) -> None:
    """Train a classifier on each split, and score it."""
    for split in SPLITS:
        folder = out / f"finetune-{name}-{share:g}-{split}"
        found = out / f"{folder.name}.json"  # a share has a dot of its own
        if found.exists():
            continue
        changes = {
            **{"backbone": json.dumps(backbone), "decode_short_side_px": 72, "seed": split},
            **{"labels": f"{{share: {share:g}, seed: {split}}}"},
            "optim": f"{{optimizer: adamw, lr: 0.001, batch: 16, steps: {steps}, "
            "warmup: 0.1, weight_decay: 0.01}",
        }
        vidssl(
            *("finetune", "recognition_small", "--out", folder),
            *("--encoder", run.format(split=split)),
            *("--videos", out / f"train-{split}.csv"),
            *(word for key, value in changes.items() for word in ("--set", f"{key}={value}")),
        )
        vidssl(
            *("eval-kinetics", "--checkpoint", folder, "--videos", out / f"test-{split}.csv"),
            *("--views", "3x1", "--out", folder / "test", "--json", found),
        )


def vidssl(*words: object) -> None:
    """Run a command; its progress goes to this one's stderr."""
    subprocess.run([VIDSSL, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
