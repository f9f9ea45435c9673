"""People in boxes, by a linear classifier on the frozen features of their regions.

Features are those that ``vidssl extract-features`` gives each annotated box: RoIAlign on the last
map, the maximum over the region's cells, the mean over time. One logistic regression per action is
fitted on the boxes of the training videos and scored by AVA's protocol on the true boxes of the
test videos, so finding people is no part of the score. Boxes whose key frame could not be read are
missed.

Array suffixes: N annotated boxes, F features, K actions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.ava import bootstrap
from vidssl.ava.annotations import (
    Annotations,
    PersonBoxes,
    Predictions,
    read_annotations,
    write_person_boxes,
)
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.mean_ap import right, score_of
from vidssl.ava.sides import meet
from vidssl.data.loader import LoaderConfig
from vidssl.errors import AnnotationError
from vidssl.features import Bank
from vidssl.files import sha256
from vidssl.jobs import extract_features
from vidssl.jobs._probe_encoder import Looked
from vidssl.jobs._probe_result import fingerprint
from vidssl.probe import linear
from vidssl.progress import Progress, silent
from vidssl.recipe import Extract
from vidssl.report.card import Score


@dataclass(frozen=True)
class BoxTask:
    """Annotated people to train on and to test on, files in AVA layout, and their videos."""

    videos: str
    train: Path
    test: Path
    labels: Path

    def read(self) -> tuple[LabelMap, Annotations, Annotations]:
        """Return the label map, and who does what in the training and in the test videos.

        Raises:
            AnnotationError: if a file is wrong.
        """
        labels = read_labels(self.labels)
        return labels, read_annotations(self.train, labels), read_annotations(self.test, labels)


@dataclass(frozen=True)
class _People:
    """Each annotated box once: where it is, ``(N,)`` and ``(N, 4)``, and what it ``does``,
    ``(N, K)``; ``features`` ``(N, F)`` of those that are ``known``, ``(N,)``."""

    video: NDArray[np.str_]
    timestamp: NDArray[np.float64]
    box: NDArray[np.float64]
    does: NDArray[np.bool_]
    features: NDArray[np.float32]
    known: NDArray[np.bool_]


def score_boxes(
    task: BoxTask,
    encoder: Path,
    looked: Looked,
    cache: Path,
    *,
    side_px: int,
    workers: int,
    progress: Progress = silent,
) -> Score:
    """Return the mean average precision over actions; features are kept below ``cache``.

    Raises:
        AnnotationError: if a file is wrong, or nothing is annotated.
        VidsslError: as :func:`vidssl.jobs.extract_features.run`.
    """
    labels, train, test = task.read()
    plan = Extract(
        task="extract",
        backbone=looked.backbone,
        short_side_px=side_px,
        decode_short_side_px=side_px,
        min_score=0.0,
        loader=LoaderConfig(workers=workers),
    )
    sides = []
    for path, table in ((task.train, train), (task.test, test)):
        people = _people(path, table, labels)
        sides.append(_with_features(people, task.videos, plan, encoder, looked, cache, progress))
    learnt, asked = sides
    known = learnt.known
    _, film_N = np.unique(learnt.video[known], return_inverse=True)
    try:
        fit = linear.fit_linear_multilabel(
            learnt.features[known],
            learnt.does[known],
            asked.features[asked.known],
            group_N=film_N.reshape(-1),
        )
    except ValueError as error:
        raise AnnotationError(f"{task.train}: no probe can be trained: {error}") from error
    protocol = {
        "probe": "linear on regions",
        "metric": "mean AP of true boxes, AVA's protocol",
        "recipe": json.dumps(plan.model_dump(mode="json", exclude={"loader", "backbone"})),
        "clip": f"{looked.backbone.frames} frames, stride {looked.backbone.stride}",
        "train": sha256(task.train)[:16],
        "truth": sha256(task.test)[:16],
        "labels": sha256(task.labels)[:16],
    }
    return _scored(test, asked, fit.probabilities, labels, protocol)


def _people(path: Path, table: Annotations, labels: LabelMap) -> _People:
    """Return each box of a file once, with all of its actions that the label map has."""
    column = {action: place for place, action in enumerate(labels.ids)}
    place_of: dict[tuple[Any, ...], int] = {}
    rows: list[int] = []
    does: list[tuple[int, int]] = []
    for row, action in enumerate(table.action.tolist()):
        if action == 0:  # nobody is in the frame
            continue
        key = (str(table.video[row]), float(table.timestamp[row]), table.box[row].tobytes())
        if key not in place_of:
            place_of[key] = len(rows)
            rows.append(row)
        if action in column:
            does.append((place_of[key], column[action]))
    if not rows:
        raise AnnotationError(f"{path}: expected annotated people, found none")
    does_NK = np.zeros((len(rows), len(column)), np.bool_)
    does_NK[tuple(np.array(does, np.int64).reshape(-1, 2).T)] = True
    return _People(
        np.asarray(table.video[rows], dtype=np.str_),
        np.asarray(table.timestamp[rows], dtype=np.float64),
        np.asarray(table.box[rows], dtype=np.float64),
        does_NK,
        np.zeros((len(rows), 0), np.float32),
        np.zeros(len(rows), np.bool_),
    )


def _with_features(
    people: _People,
    videos: str,
    plan: Extract,
    encoder: Path,
    looked: Looked,
    cache: Path,
    progress: Progress,
) -> _People:
    """Return the people with the features of their boxes, from the cache if they are there."""
    told = [people.video.tolist(), people.timestamp.tolist(), people.box.tolist(), videos]
    kept = plan.model_dump(mode="json", exclude={"loader", "batch", "device"})
    name = f"boxes-{looked.hash}-{fingerprint({'boxes': told, 'plan': kept})}"
    path = cache / f"{name}.csv"
    cache.mkdir(parents=True, exist_ok=True)
    score = np.ones(len(people.video))
    write_person_boxes(path, PersonBoxes(people.video, people.timestamp, people.box, score))
    extract_features.run(plan, encoder, videos, [path], cache / name, progress=progress)
    bank = Bank.open(cache / name)
    place_of = {
        _key(*row): place
        for place, row in enumerate(
            zip(people.video.tolist(), people.timestamp.tolist(), people.box, strict=True)
        )
    }
    features_NF = np.zeros((len(people.video), bank.dim), np.float32)
    known_N = np.zeros(len(people.video), np.bool_)
    for table, rows_RF in bank.shards():
        boxes = np.stack([table[side].to_numpy() for side in ("x1", "y1", "x2", "y2")], axis=1)
        names, seconds = table["video"].to_pylist(), table["second"].to_pylist()
        for number, (video, second) in enumerate(zip(names, seconds, strict=True)):
            place = place_of.get(_key(video, second, boxes[number]))
            if place is not None:
                features_NF[place], known_N[place] = rows_RF[number], True
    return _People(people.video, people.timestamp, people.box, people.does, features_NF, known_N)


def _key(video: str, second: float, box: NDArray[np.floating]) -> tuple[str, float, bytes]:
    """Return what names a box in a bank, which holds its sides in single precision."""
    return video, round(second, 4), np.asarray(box, dtype=np.float32).tobytes()


def _scored(
    truth: Annotations,
    people: _People,
    found_MK: NDArray[np.float64],
    labels: LabelMap,
    protocol: Mapping[str, str],
) -> Score:
    known = people.known
    count = int(known.sum())
    predictions = Predictions(
        np.repeat(people.video[known], len(labels.ids)).astype(object),
        np.repeat(people.timestamp[known], len(labels.ids)),
        np.repeat(people.box[known], len(labels.ids), axis=0),
        np.tile(np.array(labels.ids, np.int64), count),
        found_MK.reshape(-1),
    )
    sides = meet(truth, predictions, labels)
    score = score_of(sides, labels)
    span = bootstrap.interval(sides, right(sides), labels.ids)
    return Score(
        key="boxes.mean_ap",
        title="Actions of people, mean AP",
        meaning="What a linear classifier on the frozen features of each person's box tells of "
        "what they do. The boxes are the true ones.",
        value=None if np.isnan(score.mean_ap) else score.mean_ap,
        low=span.low if span else None,
        high=span.high if span else None,
        expected=score.expected,
        evaluated=score.evaluated,
        failed=score.without_predictions,
        fingerprint=fingerprint(protocol),
        protocol=protocol,
        unit="key frames",
    )
