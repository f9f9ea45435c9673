"""What a feature bank gives labels that only a long memory can tell, where timing cannot.

    python tools/evidence/long_term.py OUT [--encoder NAME=RUN[,RUN...] ...] [--seeds 0 1 2]

On the playground the second of the video tells who can have been here before, and everybody of the
last seconds leaves for good. So its videos last 120 s here, only boxes of seconds 30 to 90 are
learnt and scored, and whoever comes has been here before with the same chance at any of them; the
rows of "clock" and "no features" measure what is left of timing.

An encoder stays as it is. Its maps after ``--layer``, averaged over a box, are both the box's own
feature and the bank's rows; heads on them are trained as ``finetune`` does with a frozen backbone
and no augmentation, but from features that are kept, so that a head takes a minute. The own
features are of the true boxes, the bank's rows of the detected people. An encoder of several runs
has one for each seed in turn, ``random`` fresh weights of the seed; the seed is that of the head,
too. What is done is not done again; OUT/table.txt has AP (official matching, true boxes) as mean
and sample deviation over seeds of:

- none: no bank; avg, max, nl: the paper's operators, masked, nl with the option ``likeness``;
- emptied: nl, tested with a bank of zeros, who was there when kept;
- no features: nl, trained and tested so;
- nl as published: with the time encoding, without ``likeness``;
- alike: no training; the greatest cosine, relative to the window, to a row of the right distance;
- clock: each label's share of the training boxes within two seconds of the same second.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from ssl_playground import BACKBONE, SIDE, fresh, vidssl
from torch import Tensor, nn

from vidssl.ava.annotations import Predictions, group_keyframes, read_annotations, read_excluded
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.mean_ap import mean_ap
from vidssl.detection.detector import detection_loss
from vidssl.features import Bank
from vidssl.features.operators import BankOperator, OperatorConfig
from vidssl.features.operators.fbo_nl import relative
from vidssl.section import choose
from vidssl.train.weights import save_weights

Floats = NDArray[np.float32]
Score = dict[int, float]

VIDEOS, SECONDS, SEED = 48, 120, 7
FIRST_S, LAST_S = 30, 90
NEAREST_S, FARTHEST_S = 8, 24
WINDOW = {"before_s": 30, "after_s": 30, "per_step": 3, "pick": "top"}
NL = {"name": "fbo_nl", "width": 64, "masked": True, "time_encoding": True, "window": WINDOW}
ALIKE = {"layers": 1, "width": 96, "likeness": 12, "init_std": 0.1}
OPERATORS: dict[str, dict[str, object] | None] = {
    "none": None,
    "avg": {"name": "fbo_avg", "masked": True, "window": WINDOW},
    "max": {"name": "fbo_max", "masked": True, "window": WINDOW},
    "nl": {**NL, **ALIKE},
    "no features": {**NL, **ALIKE},
    "nl as published": {**NL, "layers": 2},
}
HEADS = [*OPERATORS, "alike"]
STEPS, BATCH, RATE, DECAY, DROPOUT, WARMUP = 600, 64, 0.002, 0.1, 0.3, 0.05
GROUPS = {"movement": (1, 2, 3, 4), "interaction": (5, 6, 7), "returned": (8,), "again": (9,)}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--heads", nargs="*", default=HEADS, choices=HEADS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--layer", default="trunk.res2")
    parser.add_argument("--pooling", choices=["mean", "max"], default="mean")
    parser.add_argument("--playground-seed", type=int, default=SEED)
    asked = parser.parse_args()
    truth = Truth(asked.out, asked.playground_seed)
    for seed in asked.seeds:
        for given in asked.encoder or ["random"]:
            name, _, runs = given.partition("=")
            run = Path(runs.split(",")[seed % len(runs.split(","))]) if runs else None
            label = f"{name}@{asked.layer.rpartition('.')[2]}"
            label += "-max" if asked.pooling == "max" else ""
            parts: dict[str, Part] = {}
            for head in asked.heads:
                found = asked.out / "scores" / f"{label}--{head}--{seed}.json"
                if not found.exists():
                    parts = parts or truth.parts(label, asked, run, seed)
                    scores = judged(truth, parts, head, seed)
                    found.write_text(json.dumps(scores, indent=1) + "\n")
                (asked.out / "table.txt").write_text(table(asked.out))


@dataclass(frozen=True)
class Part:
    """The boxes of a split: N boxes, Q rows of a window, F features, K labels.

    ``own`` ``(N, F)``, ``labels`` ``(N, K)``; the window's ``rows`` ``(N, Q, F)``, its ``mask`` and
    ``offset_s`` ``(N, Q)``.
    """

    own: Tensor
    labels: Tensor
    rows: Tensor
    mask: Tensor
    offset_s: Tensor


class Truth:
    """The playground, its key frames that timing does not give away, and what is known of them."""

    def __init__(self, out: Path, seed: int = SEED) -> None:
        """Render what is missing."""
        self.out, self.data, self.index = out, out / "playground", out / "index.parquet"
        (out / "scores").mkdir(parents=True, exist_ok=True)
        words = ("--videos", VIDEOS, "--seconds", SECONDS, "--seed", seed)
        vidssl("playground", "--out", self.data, *words)
        if not self.index.exists():
            vidssl("index", self.data / "videos", "--out", self.index)
        self.labels: LabelMap = read_labels(self.data / "action_list.pbtxt")
        self.moments = {split: self._moments(split) for split in ("train", "val")}
        self.clock_ap = self.average_precision(self._clock())

    def _moments(
        self, split: str
    ) -> list[tuple[str, float, NDArray[np.float64], NDArray[np.bool_]]]:
        """Return video, second, box and labels of each box to learn or to score."""
        known = read_annotations(self.data / f"{split}.csv", self.labels)
        excluded = read_excluded(self.data / f"{split}_excluded_timestamps.csv")
        return [
            (frame.video, frame.timestamp, box, row)
            for frame in group_keyframes(known, self.labels.size, excluded)
            if FIRST_S <= frame.timestamp <= LAST_S
            for box, row in zip(frame.boxes, frame.labels, strict=True)
        ]

    def boxes(self) -> Path:
        """Return a file of the true boxes in the form of detections."""
        path = self.out / "true_boxes.csv"
        path.write_text(
            "".join(
                f"{video},{round(second):04d},{','.join(f'{side:.6f}' for side in box)},,1.0\n"
                for moments in self.moments.values()
                for video, second, box, _ in moments
            )
        )
        return path

    def parts(
        self, label: str, asked: argparse.Namespace, run: Path | None, seed: int
    ) -> dict[str, Part]:
        """Return what an encoder's features make of both splits, standardised by the training."""
        found = [self.data / f"{split}_person_detections.csv" for split in ("train", "val")]
        if run is None:
            run = self.out / f"random-{seed}"
            save_weights(run, "encoder", fresh(seed), {"backbone": BACKBONE})
        of = f"{label}-{run.name}"
        bank = self._extracted(f"bank-{of}", asked, run, found)
        own = self._extracted(f"own-{of}", asked, run, [self.boxes()])
        features = {}
        for rows, values in own.shards():
            told = rows.to_pydict()
            sides = zip(*(told[side] for side in ("x1", "y1", "x2", "y2")), strict=True)
            for video, second, box, feature in zip(
                told["video"], told["second"], sides, np.asarray(values), strict=True
            ):
                features[_key(video, second, box)] = feature
        kept = {
            split: np.stack([features[_key(*moment[:3])] for moment in moments]).astype(np.float32)
            for split, moments in self.moments.items()
        }
        mean, deviation = kept["train"].mean(axis=0), kept["train"].std(axis=0) + 1e-6
        return {
            split: self._part(moments, (kept[split] - mean) / deviation, bank, (mean, deviation))
            for split, moments in self.moments.items()
        }

    def _part(
        self,
        moments: list[tuple[str, float, NDArray[np.float64], NDArray[np.bool_]]],
        own: Floats,
        bank: Bank,
        by: tuple[Floats, Floats],
    ) -> Part:
        windows = [
            bank.window(video, second, before_s=30, after_s=30, per_step=3, pick="top", seed=0)
            for video, second, _, _ in moments
        ]
        mask = np.stack([window.mask for window in windows])
        # Absent rows take no part in any of these heads: only as many as some window needs stay.
        order = np.argsort(~mask, axis=1, kind="stable")[:, : mask.sum(axis=1).max()]
        mask = np.take_along_axis(mask, order, axis=1)
        rows = np.stack([w.features[o] for w, o in zip(windows, order, strict=True)])
        rows = (rows.astype(np.float32) - by[0]) / by[1] * mask[..., None]
        offset_s = np.stack([w.offset_s[o] for w, o in zip(windows, order, strict=True)])
        return Part(
            torch.from_numpy(own),
            torch.from_numpy(np.stack([row for *_, row in moments]).astype(np.float32)),
            torch.from_numpy(rows),
            torch.from_numpy(mask),
            torch.from_numpy(offset_s),
        )

    def _extracted(
        self, name: str, asked: argparse.Namespace, run: Path, boxes: list[Path]
    ) -> Bank:
        recipe = self.out / f"{name}.yaml"
        backbone = json.loads((run / "encoder.json").read_text())["backbone"]
        recipe.write_text(
            f"task: extract\nbackbone: {json.dumps(backbone)}\nlayers: [{asked.layer}]\n"
            f"pooling: {asked.pooling}\nshort_side_px: {SIDE}\nmin_score: 0.5\nbatch: 16\n"
            "loader: {workers: 0}\n"
        )
        people = [word for path in boxes for word in ("--boxes", path)]
        folder = self.out / name
        vidssl(
            *("extract-features", recipe, "--encoder", run, "--videos", self.index),
            *(*people, "--out", folder),
        )
        return Bank.open(folder)

    def average_precision(self, scores_NK: NDArray[np.float64]) -> Score:
        """Return each label's AP of scores of the validation boxes."""
        moments, classes = self.moments["val"], self.labels.size
        known = read_annotations(self.data / "val.csv", self.labels)
        times = {round(second) for second in known.timestamp.tolist()}
        outside = {
            (video, second)
            for video in set(known.video.tolist())
            for second in times
            if not FIRST_S <= second <= LAST_S
        }
        excluded = read_excluded(self.data / "val_excluded_timestamps.csv") | outside
        found = Predictions(
            video=np.repeat([moment[0] for moment in moments], classes),
            timestamp=np.repeat([float(moment[1]) for moment in moments], classes),
            box=np.repeat(np.stack([moment[2] for moment in moments]), classes, axis=0),
            action=np.tile(np.arange(1, classes + 1), len(moments)),
            score=scores_NK.reshape(-1).astype(np.float64),
        )
        score = mean_ap(
            known, found, self.labels, protocol="slowfast", excluded=frozenset(excluded)
        )
        return dict(score.ap)

    def _clock(self) -> NDArray[np.float64]:
        second = np.array([moment[1] for moment in self.moments["train"]])
        labels = np.stack([moment[3] for moment in self.moments["train"]])
        near = [np.abs(second - moment[1]) <= 2 for moment in self.moments["val"]]
        return np.stack([labels[rows].mean(axis=0) for rows in near])


class Head(nn.Module):
    """``Linear(dropout(concat[S, operator(S, bank)]))``, as in the detector."""

    def __init__(self, config: OperatorConfig | None, features: int, classes: int) -> None:
        """Make fresh weights."""
        super().__init__()
        self.operator: BankOperator | None = None
        width = features
        if config is not None:
            self.operator = config.build(features, features)
            width += self.operator.features
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, part: Part, which: Tensor, *, emptied: bool = False) -> Tensor:
        """Return the logits ``(n, K)`` of some of the boxes."""
        own = part.own[which]
        if self.operator is None:
            return self.classifier(self.dropout(own))  # type: ignore[no-any-return]
        rows = part.rows[which] * (0 if emptied else 1)
        answer = self.operator(own, rows, part.mask[which], part.offset_s[which])
        return self.classifier(self.dropout(torch.cat([own, answer], dim=1)))  # type: ignore[no-any-return]


def judged(truth: Truth, parts: Mapping[str, Part], name: str, seed: int) -> dict[str, Score]:
    """Train a head; return its AP by label, of nl with an emptied bank, too."""
    if name == "alike":
        return {name: alike(truth, parts["val"])}
    blind = name == "no features"
    head = trained(parts["train"], name, seed, emptied=blind)
    found = {name: truth.average_precision(predicted(head, parts["val"], emptied=blind))}
    if name == "nl":
        scores = predicted(head, parts["val"], emptied=True)
        found["emptied"] = truth.average_precision(scores)
    return {**found, "clock": truth.clock_ap} if name == "none" else found


def alike(truth: Truth, part: Part) -> Score:
    """Return the AP of both labels of memory by likeness to a row 8 to 24 s before, or after."""
    own, rows = relative(part.own, part.rows, part.mask)
    cosine_NQ = torch.einsum("nf,nqf->nq", own, rows) / own.shape[1]
    scores = np.zeros(part.labels.shape)
    for label, away_NQ in ((8, -part.offset_s), (9, part.offset_s)):
        far_NQ = (away_NQ >= NEAREST_S) & (away_NQ <= FARTHEST_S) & part.mask
        scores[:, label - 1] = cosine_NQ.masked_fill(~far_NQ, -1).amax(dim=1).numpy()
    found = truth.average_precision(scores)
    return {label: found[label] for label in (8, 9)}


def trained(part: Part, name: str, seed: int, *, emptied: bool) -> Head:
    """Return a head after its training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    values = OPERATORS[name]
    config = None if values is None else choose("vidssl.features.operators", values)
    head = Head(config, part.own.shape[1], part.labels.shape[1])
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    begun = time.monotonic()
    for step in range(STEPS):
        share = min(1.0, (step + 1) / (WARMUP * STEPS))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share * (1 + math.cos(math.pi * step / STEPS)) / 2
        which = torch.from_numpy(rng.choice(len(part.own), BATCH, replace=False))
        loss = detection_loss(head(part, which, emptied=emptied), part.labels[which]).loss
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    told = f"{name}, seed {seed}: loss {loss.item():.3f}, {time.monotonic() - begun:.0f} s"
    sys.stderr.write(f"{told}\n")
    return head


@torch.inference_mode()
def predicted(head: Head, part: Part, *, emptied: bool) -> NDArray[np.float64]:
    """Return the scores of all boxes of a part, ``(N, K)``."""
    head.eval()
    batches = torch.arange(len(part.own)).split(256)
    logits = torch.cat([head(part, which, emptied=emptied) for which in batches])
    return np.asarray(logits.double().sigmoid().numpy())


def table(out: Path) -> str:
    """Return mean and sample deviation over the seeds, one line an encoder and head."""
    groups = {**GROUPS, "memory": (8, 9)}
    lines = [f"{'':34}" + "".join(f"{group:>18}" for group in groups)]
    found: dict[tuple[str, str], list[Score]] = {}
    for path in sorted((out / "scores").glob("*.json")):
        encoder = path.name.split("--")[0]
        for name, ap in json.loads(path.read_text()).items():
            found.setdefault((encoder, name), []).append({int(k): v for k, v in ap.items()})
    for (encoder, name), scores in found.items():
        cells = []
        for ids in groups.values():
            if not set(ids) <= scores[0].keys():
                cells.append("")
                continue
            values = [statistics.mean(score[label] for label in ids) for score in scores]
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            cells.append(f"{statistics.mean(values):.3f} +- {spread:.3f}")
        head = f"{encoder} {name}"
        lines.append(f"{head:31}{len(scores):3}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines) + "\n"


def _key(video: str, second: float, box: object) -> tuple[str, int, tuple[float, ...]]:
    sides = np.asarray(box, dtype=np.float32)
    return video, round(second), tuple(sides.round(4).tolist())


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
