"""People found in single pictures by a detector of torchvision whose weights lie on the disk.

Nothing is downloaded: a model is built empty and filled from a file, which is read without running
it (``vidssl.published.jail``). Its batch norms become frozen ones where the file is of a model that
had such, with the eps that torchvision gives them: 0 in the four models whose published weights
(COCO_V1) were trained so, else their own.

Suffixes: N pictures, H and W pixels, K boxes of one picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import detection, get_model, list_models
from torchvision.ops.misc import FrozenBatchNorm2d

from vidssl.boxes import Boxes, clip, from_pixels
from vidssl.errors import CheckpointError, listed, nearest

PERSON = 1
"""The person's number in COCO's list, as torchvision's detectors have it; 0 is the background."""
COCO_CLASSES = 91
DECIMALS = 6
EPS_0 = {
    *("fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
    *("maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"),
}
PREFIXES = ("", "model.", "module.", "state_dict.", "model_state_dict.", "state_dict.model.")
TRACKED = ".num_batches_tracked"
CLASSIFIERS = {  # the bias whose length tells the number of classes: how often it has each
    "roi_heads.box_predictor.cls_score.bias": 1,
    "head.classification_head.cls_logits.bias": 9,  # RetinaNet's anchors at a place
}


@dataclass(frozen=True)
class Found:
    """The people of one picture: ``box`` ``(K, 4)`` normalised, ``score`` ``(K,)``, falling."""

    box: Boxes
    score: NDArray[np.float64]


def models() -> list[str]:
    """Return the names of the detectors that can be built."""
    return sorted(list_models(module=detection))


class PersonDetector:
    """A detector of torchvision with weights, for one of its classes."""

    def __init__(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        where: str,
        *,
        label: int = PERSON,
        short_side_px: int | None = None,
    ) -> None:
        """Build ``name`` and fill it with all of ``tensors``, which lie at ``where``.

        ``short_side_px`` is what pictures are resized to; None: what the model has by itself.

        Raises:
            CheckpointError: if there is no such model, the weights do not fit it, or it does not
                know the class ``label``.
        """
        require_model(name)
        own = _own(tensors)
        classes = _classes(name, own)
        if not 1 <= label < classes:
            raise CheckpointError(
                f"{where}: --class: expected one from 1 to {classes - 1}, found {label}"
            )
        if short_side_px is not None and name.startswith("ssd"):
            raise CheckpointError(f"--short-side: {name} has a size of its own; leave it out")
        options = {} if short_side_px is None else {"min_size": short_side_px}
        model = get_model(name, weights=None, weights_backbone=None, num_classes=classes, **options)
        if not any(key.endswith(TRACKED) for key in own):
            _freeze(model, 0.0 if name in EPS_0 else None)
        _fill(model, own, name, where)
        self.model: nn.Module = model.eval()
        self.label = label

    def to(self, device: torch.device) -> "PersonDetector":
        """Move to a device."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def find(self, frames_NHWC: Tensor, min_score: float) -> list[Found]:
        """Return the people of RGB uint8 pictures, those of at least ``min_score``."""
        device = next(self.model.parameters()).device
        pictures = [frame.permute(2, 0, 1).to(device) / 255 for frame in frames_NHWC]
        height_px, width_px = frames_NHWC.shape[1:3]
        return [self._people(one, width_px, height_px, min_score) for one in self.model(pictures)]

    def _people(
        self, found: Mapping[str, Tensor], width_px: int, height_px: int, min_score: float
    ) -> Found:
        score = found["scores"].double().cpu().numpy()
        wanted = (found["labels"].cpu().numpy() == self.label) & (score >= min_score)
        pixels = found["boxes"].double().cpu().numpy()
        box = clip(from_pixels(pixels, width_px, height_px)).round(DECIMALS)
        wanted &= (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3]) & np.isfinite(score)
        rows = np.flatnonzero(wanted)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        return Found(box[rows], score[rows].round(DECIMALS))


def require_model(name: str) -> None:
    """Refuse a name that is none of a detector.

    Raises:
        CheckpointError: if so.
    """
    if name not in models():
        choices = ", ".join(models())
        raise CheckpointError(
            f"--model: no detector {name!r} in torchvision{nearest(name, models())} "
            f"(choices: {choices})"
        )


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the model: of those under one of the usual names, the most."""

    def below(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    starts = ("backbone.", "roi_heads.", "rpn.", "head.")
    return max(
        (below(prefix) for prefix in PREFIXES),
        key=lambda held: sum(key.startswith(starts) for key in held),
    )


def _classes(name: str, tensors: Mapping[str, Tensor]) -> int:
    """Return the number of classes, the background among them, that the weights are for."""
    for key, times in CLASSIFIERS.items():
        if key in tensors and tensors[key].dim() == 1:
            return len(tensors[key]) // (1 if name.startswith("fcos") else times)
    return COCO_CLASSES


def _freeze(module: nn.Module, eps: float | None) -> None:
    """Freeze batch norms; they keep their own eps where none is given."""
    for name, part in module.named_children():
        if isinstance(part, nn.BatchNorm2d):
            setattr(
                module, name, FrozenBatchNorm2d(part.num_features, part.eps if eps is None else eps)
            )
        else:
            _freeze(part, eps)


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], name: str, where: str) -> None:
    own = model.state_dict()
    problems = [f"missing: {key}" for key in own if key not in tensors]
    problems += [f"unexpected: {key}" for key in tensors if key not in own]
    problems += [
        f"{key}: shape {tuple(tensors[key].shape)} there, {tuple(own[key].shape)} in the model"
        for key in own
        if key in tensors and own[key].shape != tensors[key].shape
    ]
    if problems:
        counts = f"{len(problems)} of {len(own)} tensors; is --model right?"
        title = f"{where}: does not fit {name} ({counts})"
        raise CheckpointError(listed(title, problems, limit=8))
    model.load_state_dict(dict(tensors))
