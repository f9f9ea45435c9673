"""A trained detector's predictions for ``vidssl eval-ava``: written to a file, which is scored."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
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
from vidssl.ava.fingerprint import NOT_SAID
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.origins import summary
from vidssl.data.keyframes import KeyFrameSample, Moment, Placed, VideoChunks, detected
from vidssl.data.loader import Loader
from vidssl.detection.detector import DetectionBatch
from vidssl.detection.views import Views
from vidssl.errors import AnnotationError, BankError, CheckpointError, listed
from vidssl.features import Bank
from vidssl.files import sha256, write_text
from vidssl.jobs import _detector as shared
from vidssl.jobs.eval_ava import (
    EvalResult,
    Request,
    Truth,
    Unread,
    as_json,
    read_earlier,
    score_file,
)
from vidssl.nn.layout import laid_out
from vidssl.progress import Progress, silent
from vidssl.recipe import Detection
from vidssl.train.trainer import device_of

CHUNK = 8
"""Key frames in one forward pass."""
Make = Callable[[Sequence[KeyFrameSample], int], DetectionBatch]


def score_detector(truth: Truth, request: Request, progress: Progress = silent) -> EvalResult:
    """Let a detector predict for every detected person, then score that file.

    Predictions and score go to a folder of their own below the run, ``eval-NAME`` by the name of
    the annotations; another evaluation by the same name does not take its place but goes to
    ``eval-NAME-2``, and so on.

    Raises:
        AnnotationError: if a file is wrong, or no video is there.
        CheckpointError: if the run holds no detector, or one for other classes.
        BankError: if the bank is missing, not wanted, of other videos, or was made by another
            encoder.
        RecipeError: if the views make no sense.
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
    views = shared.views_of(trained.recipe, request.scales, request.flip, request.clips)
    threshold = request.min_score
    if threshold is None:
        threshold = trained.recipe.boxes.test_min_score
    people = detected(read_person_boxes(request.boxes, threshold))
    if not people:
        raise AnnotationError(f"{request.boxes}: no box has a score of at least {threshold:g}")
    moments = _wanted(people, annotations, request.boxes)
    shared.require_videos(bank, moments)
    unpeopled = _unpeopled(moments, annotations)
    everything = [*moments, *unpeopled]
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "index.parquet"
        placed = shared.place_moments(
            everything, request.videos, cache, progress, request.time_origin
        )
    found = predict(trained, placed, bank, views, progress, empty_bank=request.empty_bank)
    predictions, failed = found.table(labels.ids), found.failed
    source = {
        "detector": trained.weights_hash,
        "key_frames": "those of the detected people",
        "boxes": sha256(request.boxes)[:16],
        "min_score": threshold,
        "views": views.told(trained.recipe.backbone.stride),
        "bank": bank.encoder_hash if bank else None,
        "bank_emptied": request.empty_bank,
    }
    suffix = "-empty-bank" if request.empty_bank else ""
    folder = _folder(request.run / f"eval-{truth.annotations.stem}{suffix}", truth, source)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.csv", predictions)
    reasons = {moment.video: reason for moment, reason in failed}
    looked_at = set(zip(predictions.video.tolist(), predictions.timestamp.round(6), strict=True))
    lost = {_key(moment) for moment in everything} - looked_at
    unread = Unread(frozenset(lost), placed.unusable | reasons)
    result = score_file(truth, folder / "predictions.csv", unread)
    result = replace(
        result,
        protocol={**result.protocol, **source},
        time_origins=summary(placed.origins),
        unpeopled=len({_key(moment) for moment in unpeopled} - lost),
    )
    write_text(folder / "score.json", as_json(result))
    return result


def _folder(first: Path, truth: Truth, source: dict[str, Any]) -> Path:
    """Return where a score goes: the folder of the last such one, or the next that is free.

    A detector that was trained on takes the place of what it was; its old scores are of no use.
    """
    asked = {
        **{key: value for key, value in source.items() if key != "detector"},
        "protocol": truth.protocol,
        "annotations": sha256(truth.annotations)[:16],
        "labels": sha256(truth.labels)[:16],
        "excluded_file": sha256(truth.excluded)[:16] if truth.excluded else "none",
    }
    for number in count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            there = read_earlier(folder / "score.json").protocol
        except AnnotationError:  # none, or one that was not finished
            return folder
        if all(there.get(key, NOT_SAID) == value for key, value in asked.items()):
            return folder
    raise AssertionError("numbers do not end")


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
    views: Views,
    progress: Progress,
    *,
    empty_bank: bool = False,
) -> Predicted:
    """Return every person's score for all classes, the mean over the views."""
    plan, device = trained.recipe, device_of(trained.recipe.device)
    detector = laid_out(trained.detector, device).eval()
    peopled = [moment for moment in placed.moments if len(moment.boxes)]
    reading = shared.reading(plan, views)
    chunk = max(1, CHUNK // views.clips)  # so many clips are in memory at a time
    dataset = VideoChunks(replace(placed, moments=peopled), reading, chunk, bank)
    makers = _makers(plan, views, detector.encoder.spatial_stride, device)
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
        clips = [_clip(samples, number, views.clips) for number in range(views.clips)]
        every = [_scores(detector, clip, make, empty_bank) for clip in clips for make in makers]
        scores.append(np.mean(every, axis=0))
        moments += [sample.moment for sample in samples]
    bad = {moment.video for moment, _ in failed}
    nobody = [m for m in placed.moments if not len(m.boxes) and m.video not in bad]
    scores_NK = np.concatenate(scores) if scores else np.zeros((0, trained.labels.size))
    return Predicted(moments, scores_NK, nobody, failed)


def _makers(plan: Detection, views: Views, stride: int, device: torch.device) -> list[Make]:
    """Return what makes a batch of each picture of the views."""
    sized = (
        (plan.augment.model_copy(update={"test_short_side_px": side_px}), mirrored)
        for side_px, mirrored in views.pictures
    )
    return [
        shared.batcher(augment, stride, device, training=False, mirrored=mirrored)
        for augment, mirrored in sized
    ]


def _clip(samples: Sequence[KeyFrameSample], number: int, clips: int) -> list[KeyFrameSample]:
    """Return the samples with one of the clips that each has."""
    return [replace(s, clip=s.clip[number * (n := len(s.clip) // clips) :][:n]) for s in samples]


def _scores(
    detector: Any, samples: Sequence[KeyFrameSample], make: Make, empty_bank: bool
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
