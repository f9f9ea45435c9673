"""What frozen encoders know: clips read once and kept, features of them, and linear probes.

The clips of an evaluation are decoded once into one file, whatever number of encoders look at them.
Probes are logistic regressions on standardised features; how strongly they are held back is chosen
within the training part, by folds that keep a group's clips together.

Array suffixes: N clips, T frames, H and W pixels, F features, K labels.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vidssl.augment import geometry
from vidssl.augment.views import normalise
from vidssl.backbones import Encoder
from vidssl.detection.roi_head import RoIHead
from vidssl.recipe import backbone_from
from vidssl.train.weights import load_into, load_weights
from vidssl.video.reader import open_reader
from vidssl.video.sampling import centred_times, fitted
from vidssl.video.storage import Location

Floats = NDArray[np.float32]
GRID = [1e-4, 1e-3, 1e-2, 1e-1]
BATCH = 32


def read_clips(
    path: Path,
    moments: Sequence[tuple[Location, float, float]],
    *,
    frames: int,
    stride: float,
    short_side_px: int,
) -> NDArray[np.uint8]:
    """Return clips ``(N, T, H, W, 3)`` around (video, second, duration), kept in ``path``."""
    if path.exists():
        return np.load(path, mmap_mode="r")
    rows = []
    opened, reader = "", None
    for location, second, duration_s in moments:
        if location != opened:
            if reader is not None:
                reader.close()
            opened, reader = location, open_reader(location)
        assert reader is not None
        times_s = fitted(centred_times(second, frames, stride), duration_s)
        rows.append(reader.frames_at(times_s, short_side_px).frames)
    if reader is not None:
        reader.close()
    np.save(path, np.stack(rows))
    return np.load(path, mmap_mode="r")


def load(run: Path) -> Encoder:
    """Return the encoder of a run."""
    card, tensors = load_weights(run, "encoder")
    encoder = backbone_from(card, str(run)).build()
    load_into(encoder, tensors, str(run))
    return encoder


@torch.inference_mode()
def features(
    encoder: Encoder,
    clips_NTHWC: NDArray[np.uint8],
    boxes: Sequence[Floats] | None,
    side_px: int,
) -> tuple[Floats, Floats]:
    """Return the pooled features ``(N, F)``, and those of all boxes in order, ``(boxes, F)``.

    Whole pictures, brought to a short side of ``side_px``.
    """
    encoder.eval()
    pool = RoIHead(encoder.spatial_stride, resolution=7)
    clip_rows, box_rows = [], []
    for number, clips in enumerate(batches(clips_NTHWC, side_px, encoder.spatial_stride)):
        maps = encoder.maps(clips)
        clip_rows.append(maps.mean(dim=(2, 3, 4)).numpy())
        if boxes is not None:
            of_batch = boxes[number * BATCH : (number + 1) * BATCH]
            mine = tuple(torch.from_numpy(b).float() for b in of_batch)
            height, width = clips.shape[3:]
            box_rows.append(pool(maps, mine, (height, width)).numpy())
    return np.concatenate(clip_rows), np.concatenate(box_rows) if box_rows else np.zeros((0, 0))


@torch.inference_mode()
def stage_features(
    encoder: Encoder, clips_NTHWC: NDArray[np.uint8], side_px: int, *, last: bool
) -> Floats:
    """Return the mean and deviation over a clip of each channel of each stage, ``(N, F)``.

    Whole pictures, brought to a short side of ``side_px``; the encoder has one trunk. ``last`` asks
    for the last stage's mean alone.
    """
    found: list[torch.Tensor] = []

    def note(module: torch.nn.Module, inputs: object, map_: torch.Tensor) -> None:
        found.extend((map_.mean(dim=(2, 3, 4)), map_.std(dim=(2, 3, 4))))

    encoder.eval()
    hooks = [stage.register_forward_hook(note) for stage in encoder.trunk]  # type: ignore[union-attr]
    rows = []
    for clips in batches(clips_NTHWC, side_px, encoder.spatial_stride):
        found.clear()
        encoder.maps(clips)
        rows.append((found[-2] if last else torch.cat(found, dim=1)).numpy())
    for hook in hooks:
        hook.remove()
    return np.concatenate(rows)


def batches(clips_NTHWC: NDArray[np.uint8], side_px: int, multiple: int) -> Iterator[torch.Tensor]:
    """Give normalised clips, whole pictures of a short side of about ``side_px``."""
    for start in range(0, len(clips_NTHWC), BATCH):
        raw = torch.from_numpy(np.array(clips_NTHWC[start : start + BATCH]))
        size = geometry.short_side_size(*raw.shape[2:4], side_px, multiple)
        yield normalise(torch.stack([geometry.apply(clip, geometry.whole(*size)) for clip in raw]))


def fitted_probe(
    train_NF: Floats, labels_N: NDArray[np.int64], groups_N: Sequence[str]
) -> GridSearchCV:
    """Return a logistic regression whose strength the training part alone has chosen.

    Where features outnumber the clips they are turned into as many; the regression is the same.
    """
    scaled = [StandardScaler()]
    if train_NF.shape[1] > train_NF.shape[0]:
        scaled.append(PCA())
    model = make_pipeline(*scaled, LogisticRegression(max_iter=300))
    grid = {"logisticregression__C": GRID}
    folds = GroupKFold(3).split(train_NF, labels_N, groups_N)
    return GridSearchCV(model, grid, cv=list(folds)).fit(train_NF, labels_N)


def accuracy(
    train: tuple[Floats, NDArray[np.int64], Sequence[str]], test: tuple[Floats, NDArray[np.int64]]
) -> float:
    """Return the share of test clips that a probe gives their class."""
    probe = fitted_probe(*train)
    return float(accuracy_score(test[1], probe.predict(test[0])))


def average_precisions(
    train_NF: Floats,
    train_NK: NDArray[np.bool_],
    test_NF: Floats,
    test_NK: NDArray[np.bool_],
    strength: float = 1e-2,
) -> list[float]:
    """Return the average precision of one probe for each label."""
    scaler = StandardScaler().fit(train_NF)
    train_NF, test_NF = scaler.transform(train_NF), scaler.transform(test_NF)
    scores = []
    for label in range(train_NK.shape[1]):
        probe = LogisticRegression(C=strength, max_iter=300).fit(train_NF, train_NK[:, label])
        scores.append(
            float(average_precision_score(test_NK[:, label], probe.decision_function(test_NF)))
        )
    return scores


def one_shot(
    rows_NF: Floats, classes_N: NDArray[np.str_], groups_N: Sequence[str], draws: int = 200
) -> float:
    """Return the share of clips whose class is that of the nearest of one labelled clip a class.

    Mean over random choices of the labelled ones; clips of their groups are not tested.
    """
    rows_NF = directions(rows_NF)
    rng, scores = np.random.default_rng(0), []
    names = np.unique(classes_N)
    groups = np.array(groups_N)
    for _ in range(draws):
        shown = [rng.choice(np.flatnonzero(classes_N == name)) for name in names]
        asked = ~np.isin(groups, groups[shown])
        nearest = (rows_NF[asked] @ rows_NF[shown].T).argmax(axis=1)
        scores.append(float((names[nearest] == classes_N[asked]).mean()))
    return float(np.mean(scores))


def retrieved(rows_NF: Floats, groups_N: Sequence[str]) -> float:
    """Return the share of clips whose nearest other clip, by cosine, is of the same group."""
    rows_NF, groups = directions(rows_NF), np.array(groups_N)
    alike = rows_NF @ rows_NF.T
    np.fill_diagonal(alike, -np.inf)
    return float((groups[alike.argmax(axis=1)] == groups).mean())


def directions(rows_NF: Floats) -> Floats:
    """Return the rows standardised by feature and brought to unit length."""
    rows_NF = StandardScaler().fit_transform(rows_NF)
    unit: Floats = rows_NF / np.linalg.norm(rows_NF, axis=1, keepdims=True).clip(1e-9)
    return unit


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """Give the rows of a csv file with a header."""
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def write(path: Path, found: dict[str, float]) -> None:
    """Write the scores of one encoder."""
    path.write_text(json.dumps(found, indent=1) + "\n")
