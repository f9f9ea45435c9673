"""Un-Mix and CO2 on the methods that offer them: identities, and nothing else touched."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.augment.mixing import Mix, UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder, r3d, slow
from vidssl.errors import RecipeError
from vidssl.methods import (
    Batch,
    SSLMethod,
    byol,
    const_cl,
    cvrl,
    moco,
    mocov3,
    simclr,
    swav,
    teg,
)
from vidssl.nn.changes import difference
from vidssl.nn.contrast import info_nce
from vidssl.nn.prototypes import equal_codes
from vidssl.recipe import Pretrain, bundled, load

CONFIGS: dict[str, Any] = {
    "byol": byol.Config,
    "const_cl": const_cl.Config,
    "cvrl": cvrl.Config,
    "moco": moco.Config,
    "mocov3": mocov3.Config,
    "simclr": simclr.Config,
    "swav": swav.Config,
    "teg": teg.Config,
}
SIZES: dict[str, Any] = {"moco": {"queue": 20}, "swav": {"prototypes": 10}}
WITHOUT_NEGATIVES = {"byol", "swav"}


class Always(UnmixConfig):
    """The same mix in every step."""

    mix: Mix

    def draw(self, seed: int, step: int, clips_BCTHW: Tensor) -> Mix:
        return self.mix


def made(name: str, **options: object) -> Any:
    """Build a method with options, always from the same weights."""
    torch.manual_seed(0)
    shape: Any = {"width": 8, "depths": (1, 1, 1, 1), "frames": 4}
    two_ends = r3d.Config(**shape, local_branch=True, form="detection")
    encoder = (two_ends if name == "const_cl" else slow.Config(**shape)).build()
    return CONFIGS[name](**{"hidden": 16, "dim": 8, **SIZES.get(name, {}), **options}).build(
        encoder
    )


@pytest.fixture(params=CONFIGS)
def build(request: pytest.FixtureRequest) -> Callable[..., SSLMethod]:
    def make(**options: object) -> SSLMethod:
        method: SSLMethod = made(request.param, **options)
        return method

    return make


@pytest.fixture(params=sorted(CONFIGS.keys() - WITHOUT_NEGATIVES))
def contrastive(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch(step: int = 0) -> Batch:
    """Two views of 6 videos, a long clip and a short one inside it, with random boxes."""
    generator = torch.Generator().manual_seed(step)
    views = tuple(torch.randn(6, 3, 4, 32, 32, generator=generator) for _ in range(2))
    frames = torch.arange(4, dtype=torch.float64) / 30 + torch.zeros(6, 1)
    plain = Batch(views, step, seeds=tuple(range(6)), times_s=(4 * frames, 2 * frames + 0.1))
    return const_cl.Config(regions=3).prepare(plain)


def gradients(method: SSLMethod) -> dict[str, Tensor]:
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
def test_options_that_are_off_leave_loss_and_gradients_to_the_last_bit(name: str) -> None:
    off: dict[str, object] = {"unmix": UnmixConfig(prob=0.0, beta=3.0, region="time")}
    if name not in WITHOUT_NEGATIVES:
        off["co2"] = {"alpha": 0.0, "temperature": 0.5}
    one, other = made(name), made(name, **off)
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


def test_a_mix_that_is_one_of_the_two_clips_doubles_the_loss(
    build: Callable[..., SSLMethod],
) -> None:
    # Of 0, the mixture is the clip that it is mixed with, and it alone counts. With fixed norms:
    # in training some methods have both views share a norm's statistics, and a mixture its own.
    base = build().eval()(batch())
    again = base.scalars.get("global_loss", base.loss)  # ConST-CL's regions are not mixed
    expected = pytest.approx((base.loss + again).item(), rel=1e-5)
    for mix in (Mix(1.0), Mix(1.0, (5, 5, 5, 9)), Mix(1.0, frames=(2, 2)), Mix(0.0)):
        assert build(unmix=Always(mix=mix)).eval()(batch()).loss.item() == expected


@pytest.mark.parametrize("mix", [Mix(0.3), Mix(0.6, (4, 4, 20, 30))])
@pytest.mark.parametrize("name", ["const_cl", "cvrl", "simclr", "teg"])
def test_a_mixture_counts_as_a_first_clip_by_what_it_keeps(name: str, mix: Mix) -> None:
    # The second mixture has of each clip what the first gave away: it is the first in reverse.
    plain, mixed = made(name).eval(), made(name, unmix=Always(mix=mix)).eval()
    given = batch()
    one, two = given.views
    blend = mix_reversed(one, mix)
    outputs = [plain(replace(given, views=(first, two))) for first in (blend, blend.flip(0))]
    kept, taken = (output.scalars.get("global_loss", output.loss) for output in outputs)
    expected = plain(given).loss + mix.keep * kept + (1 - mix.keep) * taken
    assert mixed(given).loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_encoder_that_sees_changes_is_shown_them_alone(name: str) -> None:
    unmix = Always(prob=1.0, mix=Mix(0.6, (4, 4, 20, 30)))
    shown, seeing = made(name, unmix=unmix), made(name, unmix=unmix)
    for module in seeing.modules():
        if isinstance(module, Encoder):
            module.sees = "changes"
    frames = batch()
    changes = replace(frames, views=tuple(difference(view) for view in frames.views))
    expected = shown(shown.config.prepare(changes)).loss
    found = seeing(seeing.config.prepare(frames)).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert found.item() != pytest.approx(shown(shown.config.prepare(frames)).loss.item(), rel=1e-3)


def slow_byol(method: Any, p: Tensor, target: Tensor) -> Tensor:
    return 2 - 2 * (F.normalize(p, dim=1) * F.normalize(target, dim=1)).sum(dim=1).mean()


def plain_prediction(method: Any, clips: Tensor) -> Any:
    return method.predictor(method.projector(method.encoder(clips)))


def slow_swav(method: Any, scores: Tensor, codes: Tensor) -> Tensor:
    log_BK = (scores / float(method.config.temperature)).log_softmax(dim=1)
    return -(codes * log_BK).sum(dim=1).mean()


def plain_scores(method: Any, clips: Tensor) -> Any:
    return method.prototypes(method._features(clips))


def plain_codes(method: Any, clips: Tensor) -> Tensor:
    return equal_codes(plain_scores(method, clips), 0.05, 3)


def slow_mocov3(method: Any, q: Tensor, keys: Tensor) -> Tensor:
    own = torch.arange(len(q))
    return 2 * -(q @ keys.T).log_softmax(dim=1)[own, own].mean()  # the temperature is 1


@pytest.mark.parametrize("name", ["byol", "mocov3", "swav"])
def test_every_clip_s_mixture_is_compared_with_what_both_of_its_clips_have(name: str) -> None:
    # Against targets in reverse order, where the method reverses the mixtures.
    mix = Mix(0.6, (4, 4, 20, 30))
    plain, mixed = made(name).eval(), made(name, unmix=Always(mix=mix)).eval()
    views = batch().views
    parts: dict[str, tuple[Callable[..., Any], ...]] = {
        "byol": (slow_byol, plain_prediction, byol.BYOL._target),
        "mocov3": (slow_mocov3, mocov3.MoCoV3._queries, mocov3.MoCoV3._keys),
        "swav": (slow_swav, plain_scores, plain_codes),
    }
    cost, asks, tells = parts[name]
    found = [asks(plain, mix_reversed(clips, mix)) for clips in views]
    right = [tells(plain, clips) for clips in views]
    extra = sum(
        0.6 * cost(plain, found[i], right[j]) + 0.4 * cost(plain, found[i], right[j].flip(0))
        for i, j in ((0, 1), (1, 0))
    )
    share = 2 if name == "swav" else 1  # a mean over pairs; the others sum them
    expected = plain(batch()).loss + extra / share
    assert mixed(batch()).loss.item() == pytest.approx(expected.item(), rel=1e-5)


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


def test_the_consistency_is_added_by_its_weight_and_has_a_gradient(contrastive: str) -> None:
    term = {"teg": 0.5, "const_cl": 0.3}.get(contrastive, 1.0)  # the weight of the term it is in
    options = {"local_weight": term} if contrastive == "const_cl" else {}
    plain, light, heavy = (
        made(contrastive, co2={"alpha": alpha}, **options) for alpha in (0.0, 0.5, 2.0)
    )
    outputs = [method(batch()) for method in (plain, light, heavy)]
    base, differs = outputs[0].loss.item(), outputs[1].scalars["consistency"].item()
    assert differs > 1e-3
    assert outputs[1].loss.item() == pytest.approx(base + 0.5 * term * differs, rel=1e-5)
    assert outputs[2].loss.item() == pytest.approx(base + 2.0 * term * differs, rel=1e-5)
    for output in outputs:
        output.loss.backward()
    without, half, two = (gradients(method) for method in (plain, light, heavy))
    name = {
        "teg": "persistent.0.weight",
        "const_cl": "reconstructor.last.weight",
    }.get(contrastive, "projector.0.weight")
    change = half[name] - without[name]
    assert change.abs().max() > 1e-3 * without[name].abs().max()
    # The loss is linear in the weight, and so is its gradient.
    torch.testing.assert_close(two[name] - without[name], 4 * change, rtol=1e-3, atol=1e-5)


def test_draws_follow_the_step_and_the_run_alone(build: Callable[..., SSLMethod]) -> None:
    method = build(unmix={"prob": 1.0, "global_share": 1.0})
    given = batch()

    def loss(step: int, seed: int) -> float:
        torch.manual_seed(step)  # what else is drawn is of no matter
        loss: float = copy.deepcopy(method)(replace(given, step=step, seed=seed)).loss.item()
        return loss

    if isinstance(method, moco.MoCo):
        method.shuffled = False
    once = loss(3, 1)
    assert once == loss(3, 1)
    assert once != loss(4, 1)
    assert once != loss(3, 2)


@pytest.mark.parametrize("name", ["byol", "moco", "mocov3", "simclr", "swav"])
def test_options_train_all_weights_with_three_clips(name: str) -> None:
    options: dict[str, Any] = {"clips": 3, "unmix": {"prob": 1.0}}
    if name not in WITHOUT_NEGATIVES:
        options["co2"] = {"alpha": 0.3}
    method = made(name, **options)
    output = method(Batch(tuple(torch.randn(4, 3, 4, 32, 32) for _ in range(3))))
    output.loss.backward()
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert gradients(method).keys() == trained
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("name", ["const_cl", "teg"])
def test_options_train_all_weights_of_two_terms(name: str) -> None:
    method = made(name, unmix={"prob": 1.0}, co2={"alpha": 0.3})
    output = method(batch())
    output.loss.backward()
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert gradients(method).keys() == trained
    assert torch.isfinite(output.loss)


def test_const_cl_mixes_the_global_branch_whichever_the_encoder_stands_for() -> None:
    losses, local_steps = [], []
    for branch in ("global", "local"):
        method = made("const_cl", unmix={"prob": 1.0})
        method.encoder.maps_from = branch
        losses.append(method(batch()).loss.item())
        norm = next(m for m in method.encoder.local.modules() if hasattr(m, "running_mean"))
        local_steps.append(int(norm.num_batches_tracked))
    assert losses[0] == losses[1]
    assert local_steps == [1, 1]  # the local branch sees no mixture


@pytest.mark.parametrize("name", ["cvrl", "mocov3", "simclr", "teg"])
def test_consistency_among_two_clips_is_refused(name: str) -> None:
    told = "co2 .* at least 3 clips a step over all processes, found 2"
    recipe = bundled(Pretrain)[f"{name}_small"]
    with pytest.raises(RecipeError, match=told):
        load(Pretrain, recipe, ["optim.batch=2", "method.co2.alpha=1"])
    load(Pretrain, recipe, ["optim.batch=3", "method.co2.alpha=1"])
    with pytest.raises(RecipeError, match=r"method.unmix.prob: .*less than or equal to 1"):
        load(Pretrain, recipe, ["method.unmix.prob=2"])


def test_regions_are_enough_for_consistency_of_two_videos() -> None:
    recipe = bundled(Pretrain)["const_cl_small"]
    load(Pretrain, recipe, ["optim.batch=2", "method.co2.alpha=1"])
    with pytest.raises(RecipeError, match=r"co2 .* at least 3 clips a step"):
        load(Pretrain, recipe, ["optim.batch=2", "method.co2.alpha=1", "method.regions=1"])


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("byol", ["co2.alpha=1"], "method.co2"),
        ("swav", ["co2.alpha=1"], "method.co2"),
        ("ctp", ["co2.alpha=1"], "method.co2"),
        ("ctp", ["unmix.prob=1"], "method.unmix"),
        ("const_cl", ["co2.alpha=1", "local_weight=0"], "expected local_weight above 0"),
        ("teg", ["co2.alpha=1", "fine_weight=1"], "expected fine_weight below 1"),
        ("teg", ["unmix.prob=1", "unmix.region=time"], "expected unmix.region: space"),
    ],
)
def test_an_option_without_a_term_to_act_on_is_refused(
    name: str, settings: list[str], told: str
) -> None:
    changes = [f"method.{setting}" for setting in settings]
    with pytest.raises(RecipeError, match=told):
        load(Pretrain, bundled(Pretrain)[f"{name}_small"], changes)


def test_teg_mixes_in_time_where_moments_do_not_matter() -> None:
    settings = ["method.unmix.prob=1", "method.unmix.region=time", "method.fine_weight=0"]
    plan = load(Pretrain, bundled(Pretrain)["teg_small"], settings)
    assert plan.method.model_dump()["unmix"]["region"] == "time"
