"""A detector with a transformer decoder: trained, saved, loaded, gone on from, and refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import Result

from vidssl.augment.views import DetectionConfig
from vidssl.ava.annotations import group_keyframes, read_annotations, read_predictions
from vidssl.ava.labels import read_labels
from vidssl.backbones import Encoder, slow
from vidssl.data.keyframes import KeyFrameDataset, Reading, annotated, place
from vidssl.detection.detector import Detector, HeadConfig
from vidssl.jobs import _detector as shared
from vidssl.train.folder import read_log
from vidssl.video.index import ClipIndex

Cli = Callable[..., Result]
Refused = Callable[..., str]
Train = Callable[..., Result]

CONTEXT_OPTIONS = {"name": "decoder", "layers": 2, "heads": 2, "width": 16}
STEPS = 200
CONTEXT = "head:\n  context: {name: decoder, layers: 2, heads: 2, width: 8, hidden: 6}\n"


class Kept(Encoder):
    """What a network with fresh weights makes of some clips, made once."""

    def __init__(self, encoder: Encoder, clips: Tensor) -> None:
        super().__init__()
        self.features, self.spatial_stride = encoder.features, encoder.spatial_stride
        self.temporal_stride = encoder.temporal_stride
        with torch.no_grad():
            self.kept = encoder.maps(clips)

    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        return self.kept


@pytest.fixture(scope="module")
def recipes(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny recipes, with a decoder; ``other`` has it otherwise."""
    folder = tmp_path_factory.mktemp("decoder")
    plain, bank = (tiny[name].read_text() for name in ("detection", "detection_bank"))
    texts = {
        "plain": plain + CONTEXT,
        "bank": bank + CONTEXT.removeprefix("head:\n"),
        "other": plain + CONTEXT.replace("width: 8", "width: 4"),
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return {name: folder / f"{name}.yaml" for name in texts}


@pytest.fixture(scope="module")
def train(cli: Cli, recipes: dict[str, Path], training_data: list[object]) -> Train:
    def run(recipe: str, encoder: object, out: Path, *more: object) -> Result:
        command = ("finetune", recipes[recipe], "--encoder", encoder, *training_data)
        return cli(*command, "--out", out, *more)

    return run


@pytest.fixture(scope="module")
def trained(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("decoder") / "run"
    result = train("plain", "random", out)
    assert result.exit_code == 0, result.output
    return out


def test_it_comes_back_from_its_card(trained: Path) -> None:
    assert read_log(trained)[0]["loss"] == pytest.approx(0.693, abs=0.02)  # ln 2
    card = json.loads((trained / "detector.json").read_text())
    assert card["recipe"]["head"]["context"]["layers"] == 2
    detector = shared.load_detector(trained).detector
    assert detector.classifier.weight.shape == (9, 6)
    assert detector.context is not None
    assert detector.context.features == 6


def test_it_predicts_for_eval_ava_and_detect_alike(
    cli: Cli, trained: Path, playground: Path, index: Path, tmp_path: Path
) -> None:
    boxes = ("--boxes", playground / "val_person_detections.csv")
    result = cli(
        *("eval-ava", "--checkpoint", trained, "--videos", index, *boxes, "--quick"),
        *("--annotations", playground / "val.csv"),
        *("--labels", playground / "action_list.pbtxt", "--json", "-"),
    )
    theirs = read_predictions(Path(json.loads(result.stdout)["predictions"]))
    video = playground / "videos" / "val_000.mp4"
    result = cli("detect", video, "--checkpoint", trained, *boxes, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    ours = read_predictions(tmp_path / "out" / "predictions.csv")
    assert (ours.score == theirs.score[theirs.action > 0]).all()
    assert len(set(ours.score.tolist())) > 50


def test_a_bank_s_detector_takes_over_the_decoder_and_its_part_of_the_classifier(
    train: Train, cli: Cli, trained: Path, playground: Path, index: Path, tmp_path: Path,
    tiny: dict[str, Path],
) -> None:  # fmt: skip
    result = cli(
        *("extract-features", tiny["extract"], "--encoder", trained, "--videos", index),
        *("--boxes", playground / "train_person_detections.csv", "--out", tmp_path / "bank"),
    )
    assert result.exit_code == 0, result.output
    more = ("--bank", tmp_path / "bank", "--set", "init=detector", "--set", "optim.lr=1e-9")
    result = train("bank", trained, tmp_path / "run", *more, "--steps", 1)
    assert result.exit_code == 0, result.output
    before, after = (shared.load_detector(run).detector for run in (trained, tmp_path / "run"))
    assert after.classifier.weight.shape == (9, 6 + 8)
    assert torch.allclose(after.classifier.weight[:, :6], before.classifier.weight, atol=1e-6)
    assert after.context is not None
    assert before.context is not None
    for name, value in before.context.named_parameters():
        assert torch.allclose(after.context.get_parameter(name), value, atol=1e-6), name


def test_another_decoder_is_no_start(
    refused: Refused, recipes: dict[str, Path], training_data: list[object], trained: Path,
    detector: Path,
) -> None:  # fmt: skip
    for encoder, there in ((trained, '"width":8'), (detector, "head.context is absent there")):
        told = refused(
            *("finetune", recipes["other"], "--encoder", encoder, *training_data),
            *("--out", "run", "--set", "init=detector"),
        )
        assert there in told
        assert '"width":4' in told
        assert "init: encoder starts with a fresh head" in told


def test_eight_key_frames_are_learnt_by_heart(playground: Path, index: Path) -> None:
    labels = read_labels(playground / "action_list.pbtxt")
    annotations = read_annotations(playground / "train.csv", labels)
    moments = [annotated(k) for k in group_keyframes(annotations, labels.size) if len(k.boxes)]
    placed = place(moments[2:26:3], ClipIndex(index), {})
    dataset = KeyFrameDataset(placed, Reading(4, 4, 48), seed=0, bank=None)
    samples = [dataset[position] for position in range(8)]
    view = DetectionConfig(short_side_px=(48, 48), crop_px=None, test_short_side_px=48)
    batch = shared.batcher(view, 16, torch.device("cpu"), training=False)(samples, 0)
    assert 0.05 < batch.labels.mean().item() < 0.5

    torch.manual_seed(0)
    backbone = slow.Config(width=8, depths=(1, 1, 1, 1), frames=4, stride=4, form="detection")
    head = HeadConfig.model_validate({"context": CONTEXT_OPTIONS, "dropout": 0})
    detector = Detector(Kept(backbone.build(), batch.clips), head, num_classes=labels.size)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = detector(batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    with torch.no_grad():
        found = detector.logits(batch.clips, batch.boxes) > 0
    assert torch.equal(found, batch.labels == 1)
