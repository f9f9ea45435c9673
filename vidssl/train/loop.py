"""The training loop: the same for a self-supervised method and for a detector.

A step is: wait for the batch, put it on the device, forward, backward, optimizer, ``after_step``,
log. Everything a step draws at random is a function of the run's seed and the step, so a run that
was stopped and continued equals one that never stopped.
"""

import inspect
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.errors import CheckpointError, Interrupted
from vidssl.nn.distributed import on_any, rank, world_size
from vidssl.nn.step import StepOutput
from vidssl.progress import REMARK, Progress
from vidssl.train import checkpoint
from vidssl.train.folder import RunFolder
from vidssl.train.optim import OptimConfig, optimizer, schedule

Raw = TypeVar("Raw")


Precision = Literal["auto", "fp32", "bf16"]

FIRST_ADVICE_S, LAST_ADVICE_S = 30.0, 1800.0  # between two remarks on waiting for data
WORTH_TELLING = 0.1  # of the time


@dataclass(frozen=True)
class Plan:
    """How long to train, and how often to log and to save."""

    optim: OptimConfig
    steps: int
    seed: int
    log_every: int = 10
    save_every: int = 500
    precision: Precision = "auto"
    data: str = ""
    """A hash of what is trained on; a training does not go on with other data."""

    def is_logged(self, step: int) -> bool:
        """Whether the step, counted from 0, is one of those that are logged: with first and last.

        The others are those before every ``log_every``-th.
        """
        return (step + 1) % self.log_every == 0 or step in {0, self.steps - 1}


class Trainer:
    """One training: its module, its optimizer and where it stands."""

    def __init__(self, module: nn.Module, plan: Plan, device: torch.device) -> None:
        """Stand at step 0."""
        self.module = module.to(device)
        if device.type == "cuda" or world_size() == 1:
            # Convolutions run faster with their channels innermost; the values are the same.
            self.module = self.module.to(memory_format=torch.channels_last_3d)
        self.plan = plan
        self.device = device
        self.optimizer = optimizer(module, plan.optim)
        self.lr_at = schedule(plan.optim)
        self.half = runs_in_bf16(plan.precision, device)
        self.step = 0
        self.wrapped = self.module
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            devices = [device.index] if device.type == "cuda" else None
            # Buffers stay each process's own: queues are equal by construction, and sending them
            # with every step would cost more than the gradients.
            self.wrapped = nn.parallel.DistributedDataParallel(
                self.module,
                device_ids=devices,
                find_unused_parameters=_spares_weights(self.module),
                **_keep_buffers(),
            )

    @property
    def samples_seen(self) -> int:
        """Samples that the steps so far have trained on, over all processes; repeats count."""
        return self.step * self.plan.optim.batch

    def train_step(self, batch: Any) -> dict[str, float | Tensor]:
        """Do one step; return loss, learning rate, gradient norm and the method's scalars.

        Raises:
            CheckpointError: if loss or gradient is not finite on any process; no parameter has
                been changed by it then.
        """
        torch.manual_seed(self.plan.seed * 1_000_003 + self.step * 1009 + rank())
        lr = self.lr_at(self.step / self.plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.wrapped.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            output: StepOutput = self.wrapped(batch)
        loss = float(output.loss.detach())
        self._require_finite("loss", loss)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(output.loss)
        norm = float(self._clip())
        self._require_finite("gradient norm", norm)
        self.optimizer.step()
        self.step += 1
        self.module.after_step(self.step / self.plan.steps)  # type: ignore[operator]
        return {"loss": loss, "lr": lr, "grad_norm": norm, **output.scalars}

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""
        return {
            "step": self.step,
            "steps": self.plan.steps,
            "data": self.plan.data,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where :meth:`state` was taken.

        Raises:
            CheckpointError: if that training had another length or other data.
        """
        for name, here in (("steps", self.plan.steps), ("data", self.plan.data)):
            if state[name] != here:
                raise CheckpointError(
                    f"the checkpoint's {name} are {state[name]}, this training's {here}: the "
                    "videos or annotations have changed since; train in another folder"
                )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _require_finite(self, name: str, value: float) -> None:
        if on_any(not math.isfinite(value), self.device):
            found = "not finite on another process" if math.isfinite(value) else value
            raise CheckpointError(
                f"the {name} became {found} at step {self.step}; the last checkpoint is older "
                "(a lower optim.lr, optim.clip_grad_norm or precision: fp32 usually helps)"
            )

    def _clip(self) -> Tensor:
        trained = [p for p in self.module.parameters() if p.grad is not None]
        limit = self.plan.optim.clip_grad_norm or math.inf
        return nn.utils.clip_grad_norm_(trained, limit)


def fit(
    trainer: Trainer,
    batches: Callable[[int, int], Iterable[Raw]],
    prepare: Callable[[Raw, int], Any],
    folder: RunFolder,
    progress: Progress,
    notice: Callable[[Raw], None] = lambda raw: None,
    advise: Callable[[float], str] | None = None,
    examine: Callable[[Trainer], Mapping[str, float]] = lambda trainer: {},
    alarm: Callable[[int, Mapping[str, float]], None] = lambda step, logged: None,
) -> None:
    """Train to the end of the plan, from where the folder's newest checkpoint stands.

    ``batches(first, last)`` gives the raw batches of those steps, ``prepare`` puts one on the
    device, ``notice`` looks at each raw batch first. ``advise`` says what would help where a share
    of the time is spent waiting for data; it is told of now and then. ``examine`` gives further
    scalars of a step, which is logged then, and ``alarm`` sees each logged step, counted from 0;
    both on the first process alone.

    Raises:
        Interrupted: on SIGINT or SIGTERM, after a checkpoint.
    """
    plan, saves = trainer.plan, folder.path / "checkpoints"
    _continue(trainer, folder)
    clock = time.perf_counter()
    waiting = _Waiting()
    with _stop_signals() as stopped:
        iterator = _waiting(batches(trainer.step, plan.steps))
        for raw, wait_s in iterator:
            notice(raw)
            scalars = trainer.train_step(prepare(raw, trainer.step))
            now = time.perf_counter()
            more = examine(trainer) if rank() == 0 else {}
            if more or plan.is_logged(trainer.step - 1):
                logged = _logged(trainer, {**scalars, **more}, step_s=now - clock, wait_s=wait_s)
                folder.log(logged)
                if rank() == 0:
                    alarm(trainer.step - 1, logged)
            if rank() == 0:
                progress(f"training, loss {scalars['loss']:.3f}", trainer.step, plan.steps)
            if advise is not None and (share := waiting.note(now - clock, wait_s)) is not None:
                _advise(folder, progress, share, advise(share))
            clock = time.perf_counter() if more else now  # a look is no part of the next step
            done = trainer.step == plan.steps
            stopping = on_any(bool(stopped), trainer.device)
            if rank() == 0 and (done or stopping or trainer.step % plan.save_every == 0):
                checkpoint.save(saves, trainer.step, trainer.state())
            if stopping and not done:
                raise Interrupted(f"stopped at step {trainer.step} of {plan.steps}")


class _Waiting:
    """How much of the time was spent waiting for data, told at growing intervals."""

    def __init__(self) -> None:
        self.steps, self.all_s, self.wait_s, self.every_s = 0, 0.0, 0.0, FIRST_ADVICE_S

    def note(self, step_s: float, wait_s: float) -> float | None:
        """Add a step; return the share of waiting if it is time to tell and worth it."""
        self.steps += 1
        if self.steps == 1:  # the workers were starting
            return None
        self.all_s += step_s
        self.wait_s += wait_s
        if self.all_s < self.every_s:
            return None
        share = min(1.0, self.wait_s / self.all_s)
        self.all_s = self.wait_s = 0.0
        self.every_s = min(2 * self.every_s, LAST_ADVICE_S)
        return share if share > WORTH_TELLING else None


def _advise(folder: RunFolder, progress: Progress, share: float, advice: str) -> None:
    if rank() == 0:
        folder.event("waiting for data", share=round(share, 3), advice=advice)
        progress(advice, 0, REMARK)


def _continue(trainer: Trainer, folder: RunFolder) -> None:
    state, passed_over = checkpoint.load_latest(folder.path / "checkpoints")
    if state is not None:
        trainer.restore(state)
    if rank() == 0:
        for reason in passed_over:
            folder.event("checkpoint passed over", reason=reason)
        folder.event("start", step=trainer.step)
    folder.rewind(trainer.step)
    folder.keep()


def _logged(
    trainer: Trainer, scalars: Mapping[str, float | Tensor], *, step_s: float, wait_s: float
) -> dict[str, float]:
    return {
        "step": trainer.step - 1,
        **{name: float(value) for name, value in scalars.items()},
        "samples_seen": trainer.samples_seen,
        "clips_per_s": trainer.plan.optim.batch / step_s,
        "data_wait": min(1.0, wait_s / step_s),
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _waiting(batches: Iterable[Raw]) -> Iterator[tuple[Raw, float]]:
    """Give each batch with the seconds spent waiting for it."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        yield batch, time.perf_counter() - start


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Give a list that fills when the process is asked to stop; a second signal stops at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, note) for number in numbers]
    except ValueError:  # not the main thread: whoever owns it decides
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def runs_in_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as asked, or for ``auto`` on a GPU that is made for it.

    Not on a CPU by itself: gradients of narrow 3D convolutions came out infinite there.
    """
    if precision == "auto":
        return device.type == "cuda" and bool(
            torch.cuda.is_bf16_supported(including_emulation=False)
        )
    return precision == "bf16"


def _spares_weights(module: nn.Module) -> bool:
    """Whether some weights get no gradient, for which DDP would wait for ever."""
    parts = (part for part in module.modules() if isinstance(part, Encoder))
    return any(
        part.spares_weights and any(weight.requires_grad for weight in part.parameters())
        for part in parts
    )


def _keep_buffers() -> dict[str, Any]:
    """Return the argument that keeps DDP from sending buffers, by the name that it has."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    if "forward_sync_buffers" in known:
        return {"forward_sync_buffers": False}
    return {"broadcast_buffers": False}


def device_of(choice: str = "auto") -> torch.device:
    """Return the device of this process: its own GPU where there is one, else the CPU."""
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", 0))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
