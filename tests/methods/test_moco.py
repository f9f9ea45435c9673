"""MoCo against values of the papers' formula, its order of operations, and collapse."""

import copy
import importlib
import itertools
import json
import math
import pkgutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vidssl.backbones
from vidssl.backbones import Encoder, slow
from vidssl.errors import CheckpointError, RecipeError
from vidssl.methods import Batch
from vidssl.methods.moco import Config, MoCo
from vidssl.nn.contrast import info_nce
from vidssl.nn.norms import NormConfig
from vidssl.recipe import Pretrain, bundled, load
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer

Build = Callable[[], Encoder]
FAMILIES = [
    name for _, name, _ in pkgutil.iter_modules(vidssl.backbones.__path__) if name[0] != "_"
]


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=1)


def clips(count: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, 3, 2, 4, 4)


def method(encoder: Encoder, **settings: object) -> MoCo:
    options = {"queue": 8, "hidden": 6, "dim": 4, "key_groups": 1, **settings}
    return Config.model_validate(options).build(encoder)


def direct_keys(moco: MoCo, views: Tensor) -> Tensor:
    """Keys without shuffling, groups or queue."""
    with torch.no_grad():
        return F.normalize(moco.key_projector(moco.key_encoder(views)), dim=1)


def test_the_keys_of_a_step_are_no_negatives_of_the_same_step(mean_colour: Build) -> None:
    # With a queue of the batch's size, keys that entered before the loss would replace them all.
    torch.manual_seed(0)
    moco = method(mean_colour(), queue=4, momentum=1.0, symmetric=False)
    one, two = clips(4), clips(4)
    before = moco.queue.rows.clone()
    with torch.no_grad():
        q = F.normalize(moco.projector(moco.encoder(one)), dim=1)
    keys = direct_keys(moco, two)
    expected = info_nce(q, keys, before, 0.2).item()
    assert moco(Batch((one, two))).loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(moco.queue.rows, keys, atol=1e-6)
    assert info_nce(q, keys, moco.queue.rows, 0.2).item() != pytest.approx(expected, rel=1e-3)


def test_both_clips_are_queries_and_both_keys_enter(mean_colour: Build) -> None:
    torch.manual_seed(0)
    moco = method(mean_colour(), queue=8, momentum=1.0)
    one, two = clips(4), clips(4)
    before = moco.queue.rows.clone()
    losses = []
    for query, key in ((one, two), (two, one)):
        with torch.no_grad():
            q = F.normalize(moco.projector(moco.encoder(query)), dim=1)
        losses.append(info_nce(q, direct_keys(moco, key), before, 0.2).item())
    assert moco(Batch((one, two))).loss.item() == pytest.approx(sum(losses) / 2, rel=1e-5)
    expected = torch.cat([direct_keys(moco, one), direct_keys(moco, two)])
    assert torch.allclose(moco.queue.rows, expected, atol=1e-6)


def test_the_average_moves_before_the_keys_are_made(mean_colour: Build) -> None:
    torch.manual_seed(0)
    for momentum in (0.0, 1.0, 0.5):
        moco = method(mean_colour(), momentum=momentum, symmetric=False, queue=4)
        mix, key_mix = (dict(e.named_parameters())["mix"] for e in (moco.encoder, moco.key_encoder))
        old = key_mix.clone()
        with torch.no_grad():
            mix.add_(torch.randn(3, 3))
        two = clips(4)
        moco(Batch((clips(4), two)))
        average = momentum * old + (1 - momentum) * mix.detach()
        assert torch.allclose(key_mix, average)
        # The keys that entered are those of the moved average.
        assert torch.allclose(moco.queue.rows, direct_keys(moco, two), atol=1e-6)


def test_the_average_rests_outside_training(mean_colour: Build) -> None:
    moco = method(mean_colour(), momentum=0.0).eval()
    before = [p.clone() for p in moco.key_projector.parameters()]
    with torch.no_grad():
        for parameter in moco.projector.parameters():
            parameter.add_(1.0)
    moco(Batch((clips(4), clips(4))))
    assert all(
        torch.equal(*pair) for pair in zip(before, moco.key_projector.parameters(), strict=True)
    )


def test_no_gradient_reaches_keys_or_queue(mean_colour: Build) -> None:
    moco = method(mean_colour())
    moco(Batch((clips(4), clips(4)))).loss.backward()
    trained = {name for name, p in moco.named_parameters() if p.grad is not None}
    assert trained == {
        name for name, _ in moco.named_parameters() if name.startswith(("encoder.", "projector."))
    }
    assert not any(p.requires_grad for p in moco.key_encoder.parameters())
    assert not moco.queue.rows.requires_grad


def test_statistics_of_the_keys_are_those_of_the_key_encoders_own_clips(normed: Build) -> None:
    moco = method(normed(), momentum=0.0, symmetric=False)
    moco(Batch((clips(6, scale=1.0), clips(6, scale=10.0))))
    spread, key_spread = (
        dict(e.named_buffers())["norm.running_var"].mean() for e in (moco.encoder, moco.key_encoder)
    )
    assert key_spread > 5 * spread


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("step", [0, 1, 17])
def test_keys_come_back_in_the_order_of_their_clips(groups: int, step: int, normed: Build) -> None:
    # Outside training a key depends on its own clip alone, however it was shuffled.
    torch.manual_seed(0)
    moco = method(normed(), key_groups=groups).eval()
    views = clips(7)
    keys = moco._keys(views, np.random.default_rng(step))
    assert torch.allclose(keys, direct_keys(moco, views), atol=1e-6)


def test_groups_have_statistics_of_their_own_and_change_with_the_step(normed: Build) -> None:
    torch.manual_seed(0)
    together, apart = method(normed(), key_groups=1), method(normed(), key_groups=2)
    apart.load_state_dict(together.state_dict())
    views = clips(8) + torch.randn(8, 3, 1, 1, 1)

    def keys(moco: MoCo, seed: int) -> Tensor:
        return moco._keys(views, np.random.default_rng(seed))

    assert not torch.allclose(keys(together, 0), keys(apart, 0), atol=1e-3)
    assert torch.equal(keys(apart, 0), keys(apart, 0))
    assert not torch.allclose(keys(apart, 0), keys(apart, 1), atol=1e-3)


def test_the_shuffle_is_another_for_every_step_and_every_run(normed: Build) -> None:
    torch.manual_seed(0)
    first = method(normed(), key_groups=2, momentum=1.0)
    views = tuple(clips(8) + torch.randn(8, 3, 1, 1, 1) for _ in range(2))

    def keys(step: int, seed: int) -> Tensor:
        moco = copy.deepcopy(first)
        moco(Batch(views, step, seed=seed))
        return moco.queue.rows[:8]

    assert torch.equal(keys(3, 1), keys(3, 1))
    assert not torch.allclose(keys(3, 1), keys(4, 1), atol=1e-3)
    assert not torch.allclose(keys(3, 1), keys(3, 2), atol=1e-3)


def test_groups_that_do_not_divide_the_batch_are_as_equal_as_can_be(normed: Build) -> None:
    moco = method(normed(), key_groups=3)
    sizes: list[int] = []
    moco.key_encoder.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    moco._keys(clips(7), np.random.default_rng(0))
    assert sizes == [3, 2, 2]


def test_without_norms_that_see_the_batch_nothing_is_shuffled() -> None:
    for norm, shuffled in (("batch", True), ("sub-batch", True), ("group", False)):
        encoder = slow.Config(width=8, depths=(1, 1, 1, 1), norm=NormConfig(kind=norm)).build()
        assert method(encoder).shuffled is shuffled
        assert not method(encoder, shuffle=False).shuffled


def test_a_norm_over_all_processes_is_refused_where_keys_are_shuffled() -> None:
    encoder = slow.Config(width=8, depths=(1, 1, 1, 1), norm=NormConfig(kind="sync")).build()
    with pytest.raises(
        RecipeError, match=r"found norm: sync.*take norm: batch, or set method\.shu"
    ):
        method(encoder)
    assert method(encoder, shuffle=False).encoder is encoder


def test_groups_of_one_clip_are_refused_by_name(normed: Build) -> None:
    with pytest.raises(ValueError, match=r"2 groups .* at least 4 clips a step, found 3"):
        Config().require_batch(3)
    Config().require_batch(4)
    Config(key_groups=1).require_batch(2)
    Config(shuffle=False).require_batch(1)
    with pytest.raises(RecipeError, match="at least 4 clips a step, found 3"):
        load(Pretrain, bundled(Pretrain)["moco_small"], ["optim.batch=3"])
    with pytest.raises(RecipeError, match=r"1 group a process .* at least 2 clips a step, found 1"):
        method(normed())(Batch((clips(1), clips(1))))


def test_a_batch_of_one_is_enough_where_no_norm_sees_it(mean_colour: Build) -> None:
    moco = method(mean_colour(), key_groups=2)
    assert math.isfinite(moco(Batch((clips(1), clips(1)))).loss.item())


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_clip_queries_the_keys_of_all_others(count: int, mean_colour: Build) -> None:
    # The mean over ordered pairs of the loss with one positive, by a slow softmax.
    torch.manual_seed(0)
    moco = method(mean_colour(), clips=count, queue=5 * count + 3, momentum=1.0, temperature=0.3)
    assert moco.num_views == count
    views = tuple(clips(5) for _ in range(count))
    before = moco.queue.rows.clone()
    with torch.no_grad():
        queries = [F.normalize(moco.projector(moco.encoder(view)), dim=1) for view in views]
    keys = [direct_keys(moco, view) for view in views]
    terms = []
    for i, j in itertools.permutations(range(count), 2):
        for q, k in zip(queries[i], keys[j], strict=True):
            others = sum(math.exp(float(q @ row) / 0.3) for row in before)
            own = math.exp(float(q @ k) / 0.3)
            terms.append(-math.log(own / (own + others)))
    loss = moco(Batch(views)).loss.item()
    assert loss == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    # All keys enter together, after the losses.
    assert torch.allclose(moco.queue.rows[: 5 * count], torch.cat(keys), atol=1e-6)
    assert torch.equal(moco.queue.rows[5 * count :], before[5 * count :])
    assert moco.queue.steps.item() == 1


def test_the_image_form_has_one_query_and_one_key() -> None:
    with pytest.raises(ValueError, match="symmetric: false is for clips: 2, found clips: 3"):
        Config(symmetric=False, clips=3)


@pytest.mark.parametrize(("layers", "weights"), [(1, 262_272), (2, 4_458_624), (3, 8_654_976)])
def test_the_heads_have_the_published_numbers_of_weights(layers: int, weights: int) -> None:
    with torch.device("meta"):
        encoder = slow.Config().build()
    projector = Config(layers=layers, queue=8).build(encoder).projector
    assert sum(p.numel() for p in projector.parameters()) == weights
    assert sum(p.numel() for p in encoder.parameters()) == 31_634_496


@pytest.mark.parametrize("family", FAMILIES)
def test_every_backbone_is_taken(family: str) -> None:
    config = importlib.import_module(f"vidssl.backbones.{family}").Config()
    with torch.device("meta"):
        moco = Config(queue=8).build(config.build())
        assert moco.projector(torch.empty(2, moco.encoder.features)).shape == (2, 128)
    trained = [name for name, p in moco.named_parameters() if p.requires_grad]
    assert all(name.startswith(("encoder.", "projector.")) for name in trained)


def test_equal_features_and_a_queue_of_them_cost_a_blind_guess(mean_colour: Build) -> None:
    # All logits are equal: the log of 1 + K, 11.0904 for K = 65536.
    moco = method(mean_colour(), queue=65536, momentum=0.0)
    torch.nn.init.zeros_(moco.projector.get_parameter("2.weight"))
    bias = moco.projector.get_parameter("2.bias").detach()  # what is left, the same for all
    moco.queue.rows.copy_(F.normalize(bias, dim=0).expand(65536, 4))
    assert moco(Batch((clips(4), clips(4)))).loss.item() == pytest.approx(11.0904, abs=1e-3)


def test_the_momentum_rises_to_one_along_a_cosine_if_asked(mean_colour: Build) -> None:
    moco = method(mean_colour(), momentum=0.994, anneal=True)
    for progress, expected in ((0.0, 0.994), (0.5, 0.997), (1.0, 1.0)):
        moco.after_step(progress)
        assert moco.momentum.value == pytest.approx(expected)
    steady = method(mean_colour(), momentum=0.994)
    steady.after_step(0.5)
    assert steady.momentum.value == pytest.approx(0.994)


def test_its_scalars_are_those_of_all_methods_and_only_where_they_are_logged(
    mean_colour: Build,
) -> None:
    moco = method(mean_colour())
    views = (clips(8), clips(8))
    health = {"positive_similarity", "negative_similarity", "top1", "feature_std", "effective_rank"}
    scalars = moco(Batch(views)).scalars
    assert scalars.keys() == {*health, "queue_age"}
    assert scalars["queue_age"].item() == 1.0  # all rows are of the beginning
    assert not moco(Batch(views, watched=False)).scalars


def test_a_picture_that_is_no_number_stops_the_training_before_a_weight_changes() -> None:
    moco = method(slow.Config(width=8, depths=(1, 1, 1, 1), frames=4).build())
    before = [p.clone() for p in moco.encoder.parameters()]
    plan = Plan(OptimConfig(lr=0.1, batch=2, steps=1), steps=1, seed=0)
    views = (torch.full((2, 3, 4, 32, 32), math.nan), torch.zeros(2, 3, 4, 32, 32))
    with pytest.raises(CheckpointError, match="the loss became nan at step 0"):
        Trainer(moco, plan, torch.device("cpu")).train_step(Batch(views, watched=False))
    assert all(torch.equal(*pair) for pair in zip(before, moco.encoder.parameters(), strict=True))


def test_a_training_that_goes_on_equals_one_that_never_stopped() -> None:
    torch.manual_seed(0)
    plan = Plan(OptimConfig(lr=0.05, batch=4, steps=6), steps=6, seed=0)

    def trainer() -> Trainer:
        encoder = slow.Config(width=8, depths=(1, 1, 1, 1), frames=4).build()
        return Trainer(method(encoder, key_groups=2, anneal=True), plan, torch.device("cpu"))

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        views = (torch.randn(4, 3, 4, 32, 32, generator=generator) for _ in range(2))
        return Batch(tuple(views), step)

    one, other = trainer(), trainer()
    for step in range(3):
        one.train_step(batch(step))
    other.restore(copy.deepcopy(one.state()))
    for step in range(3, 6):
        assert one.train_step(batch(step)) == other.train_step(batch(step))
    ours, theirs = (run.module.state_dict() for run in (one, other))
    assert ours.keys() == theirs.keys() >= {"queue.rows", "queue.pointer", "momentum._extra_state"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_tells_videos_apart_and_does_not_collapse(mean_colour: Build) -> None:
    # 64 videos, each a colour; two clips of one share it, up to noise.
    torch.manual_seed(0)
    moco = method(mean_colour(), queue=64, hidden=32, dim=8, momentum=0.9, temperature=0.2)
    colours = torch.randn(64, 3, 1, 1, 1)
    optimizer = torch.optim.SGD([p for p in moco.parameters() if p.requires_grad], lr=0.05)
    history = []
    for step in range(150):
        chosen = colours[torch.randperm(64)[:16]]
        views = tuple(chosen + clips(16, scale=0.3) for _ in range(2))
        output = moco(Batch(views, step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        history.append(
            {"loss": output.loss.item(), **{k: float(v) for k, v in output.scalars.items()}}
        )
    first, last = history[5:15], history[-10:]

    def mean(rows: list[dict[str, float]], name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    assert mean(last, "loss") < mean(first, "loss") - 0.5
    assert mean(last, "feature_std") > 0.6
    assert mean(last, "positive_similarity") > mean(last, "negative_similarity") + 0.5


RANKS = """
import json

import torch
import torch.nn.functional as F
from torch import nn

from vidssl.backbones import Encoder
from vidssl.methods import Batch
from vidssl.methods.moco import Config
from vidssl.nn.distributed import joined, rank

torch.set_num_threads(1)


class Normed(Encoder):
    features = 3
    spatial_stride = temporal_stride = 1

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm3d(3)

    def maps(self, clips):
        return self.norm(clips)


def build():  # outside training, so that a key depends on its own clip however it was shuffled
    torch.manual_seed(0)
    options = {"queue": 20, "hidden": 6, "dim": 4, "momentum": 1.0}
    return Config(**options).build(Normed()).eval()


torch.manual_seed(1)
one, two = (torch.randn(8, 3, 2, 4, 4) for _ in range(2))
alone = build()
with torch.no_grad():
    keys = [F.normalize(alone.key_projector(alone.key_encoder(c)), dim=1) for c in (one, two)]
alone_loss = alone(Batch((one, two), 3)).loss  # before there is a group
with joined():
    moco = build()
    share = slice(4 * rank(), 4 * rank() + 4)
    loss = moco(Batch((one[share], two[share]), 3)).loss
    print(json.dumps({
        "loss": loss.item(),
        "alone": alone_loss.item(),
        "queue": (moco.queue.rows - alone.queue.rows).abs().max().item(),
        "keys": (moco.queue.rows[:16] - torch.cat(keys)).abs().max().item(),
        "pointer": moco.queue.pointer.item(),
    }))
"""


def test_two_processes_share_keys_and_queue_as_one_would(
    in_two_processes: Callable[..., list[str]],
) -> None:
    # 8 clips, 4 a process: the keys of both clips enter, 16 in all, in the whole batch's order.
    said = [json.loads(out) for out in in_two_processes(RANKS)]
    for seen in said:
        assert seen["pointer"] == 16
        assert seen["queue"] == pytest.approx(0, abs=1e-6)
        assert seen["keys"] == pytest.approx(0, abs=1e-6)
    # The loss is a mean over clips: that of all is the mean of both shares.
    assert (said[0]["loss"] + said[1]["loss"]) / 2 == pytest.approx(said[0]["alone"], rel=1e-5)
    assert said[0]["loss"] != pytest.approx(said[1]["loss"], rel=1e-4)


def test_two_processes_have_loss_and_gradients_of_one_where_nothing_is_shuffled(
    two_processes_equal_one: Callable[..., None],
) -> None:
    backbone = {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 4, "norm": "sync"}
    options = {"queue": 20, "hidden": 16, "dim": 8, "shuffle": False, "clips": 3}
    two_processes_equal_one({"name": "moco", **options}, backbone, views=3, strides=(2, 2, 2))
