"""A trained detector's predictions for ``vidssl eval-ava``: written to a file, which is scored."""

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
    write_predictions,
)
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.origins import summary
from vidssl.data.keyframes import KeyFrameSample, Moment, Placed, VideoChunks, detected
from vidssl.data.loader import Loader
from vidssl.errors import AnnotationError, BankError, CheckpointError, listed
from vidssl.features import Bank
from vidssl.files import sha256, write_text
from vidssl.jobs import _detector as shared
from vidssl.jobs.eval_ava import EvalResult, Request, Truth, Unread, as_json, score_file
from vidssl.nn.layout import laid_out
from vidssl.progress import Progress, silent
from vidssl.train.trainer import device_of

CHUNK = 8
"""Key frames in one forward pass."""


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
    bank = bank_for(trained, request)
    threshold = request.min_score
    if threshold is None:
        threshold = trained.recipe.boxes.test_min_score
    people = detected(read_person_boxes(request.boxes, threshold))
    if not people:
        raise AnnotationError(f"{request.boxes}: no box has a score of at least {threshold:g}")
    moments = _wanted(people, annotations, request.boxes)
    unpeopled = _unpeopled(moments, annotations)
    everything = [*moments, *unpeopled]
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "index.parquet"
        placed = shared.place_moments(
            everything, request.videos, cache, progress, request.time_origin
        )
    found = predict(trained, placed, bank, request.empty_bank, progress)
    predictions, failed = found.table(labels.ids), found.failed
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
        "key_frames": "those of the detected people",
        "boxes": sha256(request.boxes)[:16],
        "min_score": threshold,
        "views": 1,
        "bank": bank.encoder_hash if bank else None,
        "bank_emptied": request.empty_bank,
    }
    result = replace(
        result,
        protocol={**result.protocol, **source},
        time_origins=summary(placed.origins),
        unpeopled=len({_key(moment) for moment in unpeopled} - lost),
    )
    write_text(folder / "score.json", as_json(result))
    return result


def bank_for(trained: shared.Trained, request: Request) -> Bank | None:
    """Return the bank that is asked for, if the detector reads one.

    Raises:
        BankError: if it is missing, not wanted, or was made by another encoder.
    """
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


@dataclass(frozen=True)
class Predicted:
    """Key frames with people, and ``scores``, ``(N, K)``, of all their people one after another.

    ``nobody`` are key frames without people; ``failed`` ones could not be read, with the reason.
    """

    moments: list[Moment]
    scores: NDArray[np.float64]
    nobody: list[Moment]
    failed: list[tuple[Moment, str]]

    def table(self, classes: Sequence[int]) -> Predictions:
        """Return a row for each person and class, and a bare one for a key frame without people."""
        return _table(self.moments, self.scores, classes, self.nobody)


@torch.inference_mode()
def predict(
    trained: shared.Trained,
    placed: Placed,
    bank: Bank | None,
    empty_bank: bool,
    progress: Progress,
) -> Predicted:
    """Return every person's score for all classes."""
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
    return Predicted(moments, scores_NK, nobody, failed)


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
