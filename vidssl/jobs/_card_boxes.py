"""People in boxes, by a linear classifier on the frozen features of their regions.

Features are those that ``vidssl extract-features`` gives each annotated box: RoIAlign on the last
map, the maximum over the region's cells, the mean over time. One logistic regression per action is
fitted on the boxes of the training videos and scored by AVA's protocol on the true boxes of the
test videos, so finding people is no part of the score. Boxes whose key frame could not be read are
missed. Pictures stay whole, of the short side and in the precision of the card's other scores; a
key frame is one clip, so that views and crops have no part in it.

Array suffixes: N annotated boxes, F features, K actions.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

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
from vidssl.errors import AnnotationError, RecipeError
from vidssl.features import Bank
from vidssl.files import sha256
from vidssl.jobs import _probe_encoder as encoders
from vidssl.jobs import extract_features, probe
from vidssl.jobs._probe_result import fingerprint
from vidssl.jobs.index import open_index
from vidssl.nn.distributed import first_here, rank
from vidssl.probe import linear
from vidssl.progress import Progress, silent
from vidssl.recipe import Extract
from vidssl.report.card import Score
from vidssl.train.weights import save_weights
from vidssl.video.index import ClipIndex, read_tables
from vidssl.video.reader import decoder_version
from vidssl.video.storage import video_id

IN_PROTOCOL = {
    *("features", "pooling", "layers", "roi_resolution", "aligned", "min_score"),
    *("short_side_px", "decode_short_side_px"),
}
"""Keys of a recipe of extraction that decide the features of a given box by a given backbone."""


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


def require(task: BoxTask, asked: probe.Request) -> None:
    """Refuse before any video is looked at what could not be scored after hours.

    Raises:
        AnnotationError: if a file is wrong, or nothing is annotated.
        RecipeError: if the network cannot take such pictures.
        CheckpointError: if there is no encoder.
    """
    labels, train, test = task.read()
    _people(task.train, train, labels)
    _people(task.test, test, labels)
    _plan(asked, encoders.load(asked.encoder, asked.random))


@dataclass(frozen=True)
class SeenBoxes:
    """People whose features are known, looked at in ``seconds``; to be scored."""

    task: BoxTask
    labels: LabelMap
    truth: Annotations
    learnt: _People
    tested: _People
    protocol: Mapping[str, str]
    seconds: float


def look(task: BoxTask, asked: probe.Request, *, progress: Progress = silent) -> SeenBoxes:
    """Return people with their features, kept in the probes' cache; all processes share that.

    ``asked`` says which encoder, or one of its kind untrained, and how videos are seen; its sources
    are not used.

    Raises:
        AnnotationError: if a file is wrong, or nothing is annotated.
        RecipeError: if the network cannot take such pictures.
        VidsslError: as :func:`vidssl.jobs.extract_features.run`.
    """
    started = time.monotonic()
    labels, train, test = task.read()
    looked = encoders.load(asked.encoder, asked.random)
    plan = _plan(asked, looked)
    cache = probe.cache_of(asked)
    cache.mkdir(parents=True, exist_ok=True)
    kept_at = cache / f".index-{fingerprint({'boxes of': task.videos})}.parquet"
    with first_here():  # the other processes find what the first has looked at
        again = asked.retry and rank() == 0 and kept_at.exists()
        index = open_index(task.videos, kept_at, progress, retry=again)
    sides, told = [], []
    for path, table in ((task.train, train), (task.test, test)):
        people = _people(path, table, labels)
        data = _data(people, index)
        known = _with_features(people, data, index, plan, looked, cache, asked.retry, progress)
        sides.append(known)
        told.append(f"{sha256(path)[:16]}, {len(np.unique(people.video))} videos, {data}")
    frames, stride = looked.backbone.frames, looked.backbone.stride
    protocol = {
        "probe": "linear on regions",
        "metric": "mean AP of true boxes, AVA's protocol",
        "recipe": json.dumps(plan.model_dump(mode="json", include=IN_PROTOCOL), sort_keys=True),
        "clip": f"{frames} frames, {stride} apart at 30 per second",
        "precision": plan.precision,
        "decoder": decoder_version(plan.decoder),
        "train": told[0],
        "test": told[1],
        "labels": sha256(task.labels)[:16],
    }
    spent_s = time.monotonic() - started
    learnt, tested = sides
    return SeenBoxes(task, labels, test, learnt, tested, protocol, spent_s)


def score_boxes(task: BoxTask, asked: probe.Request, *, progress: Progress = silent) -> Score:
    """Return the mean average precision over actions.

    Raises:
        VidsslError: as :func:`look` and :func:`scored`.
    """
    return scored(look(task, asked, progress=progress))


def scored(seen: SeenBoxes) -> Score:
    """Return the mean average precision over actions.

    Raises:
        AnnotationError: if the people that were seen are no ground to learn from.
    """
    learnt, tested = seen.learnt, seen.tested
    known = learnt.known
    _, film_N = np.unique(learnt.video[known], return_inverse=True)
    try:
        fit = linear.fit_linear_multilabel(
            learnt.features[known],
            learnt.does[known],
            tested.features[tested.known],
            group_N=film_N.reshape(-1),
        )
    except ValueError as error:
        raise AnnotationError(f"{seen.task.train}: no probe can be trained: {error}") from error
    return _scored(seen.truth, tested, fit.probabilities, seen.labels, seen.protocol)


def _plan(asked: probe.Request, looked: encoders.Looked) -> Extract:
    """Return how features of boxes are made: as the card's other scores have it.

    Raises:
        RecipeError: if the network cannot take such pictures.
    """
    short_px = probe.protocol_of(asked, looked).short_side_px
    try:
        return Extract(
            task="extract",
            backbone=looked.backbone,
            short_side_px=short_px,
            decode_short_side_px=short_px,
            min_score=0.0,
            precision=asked.precision,
            decoder=asked.decoder,
            batch=asked.clips_at_once,
            device="cpu" if asked.device == "cpu" else "auto",
            loader=LoaderConfig(workers=probe.workers_of(asked)),
        )
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"--boxes-on: {told}; --short-side says what people are seen at"
        ) from None


def _data(people: _People, index: ClipIndex) -> str:
    """Return a short hash of the people's videos: names, sizes and lengths."""
    about: dict[str, list[tuple[int, float]]] = {one: [] for one in people.video.tolist()}
    for part in read_tables(index.path, ["path", "bytes", "duration_s"]):
        for row in part.to_pylist():
            if (name := video_id(row["path"])) in about:
                about[name].append((row["bytes"], row["duration_s"]))
    return fingerprint({name: sorted(found, key=str) for name, found in about.items()})


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
    data: str,
    index: ClipIndex,
    plan: Extract,
    looked: encoders.Looked,
    cache: Path,
    retry: bool,
    progress: Progress,
) -> _People:
    """Return the people with the features of their boxes, from the cache if they are there."""
    told = [people.video.tolist(), people.timestamp.tolist(), people.box.tolist(), data]
    kept = plan.model_dump(mode="json", exclude={*extract_features.HARMLESS})
    by = decoder_version(plan.decoder)
    name = f"boxes-{looked.hash}-{fingerprint({'boxes': told, 'plan': kept, 'decoder': by})}"
    path = cache / f"{name}.csv"
    score = np.ones(len(people.video))
    write_person_boxes(path, PersonBoxes(people.video, people.timestamp, people.box, score))
    # The encoder of a detector, of a classifier or one untrained has no file of its own.
    with tempfile.TemporaryDirectory(prefix=".encoder-", dir=cache) as folder:
        card = {k: v for k, v in looked.card.items() if k not in {"hash", "format_version"}}
        card["backbone"] = looked.backbone.model_dump(mode="json")
        save_weights(Path(folder), "encoder", looked.encoder, card)
        source = str(index.path)
        extract_features.run(
            *(plan, Path(folder), source, [path], cache / name), retry=retry, progress=progress
        )
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
