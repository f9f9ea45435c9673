"""What each self-supervised method learns on the playground, by probes of its frozen encoder.

    python tools/evidence/ssl_playground.py OUT [--only NAME ...] [--seeds 0 1 2] [--steps 800]

All methods train the same narrow R3D on the same short videos, for as many clips, with one
optimizer and one augmentation unless the method names its own; nothing is tuned but CtP, whose
network has the basic blocks of its paper and maps twice as fine, and whose game pastes eight
patches into a clip, since most of the rendered backgrounds are too plain to show one.
What is done is not done again, so a stopped run goes on. OUT/table.txt has the mean and the spread
of:

- box labels: mean AP of linear probes of motions and interactions on the feature of each true box;
- seconds: mean AP of which of these labels the second around a clip holds, from the pooled feature;
- scene: accuracy of the video's scene, from the same feature, by the nearest of one labelled second
  for each scene (mean of 200 draws; with all labels even fresh weights tell the four scenes);
- video: share of seconds whose nearest other second is of the same video;
- directions: accuracy of eight directions in which an unseen shape moves (made in memory).

Rows without pretraining: fresh weights, and a detector of the same size trained on the labels.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import probes
import torch
from numpy.typing import NDArray

from vidssl.backbones import Encoder
from vidssl.section import choose

VIDSSL = Path(sys.executable).with_name("vidssl")
FRAMES, STRIDE, SIDE = 8, 3, 64
BACKBONE = {
    "name": "r3d",
    "width": 16,
    "depths": [1, 1, 1, 1],
    "frames": FRAMES,
    "stride": STRIDE,
    "form": "detection",
}
SCORES = ("box labels", "motions", "interactions", "seconds", "scene", "video", "directions")
LABELS = range(1, 8)
VIDEOS, SECONDS = 320, 8

AUGMENT = f"augment={{crop_px: {SIDE}, area: [0.2, 0.766]}}"
MILD = (
    f"augment={{crop_px: {SIDE}, area: [0.5, 1.0], strengths: [0.2, 0.2, 0.2, 0.05],"
    " grey: 0.0, blur: 0.0}"
)
INTERVAL = "sampling={starts: interval}"
NESTED = "sampling={starts: nested, strides: [6, 3]}"


def method(name: str, *options: str) -> str:
    """Return the change of a recipe that names a method, its projections being narrow."""
    return f"method={{{', '.join([f'name: {name}', *options])}}}"


def teg(weight: float) -> list[str]:
    """Return TeG with a weight of its fine-grained part."""
    return [method("teg", "hidden: 256", "dim: 64", f"fine_weight: {weight}"), NESTED, AUGMENT]


NEAR = "sampling={starts: interval, interval_power: 16}"
"""Two clips of nearly the same moment."""
CHANGE = "backbone.sees=changes"
"""Of names that end in -change: what changes from frame to frame."""
CTP_NET = {"block": "basic", "temporal_kernels": [5, 3, 3, 3, 3], "stem_pool": False}
FINE = {"stem_pool": False}
FINER = [f"backbone.{name}={json.dumps(value)}" for name, value in FINE.items()]
RANDOM: dict[str, dict[str, object]] = {
    **{"random": {}, "random-ctp": CTP_NET},
    **{"random-change": {"sees": "changes"}, "random-fine-change": {**FINE, "sees": "changes"}},
}
"""Fresh weights: of the net that all others train, of CtP's, and of one with finer maps."""
QUEUE = ("queue: 1024", "temperature: 0.1", "momentum: 0.99", "layers: 3")
METHODS: dict[str, list[str]] = {
    "moco": [method("moco", "hidden: 256", "dim: 64", *QUEUE), AUGMENT],
    "mocov3": [method("mocov3", "hidden: 512", "dim: 64", "temperature: 0.2"), AUGMENT],
    "simclr": [method("simclr", "hidden: 256", "dim: 64"), AUGMENT],
    "cvrl": [method("cvrl", "hidden: 256", "dim: 64"), INTERVAL, AUGMENT],
    "byol": [method("byol", "hidden: 512", "dim: 64", "momentum: 0.97"), AUGMENT],
    "swav": [method("swav", "hidden: 256", "dim: 64", "prototypes: 64"), AUGMENT],
    "const_cl": [
        *(method("const_cl", "hidden: 256", "dim: 64", "local_weight: 0.1"), INTERVAL, AUGMENT),
        "backbone.local_branch=true",
    ],
    "cvrl-near": [method("cvrl", "hidden: 256", "dim: 64"), NEAR, AUGMENT],
    "const_cl-near": [
        *(method("const_cl", "hidden: 256", "dim: 64", "local_weight: 1"), NEAR, AUGMENT),
        "backbone.local_branch=true",
    ],
    "teg-0": teg(0.0),
    "teg-0.5": teg(0.5),
    "teg-1": teg(1.0),
    "ctp": [
        *(method("ctp", "hidden: 128", "game: {speed_px: 5.25, patches: 8}"), MILD),
        *(f"backbone.{name}={json.dumps(value)}" for name, value in CTP_NET.items()),
    ],
}
METHODS["ctp-change"] = [*METHODS["ctp"], CHANGE]
for near in ("cvrl-near", "const_cl-near"):
    METHODS[f"{near}-change"] = [*METHODS[near], CHANGE]
    METHODS[f"{near}-fine-change"] = [*METHODS[near], CHANGE, *FINER]


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", help="of random, supervised and the methods")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=32)
    asked = parser.parse_args()
    truth = Truth(asked.out)
    names = [*RANDOM, "supervised", *METHODS]
    for seed in asked.seeds:
        for name in asked.only or names:
            found = asked.out / f"{name}-{seed}.json"
            if not found.exists():
                encoder = trained(asked, truth, name, seed)
                scores = truth.scores(encoder)
                found.write_text(json.dumps(scores, indent=1) + "\n")
            (asked.out / "table.txt").write_text(table(asked.out, names, asked.seeds))


def trained(asked: argparse.Namespace, truth: "Truth", name: str, seed: int) -> Encoder:
    """Return an encoder: trained without labels, with labels, or fresh."""
    run = asked.out / f"{name}-{seed}"
    if name in RANDOM:
        return fresh(seed, **RANDOM[name])
    if name == "supervised":
        data, sizes = truth.folder / "playground", f"crop_px: {SIDE}, test_short_side_px: {SIDE}"
        changes = [*length(asked, seed), f"augment={{short_side_px: [64, 76], {sizes}}}"]
        vidssl(
            *("finetune", "playground_slow", "--encoder", "random", "--out", run),
            *("--videos", truth.small / "train", "--annotations", data / "train.csv"),
            *("--labels", data / "action_list.pbtxt", *setting(changes)),
        )
    else:
        pretrain(asked, name, seed, run, truth.small / "train")
    return probes.load(run)


def fresh(seed: int, **changes: object) -> Encoder:
    """Return an encoder with fresh weights."""
    torch.manual_seed(seed)
    encoder: Encoder = choose("vidssl.backbones", {**BACKBONE, **changes}).build()
    return encoder


def pretrain(asked: argparse.Namespace, name: str, seed: int, run: Path, videos: Path) -> None:
    """Train a method of the table on videos, into the folder ``run``."""
    # A recipe of the method's own would bring its backbone and schedule along.
    recipe = run.with_suffix(".yaml")
    recipe.write_text(
        "task: pretrain\nmethod: {name: moco}\nbackbone: {name: r3d}\noptim: {lr: 1, batch: 2}\n"
        "log_every: 20\nsave_every: 200\nloader: {workers: 1}\n"
    )
    changes = [*length(asked, seed), *METHODS[name]]
    vidssl("pretrain", recipe, "--videos", videos, "--out", run, *setting(changes))


def length(asked: argparse.Namespace, seed: int) -> list[str]:
    """Return what all trainings have alike but for their length, as changes of a recipe."""
    optim = {
        **{"optimizer": "adamw", "lr": 0.002, "weight_decay": 1e-4, "warmup": 0.1},
        **{"batch": asked.batch, "steps": asked.steps},
    }
    return [f"backbone={json.dumps(BACKBONE)}", f"optim={json.dumps(optim)}", f"seed={seed}"]


class Truth:
    """The playground with its labels, and the clips on which encoders are probed."""

    def __init__(self, out: Path) -> None:
        """Render what is missing."""
        self.folder, self.small = out, out / "small"
        data = out / "playground"
        vidssl("playground", "--out", data, "--videos", VIDEOS, "--seconds", SECONDS, "--seed", 3)
        self.scene = {row["video"]: row["scene"] for row in probes.rows_of(data / "videos.csv")}
        for split in ("train", "val"):
            few = out / f"{split}.txt"
            names = [row for row in probes.rows_of(data / "videos.csv") if row["split"] == split]
            few.write_text("".join(f"{data / row['path']}\n" for row in names))
            vidssl("transcode", few, "--out", self.small / split, "--short-side", 80, "--gop", 8)
        self.parts = {split: self._part(split) for split in ("train", "val")}
        self.directions = moving_shapes(800)

    def _part(self, split: str) -> dict[str, object]:
        held: dict[tuple[str, int], dict[tuple[float, ...], set[int]]] = {}
        with (self.folder / "playground" / f"{split}.csv").open() as file:
            for line in file:
                video, second, *box, action, _ = line.strip().split(",")
                boxes = held.setdefault((video, int(second)), {})
                boxes.setdefault(tuple(map(float, box)), set()).add(int(action))
        moments = [
            (
                str(self.small / split / "playground" / "videos" / f"{video}.mp4"),
                float(second),
                float(SECONDS),
            )
            for video, second in held
        ]
        clips = probes.read_clips(
            self.folder / f"{split}.npy", moments, frames=FRAMES, stride=STRIDE, short_side_px=SIDE
        )
        actions = [found for boxes in held.values() for found in boxes.values()]
        together = [set().union(*boxes.values()) for boxes in held.values()]
        return {
            "clips": clips,
            "boxes": [np.array(list(boxes), dtype=np.float32) for boxes in held.values()],
            "labels": matrix(actions),
            "seconds": matrix(together),
            "scenes": np.array([self.scene[video] for video, _ in held]),
            "groups": [video for video, _ in held],
        }

    def scores(self, encoder: Encoder) -> dict[str, float]:
        """Return what the frozen encoder knows."""
        seen = {
            split: probes.features(encoder, part["clips"], part["boxes"], SIDE)  # type: ignore[arg-type]
            for split, part in self.parts.items()
        }
        train, val = self.parts["train"], self.parts["val"]
        boxes = probes.average_precisions(
            seen["train"][1], train["labels"], seen["val"][1], val["labels"]
        )  # type: ignore[arg-type]
        seconds = probes.average_precisions(
            seen["train"][0], train["seconds"], seen["val"][0], val["seconds"]
        )  # type: ignore[arg-type]
        clips, way, half = self.directions[0], self.directions[1], len(self.directions[1]) // 2
        moving = probes.features(encoder, clips, None, SIDE)[0]
        groups = [str(n) for n in range(half)]
        return {
            "box labels": statistics.mean(boxes),
            "motions": statistics.mean(boxes[:4]),
            "interactions": statistics.mean(boxes[4:]),
            "seconds": statistics.mean(seconds),
            "scene": probes.one_shot(seen["val"][0], val["scenes"], val["groups"]),  # type: ignore[arg-type]
            "video": probes.retrieved(seen["val"][0], val["groups"]),  # type: ignore[arg-type]
            "directions": probes.accuracy(
                (moving[:half], way[:half], groups), (moving[half:], way[half:])
            ),
        }


def matrix(held: list[set[int]]) -> NDArray[np.bool_]:
    """Return which labels each row holds, ``(N, K)``."""
    return np.array([[label in labels for label in LABELS] for labels in held])


def moving_shapes(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return clips ``(N, T, side, side, 3)`` of a shape that crosses a still picture, and where to.

    Disc or square, cut from another photograph, at 1.5 to 2.5 pixels a frame in one of eight
    directions from anywhere; grey noise on every frame.
    """
    from sklearn.datasets import load_sample_images

    photos = [photo.astype(np.float32) for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    clips = np.empty((count, FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    ways = rng.integers(8, size=count)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    for clip, way in zip(clips, ways, strict=True):
        behind, front = (patch(photos[n], rng) for n in rng.permutation(2))
        angle, speed = way * np.pi / 4, rng.uniform(1.5, 2.5)
        step = np.array([np.sin(angle), np.cos(angle)]) * speed
        middle, radius = rng.uniform(20, SIDE - 20, size=2), rng.uniform(7, 11)
        disc = rng.random() < 0.5
        for t in range(FRAMES):
            y, x = middle + (t - FRAMES / 2) * step
            away = (
                np.hypot(rows - y, columns - x)
                if disc
                else np.maximum(abs(rows - y), abs(columns - x))
            )
            cover = np.clip(radius - away + 0.5, 0, 1)[..., None]
            moved = np.roll(front, (round(y), round(x)), axis=(0, 1))
            noisy = behind * (1 - cover) + moved * cover + rng.normal(0, 4, (SIDE, SIDE, 1))
            clip[t] = np.clip(noisy, 0, 255)
    return clips, ways


def patch(photo: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a random square of a photograph, at two pixels of it to one."""
    top, left = (int(rng.integers(size - 2 * SIDE)) for size in photo.shape[:2])
    cut = photo[top : top + 2 * SIDE, left : left + 2 * SIDE]
    return cut.reshape(SIDE, 2, SIDE, 2, 3).mean(axis=(1, 3))


def table(out: Path, names: list[str], seeds: list[int]) -> str:
    """Return mean and sample standard deviation over the seeds, one line an encoder."""
    lines = [f"{'':14}" + "".join(f"{score:>18}" for score in SCORES)]
    for name in names:
        files = [out / f"{name}-{seed}.json" for seed in seeds]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
        if not found:
            continue
        cells = []
        for score in SCORES:
            values = [one[score] for one in found]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.3f} +- {spread:.3f}")
        lines.append(f"{name:11}{len(found):3}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines) + "\n"


def setting(changes: list[str]) -> list[str]:
    """Return the options that change a recipe."""
    return [word for change in changes for word in ("--set", change)]


def vidssl(*words: object) -> None:
    """Run a command; its progress goes to this one's stderr."""
    subprocess.run([VIDSSL, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
