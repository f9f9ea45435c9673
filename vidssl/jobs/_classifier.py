"""A classifier on disk: ``classifier.safetensors`` and its card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vidssl import __version__
from vidssl.backbones import BackboneConfig
from vidssl.errors import CheckpointError
from vidssl.features.operators import BankOperator, OperatorConfig
from vidssl.recipe import backbone_from
from vidssl.recognition.classifier import Classifier, Scaling
from vidssl.section import NestedError, choose
from vidssl.train.weights import load_into, load_weights, save_weights


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier from disk; ``labels`` names its K columns in order, where they are known.

    ``operator`` says how it reads a bank, if it does; the card's ``bank``, which it was trained
    with.
    """

    classifier: Classifier
    backbone: BackboneConfig
    labels: tuple[str, ...] | None
    card: dict[str, Any]
    operator: OperatorConfig | None = None


def save_classifier(
    folder: Path,
    classifier: Classifier,
    backbone: BackboneConfig,
    *,
    labels: Sequence[str] | None,
    facts: Mapping[str, Any],
    operator: OperatorConfig | None = None,
) -> str:
    """Write the classifier with its card, and return its hash.

    ``labels`` names the columns in order. ``facts`` join the card: ``trained_by``, ``decoder``, and
    ``geometry`` with ``crop_px``, where they are known. ``operator`` is how it reads a bank, whose
    ``dim`` is then among the facts, below ``bank``.

    Raises:
        ValueError: if there are not as many labels as classes.
    """
    num_classes = classifier.classifier.out_features
    if labels is not None and len(labels) != num_classes:
        raise ValueError(f"{len(labels)} labels for {num_classes} classes")
    card = {
        "backbone": backbone.model_dump(mode="json"),
        "features": classifier.encoder.features,
        "num_classes": num_classes,
        "scaling": classifier.scaling,
        "labels": None if labels is None else list(labels),
        "code": __version__,
        **({} if operator is None else {"operator": operator.model_dump(mode="json")}),
        **facts,
    }
    return save_weights(folder, "classifier", classifier, card)


def load_classifier(path: Path) -> TrainedClassifier:
    """Return the classifier in a run's folder, or of a ``.safetensors`` file.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        RecipeError: if this version does not know its backbone.
    """
    card, tensors = load_weights(path, "classifier")
    num_classes, labels = card.get("num_classes"), card.get("labels")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise CheckpointError(f"{path}: its card names no number of classes; expected num_classes")
    if labels is not None and (not isinstance(labels, list) or len(labels) != num_classes):
        raise CheckpointError(f"{path}: its card does not name each of its {num_classes} classes")
    scaling = card.get("scaling", "none")
    if scaling not in get_args(Scaling):
        raise CheckpointError(
            f"{path}: its card names a scaling of features that is not known: {scaling!r}"
        )
    backbone = backbone_from(card, str(path))
    encoder = backbone.build()
    config = _operator_of(card, path)
    operator: BankOperator | None = None
    if config is not None:
        operator = config.build(encoder.features, int(card["bank"]["dim"]))
    classifier = Classifier(encoder, num_classes=num_classes, scaling=scaling, operator=operator)
    load_into(classifier, tensors, str(path))
    names = None if labels is None else tuple(str(label) for label in labels)
    return TrainedClassifier(classifier, backbone, names, card, config)


def _operator_of(card: Mapping[str, Any], path: Path) -> OperatorConfig | None:
    """Return how a classifier reads a bank, as its card says.

    Raises:
        CheckpointError: if this version does not know that, or the card does not say of which bank.
    """
    if card.get("operator") is None:
        return None
    try:
        config = choose("vidssl.features.operators", card["operator"])
    except (NestedError, ValueError) as error:
        raise CheckpointError(f"{path}: describes an unknown bank operator: {error}") from error
    bank = card.get("bank")
    if not isinstance(config, OperatorConfig) or not isinstance(bank, dict) or "dim" not in bank:
        raise CheckpointError(f"{path}: its card does not say how it reads a bank, and which")
    return config
