"""The encoder of any run, for looking at its features: pretrained, of a detector or classifier."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vidssl.backbones import BackboneConfig, Encoder
from vidssl.errors import CheckpointError, RecipeError
from vidssl.jobs._classifier import load_classifier
from vidssl.jobs._detector import load_detector
from vidssl.recipe import backbone_from, parse
from vidssl.train.weights import load_into, load_weights

SIDE_PX = 224
KINDS = ("encoder", "classifier", "detector")


@dataclass(frozen=True)
class Looked:
    """An encoder, what it is built as, and its card; ``hash`` stands for its weights.

    ``side_px`` are the pixels a side that it was trained on, as far as that is known.
    """

    encoder: Encoder
    backbone: BackboneConfig
    card: dict[str, Any]
    hash: str
    side_px: int
    name: str


def load(path: Path, random: int | None = None) -> Looked:
    """Return the encoder in a run's folder, or of a ``.safetensors`` file.

    Of a run that has an encoder of its own beside a head, that; else its classifier's or
    detector's. With ``random`` its weights are drawn anew by that seed: the same architecture,
    untrained.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        RecipeError: if this version does not know its backbone.
    """
    with torch.random.fork_rng(devices=[]):  # building draws weights, if only to replace them
        encoder, backbone, card = _read(path)
        if random is not None:
            torch.manual_seed(random)
            encoder = backbone.build()
    side_px = _side_px(path, card)
    if random is None:
        return Looked(encoder, backbone, card, str(card["hash"]), side_px, str(path))
    described = json.dumps([backbone.model_dump(mode="json"), random, torch.__version__])
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    name = f"{path}, untrained (seed {random})"
    return Looked(encoder, backbone, {}, f"random-{digest}", side_px, name)


def _read(path: Path) -> tuple[Encoder, BackboneConfig, dict[str, Any]]:
    kind = _kind(path)
    if kind == "classifier":
        trained = load_classifier(path)
        return trained.classifier.encoder, trained.backbone, trained.card
    if kind == "detector":
        detected = load_detector(path)
        card = {"hash": detected.weights_hash}
        return detected.detector.encoder, detected.recipe.backbone, card
    card, tensors = load_weights(path, "encoder")
    backbone = backbone_from(card, str(path))
    encoder = backbone.build()
    load_into(encoder, tensors, str(path))
    return encoder, backbone, card


def _kind(path: Path) -> str:
    """Return which of a run's weights to take, or what a file holds, by its card."""
    if path.is_dir():
        return next((kind for kind in KINDS if (path / f"{kind}.safetensors").is_file()), KINDS[0])
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return KINDS[0]  # which then says what is wrong with it
    if isinstance(card, dict) and "recipe" in card:
        if path.name != "detector.safetensors":
            raise CheckpointError(f"{path}: holds a detector; expected it as detector.safetensors")
        return "detector"
    return "classifier" if isinstance(card, dict) and "num_classes" in card else "encoder"


def _side_px(path: Path, card: dict[str, Any]) -> int:
    """Return the side of the clips that weights were trained on: by the card, or the run."""
    places = [card.get("geometry"), card.get("test")]
    recipe = (path if path.is_dir() else path.parent) / "recipe.yaml"
    if recipe.is_file():
        try:
            found = parse(recipe.read_text(encoding="utf-8"), str(recipe))
        except (OSError, UnicodeDecodeError, RecipeError):
            found = None
        places.append(found.get("augment") if isinstance(found, dict) else None)
    for place in places:
        for key in ("crop_px", "test_crop_px", "test_short_side_px"):
            value = place.get(key) if isinstance(place, dict) else None
            if type(value) is int and value > 0:
                return value
    return SIDE_PX
