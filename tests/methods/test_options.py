"""Un-Mix and CO2 on the methods that offer them: identities, and nothing else touched."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vidssl.augment.mixing import Mix, UnmixConfig, mix_reversed, of_both
from vidssl.backbones import slow
from vidssl.errors import RecipeError
from vidssl.methods import Batch, SSLMethod, cvrl, moco, simclr
from vidssl.nn.contrast import info_nce
from vidssl.recipe import Pretrain, bundled, load

METHODS = ["cvrl", "moco", "simclr"]
CONFIGS: dict[str, Any] = {"cvrl": cvrl.Config, "moco": moco.Config, "simclr": simclr.Config}


class Always(UnmixConfig):
    """The same mix in every step."""

    mix: Mix

    def draw(self, seed: int, step: int, clips_BCTHW: Tensor) -> Mix:
        return self.mix


@pytest.fixture(params=METHODS)
def build(request: pytest.FixtureRequest) -> Callable[..., SSLMethod]:
    """Build one method with options, always from the same weights."""

    def make(**options: object) -> SSLMethod:
        torch.manual_seed(0)
        encoder = slow.Config(width=8, depths=(1, 1, 1, 1), frames=4).build()
        sizes = {"hidden": 16, "dim": 8, **({"queue": 20} if request.param == "moco" else {})}
        method: SSLMethod = CONFIGS[request.param](**sizes, **options).build(encoder)
        return method

    return make


def batch(step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    views = (torch.randn(6, 3, 4, 32, 32, generator=generator) for _ in range(2))
    return Batch(tuple(views), step)


def gradients(method: SSLMethod) -> dict[str, Tensor]:
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "off",
    [
        {"unmix": UnmixConfig(prob=0.0, beta=3.0, region="time")},
        {"co2": {"alpha": 0.0, "temperature": 0.5}},
    ],
)
def test_an_option_that_is_off_leaves_loss_and_gradients_to_the_last_bit(
    build: Callable[..., SSLMethod], off: dict[str, object]
) -> None:
    one, other = build(), build(**off)
    outputs = [method(batch()) for method in (one, other)]
    for output in outputs:
        output.loss.backward()
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    assert outputs[0].scalars.keys() == outputs[1].scalars.keys()
    ours, theirs = gradients(one), gradients(other)
    assert ours.keys() == theirs.keys() != set()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(
        torch.equal(*pair)
        for pair in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "mix", [Mix(1.0), Mix(1.0, (5, 5, 5, 9)), Mix(1.0, frames=(2, 2)), Mix(0.0)]
)
def test_a_mix_that_is_one_of_the_two_clips_doubles_the_loss(
    build: Callable[..., SSLMethod], mix: Mix
) -> None:
    # Of 0, the mixture is the clip that it is mixed with, and it alone counts.
    base = build()(batch()).loss.item()
    assert build(unmix=Always(mix=mix))(batch()).loss.item() == pytest.approx(2 * base, rel=1e-5)


@pytest.mark.parametrize("keep", [0.3, 0.75])
def test_mixed_queries_count_by_what_they_keep(keep: float) -> None:
    # Reversing the queries or the keys is the same: a mean over clips does not know their order.
    torch.manual_seed(0)
    q, k = (torch.nn.functional.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    queue = torch.nn.functional.normalize(torch.randn(9, 8), dim=1)
    found = of_both(lambda z: info_nce(z, k, queue, 0.2), q, Mix(keep))
    other = keep * info_nce(q, k, queue, 0.2) + (1 - keep) * info_nce(q, k.flip(0), queue, 0.2)
    assert found.item() == pytest.approx(other.item(), rel=1e-6)
    assert found.item() != pytest.approx(info_nce(q, k, queue, 0.2).item(), rel=1e-3)


def test_a_mix_adds_what_the_formula_says_to_moco() -> None:
    torch.manual_seed(0)
    encoder = slow.Config(width=8, depths=(1, 1, 1, 1), frames=4).build()
    options: dict[str, Any] = {"queue": 20, "hidden": 16, "dim": 8, "shuffle": False}
    mix = Mix(0.6, (4, 4, 20, 30))
    plain = moco.Config(**options, symmetric=False).build(encoder)
    mixed = moco.Config(**options, symmetric=False, unmix=Always(mix=mix)).build(encoder)
    mixed.load_state_dict(plain.state_dict())
    one, two = batch().views
    queue = plain.queue.rows.clone()
    base = plain(Batch((one, two))).loss.item()
    keys = plain.queue.rows[:6]
    q = mixed._query(mix_reversed(one, mix)).detach()
    mirrored = q.flip(0)
    extra = 0.6 * info_nce(q, keys, queue, 0.2) + 0.4 * info_nce(mirrored, keys, queue, 0.2)
    found = mixed(Batch((one, two))).loss.item()
    assert found == pytest.approx(base + extra.item(), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"unmix": {"prob": 1.0}}, {"co2": {"alpha": 1.0}}], ids=["unmix", "co2"]
)
def test_the_queue_is_the_same_with_an_option_and_without(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = slow.Config(width=8, depths=(1, 1, 1, 1), frames=4).build()
    plain = moco.Config(queue=20, hidden=16, dim=8).build(encoder)
    state = copy.deepcopy(plain.state_dict())
    other = moco.Config(queue=20, hidden=16, dim=8, **options).build(copy.deepcopy(encoder))
    other.load_state_dict(state)
    outputs = [method(batch()) for method in (plain, other)]
    assert outputs[0].loss.item() != outputs[1].loss.item()
    assert torch.equal(plain.queue.rows, other.queue.rows)
    assert plain.queue.pointer == other.queue.pointer == 12


def test_the_consistency_is_added_by_its_weight_and_has_a_gradient(
    build: Callable[..., SSLMethod],
) -> None:
    plain, light, heavy = (build(co2={"alpha": alpha}) for alpha in (0.0, 0.5, 2.0))
    outputs = [method(batch()) for method in (plain, light, heavy)]
    base, differs = outputs[0].loss.item(), outputs[1].scalars["consistency"].item()
    assert differs > 1e-3
    assert outputs[1].loss.item() == pytest.approx(base + 0.5 * differs, rel=1e-5)
    assert outputs[2].loss.item() == pytest.approx(base + 2.0 * differs, rel=1e-5)
    for output in outputs:
        output.loss.backward()
    without, half, two = (gradients(method) for method in (plain, light, heavy))
    name = "projector.0.weight"
    change = half[name] - without[name]
    assert change.abs().max() > 1e-3 * without[name].abs().max()
    # The loss is linear in the weight, and so is its gradient.
    torch.testing.assert_close(two[name] - without[name], 4 * change, rtol=1e-3, atol=1e-5)


def test_draws_follow_the_step_and_the_run_alone(build: Callable[..., SSLMethod]) -> None:
    method = build(unmix={"prob": 1.0, "global_share": 1.0})
    views = batch().views

    def loss(step: int, seed: int) -> float:
        torch.manual_seed(step)  # what else is drawn is of no matter
        loss: float = copy.deepcopy(method)(Batch(views, step, seed=seed)).loss.item()
        return loss

    if isinstance(method, moco.MoCo):
        method.shuffled = False
    assert loss(3, 1) == loss(3, 1)
    assert loss(3, 1) != loss(4, 1)
    assert loss(3, 1) != loss(3, 2)


def test_both_options_train_with_three_clips() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"clips": 3, "hidden": 16, "dim": 8, "unmix": {"prob": 1.0}}
    options["co2"] = {"alpha": 0.3}
    views = tuple(torch.randn(4, 3, 4, 32, 32) for _ in range(3))
    for config in (moco.Config(**options, queue=20), simclr.Config(**options)):
        method = config.build(slow.Config(width=8, depths=(1, 1, 1, 1), frames=4).build())
        output = method(Batch(views))
        output.loss.backward()
        trained = {name for name, p in method.named_parameters() if p.requires_grad}
        assert gradients(method).keys() == trained
        assert torch.isfinite(output.loss)


@pytest.mark.parametrize("name", ["cvrl", "simclr"])
def test_consistency_among_two_clips_is_refused(name: str) -> None:
    told = "co2 .* at least 3 clips a step over all processes, found 2"
    recipe = bundled(Pretrain)[f"{name}_small"]
    with pytest.raises(RecipeError, match=told):
        load(Pretrain, recipe, ["optim.batch=2", "method.co2.alpha=1"])
    load(Pretrain, recipe, ["optim.batch=3", "method.co2.alpha=1"])
    with pytest.raises(RecipeError, match=r"method.unmix.prob: .*less than or equal to 1"):
        load(Pretrain, recipe, ["method.unmix.prob=2"])
