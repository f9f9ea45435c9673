"""The training loop: the same for a self-supervised method and for a detector.

Wait for the batch, put it on the device, do the step, log it, save it now and then; stop with a
checkpoint when asked to, and go back a little when numbers are no numbers any more. Whatever one
process must do, all do in the same step.
"""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from vidssl.errors import CheckpointError, Interrupted, OutputError, RecipeError
from vidssl.nn.distributed import gather, on_any, rank
from vidssl.progress import REMARK, Progress
from vidssl.train import checkpoint
from vidssl.train.folder import RunFolder
from vidssl.train.rollback import Rollback
from vidssl.train.trainer import FAILED, GO_ON, STOP, NotFiniteError, Trainer
from vidssl.train.watch import Watch, watching

Raw = TypeVar("Raw")

FIRST_ADVICE_S, LAST_ADVICE_S = 30.0, 1800.0  # between two remarks on waiting for data
WORTH_TELLING = 0.1  # of the time


@dataclass(frozen=True)
class Hooks(Generic[Raw]):
    """What goes on beside a training's steps; all optional."""

    notice: Callable[[Raw], None] = lambda raw: None
    """Looks at each raw batch first."""
    identify: Callable[[Raw], list[dict[str, Any]]] = lambda raw: []
    """Names the clips of a raw batch, for the account of steps that were undone."""
    advise: Callable[[float], str] | None = None
    """Says what would help where a share of the time is spent waiting for data."""
    examine: Callable[[Trainer], Mapping[str, float]] = lambda trainer: {}
    """Gives further scalars of a step, which is logged then; on the first process alone."""
    alarm: Callable[[int, Mapping[str, float]], None] = lambda step, logged: None
    """Sees each logged step, counted from 0; on the first process alone."""


def fit(
    trainer: Trainer,
    batches: Callable[[int, int], Iterable[Raw]],
    prepare: Callable[[Raw, int], Any],
    folder: RunFolder,
    progress: Progress,
    hooks: Hooks[Raw] | None = None,
) -> None:
    """Train to the end of the plan, from where the folder's newest checkpoint stands.

    ``batches(first, last)`` gives the raw batches of those steps, ``prepare`` puts one on the
    device.

    Raises:
        Interrupted: on SIGINT, SIGTERM or SIGUSR1, after a checkpoint.
        OutputError: if a checkpoint cannot be written; earlier ones stay as they were.
        RankLostError: if another process is gone.
        CheckpointError: if loss, gradients or weights are not finite again and again.
        RecipeError: if memory does not suffice.
    """
    hooks = hooks or Hooks()
    _continue(trainer, folder)
    saves = folder.path / "checkpoints"
    with (
        _stop_signals() as stopped,
        watching(lambda words: folder.event("rank lost", words=words), lambda: stopped) as watch,
        checkpoint.Saver(saves) as saver,
    ):
        log = _Log(trainer, folder, progress, hooks, watch)
        try:
            _steps(trainer, batches, prepare, log, saver, stopped)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if (words := _memory_words(error, trainer)) is None:
                raise
            raise RecipeError(words) from error
    if trainer.step < trainer.plan.steps or trainer.wished == STOP:
        raise Interrupted(f"stopped at step {trainer.step} of {trainer.plan.steps}")


def _steps(
    trainer: Trainer,
    batches: Callable[[int, int], Iterable[Raw]],
    prepare: Callable[[Raw, int], Any],
    log: "_Log",
    saver: checkpoint.Saver,
    stopped: list[int],
) -> None:
    """Do steps until the end, or until a process was asked to stop, and save the last."""
    plan, hooks, watch = trainer.plan, log.hooks, log.watch
    rollback = Rollback(trainer, log.folder, hooks.identify)

    def wish() -> int:
        return FAILED if saver.failed else STOP if stopped else GO_ON

    first = trainer.step
    for raw, wait_s in _waiting(batches(first, plan.steps)):
        hooks.notice(raw)
        rollback.note(raw)
        try:
            scalars = trainer.train_step(prepare(raw, trainer.step), wish)
            saves = trainer.step % plan.save_every == 0
            if saves or rollback.is_due or trainer.wished == STOP:
                rollback.keep()
        except NotFiniteError as fault:
            rollback.go_back(fault)
            log.remark(f"{fault}: back to before step {trainer.skipped[-1][0]}, which is left out")
            log.clock = time.perf_counter()  # what was undone is no part of the next step
            continue
        watch.beat(trainer.step)
        log.step(scalars, wait_s)
        if trainer.wished != GO_ON:
            break
        if saves and trainer.step < plan.steps and rank() == 0:
            saver.save(trainer.step, rollback.state)
    with watch.paused("writing a checkpoint"):
        if trainer.wished != FAILED and trainer.step > first and rank() == 0:
            saver.save(trainer.step, rollback.state)
        fails = saver.fails()
    if on_any(fails, trainer.device):
        saver.close()  # the first process tells what its disk said
        raise OutputError(f"{log.folder.path}: the first process cannot write its checkpoint")


class _Log:
    """What is told of each step: to the run's log, to a person, and to those who look on."""

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        progress: Progress,
        hooks: Hooks[Any],
        watch: Watch,
    ) -> None:
        self.trainer, self.folder, self.progress, self.hooks = trainer, folder, progress, hooks
        self.watch = watch
        self.clock = time.perf_counter()
        self.waiting = _Waiting()

    def step(self, scalars: Mapping[str, float | Tensor], wait_s: float) -> None:
        """Tell of the step that was just done."""
        trainer, now = self.trainer, time.perf_counter()
        step_s = now - self.clock
        with self.watch.paused("looking at the encoder"):
            more = self.hooks.examine(trainer) if rank() == 0 else {}
        if more or trainer.plan.is_logged(trainer.step - 1):
            logged = _logged(trainer, {**scalars, **more}, step_s=step_s, wait_s=wait_s)
            self.folder.log(logged)
            if rank() == 0:
                self.hooks.alarm(trainer.step - 1, logged)
        share = self.waiting.note(step_s, wait_s)
        if rank() == 0:
            self.progress(self._words(scalars, step_s), trainer.step, trainer.plan.steps)
            if self.hooks.advise is not None and share is not None:
                advice = self.hooks.advise(share)
                self.folder.event("waiting for data", share=round(share, 3), advice=advice)
                self.remark(advice)
        self.clock = time.perf_counter() if more else now  # a look is no part of the next step

    def remark(self, words: str) -> None:
        """Tell a person something."""
        if rank() == 0:
            self.progress(words, 0, REMARK)

    def _words(self, scalars: Mapping[str, float | Tensor], step_s: float) -> str:
        clips_per_s = self.trainer.plan.optim.batch / step_s
        return (
            f"training, loss {scalars['loss']:.3f}, lr {scalars['lr']:.2g}, "
            f"{clips_per_s:.3g} clips/s, {self.waiting.recent:.0%} waiting for data"
        )


class _Waiting:
    """How much of the time was spent waiting for data, told at growing intervals."""

    def __init__(self) -> None:
        self.steps, self.all_s, self.wait_s, self.every_s = 0, 0.0, 0.0, FIRST_ADVICE_S
        self.recent = 0.0
        """The share in the last steps, the newest weighing a tenth."""

    def note(self, step_s: float, wait_s: float) -> float | None:
        """Add a step; return the share of waiting if it is time to tell and worth it."""
        self.steps += 1
        share = min(1.0, wait_s / step_s)
        self.recent += (share - self.recent) * (1 if self.steps <= 2 else 0.1)
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


def _continue(trainer: Trainer, folder: RunFolder) -> None:
    state, passed_over = checkpoint.load_latest(folder.path / "checkpoints")
    step = 0 if state is None else state["step"]
    steps = gather(torch.tensor([step], device=trainer.device)).tolist()
    if len(set(steps)) > 1:
        seen = ", ".join(f"rank {number} step {found}" for number, found in enumerate(steps))
        raise CheckpointError(
            f"{folder.path}: the processes do not see the same checkpoints ({seen}); expected a "
            "folder that all machines share"
        )
    if state is not None:
        trainer.restore(state)
    if rank() == 0:
        for reason in passed_over:
            folder.event("checkpoint passed over", reason=reason)
        folder.event("start", step=trainer.step, steps=trainer.plan.steps)
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
        "memory_gb": _peak_gb(),
    }


def _peak_gb() -> float:
    """Return the most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


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
    """Give a list that fills when the process is asked to stop.

    A second Ctrl-C stops at once, which a launcher passes on as SIGTERM; a batch system's second
    signal does not, which may follow its first while the checkpoint is written.
    """
    caught: list[int] = []
    is_launched = "TORCHELASTIC_RUN_ID" in os.environ

    def note(number: int, frame: FrameType | None) -> None:
        passed_on = is_launched and caught[:1] == [signal.SIGINT] and number == signal.SIGTERM
        if (caught and number == signal.SIGINT) or passed_on:
            raise KeyboardInterrupt
        caught.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
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


def _memory_words(error: BaseException, trainer: Trainer) -> str | None:
    """Return what to tell of a lack of memory; None if the error is another."""
    on_gpu = isinstance(error, torch.OutOfMemoryError)
    if not on_gpu and not isinstance(error, MemoryError) and "can't allocate" not in str(error):
        return None
    if on_gpu:
        peak_gb = torch.cuda.max_memory_allocated(trainer.device) / 2**30
        all_gb = torch.cuda.get_device_properties(trainer.device).total_memory / 2**30
        found = f"{peak_gb:.1f} of the GPU's {all_gb:.1f} GiB were in use at the peak"
    else:
        found = f"this process had {_peak_gb():.1f} GiB at its peak"
    optim = trainer.plan.optim
    return (
        f"out of memory in step {trainer.step}: {found}, with optim.batch {optim.batch} in "
        f"{optim.accumulate} parts a process; raise optim.accumulate (same result, less memory), "
        "set backbone.activation_checkpointing: true, or lower optim.batch or the clips' size"
    )
