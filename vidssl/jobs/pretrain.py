"""``vidssl pretrain``: an encoder from videos without labels."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vidssl import __version__
from vidssl.augment.views import ssl_views
from vidssl.backbones import Encoder
from vidssl.data.clips import ClipDataset, ClipSample
from vidssl.data.loader import LoaderConfig, loader
from vidssl.data.order import StepBatches
from vidssl.errors import CheckpointError, RecipeError
from vidssl.jobs import index as index_job
from vidssl.jobs.index import open_index
from vidssl.methods import Batch, SSLMethod
from vidssl.nn.distributed import first_here, joined, rank, world_size
from vidssl.progress import Progress, silent
from vidssl.recipe import Pretrain, dump
from vidssl.sources import scan
from vidssl.train import checkpoint
from vidssl.train.folder import RunFolder, claim, read_log
from vidssl.train.loop import Plan, Trainer, device_of, fit
from vidssl.train.weights import save_weights
from vidssl.video.index import ClipIndex
from vidssl.video.reader import DECODER


@dataclass(frozen=True)
class PretrainResult:
    """Where the encoder is, and how the training ended."""

    run: Path
    encoder: Path
    encoder_hash: str
    steps: int
    videos: int
    set_aside: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What a run of this recipe on this machine will need, from one step of it."""

    recipe: dict[str, Any]
    videos: int
    steps: int
    parameters: int
    loss: float
    load_s: float
    step_s: float
    hours: float
    memory_gb: float
    device: str


def run(
    plan: Pretrain, videos: str, out: Path, *, resume: bool = False, progress: Progress = silent
) -> PretrainResult:
    """Train the method of ``plan`` on ``videos`` in the folder ``out``, or go on where it stood.

    Raises:
        SourceError: if there is nothing to train on.
        OutputError: if ``out`` belongs to another run.
        CheckpointError: with ``resume``, if there is nothing to go on from.
        Interrupted: on Ctrl-C, after a checkpoint; the same call goes on from it.
    """
    started = time.monotonic()
    identity = {"command": "pretrain", "videos": videos, "recipe": plan.model_dump(mode="json")}
    claim(out, identity)
    if resume and not checkpoint.checkpoints(out / "checkpoints"):
        raise CheckpointError(f"{out}: holds no checkpoint to go on from; leave out --resume")
    scan(videos)  # a wrong path is told of before anything is written
    with joined(), RunFolder(out, identity, dump(plan)) as folder:
        with first_here():
            index = open_index(videos, out / "index.parquet", progress)
        trainer, dataset = _prepare(plan, index)
        prepare = _on_device(plan, trainer.device)
        fit(trainer, _batches(dataset, plan), prepare, folder, progress, _noting(folder))
        method: SSLMethod = trainer.module  # type: ignore[assignment]
        encoder_hash = ""
        if rank() == 0:
            encoder_hash = save_encoder(out, method.encoder, plan, steps=trainer.step)
    log = read_log(out)
    return PretrainResult(
        run=out,
        encoder=out / "encoder.safetensors",
        encoder_hash=encoder_hash,
        steps=trainer.step,
        videos=len(index),
        set_aside=index.set_aside,
        loss=log[-1]["loss"] if log else float("nan"),
        seconds=time.monotonic() - started,
    )


def forecast(plan: Pretrain, videos: str) -> Forecast:
    """Decode one batch and do one step without writing anything that stays.

    Raises:
        SourceError: if there is nothing to train on.
    """
    paths = scan(videos)
    few = paths[:: max(1, len(paths) // plan.optim.batch)][: plan.optim.batch]
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "few.txt"
        listing.write_text("".join(f"{path.absolute()}\n" for path in few), encoding="utf-8")
        index_job.run(str(listing), Path(folder) / "index.parquet")
        trainer, dataset = _prepare(plan, ClipIndex(Path(folder) / "index.parquet"))
        batches = _batches(dataset, plan, LoaderConfig(workers=0))
        start = time.perf_counter()
        raw = next(iter(batches(0, 1)))
        loaded = time.perf_counter()
        scalars = trainer.train_step(_on_device(plan, trainer.device)(raw, 0))
        end = time.perf_counter()
    steps = plan.optim.total_steps(len(paths))
    workers = max(1, plan.loader.workers)
    step_s = max(end - loaded, (loaded - start) / workers)
    return Forecast(
        recipe=plan.model_dump(mode="json"),
        videos=len(paths),
        steps=steps,
        parameters=sum(p.numel() for p in trainer.module.parameters() if p.requires_grad),
        loss=scalars["loss"],
        load_s=loaded - start,
        step_s=end - loaded,
        hours=steps * step_s / 3600,
        memory_gb=_peak_gb(trainer.device),
        device=str(trainer.device),
    )


def save_encoder(folder: Path, encoder: Encoder, plan: Pretrain, *, steps: int) -> str:
    """Write the encoder with its card; return its hash."""
    card = {
        "backbone": plan.backbone.model_dump(mode="json"),
        "features": encoder.features,
        "trained_by": {"task": plan.task, "method": plan.method.name, "steps": steps},
        "decoder": DECODER,
        "code": __version__,
    }
    return save_weights(folder, "encoder", encoder, card)


def _prepare(plan: Pretrain, index: ClipIndex) -> tuple[Trainer, ClipDataset]:
    if plan.optim.batch % world_size():
        raise RecipeError(
            f"optim.batch: {plan.optim.batch} cannot be shared by {world_size()} processes"
        )
    torch.manual_seed(plan.seed)
    method = plan.method.build(plan.backbone.build())
    dataset = ClipDataset(
        index,
        frames=plan.backbone.frames,
        stride=plan.backbone.stride,
        views=method.num_views,
        seed=plan.seed,
        short_side_px=plan.decode_short_side_px,
    )
    steps = plan.optim.total_steps(len(index))
    schedule = Plan(plan.optim, steps, plan.seed, plan.log_every, plan.save_every)
    return Trainer(method, schedule, device_of(plan.device)), dataset


def _batches(
    dataset: ClipDataset, plan: Pretrain, config: LoaderConfig | None = None
) -> Callable[[int, int], Iterable[list[ClipSample]]]:
    def between(first: int, last: int) -> Iterable[list[ClipSample]]:
        steps = StepBatches(plan.optim.batch, first, last, rank(), world_size())
        return loader(dataset, steps, config or plan.loader)

    return between


def _on_device(
    plan: Pretrain, device: torch.device
) -> Callable[[Sequence[ClipSample], int], Batch]:
    """Return what puts raw samples on the device and augments each view there."""

    def prepare(samples: Sequence[ClipSample], step: int) -> Batch:
        views = []
        for view in range(len(samples[0].views)):
            clips = [sample.views[view].to(device, non_blocking=True) for sample in samples]
            seeds = [sample.seed + view for sample in samples]
            views.append(ssl_views(clips, seeds, plan.augment))
        return Batch(tuple(views), step)

    return prepare


def _noting(folder: RunFolder) -> Callable[[Sequence[ClipSample]], None]:
    """Return what records each video that failed while training, once."""
    told: set[str] = set()

    def note(samples: Sequence[ClipSample]) -> None:
        for path, error in (failure for sample in samples for failure in sample.failed):
            if path not in told:
                told.add(path)
                folder.event("video set aside", path=path, error=error)

    return note


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
