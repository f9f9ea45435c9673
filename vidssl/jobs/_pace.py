"""Whether training waits for its data, what would help, and how many workers and threads to take.

With w workers that read a sample in r seconds each, data arrive every r / w seconds; a step of b
samples takes s seconds. Training waits where b * r / w > s.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vidssl.data.loader import Cost, Loader, LoaderConfig
from vidssl.data.samples import Samples
from vidssl.jobs._limits import limits, usable_cores
from vidssl.nn.distributed import rank, world_size
from vidssl.progress import REMARK, Progress
from vidssl.recipe import Detection, Pretrain, Recognition
from vidssl.train.folder import RunFolder
from vidssl.train.trainer import Trainer

PROBES = 6  # samples that are read to time one
DECODING = 0.6  # of the reading time on a processor: less is waiting for storage
LEAST_GAIN = 0.95  # a setting that is this good with fewer processes is taken


@dataclass(frozen=True)
class Pace:
    """Workers and threads for one process, and what is expected of them."""

    workers: int
    threads: int
    read_s: float
    step_s: float
    clips_per_s: float

    def sentence(self) -> str:
        """Say it to a person."""
        return (
            f"autotune: {self.workers} workers, {self.threads} threads; expected "
            f"{self.clips_per_s:.1f} clips/s a process (reading takes {1000 * self.read_s:.0f} ms "
            f"a sample, a step {1000 * self.step_s:.0f} ms)"
        )


def cores_of_this_process() -> int:
    """Return the cores that are there for this process and its workers."""
    quota = limits().cores or math.inf
    cores = min(usable_cores(), quota)
    return max(1, int(cores) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def adviser(config: LoaderConfig, cost: Cost, cores: int) -> Callable[[float], str]:
    """Return what says how to wait less, from the share of time that is spent waiting."""

    def advise(share: float) -> str:
        why = "decode-bound" if cost.cpu_s >= DECODING * cost.read_s else "bound by the storage"
        wanted = math.ceil(max(1, config.workers) / max(1 - share, 0.01))
        room = min(wanted, cores - 1) - config.workers
        helps = [f"{room} more worker{'s' * (room > 1)}"] if room > 0 else []
        if why == "decode-bound":
            helps.append("a smaller copy with more key frames (vidssl transcode)")
        else:
            helps.append("a faster or a local disk")
        return f"waiting for data {share:.0%} of the time: {why}; {' or '.join(helps)} would help"

    return advise


def tuned(
    trained: Trainer,
    samples: Samples[Any, Any],
    prepare: Callable[[Sequence[Any], int], Any],
    batch: int,
    cores: int,
) -> Pace:
    """Return the pace that suits this machine, from a few reads and steps of a spare training.

    ``trained`` is used up by it. The order of samples does not depend on the outcome.
    """
    cost = Cost()
    config = LoaderConfig(workers=1)
    raw = [
        one for (one,) in Loader(samples, [[p] for p in range(max(PROBES, batch))], config, cost)
    ]
    read_s = cost.read_s / cost.samples
    gpu = trained.device.type == "cuda"
    step_s = {}
    for threads in [1] if gpu else _doubling(cores):
        torch.set_num_threads(threads)
        step_s[threads] = min(_step_s(trained, raw[:batch], prepare) for _ in range(3))
    return chosen(read_s, step_s, batch, cores, gpu=gpu)


def autotuned(
    plan: Pretrain | Detection | Recognition,
    spare: Trainer,
    samples: Samples[Any, Any],
    prepare: Callable[[Sequence[Any], int], Any],
    folder: RunFolder,
    progress: Progress,
) -> LoaderConfig:
    """Return the recipe's loader with as many workers as suit this machine; set the threads.

    ``spare`` is a training of the same kind that is used up by it.
    """
    share = plan.optim.batch // world_size()
    found = tuned(spare, samples, prepare, share, cores_of_this_process())
    torch.set_num_threads(found.threads)
    if rank() == 0:
        folder.event("autotune", **asdict(found))
        progress(found.sentence(), 0, REMARK)
    return plan.loader.model_copy(update={"workers": found.workers})


def chosen(read_s: float, step_s: dict[int, float], batch: int, cores: int, *, gpu: bool) -> Pace:
    """Return the best of all settings that fit into ``cores``, and of equals the smallest.

    ``step_s`` is the time of a step by threads. Next to a GPU the training itself needs a core.
    """
    settings = [
        Pace(workers, threads, read_s, taken_s, min(workers / read_s, batch / taken_s))
        for threads, taken_s in step_s.items()
        for workers in range(1, max(1, cores - (1 if gpu else threads)) + 1)
    ]
    best = max(setting.clips_per_s for setting in settings)
    good = [setting for setting in settings if setting.clips_per_s >= LEAST_GAIN * best]
    return min(good, key=lambda setting: (setting.workers + setting.threads, setting.threads))


def _step_s(
    trained: Trainer, raw: Sequence[Any], prepare: Callable[[Sequence[Any], int], Any]
) -> float:
    start = time.perf_counter()
    trained.train_step(prepare(raw, 0))
    if trained.device.type == "cuda":
        torch.cuda.synchronize(trained.device)
    return time.perf_counter() - start


def _doubling(most: int) -> list[int]:
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})
