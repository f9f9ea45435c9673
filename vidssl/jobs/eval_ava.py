"""``vidssl eval-ava``: mean average precision of predictions, or of a trained detector.

A detector writes its predictions first, and that file is scored, so that every number can be had
again from it.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidssl.ava.annotations import (
    Annotations,
    Predictions,
    keyframes,
    read_annotations,
    read_excluded,
    read_person_boxes,
    read_predictions,
    write_predictions,
)
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.mean_ap import Protocol, Score, explain_zero, mean_ap
from vidssl.ava.origins import summary
from vidssl.data.keyframes import KeyFrameSample, Moment, Placed, VideoChunks, detected
from vidssl.data.loader import Loader
from vidssl.errors import AnnotationError, BankError, CheckpointError, listed
from vidssl.features import Bank
from vidssl.files import sha256, write_text
from vidssl.jobs import _detector as shared
from vidssl.nn.layout import laid_out
from vidssl.progress import Progress, silent
from vidssl.train.trainer import device_of
from vidssl.video.workers import preload

CHUNK = 8
"""Key frames in one forward pass."""


@dataclass(frozen=True)
class Truth:
    """What predictions are scored against: files in AVA layout."""

    annotations: Path
    labels: Path
    excluded: Path | None = None
    protocol: Protocol = "activitynet"


@dataclass(frozen=True)
class Request:
    """What lets a detector predict, as a person names it; all absent to score a file.

    ``empty_bank`` keeps the bank's features from the detector, but not who was there when: what is
    lost is what the features gave.
    """

    run: Path | None = None
    videos: str | None = None
    boxes: Path | None = None
    bank: Path | None = None
    empty_bank: bool = False
    min_score: float | None = None
    time_origin: str = "auto"
    """From where the boxes' times count: ``auto``, seconds, or a csv file of video and seconds."""


@dataclass(frozen=True)
class Unread:
    """Key frames that could not be read, as (video, second), and why by video."""

    keyframes: frozenset[tuple[str, float]] = frozenset()
    videos: dict[str, str] | None = None


@dataclass(frozen=True)
class EvalResult:
    """A score with its denominators.

    ``ap`` and ``positives`` are by class id; an AP is None for a class without ground truth.
    ``expected`` counts key frames of the ground truth, ``evaluated`` those with predictions,
    ``failed`` those whose video could not be read. ``time_origins`` gives each origin with its
    number of videos and the evidence; nothing where a file is scored.
    """

    mean_ap: float | None
    ap: dict[int, float | None]
    names: dict[int, str]
    positives: dict[int, int]
    protocol: dict[str, Any]
    expected: int
    evaluated: int
    failed: int
    unusable_videos: dict[str, str]
    predictions: Path
    notes: list[str]
    time_origins: list[dict[str, object]] = field(default_factory=list)


def run(
    truth: Truth, predictions: Path | None, request: Request, *, progress: Progress = silent
) -> EvalResult:
    """Score a prediction file, or let a detector predict and score that.

    Raises:
        AnnotationError: if neither or both are asked for, or a file is wrong.
        CheckpointError, BankError: if the detector or its bank do not fit.
    """
    if (predictions is None) == (request.run is None):
        raise AnnotationError(
            "give either --predictions, or --checkpoint with --videos and --boxes"
        )
    if predictions is not None:
        return score_file(truth, predictions)
    if request.videos is None or request.boxes is None:
        missing = " and ".join(f"--{n}" for n in ("videos", "boxes") if not getattr(request, n))
        raise AnnotationError(f"--checkpoint {request.run} needs {missing} to predict on")
    preload(["vidssl.data.keyframes"])
    return score_detector(truth, request, progress)


def score_file(truth: Truth, predictions: Path, unread: Unread | None = None) -> EvalResult:
    """Score a prediction file.

    Raises:
        AnnotationError: if any file is wrong, with every problem of it.
    """
    labels = read_labels(truth.labels)
    annotations = read_annotations(truth.annotations, labels)
    excluded = read_excluded(truth.excluded) if truth.excluded else frozenset()
    found = read_predictions(predictions, labels)
    score = mean_ap(annotations, found, labels, protocol=truth.protocol, excluded=excluded)
    notes = explain_zero(annotations, found, labels) if not score.mean_ap > 0 else []
    kept = excluded.intersection(keyframes(annotations)) if not score.excluded else ()
    if kept:
        notes.append(
            f"{len(kept)} excluded key frames are in {truth.annotations.name} and were scored: the "
            f"{truth.protocol} protocol leaves exclusions to whoever makes the files"
        )
    counted = set(keyframes(annotations))
    if truth.protocol == "slowfast":
        counted -= excluded
    unread = unread or Unread()
    failed = len({(video, round(second, 6)) for video, second in counted} & unread.keyframes)
    return _result(score, labels, truth, predictions, unread, failed, notes)


def score_detector(truth: Truth, request: Request, progress: Progress = silent) -> EvalResult:
    """Let a detector predict for every detected person, then score that file.

    Predictions and score go to a folder of their own below the run.

    Raises:
        AnnotationError: if a file is wrong, or no video is there.
        CheckpointError: if the run holds no detector, or one for other classes.
        BankError: if the bank is missing, not wanted, or was made by another encoder.
    """
    assert request.run is not None
    assert request.videos is not None
    assert request.boxes is not None
    shared.require_alone("eval-ava")
    # All files are read before the detector works for hours: a mistake in one is told of at once.
    labels = read_labels(truth.labels)
    annotations = read_annotations(truth.annotations, labels)
    if truth.excluded is not None:
        read_excluded(truth.excluded)
    if request.run.is_file():
        raise CheckpointError(f"{request.run}: expected the folder of a finetuning run")
    trained = shared.load_detector(request.run)
    _require_classes(trained.labels, labels, request.run)
    bank = _bank(trained, request)
    threshold = request.min_score
    if threshold is None:
        threshold = trained.recipe.boxes.test_min_score
    people = detected(read_person_boxes(request.boxes, threshold))
    if not people:
        raise AnnotationError(f"{request.boxes}: no box has a score of at least {threshold:g}")
    moments = _wanted(people, annotations, request.boxes)
    everything = [*moments, *_unpeopled(moments, annotations)]
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "index.parquet"
        placed = shared.place_moments(
            everything, request.videos, cache, progress, request.time_origin
        )
    predictions, failed = _predict(trained, placed, bank, request.empty_bank, labels.ids, progress)
    suffix = "-empty-bank" if request.empty_bank else ""
    folder = request.run / f"eval-{truth.annotations.stem}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.csv", predictions)
    reasons = {moment.video: reason for moment, reason in failed}
    looked_at = set(zip(predictions.video.tolist(), predictions.timestamp.round(6), strict=True))
    lost = {_key(moment) for moment in everything} - looked_at
    unread = Unread(frozenset(lost), placed.unusable | reasons)
    result = score_file(truth, folder / "predictions.csv", unread)
    source = {
        "detector": trained.weights_hash,
        "boxes": sha256(request.boxes)[:16],
        "min_score": threshold,
        "bank": bank.encoder_hash if bank else None,
        "bank_emptied": request.empty_bank,
    }
    result = replace(
        result,
        protocol={**result.protocol, **source},
        time_origins=summary(placed.origins),
    )
    write_text(folder / "score.json", as_json(result))
    return result


def as_json(result: EvalResult) -> str:
    """Return a result as JSON, without a NaN, which JSON does not have."""
    return json.dumps(vars(result), indent=1, default=str) + "\n"


def _result(
    score: Score,
    labels: LabelMap,
    truth: Truth,
    predictions: Path,
    unread: Unread,
    failed: int,
    notes: list[str],
) -> EvalResult:
    return EvalResult(
        mean_ap=_number(score.mean_ap),
        ap={label: _number(ap) for label, ap in score.ap.items()},
        names=dict(labels.names),
        positives=score.positives,
        protocol={
            **score.fingerprint,
            "annotations": sha256(truth.annotations)[:16],
            "excluded_keyframes": score.excluded,
            "ignored_images": score.ignored_images,
        },
        expected=score.expected,
        evaluated=score.evaluated,
        failed=failed,
        unusable_videos=unread.videos or {},
        predictions=predictions,
        notes=notes,
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _bank(trained: shared.Trained, request: Request) -> Bank | None:
    run, path = request.run, request.bank
    if trained.bank_encoder is None:
        if path is not None or request.empty_bank:
            asked = path or "--empty-bank"
            raise BankError(f"{asked}: the detector of {run} was trained without a bank")
        return None
    if path is None:
        raise BankError(f"the detector of {run} reads a feature bank: give it with --bank")
    bank = Bank.open(path)
    trained.require_bank(bank)
    return bank


def _wanted(moments: Sequence[Moment], annotations: Annotations, boxes: Path) -> list[Moment]:
    """Return the detected people of annotated videos.

    Key frames are those with detections, not those of the ground truth: that would be telling.
    """
    videos = {video for video, _ in keyframes(annotations)}
    kept = [moment for moment in moments if moment.video in videos]
    if not kept:
        raise AnnotationError(f"{boxes}: no box is of any of the {len(videos)} annotated videos")
    return kept


def _unpeopled(moments: Sequence[Moment], annotations: Annotations) -> list[Moment]:
    """Return the annotated key frames in which nobody was detected: looked at, and empty."""
    seen = {_key(moment) for moment in moments}
    none = np.zeros((0, 4)), np.zeros((0, 0), np.bool_), np.zeros(0)
    return [
        Moment(video, second, *none)
        for video, second in keyframes(annotations)
        if (video, round(second, 6)) not in seen
    ]


def _key(moment: Moment) -> tuple[str, float]:
    return moment.video, round(moment.timestamp, 6)


@torch.inference_mode()
def _predict(
    trained: shared.Trained,
    placed: Placed,
    bank: Bank | None,
    empty_bank: bool,
    classes: Sequence[int],
    progress: Progress,
) -> tuple[Predictions, list[tuple[Moment, str]]]:
    """Return every person's score for ``classes``, and the key frames that could not be read."""
    plan, device = trained.recipe, device_of(trained.recipe.device)
    detector = laid_out(trained.detector, device).eval()
    peopled = [moment for moment in placed.moments if len(moment.boxes)]
    dataset = VideoChunks(replace(placed, moments=peopled), shared.reading(plan), CHUNK, bank)
    stride = detector.encoder.spatial_stride
    make = shared.batcher(plan.augment, stride, device, training=False)
    scores: list[NDArray[np.float64]] = []
    moments: list[Moment] = []
    failed: list[tuple[Moment, str]] = []
    done = 0
    for (samples,) in Loader(dataset, [[i] for i in range(len(dataset))], plan.loader):
        done += len(samples)
        progress("predicting actions", done, len(peopled))
        if not samples[0].clip.numel():
            failed += [(sample.moment, sample.failed[0][1]) for sample in samples]
            continue
        scores.append(_scores(detector, samples, make, empty_bank))
        moments += [sample.moment for sample in samples]
    bad = {moment.video for moment, _ in failed}
    nobody = [m for m in placed.moments if not len(m.boxes) and m.video not in bad]
    scores_NK = np.concatenate(scores) if scores else np.zeros((0, trained.labels.size))
    return _table(moments, scores_NK, classes, nobody), failed


def _scores(
    detector: Any, samples: Sequence[KeyFrameSample], make: Any, empty_bank: bool
) -> NDArray[np.float64]:
    batch = make(samples, 0)
    window = batch.window
    if empty_bank and window is not None:
        # Who was there and when stays: it alone must not pass for memory of what was seen.
        window = replace(window, features=torch.zeros_like(window.features))
    logits = detector.logits(batch.clips, batch.boxes, window)
    return np.asarray(logits.double().sigmoid().cpu().numpy())


def _table(
    moments: Sequence[Moment],
    scores_NK: NDArray[np.float64],
    classes: Sequence[int],
    nobody: Sequence[Moment],
) -> Predictions:
    """Return a row for each person and class, and a bare one for each key frame without people."""
    ids = np.array(classes)
    boxes_N4 = np.concatenate([moment.boxes for moment in moments] or [np.zeros((0, 4))])
    counts = [len(moment.boxes) * len(ids) for moment in moments] + [1] * len(nobody)
    frames = [*moments, *nobody]
    bare = len(nobody)
    return Predictions(
        video=np.repeat(np.array([frame.video for frame in frames], dtype=np.str_), counts),
        timestamp=np.repeat(np.array([frame.timestamp for frame in frames], dtype=float), counts),
        box=np.concatenate([np.repeat(boxes_N4, len(ids), axis=0), np.full((bare, 4), np.nan)]),
        action=np.concatenate([np.tile(ids, len(boxes_N4)), np.zeros(bare, np.int64)]),
        score=np.concatenate([scores_NK[:, ids - 1].reshape(-1), np.zeros(bare)]),
    )


def _require_classes(there: LabelMap, here: LabelMap, run: Path) -> None:
    """Refuse a label map that names other classes than the detector was trained for."""
    differ = [
        f"{label}: {there.names.get(label, 'no such class')!r} in the detector, {name!r} in the map"
        for label, name in here.names.items()
        if there.names.get(label) != name
    ]
    if differ:
        raise CheckpointError(listed(f"{run}: was trained for other classes", differ, limit=8))
