"""The five norms: where each takes its statistics from, and whose weights it can read."""

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vidssl.errors import RecipeError
from vidssl.nn.norms import (
    FrozenNorm,
    NormConfig,
    SubBatchNorm,
    SyncNorm,
    groups_of,
    unremembered,
)
from vidssl.recipe import Pretrain, validate

KINDS = ("batch", "sync", "frozen", "sub-batch", "group")
InTwo = Callable[..., list[str]]


def maps(clips: int = 4, channels: int = 16) -> Tensor:
    torch.manual_seed(0)
    shift = torch.arange(channels).view(1, -1, 1, 1, 1)
    return torch.randn(clips, channels, 2, 3, 3) * (1 + shift) + shift


def lively(norm: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for name, value in norm.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5) if "var" in name else nn.init.normal_(value)
    return norm


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_starts_at_the_gamma_it_is_given(kind: str) -> None:
    norm = NormConfig.model_validate(kind).build(16, gamma=0.25)
    assert torch.equal(norm.weight, torch.full((16,), 0.25))  # type: ignore[arg-type]
    assert torch.equal(norm.bias, torch.zeros(16))  # type: ignore[arg-type]


def test_a_recipe_may_give_the_kind_alone() -> None:
    assert NormConfig.model_validate("group") == NormConfig(kind="group")
    recipe = {
        "task": "pretrain",
        "backbone": {"name": "slow", "norm": "group"},
        "method": {"name": "moco"},
        "optim": {"lr": 0.1, "batch": 8, "steps": 1},
    }
    backbone = validate(Pretrain, recipe, "here").backbone
    assert backbone.model_dump()["norm"]["kind"] == "group"


def test_a_wrong_kind_is_refused_with_the_choices() -> None:
    with pytest.raises(ValidationError, match=r"'batch', 'sync', 'group', 'frozen' or 'sub-batch'"):
        NormConfig.model_validate("instance")


@pytest.mark.parametrize("kind", ["sync", "frozen", "sub-batch"])
def test_kinds_with_statistics_read_each_others_weights(kind: str) -> None:
    batch = lively(NormConfig().build(16))
    other = NormConfig.model_validate(kind).build(16)
    other.load_state_dict(batch.state_dict(), strict=True)
    x = maps()
    assert torch.equal(other.eval()(x), batch.eval()(x))
    assert NormConfig.model_validate(kind).weights_key() == NormConfig().weights_key()


def test_group_norm_has_the_parameters_but_not_the_statistics() -> None:
    batch, group = NormConfig().build(64), NormConfig(kind="group").build(64)
    assert set(group.state_dict()) == {"weight", "bias"} < set(batch.state_dict())
    assert NormConfig(kind="group").weights_key() != NormConfig().weights_key()
    assert (
        NormConfig(kind="group").weights_key() != NormConfig(kind="group", groups=8).weights_key()
    )


@pytest.mark.parametrize(
    ("channels", "most", "groups"),
    [
        (2048, 32, 32),
        (64, 32, 32),
        (32, 32, 8),
        (16, 32, 4),
        (8, 32, 2),
        (2, 32, 1),
        (48, 32, 24),
        (50, 32, 25),
        (64, 8, 8),
    ],
)
def test_groups_of_wide_and_thin_pathways(channels: int, most: int, groups: int) -> None:
    assert groups_of(channels, most) == groups


def test_group_norm_is_pytorchs_and_sees_each_clip_alone() -> None:
    x = maps(channels=64)
    norm = lively(NormConfig(kind="group").build(64))
    grouped = x.view(4, 32, -1)
    centred = grouped - grouped.mean(dim=2, keepdim=True)
    expected = centred / (centred.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()
    scale, shift = norm.weight.view(1, -1, 1, 1, 1), norm.bias.view(1, -1, 1, 1, 1)  # type: ignore[operator]
    torch.testing.assert_close(norm(x), expected.view_as(x) * scale + shift)
    torch.testing.assert_close(norm(x[:1]), norm(x)[:1])
    assert torch.equal(norm.train()(x), norm.eval()(x))


def test_frozen_statistics_stay_while_the_affine_learns() -> None:
    norm = lively(FrozenNorm(16))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = maps()
    out = norm.train()(x)
    mean, var = (before[f"running_{name}"].view(1, -1, 1, 1, 1) for name in ("mean", "var"))
    scale, shift = (before[name].view(1, -1, 1, 1, 1) for name in ("weight", "bias"))
    torch.testing.assert_close(out, (x - mean) / (var + 1e-5).sqrt() * scale + shift)
    out.sum().backward()
    assert norm.weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_sub_batches_are_normalised_apart_and_remembered_together() -> None:
    x = maps(6)
    norm, alone, whole = SubBatchNorm(16, splits=3), nn.BatchNorm3d(16), nn.BatchNorm3d(16)
    for _ in range(2):
        out = norm(x)
        whole(x)
    apart = torch.cat([alone(x[first:last]) for first, last in pairwise([0, 2, 4, 6])])
    torch.testing.assert_close(out, apart)
    torch.testing.assert_close(norm.running_mean, whole.running_mean)
    torch.testing.assert_close(norm.running_var, whole.running_var)
    assert norm.num_batches_tracked == 2
    assert not torch.allclose(out, whole(x), atol=1e-2)


def test_a_batch_that_does_not_split_is_refused_only_while_training() -> None:
    norm = SubBatchNorm(16, splits=3)
    with pytest.raises(RecipeError, match="needs a multiple of them at a time, got 4 clips"):
        norm(maps(4))
    assert norm.eval()(maps(4)).shape == maps(4).shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_can_be_made_without_being_remembered(kind: str) -> None:
    net = nn.Sequential(NormConfig.model_validate(kind).build(16), nn.ReLU())
    expected = net(maps())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with unremembered(net):
        assert torch.equal(net(maps()), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net(maps())
    moved = [n for n, value in net.state_dict().items() if not torch.equal(value, before[n])]
    assert bool(moved) is (kind in {"batch", "sync", "sub-batch"})


def test_a_momentum_of_one_keeps_the_last_batch() -> None:
    norm = NormConfig(momentum=1.0).build(16)
    norm(maps())
    torch.testing.assert_close(norm.running_mean, maps().mean(dim=(0, 2, 3, 4)))


def test_sync_norm_alone_is_batch_norm() -> None:
    sync, batch = SyncNorm(16), nn.BatchNorm3d(16)
    assert torch.equal(sync(maps()), batch(maps()))
    torch.testing.assert_close(sync.running_var, batch.running_var)


SYNC = """
import json
import sys

import torch

from vidssl.nn.distributed import joined, rank
from vidssl.nn.norms import SyncNorm

with joined():
    everything = torch.load(sys.argv[1], weights_only=True)
    split = int(sys.argv[2])
    mine = (everything[:split] if rank() == 0 else everything[split:]).clone().requires_grad_()
    norm = SyncNorm(everything.shape[1]).double()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = norm(mine)
    maps = [t for t in kept if t.ndim == 5]
    weight = torch.arange(out.numel(), dtype=torch.double).view_as(out).sin()
    (out * weight).sum().backward()
    print(json.dumps({
        "out": out.flatten().tolist(),
        "grad": mine.grad.flatten().tolist(),
        "kept": [t.data_ptr() == mine.data_ptr() for t in maps],
        "mean": norm.running_mean.tolist(),
        "var": norm.running_var.tolist(),
    }))
"""


@pytest.mark.parametrize("split", [2, 1])
def test_two_processes_normalise_as_one_would(
    in_two_processes: InTwo, tmp_path: object, split: int
) -> None:
    x = maps(4, 3).double().requires_grad_()
    torch.save(x.detach(), f"{tmp_path}/x.pt")
    said = [json.loads(out) for out in in_two_processes(SYNC, f"{tmp_path}/x.pt", str(split))]

    norm = nn.BatchNorm3d(3).double()
    out = norm(x)
    parts = [out[:split], out[split:]]
    weights = [torch.arange(p.numel(), dtype=torch.double).view_as(p).sin() for p in parts]
    sum((p * w).sum() for p, w in zip(parts, weights, strict=True)).backward()
    assert x.grad is not None
    for name, expected in (("out", out), ("grad", x.grad)):
        found = torch.tensor([*said[0][name], *said[1][name]], dtype=torch.double)
        torch.testing.assert_close(found, expected.flatten().detach())
    for seen in said:
        assert seen["kept"] == [True]  # the input alone: maps are what fills a GPU
        torch.testing.assert_close(torch.tensor(seen["mean"]).double(), norm.running_mean)
        torch.testing.assert_close(torch.tensor(seen["var"]).double(), norm.running_var)


GROUPS = """
import json

import torch

from vidssl.errors import RecipeError
from vidssl.nn.distributed import joined, rank
from vidssl.nn.norms import NormConfig

torch.set_num_threads(1)
with joined():
    generator = torch.Generator().manual_seed(rank())
    mine = torch.randn(2, 3, 1, 2, 2, generator=generator).double().requires_grad_()
    norm = NormConfig(kind="sync", ranks=2).build(3).double()
    out = norm(mine)
    (out * torch.arange(out.numel()).view_as(out).sin()).sum().backward()
    try:
        NormConfig(kind="sync", ranks=3).build(3)(torch.zeros(2, 3, 1, 2, 2))
        told = ""
    except RecipeError as error:
        told = str(error)
    print(json.dumps([out.flatten().tolist(), mine.grad.flatten().tolist(), told]))
"""


def test_statistics_are_shared_within_groups_of_processes(in_two_processes: InTwo) -> None:
    said = [json.loads(out) for out in in_two_processes(GROUPS, count=4)]
    for first in (0, 2):
        parts = [
            torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(rank)).double()
            for rank in (first, first + 1)
        ]
        x = torch.cat(parts).requires_grad_()
        out = nn.BatchNorm3d(3).double()(x)
        weight = torch.arange(24).view(2, 3, 1, 2, 2).sin()
        (out * torch.cat([weight, weight])).sum().backward()
        assert x.grad is not None
        for place, expected in ((0, out), (1, x.grad)):
            found = torch.tensor([*said[first][place], *said[first + 1][place]]).double()
            torch.testing.assert_close(found, expected.flatten().detach(), atol=1e-6, rtol=1e-5)
    assert {told for *_, told in said} == {"norm.ranks: 4 processes have no groups of 3"}
