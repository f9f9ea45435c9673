"""What all residual families share: the authors' sizes, options, the identity at the start."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import StochasticDepth

from vidssl.backbones import Encoder, c2d, fast, i3d, r3d, resnet_rs, slow, slowfast
from vidssl.backbones._residual import ResNetConfig, SingleConfig, kernels_by_block
from vidssl.jobs.models import multiply_adds
from vidssl.nn.non_local import NonLocal, NonLocalConfig

R101: dict[str, Any] = {"depths": (3, 4, 23, 3)}
PART = {"slow_temporal_blocks": (3, 4, 6, 3), "fast_temporal_blocks": (3, 4, 6, 3)}
R101_16X8 = {**R101, **PART, "fusion_kernel": 5, "frames": 64}
THREE = NonLocalConfig(res4=(6, 13, 20), similarity="dot_product", pool=(2, 2, 2))
FIVE = NonLocalConfig(res3=(1, 3), res4=(1, 3, 5))
NARROW: dict[str, Any] = {"width": 8, "depths": (1, 1, 1, 1), "frames": 8}
FAMILIES: tuple[type[ResNetConfig], ...] = (
    slow.Config,
    fast.Config,
    c2d.Config,
    i3d.Config,
    r3d.Config,
    resnet_rs.Config,
    slowfast.Config,
)


def on_meta(config: ResNetConfig) -> Encoder:
    """Build without memory or arithmetic: enough for names, shapes and counts."""
    with torch.device("meta"):
        return config.build()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def rs(depth: int, **options: Any) -> resnet_rs.Config:
    return resnet_rs.Config(depths=resnet_rs.DEPTHS[depth], **options)


@pytest.mark.parametrize(
    ("config", "classes", "expected"),
    [
        (i3d.Config(), 400, 28_043_472),
        (c2d.Config(), 400, 24_327_632),
        (slowfast.Config(**R101_16X8), 400, 53_774_808),
        (slowfast.Config(**R101_16X8, non_local=THREE), 400, 60_080_088),
        (r3d.Config(), 0, 31_672_128),
        (r3d.Config(), 400, 32_491_728),
        (r3d.Config(**R101), 0, 59_577_152),
        (r3d.Config(depths=(3, 8, 36, 3)), 0, 82_036_544),
        (r3d.Config(depths=(3, 8, 36, 3), width=128), 0, 327_749_248),
        (r3d.Config(local_branch=True), 0, 31_672_128 + 20_207_616),
        (rs(50), 400, 48_129_840),
        (rs(101), 400, 84_969_520),
        (rs(152), 400, 114_788_144),
        (rs(200), 400, 121_376_560),
        (rs(50, self_gating="none"), 400, 42_555_440),
        (rs(50, self_gating="all"), 400, 62_690_096),
    ],
)
def test_parameters_are_the_authors(config: ResNetConfig, classes: int, expected: int) -> None:
    encoder = on_meta(config)
    linear = (encoder.features + 1) * classes
    assert size(encoder) + linear == expected


@pytest.mark.parametrize("norm", ["group", "sync", "sub-batch", "frozen"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_norm_has_batch_norms_parameters(family: type[ResNetConfig], norm: str) -> None:
    other = family.model_validate({"norm": norm})
    assert size(on_meta(other)) == size(on_meta(family.model_validate({})))
    assert not any(type(m) is nn.BatchNorm3d for m in on_meta(other).modules())


# The tolerance is the 0.1 per cent that is left between counters, or half of the last digit.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("config", "crop_px", "gflops"),
    [
        (i3d.Config(), 256, 37.1),
        (c2d.Config(), 256, 25.5),
    ],
)
def test_multiply_adds_are_the_authors(config: ResNetConfig, crop_px: int, gflops: float) -> None:
    encoder = config.build().eval()
    network = nn.Sequential(encoder, nn.Linear(encoder.features, 400))
    counted = counted_by_fvcore(network, torch.zeros(1, 3, config.frames, crop_px, crop_px)) / 1e9
    assert counted == pytest.approx(gflops, rel=1e-3, abs=0.05 if gflops < 100 else 0)


def counted_by_fvcore(network: nn.Module, clips: Tensor) -> float:
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(network, clips)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        by_operator = analysis.by_operator()
    return float(sum(by_operator[name] for name in ("conv", "linear", "matmul", "bmm", "einsum")))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("family", FAMILIES)
def test_both_counters_agree(family: type[ResNetConfig]) -> None:
    options = {**NARROW, "non_local": {"res3": [0], "similarity": "dot_product"}}
    encoder = family.model_validate(options).build().eval()
    clips = torch.zeros(1, 3, 8, 64, 64)
    assert multiply_adds(encoder, clips) == counted_by_fvcore(encoder, clips)


@pytest.mark.parametrize("form", ["clip", "detection"])
@pytest.mark.parametrize("block", ["bottleneck", "basic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_detection_form_has_twice_the_cells_and_the_same_weights(
    family: type[ResNetConfig], block: str, form: str
) -> None:
    config = family.model_validate({"block": block, "form": form})
    encoder, other = on_meta(config), on_meta(family.model_validate({"block": block}))
    map_ = encoder.maps(torch.empty(1, 3, config.frames, 224, 224, device="meta"))
    cells = 7 if form == "clip" else 14
    assert map_.shape == (
        1,
        encoder.features,
        config.frames // encoder.temporal_stride,
        cells,
        cells,
    )
    assert {name: value.shape for name, value in encoder.state_dict().items()} == {
        name: value.shape for name, value in other.state_dict().items()
    }
    dilations = {m.dilation for m in encoder.modules() if isinstance(m, nn.Conv3d)}
    assert dilations == ({(1, 1, 1)} if form == "clip" else {(1, 1, 1), (1, 2, 2)})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "group", "frozen", "sub-batch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_non_local_blocks_and_deeper_stages_change_nothing(
    family: type[ResNetConfig], norm: str, training: bool
) -> None:
    base = {**NARROW, "norm": norm, "depths": (1, 2, 2, 1)}
    if family is resnet_rs.Config:
        base["self_gating"] = "all"  # a deeper stage has another last block
    plain = family.model_validate(base).build()
    deeper = family.model_validate(
        {**base, "depths": (1, 3, 2, 1), "non_local": {"res3": [0, 1], "res4": [1]}}
    ).build()
    missing, unexpected = deeper.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert any("nonlocal" in name for name in missing)
    for module in (*plain.modules(), *deeper.modules()):
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    clips = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        one, other = plain.train(training).maps(clips), deeper.train(training).maps(clips)
    assert one.std() > 0
    assert torch.equal(one, other)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f is not resnet_rs.Config])
def test_drop_path_spares_the_mean_and_nothing_at_test_time(family: type[ResNetConfig]) -> None:
    options = {"width": 8, "depths": (2, 2, 2, 2), "drop_path": 0.3}
    config = family.model_validate(options)
    rates = [m.p for m in config.build().modules() if isinstance(m, StochasticDepth)]
    pathways = 2 if isinstance(config, slowfast.Config) else 1
    rising = [0.3 * block / 7 for block in range(1, 8)]  # the first block has none
    assert sorted(rates) == pytest.approx(sorted(rising * pathways))


def test_drop_path_leaves_out_whole_branches_of_single_clips() -> None:
    torch.manual_seed(0)
    encoder = slow.Config(width=8, depths=(1, 1, 1, 2), frames=2, drop_path=0.5).build()
    block = encoder.get_submodule("trunk.res5.1")
    nn.init.ones_(block.branch.norm3.weight)  # type: ignore[arg-type, union-attr]
    x = torch.rand(64, 256, 2, 2, 2)
    with torch.no_grad():
        out = block.train()(x)
        kept = [not torch.equal(mine, theirs) for mine, theirs in zip(out, x, strict=True)]
        assert 20 < sum(kept) < 44
        # A kept branch counts for the lost ones: divided by the probability of keeping it.
        branch = nn.Sequential(*list(block.branch.children())[:-1])  # type: ignore[union-attr]
        expected = torch.relu(branch(x) / 0.5 + x)
        torch.testing.assert_close(out[torch.tensor(kept)], expected[torch.tensor(kept)])


def gradients(model: nn.Module, clips: Tensor) -> Iterator[tuple[str, Tensor]]:
    torch.manual_seed(7)
    (model(clips) * torch.linspace(-1, 1, 8).view(-1, 1).to(clips)).square().sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None
        yield name, value.grad


@pytest.mark.parametrize("norm", ["batch", "sub-batch", "group"])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_activations_change_no_gradient_and_no_statistic(
    family: type[ResNetConfig], norm: str
) -> None:
    torch.manual_seed(0)
    options = {**NARROW, "frames": 4, "norm": norm, "non_local": {"res3": [0]}}
    if family is not resnet_rs.Config:  # which has rates of its own
        options["drop_path"] = 0.2
    plain = family.model_validate(options).build().double()
    for module in plain.modules():
        if getattr(module, "weight", None) is not None and hasattr(module, "eps"):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # type: ignore[arg-type]
    saving = family.model_validate({**options, "activation_checkpointing": True}).build().double()
    saving.load_state_dict(plain.state_dict())
    clips = torch.rand(8, 3, 4, 32, 32, dtype=torch.double)
    for (name, one), (_, other) in zip(
        gradients(plain, clips), gradients(saving, clips), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-9, msg=name)
    for (name, mine), theirs in zip(saving.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("norm", ["batch", "sub-batch", "group"])
def test_checkpointed_activations_compile_as_one_graph(norm: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {**NARROW, "activation_checkpointing": True, "norm": norm}
    plain = slow.Config.model_validate(options).build().double()
    for module in plain.modules():
        if hasattr(module, "eps"):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # type: ignore[arg-type]
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    clips = torch.rand(8, 3, 8, 32, 32, dtype=torch.double)
    expected = dict(gradients(plain, clips))
    torch.manual_seed(7)
    weights = torch.linspace(-1, 1, 8).view(-1, 1).to(clips)
    (compiled(clips) * weights).square().sum().backward()
    for name, value in twin.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-6, atol=1e-9, msg=name)
    for (name, mine), theirs in zip(twin.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)


SYNC = """
import copy

import torch
from torch.nn.parallel import DistributedDataParallel

from vidssl.backbones import slowfast
from vidssl.nn.distributed import joined, rank

with joined():
    torch.manual_seed(0)
    options = {"width": 8, "depths": (1, 1, 1, 1), "frames": 4, "norm": "sync", "drop_path": 0.2}
    plain = slowfast.Config(**options).build().double()
    for norm in (m for m in plain.modules() if hasattr(m, "eps")):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    saving = slowfast.Config(**options, activation_checkpointing=True).build().double()
    saving.load_state_dict(plain.state_dict())
    clips = torch.rand(2, 3, 4, 32, 32, dtype=torch.double) + rank()
    for net in (plain, saving):
        wrapped = DistributedDataParallel(net, broadcast_buffers=False)
        for step in range(2):
            torch.manual_seed(step)
            wrapped(clips).square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters()):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-6, atol=1e-9)
    for one, other in zip(plain.buffers(), saving.buffers()):
        assert torch.equal(one, other)
    print(sum(int(m.num_batches_tracked) == 2 for m in saving.modules() if hasattr(m, "momentum")))
"""


def test_checkpointed_activations_share_statistics_between_processes(
    in_two_processes: Callable[..., list[str]],
) -> None:
    # Norms: stems 2, four blocks of 3 and a shortcut's in each of 2 pathways, laterals 4.
    assert in_two_processes(SYNC) == [f"{2 + 2 * 4 * 4 + 4}\n"] * 2


def most_held(config: ResNetConfig, clips: Tensor) -> int:
    """Return the bytes that PyTorch held at most during one training step, beyond what it had."""
    encoder = config.build()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        torch.autograd.backward(encoder(clips).sum())
    assert seen.profiler is not None
    held = most = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    assert most > 0
    return most


@pytest.mark.parametrize("config", [slow.Config(), slowfast.Config()])
def test_recomputed_activations_need_much_less_memory(config: ResNetConfig) -> None:
    narrow = config.model_copy(update={"width": 16, "frames": 8})
    saving = narrow.model_copy(update={"activation_checkpointing": True})
    clips = torch.rand(2, 3, 8, 96, 96)
    assert most_held(saving, clips) < 0.6 * most_held(narrow, clips)


def test_a_pattern_of_kernels_is_repeated_over_a_stage() -> None:
    assert kernels_by_block((5, 3, (3, 1), (3, 1), (1, 3)), (3, 4, 6, 3)) == (
        5,
        [[3, 3, 3], [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]],
    )
    assert kernels_by_block((1, 1, 1, 3, 3), (1, 1, 3, 2), (1, 1, 2, 0))[1][2:] == [
        [3, 3, 1],
        [1, 1],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"non_local": {"res4": [6]}}, "non_local.res4: no block 6; the stage has 0 to 5"),
        ({"non_local": {"res2": [-1]}}, "non_local.res2: no block -1; the stage has 0 to 2"),
        ({"drop_path": 1.0}, "less than 1"),
        ({"non_local": {"res3": [1, 1]}}, "non_local.res3: block 1 stands twice"),
        (
            {"frames": 16, "non_local": {"res3": [0], "frames_per_group": {"res3": 7}}},
            "non_local.frames_per_group.res3: 7 does not divide the stage's ",
        ),
        (
            {"non_local": {"res3": [0], "frames_per_group": {"res4": 2}}},
            "non_local.frames_per_group.res4: no block stands in res4",
        ),
        (
            {"non_local": {"res3": [0], "pool": [99, 2, 2]}},
            "non_local.pool: 99 frames, but res3 compares only ",
        ),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_cannot_be_is_refused(
    family: type[ResNetConfig], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        family.model_validate(options)


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        (slow.Config(frames=6), 6, 6),
        (c2d.Config(frames=6), 6, 3),
        (r3d.Config(frames=5), 3, 3),
        (resnet_rs.Config(frames=6), 3, 3),
        (slowfast.Config(frames=12, alpha=4), 3, 3),
    ],
)
def test_a_config_knows_the_frames_that_blocks_of_attention_see(
    config: ResNetConfig, before: int, after: int
) -> None:
    assert [config.frames_in(stage) for stage in (2, 3, 4, 5)] == [before, after, after, after]
    blocks = {"res2": [0], "res3": [0], "res5": [0]}
    options = {"frames": config.frames, "width": 8, "depths": (1, 1, 1, 1), "non_local": blocks}
    encoder = on_meta(type(config).model_validate(options))
    seen: list[int] = []
    for block in (m for m in encoder.modules() if isinstance(m, NonLocal)):
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2]))
    encoder(torch.empty(1, 3, config.frames, 64, 64, device="meta"))
    assert seen == [before, after, after]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_narrowest_network_has_all_its_layers(family: type[ResNetConfig]) -> None:
    one = {"beta_inverse": 1} if family is slowfast.Config else {}
    for block in ("basic", "bottleneck"):
        options = {**NARROW, **one, "width": 1, "block": block, "non_local": {"res3": [0]}}
        encoder = family.model_validate(options).build()
        assert encoder(torch.rand(2, 3, 8, 64, 64)).shape == (2, encoder.features)


@pytest.mark.parametrize("family", [c2d.Config, i3d.Config])
def test_an_odd_number_of_frames_cannot_be_paired(family: type[SingleConfig]) -> None:
    with pytest.raises(ValidationError, match="frames 7 is not a multiple of 2; pairs of them"):
        family.model_validate({"frames": 7})


def test_c2d_does_not_see_the_order_of_frames() -> None:
    torch.manual_seed(0)
    encoder = c2d.Config(width=8, depths=(1, 1, 1, 1), non_local=NonLocalConfig(res3=(0,)))
    model = encoder.build().eval()
    clips = torch.rand(1, 3, 8, 32, 32)
    swapped = clips[:, :, [1, 0, 3, 2, 4, 5, 7, 6]]
    pairs_moved = clips[:, :, [4, 5, 0, 1, 6, 7, 2, 3]]
    split = clips[:, :, [0, 2, 1, 3, 4, 5, 6, 7]]
    with torch.no_grad():
        assert torch.equal(model(swapped), model(clips))
        torch.testing.assert_close(model(pairs_moved), model(clips))
        assert not torch.allclose(model(split), model(clips))
    ordered = i3d.Config(width=8, depths=(1, 1, 1, 1)).build().eval()
    with torch.no_grad():
        assert not torch.allclose(ordered(swapped), ordered(clips))


def test_blocks_of_attention_can_stand_in_every_family() -> None:
    for family in FAMILIES:
        encoder = on_meta(family.model_validate({"non_local": FIVE.model_dump()}))
        blocks = [name for name, m in encoder.named_modules() if isinstance(m, NonLocal)]
        assert [name.split(".", 1)[1] for name in blocks] == [
            "res3.nonlocal1",
            "res3.nonlocal3",
            "res4.nonlocal1",
            "res4.nonlocal3",
            "res4.nonlocal5",
        ], family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["clip", "detection"])
def test_without_the_stem_s_pooling_maps_are_twice_as_fine_from_the_same_weights(
    family: type[ResNetConfig], form: str
) -> None:
    pooled = family(**NARROW, form=form).build().eval()
    fine = family(**NARROW, form=form, stem_pool=False).build().eval()
    fine.load_state_dict(pooled.state_dict())
    assert fine.spatial_stride * 2 == pooled.spatial_stride
    clips = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        coarse_map, fine_map = pooled.maps(clips), fine.maps(clips)
    assert fine_map.shape[3:] == (64 // fine.spatial_stride,) * 2
    assert fine_map.shape[:3] == coarse_map.shape[:3]
