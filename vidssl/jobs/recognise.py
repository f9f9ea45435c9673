"""``vidssl finetune`` for a recognition recipe: a classifier of clips from labelled videos."""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vidssl import __version__
from vidssl.augment.mixing import draw_mix, mix_clips, mix_labels
from vidssl.augment.recognition import recognition_view
from vidssl.data.clips import ClipReading
from vidssl.data.labelled import (
    Examples,
    LabelledClips,
    LabelledSample,
    examples,
    recognised,
    require_labels,
    with_labels,
)
from vidssl.data.loader import Cost
from vidssl.errors import BankError, CheckpointError, SourceError
from vidssl.features import Bank, Window
from vidssl.jobs import _detector as shared
from vidssl.jobs import _forecast as forecasting
from vidssl.jobs import _pace as pace
from vidssl.jobs import _training as training
from vidssl.jobs import index as index_job
from vidssl.jobs import report
from vidssl.jobs._banks import (
    bank_for,
    facts_of,
    identity_of,
    require_videos,
    same_bank,
    stacked,
    window_around,
)
from vidssl.jobs._classifier import load_classifier, save_classifier
from vidssl.jobs._geometry import remark
from vidssl.jobs._tested import require_one_split
from vidssl.jobs.index import open_index
from vidssl.nn.distributed import first_here, joined, rank
from vidssl.progress import REMARK, Progress, silent
from vidssl.recipe import Recognition, dump
from vidssl.recognition.classifier import Classifier
from vidssl.recognition.losses import class_weights, multi_hot
from vidssl.recognition.recogniser import Recogniser, RecognitionBatch
from vidssl.sources import Listing, read
from vidssl.train.board import Board
from vidssl.train.folder import RunFolder, claim, read_log
from vidssl.train.loop import Hooks, fit
from vidssl.train.prove import Proof
from vidssl.train.trainer import Trainer, device_of
from vidssl.train.weights import load_weights, save_weights
from vidssl.video.index import ClipIndex
from vidssl.video.reader import decoder_version
from vidssl.video.storage import shown, told_apart

WHO = "the recipe's head"
MIRRORED = {
    "somethingv2": "augment.flip is {:g}: classes of Something-Something tell left from right, "
    "which a flip exchanges; expected 0"
}
"""Sources whose classes a flipped clip does not keep, and what is told of it."""
MIX = 0x6D78
"""Tells the draws of mixup and CutMix from all others that come from the same seed and step."""


@dataclass(frozen=True)
class RecogniseResult:
    """Where the classifier is, what it was trained on, and how that ended.

    ``samples`` are those whose labels were learnt, of ``samples_usable``, rows of the list or whole
    videos; ``lost_rows`` counts rows that cannot be trained on, by reason. ``videos_missing`` are
    in the list and not there; ``unusable_videos`` cannot be decoded, and why.
    ``samples_seen_in_all`` adds to ``samples_seen`` what the weights that this began from had seen;
    None where their card does not say.
    """

    run: Path
    classifier_hash: str
    classes: int
    steps: int
    samples_seen: int
    samples_seen_in_all: int | None
    samples: int
    samples_usable: int
    lost_rows: dict[str, int]
    videos_missing: int
    unusable_videos: dict[str, str]
    loss: float
    top1: float | None
    seconds: float


def run(
    plan: Recognition,
    encoder: str,
    videos: str,
    out: Path,
    *,
    resume: bool = False,
    bank: Path | None = None,
    autotune: bool = False,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> RecogniseResult:
    """Train a classifier from ``encoder`` (a run, a weights file, or ``random``) in ``out``.

    ``bank`` is the folder of a feature bank, for a recipe whose head reads one. ``autotune``
    measures first, and takes as many workers and threads as suit this machine. ``tensorboard``
    shows the log there too.

    Raises:
        SourceError: if there is no video, none with a label of the kind asked for, or the list has
            the test part of a set too.
        CheckpointError: if the encoder is absent, damaged or does not fit the recipe.
        BankError: if the recipe's operator has no bank, the bank no operator, or it lacks videos.
        OutputError: if ``out`` belongs to another run, or one that read another bank's rows.
        Interrupted: on Ctrl-C, after a checkpoint; the same call goes on from it.
    """
    started = time.monotonic()
    board = Board(out) if tensorboard else None
    plan.loader.preload("vidssl.data.labelled")
    listing, classes = _source(plan, videos)
    reader = bank_for(plan.head.operator, bank, WHO)
    origin = _origin(plan, encoder, classes)
    identity = _identity(plan, encoder, origin, videos, reader)
    terms = same_bank(training.terms(Recognition), reader)
    claim(out, identity, terms)
    if resume:
        training.require_checkpoint(out)
    with joined(device_of(plan.device)), RunFolder(out, identity, dump(plan), terms) as folder:
        if board is not None:
            folder.follow(board)
        with first_here():
            data = _indexed(plan, listing, videos, out / "index.parquet", reader, progress)
        module = _initial(plan, encoder, data.learnt, reader)
        trainer = training.trainer(module, plan, len(data.learnt), data.fingerprint)
        training.tell_rate(plan.optim, folder, progress)
        if rank() == 0:
            _note_data(folder, data, plan)
            if plan.augment.flip and listing.source in MIRRORED:
                progress(MIRRORED[listing.source].format(plan.augment.flip), 0, REMARK)
            if origin is not None:
                remark(origin, plan.backbone, plan.augment.crop_px, progress)
        dataset = _clips(plan, data)
        loader, cost = plan.loader, Cost()
        if autotune:
            spare = training.trainer(copy.deepcopy(module), plan, len(data.learnt))
            loader = pace.autotuned(
                plan, spare, dataset, _preparation(plan, spare, reader), folder, progress
            )
        between = training.batches(dataset, plan.optim.batch, loader, cost)
        prepare = _preparation(plan, trainer, reader)
        hooks = Hooks(
            notice=training.noting_failures(folder),
            identify=_identified,
            advise=pace.adviser(loader, cost, pace.cores_of_this_process()),
        )
        fit(trainer, between, prepare, folder, progress, hooks)
        trained = cast(Recogniser, trainer.trained)
        training.take_statistics(
            trainer, trained.encoder, between, prepare, lambda batch: [batch.clips]
        )
        classifier_hash = ""
        before = 0 if origin is None else training.seen_by(origin)
        seen = training.Seen(trainer.samples_seen, before)
        if rank() == 0:
            classifier_hash = _save(
                *(out, trained, plan, data, reader), steps=trainer.step, seen=seen
            )
            report.run(out)
    log = read_log(out)
    return RecogniseResult(
        run=out,
        classifier_hash=classifier_hash,
        classes=len(data.learnt.classes),
        steps=trainer.step,
        samples_seen=seen.samples_seen,
        samples_seen_in_all=seen.in_all,
        samples=len(data.learnt),
        samples_usable=data.usable,
        lost_rows=data.learnt.lost,
        videos_missing=len(listing.ledger.missing),
        unusable_videos=data.unusable,
        loss=log[-1]["loss"] if log else float("nan"),
        top1=log[-1].get("top1") if log else None,
        seconds=time.monotonic() - started,
    )


def prove(
    plan: Recognition,
    encoder: str,
    videos: str,
    out: Path,
    steps: int,
    *,
    bank: Path | None = None,
    progress: Progress = silent,
) -> Proof:
    """Do some steps of the run in ``out`` again, twice, and compare them; nothing is changed.

    Raises:
        OutputError: if ``out`` belongs to another run.
        CheckpointError: if there is no checkpoint with steps after it.
    """
    plan.loader.preload("vidssl.data.labelled")
    listing, classes = _source(plan, videos)
    reader = bank_for(plan.head.operator, bank, WHO)
    identity = _identity(plan, encoder, _origin(plan, encoder, classes), videos, reader)
    claim(out, identity, same_bank(training.terms(Recognition), reader))
    training.require_checkpoint(out)
    with joined(device_of(plan.device)):
        index = open_index(training.as_indexed(videos, out), out / "index.parquet", progress)
        data = _data(plan, listing, index)
        module = _initial(plan, encoder, data.learnt, reader)
        trainer = training.trainer(module, plan, len(data.learnt), data.fingerprint)
        between = training.batches(_clips(plan, data), plan.optim.batch, plan.loader)
        prepare = _preparation(plan, trainer, reader)
        return training.proof_of_resume(
            trainer, between, prepare, _identified, out, steps, progress
        )


def forecast(
    plan: Recognition,
    encoder: str,
    videos: str,
    out: Path,
    *,
    bank: Path | None = None,
    processes: int = 1,
) -> forecasting.Forecast:
    """Read two batches and do a few steps without writing anything that stays.

    ``processes`` share a batch; this one does the share of one. The samples are those of the list
    whose videos are there, whether or not they can be decoded.

    Raises:
        VidsslError: as :func:`run` does.
    """
    listing, classes = _source(plan, videos)
    reader = bank_for(plan.head.operator, bank, WHO)
    _origin(plan, encoder, classes)
    every = listing.videos
    few = _labelled_videos(listing)[:: max(1, len(every) // plan.optim.batch)][: plan.optim.batch]
    with tempfile.TemporaryDirectory() as scratch:
        names = Path(scratch) / "few.txt"
        names.write_text("".join(f"{path}\n" for path in few), encoding="utf-8")
        index_job.run(str(names), Path(scratch) / "index.parquet")
        index = ClipIndex(Path(scratch) / "index.parquet")
        some = _examples(plan, listing, index)
        # How many there will be: as many of each video as of those looked at.
        samples = round(len(some) / len(index) * len(every) * plan.labels.share)
        data = _Data(some, index, len(some))
        module = _initial(plan, encoder, some, reader)
        trainer = training.trainer(module, plan, max(1, samples))
        place = forecasting.Place(out, index.path, len(every), processes)
        return forecasting.forecast(
            plan,
            trainer,
            _clips(plan, data),
            _preparation(plan, trainer, reader),
            place,
            samples=max(1, samples),
        )


# --- what is trained on


@dataclass(frozen=True)
class _Data:
    """The samples whose labels are learnt, of ``usable``, and the index of their videos."""

    learnt: Examples
    index: ClipIndex
    usable: int
    unusable: dict[str, str] = field(default_factory=dict)
    listing: Listing | None = None

    @property
    def fingerprint(self) -> str:
        """A short hash of all that is learnt from."""
        return self.learnt.fingerprint(self.index)


def _source(plan: Recognition, videos: str) -> tuple[Listing, tuple[str, ...]]:
    """Return the list of a source and its classes, before its videos are looked at.

    Raises:
        SourceError: if nothing can be learnt from it, or it holds videos to test on as well.
    """
    listing = read(videos)
    require_one_split(listing, "trained on", "train")
    return listing, require_labels(listing, plan.head.target, one_class=_one_class(plan))


def _examples(plan: Recognition, listing: Listing, index: ClipIndex) -> Examples:
    return examples(
        listing,
        index,
        target=plan.head.target,
        samples=plan.sampling.samples,
        one_class=_one_class(plan),
    )


def _one_class(plan: Recognition) -> bool:
    return plan.head.loss == "softmax"


def _indexed(
    plan: Recognition,
    listing: Listing,
    videos: str,
    cache: Path,
    bank: Bank | None,
    progress: Progress,
) -> _Data:
    """Return the samples of a source, whose videos are indexed once at ``cache``."""
    is_new = not cache.exists()
    try:
        data = _data(plan, listing, open_index(videos, cache, progress))
        if bank is not None:
            require_videos(bank, [data.index.video(n)[0] for n in set(data.learnt.video.tolist())])
        return data
    except (SourceError, BankError):
        if is_new:  # a refused command leaves nothing behind
            cache.unlink(missing_ok=True)
        raise


def _data(plan: Recognition, listing: Listing, index: ClipIndex) -> _Data:
    every = _examples(plan, listing, index)
    aside = index_job.set_aside(index)
    name_of = told_apart(aside)
    unusable = {name_of[path]: why for path, why in aside.items()}
    return _Data(with_labels(every, plan.labels), index, len(every), unusable, listing)


def _labelled_videos(listing: Listing) -> list[str]:
    """Return the videos of a list that have rows, or all if none has."""
    named = listing.entries["video"].drop_null().unique().to_pylist()
    return [listing.videos[number] for number in named] or listing.videos


def _note_data(folder: RunFolder, data: _Data, plan: Recognition) -> None:
    """Write down what the source promised, what is learnt from, and what was left out."""
    learnt = data.learnt
    if (account := index_job.account(data.index)) is not None:
        folder.event("source", **account)
    if data.unusable:
        folder.event("videos set aside", videos=data.unusable)
    counts = learnt.counts()
    folder.event(
        "labels",
        samples=len(learnt),
        of=data.usable,
        classes=len(learnt.classes),
        fewest=int(counts.min()),
        most=int(counts.max()),
        lost=learnt.lost,
    )
    if plan.head.class_weights != "none":
        weights = _weights(plan, learnt)
        folder.event(
            "class weights",
            weights=dict(zip(learnt.classes, np.round(weights, 4).tolist(), strict=True)),
        )


def _weights(plan: Recognition, learnt: Examples) -> Any:
    return class_weights(learnt.counts(), plan.head.class_weights, plan.head.loss)


def _clips(plan: Recognition, data: _Data) -> LabelledClips:
    where = plan.loader.augment
    if where == "auto":
        where = "workers" if device_of(plan.device).type == "cpu" else "device"
    finish = partial(recognised, plan.augment) if where == "workers" else None
    return LabelledClips(
        data.learnt,
        data.index,
        frames=plan.backbone.frames,
        stride=plan.backbone.stride,
        seed=plan.seed,
        sampling=plan.sampling,
        reading=ClipReading(plan.decode_short_side_px, plan.decoder, finish),
    )


# --- the network


def _initial(
    plan: Recognition, encoder: str, learnt: Examples, bank: Bank | None = None
) -> Recogniser:
    """Return the classifier in training at step 0; where it comes from has been looked at.

    With ``init: classifier`` the columns for the clip's own feature come along; those for the bank
    start fresh.

    Raises:
        CheckpointError: if the encoder or classifier is damaged.
    """
    torch.manual_seed(plan.seed)
    weights = None
    if plan.head.class_weights != "none":
        weights = torch.tensor(_weights(plan, learnt), dtype=torch.float32)
    trunk = plan.backbone.build()
    if encoder != shared.RANDOM and plan.init == "encoder":
        trunk, _ = shared.load_encoder(Path(encoder), plan.backbone)
    module = Recogniser(
        trunk,
        plan.head,
        num_classes=len(learnt.classes),
        freeze=plan.freeze,
        weights_K=weights,
        bank_dim=bank.dim if bank else None,
    )
    if plan.init == "classifier":
        _take_common_part(module.classifier, load_classifier(Path(encoder)).classifier)
    return module


def _take_common_part(own: Classifier, before: Classifier) -> None:
    """Take all of a classifier but an operator and the columns for its answers."""
    width = own.encoder.features
    own.encoder.load_state_dict(before.encoder.state_dict())
    if own.scaling == "batch":
        own.norm.load_state_dict(before.norm.state_dict())
    with torch.no_grad():
        own.classifier.weight[:, :width] = before.classifier.weight[:, :width]
        own.classifier.bias.copy_(before.classifier.bias)


def _origin(plan: Recognition, encoder: str, classes: Sequence[str]) -> dict[str, Any] | None:
    """Return the card of the weights that the training begins from; None for fresh ones.

    Raises:
        CheckpointError: if there are none, they do not fit, or the recipe has nothing to keep.
    """
    if encoder == shared.RANDOM:
        if (plan.init, plan.freeze) != ("encoder", "none"):
            raise CheckpointError(
                f"--encoder random has nothing for init: {plan.init} with freeze: {plan.freeze} to "
                "keep; give a run"
            )
        return None
    card, _ = load_weights(Path(encoder), plan.init)
    shared.check_encoder(card, plan.backbone, encoder)
    if plan.init == "classifier":
        _require_same_head(card, plan, classes, encoder)
    return card


def _require_same_head(
    card: Mapping[str, Any], plan: Recognition, classes: Sequence[str], encoder: str
) -> None:
    labels, count = card.get("labels"), card.get("num_classes")
    if count != len(classes) or (labels is not None and labels != list(classes)):
        raise CheckpointError(
            f"{encoder}: was trained on {count} classes that are not the {len(classes)} of the "
            "videos; init: encoder starts with a fresh head"
        )
    if (scaling := card.get("scaling", "none")) != plan.head.scaling:
        raise CheckpointError(
            f"{encoder}: head.scaling is {scaling} there, {plan.head.scaling} in the recipe"
        )


def _identity(
    plan: Recognition,
    encoder: str,
    origin: Mapping[str, Any] | None,
    videos: str,
    bank: Bank | None,
) -> dict[str, Any]:
    of_bank: dict[str, Any] = identity_of(bank)
    if bank is not None:
        of_bank |= {"bank": str(bank.folder), "bank_encoder": bank.encoder_hash}
    return {
        "command": "finetune",
        "encoder": encoder,
        "encoder_hash": None if origin is None else str(origin["hash"]),
        "videos": videos,
        **of_bank,
        "recipe": plan.model_dump(mode="json"),
    }


def _save(
    folder: Path,
    trained: Recogniser,
    plan: Recognition,
    data: _Data,
    bank: Bank | None,
    *,
    steps: int,
    seen: training.Seen,
) -> str:
    """Write the classifier and its encoder alone, each with a card; return the former's hash."""
    backbone, augment = plan.backbone, plan.augment
    common = {
        "trained_by": {"task": plan.task, "steps": steps, **asdict(seen)},
        "decoder": decoder_version(plan.decoder),
    }
    card = {
        "backbone": backbone.model_dump(mode="json"),
        "features": trained.encoder.features,
        "code": __version__,
        **common,
    }
    save_weights(folder, "encoder", trained.encoder, card)
    facts = {
        "recipe": plan.model_dump(mode="json"),
        "test": {
            "frames": backbone.frames,
            "stride": backbone.stride,
            "segments": plan.sampling.frames == "segments",
            "indexing": plan.sampling.indexing,
            "short_side_px": augment.test_short_side_px,
            "crop_px": augment.test_crop_px,
            "train_crop_px": augment.crop_px,
            "activation": plan.head.loss,
            "decode_short_side_px": plan.decode_short_side_px,
        },
        "target": plan.head.target,
        "geometry": {
            "frames": backbone.frames,
            "stride": backbone.stride,
            "crop_px": augment.crop_px,
        },
        "data": {"samples": len(data.learnt), "of": data.usable, "fingerprint": data.fingerprint},
        **({"bank": facts_of(bank)} if bank else {}),
        **common,
    }
    return save_classifier(
        folder,
        trained.classifier,
        backbone,
        labels=data.learnt.classes,
        facts=facts,
        operator=plan.head.operator,
    )


# --- batches


def _identified(samples: Sequence[LabelledSample]) -> list[dict[str, Any]]:
    """Return what names each sample: the video, its clips' times and classes, and the seed."""
    return [
        {
            "video": shown(sample.clip.video),
            "from_to_s": [[float(times[0]), float(times[-1])] for times in sample.clip.times_s],
            "labels": [list(labels) for labels in sample.labels],
            "seed": sample.clip.seed,
        }
        for sample in samples
    ]


def _preparation(
    plan: Recognition, trainer: Trainer, bank: Bank | None = None
) -> Callable[[Sequence[LabelledSample], int], RecognitionBatch]:
    """Return what puts samples on the device, augments there what is not yet, and mixes them.

    The first clips of all samples come first, then the second ones. Each process mixes its own.
    What a clip sees of a bank, where chance has a part in it, follows from the sample's seed.
    """
    operator = plan.head.operator
    device, augment = trainer.device, plan.augment
    classes = cast(Recogniser, trainer.module).classifier.classifier.out_features

    def prepare(samples: Sequence[LabelledSample], step: int) -> RecognitionBatch:
        clips: list[Tensor] = []
        labels: list[tuple[int, ...]] = []
        seen: list[Window] = []
        for view in range(plan.sampling.clips):
            for sample in samples:
                clip = sample.clip.views[view].to(device, non_blocking=True)
                if not clip.is_floating_point():  # else the workers have augmented it
                    clip = recognition_view(clip, sample.clip.seed + view, augment)
                clips.append(clip)
                labels.append(sample.labels[view])
                if bank is not None and operator is not None:
                    times_s, seed = sample.clip.times_s[view], sample.clip.seed + view
                    seen.append(
                        window_around(bank, operator.window, sample.clip.video, times_s, seed)
                    )
        batch = torch.stack(clips)
        targets = torch.from_numpy(multi_hot(labels, classes)).to(device)
        rng = np.random.default_rng([plan.seed, step, MIX])
        size = (augment.crop_px, augment.crop_px)
        mix = draw_mix(rng, size, mixup=augment.mixup, cutmix=augment.cutmix)
        if mix is None:
            window = stacked(seen, device) if seen else None
            return RecognitionBatch(batch, targets, window=window)
        return RecognitionBatch(mix_clips(batch, mix), mix_labels(targets, mix), is_mixed=True)

    return prepare
