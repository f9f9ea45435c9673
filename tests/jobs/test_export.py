"""Exported models: run without vidssl they compute the same, or there is no file."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from typer.testing import Result

from vidssl.ava.labels import LabelMap
from vidssl.backbones import Encoder, i3d, slow, slowfast
from vidssl.errors import CheckpointError, ExportError, OutputError
from vidssl.jobs import _detector as shared
from vidssl.jobs import export
from vidssl.jobs._classifier import save_classifier
from vidssl.jobs._formats import FORMATS, trace
from vidssl.jobs._graphs import Graph, open_graph
from vidssl.nn.non_local import NonLocalConfig
from vidssl.nn.norms import NormConfig
from vidssl.recipe import Detection, validate
from vidssl.recognition.classifier import Classifier
from vidssl.train.weights import save_weights

SLOW = slow.Config(width=8, depths=(1, 1, 1, 1), frames=2, stride=8)
SLOWFAST = slowfast.Config(width=8, depths=(1, 1, 1, 1), frames=4, stride=4, alpha=2)
BANK_DIM, ROWS = 6, 8
OPERATOR = {
    "name": "fbo_nl",
    **{"width": 8, "layers": 1, "masked": True, "time_encoding": True},
    "window": {"before_s": 2, "after_s": 2, "per_step": 2},
}
CONTEXT = {"name": "decoder", "layers": 1, "heads": 2, "width": 8, "hidden": 6}
KINDS = ("encoder", "classifier", "detector", "bank detector")
BOTH = ("torch-export", "onnx")


def lively(module: nn.Module) -> None:
    """Give every weight and statistic something to do, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.state_dict().items():
        if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bias", "running_mean")) or "operator" in name:
            value.normal_(std=0.3, generator=generator)
        elif name == "classifier.weight":
            value.normal_(std=0.1, generator=generator)


def write_encoder(folder: Path) -> None:
    encoder: Encoder = SLOWFAST.build()
    lively(encoder)
    backbone = SLOWFAST.model_dump(mode="json")
    geometry = {"frames": 4, "stride": 4, "crop_px": 32}
    card = {"backbone": backbone, "features": encoder.features, "geometry": geometry}
    save_weights(folder, "encoder", encoder, card)


def write_classifier(folder: Path) -> None:
    classifier = Classifier(SLOW.build(), num_classes=3)
    lively(classifier)
    labels, facts = ["run", "sit", "jump"], {"geometry": {"crop_px": 40}}
    save_classifier(folder, classifier, SLOW, labels=labels, facts=facts)


def write_detector(folder: Path, operator: object = None, context: object = None) -> None:
    """Without an operator, RoIAlign is as in models ported from Caffe2."""
    sizes = {"short_side_px": [48, 48], "crop_px": None, "test_short_side_px": 48}
    values = {
        "task": "detection",
        "backbone": SLOW.model_dump(mode="json") | {"form": "detection"},
        "head": {"operator": operator, "aligned": operator is not None, "context": context},
        "augment": sizes,
        "optim": {"lr": 0.1, "batch": 2, "steps": 1},
    }
    plan = validate(Detection, values, "the test's recipe")
    labels = LabelMap({1: "walk", 3: "wave"})
    bank_dim = BANK_DIM if operator else None
    detector = shared.build_detector(plan, plan.backbone.build(), labels, bank_dim)
    lively(detector)
    card = {
        "recipe": plan.model_dump(mode="json"),
        "classes": {str(number): name for number, name in labels.names.items()},
        "bank": {"encoder": "0" * 16, "dim": BANK_DIM} if operator else None,
    }
    save_weights(folder, "detector", detector, card)


WRITE: dict[str, Callable[[Path], None]] = {
    "encoder": write_encoder,
    "classifier": write_classifier,
    "detector": write_detector,
    "bank detector": lambda folder: write_detector(folder, OPERATOR),
    "context detector": lambda folder: write_detector(folder, context=CONTEXT),
}

Exported = Callable[[str, str], export.ExportResult]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each kind; not to be written to."""
    torch.manual_seed(0)
    folders = {kind: tmp_path_factory.mktemp(kind.replace(" ", "_")) for kind in WRITE}
    for kind, folder in folders.items():
        WRITE[kind](folder)
    return folders


@pytest.fixture(scope="module")
def exported(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export a kind in a format, once for all tests."""
    done: dict[tuple[str, str], export.ExportResult] = {}
    folder = tmp_path_factory.mktemp("exported")

    def get(kind: str, written_as: str) -> export.ExportResult:
        if (kind, written_as) not in done:
            name = f"{kind.replace(' ', '_')}{FORMATS[written_as].suffix}"
            args = (checkpoints[kind], written_as, folder / name)
            done[kind, written_as] = export.run(*args)  # type: ignore[arg-type]
        return done[kind, written_as]

    return get


def inputs_of(graph: Graph, clips: int, boxes: int, seed: int = 7) -> tuple[Tensor, ...]:
    return graph.draw(clips, boxes, torch.Generator().manual_seed(seed))


def run_file(result: export.ExportResult, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Run an exported file as somebody else would, by the names that its card has."""
    card = json.loads(result.card.read_text())
    if card["format"] == "torch-export":
        return list(torch.export.load(result.path).module()(*inputs))
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    feed = {port["name"]: value.numpy() for port, value in zip(card["inputs"], inputs, strict=True)}
    outputs = session.run([port["name"] for port in card["outputs"]], feed)
    return [torch.from_numpy(output) for output in outputs]


@pytest.mark.parametrize(
    ("kind", "written_as"), [*product(KINDS, BOTH), ("context detector", "onnx")]
)
def test_any_number_of_clips_and_boxes_gives_what_the_network_gives(
    kind: str, written_as: str, exported: Exported, checkpoints: dict[str, Path]
) -> None:
    result = exported(kind, written_as)
    graph = open_graph(checkpoints[kind])
    for clips, boxes in ((1, 1), (1, 6), (4, 2), (5, 0)):
        inputs = inputs_of(graph, clips, boxes)
        expected = graph.module(*inputs)
        found = run_file(result, inputs)
        assert len(found) == len(expected)
        rows = clips if not graph.has_boxes else boxes
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert len(one) == rows
            assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_depends_on_every_input(kind: str, checkpoints: dict[str, Path]) -> None:
    # Or else the comparisons would prove nothing of it.
    graph = open_graph(checkpoints[kind])
    one = inputs_of(graph, 3, 4)
    before = graph.module(*one)[0]
    for at, value in enumerate(inputs_of(graph, 3, 4, seed=8)):
        changed = list(one)
        changed[at] = value
        assert not torch.allclose(graph.module(*changed)[0], before, atol=1e-4), graph.inputs[at]


@pytest.mark.parametrize("written_as", BOTH)
def test_the_report_is_of_several_numbers_of_clips_and_boxes(
    written_as: str, exported: Exported
) -> None:
    with_boxes, without = exported("detector", written_as), exported("classifier", written_as)
    assert [(c.clips, c.boxes) for c in with_boxes.parity] == [(1, 5), (2, 1), (2, 0), (3, 5)]
    assert [(c.clips, c.boxes) for c in without.parity] == [(1, None), (2, None), (3, None)]
    for result in (with_boxes, without):
        assert result.largest.keys() == {"logits", "scores"}
        assert all(value <= 1e-5 for value in result.largest.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_means_the_same_as_its_folder(kind: str, checkpoints: dict[str, Path]) -> None:
    (weights,) = checkpoints[kind].glob("*.safetensors")
    by_file, by_folder = open_graph(weights), open_graph(checkpoints[kind])
    assert kind.endswith(by_file.kind)
    assert replace(by_file, module=by_folder.module) == by_folder


def test_the_outputs_are_logits_and_what_they_stand_for(checkpoints: dict[str, Path]) -> None:
    classifier, detector = (open_graph(checkpoints[kind]) for kind in ("classifier", "detector"))
    logits, scores = classifier.module(*inputs_of(classifier, 2, 0))
    assert torch.allclose(scores.sum(dim=1), torch.ones(2))
    assert torch.allclose(scores.log().diff(), logits.diff(), atol=1e-5)
    logits, scores = detector.module(*inputs_of(detector, 2, 3))
    assert torch.allclose(scores.logit(), logits, atol=1e-4)


def test_the_card_says_what_goes_in_and_comes_out(exported: Exported) -> None:
    result = exported("bank detector", "onnx")
    card = json.loads(result.card.read_text())
    assert result.card.name == "bank_detector.onnx.json"
    shapes = {port["name"]: (port["shape"], port["dtype"]) for port in card["inputs"]}
    assert shapes == {
        "clips": (["clips", 3, 2, 48, 48], "float32"),
        "boxes": (["boxes", 4], "float32"),
        "clip_index": (["boxes"], "int64"),
        "window_features": (["clips", ROWS, BANK_DIM], "float32"),
        "window_mask": (["clips", ROWS], "bool"),
        "window_offset_s": (["clips", ROWS], "float32"),
    }
    assert [port["shape"] for port in card["outputs"]] == [["boxes", 3]] * 2
    assert card["labels"] == ["walk", None, "wave"]  # the label map has no 2
    assert card["preprocessing"]["mean"] == [0.45] * 3
    assert card["preprocessing"]["channels"] == "red, green, blue"
    assert card["preprocessing"]["seconds_between_frames"] == pytest.approx(8 / 30)
    assert card["versions"]["opset"] == 20
    assert len(card["parity"]["comparisons"]) == 4
    assert json.loads(exported("classifier", "onnx").card.read_text())["labels"] == [
        *("run", "sit", "jump")
    ]


def test_an_onnx_file_has_the_names_and_sizes_of_its_card(exported: Exported) -> None:
    result = exported("bank detector", "onnx")
    model = onnx.load(result.path)
    for values, ports in (
        (model.graph.input, result.inputs),
        (model.graph.output, result.outputs),
    ):
        found = {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in values
        }
        assert found == {port["name"]: port["shape"] for port in ports}
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 20)}


@pytest.mark.parametrize("written_as", BOTH)
def test_a_file_does_not_tell_where_it_was_made_nor_hold_example_clips(
    written_as: str, exported: Exported, checkpoints: dict[str, Path]
) -> None:
    result = exported("detector", written_as)
    content = result.path.read_bytes()
    assert str(Path(export.__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content
    weights = (checkpoints["detector"] / "detector.safetensors").stat().st_size
    assert len(content) < 2 * weights


ALONE = {
    "torch-export": """
import sys, json, numpy, torch, torchvision
inputs = [torch.from_numpy(a) for a in numpy.load(sys.argv[2]).values()]
scores = torch.export.load(sys.argv[1]).module()(*inputs)[1]
assert "vidssl" not in sys.modules
print(json.dumps(scores.tolist()))
""",
    "onnx": """
import sys, json, numpy, onnxruntime
inputs = dict(numpy.load(sys.argv[2]))
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
scores = session.run(["scores"], inputs)[0]
assert not {"vidssl", "torch"} & set(sys.modules)
print(json.dumps(scores.tolist()))
""",
}


@pytest.mark.parametrize("written_as", BOTH)
def test_a_file_runs_in_a_process_without_vidssl(
    written_as: str, exported: Exported, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    result = exported("detector", written_as)
    graph = open_graph(checkpoints["detector"])
    inputs = inputs_of(graph, 2, 3)
    named = {port.name: value.numpy() for port, value in zip(graph.inputs, inputs, strict=True)}
    np.savez(tmp_path / "inputs.npz", **named)  # type: ignore[arg-type]
    paths = [str(result.path), str(tmp_path / "inputs.npz")]
    command = [sys.executable, "-c", ALONE[written_as], *paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = graph.module(*inputs)[1]
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), expected, atol=1e-5)


def test_non_local_blocks_and_group_norm_are_exported_as_onnx(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = NonLocalConfig(res3=(0,), res4=(0,), frames_per_group={"res4": 1})
    norm = NormConfig(kind="group", groups=4)
    sizes = {"width": 8, "depths": (1, 1, 1, 1), "frames": 4}
    config = i3d.Config.model_validate({**sizes, "non_local": blocks, "norm": norm})
    encoder = config.build()
    for name, value in encoder.state_dict().items():
        if "nonlocal" in name and "norm" in name:
            value.fill_(0.1)  # a fresh one adds nothing
    card = {"backbone": config.model_dump(mode="json"), "features": encoder.features}
    save_weights(tmp_path, "encoder", encoder, card)
    result = export.run(tmp_path, "onnx", size_px=(32, 32))
    assert result.largest["features"] <= 1e-5


# --- what is not the same


def test_the_difference_by_hand() -> None:
    # |2.5 - 2| / 2 = .25; |.25 - .5| / 1 = .25; |100 - 101| / 101 < .01
    eager = torch.tensor([2.0, 0.5, 101.0])
    assert export.difference(eager, torch.tensor([2.5, 0.25, 100.0])) == pytest.approx(0.25)
    assert export.difference(eager, eager[:2]) == float("inf")
    assert export.difference(eager, torch.tensor([2.0, float("nan"), 101.0])) == float("inf")
    assert export.difference(torch.zeros(0, 3), torch.zeros(0, 3)) == 0


def test_other_weights_are_found_out(checkpoints: dict[str, Path], exported: Exported) -> None:
    graph = open_graph(checkpoints["encoder"])
    exported_as = FORMATS["torch-export"].open(exported("encoder", "torch-export").path)
    export.require_same(export.compare(graph, exported_as), 1e-4, "encoder.pt2")
    with torch.no_grad():
        next(graph.module.parameters())[0] += 0.1  # one of the stem's 8 filters
    other = export.compare(graph, exported_as)
    with pytest.raises(ExportError, match=r"encoder.pt2: .* not compute the same: features by"):
        export.require_same(other, 1e-4, "encoder.pt2")


def test_a_model_that_is_too_far_off_leaves_nothing_but_the_earlier_one(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    # onnxruntime adds up in another order, so nothing is as near as 0.
    out = tmp_path / "classifier.onnx"
    out.write_text("the earlier")
    out.with_name("classifier.onnx.json").write_text("its card")
    with pytest.raises(ExportError, match=r"same: logits by .* nothing was written"):
        export.run(checkpoints["classifier"], "onnx", out, limit=0.0)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "classifier.onnx": "the earlier",
        "classifier.onnx.json": "its card",
    }


# --- what is refused


def test_clips_that_the_network_cannot_take_are_refused(checkpoints: dict[str, Path]) -> None:
    graph = open_graph(checkpoints["encoder"])
    clips = replace(graph.inputs[0], shape=("clips", 3, 3, 32, 32))
    message = r"slowfast: cannot take clips of 3x32x32 .*SlowFast needs a multiple of alpha = 2"
    with pytest.raises(ExportError, match=message):
        trace(replace(graph, inputs=(clips,)))


def test_a_size_that_nothing_says_is_asked_for(tmp_path: Path) -> None:
    save_classifier(tmp_path, Classifier(SLOW.build(), num_classes=3), SLOW, labels=None, facts={})
    with pytest.raises(ExportError, match=r"does not say how large its clips are; .*--crop 224"):
        export.run(tmp_path, "torch-export")
    assert open_graph(tmp_path, (32, 32)).labels is None


def test_labels_that_do_not_fit_the_classes_are_refused(tmp_path: Path) -> None:
    classifier = Classifier(SLOW.build(), num_classes=3)
    with pytest.raises(ValueError, match="2 labels for 3 classes"):
        save_classifier(tmp_path, classifier, SLOW, labels=["a", "b"], facts={})
    save_classifier(tmp_path, classifier, SLOW, labels=None, facts={"labels": ["a", "b"]})
    with pytest.raises(CheckpointError, match="does not name each of its 3 classes"):
        open_graph(tmp_path / "classifier.safetensors", (32, 32))


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_told_with_what_to_install(
    missing: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # Python's own way to say: not to be had
    message = rf"of which {missing} cannot be imported; .*pip install 'vidssl\[onnx\]'"
    with pytest.raises(ExportError, match=message):
        export.run(checkpoints["encoder"], "onnx")


def test_something_else_than_an_export_is_not_overwritten(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "mine.pt2"
    out.write_text("precious")
    with pytest.raises(OutputError, match=r"exists, and is no earlier export .*mine\.pt2\.json"):
        export.run(checkpoints["encoder"], "torch-export", out)
    assert out.read_text() == "precious"
    with pytest.raises(OutputError, match=r"ends in \.onnx for --format onnx, found '\.pt2'"):
        export.run(checkpoints["encoder"], "onnx", out)


def test_no_file_is_left_without_its_card(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.pt2.json").mkdir()
    with pytest.raises(OutputError, match=r"a\.pt2\.json: is a folder"):
        export.run(checkpoints["encoder"], "torch-export", tmp_path / "a.pt2")
    # Of the names that both are written aside under, the file's is the longest that there may be.
    name = "b" * (255 - len(f"..pt2.{os.getpid()}.part")) + ".pt2"
    with pytest.raises(OutputError, match=r"\.json: cannot be written: File name too long"):
        export.run(checkpoints["encoder"], "torch-export", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2.json"]


# --- the command


def test_the_command_writes_beside_the_weights_and_says_so(
    cli: Callable[..., Result], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    write_encoder(tmp_path)
    weights = tmp_path / "encoder.safetensors"
    result = cli("export", weights, "--format", "torch-export", "--crop", "32x64")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "encoder.pt2").is_file()
    assert (tmp_path / "encoder.pt2.json").is_file()
    assert f"{tmp_path}/encoder.pt2: encoder, torch-export" in result.stdout
    assert "in: clips (clips, 3, 4, 32, 64) float32" in result.stdout
    assert "1, 2, 3 clips: features 0.0e+00 (limit 0.0001)" in result.stdout
    again = cli("export", tmp_path, "--format", "torch-export", "--json", "-")
    told: dict[str, Any] = json.loads(again.stdout)
    assert told["inputs"][0]["shape"] == ["clips", 3, 4, 32, 32]


def test_wrong_input_is_refused_in_words(
    refused: Callable[..., str], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    encoder = checkpoints["encoder"]
    assert "holds no encoder.safetensors" in refused("export", tmp_path, "--format", "onnx")
    mistyped = encoder / "encoder.safetensor"
    said = refused("export", mistyped, "--format", "onnx")
    assert "did you mean 'encoder.safetensors'?" in said
    assert "torch-export" in refused("export", encoder, "--format", "onxx")
    for crop in ("big", "0", "32x", "1x2x3"):
        said = refused("export", encoder, "--format", "onnx", "--crop", crop)
        assert "expected pixels such as 256" in said
    out = tmp_path / "e.onnx"
    said = refused("export", encoder, "--format", "onnx", "--out", out, "--json", out)
    assert "is named by --out and by --json" in said


def test_what_the_commands_write_can_be_exported(
    cli: Callable[..., Result], pretrained: Path, bank_detector: Path, tmp_path: Path
) -> None:
    sizes = {}
    for run in (pretrained, bank_detector):
        out = tmp_path / f"{run.parent.name}.pt2"
        result = cli("export", run, "--format", "torch-export", "--out", out, "--json", "-")
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        sizes[told["kind"]] = told["inputs"][0]["shape"][-1]
    # The recipe's crop of pretraining; the detector's test side of 48 in cells of 32.
    assert sizes == {"encoder": 32, "detector": 64}


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_converted_weights_get_the_pixels_that_they_were_trained_on(
    tmp_path: Path, kind: str
) -> None:
    mean, std = [0.43, 0.39, 0.37], [0.23, 0.22, 0.21]
    geometry = {"crop_px": 32, "mean": mean, "std": std, "channels": "bgr"}
    encoder = SLOW.build()
    if kind == "encoder":
        card = {"backbone": SLOW.model_dump(mode="json"), "geometry": geometry}
        save_weights(tmp_path, kind, encoder, card)
    else:
        facts = {"geometry": geometry}
        save_classifier(
            tmp_path, Classifier(encoder, num_classes=3), SLOW, labels=None, facts=facts
        )
    found = open_graph(tmp_path).preprocessing
    assert (found["mean"], found["std"]) == (mean, std)
    assert found["channels"] == "blue, green, red"
