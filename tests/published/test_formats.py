"""Names of others against our own weights, renamed here the other way round, and real modules."""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models import video as torchvision_video
from torchvision.models.resnet import Bottleneck

from vidssl.backbones import (
    BackboneConfig,
    c2d,
    csn,
    i3d,
    mvit,
    r2plus1d,
    resnet18_3d,
    slow,
    slowfast,
    x3d,
)
from vidssl.errors import CheckpointError
from vidssl.nn.non_local import NonLocalConfig
from vidssl.published import formats
from vidssl.published.formats import pyslowfast
from vidssl.published.match import Match, match
from vidssl.recognition.classifier import Classifier
from vidssl.section import choices

with warnings.catch_warnings():
    # pytorchvideo scripts some activations on import, which PyTorch has deprecated.
    warnings.filterwarnings("ignore", message=".*torch.jit.script")
    from pytorchvideo.models.csn import create_csn
    from pytorchvideo.models.r2plus1d import create_r2plus1d
    from pytorchvideo.models.resnet import create_resnet
    from pytorchvideo.models.slowfast import create_slowfast
    from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers
    from pytorchvideo.models.x3d import create_x3d

NON_LOCAL = NonLocalConfig(res3=(1,), res4=(0, 1))
SMALL: dict[str, BackboneConfig] = {
    "slow": slow.Config(width=8, depths=(1, 2, 2, 1)),
    "slow, basic": slow.Config(width=8, depths=(2, 2, 2, 2), block="basic"),
    "i3d with non-local blocks": i3d.Config(width=8, depths=(1, 2, 2, 1), non_local=NON_LOCAL),
    "slowfast": slowfast.Config(width=16, depths=(1, 2, 2, 1)),
    "slowfast with non-local blocks": slowfast.Config(
        width=16, depths=(1, 2, 2, 1), non_local=NON_LOCAL
    ),
}


def random_state(config: BackboneConfig) -> dict[str, Tensor]:
    """A backbone's tensors, each with values of its own."""
    torch.manual_seed(0)
    state = config.build().state_dict()
    return {
        name: torch.randn(value.shape) if value.is_floating_point() else value + 7
        for name, value in state.items()
    }


def fitted(theirs: Mapping[str, Tensor], config: BackboneConfig, name: str) -> Match:
    """Recognise, translate and match, as the command does."""
    assert formats.recognised(theirs.keys()) == name
    translation = formats.translate(name, theirs)
    with torch.device("meta"):
        target = config.build().state_dict()
    return match(translation.tensors, target, inflates=translation.inflates)


def assert_same(found: Match, expected: Mapping[str, Tensor]) -> None:
    assert found.share == 1
    assert (found.unexpected, found.reshaped) == ((), ())
    assert found.fitted.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found.fitted[name], tensor), name


# --- PySlowFast


def in_pyslowfast(name: str) -> str:
    """PySlowFast's name of one of ours, written from its side."""
    place, *rest = name.split(".")
    if place == "laterals":
        number, kind, leaf = rest
        return f"s{int(number) + 1}_fuse.{'conv_f2s' if kind == 'conv' else 'bn'}.{leaf}"
    path = f"pathway{1 if place == 'fast' else 0}"
    stage, *inside = rest
    if stage == "stem":
        kind, leaf = inside
        return f"s1.{path}_stem.{kind if kind == 'conv' else 'bn'}.{leaf}"
    group = f"s{stage[-1]}.{path}"
    block, part, *last = inside
    if block.startswith("nonlocal"):
        kind = "bn" if part == "norm" else f"conv_{part}"
        return f"{group}_{block}.{kind}.{last[0]}"
    layer, leaf = last
    mark = "" if layer.startswith("conv") else "_bn"
    if part == "shortcut":
        return f"{group}_res{block}.branch1{mark}.{leaf}"
    return f"{group}_res{block}.branch2.{'?abc'[int(layer[-1])]}{mark}.{leaf}"


@pytest.mark.parametrize("name", SMALL)
def test_pyslowfast_comes_back_bit_for_bit(name: str) -> None:
    ours = random_state(SMALL[name])
    theirs = {in_pyslowfast(key): value for key, value in ours.items()}
    assert len(theirs) == len(ours)
    assert not theirs.keys() & ours.keys()
    assert_same(fitted(theirs, SMALL[name], "pyslowfast"), ours)


def test_names_of_pyslowfast_as_its_files_have_them() -> None:
    assert in_pyslowfast("slow.res2.0.branch.norm3.weight") == (
        "s2.pathway0_res0.branch2.c_bn.weight"
    )
    assert in_pyslowfast("fast.res5.2.shortcut.conv.weight") == ("s5.pathway1_res2.branch1.weight")
    assert in_pyslowfast("laterals.0.conv.weight") == "s1_fuse.conv_f2s.weight"


def test_sub_batch_norm_gives_its_common_statistics() -> None:
    config = SMALL["slow"]
    ours = random_state(config)
    theirs: dict[str, Tensor] = {}
    for key, value in ours.items():
        name = in_pyslowfast(key)
        place, _, leaf = name.rpartition(".")
        if leaf.startswith(("running", "num_batches")):
            theirs[f"{place}.bn.{leaf}"] = value
            theirs[f"{place}.split_bn.{leaf}"] = torch.zeros(16)
        else:
            theirs[name] = value
    assert_same(fitted(theirs, config, "pyslowfast"), ours)
    ignored = formats.translate("pyslowfast", theirs).ignored
    assert ignored == {"statistics of splits": sum("running" in n or "num_" in n for n in ours)}


def test_the_classifier_and_other_heads_of_pyslowfast() -> None:
    theirs = {
        "s1.pathway0_stem.conv.weight": torch.zeros(1),
        "head.projection.weight": torch.ones(4, 8),
        "head.projection.bias": torch.zeros(4),
        "head.predictors.0.projection.weight": torch.zeros(1),
        "s2.pathway0_res0.branch2.se.fc1.weight": torch.zeros(1),
    }
    found = formats.translate("pyslowfast", theirs)
    assert found.classifier.keys() == {"weight", "bias"}
    assert found.ignored == {"heads of pretraining": 1}
    # What it does not know stays, to be told as unexpected.
    assert "s2.pathway0_res0.branch2.se.fc1.weight" in found.tensors


def test_the_geometry_of_pyslowfasts_config() -> None:
    data: dict[str, Any] = {"NUM_FRAMES": "8", "SAMPLING_RATE": "4", "TRAIN_CROP_SIZE": "224"}
    assert pyslowfast.geometry({"DATA": data}) == formats.Geometry(8, 4, 224)
    assert pyslowfast.geometry({}) == formats.Geometry()
    wrong = {"NUM_FRAMES": ["8"], "SAMPLING_RATE": "-1", "MEAN": ["0.4", "0.4"], "STD": "0.2"}
    assert pyslowfast.geometry({"DATA": wrong}) == formats.Geometry()
    data |= {"MEAN": ["0.5", "0.25", ".45"], "STD": ["0.2", "0.2", "0.225"]}
    found = pyslowfast.geometry({"DATA": data})
    assert (found.mean, found.std) == ((0.5, 0.25, 0.45), (0.2, 0.2, 0.225))


def test_blue_first_is_told_of_pyslowfasts_config() -> None:
    swapped = {"DATA": {"REVERSE_INPUT_CHANNEL": "true"}}
    assert pyslowfast.geometry(swapped).channels == "bgr"
    config = {"DATA": {}, "AVA": {"BGR": "true"}, "DETECTION": {"ENABLE": "false"}}
    assert pyslowfast.geometry(config).channels is None  # of detectors alone
    assert pyslowfast.geometry(config | {"DETECTION": {"ENABLE": "true"}}).channels == "bgr"


# --- Caffe2

LEAVES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def in_caffe2(name: str, config: BackboneConfig) -> str:
    """Caffe2's name of one of ours, written from its side."""
    parts = name.split(".")
    leaf = parts[-1]
    if parts[0] == "laterals":
        depths: tuple[int, ...] = config.depths  # type: ignore[attr-defined]
        stage = int(parts[1]) + 1
        start = "t_pool1" if stage == 1 else f"t_res{stage}_{depths[stage - 2] - 1}_branch2c_bn"
        return f"{start}_subsample_" + ("w" if parts[2] == "conv" else f"bn_{LEAVES[leaf]}")
    start = "t_" if parts[0] == "fast" else ""
    if parts[1] == "stem":
        return start + ("conv1_w" if parts[2] == "conv" else f"res_conv1_bn_{LEAVES[leaf]}")
    stage_number = parts[1][-1]
    if parts[2].startswith("nonlocal"):
        block = parts[2].removeprefix("nonlocal")
        last = f"bn_{LEAVES[leaf]}" if parts[3] == "norm" else f"{parts[3]}_{leaf[0]}"
        return f"nonlocal_conv{stage_number}_{block}_{last}"
    branch = "1" if parts[3] == "shortcut" else "2" + "?abc"[int(parts[4][-1])]
    last = "w" if parts[4].startswith("conv") else f"bn_{LEAVES[leaf]}"
    return f"{start}res{stage_number}_{parts[2]}_branch{branch}_{last}"


def blobs_of(ours: Mapping[str, Tensor], config: BackboneConfig) -> dict[str, Tensor]:
    return {
        in_caffe2(key, config): value
        for key, value in ours.items()
        if not key.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("name", [name for name in SMALL if "basic" not in name])
def test_caffe2_comes_back_bit_for_bit(name: str) -> None:
    config = SMALL[name]
    ours = random_state(config)
    theirs = blobs_of(ours, config)
    found = fitted(theirs, config, "caffe2")
    # Caffe2 does not count batches: the count starts at 0.
    expected = {
        key: torch.zeros_like(value) if key.endswith("num_batches_tracked") else value
        for key, value in ours.items()
    }
    assert_same(found, expected)


def test_names_of_caffe2_as_its_files_have_them() -> None:
    config = SMALL["slowfast with non-local blocks"]
    names = {in_caffe2(key, config) for key in random_state(config) if "num_batches" not in key}
    assert names > {
        "conv1_w",
        "t_conv1_w",
        "res_conv1_bn_riv",
        "res2_0_branch2a_w",
        "res2_0_branch1_bn_s",
        "t_res5_0_branch2c_bn_b",
        "t_pool1_subsample_w",
        "t_res4_1_branch2c_bn_subsample_bn_rm",
        "nonlocal_conv3_1_theta_w",
        "nonlocal_conv4_0_bn_s",
        "nonlocal_conv4_0_out_b",
    }


def test_kernels_without_their_axis_of_time_get_it_back() -> None:
    config = SMALL["slow"]
    ours = random_state(config)
    theirs = blobs_of(ours, config)
    theirs["conv1_w"] = theirs["conv1_w"].squeeze(2)
    found = fitted(theirs, config, "caffe2")
    assert found.reshaped == ("trunk.stem.conv.weight: (8, 3, 7, 7) -> (8, 3, 1, 7, 7)",)
    assert torch.equal(found.fitted["trunk.stem.conv.weight"], ours["trunk.stem.conv.weight"])


def test_caffe2s_optimizer_is_left_aside_and_its_classifier_found() -> None:
    config = SMALL["slow"]
    theirs = blobs_of(random_state(config), config)
    theirs |= {
        "conv1_w_momentum": theirs["conv1_w"],
        "lr": torch.ones(1),
        "model_iter": torch.ones(1),
        "pred_w": torch.ones(4, 64),
        "pred_b": torch.zeros(4),
        "lfb_1x1_w": torch.ones(1),
        "res5_9_branch3_w": torch.ones(1),
    }
    found = formats.translate("caffe2", theirs)
    assert found.ignored == {"state of the optimizer": 3, "layers of the head": 1}
    # What looks like a trunk's and is not known stays, to be told as unexpected.
    assert "res5_9_branch3_w" in found.tensors
    assert found.classifier["weight"].shape == (4, 64)


def test_an_affine_without_statistics_stays_the_same_affine() -> None:
    # As the feature bank's models have: y = s * x + b.
    config = SMALL["slow"]
    theirs = {
        key: value
        for key, value in blobs_of(random_state(config), config).items()
        if not key.endswith(("_rm", "_riv"))
    }
    found = fitted(theirs, config, "caffe2")
    assert found.share == 1
    encoder = config.build().eval()
    encoder.load_state_dict(found.fitted)
    x = torch.randn(1, 8, 2, 4, 4)
    scale, shift = (theirs[f"res_conv1_bn_{leaf}"].view(1, -1, 1, 1, 1) for leaf in "sb")
    torch.testing.assert_close(
        encoder.get_submodule("trunk.stem.norm")(x), scale * x + shift, rtol=1e-6, atol=1e-6
    )


# --- real modules of others


def live(model: nn.Module) -> nn.Module:
    """Give norms values that a mistake cannot hide behind; eval mode."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.uniform_(module.weight, 0.2, 0.8)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def loaded(theirs: Mapping[str, Tensor], config: BackboneConfig, name: str) -> Classifier:
    """Our backbone with the other's weights and classifier."""
    found = fitted(theirs, config, name)
    assert found.share == 1
    assert found.unexpected == ()
    encoder = config.build()
    encoder.load_state_dict(found.fitted)
    head = formats.translate(name, theirs).classifier
    classifier = Classifier(encoder, num_classes=len(head["weight"]))
    classifier.classifier.load_state_dict(head)
    return classifier.eval()


SHALLOW = (1, 1, 1, 1)  # what pytorchvideo calls depth 18
VIDEO: dict[str, tuple[Callable[[], nn.Module], BackboneConfig, str]] = {
    "r3d_18": (
        lambda: torchvision_video.r3d_18(weights=None, num_classes=5),
        resnet18_3d.Config(),
        "torchvision_video",
    ),
    "mc3_18": (
        lambda: torchvision_video.mc3_18(weights=None, num_classes=5),
        resnet18_3d.Config(kind="mc3"),
        "torchvision_video",
    ),
    "r2plus1d_18": (
        lambda: torchvision_video.r2plus1d_18(weights=None, num_classes=5),
        resnet18_3d.Config(kind="r2plus1d"),
        "torchvision_video",
    ),
    "slow": (
        lambda: create_resnet(
            model_num_class=5,
            stem_conv_kernel_size=(1, 7, 7),
            head_pool=nn.AdaptiveAvgPool3d,
            head_output_size=(1, 1, 1),
        ),
        slow.Config(),
        "pytorchvideo",
    ),
    "csn": (
        lambda: create_csn(
            model_depth=50,
            model_num_class=5,
            stem_pool=nn.MaxPool3d,
            head_pool=nn.AdaptiveAvgPool3d,
            head_output_size=(1, 1, 1),
        ),
        csn.Config(depth=50),
        "pytorchvideo",
    ),
    "r2plus1d": (
        lambda: create_r2plus1d(
            model_num_class=5, head_activation=None, head_pool_kernel_size=(2, 1, 1)
        ),
        r2plus1d.Config(),
        "pytorchvideo",
    ),
}


@pytest.mark.parametrize("name", VIDEO)
def test_others_networks_give_the_same_classes(name: str) -> None:
    torch.manual_seed(0)
    build, config, kind = VIDEO[name]
    theirs = live(build())
    clips = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        expected = theirs(clips)
        found = loaded(theirs.state_dict(), config, kind)(clips)
    torch.testing.assert_close(found, expected.flatten(1), rtol=1e-5, atol=1e-5)


def test_slowfast_of_pytorchvideo_gives_the_same_classes() -> None:
    torch.manual_seed(0)
    theirs = live(
        create_slowfast(
            model_depth=18,
            model_num_class=5,
            slowfast_channel_reduction_ratio=(8,),
            slowfast_conv_channel_fusion_ratio=2,
            slowfast_fusion_conv_kernel_size=(7, 1, 1),
            slowfast_fusion_conv_stride=(4, 1, 1),
            head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1)),
        )
    )
    clips = torch.rand(1, 3, 8, 32, 32)
    ours = loaded(theirs.state_dict(), slowfast.Config(depths=SHALLOW), "pytorchvideo")
    with torch.no_grad():
        # Of 8 frames the Slow pathway takes 2, both ends.
        expected = theirs([clips[:, :, [0, 7]], clips])
        torch.testing.assert_close(ours(clips), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["c2d", "i3d"])
def test_a_pool_between_stages_does_not_shift_the_names(family: str) -> None:
    # As the zoo's C2D and I3D: a block of its own, without weights, behind res2.
    torch.manual_seed(0)
    every_second = ((3, 1, 1), (1, 1, 1))
    layouts: dict[str, dict[str, Any]] = {
        "c2d": {"stem_conv_kernel_size": (1, 7, 7), "stage_conv_a_kernel_size": ((1, 1, 1),) * 4},
        "i3d": {
            "stem_conv_kernel_size": (5, 7, 7),
            "stage_conv_a_kernel_size": (
                *((3, 1, 1), every_second, every_second),
                every_second[::-1],
            ),
        },
    }
    theirs = live(
        create_resnet(
            model_num_class=5,
            stage1_pool=nn.MaxPool3d,
            **layouts[family],
            head_pool=nn.AdaptiveAvgPool3d,
            head_output_size=(1, 1, 1),
        )
    )
    config = {"c2d": c2d.Config, "i3d": i3d.Config}[family]()
    clips = torch.rand(1, 3, 4, 32, 32)
    with torch.no_grad():
        expected = theirs(clips)
        found = loaded(theirs.state_dict(), config, "pytorchvideo")(clips)
    torch.testing.assert_close(found, expected.flatten(1), rtol=1e-5, atol=1e-5)


def test_x3d_gives_the_same_features() -> None:
    torch.manual_seed(0)
    theirs = live(create_x3d(model_num_class=5, input_clip_length=4, input_crop_size=64))
    translation = formats.translate("pytorchvideo", theirs.state_dict())
    # Its classifier reads 2048 features of a layer that belongs to its head.
    assert translation.classifier == {}
    assert translation.ignored == {"layers of the head": 3}  # post_conv, and the classifier itself
    found = fitted(theirs.state_dict(), x3d.Config(), "pytorchvideo")
    assert (found.share, found.unexpected) == (1, ())
    ours = x3d.Config().build().eval()
    ours.load_state_dict(found.fitted)
    clips = torch.rand(1, 3, 4, 64, 64)
    with torch.no_grad():
        head = theirs.blocks[-1].pool  # type: ignore[index, union-attr]
        trunk = nn.Sequential(*theirs.blocks[:-1])(clips)  # type: ignore[index]
        expected = head.pre_act(head.pre_norm(head.pre_conv(trunk)))
        torch.testing.assert_close(ours.maps(clips), expected, rtol=1e-5, atol=1e-5)


def test_mvit_of_pytorchvideo_gives_the_same_classes() -> None:
    torch.manual_seed(0)
    config = mvit.Config(frames=4, crop_px=64)
    theirs = create_multiscale_vision_transformers(
        spatial_size=64,
        temporal_size=4,
        embed_dim_mul=mvit.WIDER,
        atten_head_mul=mvit.WIDER,
        pool_q_stride_size=mvit.SMALLER,
        pool_kv_stride_adaptive=[1, 8, 8],
        pool_kvq_kernel=[3, 3, 3],
        head_num_classes=5,
    ).eval()
    clips = torch.rand(1, 3, 4, 64, 64)
    with torch.no_grad():
        expected = theirs(clips)
        found = loaded(theirs.state_dict(), config, "pytorchvideo")(clips)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_inflated_picture_network_sees_a_still_clip_as_the_picture() -> None:
    torch.manual_seed(0)
    theirs = live(ResNet(Bottleneck, [1, 2, 1, 1], num_classes=5))
    config = slow.Config(depths=(1, 2, 1, 1), temporal_kernels=(5, 1, 3, 1, 3))
    found = fitted(theirs.state_dict(), config, "resnet2d")
    assert found.share == 1
    # Every kernel got an axis of time: the stem, 5 blocks of 3, and 4 shortcuts.
    assert len(found.reshaped) == 1 + 5 * 3 + 4
    ours = config.build().eval()
    ours.load_state_dict(found.fitted)
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(picture))))  # type: ignore[operator]
        for number in range(1, 5):
            x = theirs.get_submodule(f"layer{number}")(x)
        map_ = ours.maps(picture.unsqueeze(2).expand(-1, -1, 11, -1, -1))
    # The border reaches 2 frames at the stem, 1 in each of res3's two blocks, 1 in res5.
    torch.testing.assert_close(map_[:, :, 5], x, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(map_[:, :, 0], x, rtol=1e-3, atol=1e-3)


def test_only_pictures_are_inflated() -> None:
    kernel = {"trunk.a": torch.ones(2, 2, 3, 3)}
    target = {"trunk.a": torch.zeros(2, 2, 3, 3, 3)}
    assert match(kernel, target).wrong_shape == ("trunk.a: (2, 2, 3, 3) -> (2, 2, 3, 3, 3)",)
    assert match(kernel, target, inflates=True).fitted["trunk.a"].sum().item() == pytest.approx(36)


# --- which format


def test_no_two_formats_know_the_same_names() -> None:
    config = SMALL["slowfast"]
    ours = random_state(config)
    files = {
        "pyslowfast": {in_pyslowfast(name) for name in ours},
        "caffe2": set(blobs_of(ours, config)),
        "resnet2d": set(ResNet(Bottleneck, [1, 1, 1, 1]).state_dict()),
        "torchvision_video": set(torchvision_video.r2plus1d_18(weights=None).state_dict()),
        "pytorchvideo": set(create_slowfast(model_depth=18).state_dict()),
        "vidssl": set(ours),
    }
    assert files.keys() == set(choices("vidssl.published.formats"))
    for name, names in files.items():
        assert formats.recognised(names) == name


def test_unknown_names_are_told_with_the_formats_that_are_known() -> None:
    message = (
        r"of no known format: layer\.a, layer\.b \(known: caffe2, pyslowfast, pytorchvideo, "
        r"resnet2d, torchvision_video, vidssl\)"
    )
    with pytest.raises(CheckpointError, match=message):
        formats.recognised({"layer.b", "layer.a"})


def test_two_weights_of_one_name_are_refused() -> None:
    twice = {"conv1.weight": torch.zeros(1), "other": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=re.escape("two of its weights are same here")):
        formats.renamed(twice, lambda name: "same")
