"""R3D's two branches on one trunk."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from vidssl.backbones import r3d

NARROW: dict[str, Any] = {"width": 8, "depths": (1, 1, 1, 1), "frames": 8}


def test_both_branches_stand_on_one_trunk_with_weights_of_their_own() -> None:
    torch.manual_seed(0)
    encoder = r3d.Config(**NARROW, local_branch=True).network()
    clips = torch.rand(2, 3, 8, 64, 64)
    one, other = encoder.branches(clips)
    assert one.shape == other.shape == (2, 256, 4, 2, 2)
    assert not torch.equal(one, other)
    torch.autograd.backward(other.square().sum())
    graded = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert any(name.startswith("trunk.res4.") for name in graded)
    assert any(name.startswith("local.") for name in graded)
    assert not any(name.startswith("trunk.res5.") for name in graded)


def test_either_branch_can_stand_for_the_encoder() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {**NARROW, "local_branch": True}
    first = r3d.Config(**options).network().eval()
    second = r3d.Config(**options, maps_from="local").network().eval()
    second.load_state_dict(first.state_dict())
    clips = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        both = first.branches(clips)
        assert torch.equal(first.maps(clips), both[0])
        assert torch.equal(second.maps(clips), both[1])


def test_the_branch_that_is_not_asked_is_not_run() -> None:
    for asked, rests in (("local", "trunk.res5"), ("global", "local")):
        options = {**NARROW, "local_branch": True, "maps_from": asked}
        encoder = r3d.Config.model_validate(options).build()
        encoder(torch.rand(2, 3, 8, 32, 32)).sum().backward()
        without = {
            name.rsplit(".", 1)[0] for name, p in encoder.named_parameters() if p.grad is None
        }
        resting = encoder.get_submodule(rests)
        assert without == {
            f"{rests}.{n}" for n, m in resting.named_modules() if [*m.parameters(False)]
        }
        seen = [m.num_batches_tracked for m in resting.modules() if isinstance(m, nn.BatchNorm3d)]
        assert seen == [0] * len(seen) != []


BRANCH = """
import sys

import torch

from vidssl.backbones import r3d
from vidssl.methods import Batch
from vidssl.methods.moco import Config
from vidssl.nn.distributed import joined
from vidssl.train.trainer import Plan, Trainer
from vidssl.train.optim import OptimConfig

with joined():
    torch.manual_seed(0)
    options = {"width": 8, "depths": (1, 1, 1, 1), "local_branch": True, "maps_from": sys.argv[1]}
    encoder = r3d.Config(**options).build()
    rests = encoder.local if sys.argv[1] == "global" else encoder.trunk.res5
    before = [p.clone() for p in rests.parameters()]
    method = Config(queue=8, hidden=16, dim=8).build(encoder)
    plan = Plan(OptimConfig(lr=0.1, batch=4, steps=3, weight_decay=0.1), steps=3, seed=0)
    trainer = Trainer(method, plan, torch.device("cpu"))
    for step in range(3):
        views = tuple(torch.rand(2, 3, 4, 32, 32) for _ in range(2))
        trainer.train_step(Batch(views, step))
    print(trainer.step, all(map(torch.equal, rests.parameters(), before)))
"""


@pytest.mark.parametrize("asked", ["global", "local"])
def test_two_processes_train_one_branch_and_leave_the_other(
    in_two_processes: Callable[..., list[str]], asked: str
) -> None:
    assert in_two_processes(BRANCH, asked) == ["3 True\n"] * 2


def test_a_branch_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="maps_from: local needs local_branch: true"):
        r3d.Config(maps_from="local")
    with pytest.raises(ValueError, match="no local branch; set local_branch: true"):
        r3d.Config(**NARROW).network().branches(torch.rand(1, 3, 8, 32, 32))
