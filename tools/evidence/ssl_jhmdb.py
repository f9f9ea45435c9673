"""What methods learn from a few hundred real clips, by a linear probe of the frozen encoder.

    python tools/evidence/ssl_jhmdb.py JHMDB OUT [--only NAME ...] [--splits 1 2 3] [--seeds 0 1 2]

JHMDB is a folder with clips.csv (clip_id, path, label, split1, split2, split3, source_group) and
the clips. Each encoder is pretrained on the training clips of one official split, without labels,
and probed on that split's test clips: features of three clips of each video, averaged, and a
logistic regression whose strength is chosen within the training part. The features are the mean and
the deviation over a clip of every channel of every stage (``--last``: the last stage's mean alone),
from pictures of 112 pixels; views to train on are 64 pixels cut from such. NAME-change sees what
changes from frame to frame (``backbone.sees``), NAME-fine has CtP's network; NAME+NAME puts the
features of two encoders side by side.
What is done is not done again; OUT/table.txt has, for each name, the mean over splits and seeds,
the spread of the seeds' means, and each split's mean.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import probes
from numpy.typing import NDArray
from ssl_playground import CHANGE, CTP_NET, FRAMES, METHODS, RANDOM, STRIDE, fresh, pretrain, vidssl

from vidssl.backbones import Encoder
from vidssl.video.probe import probe
from vidssl.video.sampling import latest_start_s, step_s

CLIPS = 3
SIDE = 112
ZOOM = "augment.area=[0.1, 0.4]"
FINE = [f"backbone.{name}={json.dumps(value)}" for name, value in CTP_NET.items()]
METHODS |= {
    **{name: [*changes, ZOOM] for name, changes in METHODS.items() if name != "ctp"},
    "simclr-fine": [*METHODS["simclr"], ZOOM, *FINE],
}
RANDOM |= {"random-ctp-change": {**CTP_NET, "sees": "changes"}}
METHODS |= {
    f"{name}-change": [*changes, CHANGE]
    for name, changes in METHODS.items()
    if not name.endswith("-change")
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jhmdb", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[*RANDOM, *METHODS])
    parser.add_argument("--splits", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--last", action="store_true", help="pool the last stage alone")
    asked = parser.parse_args()
    data = Data(asked.jhmdb, asked.out)
    for seed in asked.seeds:
        for split in asked.splits:
            for name in asked.only:
                found = asked.out / f"{name}{'-last' * asked.last}-{split}-{seed}.json"
                if not found.exists():
                    score = data.accuracy(split, features(asked, data, name, split, seed))
                    found.write_text(json.dumps({"accuracy": score}) + "\n")
                (asked.out / "table.txt").write_text(table(asked.out))


def features(
    asked: argparse.Namespace, data: "Data", name: str, split: int, seed: int
) -> NDArray[np.float32]:
    """Return the features of all videos, ``(N, F)``, of one encoder or of several side by side."""
    parts = []
    for one in name.split("+"):
        run = asked.out / (f"{one}-{seed}" if one in RANDOM else f"{one}-{split}-{seed}")
        kept = run.with_suffix(".last.npy" if asked.last else ".npy")
        if not kept.exists():
            found = encoder(asked, data, one, run, split, seed)
            np.save(kept, data.features(found, asked.last))
        parts.append(np.load(kept))
    return np.concatenate(parts, axis=1)


def encoder(
    asked: argparse.Namespace, data: "Data", name: str, run: Path, split: int, seed: int
) -> Encoder:
    """Return an encoder, trained on the split's training clips or fresh."""
    if name in RANDOM:
        return fresh(seed, **RANDOM[name])
    if not (run / "encoder.safetensors").exists():
        pretrain(asked, name, seed, run, data.lists[split])
    return probes.load(run)


class Data:
    """The videos, small copies of them, and the clips on which encoders are probed."""

    def __init__(self, jhmdb: Path, out: Path) -> None:
        """Copy and read what is missing."""
        out.mkdir(parents=True, exist_ok=True)
        self.rows = list(probes.rows_of(jhmdb / "clips.csv"))
        (out / "all.txt").write_text("".join(f"{jhmdb / row['path']}\n" for row in self.rows))
        vidssl(
            "transcode", out / "all.txt", "--out", out / "small", "--short-side", 128, "--gop", 8
        )
        copies = {path.stem: path for path in sorted((out / "small").rglob("*.mp4"))}
        paths = [copies[Path(row["path"]).stem] for row in self.rows]
        self.labels = np.array([int(row["label"]) for row in self.rows])
        self.groups = [row["source_group"] for row in self.rows]
        self.lists = {}
        for split in (1, 2, 3):
            chosen = [
                p for p, row in zip(paths, self.rows, strict=True) if self._trains(row, split)
            ]
            self.lists[split] = out / f"train-{split}.txt"
            self.lists[split].write_text("".join(f"{path}\n" for path in chosen))
        self.clips = probes.read_clips(
            out / "clips.npy", moments(paths), frames=FRAMES, stride=STRIDE, short_side_px=SIDE
        )

    @staticmethod
    def _trains(row: dict[str, str], split: int) -> bool:
        return row[f"split{split}"] == "train"

    def features(self, encoder: Encoder, last: bool) -> NDArray[np.float32]:
        """Return the mean over a video's clips of the pooled features, ``(videos, F)``."""
        rows = probes.stage_features(encoder, self.clips, SIDE, last=last)
        mean: NDArray[np.float32] = rows.reshape(len(self.rows), CLIPS, -1).mean(axis=1)
        return mean

    def accuracy(self, split: int, rows_NF: NDArray[np.float32]) -> float:
        """Return the share of the split's test videos that the probe gives their class."""
        trains = np.array([self._trains(row, split) for row in self.rows])
        groups = [group for group, train in zip(self.groups, trains, strict=True) if train]
        return probes.accuracy(
            (rows_NF[trains], self.labels[trains], groups), (rows_NF[~trains], self.labels[~trains])
        )


def moments(paths: Sequence[Path]) -> list[tuple[str, float, float]]:
    """Return (video, centre, duration) of three clips a video: first, middle and last that fit."""
    found = []
    for path in paths:
        duration_s = probe(str(path)).duration_s
        latest_s = latest_start_s(duration_s, FRAMES, STRIDE)
        half_s = FRAMES // 2 * step_s(STRIDE)
        for share in np.linspace(0, 1, CLIPS):
            found.append((str(path), share * latest_s + half_s, duration_s))
    return found


def table(out: Path) -> str:
    """Return a line a name: mean of all, deviation of the seeds' means, mean of each split."""
    found: dict[str, dict[tuple[int, int], float]] = {}
    for file in sorted(out.glob("*-[123]-*.json")):
        name, split, seed = file.stem.rsplit("-", 2)
        score = json.loads(file.read_text())["accuracy"]
        found.setdefault(name, {})[int(split), int(seed)] = score
    lines = [f"{'':20}{'runs':>5}{'mean':>8}{'seeds':>8}   splits 1, 2, 3"]
    for name, scores in found.items():
        by_seed: dict[int, list[float]] = {}
        by_split: dict[int, list[float]] = {}
        for (split, seed), score in scores.items():
            by_seed.setdefault(seed, []).append(score)
            by_split.setdefault(split, []).append(score)
        means = [statistics.mean(values) for values in by_seed.values()]
        spread = statistics.stdev(means) if len(means) > 1 else float("nan")
        splits = ", ".join(f"{statistics.mean(by_split[s]):.3f}" for s in sorted(by_split))
        mean = statistics.mean(scores.values())
        lines.append(f"{name:20}{len(scores):5}{mean:8.3f}{spread:8.3f}   {splits}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
