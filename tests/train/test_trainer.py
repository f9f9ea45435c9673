"""What a training may do besides plain steps: averages, precise statistics, parts, 16 bits."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from vidssl.backbones import Encoder
from vidssl.nn.step import StepOutput
from vidssl.section import choose
from vidssl.train.optim import OptimConfig
from vidssl.train.precise import take_statistics
from vidssl.train.rollback import on_cpu
from vidssl.train.trainer import FAILED, GO_ON, STOP, Plan, Trainer

NARROW = {"name": "slow", "width": 4, "depths": [1, 1, 1, 1], "frames": 2}


def encoder(**options: Any) -> Encoder:
    torch.manual_seed(0)
    built: Encoder = choose("vidssl.backbones", {**NARROW, **options}).build()
    return built


class Pooled(nn.Module):
    """The mean square of the features."""

    def __init__(self, net: Encoder) -> None:
        super().__init__()
        self.encoder = net

    def forward(self, clips: torch.Tensor) -> StepOutput:
        return StepOutput((self.encoder(clips) - 1).square().mean())

    def after_step(self, progress: float) -> None:
        pass


def training(net: Encoder, *, precision: Any = "auto", compiled: bool = False, **optim: Any) -> Any:
    config = OptimConfig(**{"lr": 0.1, "batch": 4, "steps": 10, **optim})
    plan = Plan(config, 10, seed=0, precision=precision, compile=compiled)
    return Trainer(Pooled(net), plan, torch.device("cpu"))


def test_averaged_weights_follow_weights_and_statistics(slope: Callable[..., Any]) -> None:
    trainer, module = slope(4, ema=0.9)
    assert trainer.trained is not trainer.module
    weights, average, seen = [], 1.0, 0.0
    for batch in (1.0, 2.0, 4.0):
        trainer.train_step(batch)
        weights.append(module.weight.item())
        average = 0.9 * average + 0.1 * module.weight.item()
        seen = 0.9 * seen + 0.1 * module.seen.item()
    assert weights == [0.5, -0.5, -2.5]
    assert trainer.trained.weight.item() == pytest.approx(average)
    assert trainer.trained.seen.item() == pytest.approx(seen)
    again, _ = slope(4, ema=0.9)
    again.restore(trainer.state())
    assert torch.equal(again.trained.weight, trainer.trained.weight)


def test_without_averages_the_result_is_the_module(slope: Callable[..., Any]) -> None:
    trainer, module = slope()
    assert trainer.trained is module


def test_precise_statistics_are_those_of_all_batches_as_if_they_were_one() -> None:
    net = encoder()
    batches = [[torch.randn(4, 3, 2, 32, 32)] for _ in range(3)]
    moved = [norm for norm in net.modules() if isinstance(norm, nn.BatchNorm3d)]
    first = moved[0]
    seen: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net.eval()
    take_statistics(net, batches, 3)
    hook.remove()
    assert not net.training
    values = torch.cat(seen).transpose(0, 1).flatten(1)
    assert first.running_mean is not None
    assert first.running_var is not None
    torch.testing.assert_close(first.running_mean, values.mean(dim=1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        first.running_var, values.var(dim=1, correction=0), atol=1e-6, rtol=1e-5
    )
    assert first.momentum == 0.1


PRECISE = """
import json

import torch

from vidssl.nn.distributed import joined, rank
from vidssl.section import choose
from vidssl.train.precise import take_statistics
from vidssl.train.rollback import on_cpu

torch.set_num_threads(1)
torch.manual_seed(0)
about = {"name": "slow", "width": 4, "depths": [1, 1, 1, 1], "frames": 2}
net = choose("vidssl.backbones", about).build()
twin = choose("vidssl.backbones", about).build()
twin.load_state_dict(net.state_dict())
clips = torch.randn(2, 4, 3, 2, 32, 32)
take_statistics(twin, [[clips[0]], [clips[1]]], 2)
with joined():
    take_statistics(net, [[clips[rank()]]], 1)
    norms = [
        {k: v.tolist() for k, v in module.state_dict().items() if "running" in k}
        for module in (net, twin)
    ]
    print(json.dumps(norms))
"""


def test_precise_statistics_of_two_processes_are_those_of_one(
    in_two_processes: Callable[..., list[str]],
) -> None:
    for said in in_two_processes(PRECISE):
        two, one = json.loads(said)
        assert two.keys() == one.keys()
        assert len(one) > 10
        for name, values in one.items():
            assert two[name] == pytest.approx(values, rel=1e-5, abs=1e-6)


def test_a_step_in_parts_is_the_step_of_the_whole_batch() -> None:
    clips = torch.randn(4, 3, 2, 32, 32)
    losses, weights = [], []
    for parts in (1, 2, 4):
        trainer = training(encoder(norm="group"), accumulate=parts)
        losses.append(trainer.train_step(clips)["loss"])
        weights.append(torch.cat([p.detach().flatten() for p in trainer.module.parameters()]))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    torch.testing.assert_close(weights[1], weights[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights[2], weights[0], atol=1e-6, rtol=1e-5)


class Colour(Encoder):
    """One matrix over colours: little to compile."""

    features, spatial_stride, temporal_stride = 3, 1, 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(3, 3)

    def maps(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.mix(clips_BCTHW.movedim(1, -1)).relu().movedim(-1, 1)
        return mixed


def test_a_compiled_step_is_the_step() -> None:
    clips = torch.randn(4, 3, 2, 8, 8)
    plain, compiled = training(Colour()), training(Colour(), compiled=True)
    for _ in range(2):
        one, two = plain.train_step(clips), compiled.train_step(clips)
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name, weight in plain.module.state_dict().items():
        torch.testing.assert_close(
            compiled.module.state_dict()[name], weight, atol=1e-5, rtol=1e-4, msg=name
        )


def test_half_precision_with_a_scaler_learns_and_resumes_its_scale() -> None:
    clips = torch.randn(4, 3, 2, 32, 32)
    trainer = training(encoder(norm="group"), precision="fp16", lr=0.01)
    losses = [float(trainer.train_step(clips)["loss"]) for _ in range(6)]
    assert losses[-1] < losses[0]
    again = training(encoder(norm="group"), precision="fp16", lr=0.01)
    state = trainer.state()
    state["scaler"]["scale"] = 2.0
    again.restore(state)
    assert again.scaler.get_scale() == 2.0
    assert math.isfinite(float(again.train_step(clips)["loss"]))


def test_a_state_that_was_restored_does_not_change_with_the_steps_after_it() -> None:
    clips = torch.randn(4, 3, 2, 32, 32)
    trainer = training(encoder())
    trainer.train_step(clips)
    state = on_cpu(trainer.state())
    kept = on_cpu(state)
    trainer.restore(state)
    trainer.train_step(clips)
    for name in ("module", "optimizer"):
        for one, two in zip(_tensors(state[name]), _tensors(kept[name]), strict=True):
            assert torch.equal(one, two)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else ():
        yield from _tensors(part)


def test_the_greatest_wish_is_what_all_do(slope: Callable[..., Any]) -> None:
    trainer, _ = slope()
    assert trainer.wished == GO_ON
    for wish in (STOP, FAILED, GO_ON):
        trainer.train_step(1.0, lambda wish=wish: wish)
        assert trainer.wished == wish


MEAN_LOSS = """
import json
import sys

import torch
from torch import nn

from vidssl.nn.distributed import joined, rank
from vidssl.nn.step import StepOutput
from vidssl.train.optim import OptimConfig
from vidssl.train.precise import _join
from vidssl.train.trainer import Plan, Trainer


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, batch):
        return StepOutput((self.weight * batch).sum())

    def after_step(self, progress):
        pass


with joined():
    config = OptimConfig(lr=0.5, batch=2, steps=3)
    trainer = Trainer(Line(), Plan(config, 3, seed=0), torch.device("cpu"))
    scalars = trainer.train_step(torch.tensor(1.0 + 4 * rank()), lambda: rank())
    norm = nn.BatchNorm3d(1)
    norm.running_mean.fill_(300.0)
    norm.running_var.fill_(1e-3)
    _join(norm)
    state = norm.state_dict()
    print(json.dumps([scalars["loss"], trainer.wished, state["running_var"].item()]))
"""


def test_the_loss_that_is_told_is_that_of_all_processes(
    in_two_processes: Callable[..., list[str]],
) -> None:
    for said in in_two_processes(MEAN_LOSS):
        loss, wished, var = json.loads(said)
        assert loss == 3.0  # of 1 and 5
        assert wished == 1  # the greatest wish, of GO_ON and STOP
        assert var == pytest.approx(1e-3)  # equal statistics stay as they are, far from zero too
