"""Methods in half precision, and where there is a GPU."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from vidssl.methods import Batch, SSLMethod
from vidssl.section import choose
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer

CLIPS, FRAMES, PATCHES, BOXES = 8, 8, 3, 4
SMALL = {"hidden": 16, "dim": 8}
CO2 = {"co2": {"alpha": 1.0}}
UNMIX = {"unmix": {"prob": 1.0, "global_share": 0.0}}
BACKBONE = {"name": "r3d", "width": 8, "depths": [1, 1, 1, 1], "frames": FRAMES}
METHODS: dict[str, dict[str, Any]] = {
    "moco": {**SMALL, **CO2, **UNMIX, "queue": 64},
    "simclr": {**SMALL, **CO2, **UNMIX},
    "cvrl": {**SMALL, **CO2, **UNMIX},
    "mocov3": SMALL,
    "byol": SMALL,
    "swav": {**SMALL, "prototypes": 16},
    "const_cl": {**SMALL, "boxes": "table", "regions": BOXES},
    "teg": SMALL,
    "ctp": {"hidden": 16},
}
named = pytest.mark.parametrize("name", METHODS)


def built(name: str) -> SSLMethod:
    backbone = {**BACKBONE, "local_branch": name == "const_cl"}
    if name in {"const_cl", "ctp"}:
        backbone["form"] = "detection"
    encoder = choose("vidssl.backbones", backbone).build()
    method: SSLMethod = choose("vidssl.methods", {"name": name, **METHODS[name]}).build(encoder)
    return method


def batch(name: str, views: int, *, watched: bool) -> Batch:
    frames = torch.arange(FRAMES, dtype=torch.float64)
    given = Batch(
        tuple(torch.randn(CLIPS, 3, FRAMES, 32, 32) for _ in range(views)),
        seeds=tuple(range(CLIPS)),
        times_s=tuple((frames * stride / 30).expand(CLIPS, FRAMES) for stride in (4, 2)[:views]),
        watched=watched,
    )
    corners = torch.tensor([0.1, 0.2, 0.6, 0.7])
    if name == "ctp":
        return replace(given, targets={"boxes": corners.expand(CLIPS, PATCHES, FRAMES, 4).clone()})
    if name == "const_cl":
        valid = torch.ones(CLIPS, views, BOXES, dtype=torch.bool)
        boxes = corners.expand(CLIPS, views, BOXES, 4).clone()
        return replace(given, targets={"boxes": boxes, "boxes_valid": valid})
    return given


def on_gpu(given: Batch) -> Batch:
    return replace(
        given,
        views=tuple(view.cuda() for view in given.views),
        times_s=tuple(times.cuda() for times in given.times_s),
        targets={name: target.cuda() for name, target in given.targets.items()},
    )


@pytest.mark.gpu
@named
def test_it_trains_on_a_gpu_in_half_precision(name: str) -> None:
    torch.manual_seed(0)
    method = built(name)
    plan = Plan(OptimConfig(lr=0.01, batch=CLIPS, steps=4), steps=4, seed=0, precision="bf16")
    trainer = Trainer(method, plan, torch.device("cuda"))
    for watched in (False, True, False):
        given = on_gpu(batch(name, method.num_views, watched=watched))
        scalars = trainer.train_step(given)
        assert all(math.isfinite(value) for value in scalars.values())
    assert {value.device.type for value in method.state_dict().values()} == {"cuda"}


@named
def test_in_half_precision_the_loss_is_still_in_full(name: str) -> None:
    torch.manual_seed(0)
    method = built(name)
    given = batch(name, method.num_views, watched=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = method(given)
    assert output.loss.dtype == torch.float32
    assert math.isfinite(output.loss.item())
    assert all(math.isfinite(value.item()) for value in output.scalars.values())
