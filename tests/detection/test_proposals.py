"""Detectors of torchvision filled from tensors: they find what torchvision's own would."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from vidssl.detection.proposals import PersonDetector, models
from vidssl.errors import CheckpointError

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill a detector so that it finds something: scores spread, statistics are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in module.state_dict().items():
        if key.endswith("running_mean"):
            value.copy_(torch.rand(value.shape, generator=generator) * 0.1)
        elif key.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) * 1e-3 + 1.0)
        elif "cls_score" in key or "bbox_pred" in key:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.02)
    return module.eval()


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=3)
    return filled(model).state_dict()


def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 60, 90, 3), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )


def test_every_person_of_torchvision_s_answer_is_found(tensors: dict[str, Tensor]) -> None:
    detector = PersonDetector(NAME, tensors, "here", label=2)
    found = detector.find(pictures(), 0.05)
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=3)
    model.load_state_dict(tensors)
    with torch.inference_mode():
        answers = model.eval()([frame.permute(2, 0, 1) / 255 for frame in pictures()])
    assert sum(len(one.score) for one in found) > 0
    for one, answer in zip(found, answers, strict=True):
        wanted = (answer["labels"] == 2) & (answer["scores"] >= 0.05)
        boxes = answer["boxes"][wanted].double().numpy() / [90, 60, 90, 60]
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        scores = answer["scores"][wanted].double().numpy()[kept]
        assert one.score == pytest.approx(scores, abs=1e-6)
        assert one.box == pytest.approx(boxes[kept].clip(0, 1), abs=1e-5)
        assert (np.diff(one.score) <= 0).all()


def test_the_threshold_and_the_class_choose_boxes(tensors: dict[str, Tensor]) -> None:
    all_of_2 = PersonDetector(NAME, tensors, "here", label=2).find(pictures(), 0.05)
    middle = float(np.median(all_of_2[0].score))
    some = PersonDetector(NAME, tensors, "here", label=2).find(pictures(), middle)
    assert 0 < len(some[0].score) < len(all_of_2[0].score)
    assert some[0].score.min() >= middle - 1e-6
    other = PersonDetector(NAME, tensors, "here", label=1).find(pictures(), 0.05)
    assert not np.array_equal(other[0].score, all_of_2[0].score)


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "state_dict.model."])
def test_weights_may_lie_under_the_usual_names(tensors: dict[str, Tensor], prefix: str) -> None:
    held = {prefix + key: value for key, value in tensors.items()}
    if prefix:
        held["optimizer.state.0.exp_avg"] = torch.zeros(3)
    model = PersonDetector(NAME, held, "here").model
    assert torch.equal(
        model.state_dict()["rpn.head.conv.0.0.bias"], tensors["rpn.head.conv.0.0.bias"]
    )


def test_weights_of_frozen_norms_give_a_model_of_frozen_norms(tensors: dict[str, Tensor]) -> None:
    frozen = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    detector = PersonDetector(NAME, frozen, "here", label=2)
    norms = [part for part in detector.model.modules() if isinstance(part, FrozenBatchNorm2d)]
    assert len(norms) == sum(key.endswith("running_var") for key in tensors)
    assert {norm.eps for norm in norms} == {1e-5}
    assert not any(isinstance(part, nn.BatchNorm2d) for part in detector.model.modules())
    model = PersonDetector(NAME, tensors, "here").model
    frame = pictures()[0].permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        here, there = (m.get_submodule("backbone")(frame) for m in (detector.model, model))
    for level in there:
        torch.testing.assert_close(here[level], there[level], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_four_models_whose_weights_know_no_eps_get_none() -> None:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d
    )
    torch.manual_seed(0)
    own = FasterRCNN(backbone, 3, min_size=64)
    filled(own)
    own.state_dict()["backbone.body.bn1.running_var"].fill_(1e-5)  # where an eps of 1e-5 tells
    overwrite_eps(own, 0.0)
    name = "fasterrcnn_resnet50_fpn"
    mine = PersonDetector(name, own.state_dict(), "here", short_side_px=64).model
    frame = [pictures()[0].permute(2, 0, 1) / 255]
    with torch.inference_mode():
        here, there = (m.get_submodule("backbone")(frame[0][None]) for m in (mine, own))
    for level in there:
        torch.testing.assert_close(here[level], there[level], rtol=1e-5, atol=1e-6)


def test_weights_of_another_model_are_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"here: does not fit ssdlite320.*is --model right\?"):
        PersonDetector("ssdlite320_mobilenet_v3_large", tensors, "here")
    short = {k: v for k, v in tensors.items() if k != "rpn.head.bbox_pred.bias"}
    with pytest.raises(CheckpointError, match=r"missing: rpn\.head\.bbox_pred\.bias"):
        PersonDetector(NAME, short, "here")
    with pytest.raises(CheckpointError, match="--class: expected one from 1 to 2, found 7"):
        PersonDetector(NAME, tensors, "here", label=7)
    with pytest.raises(CheckpointError, match=r"no detector 'fasterrcnn_resnet50'.*did you mean"):
        PersonDetector("fasterrcnn_resnet50", tensors, "here")
    with pytest.raises(CheckpointError, match="--short-side: ssd300_vgg16 has a size of its own"):
        PersonDetector("ssd300_vgg16", tensors, "here", short_side_px=64)


def test_the_published_choice_is_among_the_models() -> None:
    assert {"fasterrcnn_resnet50_fpn_v2", NAME, "fcos_resnet50_fpn"} <= set(models())
