"""CVRL against its published values, a slow formula, and itself in two processes."""

import copy
import importlib
import math
import pkgutil
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vidssl.backbones
from vidssl.augment.views import CVRL as PAPER
from vidssl.backbones import Encoder, slow
from vidssl.errors import CheckpointError, RecipeError
from vidssl.methods import Batch
from vidssl.methods.cvrl import CVRL, Config
from vidssl.recipe import Pretrain, bundled, load
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer

Build = Callable[[], Encoder]
FAMILIES = [
    name for _, name, _ in pkgutil.iter_modules(vidssl.backbones.__path__) if name[0] != "_"
]
SLOW = {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 4, "norm": "sync"}
LAST = "9.weight"  # of the projector


def clips(count: int) -> Tensor:
    return torch.randn(count, 3, 2, 4, 4)


def method(encoder: Encoder, **settings: object) -> CVRL:
    return Config.model_validate({"hidden": 8, "dim": 4, **settings}).build(encoder)


def small() -> CVRL:
    return method(slow.Config(width=8, depths=(1, 1, 1, 1), frames=4).build(), hidden=32, dim=16)


def slow_loss(one: Tensor, two: Tensor, temperature: float) -> float:
    """Each of 2 G rows against its other view among all rows but itself."""
    rows, count = [*one.double(), *two.double()], len(one)
    total = 0.0
    for i, row in enumerate(rows):
        similar = [math.exp(float(row @ other) / temperature) for other in rows]
        partner = similar[(i + count) % (2 * count)]
        total -= math.log(partner / (sum(similar) - similar[i])) / count
    return total


def test_the_head_has_the_published_number_of_weights() -> None:
    encoder = slow.Config().build()
    assert encoder.features == 2048
    projector = Config().build(encoder).projector
    assert sum(p.numel() for p in projector.parameters()) == 12_857_472


def test_the_loss_is_the_sum_over_both_directions_of_a_slow_softmax(mean_colour: Build) -> None:
    torch.manual_seed(0)
    cvrl = method(mean_colour(), temperature=0.3)
    one, two = clips(5), clips(5)
    with torch.no_grad():
        z = F.normalize(cvrl.projector(cvrl.encoder(torch.cat([one, two]))), dim=1)
        first, second = z.chunk(2)
    assert cvrl(Batch((one, two))).loss.item() == pytest.approx(
        slow_loss(first, second, 0.3), rel=1e-5
    )


@pytest.mark.parametrize("count", [2, 8, 512])
def test_collapsed_features_cost_what_a_blind_guess_does(count: int, mean_colour: Build) -> None:
    cvrl = method(mean_colour())
    nn.init.zeros_(cvrl.projector.get_parameter(LAST))  # leaves the bias, the same for all
    loss = cvrl(Batch((clips(count), clips(count)))).loss.item()
    assert loss == pytest.approx(2 * math.log(2 * count - 1), rel=1e-5)


def test_both_views_share_the_statistics_of_each_norm(normed: Build) -> None:
    torch.manual_seed(0)
    cvrl = method(normed(), hidden=8, dim=4)
    one, two = clips(4), 3 * clips(4) + 1
    loss = cvrl(Batch((one, two))).loss.item()
    with torch.no_grad():
        z = F.normalize(cvrl.projector(cvrl.encoder(torch.cat([one, two]))), dim=1)
        first, second = (
            F.normalize(cvrl.projector(cvrl.encoder(view)), dim=1) for view in (one, two)
        )
    assert loss == pytest.approx(slow_loss(z[:4], z[4:], 0.1), rel=1e-5)
    assert abs(loss - slow_loss(first, second, 0.1)) > 0.1


def test_neither_the_order_of_views_nor_that_of_clips_matters(normed: Build) -> None:
    torch.manual_seed(0)
    cvrl, order = method(normed()), torch.randperm(6)
    one, two = clips(6), clips(6)
    expected = cvrl(Batch((one, two))).loss.item()
    assert cvrl(Batch((two, one))).loss.item() == pytest.approx(expected, rel=1e-5)
    assert cvrl(Batch((one[order], two[order]))).loss.item() == pytest.approx(expected, rel=1e-5)


def test_both_views_and_every_weight_have_a_gradient() -> None:
    torch.manual_seed(0)
    cvrl = small()
    views = tuple(torch.randn(4, 3, 4, 32, 32, requires_grad=True) for _ in range(2))
    nn.init.ones_(cvrl.encoder.get_parameter("trunk.res5.0.branch.norm3.weight"))
    cvrl(Batch(views)).loss.backward()
    assert all(view.grad is not None and view.grad.abs().max() > 0 for view in views)
    assert [name for name, p in cvrl.named_parameters() if p.grad is None] == []


def test_two_processes_have_loss_and_gradients_of_one(
    two_processes_equal_one: Callable[..., None],
) -> None:
    options = {"hidden": 16, "dim": 8, "co2": {"alpha": 0.5, "temperature": 0.2}}
    two_processes_equal_one({"name": "cvrl", **options}, SLOW)


def test_a_batch_of_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"cvrl's negatives are .* at least 2 clips .* found 1"):
        Config().require_batch(1)
    Config().require_batch(2)
    with pytest.raises(RecipeError, match="cvrl's negatives"):
        load(Pretrain, bundled(Pretrain)["cvrl_small"], ["optim.batch=1"])


def test_a_picture_that_is_no_number_stops_the_training_before_a_weight_changes() -> None:
    cvrl = small()
    before = [p.clone() for p in cvrl.parameters()]
    plan = Plan(OptimConfig(lr=0.1, batch=2, steps=1), steps=1, seed=0)
    views = (torch.full((2, 3, 4, 32, 32), math.nan), torch.zeros(2, 3, 4, 32, 32))
    with pytest.raises(CheckpointError, match="the loss became nan at step 0"):
        Trainer(cvrl, plan, torch.device("cpu")).train_step(Batch(views, watched=False))
    assert all(torch.equal(*pair) for pair in zip(before, cvrl.parameters(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_backbone_takes_the_head(family: str) -> None:
    config = importlib.import_module(f"vidssl.backbones.{family}").Config()
    with torch.device("meta"):
        cvrl = Config().build(config.build())
        features = torch.empty(2, cvrl.encoder.features)
    assert cvrl.projector(features).shape == (2, 128)


def test_it_trains_on_random_interval_and_nested_clips() -> None:
    recipe = bundled(Pretrain)["cvrl_small"]
    assert load(Pretrain, recipe).sampling.starts == "interval"
    for starts in ("random", "nested"):
        assert load(Pretrain, recipe, [f"sampling.starts={starts}"]).sampling.starts == starts


@pytest.mark.parametrize("name", ["cvrl_r3d_r50_k400", "cvrl_r3d_r50_k400_8gpu"])
def test_the_full_recipes_have_the_paper_s_sampling_augmentation_and_head(name: str) -> None:
    recipe = load(Pretrain, bundled(Pretrain)[name])
    assert recipe.augment == PAPER
    assert recipe.sampling.starts == "interval"
    assert recipe.method == Config()
    assert recipe.optim.lr / recipe.optim.batch == 0.32 / 1024


def test_its_scalars_are_those_of_all_methods_and_only_where_they_are_logged(
    mean_colour: Build,
) -> None:
    cvrl = method(mean_colour())
    views = (clips(8), clips(8))
    health = {"positive_similarity", "negative_similarity", "top1", "feature_std", "effective_rank"}
    assert cvrl(Batch(views)).scalars.keys() == health
    assert not cvrl(Batch(views, watched=False)).scalars


def test_training_lowers_the_loss_keeps_features_apart_and_resumes_exactly() -> None:
    # 8 videos, each a still pattern of its own; two clips of one differ by noise.
    torch.manual_seed(0)
    cvrl = small()
    patterns = torch.randn(8, 3, 1, 32, 32)
    plan = Plan(OptimConfig(lr=0.05, batch=8, steps=30), steps=30, seed=0)
    trainer = Trainer(cvrl, plan, torch.device("cpu"))

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        noise = (torch.randn(8, 3, 4, 32, 32, generator=generator) for _ in range(2))
        return Batch(tuple(patterns + n for n in noise), step)

    history = [trainer.train_step(batch(step)) for step in range(20)]
    assert history[0]["loss"] > 2 * 2.0
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert history[-1]["feature_std"] > 0.5
    again = Trainer(small(), plan, torch.device("cpu"))
    again.restore(copy.deepcopy(trainer.state()))
    on, other = (run.train_step(batch(20))["loss"] for run in (trainer, again))
    assert on == other
    assert all(
        torch.equal(*pair)
        for pair in zip(cvrl.state_dict().values(), again.module.state_dict().values(), strict=True)
    )
