"""``vidssl bench step``: training and inference of our networks against pytorchvideo's.

Both sides are the R50 classifier of 400 classes, on the same random clips, under the same autocast,
and take turns in one run. Ours runs as a training here runs it: channels innermost, the optimizer's
steps fused where the device has that; compiled if asked for. Theirs runs as it comes.

The limit is what the largest product of matrices allows that is timed in the same rounds: its rate
by the multiply-adds of a clip, times three for training, since the backward pass computes two more
products of the same size.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidssl.backbones._peer import CLASSES, peer
from vidssl.errors import RecipeError, nearest
from vidssl.jobs.bench import Measurement, in_turn
from vidssl.jobs.models import SETTINGS, multiply_adds
from vidssl.nn.layout import laid_out
from vidssl.progress import Progress, silent
from vidssl.recognition.classifier import Classifier
from vidssl.train.optim import OptimConfig, optimizer
from vidssl.train.trainer import device_of

PEERS = ("slow_r50_4x16", "slow_r50_8x8", "slowfast_r50_4x16", "slowfast_r50_8x8")
"""Settings that pytorchvideo has too."""
CELL_PX = 32
MATRIX = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices whose product gives the limit."""


@dataclass(frozen=True)
class StepResult:
    """What was measured, and on what; ``compiled`` and ``threads`` hold for our side and both."""

    model: str
    device: str
    threads: int
    clips: int
    crop_px: int
    compiled: bool
    rounds: int
    measurements: list[Measurement]


@dataclass(frozen=True)
class Side:
    """One network with its clips, ready to be timed."""

    network: nn.Module
    clips: Tensor
    half: bool

    def autocast(self) -> torch.autocast:
        """Return the precision that it runs in."""
        return torch.autocast(self.clips.device.type, torch.bfloat16, enabled=self.half)

    def train(self, optimizer: torch.optim.Optimizer) -> float:
        """Return the seconds of one training step."""
        self.network.train()
        targets = torch.zeros(len(self.clips), dtype=torch.long, device=self.clips.device)
        start = now(self.clips.device)
        with self.autocast():
            loss = F.cross_entropy(self.network(self.clips), targets)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return now(self.clips.device) - start

    def infer(self) -> float:
        """Return the seconds of one forward pass."""
        self.network.eval()
        start = now(self.clips.device)
        with torch.inference_mode(), self.autocast():
            self.network(self.clips)
        return now(self.clips.device) - start


def run(
    model: str = "slowfast_r50_8x8",
    *,
    clips: int = 2,
    crop_px: int = 224,
    rounds: int = 5,
    compiled: bool = False,
    progress: Progress = silent,
) -> StepResult:
    """Time training steps and forward passes of ``clips`` clips, in float32 and in bfloat16.

    Raises:
        RecipeError: if pytorchvideo has no such model, or the crop does not divide into its cells.
    """
    require_setting(model, crop_px)
    device = device_of()
    measurements = []
    for half in (False, True):
        ours = _ours(model, clips, crop_px, half, device, compiled)
        theirs = _theirs(model, clips, crop_px, half, device)
        matrix = partial(_multiply, device, half)
        config = OptimConfig(lr=1e-3, batch=clips, steps=1)
        training: dict[str, Callable[[], float]] = {
            "ours": partial(ours.train, optimizer(ours.network, config)),
            "pytorchvideo": partial(
                theirs.train, torch.optim.SGD(theirs.network.parameters(), 1e-3, 0.9)
            ),
            "matrix": matrix,
        }
        inference: dict[str, Callable[[], float]] = {
            "ours": ours.infer,
            "pytorchvideo": theirs.infer,
            "matrix": matrix,
        }
        work = multiply_adds_of(model, crop_px)
        precision = "bf16" if half else "fp32"
        for name, sides, passes in (("training", training, 3), ("inference", inference, 1)):
            title = f"{name}, {precision}"
            times_s = _timed(title, sides, rounds, progress)
            side = MATRIX[device.type]
            measurements.append(compared(title, times_s, clips, passes * work, side))
    return StepResult(
        model,
        name_of(device),
        torch.get_num_threads(),
        clips,
        crop_px,
        compiled,
        rounds,
        measurements,
    )


def require_setting(model: str, crop_px: int) -> None:
    """Refuse what is not measured.

    Raises:
        RecipeError: if pytorchvideo has no such model, or the crop does not divide into its cells.
    """
    if model not in PEERS:
        hint = nearest(model, PEERS)
        raise RecipeError(f"--model: pytorchvideo has no {model!r}{hint} ({', '.join(PEERS)})")
    if crop_px % CELL_PX:
        raise RecipeError(f"--crop: {crop_px} is not a multiple of {CELL_PX}")


def name_of(device: torch.device) -> str:
    """Return what a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def multiply_adds_of(model: str, crop_px: int) -> int:
    """Return the multiply-adds of one clip."""
    config = SETTINGS[model].config
    with torch.device("meta"):
        network = Classifier(config.build(), num_classes=CLASSES).eval()
        return multiply_adds(network, torch.empty(1, 3, config.frames, crop_px, crop_px))


def _ours(
    model: str, clips: int, crop_px: int, half: bool, device: torch.device, compiled: bool
) -> Side:
    config = SETTINGS[model].config
    network = laid_out(Classifier(config.build(), num_classes=CLASSES), device)
    if compiled:
        network.compile()
    given = torch.rand(clips, 3, config.frames, crop_px, crop_px, device=device)
    return Side(network, given.contiguous(memory_format=torch.channels_last_3d), half)


def _theirs(model: str, clips: int, crop_px: int, half: bool, device: torch.device) -> Side:
    config = SETTINGS[model].config
    given = torch.rand(clips, 3, config.frames, crop_px, crop_px, device=device)
    return Side(peer(config, crop_px).to(device), given, half)  # type: ignore[arg-type]


def _timed(
    title: str, sides: dict[str, Callable[[], float]], rounds: int, progress: Progress
) -> dict[str, list[float]]:
    """Return the seconds of each side in each round, after one that does not count."""

    def tell(what: str, done: int, total: int) -> None:
        progress(f"{title}: {what}", done, total)

    times_s = in_turn(sides, rounds + 1, tell, clocked=True)
    return {name: taken[1:] for name, taken in times_s.items()}


def compared(
    title: str, times_s: dict[str, list[float]], clips: int, work: int, matrix: int
) -> Measurement:
    """Return the comparison of both sides, and of ours with the limit, in clips a second.

    ``work`` is the multiply-adds of a clip, ``matrix`` the side of the matrices.
    """
    typical_s = {side: statistics.median(taken) for side, taken in times_s.items()}
    ours, theirs = clips / typical_s["ours"], clips / typical_s["pytorchvideo"]
    limit = matrix**3 / typical_s["matrix"] / work
    return Measurement(
        title,
        ours=ours,
        other=theirs,
        ratio=ours / theirs,
        limit=limit,
        share_of_limit=ours / limit,
        unit="clips/s",
        times_s=times_s,
    )


def _multiply(device: torch.device, half: bool) -> float:
    """Return the seconds of one product of two square matrices."""
    side = MATRIX[device.type]
    dtype = torch.bfloat16 if half else torch.float32
    matrix = torch.rand(side, side, device=device, dtype=dtype)
    start = now(device)
    torch.mm(matrix, matrix)
    return now(device) - start


def now(device: torch.device) -> float:
    """Return the time in seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
