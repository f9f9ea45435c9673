"""A backbone small enough to work out by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder

InTwo = Callable[..., list[str]]


class MeanColour(Encoder):
    """The mean colour of a clip through one matrix, with no normalisation between clips."""

    features = 3
    spatial_stride = temporal_stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(3) + 0.1 * torch.randn(3, 3))

    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        mixed: Tensor = torch.einsum("ij,bjthw->bithw", self.mix, clips_BCTHW)
        return mixed


class Normed(MeanColour):
    """The same with BatchNorm, whose statistics tell clips that are encoded together."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(3)

    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().maps(clips_BCTHW))
        return normed


@pytest.fixture
def mean_colour() -> Callable[[], Encoder]:
    return MeanColour


@pytest.fixture
def normed() -> Callable[[], Encoder]:
    return Normed


STEP = """
import json
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from vidssl.methods import Batch
from vidssl.nn.distributed import joined, local_rows, rank, world_size
from vidssl.section import choose

about = json.loads(sys.argv[1])
if about["double"]:
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # losses ask for no less than single precision
with joined():
    torch.manual_seed(0)
    encoder = choose("vidssl.backbones", about["backbone"]).build()
    config = choose("vidssl.methods", about["method"])
    method = config.build(encoder)
    for name, weight in method.named_parameters():
        if weight.ndim == 1:  # scales that begin at 0 would hide what lies before them
            torch.nn.init.uniform_(weight, 0.5, 1.0)
    clips, views, frames, side = (about[key] for key in ("clips", "views", "frames", "side"))
    views = [torch.randn(clips, 3, frames, side, side) for _ in range(views)]
    times = [torch.arange(frames) * step / 30 + torch.zeros(clips, 1) for step in about["strides"]]
    mine = local_rows(torch.arange(clips)).tolist()
    targets = {name: torch.tensor(rows)[mine] for name, rows in about["targets"].items()}
    batch = Batch(
        tuple(view[mine] for view in views),
        seeds=tuple(1000 + clip for clip in mine),
        times_s=tuple(time[mine] for time in times),
        targets=targets,
    )
    wrapped = method
    if world_size() > 1:
        wrapped = DistributedDataParallel(method, broadcast_buffers=False)
    output = wrapped(config.prepare(batch))
    output.loss.backward()
    losses = [torch.zeros(()) for _ in range(world_size())]
    if world_size() > 1:
        torch.distributed.all_gather(losses, output.loss.detach())
    else:
        losses = [output.loss.detach()]
    trained = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    gradients = {name: grad.flatten().tolist() for name, grad in trained.items()}
    print(json.dumps({"loss": sum(map(float, losses)) / len(losses), "gradients": gradients}))
"""
"""One step on this process's share of a batch; prints the mean loss and the gradients."""


@pytest.fixture
def two_processes_equal_one(
    in_two_processes: InTwo, alone: Callable[..., str]
) -> Callable[..., None]:
    """Check that two processes have the loss and the gradients of one, to 1e-5 of the largest.

    The largest of a weight's own; where its terms cancel, as those of a bias before another norm,
    what is left is rounding, and is held to 1e-6 of the largest of all. ``double`` computes in
    double precision, for networks that amplify what single precision rounds.
    """

    def check(
        method: dict[str, Any],
        backbone: dict[str, Any],
        *,
        clips: int = 8,
        views: int = 2,
        frames: int = 4,
        side: int = 32,
        strides: tuple[int, ...] = (2, 2),
        targets: dict[str, Any] | None = None,
        double: bool = False,
    ) -> None:
        about = json.dumps(
            {
                "method": method,
                "backbone": backbone,
                "clips": clips,
                "views": views,
                "frames": frames,
                "side": side,
                "strides": strides,
                "targets": targets or {},
                "double": double,
            }
        )
        one = json.loads(alone(STEP, about))
        for two in map(json.loads, in_two_processes(STEP, about)):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert two["gradients"].keys() == one["gradients"].keys()
            assert two["gradients"]
            overall = max(abs(value) for grads in one["gradients"].values() for value in grads)
            for name, expected in one["gradients"].items():
                wanted, found = np.array(expected), np.array(two["gradients"][name])
                limit = max(1e-5 * np.abs(wanted).max(), 1e-6 * overall)
                allowed = np.maximum(1e-4 * np.abs(wanted), limit)
                assert (np.abs(found - wanted) <= allowed).all(), name

    return check


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., str]:
    """Run a script as one process of its own, and return what it printed."""

    def run(script: str, *arguments: object) -> str:
        (tmp_path / "alone.py").write_text(script)
        command = [sys.executable, str(tmp_path / "alone.py"), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert said.returncode == 0, said.stderr
        return said.stdout

    return run
