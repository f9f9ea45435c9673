"""A backbone small enough to work out by hand."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder


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


STEPS = """
import json
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from vidssl.methods import Batch
from vidssl.nn.distributed import joined, local_rows, world_size
from vidssl.section import choose

single = torch.Tensor.float


def set_precision(double):
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    # Losses ask for no less than single precision.
    torch.Tensor.float = torch.Tensor.double if double else single


def step(about):
    set_precision(about["double"])
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
    return {"loss": sum(map(float, losses)) / len(losses), "gradients": gradients}


with joined():
    for asked in sys.stdin:
        print(json.dumps(step(json.loads(asked))), flush=True)
"""
"""For each line, a step on this process's share of a batch; prints the mean loss and gradients."""

PATIENCE_S = 120.0


class Trio:
    """A process of its own and a group of two, kept from test to test: starting them takes long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []

    def step(self, about: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what the step gives in one process, in the first of two and in the second."""
        if not self.running:
            self._start()
        patience = threading.Timer(PATIENCE_S, self._kill)
        patience.start()
        try:
            for process in self.running:
                assert process.stdin is not None
                print(json.dumps(about), file=process.stdin, flush=True)
            said = [self._line(process) for process in self.running]
        except BaseException:
            self.stop()  # the next test begins with fresh ones
            raise
        finally:
            patience.cancel()
        return [json.loads(line) for line in said]

    def stop(self) -> None:
        self._kill()
        for process in self.running:
            process.communicate()
        self.running = []

    def _start(self) -> None:
        (self.folder / "steps.py").write_text(STEPS)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for number, of in enumerate([{}, {**group, "RANK": "0"}, {**group, "RANK": "1"}]):
            with (self.folder / f"stderr{number}").open("w") as stderr:
                self.running.append(
                    subprocess.Popen(
                        [sys.executable, str(self.folder / "steps.py")],
                        env={**os.environ, **of, "OMP_NUM_THREADS": "1"},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=stderr,
                        text=True,
                    )
                )

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self._kill()
            complaints = [path.read_text() for path in sorted(self.folder.glob("stderr*"))]
            pytest.fail("\n\n".join(complaints))
        return line

    def _kill(self) -> None:
        for process in self.running:
            process.kill()


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """Processes that do one step after another."""
    processes = Trio(tmp_path_factory.mktemp("trio"))
    yield processes
    processes.stop()


@pytest.fixture
def two_processes_equal_one(trio: Trio) -> Callable[..., None]:
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
        about = {
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
        one, *both = trio.step(about)
        for two in both:
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
