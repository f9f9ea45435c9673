"""What a training will need, from a little of it."""

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from vidssl.data.loader import Cost, Loader
from vidssl.data.order import StepBatches
from vidssl.data.samples import Samples
from vidssl.jobs._memory import granted_bytes, process_peak_bytes, watching_children
from vidssl.jobs._training import Failing, require_shares
from vidssl.recipe import Detection, Pretrain, Recognition
from vidssl.train import checkpoint
from vidssl.train.trainer import Trainer

GB = 2**30
TIMED_STEPS = 5
ENOUGH_S = 60.0  # of timed steps: a step of minutes is not done five times
BATCHES_READ = 2
COPIES = 2
"""Of a training's state in the main memory: the one to go back to, and the one being written."""
REPORT_BYTES = 2**20
LOGGED_BESIDES = 150  # bytes of a logged step beside the method's scalars

Sample = TypeVar("Sample", bound=Failing)


@dataclass(frozen=True)
class Forecast:
    """What a run of this recipe on this machine will need, from a few steps of it.

    Times: ``load_s`` is the time to read one batch in one process, ``step_s`` the median of the
    timed steps, of which the first, ``first_step_s``, is none. ``hours`` takes the slower of the
    two, with reading shared by the loader's workers, or their sum without workers; ``hours_low``
    and ``hours_high`` take the fastest and the slowest step, the latter on a CPU with nothing of
    the reading done beside it. Files just read come from memory: a slow disk is not in it.

    Sizes are in GiB and for this machine, all processes of it together. ``memory_gb`` is the peak
    of one process, on the GPU where there is one; ``gpu_gb`` is what torch takes of that GPU for
    it, None without one. ``host_gb`` is the main memory: of training processes, copies of their
    state and of the loader's workers (``workers_gb``; 0 elsewhere than on Linux), of
    ``host_limit_gb`` in all. ``disk_gb`` counts index, checkpoints with the one being written,
    weights, log and report; ``disk_free_gb`` is what is left where OUT lies. ``warnings`` says what
    does not fit.
    """

    recipe: dict[str, Any]
    samples: int
    steps: int
    trained_parameters: int
    loss: float
    load_s: float
    step_s: float
    hours: float
    memory_gb: float
    device: str
    processes: int
    first_step_s: float
    step_low_s: float
    step_high_s: float
    hours_low: float
    hours_high: float
    gpu_gb: float | None
    workers_gb: float
    host_gb: float
    host_limit_gb: float | None
    checkpoint_gb: float
    disk_gb: float
    disk_free_gb: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a run would be, the index of some of its videos, and how many there are in all.

    ``processes`` share each batch.
    """

    out: Path
    index: Path
    videos: int
    processes: int = 1


def forecast(
    plan: Pretrain | Detection | Recognition,
    trained: Trainer,
    dataset: Samples[Any, Sample],
    prepare: Callable[[Sequence[Sample], int], Any],
    place: Place,
    *,
    samples: int,
) -> Forecast:
    """Read two batches and do a few steps; ``samples`` is the size of the whole training set.

    With several processes one does its share, without the time that talking to others takes; a
    method that needs more clips than that share refuses it.

    Raises:
        RecipeError: if the processes cannot share a batch equally.
    """
    require_shares(plan.optim, place.processes)
    share = StepBatches(plan.optim.batch, 0, BATCHES_READ, 0, place.processes)
    raw, load_s, workers_bytes = _read(dataset, share, plan)
    scalars, first_s, steps_s = _steps(trained, raw, prepare)
    steps = plan.optim.total_steps(samples)
    hours = Hours(steps, load_s, plan.loader.workers, on_cpu=trained.device.type == "cpu")
    state_bytes = tensor_bytes(trained.state())
    entry = {name: float(value) for name, value in scalars.items()}
    on_gpu = trained.device.type == "cuda"
    peak_bytes = torch.cuda.max_memory_allocated(trained.device) if on_gpu else process_peak_bytes()
    host_bytes = process_peak_bytes() + COPIES * state_bytes + workers_bytes
    free_at = next(path for path in (place.out, *place.out.absolute().parents) if path.exists())
    sizes = {
        "host_gb": place.processes * host_bytes / GB,
        "disk_gb": _disk_bytes(plan, trained, place, state_bytes, entry, steps) / GB,
        "disk_free_gb": shutil.disk_usage(free_at).free / GB,
    }
    granted = granted_bytes()
    limit_gb = None if granted is None else granted / GB
    return Forecast(
        recipe=plan.model_dump(mode="json"),
        samples=samples,
        steps=steps,
        trained_parameters=sum(p.numel() for p in trained.module.parameters() if p.requires_grad),
        loss=entry["loss"],
        load_s=load_s,
        step_s=statistics.median(steps_s),
        hours=hours.at(statistics.median(steps_s)),
        memory_gb=peak_bytes / GB,
        device=str(trained.device),
        processes=place.processes,
        first_step_s=first_s,
        step_low_s=min(steps_s),
        step_high_s=max(steps_s),
        hours_low=hours.at(min(steps_s)),
        hours_high=hours.at_most(max(steps_s)),
        gpu_gb=torch.cuda.max_memory_reserved(trained.device) / GB if on_gpu else None,
        workers_gb=place.processes * workers_bytes / GB,
        host_limit_gb=limit_gb,
        checkpoint_gb=state_bytes / GB,
        warnings=_warnings(place.out, limit_gb, **sizes),
        **sizes,
    )


def tensor_bytes(value: Any) -> int:
    """Return what the tensors in nested containers take."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(tensor_bytes(part) for part in value.values())
    return sum(tensor_bytes(part) for part in value) if isinstance(value, (list, tuple)) else 0


@dataclass(frozen=True)
class Hours:
    """The length of a training in hours from the seconds of a step."""

    steps: int
    load_s: float
    workers: int
    on_cpu: bool

    def at(self, step_s: float) -> float:
        """Reading goes on beside the steps if there are workers."""
        if not self.workers:
            return self.at_most(step_s)
        return self.steps * max(step_s, self.load_s / self.workers) / 3600

    def at_most(self, step_s: float) -> float:
        """On a CPU that has no core to spare the workers' time comes on top."""
        beside = self.load_s / max(1, self.workers)
        if self.workers and not self.on_cpu:
            return self.steps * max(step_s, beside) / 3600
        return self.steps * (step_s + beside) / 3600


def _read(
    dataset: Samples[Any, Sample], share: StepBatches, plan: Pretrain | Detection | Recognition
) -> tuple[list[Sample], float, int]:
    """Return the first batch, the seconds that one process takes for one, and workers' memory."""
    cost, start = Cost(), time.perf_counter()
    loader = Loader(dataset, share, plan.loader, cost)
    with watching_children() as peak:
        batches: Iterator[list[Sample]] = iter(loader)
        raw = next(batches)
        if not plan.loader.workers:
            return raw, time.perf_counter() - start, 0
        peak.look()
        for _ in batches:
            pass
    return raw, len(raw) * cost.read_s / cost.samples, peak.bytes


def _steps(
    trained: Trainer, raw: list[Sample], prepare: Callable[[Sequence[Sample], int], Any]
) -> tuple[dict[str, Any], float, list[float]]:
    """Return the scalars of the first step, its time, and those of some more.

    The batch is the same for all. A training of a single step has no other time than that one's.
    """
    taken: list[float] = []
    first: dict[str, Any] = {}
    most = min(1 + TIMED_STEPS, trained.plan.steps)
    while len(taken) < most and (len(taken) < 2 or sum(taken) < ENOUGH_S):
        start = time.perf_counter()
        scalars = trained.train_step(prepare(raw, len(taken)))
        if trained.device.type == "cuda":
            torch.cuda.synchronize(trained.device)
        taken.append(time.perf_counter() - start)
        first = first or dict(scalars)
    return first, taken[0], taken[1:] or taken


def _disk_bytes(
    plan: Pretrain | Detection | Recognition,
    trained: Trainer,
    place: Place,
    state_bytes: int,
    entry: dict[str, float],
    steps: int,
) -> float:
    some = pq.ParquetFile(place.index).metadata
    rows = sum(some.row_group(n).total_byte_size for n in range(some.num_row_groups))
    index = place.videos * float(rows) / max(1, int(some.num_rows))
    log = (len(json.dumps(entry)) + LOGGED_BESIDES) * math.ceil(steps / plan.log_every)
    encoder = trained.module.encoder
    assert isinstance(encoder, nn.Module)
    weights = tensor_bytes(dict(encoder.state_dict()))
    if not isinstance(plan, Pretrain):  # the detector or classifier is written beside its encoder
        weights += tensor_bytes(dict(trained.module.state_dict()))
    return index + (checkpoint.KEEP + 1) * state_bytes + weights + log + REPORT_BYTES


def _warnings(
    out: Path, limit_gb: float | None, *, host_gb: float, disk_gb: float, disk_free_gb: float
) -> list[str]:
    found = []
    if disk_gb > disk_free_gb:
        found.append(
            f"{out}: the run needs about {disk_gb:.2f} GiB, {disk_free_gb:.2f} GiB are free there"
        )
    if limit_gb is not None and host_gb > limit_gb:
        found.append(
            f"the run needs about {host_gb:.1f} GiB of memory, this machine grants {limit_gb:.1f} "
            "GiB: fewer loader.workers or a smaller optim.batch needs less"
        )
    return found
