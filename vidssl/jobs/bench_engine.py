"""``vidssl bench step --engine``: what the training loop adds to a step, and a checkpoint's cost.

One side is a whole training as ``vidssl pretrain`` runs it but for reading videos: logging, health,
the copy in memory to go back to, the agreement of processes, the last checkpoint. The other is the
bare loop over the same network: forward, backward, optimizer, ``after_step``. Both train MoCo on
the same random clips and take turns.

Timed are the steps from one batch to the next. A copy and a checkpoint are timed apart and added as
a training pays them: a copy every hundred steps, and a checkpoint every five hundred, as if its
writing took the training's own time.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vidssl.jobs.bench import Measurement, in_turn
from vidssl.jobs.bench_step import name_of, now, require_setting
from vidssl.jobs.models import SETTINGS
from vidssl.methods import Batch, moco
from vidssl.nn.layout import laid_out
from vidssl.progress import Progress, silent
from vidssl.train import checkpoint
from vidssl.train.folder import RunFolder
from vidssl.train.loop import Hooks, fit
from vidssl.train.optim import OptimConfig, optimizer
from vidssl.train.rollback import on_cpu
from vidssl.train.trainer import Plan, Trainer, device_of, half_type

QUEUE = 65_536


@dataclass(frozen=True)
class EngineResult:
    """What was measured, and on what.

    A checkpoint of ``checkpoint_bytes`` holds the loop up for ``blocked_s``, the copy that is
    written, and is on the disk ``written_s`` later. ``added_share`` is all that the engine adds,
    copies and checkpoints included, as a share of a bare step.
    """

    model: str
    device: str
    threads: int
    clips: int
    crop_px: int
    steps: int
    rounds: int
    checkpoint_bytes: int
    blocked_s: float
    written_s: float
    added_share: float
    measurements: list[Measurement]


def run(
    model: str = "slowfast_r50_8x8",
    *,
    clips: int = 2,
    crop_px: int = 224,
    rounds: int = 3,
    steps: int = 20,
    progress: Progress = silent,
) -> EngineResult:
    """Time rounds of ``steps`` steps of ``clips`` clips, two views each, and one checkpoint.

    Raises:
        RecipeError: if pytorchvideo has no such model, or the crop does not divide into its cells.
    """
    require_setting(model, crop_px)
    bench = _Bench(model, clips, crop_px, steps)
    sides: dict[str, Callable[[], float]] = {"engine": bench.engine, "bare loop": bench.bare}
    times_s = in_turn(sides, rounds + 1, progress, clocked=True)
    times_s = {name: taken[1:] for name, taken in times_s.items()}
    ours, bare = (steps / statistics.median(times_s[name]) for name in sides)
    measurement = Measurement(
        "the engine against the bare loop",
        ours=ours,
        other=bare,
        ratio=ours / bare,
        limit=bare,
        share_of_limit=ours / bare,
        unit="steps/s",
        times_s=times_s,
    )
    size, blocked_s, written_s = bench.checkpoint()
    saving_s = blocked_s / bench.plan.snapshot_every + written_s / bench.plan.save_every
    added_share = bare / ours - 1 + saving_s * bare
    return EngineResult(
        *(model, name_of(bench.device), torch.get_num_threads(), clips, crop_px, steps, rounds),
        *(size, blocked_s, written_s, added_share, [measurement]),
    )


class _Bench:
    """One network and its clips, trained in two ways."""

    def __init__(self, model: str, clips: int, crop_px: int, steps: int) -> None:
        self.device = device_of()
        config = SETTINGS[model].config
        torch.manual_seed(0)
        self.method = moco.Config(queue=QUEUE, shuffle=False).build(config.build())
        self.config = OptimConfig(lr=1e-4, batch=clips, steps=steps)
        self.plan = Plan(self.config, steps, seed=0)
        laid_out(self.method, self.device)
        shape = (clips, 3, config.frames, crop_px, crop_px)
        self.views = tuple(torch.randn(shape, device=self.device) for _ in range(2))
        self.optimizer = optimizer(self.method, self.config)
        self.half = half_type(self.plan.precision, self.device) is not None

    def batch(self, step: int, *, watched: bool) -> Batch:
        return Batch(self.views, step, seeds=tuple(range(len(self.views[0]))), watched=watched)

    def engine(self) -> float:
        """Return the seconds of a round's steps through the training loop."""
        begun: list[float] = []
        trainer = Trainer(self.method, self.plan, self.device)

        def prepare(raw: int, step: int) -> Batch:
            return self.batch(step, watched=self.plan.is_logged(step))

        with (
            tempfile.TemporaryDirectory() as scratch,
            RunFolder(Path(scratch) / "run", {}, "") as folder,
        ):
            hooks: Hooks[int] = Hooks(notice=lambda raw: begun.append(now(self.device)))
            fit(trainer, lambda first, last: range(first, last), prepare, folder, silent, hooks)
        return (begun[-1] - begun[0]) * self.plan.steps / (len(begun) - 1)

    def bare(self) -> float:
        """Return the seconds of a round of the bare loop."""
        self.method.train()
        start = now(self.device)
        for step in range(self.plan.steps):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                output = self.method(self.batch(step, watched=False))
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(output.loss)
            self.optimizer.step()
            self.method.after_step((step + 1) / self.plan.steps)
        return now(self.device) - start

    def checkpoint(self) -> tuple[int, float, float]:
        """Return the bytes of a checkpoint, and how long it holds the loop up and is written."""
        trainer = Trainer(self.method, self.plan, self.device)
        trainer.train_step(self.batch(0, watched=False))
        with tempfile.TemporaryDirectory() as scratch, checkpoint.Saver(Path(scratch)) as saver:
            start = now(self.device)
            trainer.require_finite_weights()
            saver.save(1, on_cpu(trainer.state()))
            blocked_s = now(self.device) - start
            saver.close()
            written_s = time.perf_counter() - start - blocked_s
            (path,) = checkpoint.checkpoints(Path(scratch))
            return (path / checkpoint.STATE).stat().st_size, blocked_s, written_s
