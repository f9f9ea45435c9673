"""``vidssl eval-ava``: mean average precision of predictions, or of a trained detector.

A detector writes its predictions first, and that file is scored, so that every number can be had
again from it.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from vidssl.data.keyframes import KeyFrameSample, Moment, Placed, VideoChunks, detected
from vidssl.data.loader import loader
from vidssl.errors import AnnotationError, BankError, CheckpointError, listed
from vidssl.features import Bank
from vidssl.files import sha256, write_text
from vidssl.jobs import _detector as shared
from vidssl.progress import Progress, silent
from vidssl.train.loop import device_of

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

    ``empty_bank`` keeps the bank's rows from the detector: what is lost is what the bank gave.
    """

    run: Path | None = None
    videos: str | None = None
    boxes: Path | None = None
    bank: Path | None = None
    empty_bank: bool = False
    min_score: float | None = None


@dataclass(frozen=True)
class Unread:
    """What of the key frames could not be scored: their number, and why by video."""

    keyframes: int = 0
    videos: dict[str, str] | None = None


@dataclass(frozen=True)
class EvalResult:
    """A score with its denominators.

    ``ap`` and ``positives`` are by class id; an AP is None for a class without ground truth.
    ``expected`` counts key frames of the ground truth, ``evaluated`` those with predictions,
    ``failed`` those whose video could not be read.
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
    return _result(score, labels, truth, predictions, unread or Unread(), notes)


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
    # All files are read before the detector works for hours: a mistake in one is told of at once.
    labels = read_labels(truth.labels)
    annotations = read_annotations(truth.annotations, labels)
    if truth.excluded is not None:
        read_excluded(truth.excluded)
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
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "index.parquet"
        placed = shared.place_moments(moments, request.videos, cache, progress)
    predictions, failed = _predict(trained, placed, bank, request.empty_bank, progress)
    suffix = "-empty-bank" if request.empty_bank else ""
    folder = request.run / f"eval-{truth.annotations.stem}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.csv", predictions)
    reasons = {moment.video: reason for moment, reason in failed}
    unread = Unread(placed.lost + len(failed), placed.unusable | reasons)
    result = score_file(truth, folder / "predictions.csv", unread)
    source = {
        "detector": trained.weights_hash,
        "boxes": sha256(request.boxes)[:16],
        "min_score": threshold,
        "bank": bank.encoder_hash if bank else None,
        "bank_emptied": request.empty_bank,
    }
    result = replace(result, protocol={**result.protocol, **source})
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
        failed=unread.keyframes,
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
    bank.require(trained.bank_encoder)
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


@torch.inference_mode()
def _predict(
    trained: shared.Trained,
    placed: Placed,
    bank: Bank | None,
    empty_bank: bool,
    progress: Progress,
) -> tuple[Predictions, list[tuple[Moment, str]]]:
    """Return every person's score for every class, and the key frames that could not be read."""
    plan, device = trained.recipe, device_of(trained.recipe.device)
    detector = trained.detector.to(device).eval()
    dataset = VideoChunks(placed, shared.reading(plan), CHUNK, bank)
    stride = detector.encoder.spatial_stride
    make = shared.batcher(plan.augment, stride, device, training=False)
    scores: list[NDArray[np.float64]] = []
    moments: list[Moment] = []
    failed: list[tuple[Moment, str]] = []
    done = 0
    for (samples,) in loader(dataset, [[i] for i in range(len(dataset))], plan.loader):
        done += len(samples)
        progress("predicting actions", done, len(placed.moments))
        if not samples[0].clip.numel():
            failed += [(sample.moment, sample.failed[0][1]) for sample in samples]
            continue
        scores.append(_scores(detector, samples, make, empty_bank))
        moments += [sample.moment for sample in samples]
    return _table(moments, scores, trained.labels), failed


def _scores(
    detector: Any, samples: Sequence[KeyFrameSample], make: Any, empty_bank: bool
) -> NDArray[np.float64]:
    batch = make(samples, 0)
    window = batch.window
    if empty_bank and window is not None:
        window = type(window)(
            torch.zeros_like(window.features),
            torch.zeros_like(window.mask),
            torch.zeros_like(window.offset_s),
        )
    logits = detector.logits(batch.clips, batch.boxes, window)
    return np.asarray(logits.double().sigmoid().cpu().numpy())


def _table(
    moments: Sequence[Moment], scores: Sequence[NDArray[np.float64]], labels: LabelMap
) -> Predictions:
    """Return one row for each person and each class of the label map."""
    ids = np.array(labels.ids)
    counts = [len(moment.boxes) * len(ids) for moment in moments]
    scores_NK = np.concatenate(scores) if scores else np.zeros((0, labels.size))
    boxes_N4 = np.concatenate([moment.boxes for moment in moments] or [np.zeros((0, 4))])
    return Predictions(
        video=np.repeat(np.array([moment.video for moment in moments], dtype=np.str_), counts),
        timestamp=np.repeat(
            np.array([moment.timestamp for moment in moments], dtype=float), counts
        ),
        box=np.repeat(boxes_N4, len(ids), axis=0),
        action=np.tile(ids, len(boxes_N4)),
        score=scores_NK[:, ids - 1].reshape(-1),
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
