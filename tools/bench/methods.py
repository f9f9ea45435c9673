"""What each self-supervised method costs beside its backbone: time of a step, and memory.

    python tools/bench/methods.py [--only NAME ...] [--clips 4] [--crop 112] [--rounds 5]

Each method's full-scale recipe makes the method; only the clips are fewer and smaller. Its backbone
alone: all calls of networks that a step makes, on clips of the same shapes, with gradient where the
method had one, and the optimizer's update of the backbone's weights. Its own: a step in which these
calls give maps that were made before, so heads, losses, queue, moving averages and the update of
what is not the backbone. (The difference of a whole step and its backbone is lost in the noise of
either.) Pasting or mixing pixels is augmentation and counted apart. Times are of the processor, of
all threads together.

Memory: weights of networks that are not trained, queues and their like, and what a step gathers
from all processes where these have 512 clips together, beside the backbone's own.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.methods import Batch, SSLMethod
from vidssl.nn import distributed
from vidssl.nn.layout import laid_out
from vidssl.recipe import Pretrain, bundled, load
from vidssl.train.optim import optimizer

WHOLE = 512
"""Clips of all processes in the statement of memory."""
RECIPES = (
    "moco_slow_r50_k400",
    "mocov3_slow_r50_k400",
    "simclr_slow_r50_k400",
    "cvrl_r3d_r50_k400",
    "byol_slow_r50_k400",
    "swav_slow_r50_k400",
    "const_cl_r3d_r50_k400",
    "teg_r3d_r50_k400",
    "ctp_r3d18_k400",
)
Out = Tensor | tuple[Tensor, ...]


class Call(NamedTuple):
    """One pass through an encoder: which, of what clips, with gradient or not, and what it gave."""

    encoder: Encoder
    how: str
    shape: tuple[int, ...]
    grad: bool
    out: Out


def main() -> None:
    """Measure and print a line a method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=RECIPES)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = {}
    for name in asked.only:
        found[name] = measured(name, asked)
        one = found[name]
        say(
            f"{name}: own share of a step {one['own_share']:.2%} ({one['own_s']:.2f} s, backbone "
            f"{one['backbone_s']:.2f} s, pixels {one['pixels_s']:.2f} s); copies "
            f"{one['copies_mb']:.0f} MB, queue and the like {one['buffers_mb']:.1f} MB, gathered "
            f"{one['gathered_mb_per_512']:.2f} MB"
        )
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(name: str, asked: argparse.Namespace) -> dict[str, float]:
    """Return times and memory of one recipe's method."""
    plan = load(Pretrain, bundled(Pretrain)[name])
    torch.manual_seed(0)
    method = laid_out(plan.method.build(plan.backbone.build()), torch.device("cpu")).train()
    frames = plan.backbone.frames
    views = tuple(
        torch.randn(asked.clips, 3, frames, asked.crop, asked.crop).contiguous(
            memory_format=torch.channels_last_3d
        )
        for _ in range(method.num_views)
    )
    strides = plan.sampling.strides or (plan.backbone.stride,) * len(views)
    times = tuple(
        (torch.arange(frames, dtype=torch.float64) * stride / 30).expand(asked.clips, -1)
        for stride in strides
    )
    batch = Batch(views, seeds=tuple(range(asked.clips)), times_s=times, watched=False)
    update = optimizer(method, plan.optim)
    update_backbone = optimizer(method.encoder, plan.optim)

    def step(prepared: Batch) -> None:
        update.zero_grad(set_to_none=True)
        method(prepared).loss.backward()
        update.step()
        method.after_step(0.5)

    with Recorded(method) as calls, Gathered() as gathered:
        step(plan.method.prepare(batch))

    def backbone() -> None:
        update_backbone.zero_grad(set_to_none=True)
        for call in calls:
            clips = torch.randn(call.shape).contiguous(memory_format=torch.channels_last_3d)
            with torch.set_grad_enabled(call.grad):
                out = getattr(call.encoder, call.how)(clips)
                if call.grad:
                    total(out).backward()
        update_backbone.step()

    times_s: dict[str, list[float]] = {"own_s": [], "backbone_s": [], "pixels_s": []}
    for _ in range(asked.rounds):
        prepared = timed(times_s["pixels_s"], lambda: plan.method.prepare(batch))
        with Replayed(calls):
            timed(times_s["own_s"], lambda prepared=prepared: step(prepared))
        timed(times_s["backbone_s"], backbone)
    medians = {key: statistics.median(values) for key, values in times_s.items()}
    still = [p for p in method.parameters() if not p.requires_grad]
    inside = {
        id(b) for part in method.modules() if isinstance(part, Encoder) for b in part.buffers()
    }
    kept = [b for b in method.buffers() if id(b) not in inside]
    return {
        **medians,
        "own_share": medians["own_s"] / (medians["own_s"] + medians["backbone_s"]),
        "copies_mb": sum(p.numel() * p.element_size() for p in still) / 2**20,
        "buffers_mb": sum(b.numel() * b.element_size() for b in kept) / 2**20,
        "gathered_mb_per_512": gathered.bytes / asked.clips * WHOLE / 2**20,
    }


class Recorded:
    """The calls of every encoder within a method, while the block runs."""

    def __init__(self, method: SSLMethod) -> None:
        self.encoders = [part for part in method.modules() if isinstance(part, Encoder)]
        self.calls: list[Call] = []
        self.depth = 0

    def __enter__(self) -> list[Call]:
        """Return the list that fills."""
        for encoder in self.encoders:
            for how in ("forward", "maps", "branches"):
                if hasattr(encoder, how):
                    setattr(encoder, how, self._recording(encoder, how))
        return self.calls

    def __exit__(self, *_: object) -> None:
        """Record no more."""
        for encoder in self.encoders:
            for how in ("forward", "maps", "branches"):
                encoder.__dict__.pop(how, None)

    def _recording(self, encoder: Encoder, how: str) -> Callable[[Tensor], object]:
        real = getattr(encoder, how)

        def call(clips: Tensor) -> object:
            self.depth += 1
            try:
                out = real(clips)
            finally:
                self.depth -= 1
            if self.depth == 0:
                grad = torch.is_grad_enabled()
                self.calls.append(Call(encoder, how, tuple(clips.shape), grad, detached(out)))
            return out

        return call


class Replayed:
    """The encoders give what they gave before, in the same order, while the block runs."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls, self.next = calls, 0

    def __enter__(self) -> None:
        """Put the answers in place."""
        for call in self.calls:
            setattr(call.encoder, call.how, self._answer)

    def __exit__(self, *_: object) -> None:
        """Let the encoders work again."""
        for call in self.calls:
            call.encoder.__dict__.pop(call.how, None)

    def _answer(self, clips: Tensor) -> Out:
        call = self.calls[self.next]
        self.next += 1
        assert tuple(clips.shape) == call.shape
        return detached(call.out, grad=call.grad)


def detached(out: Out, grad: bool = False) -> Out:
    """Return tensors as leaves of a graph of their own."""
    if isinstance(out, tuple):
        return tuple(part.detach().requires_grad_(grad) for part in out)
    return out.detach().requires_grad_(grad)


class Gathered:
    """The bytes that a step sends to all processes, counted in one."""

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> "Gathered":
        """Return itself, with ``bytes`` that grow."""
        self.before = {name: getattr(distributed, name) for name in ("gather", "gather_with_grad")}
        self.homes = [m for n, m in sys.modules.items() if n.startswith("vidssl.")]
        for name, real in self.before.items():
            for home in self.homes:
                if getattr(home, name, None) is real:
                    setattr(home, name, self._counting(real))
        return self

    def __exit__(self, *_: object) -> None:
        """Count no more."""
        for name, real in self.before.items():
            for home in self.homes:
                if getattr(getattr(home, name, None), "counted", None) is real:
                    setattr(home, name, real)

    def _counting(self, real: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(rows: Tensor) -> Tensor:
            self.bytes += rows.numel() * rows.element_size()
            return real(rows)

        call.counted = real  # type: ignore[attr-defined]
        return call


def timed(seconds: list[float], work: Callable[[], object]) -> object:
    """Do the work, and note the processor time that it took, which other programs do not change."""
    begun = time.process_time()
    done = work()
    seconds.append(time.process_time() - begun)
    return done


def total(out: Out) -> Tensor:
    """Return a scalar that depends on all of an encoder's output."""
    parts = out if isinstance(out, tuple) else (out,)
    return torch.stack([part.mean() for part in parts]).sum()


def say(line: str) -> None:
    """Print at once, as rounds take long."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
