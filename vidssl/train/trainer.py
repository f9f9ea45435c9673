"""One training: its module, its optimizer, where it stands, and one step of it.

A step is: forward, backward, agreement of all processes, optimizer, ``after_step``. Everything that
a step draws at random is a function of the run's seed and the step, so there are no random states
to keep, and a run that was stopped and continued equals one that never stopped.
"""

import copy
import inspect
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.errors import CheckpointError
from vidssl.nn.distributed import gather, on_any, rank
from vidssl.nn.layout import laid_out
from vidssl.nn.momentum import follow, frozen_copy
from vidssl.nn.step import StepOutput
from vidssl.train.optim import OptimConfig, optimizer, schedule, set_rate
from vidssl.train.weights import load_into

Precision = Literal["auto", "fp32", "bf16", "fp16"]

FORMAT = 1
"""Of the state; one without a version is of this format too."""
GO_ON, STOP, FAILED = 0, 1, 2
"""What a process wishes for all; the greatest is what all do."""


class NotFiniteError(CheckpointError):
    """A loss, gradient or weight that is no number, found by all processes in the same step."""


@dataclass(frozen=True)
class Plan:
    """How long to train, and how often to log, to save and to be ready for going back."""

    optim: OptimConfig
    steps: int
    seed: int
    log_every: int = 10
    save_every: int = 500
    precision: Precision = "auto"
    data: str = ""
    """A hash of what is trained on; a training does not go on with other data."""
    compile: bool = False
    """Whether backbones are compiled."""
    snapshot_every: int = 100
    """Steps from one copy of the state in memory to the next."""
    rollbacks: int = 3
    """How often a training may go back to that copy without ``save_every`` good steps between."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """What a checkpoint says of itself: recipe, code, decoder."""

    def is_logged(self, step: int) -> bool:
        """Whether the step, counted from 0, is one of those that are logged: with first and last.

        The others are those before every ``log_every``-th.
        """
        return (step + 1) % self.log_every == 0 or step in {0, self.steps - 1}


class Trainer:
    """One training: its module, its optimizer and where it stands."""

    def __init__(self, module: nn.Module, plan: Plan, device: torch.device) -> None:
        """Stand at step 0."""
        self.module = laid_out(module, device)
        self.plan = plan
        self.device = device
        self.optimizer = optimizer(module, plan.optim)
        self.lr_at = schedule(plan.optim)
        self.half = half_type(plan.precision, device)
        self.scaler = self._fresh_scaler()
        self.step = 0
        self.skipped: list[tuple[int, int]] = []
        """First and last step of each stretch that was undone, as :meth:`skip` was told."""
        self.wished = GO_ON
        """The greatest wish of any process in the last step."""
        for encoder in _encoders(self.module):
            encoder.parts = plan.optim.accumulate
        self.average = None if plan.optim.ema is None else frozen_copy(self.module)
        if plan.compile:
            for encoder in _encoders(self.module):
                encoder.maps = torch.compile(encoder.maps)  # type: ignore[method-assign]
        self.wrapped = self.module
        if dist.is_available() and dist.is_initialized():
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
        undone = sum(last - first + 1 for first, last in self.skipped)
        return (self.step - undone) * self.plan.optim.batch

    @property
    def trained(self) -> nn.Module:
        """The module whose weights are the training's result: averaged, if the plan says so."""
        return self.module if self.average is None else self.average

    def autocast(self) -> torch.autocast:
        """Return the context in which the module computes."""
        dtype = self.half or torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.half is not None)

    def train_step(
        self, batch: Any, wish: Callable[[], int] = lambda: GO_ON
    ) -> dict[str, float | Tensor]:
        """Do one step; return loss, learning rate, gradient norm and the method's scalars.

        The loss is the mean of all processes', the method's scalars are this process's own.
        ``wish`` says what this process wants; all then know the greatest wish in ``wished``.

        Raises:
            NotFiniteError: if loss or gradient is not finite on any process. The optimizer has
                changed no parameter by it then; what changes in the forward pass, such as running
                statistics and a momentum encoder, has, and :meth:`restore` undoes that.
        """
        torch.manual_seed(self.plan.seed * 1_000_003 + self.step * 1009 + rank())
        lr = self.lr_at(self.step / self.plan.steps)
        set_rate(self.optimizer, lr)
        self.wrapped.train()
        with self.autocast():
            output: StepOutput = self.wrapped(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(output.loss))
        self.scaler.unscale_(self.optimizer)
        loss, norm = self._agree(output.loss.detach(), self._clip(), wish())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        progress = self.step / self.plan.steps
        self.module.after_step(progress)  # type: ignore[operator]
        if self.average is not None:
            assert self.plan.optim.ema is not None
            follow(self.average, self.module, self.plan.optim.ema, buffers=True)
        scalars = {"loss": loss, "lr": lr, "grad_norm": norm, **output.scalars}
        if self.scaler.is_enabled():
            scalars["loss_scale"] = self.scaler.get_scale()
        return scalars

    def skip(self, first: int, last: int) -> None:
        """Stand after ``last``; steps from ``first`` on were undone and are not done again."""
        self.skipped.append((first, last))
        self.step = last + 1

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""
        state = {
            "version": FORMAT,
            "step": self.step,
            "steps": self.plan.steps,
            "data": self.plan.data,
            "skipped": [list(stretch) for stretch in self.skipped],
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "card": dict(self.plan.card),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where :meth:`state` was taken.

        Raises:
            CheckpointError: if that training had another length, other data or another network.
        """
        version = state.get("version", FORMAT)
        if version != FORMAT:
            raise CheckpointError(
                f"the checkpoint has format {version}, this vidssl writes {FORMAT}; go on with the "
                "version that wrote it"
            )
        for name, here in (("steps", self.plan.steps), ("data", self.plan.data)):
            if state[name] != here:
                raise CheckpointError(
                    f"the checkpoint's {name} are {state[name]}, this training's {here}: the "
                    "videos or annotations have changed since; train in another folder"
                )
        load_into(self.module, state["module"], "the checkpoint")
        # PyTorch takes over the tensors themselves, which the next step would change.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.average is not None:
            load_into(self.average, state["average"], "the checkpoint's averaged weights")
        # A new one: the old may be in the middle of a step, of which its state does not tell.
        self.scaler = self._fresh_scaler()
        if "scaler" in state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.skipped = [(first, last) for first, last in state.get("skipped", [])]
        self.step = state["step"]

    def _fresh_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.half == torch.float16)

    def require_finite_weights(self) -> None:
        """Refuse weights or buffers that are not finite, on whichever process they are.

        Raises:
            NotFiniteError: on all processes, with the first name where this one knows it.
        """
        values = {n: v for n, v in self.module.state_dict().items() if v.is_floating_point()}
        sums = torch.stack([v.detach().sum(dtype=torch.float32) for v in values.values()])
        # A sum overflows before its terms are wrong, so a bad sum is looked at again.
        good = sums.isfinite().tolist()
        suspects = (n for n, is_good in zip(values, good, strict=True) if not is_good)
        bad = next((n for n in suspects if not values[n].isfinite().all()), "")
        if on_any(bool(bad), self.device):
            where = bad or "a weight of another process"
            raise NotFiniteError(f"{where} is not finite after step {self.step - 1}{HELP}")

    def _agree(self, loss: Tensor, norm: Tensor, wish: int) -> tuple[float, float]:
        """Return mean loss and gradient norm once all processes know that both are finite."""
        values = torch.stack([loss.float(), norm.float()]).tolist()  # the one wait for a GPU
        everyone = _everyone([*values, float(wish)], self.device)
        losses, norms, wishes = zip(*everyone, strict=True)
        bad_anywhere = [not all(map(math.isfinite, found)) for found in (losses, norms)]
        self.wished = int(max(wishes))
        # In half precision a gradient may overflow: the step is left out, and the scale lowered.
        overflows = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        names = ("loss",) if overflows else ("loss", "gradient norm")
        for name, value, is_bad in zip(names, values, bad_anywhere, strict=False):
            if is_bad:
                shown = "not finite on another process" if math.isfinite(value) else value
                raise NotFiniteError(f"the {name} became {shown} at step {self.step}{HELP}")
        return statistics.fmean(losses), values[1]

    def _clip(self) -> Tensor:
        trained = [p for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if (limit := self.plan.optim.clip_grad_norm) is not None:
            nn.utils.clip_grads_with_norm_(trained, limit, norm)
        return norm


HELP = " (a lower optim.lr, optim.clip_grad_norm or precision: fp32 usually helps)"


def half_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the type of 16 bits to compute in, or None for single precision.

    ``auto`` is bfloat16 on a GPU that is made for it. Not on a CPU by itself: gradients of narrow
    3D convolutions came out infinite there.
    """
    if precision == "auto":
        made_for_it = device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return torch.bfloat16 if made_for_it else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def device_of(choice: str = "auto") -> torch.device:
    """Return the device of this process: its own GPU where there is one, else the CPU."""
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", 0))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _everyone(values: list[float], device: torch.device) -> list[list[float]]:
    """Return the values of each process."""
    found: list[list[float]] = gather(torch.tensor([values], device=device)).tolist()
    return found


def _encoders(module: nn.Module) -> Iterator[Encoder]:
    return (part for part in module.modules() if isinstance(part, Encoder))


def _spares_weights(module: nn.Module) -> bool:
    """Whether some weights get no gradient, for which DDP would wait for ever."""
    return any(
        part.spares_weights and any(weight.requires_grad for weight in part.parameters())
        for part in _encoders(module)
    )


def _keep_buffers() -> dict[str, Any]:
    """Return the argument that keeps DDP from sending buffers, by the name that it has."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    if "forward_sync_buffers" in known:
        return {"forward_sync_buffers": False}
    return {"broadcast_buffers": False}
