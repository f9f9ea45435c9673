"""What a training will need, from a little of it."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from vidssl.data.loader import LoaderConfig
from vidssl.data.samples import Samples
from vidssl.jobs._training import Failing, batches
from vidssl.recipe import Detection, Pretrain
from vidssl.train.loop import Trainer

Sample = TypeVar("Sample", bound=Failing)


@dataclass(frozen=True)
class Forecast:
    """What a run of this recipe on this machine will need, from one step of it.

    ``load_s`` is the time to decode one batch in one process, ``step_s`` that of the step itself,
    which is slower than later ones; ``hours`` takes the slower of the two, with decoding shared by
    the loader's workers.
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


def forecast(
    plan: Pretrain | Detection,
    trained: Trainer,
    dataset: Samples[Any, Sample],
    prepare: Callable[[Sequence[Sample], int], Any],
    *,
    samples: int,
) -> Forecast:
    """Decode one batch and do one step; ``samples`` is the size of the whole training set."""
    start = time.perf_counter()
    raw = next(iter(batches(dataset, plan.optim.batch, LoaderConfig(workers=0))(0, 1)))
    loaded = time.perf_counter()
    scalars = trained.train_step(prepare(raw, 0))
    step_s, load_s = time.perf_counter() - loaded, loaded - start
    steps = plan.optim.total_steps(samples)
    return Forecast(
        recipe=plan.model_dump(mode="json"),
        samples=samples,
        steps=steps,
        trained_parameters=sum(p.numel() for p in trained.module.parameters() if p.requires_grad),
        loss=float(scalars["loss"]),
        load_s=load_s,
        step_s=step_s,
        hours=steps * max(step_s, load_s / max(1, plan.loader.workers)) / 3600,
        memory_gb=_peak_gb(trained.device),
        device=str(trained.device),
    )


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
