"""What a checkpoint computes, as a module of tensors in and tensors out, with words for each.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, N boxes, Q rows of a window, F
features, K classes.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidssl.augment.geometry import short_side_size
from vidssl.augment.views import MEAN, STD
from vidssl.backbones import BackboneConfig, Encoder
from vidssl.detection.detector import Detector
from vidssl.errors import ExportError, RecipeError
from vidssl.features import WindowConfig
from vidssl.features.operators import BankWindow
from vidssl.jobs._classifier import load_classifier
from vidssl.jobs._detector import load_detector
from vidssl.jobs._geometry import stated
from vidssl.published.formats import Geometry
from vidssl.recipe import Pretrain, backbone_from, load
from vidssl.recognition.classifier import Classifier
from vidssl.train.weights import load_into, load_weights
from vidssl.video.sampling import PAPER_FPS

OURS = Geometry()
CLIPS, BOXES = "clips", "boxes"
"""The two sizes that are free when the exported model runs."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Port:
    """An input or output; a word in the shape is a size that is free."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Graph:
    """A module in evaluation mode that takes ``inputs``, one by one, and returns ``outputs``.

    ``labels`` names the columns of its scores, None where it has none or they are not known;
    ``source`` is the hash of the weights; ``preprocessing`` says how clips are made.
    """

    kind: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    backbone: str
    labels: tuple[str | None, ...] | None
    source: str
    preprocessing: dict[str, Any]

    @property
    def has_boxes(self) -> bool:
        """Whether boxes go in."""
        return any(BOXES in port.shape for port in self.inputs)

    def draw(self, clips: int, boxes: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return random inputs of their ranges: so many clips, and boxes of any of them."""
        free = {CLIPS: clips, BOXES: boxes}
        drawn = []
        for port in self.inputs:
            shape = [free[size] if isinstance(size, str) else size for size in port.shape]
            drawn.append(_draw(port.name, shape, clips, generator))
        return tuple(drawn)


def open_graph(checkpoint: Path, size_px: Size | None = None) -> Graph:
    """Return what a checkpoint computes: a run's folder, or a ``.safetensors`` file with its card.

    Of a folder the detector or classifier is meant, of a pretraining's the encoder. ``size_px`` is
    the clips' height and width; None takes what the checkpoint says.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        RecipeError: if this version does not know its backbone or recipe.
        ExportError: if it does not say the size of its clips, and none is given.
    """
    opened = {"detector": _detector, "classifier": _classifier, "encoder": _encoder}
    return opened[_kind(checkpoint)](checkpoint, size_px)


# --- the modules: tuples of tensors out, whatever the kind


class EncoderGraph(nn.Module):
    """Clips to features."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, clips: Tensor) -> tuple[Tensor]:
        """Return the features, ``(B, F)``."""
        return (self.encoder(clips),)


class ClassifierGraph(nn.Module):
    """Clips to logits and their softmax."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits, scores), both ``(B, K)``."""
        logits_BK = self.classifier(clips)
        return logits_BK, logits_BK.softmax(dim=1)


class DetectorGraph(nn.Module):
    """Clips and boxes to logits and their sigmoid."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, clips: Tensor, boxes: Tensor, clip_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits, scores), both ``(N, K)``."""
        logits_NK = self.detector.logits_of(clips, boxes, clip_index)
        return logits_NK, logits_NK.sigmoid()


class BankDetectorGraph(nn.Module):
    """Clips, boxes and what each clip sees of a feature bank to logits and their sigmoid."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self,
        clips: Tensor,
        boxes: Tensor,
        clip_index: Tensor,
        window_features: Tensor,
        window_mask: Tensor,
        window_offset_s: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return (logits, scores), both ``(N, K)``.

        One box more than asked for goes through the network and is dropped again: without any,
        onnxruntime 1.31 divides by zero in the attention and takes the process with it.
        """
        boxes = torch.cat([boxes, boxes.new_zeros(1, 4)])
        clip_index = torch.cat([clip_index, clip_index.new_zeros(1)])
        window = BankWindow(window_features, window_mask, window_offset_s)
        logits_NK = self.detector.logits_of(clips, boxes, clip_index, window)[:-1]
        return logits_NK, logits_NK.sigmoid()


# --- from a checkpoint


def _kind(checkpoint: Path) -> str:
    if checkpoint.is_dir():
        kinds = ("detector", "classifier")
        return next((k for k in kinds if (checkpoint / f"{k}.safetensors").is_file()), "encoder")
    card, _ = load_weights(checkpoint, checkpoint.stem)
    if "recipe" in card:
        return "detector"
    return "classifier" if "num_classes" in card else "encoder"


def _encoder(checkpoint: Path, size_px: Size | None) -> Graph:
    card, tensors = load_weights(checkpoint, "encoder")
    backbone = backbone_from(card, str(checkpoint))
    encoder = backbone.build()
    load_into(encoder, tensors, str(checkpoint))
    size_px = size_px or _size_of(checkpoint, card, backbone)
    outputs = (Port("features", (CLIPS, encoder.features), "the pooled feature of each clip"),)
    return _graph(
        "encoder",
        EncoderGraph(encoder),
        backbone,
        size_px,
        outputs,
        card["hash"],
        trained_on=stated(card),
    )


def _classifier(checkpoint: Path, size_px: Size | None) -> Graph:
    trained = load_classifier(checkpoint)
    if trained.operator is not None:
        raise ExportError(
            f"{checkpoint}: the classifier reads a feature bank, which cannot be exported; "
            "its encoder.safetensors can"
        )
    size_px = size_px or _size_of(checkpoint, trained.card, trained.backbone)
    return _graph(
        "classifier",
        ClassifierGraph(trained.classifier),
        trained.backbone,
        size_px,
        _scores((CLIPS, trained.card["num_classes"]), "softmax: those of a clip sum to 1"),
        trained.card["hash"],
        labels=trained.labels,
        trained_on=stated(trained.card),
    )


def _detector(checkpoint: Path, size_px: Size | None) -> Graph:
    trained = load_detector(checkpoint)
    plan, detector = trained.recipe, trained.detector
    if size_px is None:
        side = plan.augment.test_short_side_px
        size_px = short_side_size(side, side, side, detector.encoder.spatial_stride)
    operator = plan.head.operator
    module = DetectorGraph(detector) if operator is None else BankDetectorGraph(detector)
    further = _boxes() + (_window(operator.window, detector.bank_dim) if operator else ())
    return _graph(
        "detector",
        module,
        plan.backbone,
        size_px,
        _scores((BOXES, trained.labels.size), "sigmoid: one for each class, by itself"),
        trained.weights_hash,
        labels=[trained.labels.names.get(column + 1) for column in range(trained.labels.size)],
        further=further,
    )


def _graph(
    kind: str,
    module: nn.Module,
    backbone: BackboneConfig,
    size_px: Size,
    outputs: tuple[Port, ...],
    source: str,
    *,
    labels: "list[str | None] | tuple[str, ...] | None" = None,
    further: tuple[Port, ...] = (),
    trained_on: Geometry = OURS,
) -> Graph:
    """Return the graph that takes clips of ``size_px`` and the ``further`` inputs."""
    clips = Port(
        "clips",
        (CLIPS, 3, backbone.frames, *size_px),
        "clips, channels, frames, height, width; made as preprocessing says",
    )
    module.requires_grad_(False).eval()
    return Graph(
        kind=kind,
        module=module,
        inputs=(clips, *further),
        outputs=outputs,
        backbone=str(backbone.name),
        labels=None if labels is None else tuple(labels),
        source=source,
        preprocessing=_preprocessing(kind, backbone, size_px, trained_on),
    )


def _preprocessing(
    kind: str, backbone: BackboneConfig, size_px: Size, trained_on: Geometry
) -> dict[str, Any]:
    """Return how clips are made; pixels are those that converted weights were trained on."""
    where = (
        f"frame {backbone.frames // 2}, counted from 0, is the key frame"
        if kind == "detector"
        else "anywhere in the video"
    )
    picture = (
        "the whole picture, boxes normalised by it"
        if kind == "detector"
        else "short side resized to fit, then the centre cropped"
    )
    return {
        "pixels": "(x / 255 - mean) / std of 8-bit RGB",
        "channels": "blue, green, red" if trained_on.channels == "bgr" else "red, green, blue",
        "mean": list(trained_on.mean or [MEAN] * 3),
        "std": list(trained_on.std or [STD] * 3),
        "height_px": size_px[0],
        "width_px": size_px[1],
        "resize": "bilinear, antialiased",
        "picture": picture,
        "frames": backbone.frames,
        "stride": backbone.stride,
        "seconds_between_frames": backbone.stride / PAPER_FPS,
        "position": where,
    }


def _scores(shape: tuple[int | str, ...], after: str) -> tuple[Port, ...]:
    return Port("logits", shape, f"before the {after.split(':')[0]}"), Port("scores", shape, after)


def _boxes() -> tuple[Port, ...]:
    return (
        Port("boxes", (BOXES, 4), "x1 y1 x2 y2, from 0 to 1 of the clip's width and height"),
        Port(
            "clip_index",
            (BOXES,),
            "which clip each box is of, from 0, in any order; not checked by the model",
            torch.int64,
        ),
    )


def _window(window: WindowConfig, features: int) -> tuple[Port, ...]:
    rows = (window.before_s + window.after_s) * window.per_step
    return (
        Port(
            "window_features",
            (CLIPS, rows, features),
            f"rows of the feature bank: {window.per_step} a second, from {window.before_s} s before"
            f" the key frame to {window.after_s - 1} s after; zero where there is none",
        ),
        Port("window_mask", (CLIPS, rows), "true where there is a row", torch.bool),
        Port(
            "window_offset_s",
            (CLIPS, rows),
            "the row's time less the key frame's in seconds; zero where there is no row",
        ),
    )


def _size_of(checkpoint: Path, card: dict[str, Any], backbone: BackboneConfig) -> Size:
    """Return the size that the card, the backbone or the run's recipe says, in this order.

    Raises:
        ExportError: if none of them does.
    """
    geometry = card.get("geometry")
    found = geometry.get("crop_px") if isinstance(geometry, dict) else None
    found = found or getattr(backbone, "crop_px", None)
    recipe = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "recipe.yaml"
    if found is None and recipe.is_file():
        with suppress(RecipeError):
            found = load(Pretrain, recipe).augment.crop_px
    if not isinstance(found, int):
        raise ExportError(
            f"{checkpoint}: does not say how large its clips are; say it, such as --crop 224"
        )
    return found, found


# --- random inputs


def _draw(name: str, shape: list[int], clips: int, generator: torch.Generator) -> Tensor:
    if name == "clip_index":
        return torch.randint(clips, shape, generator=generator)
    if name == "window_mask":
        return torch.rand(shape, generator=generator) > 0.3
    if name == "window_offset_s":
        return torch.randint(-30, 30, shape, generator=generator).float()
    if name == "boxes":
        corners_N22 = torch.rand(shape[0], 2, 2, generator=generator)
        return corners_N22.sort(dim=1).values.flatten(1)
    return torch.randn(shape, generator=generator)
