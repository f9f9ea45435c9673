"""Which share of the learning rate each stage has, by hand; and that the optimizer gives it."""

import pytest
import torch
from torch import nn

from vidssl.backbones import BackboneConfig, mvit, r3d, resnet18_3d, slow, slowfast, x3d
from vidssl.recognition.recogniser import HeadConfig, Recogniser
from vidssl.train.depth import rate_shares
from vidssl.train.optim import OptimConfig, optimizer, set_rate


def recogniser(config: BackboneConfig) -> nn.Module:
    with torch.device("meta"):
        return Recogniser(config.build(), HeadConfig(scaling="batch"), num_classes=3)


def shares_by(config: BackboneConfig, *parts: str) -> dict[str, set[float]]:
    """The shares of the weights below each part of the encoder's names, and of the head's."""
    found = rate_shares(recogniser(config), 0.5)
    at = "classifier.encoder."
    own = {
        part: {share for name, share in found.items() if name.startswith(f"{at}{part}.")}
        for part in parts
    }
    own["head"] = {share for name, share in found.items() if not name.startswith(at)}
    return own


def test_a_stage_has_half_the_rate_of_the_one_above() -> None:
    found = shares_by(slow.Config(depths=(1, 1, 1, 1)), *(f"trunk.{s}" for s in STAGES))
    # stem, res2, res3, res4, res5, head: 1/32, 1/16, 1/8, 1/4, 1/2, 1.
    assert found == {
        **{f"trunk.{stage}": {2.0 ** (n - 5)} for n, stage in enumerate(STAGES)},
        "head": {1.0},
    }


STAGES = ("stem", "res2", "res3", "res4", "res5")


def test_the_pathways_of_a_stage_and_what_leaves_it_have_one_rate() -> None:
    config = slowfast.Config(depths=(1, 1, 1, 1))
    names = [f"{path}.{stage}" for path in ("slow", "fast") for stage in STAGES]
    found = shares_by(config, *names, *(f"laterals.{n}" for n in range(4)))
    for n, stage in enumerate(STAGES):
        assert found[f"slow.{stage}"] == found[f"fast.{stage}"] == {2.0 ** (n - 5)}
        if stage != "res5":
            assert found[f"laterals.{n}"] == {2.0 ** (n - 5)}


def test_other_families_have_stages_too() -> None:
    both_ends = shares_by(r3d.Config(local_branch=True), "trunk.res4", "trunk.res5", "local")
    assert (both_ends["trunk.res5"], both_ends["local"]) == ({0.5}, {0.5})
    layers = shares_by(resnet18_3d.Config(), "trunk.stem", "trunk.layer1", "trunk.layer4")
    assert [layers[f"trunk.{part}"] for part in ("stem", "layer1", "layer4")] == [
        *({1 / 32}, {1 / 16}, {1 / 2})
    ]
    blocks = shares_by(x3d.Config(), "trunk.blocks.0", "trunk.blocks.5")
    assert (blocks["trunk.blocks.0"], blocks["trunk.blocks.5"]) == ({2.0**-6}, {0.5})


def test_what_comes_before_the_first_block_lies_lowest() -> None:
    # The stem of 16 blocks: 1 / 2 ** 17; block 0 above it, the last norm with block 15.
    found = shares_by(
        mvit.Config(),
        *("trunk.patch_embed", "trunk.blocks.0", "trunk.blocks.15", "trunk.norm_embed"),
    )
    assert found["trunk.patch_embed"] == {2.0**-17}
    assert found["trunk.blocks.0"] == {2.0**-16}
    assert found["trunk.blocks.15"] == found["trunk.norm_embed"] == {0.5}


def test_without_an_encoder_or_a_decay_all_weights_have_the_whole_rate() -> None:
    assert set(rate_shares(nn.Linear(2, 2), 0.5).values()) == {1.0}
    assert set(rate_shares(recogniser(slow.Config()), 1.0).values()) == {1.0}


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lars"])
def test_each_weight_is_in_one_group_with_its_rate_and_its_decay(kind: str) -> None:
    module = recogniser(slow.Config(depths=(1, 1, 1, 1)))
    values = {"optimizer": kind, "lr": 0.4, "batch": 8, "steps": 10, "weight_decay": 0.1}
    config = OptimConfig.model_validate({**values, "layer_decay": 0.5})
    made = optimizer(module, config)
    set_rate(made, 0.2)
    share_of = rate_shares(module, 0.5)
    group_of = {id(p): group for group in made.param_groups for p in group["params"]}
    count = sum(len(group["params"]) for group in made.param_groups)
    names = [name for name, _ in module.named_parameters()]
    assert count == len(group_of) == len(names)
    for name, weight in module.named_parameters():
        group = group_of[id(weight)]
        assert group["lr"] == pytest.approx(0.2 * share_of[name])
        assert group["weight_decay"] == (0.1 if weight.ndim > 1 else 0.0)
        if kind == "lars":
            assert group["trust"] == (0.001 if weight.ndim > 1 else None)


def test_a_step_moves_each_stage_by_its_share() -> None:
    torch.manual_seed(0)
    config = slow.Config(width=8, depths=(1, 1, 1, 1), frames=2)
    module = Recogniser(config.build(), HeadConfig(), num_classes=3)
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    plan = OptimConfig(lr=1.0, batch=8, steps=10, momentum=0.0, weight_decay=0.0, layer_decay=0.5)
    made = optimizer(module, plan)
    for weight in module.parameters():
        weight.grad = torch.ones_like(weight)
    set_rate(made, 0.1)
    made.step()
    moved = {
        name: (before[name] - weight.detach()).mean().item()
        for name, weight in module.named_parameters()
    }
    at = "classifier.encoder.trunk"
    assert moved["classifier.classifier.bias"] == pytest.approx(0.1)
    for stage, expected in (("stem", 0.1 / 32), ("res4", 0.1 / 4)):
        found = [moved[name] for name in moved if name.startswith(f"{at}.{stage}.")]
        assert len(found) > 2
        assert found == pytest.approx([expected] * len(found), rel=1e-3)


def test_without_a_decay_there_are_two_groups_as_ever() -> None:
    module = recogniser(slow.Config())
    groups = optimizer(module, OptimConfig(lr=0.1, batch=8, steps=10)).param_groups
    assert len(groups) == 2
    assert not any("lr_share" in group for group in groups)
