"""``vidssl finetune``: an action detector from annotated key frames."""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from vidssl.ava.annotations import (
    group_keyframes,
    read_annotations,
    read_excluded,
    read_person_boxes,
)
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.origins import summary, told
from vidssl.boxes import iou
from vidssl.data.keyframes import KeyFrameDataset, KeyFrameSample, Moment, annotated, detected
from vidssl.data.loader import Cost
from vidssl.detection.context import ContextConfig
from vidssl.detection.detector import Detector
from vidssl.errors import AnnotationError, BankError, CheckpointError
from vidssl.features import Bank
from vidssl.jobs import _detector as shared
from vidssl.jobs import _forecast as forecasting
from vidssl.jobs import _pace as pace
from vidssl.jobs import _training as training
from vidssl.jobs import report
from vidssl.jobs._banks import identity_of, same_bank
from vidssl.jobs._geometry import remark
from vidssl.nn.distributed import first_here, joined, rank
from vidssl.progress import Progress, silent
from vidssl.recipe import Detection, dump
from vidssl.sources import scan as scan_videos
from vidssl.train.board import Board
from vidssl.train.folder import RunFolder, claim, read_log
from vidssl.train.loop import Hooks, fit
from vidssl.train.prove import Proof
from vidssl.train.trainer import Trainer, device_of
from vidssl.train.weights import load_weights
from vidssl.video.storage import Location, video_id


@dataclass(frozen=True)
class DetectionData:
    """What a detector is trained on, as a person names it.

    ``videos`` is a source; ``annotations``, ``boxes`` and ``excluded`` are csv files in AVA layout;
    ``labels`` is the label map; ``bank`` a feature bank; ``time_origin`` says from where the
    annotations' times count: ``auto``, seconds, or a csv file of video and seconds.
    """

    videos: str
    annotations: Path
    labels: Path
    boxes: Path | None = None
    excluded: Path | None = None
    bank: Path | None = None
    time_origin: str = "auto"


@dataclass(frozen=True)
class FinetuneResult:
    """Where the detector is, what it was trained on, and how that ended.

    ``time_origins`` gives each origin with its number of videos and the evidence.
    ``negatives`` of the ``people`` are detected boxes that are trained on as doing nothing.
    ``samples_seen_in_all`` adds to ``samples_seen``, the key frames trained on, what the weights
    that this began from had seen; None where their card does not say.
    """

    run: Path
    detector_hash: str
    steps: int
    samples_seen: int
    samples_seen_in_all: int | None
    keyframes: int
    people: int
    negatives: int
    lost_keyframes: int
    unusable_videos: dict[str, str]
    time_origins: list[dict[str, object]]
    loss: float
    seconds: float


def run(
    plan: Detection,
    encoder: str,
    data: DetectionData,
    out: Path,
    *,
    resume: bool = False,
    autotune: bool = False,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> FinetuneResult:
    """Train a detector from ``encoder`` (a run, an encoder file, or ``random``) in ``out``.

    ``autotune`` measures first, and takes as many workers and threads as suit this machine.
    ``tensorboard`` shows the log there too.

    Raises:
        AnnotationError: if a file of ``data`` is wrong.
        CheckpointError: if the encoder is absent, damaged or does not fit the recipe.
        BankError: if the recipe's operator has no bank, or the bank no operator, or none of the
            videos.
        OutputError: if ``out`` belongs to another run, or one that read another bank's rows.
        Interrupted: on Ctrl-C, after a checkpoint; the same call goes on from it.
    """
    started = time.monotonic()
    board = Board(out) if tensorboard else None
    plan.loader.preload("vidssl.data.keyframes")
    labels = read_labels(data.labels)
    moments = training_moments(data, labels, plan)
    bank = open_bank(plan, data.bank)
    shared.require_videos(bank, moments)
    origin = None if encoder == shared.RANDOM else _card(Path(encoder), plan)
    identity = _identity(plan, encoder, origin, data, bank)
    terms = same_bank(training.terms(Detection), bank)
    claim(out, identity, terms)
    if resume:
        training.require_checkpoint(out)
    detector = initial_detector(plan, encoder, labels, bank)
    with joined(device_of(plan.device)), RunFolder(out, identity, dump(plan), terms) as folder:
        training.tell_rate(plan.optim, folder, progress)
        if board is not None:
            folder.follow(board)
        if origin is not None and rank() == 0:
            remark(origin, plan.backbone, plan.augment.crop_px, progress)
        with first_here():
            cache = out / "index.parquet"
            placed = shared.place_moments(moments, data.videos, cache, progress, data.time_origin)
        trainer = training.trainer(detector, plan, len(placed.moments), shared.fingerprint(placed))
        dataset = KeyFrameDataset(placed, shared.reading(plan), plan.seed, bank)
        if rank() == 0:
            folder.event("time origins", found=told(summary(placed.origins)))
        if placed.unusable and rank() == 0:
            folder.event("videos set aside", videos=placed.unusable, keyframes=placed.lost)
        loader, cost = plan.loader, Cost()
        if autotune:
            spare = training.trainer(copy.deepcopy(detector), plan, len(placed.moments))
            loader = pace.autotuned(
                plan, spare, dataset, _preparation(plan, spare), folder, progress
            )
        between = training.batches(dataset, plan.optim.batch, loader, cost)
        prepare = _preparation(plan, trainer)
        hooks = Hooks(
            notice=training.noting_failures(folder),
            identify=_identified,
            advise=pace.adviser(loader, cost, pace.cores_of_this_process()),
        )
        fit(trainer, between, prepare, folder, progress, hooks)
        trained = cast(Detector, trainer.trained)
        training.take_statistics(
            trainer, trained.encoder, between, prepare, lambda batch: [batch.clips]
        )
        detector_hash = ""
        before = 0 if origin is None else training.seen_by(origin)
        seen = training.Seen(trainer.samples_seen, before)
        if rank() == 0:
            detector_hash = shared.save_detector(
                out, trained, plan, labels, bank, steps=trainer.step, seen=seen
            )
            report.run(out)
    log = read_log(out)
    return FinetuneResult(
        run=out,
        detector_hash=detector_hash,
        steps=trainer.step,
        samples_seen=seen.samples_seen,
        samples_seen_in_all=seen.in_all,
        keyframes=len(placed.moments),
        people=sum(len(moment.boxes) for moment in placed.moments),
        negatives=sum(int((~moment.labels.any(axis=1)).sum()) for moment in placed.moments),
        lost_keyframes=placed.lost,
        unusable_videos=placed.unusable,
        time_origins=summary(placed.origins),
        loss=log[-1]["loss"] if log else float("nan"),
        seconds=time.monotonic() - started,
    )


def prove(
    plan: Detection,
    encoder: str,
    data: DetectionData,
    out: Path,
    steps: int,
    *,
    progress: Progress = silent,
) -> Proof:
    """Do some steps of the run in ``out`` again, twice, and compare them; nothing is changed.

    Raises:
        OutputError: if ``out`` belongs to another run.
        CheckpointError: if there is no checkpoint with steps after it.
    """
    plan.loader.preload("vidssl.data.keyframes")
    labels = read_labels(data.labels)
    moments = training_moments(data, labels, plan)
    bank = open_bank(plan, data.bank)
    shared.require_videos(bank, moments)
    origin = None if encoder == shared.RANDOM else _card(Path(encoder), plan)
    terms = same_bank(training.terms(Detection), bank)
    claim(out, _identity(plan, encoder, origin, data, bank), terms)
    training.require_checkpoint(out)
    videos, index = training.as_indexed(data.videos, out), out / "index.parquet"
    with joined(device_of(plan.device)):
        placed = shared.place_moments(moments, videos, index, progress, data.time_origin)
        detector = initial_detector(plan, encoder, labels, bank)
        trainer = training.trainer(detector, plan, len(placed.moments), shared.fingerprint(placed))
        dataset = KeyFrameDataset(placed, shared.reading(plan), plan.seed, bank)
        between = training.batches(dataset, plan.optim.batch, plan.loader)
        prepare = _preparation(plan, trainer)
        return training.proof_of_resume(
            trainer, between, prepare, _identified, out, steps, progress
        )


def forecast(
    plan: Detection, encoder: str, data: DetectionData, out: Path, *, processes: int = 1
) -> forecasting.Forecast:
    """Read two batches and do a few steps without writing anything that stays.

    ``processes`` share a batch; this one does the share of one.

    Raises:
        VidsslError: as :func:`run` does.
    """
    labels = read_labels(data.labels)
    moments = training_moments(data, labels, plan)
    bank = open_bank(plan, data.bank)
    shared.require_videos(bank, moments)
    detector = initial_detector(plan, encoder, labels, bank)
    with tempfile.TemporaryDirectory() as scratch:
        every = scan_videos(data.videos)
        few = few_videos(every, {moment.video for moment in moments}, plan.optim.batch)
        listing = Path(scratch) / "few.txt"
        listing.write_text("".join(f"{path}\n" for path in few), encoding="utf-8")
        index = Path(scratch) / "index.parquet"
        placed = shared.place_moments(moments, str(listing), index, silent, data.time_origin, every)
        trainer = training.trainer(detector, plan, len(moments))
        dataset = KeyFrameDataset(placed, shared.reading(plan), plan.seed, bank)
        place = forecasting.Place(out, index, len(every), processes)
        return forecasting.forecast(
            plan, trainer, dataset, _preparation(plan, trainer), place, samples=len(moments)
        )


def few_videos(paths: Sequence[Location], wanted: set[str], count: int) -> Sequence[Location]:
    """Return up to ``count`` of the source's videos that are annotated, or of all if none is."""
    return ([path for path in paths if video_id(path) in wanted] or paths)[:count]


def training_moments(data: DetectionData, labels: LabelMap, plan: Detection) -> list[Moment]:
    """Return the key frames with people: true boxes, and detector boxes that agree with one.

    If the recipe takes negatives, detector boxes that miss all true ones come along, also those of
    key frames that are annotated as empty. Of key frames that are not annotated nothing is known.

    Raises:
        AnnotationError: if a file is wrong, or nothing is left to train on.
    """
    annotations = read_annotations(data.annotations, labels)
    excluded = read_excluded(data.excluded) if data.excluded else frozenset()
    keyframes = group_keyframes(annotations, labels.size, excluded)
    moments = [annotated(keyframe) for keyframe in keyframes]
    peopled = [moment for moment in moments if len(moment.boxes)]
    if not peopled:
        raise AnnotationError(f"{data.annotations}: no key frame with people is left to train on")
    if data.boxes is None:
        return peopled
    rules = plan.boxes
    people = detected(read_person_boxes(data.boxes, rules.train_min_score))
    below = rules.negative_iou if rules.negatives else None
    extended = with_detected(
        moments if rules.negatives else peopled, people, rules.train_iou, below
    )
    return [moment for moment in extended if len(moment.boxes)]


def with_detected(
    moments: Sequence[Moment],
    people: Sequence[Moment],
    min_iou: float,
    negative_iou: float | None = None,
) -> list[Moment]:
    """Return the true moments with each detected box that overlaps a true one, and its labels.

    Boxes whose IoU with each true one is below ``negative_iou`` come without a label, which says
    that they show no class. None leaves them out.

    Sources: SlowFast, section 5 of the paper: detector boxes of IoU >= 0.9 are trained on as well;
    the authors' configurations of 2020 list boxes with empty labels besides.
    """
    by_time = {(moment.video, round(moment.timestamp, 6)): moment for moment in people}
    extended = []
    for moment in moments:
        others = by_time.get((moment.video, round(moment.timestamp, 6)))
        if others is None:
            extended.append(moment)
            continue
        overlap = iou(others.boxes, moment.boxes)
        best = overlap.max(axis=1, initial=0.0)
        agrees = (best >= min_iou) & (len(moment.boxes) > 0)
        same = overlap[agrees].argmax(axis=1) if agrees.any() else np.zeros(0, np.int64)
        misses = ~agrees & (best < (negative_iou or 0.0))
        none = np.zeros((int(misses.sum()), moment.labels.shape[1]), np.bool_)
        extended.append(
            replace(
                moment,
                boxes=np.concatenate([moment.boxes, others.boxes[agrees], others.boxes[misses]]),
                labels=np.concatenate([moment.labels, moment.labels[same], none]),
                scores=np.concatenate(
                    [moment.scores, others.scores[agrees], others.scores[misses]]
                ),
            )
        )
    return extended


def open_bank(plan: Detection, path: Path | None) -> Bank | None:
    """Return the bank if the recipe's head reads one.

    Raises:
        BankError: if a bank is given and not read, or read and not given.
    """
    if plan.head.operator is None:
        if path is not None:
            raise BankError(f"{path}: the recipe's head has no operator to read a bank with")
        return None
    if path is None:
        raise BankError("the recipe's head reads a feature bank: give one with --bank")
    return Bank.open(path)


def initial_detector(
    plan: Detection, encoder: str, labels: LabelMap, bank: Bank | None
) -> Detector:
    """Return the detector at step 0.

    With ``init: detector`` the context, if there is one, and the classifier's columns for the box
    without the bank come along; those for the bank start fresh.

    Raises:
        CheckpointError: if the encoder or detector is absent, damaged or does not fit.
    """
    torch.manual_seed(plan.seed)
    bank_dim = bank.dim if bank else None
    if encoder == shared.RANDOM and (plan.init, plan.freeze) != ("encoder", "none"):
        raise CheckpointError(
            "--encoder random has nothing for init: detector or freeze: backbone to keep; "
            "give a run"
        )
    if encoder == shared.RANDOM:
        return shared.build_detector(plan, plan.backbone.build(), labels, bank_dim)
    trunk, _ = shared.load_encoder(Path(encoder), plan.backbone)
    detector = shared.build_detector(plan, trunk, labels, bank_dim)
    if plan.init == "detector":
        before = shared.load_detector(Path(encoder))
        _require_same_classes(before.labels, labels, encoder)
        there, here = before.recipe.head.context, plan.head.context
        if there != here:
            raise CheckpointError(
                f"{encoder}: head.context is {_told(there)} there, {_told(here)} in the recipe; "
                "init: encoder starts with a fresh head"
            )
        shared.take_own_part(detector, before.detector)
    return detector


def _require_same_classes(there: LabelMap, here: LabelMap, encoder: str) -> None:
    if there.names != here.names:
        raise CheckpointError(
            f"{encoder}: was trained on {len(there.names)} classes that are not the "
            f"{len(here.names)} of the label map; init: encoder starts with a fresh head"
        )


def _told(context: ContextConfig | None) -> str:
    return "absent" if context is None else context.model_dump_json()


def _card(path: Path, plan: Detection) -> dict[str, Any]:
    card, _ = load_weights(path, "detector" if plan.init == "detector" else "encoder")
    return card


def _named(data: DetectionData) -> dict[str, str | None]:
    """Return what a run is known by; an origin that is to be found is no part of it."""
    names = {name: str(value) if value else None for name, value in asdict(data).items()}
    if data.time_origin == "auto":
        del names["time_origin"]
    return names


def _identity(
    plan: Detection,
    encoder: str,
    origin: Mapping[str, Any] | None,
    data: DetectionData,
    bank: Bank | None,
) -> dict[str, Any]:
    return {
        "command": "finetune",
        "encoder": encoder,
        "encoder_hash": None if origin is None else str(origin["hash"]),
        "bank_encoder": bank.encoder_hash if bank else None,
        **identity_of(bank),
        "data": _named(data),
        "recipe": plan.model_dump(mode="json"),
    }


def _identified(samples: Sequence[KeyFrameSample]) -> list[dict[str, Any]]:
    """Return what names each sample: its key frame and the seed of its augmentation."""
    return [
        {"video": s.moment.video, "second": s.moment.timestamp, "seed": s.seed} for s in samples
    ]


def _preparation(plan: Detection, trainer: Trainer) -> Callable[..., Any]:
    detector = cast(Detector, trainer.module)
    multiple = detector.encoder.spatial_stride
    return shared.batcher(plan.augment, multiple, trainer.device, training=True)
