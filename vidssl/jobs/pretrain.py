"""``vidssl pretrain``: an encoder from videos without labels."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from vidssl import __version__
from vidssl.augment.views import ssl_views
from vidssl.backbones import Encoder
from vidssl.data.clips import ClipDataset, ClipReading, ClipSample, augmented, require_views
from vidssl.data.loader import Cost
from vidssl.data.people import People
from vidssl.errors import RecipeError
from vidssl.jobs import _forecast as forecasting
from vidssl.jobs import _pace as pace
from vidssl.jobs import _people as people_job
from vidssl.jobs import _training as training
from vidssl.jobs import index as index_job
from vidssl.jobs import report
from vidssl.jobs._monitor import Monitor, alarmed
from vidssl.jobs._people import BoxFiles
from vidssl.jobs.index import open_index
from vidssl.methods import Batch, SSLMethod
from vidssl.nn.distributed import first_here, joined, rank
from vidssl.progress import Progress, silent
from vidssl.recipe import Pretrain, dump
from vidssl.sources import read, scan
from vidssl.train.board import Board
from vidssl.train.folder import RunFolder, claim, read_log
from vidssl.train.loop import Hooks, fit
from vidssl.train.prove import Proof
from vidssl.train.trainer import Trainer, device_of
from vidssl.train.weights import save_weights
from vidssl.video.index import ClipIndex
from vidssl.video.reader import decoder_version
from vidssl.video.storage import shown, told_apart


@dataclass(frozen=True)
class PretrainResult:
    """Where the encoder is, and how the training ended."""

    run: Path
    encoder: Path
    encoder_hash: str
    steps: int
    samples_seen: int
    videos: int
    set_aside: int
    loss: float
    seconds: float


def run(
    plan: Pretrain,
    videos: str,
    out: Path,
    *,
    boxes: BoxFiles | None = None,
    resume: bool = False,
    autotune: bool = False,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> PretrainResult:
    """Train the method of ``plan`` on ``videos`` in the folder ``out``, or go on where it stood.

    ``boxes`` are for a method that is shown people. ``autotune`` measures first, and takes as many
    workers and threads as suit this machine. ``tensorboard`` shows the log there too.

    Raises:
        RecipeError: if method, backbone, clips and boxes do not go together.
        SourceError: if there is nothing to train on.
        AnnotationError: if the boxes are wrong, or no video is there for them.
        OutputError: if ``out`` belongs to another run.
        CheckpointError: with ``resume``, if there is nothing to go on from.
        Interrupted: on Ctrl-C, after a checkpoint; the same call goes on from it.
    """
    started = time.monotonic()
    board = Board(out) if tensorboard else None
    plan.loader.preload("vidssl.data.clips")
    boxes = boxes or BoxFiles()
    tables = people_job.read_boxes(plan, boxes)
    _require_fitting(plan)
    identity = _identity(plan, videos, boxes)
    terms = training.terms(Pretrain)
    claim(out, identity, terms)
    if resume:
        training.require_checkpoint(out)
    listing = read(videos)  # a wrong path is told of before anything is written
    with joined(device_of(plan.device)), RunFolder(out, identity, dump(plan), terms) as folder:
        if board is not None:
            folder.follow(board)
        with first_here():
            index = open_index(videos, out / "index.parquet", progress)
        people = people_job.open_people(tables, index, boxes.time_origin)
        del tables
        trainer, dataset = _prepare(plan, index, people)
        monitor = Monitor(plan, index, listing)
        del listing
        if rank() == 0:
            _note_data(folder, index)
            if people is not None:
                folder.event("people", **people_job.account(people, boxes))
        training.tell_rate(plan.optim, folder, progress)
        method = cast(SSLMethod, trainer.module)
        loader, cost = plan.loader, Cost()
        if autotune:
            spare, _ = _prepare(plan, index, people)
            loader = pace.autotuned(plan, spare, dataset, _on_device(plan, spare), folder, progress)
        between = training.batches(dataset, plan.optim.batch, loader, cost)
        prepare = _on_device(plan, trainer)
        hooks = Hooks(
            notice=training.noting_failures(folder),
            identify=_identified,
            advise=pace.adviser(loader, cost, pace.cores_of_this_process()),
            examine=monitor,
            alarm=alarmed(method.collapse_causes, folder, progress),
        )
        fit(trainer, between, prepare, folder, progress, hooks)
        encoder = cast(SSLMethod, trainer.trained).encoder
        training.take_statistics(trainer, encoder, between, prepare, lambda batch: batch.views)
        encoder_hash = ""
        if rank() == 0:
            seen = training.Seen(trainer.samples_seen, samples_seen_before=0)
            encoder_hash = save_encoder(out, encoder, plan, steps=trainer.step, seen=seen)
            report.run(out)
    log = read_log(out)
    return PretrainResult(
        run=out,
        encoder=out / "encoder.safetensors",
        encoder_hash=encoder_hash,
        steps=trainer.step,
        samples_seen=trainer.samples_seen,
        videos=len(index),
        set_aside=index.set_aside,
        loss=log[-1]["loss"] if log else float("nan"),
        seconds=time.monotonic() - started,
    )


def forecast(
    plan: Pretrain, videos: str, out: Path, boxes: BoxFiles | None = None, *, processes: int = 1
) -> forecasting.Forecast:
    """Read two batches and do a few steps without writing anything that stays.

    ``processes`` share a batch; this one does the share of one.

    Raises:
        SourceError: if there is nothing to train on.
        AnnotationError: if the boxes are wrong, or no video is there for them.
    """
    boxes = boxes or BoxFiles()
    tables = people_job.read_boxes(plan, boxes)
    _require_fitting(plan)
    paths = scan(videos)
    some = people_job.videos_with_people(paths, tables)
    few = some[:: max(1, len(some) // plan.optim.batch)][: plan.optim.batch]
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "few.txt"
        listing.write_text("".join(f"{path}\n" for path in few), encoding="utf-8")
        index_job.run(str(listing), Path(folder) / "index.parquet")
        index = ClipIndex(Path(folder) / "index.parquet")
        people = people_job.open_people(tables, index, boxes.time_origin, paths)
        trainer, dataset = _prepare(plan, index, people)
        place = forecasting.Place(out, index.path, len(paths), processes)
        return forecasting.forecast(
            plan, trainer, dataset, _on_device(plan, trainer), place, samples=len(paths)
        )


def prove(
    plan: Pretrain,
    videos: str,
    out: Path,
    steps: int,
    *,
    boxes: BoxFiles | None = None,
    progress: Progress = silent,
) -> Proof:
    """Do some steps of the run in ``out`` again, twice, and compare them; nothing is changed.

    Raises:
        OutputError: if ``out`` belongs to another run.
        CheckpointError: if there is no checkpoint with steps after it.
    """
    plan.loader.preload("vidssl.data.clips")
    boxes = boxes or BoxFiles()
    tables = people_job.read_boxes(plan, boxes)
    claim(out, _identity(plan, videos, boxes), training.terms(Pretrain))
    training.require_checkpoint(out)
    with joined(device_of(plan.device)):
        index = open_index(training.as_indexed(videos, out), out / "index.parquet", progress)
        people = people_job.open_people(tables, index, boxes.time_origin)
        trainer, dataset = _prepare(plan, index, people)
        between = training.batches(dataset, plan.optim.batch, plan.loader)
        prepare = _on_device(plan, trainer)
        return training.proof_of_resume(
            trainer, between, prepare, _identified, out, steps, progress
        )


def save_encoder(
    folder: Path, encoder: Encoder, plan: Pretrain, *, steps: int, seen: training.Seen
) -> str:
    """Write the encoder with its card; return its hash."""
    trained_by = {"task": plan.task, "method": plan.method.name, "steps": steps, **asdict(seen)}
    card = {
        "backbone": plan.backbone.model_dump(mode="json"),
        "features": encoder.features,
        "trained_by": trained_by,
        "decoder": decoder_version(plan.decoder),
        "code": __version__,
    }
    return save_weights(folder, "encoder", encoder, card)


def _identity(plan: Pretrain, videos: str, boxes: BoxFiles) -> dict[str, Any]:
    return {
        "command": "pretrain",
        "videos": videos,
        "recipe": plan.model_dump(mode="json"),
        **boxes.identity(),
    }


def _identified(samples: Sequence[ClipSample]) -> list[dict[str, Any]]:
    """Return what names each sample's clips: the video, its clips' times, and the seed."""
    return [
        {
            "video": shown(sample.video),
            "from_to_s": [[float(times[0]), float(times[-1])] for times in sample.times_s],
            "seed": sample.seed,
        }
        for sample in samples
    ]


def _require_fitting(plan: Pretrain) -> None:
    """Refuse a method on a backbone or clips that do not suit it: before any video is looked at.

    Raises:
        RecipeError: with what the method needs.
    """
    side_px = plan.augment.crop_px
    with torch.device("meta"), torch.inference_mode():  # no memory or arithmetic for a question
        method = plan.method.build(plan.backbone.build()).eval()
        clips = torch.empty(1, 3, plan.backbone.frames, side_px, side_px)
        map_ = method.encoder.maps(clips)
    plan.method.require_map(clips.shape, map_.shape)
    views = method.num_views
    require_views(plan.sampling, views)
    if len(plan.augment.views) > views:
        raise RecipeError(
            f"augment.views: method {plan.method.name} has {views} views, found "
            f"{len(plan.augment.views)}"
        )


def _note_data(folder: RunFolder, index: ClipIndex) -> None:
    """Write down what the source promised, and which videos are set aside."""
    if (account := index_job.account(index)) is not None:
        folder.event("source", **account)
    if index.set_aside:
        aside = index_job.set_aside(index)
        name_of = told_apart(aside)
        told = {name_of[path]: why for path, why in aside.items()}
        folder.event("videos set aside", videos=told)


def _prepare(
    plan: Pretrain, index: ClipIndex, people: People | None
) -> tuple[Trainer, ClipDataset]:
    torch.manual_seed(plan.seed)
    method = plan.method.build(plan.backbone.build())
    dataset = ClipDataset(
        index,
        frames=plan.backbone.frames,
        stride=plan.backbone.stride,
        views=method.num_views,
        seed=plan.seed,
        sampling=plan.sampling,
        reading=_reading(plan),
        people=people,
    )
    return training.trainer(method, plan, len(index), index.fingerprint()), dataset


def _reading(plan: Pretrain) -> ClipReading:
    """Return how clips are read: as frames for the device, or augmented by the workers."""
    where = plan.loader.augment
    if where == "auto":
        where = "workers" if device_of(plan.device).type == "cpu" else "device"
    finish = partial(augmented, plan.augment) if where == "workers" else None
    return ClipReading(plan.decode_short_side_px, plan.decoder, finish)


def _on_device(plan: Pretrain, trainer: Trainer) -> Callable[[Sequence[ClipSample], int], Batch]:
    """Return what puts samples on the device, augments there what is not yet, and sets the task."""
    device = trainer.device

    def prepare(samples: Sequence[ClipSample], step: int) -> Batch:
        views, times_s = [], []
        for view in range(len(samples[0].views)):
            clips = [sample.views[view].to(device, non_blocking=True) for sample in samples]
            times_s.append(torch.stack([sample.times_s[view] for sample in samples]).to(device))
            if clips[0].is_floating_point():  # the workers have augmented them
                views.append(torch.stack(clips))
                continue
            seeds = [sample.seed + view for sample in samples]
            views.append(ssl_views(clips, seeds, plan.augment, view))
        batch = Batch(
            tuple(views),
            step,
            seed=plan.seed,
            seeds=tuple(sample.seed for sample in samples),
            times_s=tuple(times_s),
            targets=people_job.targets(plan, samples, device),
            watched=trainer.plan.is_logged(step),
        )
        return plan.method.prepare(batch)

    return prepare
