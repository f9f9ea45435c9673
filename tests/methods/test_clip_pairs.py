"""What holds for every method that compares the clips of a batch among themselves."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.errors import CheckpointError, RecipeError
from vidssl.methods import Batch, MethodConfig, SSLMethod
from vidssl.recipe import Pretrain, validate
from vidssl.section import choices, choose
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer

METHODS: dict[str, dict[str, Any]] = {
    "byol": {"name": "byol", "hidden": 16, "dim": 8},
    "mocov3": {"name": "mocov3", "hidden": 16, "dim": 8, "temperature": 0.2},
    "swav": {"name": "swav", "hidden": 16, "dim": 8, "prototypes": 6},
}
HEALTH = {
    *("positive_similarity", "negative_similarity", "top1"),
    *("feature_std", "effective_rank"),
}
TINY = {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 4, "norm": "sync"}
CPU = torch.device("cpu")

named = pytest.mark.parametrize("name", METHODS)


def configured(name: str, **options: object) -> MethodConfig:
    config: MethodConfig = choose("vidssl.methods", {**METHODS[name], **options})
    return config


def tiny(name: str, **options: object) -> SSLMethod:
    return configured(name, **options).build(choose("vidssl.backbones", TINY).build())


def views(count: int, of: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 3, 4, 32, 32, generator=generator) for _ in range(of))


def trainer(method: SSLMethod, steps: int = 12, **optim: Any) -> Trainer:
    config = OptimConfig.model_validate({"lr": 0.05, "batch": 8, "steps": steps, **optim})
    return Trainer(method, Plan(optim=config, steps=steps, seed=0, log_every=1), CPU)


@named
def test_two_processes_have_the_loss_and_gradient_of_one(
    name: str, two_processes_equal_one: Callable[..., None]
) -> None:
    # Of three clips of each video, so of six ordered pairs.
    two_processes_equal_one({**METHODS[name], "clips": 3}, TINY, views=3)


@named
def test_a_few_steps_on_a_few_clips_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    run = trainer(tiny(name), schedule="constant")
    losses = [run.train_step(Batch(views(8), step))["loss"] for step in range(12)]
    assert losses[-1] < losses[0]
    assert all(math.isfinite(loss) for loss in losses)


@named
def test_lars_trains_it_too(name: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "optimizer": "lars",
        "lr": 4.8,
        "weight_decay": 1e-6,
        "schedule": "constant",
    }
    run = trainer(tiny(name), **options)
    losses = [run.train_step(Batch(views(8), step))["loss"] for step in range(12)]
    assert losses[-1] < losses[0]


@named
def test_a_training_goes_on_from_its_state_as_if_it_had_never_stopped(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    run = trainer(tiny(name))
    for step in range(3):
        run.train_step(Batch(views(4, seed=step), step))
    torch.save(run.state(), tmp_path / "state.pt")
    after = [run.train_step(Batch(views(4, seed=step), step))["loss"] for step in (3, 4)]
    torch.manual_seed(1)
    other = trainer(tiny(name))
    other.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    again = [other.train_step(Batch(views(4, seed=step), step))["loss"] for step in (3, 4)]
    assert again == after


@named
def test_the_scalars_are_those_of_every_method_and_only_where_they_are_logged(name: str) -> None:
    torch.manual_seed(0)
    method = tiny(name)
    output = method(Batch(views(8)))
    assert set(output.scalars) == HEALTH
    assert not any(value.requires_grad for value in output.scalars.values())
    assert not method(Batch(views(8), watched=False)).scalars


@named
def test_the_order_of_two_clips_and_of_the_batch_does_not_matter(name: str) -> None:
    torch.manual_seed(0)
    method = tiny(name)
    one, two = views(6)
    expected = method(Batch((one, two))).loss.item()
    assert method(Batch((two, one))).loss.item() == pytest.approx(expected, rel=1e-4)
    assert method(Batch((one.flip(0), two.flip(0)))).loss.item() == pytest.approx(
        expected, rel=1e-4
    )
    # But which clips belong together does.
    assert method(Batch((one, two.roll(1, 0)))).loss.item() != pytest.approx(expected, rel=1e-4)


@named
def test_a_batch_of_one_is_refused_in_the_recipe_by_name(name: str) -> None:
    recipe = {
        "task": "pretrain",
        "backbone": TINY,
        "method": METHODS[name],
        "optim": {"lr": 0.1, "batch": 1, "steps": 1},
    }
    with pytest.raises(RecipeError, match=rf"{name} needs at least 2 videos a step.* found 1"):
        validate(Pretrain, recipe, "mine.yaml")
    assert validate(Pretrain, {**recipe, "optim": {"lr": 0.1, "batch": 2, "steps": 1}}, "mine.yaml")


@named
def test_a_single_clip_a_video_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="clips"):
        configured(name, clips=1)


@named
def test_clips_that_are_no_numbers_stop_the_training_and_leave_the_weights(name: str) -> None:
    torch.manual_seed(0)
    method = tiny(name)
    before = [p.detach().clone() for p in method.parameters()]
    one, two = views(4)
    one[1, 0, 0, 0, 0] = math.nan
    with pytest.raises(CheckpointError, match="loss became nan at step 0"):
        trainer(method).train_step(Batch((one, two)))
    # All but equal: SwAV puts its prototypes on unit length, and rounds, before it sees the clips.
    for a, b in zip(before, method.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


@named
@pytest.mark.parametrize("backbone", choices("vidssl.backbones"))
def test_it_can_be_built_around_every_backbone_at_full_size(name: str, backbone: str) -> None:
    with torch.device("meta"):  # shapes without numbers
        encoder: Encoder = choose("vidssl.backbones", {"name": backbone}).build()
        method = choose("vidssl.methods", {"name": name}).build(encoder)
        features = method.projector(torch.zeros(2, encoder.features))
    assert method.encoder is encoder
    assert features.shape == (2, method.config.dim)
