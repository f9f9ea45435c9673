"""``vidssl weights``: files in others' namings become encoders that the other commands take."""

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torchvision.models import resnet50
from torchvision.models.video import R3D_18_Weights, r3d_18
from typer.testing import Result

from vidssl.backbones import slow, slowfast
from vidssl.errors import CheckpointError
from vidssl.files import sha256
from vidssl.jobs import weights
from vidssl.jobs._classifier import load_classifier
from vidssl.jobs._detector import load_encoder
from vidssl.jobs._geometry import config_of, differences, other_sight
from vidssl.jobs.models import SETTINGS
from vidssl.nn.non_local import NonLocalConfig
from vidssl.published.formats import Geometry, pyslowfast
from vidssl.train.weights import load_weights, save_weights

Cli = Callable[..., Result]

RECIPE = "task: pretrain\nbackbone: {name: slow, width: 8, depths: [1, 1, 1, 1], frames: 4}\n"
CONFIG = slow.Config(width=8, depths=(1, 1, 1, 1), frames=4)
CFG = "DATA:\n  NUM_FRAMES: 8\n  SAMPLING_RATE: 8\n  TRAIN_CROP_SIZE: 224\nBN: {EPSILON: 1e-05}\n"


def renamed(name: str) -> str:
    """PySlowFast's name of a weight of ours in a network with one pathway."""
    name = name.replace("trunk.stem.conv", "s1.pathway0_stem.conv")
    name = name.replace("trunk.stem.norm", "s1.pathway0_stem.bn")
    name = re.sub(r"trunk\.res(\d)\.(\d+)\.", r"s\1.pathway0_res\2.", name)
    name = name.replace("shortcut.conv", "branch1").replace("shortcut.norm", "branch1_bn")
    return re.sub(
        r"branch\.(conv|norm)(\d)",
        lambda m: f"branch2.{'?abc'[int(m[2])]}{'_bn' if m[1] == 'norm' else ''}",
        name,
    )


def published(config: slow.Config, classes: int = 5) -> dict[str, Any]:
    """What PySlowFast saves of a network, with values of its own in every tensor."""
    torch.manual_seed(0)
    state = {
        renamed(name): torch.rand(value.shape) if value.is_floating_point() else value + 7
        for name, value in config.build().state_dict().items()
    }
    state["head.projection.weight"] = torch.rand(classes, 8 * 4 * config.width)
    state["head.projection.bias"] = torch.rand(classes)
    momentum = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 195, "model_state": state, "optimizer_state": momentum, "cfg": CFG}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(published(CONFIG), tmp_path / "SLOW.pyth")
    return tmp_path / "SLOW.pyth"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def test_a_converted_encoder_is_taken_and_says_where_from(
    cli: Cli, checkpoint: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "encoder.safetensors"
    result = cli("weights", "convert", checkpoint, "--to", out, "--recipe", recipe)
    assert result.exit_code == 0, result.output
    # 5 of the stem; 4 blocks of 3 convolutions and norms, and of one more in the shortcut: 80.
    assert result.stdout.splitlines() == [
        f"{checkpoint}: pyslowfast, 100.0% of {recipe}",
        "85 matched, 0 missing, 0 unexpected, 0 reshaped, 0 wrong shape",
        "left aside: 1 beside the network",
        "note: the weights were trained on other clips: frames 8 there, 4 here",
        f"wrote {out}",
    ]
    encoder, card = load_encoder(out, CONFIG)
    state = published(CONFIG)["model_state"]
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[renamed(name)]), name
    assert card["backbone"]["name"] == "slow"
    assert card["features"] == 256
    assert card["geometry"] == {
        **{"frames": 8, "stride": 8, "crop_px": 224},
        **{"mean": None, "std": None, "channels": None},
    }
    assert card["trained_by"] == {"task": "published", "format": "pyslowfast"}
    assert card["published"] == {
        "file": "SLOW.pyth",
        "sha256": sha256(checkpoint),
        "format": "pyslowfast",
        "layout": "torch",
        "model": str(recipe),
        "share": 1.0,
        **{"matched": 85, "missing": 0, "unexpected": 0, "reshaped": 0, "wrong_shape": 0},
        "fresh": [],
    }
    assert {path.name for path in out.parent.iterdir()} == {"encoder.safetensors", "encoder.json"}


def test_the_classifier_is_written_beside_it_on_request(
    cli: Cli, checkpoint: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "encoder.safetensors"
    result = cli("weights", "convert", checkpoint, "--to", out, "--recipe", recipe, "--classifier")
    assert result.exit_code == 0, result.output
    found = load_classifier(out.parent)
    head = published(CONFIG)["model_state"]
    assert torch.equal(found.classifier.classifier.weight, head["head.projection.weight"])
    assert torch.equal(found.classifier.classifier.bias, head["head.projection.bias"])
    assert found.card["geometry"]["crop_px"] == 224
    encoder, _ = load_encoder(out, CONFIG)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(found.classifier.encoder.state_dict()[name], tensor)


def test_json_says_the_same(cli: Cli, checkpoint: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder.safetensors"
    options = ("--to", out, "--recipe", recipe, "--json", "-")
    told = json.loads(cli("weights", "convert", checkpoint, *options).stdout)
    card, _ = load_weights(out, "encoder")
    assert told["encoder_hash"] == card["hash"]
    assert (told["format"], told["share"], told["matched"]) == ("pyslowfast", 1.0, 85)
    assert told["geometry"]["frames"] == 8


def test_finetune_takes_it_and_tells_that_its_clips_were_others(
    cli: Cli, tiny: dict[str, Path], training_data: list[object], tmp_path: Path
) -> None:
    plan = yaml.safe_load(tiny["detection"].read_text())
    there = {**plan["backbone"], "sees": "changes"}
    (tmp_path / "backbone.yaml").write_text(yaml.safe_dump({"backbone": there}))
    config = slowfast.Config.model_validate(plan["backbone"])
    torch.manual_seed(0)
    state = {in_slowfast(key): value for key, value in config.build().state_dict().items()}
    torch.save({"model_state": state, "cfg": CFG}, tmp_path / "a.pyth")
    encoder = tmp_path / "encoder.safetensors"
    weights.convert(tmp_path / "a.pyth", encoder, recipe=str(tmp_path / "backbone.yaml"))
    result = cli(
        *("finetune", tiny["detection"], "--encoder", encoder, *training_data),
        *("--out", tmp_path / "run", "--steps", 1),
    )
    assert result.exit_code == 0, result.output
    remark = "the weights were trained on other clips: frames 8 there, 4 here, stride 8 there, 4"
    assert remark in result.stderr
    assert "the weights were trained on changes; backbone.sees: frames" in result.stderr
    plan["augment"]["crop_px"] = 48
    (tmp_path / "crop.yaml").write_text(yaml.safe_dump(plan))
    result = cli(
        *("finetune", tmp_path / "crop.yaml", "--encoder", encoder, *training_data),
        *("--out", tmp_path / "other", "--steps", 1),
    )
    assert "stride 8 there, 4 here, crop_px 224 there, 48 here" in result.stderr


def test_extract_features_tells_it_too(
    cli: Cli, tiny: dict[str, Path], playground: Path, index: Path, tmp_path: Path
) -> None:
    plan = yaml.safe_load(tiny["extract"].read_text())
    config = slowfast.Config.model_validate(plan["backbone"])
    card = {
        "backbone": plan["backbone"],
        "geometry": {"frames": config.frames, "stride": 2, "crop_px": None},
    }
    save_weights(tmp_path, "encoder", config.build(), card)
    result = cli(
        *("extract-features", tiny["extract"], "--encoder", tmp_path, "--videos", index),
        *("--boxes", playground / "val_person_detections.csv", "--out", tmp_path / "bank"),
    )
    assert result.exit_code == 0, result.output
    assert "the weights were trained on other clips: stride 2 there, 4 here\n" in result.stderr


def test_a_bank_from_a_converted_file_is_that_of_the_network_itself(
    cli: Cli, tiny: dict[str, Path], playground: Path, index: Path, tmp_path: Path
) -> None:
    backbone = yaml.safe_load(tiny["extract"].read_text())["backbone"]
    (tmp_path / "backbone.yaml").write_text(yaml.safe_dump({"backbone": backbone}))
    torch.manual_seed(0)
    encoder = slowfast.Config.model_validate(backbone).build()
    for name, value in encoder.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    save_weights(tmp_path / "direct", "encoder", encoder, {"backbone": backbone})
    state = {f"module.{in_slowfast(key)}": value for key, value in encoder.state_dict().items()}
    torch.save({"model_state": state}, tmp_path / "a.pyth")
    converted = tmp_path / "converted" / "encoder.safetensors"
    weights.convert(tmp_path / "a.pyth", converted, recipe=str(tmp_path / "backbone.yaml"))
    for name in ("direct", "converted"):
        options = ("--videos", index, "--boxes", playground / "val_person_detections.csv")
        out = ("--out", tmp_path / f"{name}_bank")
        result = cli(
            "extract-features", tiny["extract"], "--encoder", tmp_path / name, *options, *out
        )
        assert result.exit_code == 0, result.output
    shards = sorted((tmp_path / "direct_bank").glob("*.npy"))
    assert sum(len(np.load(shard)) for shard in shards) > 0
    for shard in shards:
        other = tmp_path / "converted_bank" / shard.name
        assert np.array_equal(np.load(shard), np.load(other))


def in_slowfast(name: str) -> str:
    """PySlowFast's name of a weight of a SlowFast network of ours."""
    if name.startswith("laterals."):
        _, number, kind, leaf = name.split(".")
        return f"s{int(number) + 1}_fuse.{'conv_f2s' if kind == 'conv' else 'bn'}.{leaf}"
    path, _, rest = name.partition(".")
    return renamed(f"trunk.{rest}").replace("pathway0", f"pathway{int(path == 'fast')}")


# --- what does not fit


def refused_conversion(cli: Cli, *arguments: object) -> str:
    result = cli("weights", "convert", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def damaged(path: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    content = published(CONFIG)
    change(content["model_state"])
    torch.save(content, path)
    return path


def test_too_few_tensors_are_refused_with_the_reason(
    cli: Cli, recipe: Path, tmp_path: Path
) -> None:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith("s5.")]:
            del state[name]
        state["s6.more"] = torch.ones(1)
        state["s1.pathway0_stem.conv.weight"] = torch.ones(8, 3, 5, 7, 7)

    path = damaged(tmp_path / "a.pyth", change)
    out = tmp_path / "encoder.safetensors"
    message = refused_conversion(cli, path, "--to", out, "--recipe", recipe)
    # 20 of res5 are missing, and the stem's kernel is another: 64 of 85.
    assert f"64 of the 85 tensors of {recipe} are there (75.3%); expected at least 95%" in message
    assert "missing (20): trunk.res5.0.branch.conv1.weight, " in message
    assert "of another shape (1): trunk.stem.conv.weight: (8, 3, 5, 7, 7) -> (8, 3, 1, 7, 7)" in (
        message
    )
    assert "unexpected (1): s6.more" in message
    assert not out.exists()
    # A person may know better.
    told = cli("weights", "convert", path, "--to", out, "--recipe", recipe, "--min-match", "0.7")
    assert told.exit_code == 0, told.output
    assert "64 matched, 20 missing, 1 unexpected, 0 reshaped, 1 wrong shape" in told.stdout
    assert "note: 21 tensors are not in the file and keep fresh weights" in told.stdout
    card, _ = load_weights(out, "encoder")
    assert len(card["published"]["fresh"]) == 21
    assert "trunk.stem.conv.weight" in card["published"]["fresh"]


def test_weights_that_are_no_numbers_are_refused(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state["s2.pathway0_res0.branch2.a.weight"].fill_(float("nan"))

    path = damaged(tmp_path / "a.pyth", change)
    message = refused_conversion(cli, path, "--to", tmp_path / "e.safetensors", "--recipe", recipe)
    assert "1 tensors are not finite, such as trunk.res2.0.branch.conv1.weight" in message


def test_a_file_that_runs_code_is_read_without_it(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path}/ran",))

    torch.save(published(CONFIG) | {"evil": Payload()}, tmp_path / "a.pyth")
    result = cli("weights", "inspect", tmp_path / "a.pyth")
    assert result.exit_code == 0
    assert "asked for and not given: posix.system" in result.stdout
    out = tmp_path / "encoder.safetensors"
    assert (
        cli(*("weights", "convert", tmp_path / "a.pyth", "--to", out, "--recipe", recipe)).exit_code
        == 0
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "e.safetensors", "--model", "slow_r50_8x9"], "did you mean 'slow_r50_8x8'?"),
        (["--to", "e.safetensors", "--model", "a", "--recipe", "b"], "or --recipe, found both"),
        (["--to", "e.pt", "--recipe", "recipe.yaml"], "expected a name that ends in .safetensors"),
        (["--to", "there.safetensors", "--recipe", "recipe.yaml"], "is there already"),
        (["--to", "e.safetensors", "--recipe", "no_such"], "no recipe 'no_such'"),
        (["--to", "classifier.safetensors", "--classifier"], "is the classifier's name"),
        (["--to", "e.safetensors", "--momentum-encoder"], "holds no momentum encoder"),
    ],
)
def test_wrong_requests_are_told(
    cli: Cli,
    checkpoint: Path,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    Path("there.safetensors").touch()
    assert message in refused_conversion(cli, checkpoint, *options)


def test_a_pickled_module_is_refused_with_the_way_out(cli: Cli, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    message = refused_conversion(cli, tmp_path / "a.pt", "--to", tmp_path / "e.safetensors")
    assert "holds no tensors but objects of torch.nn.modules.linear.Linear" in message
    assert "expected weights" in message


# --- looking into a file


def test_a_file_of_unknown_names_is_told_as_such(cli: Cli, tmp_path: Path) -> None:
    torch.save({"layer.a": torch.ones(2), "layer.b": torch.ones(3).half()}, tmp_path / "a.pt")
    result = cli("weights", "inspect", tmp_path / "a.pt")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/a.pt: of no known format, layout torch"
    assert lines[1] == "tensors: 2 (1 float32, 1 float16), 5 values"
    assert lines[2].startswith("reason: its names of weights are of no known format: layer.a, ")


def test_a_momentum_encoder_is_taken_if_asked_for(tmp_path: Path, recipe: Path) -> None:
    state = published(CONFIG)["model_state"]
    both = {f"backbone.{name}": value for name, value in state.items()}
    both |= {f"backbone_hist.{name}": value + 1 for name, value in state.items()}
    both["ptr"] = torch.zeros(1)
    torch.save({"model_state": both}, tmp_path / "moco.pyth")
    key = "trunk.stem.conv.weight"
    found = {}
    for momentum in (False, True):
        out = tmp_path / f"{momentum}" / "encoder.safetensors"
        made = weights.convert(tmp_path / "moco.pyth", out, recipe=str(recipe), momentum=momentum)
        assert made.share == 1
        found[momentum] = load_weights(out, "encoder")[1][key]
    assert torch.equal(found[False] + 1, found[True])


def test_moco_of_pictures_in_the_old_layout_is_inflated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = resnet50(num_classes=4)
    state = {f"module.encoder_q.{name}": value for name, value in network.state_dict().items()}
    for part in ("encoder_q.fc.0.weight", "encoder_q.fc.2.weight", "queue", "queue_ptr"):
        state[f"module.{part}"] = torch.zeros(2)
    state["module.encoder_k.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    content = {"epoch": 200, "arch": "resnet50", "state_dict": state}
    path = tmp_path / "moco.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=False)

    found = weights.inspect(path)
    assert (found.format, found.layout) == ("resnet2d", "torch (before 1.6)")
    assert found.ignored == {"queue": 2, "momentum encoder": 1, "heads of pretraining": 2}
    assert found.fits[0].share == 1
    with pytest.raises(CheckpointError, match=r"fits .*slow_r50_8x8.* equally; choose one with"):
        weights.convert(path, tmp_path / "e.safetensors")
    assert not list(tmp_path.glob("e.*"))

    made = weights.convert(path, tmp_path / "e.safetensors", model="slow_r50_8x8")
    # Convolutions: the stem's, 16 blocks of 3, 4 shortcuts.
    assert (made.share, len(made.reshaped), made.unexpected) == (1, 53, [])
    _, tensors = load_weights(tmp_path / "e.safetensors", "encoder")
    kernel = tensors["trunk.res4.0.branch.conv1.weight"]
    assert kernel.shape == (256, 512, 3, 1, 1)
    there = network.state_dict()["layer3.0.conv1.weight"]
    torch.testing.assert_close(kernel.sum(dim=2), there)


def test_the_known_backbone_is_found_and_the_clip_decides_between_twins(tmp_path: Path) -> None:
    config = SETTINGS["slow_r50_8x8"].config
    assert isinstance(config, slow.Config)
    content = published(config, classes=400)
    content["model_state"] = {k: v.half() for k, v in content["model_state"].items()}
    torch.save(content, tmp_path / "a.pyth")
    found = weights.inspect(tmp_path / "a.pyth")
    assert (found.format, found.classes) == ("pyslowfast", 400)
    assert (found.fits[0].model, found.fits[0].share) == ("slow_r50_8x8", 1)
    made = weights.convert(tmp_path / "a.pyth", tmp_path / "e.safetensors")
    assert (made.model, made.remarks) == ("slow_r50_8x8", [])
    _, tensors = load_weights(tmp_path / "e.safetensors", "encoder")
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float32}

    # Without its clip the file may be either of two settings.
    del content["cfg"]
    torch.save(content, tmp_path / "b.pyth")
    with pytest.raises(CheckpointError, match="fits slow_r50_4x16, slow_r50_8x8 equally"):
        weights.convert(tmp_path / "b.pyth", tmp_path / "f.safetensors")


def test_caffe2_pickles_are_converted(tmp_path: Path) -> None:
    config = slowfast.Config(width=16, depths=(1, 1, 1, 1))
    (tmp_path / "recipe.yaml").write_text(
        "backbone: {name: slowfast, width: 16, depths: [1, 1, 1, 1]}\n"
    )
    leaves = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    blobs: dict[str, Any] = {"lr": np.float32(0.1), "conv1_w_momentum": np.zeros(3, np.float32)}
    torch.manual_seed(0)
    encoder = config.build()
    for name, value in encoder.state_dict().items():
        path, *rest, leaf = name.split(".")
        if leaf == "num_batches_tracked":
            continue
        last = "w" if leaf == "weight" and "conv" in rest[-1] else f"bn_{leaves[leaf]}"
        if path == "laterals":
            place = ["t_pool1", *(f"t_res{n}_0_branch2c_bn" for n in (2, 3, 4))][int(rest[0])]
            theirs = f"{place}_subsample_{last}"
        elif rest[0] == "stem":
            theirs = f"conv1_{last}" if last == "w" else f"res_conv1_{last}"
        else:
            branch = "1" if rest[2] == "shortcut" else f"2{'?abc'[int(rest[3][-1])]}"
            theirs = f"{rest[0]}_{rest[1]}_branch{branch}_{last}"
        prefix = "t_" if path == "fast" else ""
        blobs[f"{prefix}{theirs}"] = value.numpy()
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    out = tmp_path / "encoder.safetensors"
    made = weights.convert(tmp_path / "a.pkl", out, recipe=str(tmp_path / "recipe.yaml"))
    assert (made.format, made.share, made.unexpected) == ("caffe2", 1, [])
    _, tensors = load_weights(out, "encoder")
    for name, value in encoder.state_dict().items():
        assert torch.equal(tensors[name], value), name


def test_torchvisions_file_is_converted_to_the_same_network(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("backbone: {name: resnet18_3d, kind: r3d}\n")
    torch.manual_seed(0)
    theirs = r3d_18(weights=None, num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "r3d_18.pth")
    made = weights.convert(
        tmp_path / "r3d_18.pth",
        tmp_path / "encoder.safetensors",
        recipe=str(tmp_path / "recipe.yaml"),
        classifier=True,
    )
    assert (made.format, made.share) == ("torchvision_video", 1)
    ours = load_classifier(tmp_path).classifier.eval()
    clips = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips), theirs(clips), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "cfg",
    [
        *("DATA: [", "[" * 3_000, "7", "DATA: {NUM_FRAMES: many}", None, "DATA: {}" + " " * 2**18),
        # What YAML makes of a text may be no value of that kind: PyYAML raises what it likes.
        *("a: 2001-99-99", f"a: {'1' * 5000}", "a: !!bool x", "a: !!timestamp x", "a: !!int ''"),
        *("DATA: {NUM_FRAMES: 99999999999}", "a: !!python/object/apply:os.system [true]"),
    ],
)
def test_a_config_that_cannot_be_read_leaves_the_clip_unknown(cfg: str | None) -> None:
    assert pyslowfast.geometry(config_of({"cfg": CFG})) == Geometry(8, 8, 224)
    assert pyslowfast.geometry(config_of({"cfg": cfg})) == Geometry()


def test_a_config_of_merged_keys_does_not_grow() -> None:
    # 40 levels, each twice the one before: 2**40 keys, were they merged.
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
    assert len(config_of({"cfg": "\n".join(lines)})) == 40


# --- relatives, and encoders of our own


def test_a_relative_with_another_stem_is_refused_unless_a_share_is_stated(
    cli: Cli, tmp_path: Path
) -> None:
    torch.save(published(slow.Config()), tmp_path / "slow.pyth")
    out = tmp_path / "encoder.safetensors"
    # 264 of 265 tensors have R3D's shapes; the stem, 1 x 7 x 7 for 5 x 7 x 7, does not.
    message = refused_conversion(cli, tmp_path / "slow.pyth", "--to", out, "--model", "r3d_50_32x2")
    assert "264 of the 265 tensors of r3d_50_32x2 are there (99.6%); those of another" in message
    assert "of another shape (1): trunk.stem.conv.weight" in message
    assert "--min-match 0.99 takes it nevertheless; the rest keeps fresh weights" in message
    assert not out.exists()
    made = weights.convert(tmp_path / "slow.pyth", out, model="r3d_50_32x2", least=0.99)
    assert "1 tensors are not in the file and keep fresh weights" in made.remarks


def test_a_file_without_one_fitting_tensor_is_told_as_another_networks(
    cli: Cli, tmp_path: Path
) -> None:
    torch.save(published(slow.Config()), tmp_path / "slow.pyth")
    message = refused_conversion(
        *(cli, tmp_path / "slow.pyth", "--to", tmp_path / "e.safetensors", "--model", "x3d_m")
    )
    assert "(0.0%)" in message
    assert "these are the weights of another network" in message
    assert "--min-match" not in message


def test_an_encoder_of_ours_starts_one_with_non_local_blocks(
    cli: Cli, checkpoint: Path, recipe: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "encoder.safetensors"
    weights.convert(checkpoint, plain, recipe=str(recipe))
    further = tmp_path / "further.yaml"
    further.write_text(RECIPE.replace("frames: 4", "frames: 4, non_local: {res4: [0]}"))
    out = tmp_path / "further" / "encoder.safetensors"
    message = refused_conversion(cli, plain, "--to", out, "--recipe", further)
    # 12 more: weight and bias of four convolutions, four of the norm; 85 of 97.
    assert "85 of the 97 tensors" in message
    assert (
        "--min-match 0.87 takes it nevertheless; the non-local blocks, which are all that is "
        "missing, start as the identity"
    ) in message
    result = cli(
        *("weights", "convert", plain, "--to", out, "--recipe", further, "--min-match", 0.87)
    )
    assert result.exit_code == 0, result.output
    # The clips of the first conversion are still known.
    assert "frames 8 there, 4 here" in result.stdout
    card, tensors = load_weights(out, "encoder")
    assert card["geometry"]["crop_px"] == 224
    before = load_encoder(plain, CONFIG)[0].eval()
    after = CONFIG.model_copy(update={"non_local": NonLocalConfig(res4=(0,))}).build().eval()
    after.load_state_dict(tensors)
    clips = torch.rand(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(after(clips), before(clips))


def test_what_has_no_place_is_told_loudly(tmp_path: Path, checkpoint: Path, recipe: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["model_state"]["s2.pathway0_res0.more"] = torch.ones(1)
    torch.save(content, tmp_path / "more.pyth")
    out = tmp_path / "e.safetensors"
    made = weights.convert(tmp_path / "more.pyth", out, recipe=str(recipe))
    assert "1 tensors of the file have no place and are left out" in made.remarks


# --- classifiers that are none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.full((5, 256), torch.nan)}, "1 tensors are not finite, such as weight"),
        (
            {"bias": torch.zeros(4)},
            "weights of (5, 256) and a bias of (4,); expected (classes, 256",
        ),
        ({"weight": torch.zeros(5)}, "weights of (5,) and a bias of (5,)"),
        ({"weight": torch.zeros(()), "bias": torch.zeros(())}, "weights of () and a bias of (1,)"),
        ({"weight": torch.zeros(0, 256), "bias": torch.zeros(0)}, "weights of (0, 256)"),
        ({"weight": torch.zeros(5, 8)}, "weights of (5, 8)"),
    ],
)
def test_a_damaged_classifier_is_refused_and_nothing_written(
    cli: Cli, recipe: Path, tmp_path: Path, change: dict[str, Tensor], message: str
) -> None:
    def put(state: dict[str, Tensor]) -> None:
        state.update({f"head.projection.{key}": value for key, value in change.items()})

    path = damaged(tmp_path / "a.pyth", put)
    out = tmp_path / "made" / "e.safetensors"
    if not change["weight" if "weight" in change else "bias"].ndim:
        assert cli("weights", "inspect", path).exit_code == 0
    options = ("--to", out, "--recipe", recipe, "--classifier")
    assert message in refused_conversion(cli, path, *options)
    assert not out.parent.exists()


def test_a_detectors_classifier_is_not_one_of_clips(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    content = published(CONFIG, classes=80) | {"cfg": f"{CFG}DETECTION: {{ENABLE: true}}\n"}
    torch.save(content, tmp_path / "ava.pyth")
    options = ("--to", tmp_path / "e.safetensors", "--recipe", recipe)
    message = refused_conversion(cli, tmp_path / "ava.pyth", *options, "--classifier")
    assert "but that of a detector, which reads boxes" in message
    assert cli("weights", "convert", tmp_path / "ava.pyth", *options).exit_code == 0


# --- how pixels were normalised


def test_torchvisions_pixels_are_told_and_kept(cli: Cli, tmp_path: Path) -> None:
    torch.save(r3d_18(weights=None, num_classes=3).state_dict(), tmp_path / "a.pth")
    out = tmp_path / "encoder.safetensors"
    result = cli("weights", "convert", tmp_path / "a.pth", "--to", out, "--model", "r3d_18")
    told = "mean 0.432 0.395 0.376 there, 0.45 here, std 0.228 0.221 0.217 there, 0.225 here"
    assert told in result.stdout
    card, _ = load_weights(out, "encoder")
    # As torchvision's own transforms of these weights have them.
    own = R3D_18_Weights.KINETICS400_V1.transforms()
    assert (card["geometry"]["mean"], card["geometry"]["std"]) == (own.mean, own.std)


def test_pixels_as_ours_and_unknown_ones_are_not_told() -> None:
    same = Geometry(mean=(0.45,) * 3, std=(0.225,) * 3)
    assert differences(same, CONFIG) == differences(Geometry(), CONFIG) == []
    assert "channels bgr there, rgb here" in differences(Geometry(channels="bgr"), CONFIG)[0]


def test_an_encoder_of_ours_that_saw_changes_is_told(tiny: dict[str, Path], tmp_path: Path) -> None:
    backbone = yaml.safe_load(tiny["detection"].read_text())["backbone"]
    config = slowfast.Config.model_validate({**backbone, "sees": "changes"})
    save_weights(tmp_path, "encoder", config.build(), {"backbone": config.model_dump()})
    (tmp_path / "backbone.yaml").write_text(yaml.safe_dump({"backbone": backbone}))
    made = weights.convert(
        *(tmp_path / "encoder.safetensors", tmp_path / "made" / "encoder.safetensors"),
        recipe=str(tmp_path / "backbone.yaml"),
    )
    assert "the weights were trained on changes; backbone.sees: frames" in made.remarks


def test_what_a_detector_saw_is_in_its_recipe() -> None:
    seen = {"backbone": {"name": "slow", "sees": "changes"}}
    told = ["the weights were trained on changes; backbone.sees: frames"]
    assert other_sight(seen, CONFIG) == other_sight({"recipe": seen}, CONFIG) == told
    assert other_sight({"recipe": {"backbone": {"name": "slow"}}}, CONFIG) == []
    assert other_sight({}, CONFIG) == []
