"""Whether pretraining helps a detector of actions in real videos, and what found boxes cost it.

    python tools/evidence/jhmdb_duo.py DUO OUT [--encoder NAME=RUN[,RUN...] ...] [--seeds 0 1 2]

DUO is a small set in AVA layout: videos, train.csv, val.csv, action_list.pbtxt, detections and
exclusions. For each seed a detector is trained from fresh weights and from a run of each encoder
(of the runs given, one seed after the other takes the next), all else equal; untuned. It is scored
on the true boxes and on those that a person detector found. What is done is not done again;
OUT/table.txt has means and sample deviations over seeds beside:

- class prior: each box gets each class's share of the training boxes, whatever it shows;
- ceiling: a classifier without mistakes on the same boxes.

An encoder's card names its network, so that fresh weights compare with encoders of theirs alone:
the r3d that ssl_playground.py trains.
"""

import argparse
import csv
import json
import statistics
from collections import Counter
from pathlib import Path

from ssl_playground import BACKBONE, vidssl

FRESH = "fresh weights"
RECIPE = """task: detection
decode_short_side_px: 96
head: {dropout: 0.2}
boxes: {test_min_score: 0.5}
augment: {short_side_px: [64, 80], crop_px: null, test_short_side_px: 72}
optim: {optimizer: adamw, lr: 0.003, batch: 8, epochs: 4, warmup: 0.05, weight_decay: 0.01}
loader: {workers: 0}
"""
SIDES = ("true", "found")


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("duo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    asked = parser.parse_args()
    encoders = {
        name: runs.split(",") for name, _, runs in (e.partition("=") for e in asked.encoder)
    }
    data = Data(asked.duo, asked.out)
    data.score_prior()
    for seed in asked.seeds:
        data.train_and_score(FRESH, None, seed)
        for name, runs in encoders.items():
            data.train_and_score(name, Path(runs[seed % len(runs)]), seed)
        (asked.out / "table.txt").write_text(data.table([FRESH, *encoders]))


class Data:
    """The set, and the folder that all results go to."""

    def __init__(self, duo: Path, out: Path) -> None:
        """Write down what both sides of the comparison share."""
        out.mkdir(parents=True, exist_ok=True)
        self.duo, self.out, self.index = duo, out, out / "index.parquet"
        self.boxes = {"true": out / "true_boxes.csv", "found": duo / "val_person_detections.csv"}
        people = dict.fromkeys(tuple(row[:6]) for row in rows(duo / "val.csv"))
        self.boxes["true"].write_text("".join(f"{','.join(box)},,1.0\n" for box in people))
        if not self.index.exists():
            vidssl("index", duo / "videos", "--out", self.index)

    def score_prior(self) -> None:
        """Score boxes that all get the classes' shares of the training boxes."""
        actions = Counter(row[6] for row in rows(self.duo / "train.csv"))
        people = len({tuple(row[:6]) for row in rows(self.duo / "train.csv")})
        for side in SIDES:
            guesses = self.out / f"prior-{side}.csv"
            with guesses.open("w") as file:
                for *box, _, score in rows(self.boxes[side]):
                    if float(score) >= 0.5:
                        for action, count in actions.items():
                            file.write(f"{','.join(box)},{action},{count / people:.6f}\n")
            self._score(self.out / f"prior-{side}.json", "--predictions", guesses)

    def train_and_score(self, name: str, encoder: Path | None, seed: int) -> None:
        """Train a detector unless there is one, and score it on either kind of boxes."""
        run = self.out / f"{name.replace(' ', '_')}-{seed}"
        scores = {side: self.out / f"{run.name}-{side}.json" for side in SIDES}
        if all(found.exists() for found in scores.values()):
            return
        if not (run / "detector.json").exists():
            card = json.loads((encoder / "encoder.json").read_text()) if encoder else {}
            recipe = self.out / f"{run.name}.yaml"
            backbone = json.dumps(card.get("backbone", BACKBONE))
            recipe.write_text(f"{RECIPE}seed: {seed}\nbackbone: {backbone}\n")
            vidssl(
                *("finetune", recipe, "--encoder", encoder or "random", "--out", run),
                *("--videos", self.index, "--annotations", self.duo / "train.csv"),
                *("--labels", self.duo / "action_list.pbtxt"),
            )
        for side, found in scores.items():
            asked = ("--checkpoint", run, "--videos", self.index, "--boxes", self.boxes[side])
            self._score(found, *asked)

    def _score(self, found: Path, *asked: object) -> None:
        if not found.exists():
            vidssl(
                *("eval-ava", *asked, "--annotations", self.duo / "val.csv"),
                *("--labels", self.duo / "action_list.pbtxt", "--protocol", "slowfast"),
                *("--excluded", self.duo / "val_excluded_timestamps.csv", "--json", found),
                # A key frame in which no person was found counts as it does for any detector.
                *("--max-failed", 1),
            )

    def table(self, names: list[str]) -> str:
        """Return mean AP on true and on found boxes, a line for each start."""
        lines = [f"{'':16}{'seeds':>6}{'true boxes':>18}{'found boxes':>18}"]
        for name in ("prior", *names):
            stem = name.replace(" ", "_")
            found = {side: self._means(stem, side) for side in SIDES}
            if found["true"]:
                cells = "".join(f"{spread(found[side]):>18}" for side in SIDES)
                lines.append(f"{name:16}{len(found['true']):6}{cells}")
        told = {side: json.loads((self.out / f"prior-{side}.json").read_text()) for side in SIDES}
        cells = "".join(f"{told[side]['detail']['ceiling']:>18.3f}" for side in SIDES)
        lines.append(f"{'ceiling':16}{'':6}{cells}")
        return "\n".join(lines) + "\n"

    def _means(self, stem: str, side: str) -> list[float]:
        pattern = f"prior-{side}.json" if stem == "prior" else f"{stem}-[0-9]*-{side}.json"
        return [json.loads(p.read_text())["mean_ap"] for p in sorted(self.out.glob(pattern))]


def rows(path: Path) -> list[list[str]]:
    """Return the rows of a csv file without a header."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def spread(values: list[float]) -> str:
    """Return mean and sample standard deviation in words."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
