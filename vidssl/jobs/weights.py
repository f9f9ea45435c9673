"""``vidssl weights``: what others published, looked into and made an encoder of ours."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidssl import __version__
from vidssl.backbones import BackboneConfig, Encoder
from vidssl.errors import CheckpointError, OutputError, RecipeError, nearest
from vidssl.files import sha256
from vidssl.jobs import recipes
from vidssl.jobs._classifier import save_classifier
from vidssl.jobs._geometry import config_of, differences, other_sight, stated
from vidssl.jobs.models import SETTINGS
from vidssl.progress import Progress, silent
from vidssl.published import formats
from vidssl.published.formats import Geometry, Translation, pyslowfast
from vidssl.published.jail import Contents, open_checkpoint
from vidssl.published.match import Match, match, require
from vidssl.published.state import find_state
from vidssl.recipe import backbone_from, parse
from vidssl.recognition.classifier import Classifier
from vidssl.train.weights import load_weights, save_weights

BEST = 3
"""Settings that ``inspect`` names."""
ENOUGH = 0.5
"""Share of a setting's tensors below which it is not worth naming."""


@dataclass(frozen=True)
class Fit:
    """How well a file's weights fit one known setting."""

    model: str
    share: float
    counts: dict[str, int]


@dataclass(frozen=True)
class Inspection:
    """What is in a file.

    ``format`` is None, and ``reason`` says why, where the names are of none that is known.
    ``values`` counts single numbers, ``dtypes`` tensors by type; ``classes`` are those of the
    classifier in the file, ``ignored`` counts tensors that no encoder has a place for.
    """

    path: str
    sha256: str
    layout: str
    format: str | None
    reason: str | None
    tensors: int
    values: int
    dtypes: dict[str, int]
    classes: int | None
    geometry: Geometry
    ignored: dict[str, int]
    fits: list[Fit]
    unbuilt: list[str]


@dataclass(frozen=True)
class Conversion:
    """The encoder that was made, and of what; ``model`` names a setting, or the recipe."""

    encoder: str
    classifier: str | None
    encoder_hash: str
    source: str
    sha256: str
    format: str
    model: str
    share: float
    matched: int
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    wrong_shape: list[str]
    ignored: dict[str, int]
    geometry: Geometry
    remarks: list[str]


@dataclass(frozen=True)
class _Read:
    """A file, read and translated; a detector's classifier reads boxes."""

    path: Path
    contents: Contents
    format: str
    translation: Translation
    geometry: Geometry
    is_detector: bool


@dataclass(frozen=True)
class _Target:
    """A backbone with the name that a person knows it by."""

    name: str
    config: BackboneConfig


def inspect(path: Path, *, momentum: bool = False, progress: Progress = silent) -> Inspection:
    """Return what is in a file, and which known settings it fits best.

    Raises:
        CheckpointError: if it is no checkpoint, is damaged, or has no momentum encoder where that
            is asked for.
    """
    contents = open_checkpoint(path)
    known, reason = None, None
    try:
        known = _translated(path, contents, momentum=momentum)
    except CheckpointError as error:
        if momentum:
            raise
        reason = str(error).removeprefix(f"{path}: ")
    fits = []
    if known:
        fits = [
            Fit(target.name, found.share, found.counts)
            for target, found in _ranked(known, progress)
            if found.share >= ENOUGH
        ]
    weight = known.translation.classifier.get("weight") if known else None
    return Inspection(
        path=str(path),
        sha256=sha256(path),
        layout=contents.layout,
        format=known.format if known else None,
        reason=reason,
        tensors=len(contents.tensors),
        values=sum(tensor.numel() for tensor in contents.tensors.values()),
        dtypes=dict(
            Counter(str(t.dtype).removeprefix("torch.") for t in contents.tensors.values())
        ),
        classes=len(weight) if weight is not None and weight.ndim else None,
        geometry=known.geometry if known else Geometry(),
        ignored=known.translation.ignored if known else {},
        fits=fits[:BEST],
        unbuilt=list(contents.unbuilt),
    )


def convert(
    path: Path,
    to: Path,
    *,
    model: str | None = None,
    recipe: str | None = None,
    least: float | None = None,
    momentum: bool = False,
    classifier: bool = False,
    progress: Progress = silent,
) -> Conversion:
    """Write the weights of ``path`` as the encoder ``to``, with a card that says where from.

    The backbone is that of the setting ``model``, or of ``recipe``; without either it is the known
    setting that fits best. ``classifier`` also writes ``classifier.safetensors`` beside it. Unless
    the share ``least`` is stated it is ``LEAST``, and no tensor may have another shape.

    Raises:
        CheckpointError: if the file cannot be read, is of no known format, fits several settings
            equally, or has too few of the backbone's tensors.
        RecipeError: if there is no such setting or recipe.
        OutputError: if ``to`` is no name for an encoder, or something else is there.
    """
    target = _stated(model, recipe)
    _check_output(path, to, classifier=classifier)
    read = _translated(path, open_checkpoint(path), momentum=momentum)
    if target is None:
        target, found = _chosen(read, progress)
    else:
        found = _matched(read, target.config)
    try:
        require(found, least, target.name)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    _require_finite(path, found.fitted)
    encoder = _filled(target.config, found.fitted)
    head = _head(read, encoder) if classifier else None
    card = _card(read, target, found)
    remarks = other_sight(_card_beside(path), target.config)
    remarks += differences(read.geometry, target.config)
    if found.unfilled:
        remarks.append(f"{len(found.unfilled)} tensors are not in the file and keep fresh weights")
    if found.unexpected:
        remarks.append(
            f"{len(found.unexpected)} tensors of the file have no place and are left out"
        )
    encoder_hash = save_weights(to.parent, to.stem, encoder, card)
    beside = to.with_name("classifier.safetensors")
    if head:
        facts = {key: card[key] for key in ("trained_by", "geometry", "published")}
        save_classifier(beside.parent, head, target.config, labels=None, facts=facts)
    return Conversion(
        encoder=str(to),
        classifier=str(beside) if head else None,
        encoder_hash=encoder_hash,
        source=str(path),
        sha256=card["published"]["sha256"],
        format=read.format,
        model=target.name,
        share=found.share,
        matched=len(found.matched),
        missing=list(found.missing),
        unexpected=list(found.unexpected),
        reshaped=list(found.reshaped),
        wrong_shape=list(found.wrong_shape),
        ignored=read.translation.ignored,
        geometry=read.geometry,
        remarks=remarks,
    )


# --- reading


def _translated(path: Path, contents: Contents, *, momentum: bool) -> _Read:
    try:
        if not contents.tensors:
            raise CheckpointError(_empty(contents))
        state = find_state(contents.tensors, momentum=momentum)
        name = formats.recognised(state.tensors.keys())
        translation = formats.translate(name, state.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    translation = replace(translation, ignored=state.ignored | translation.ignored)
    config = config_of(contents.facts)
    geometry = pyslowfast.geometry(config) if config else _of_card(path)
    if geometry.mean is None and translation.pixels:
        mean, std = translation.pixels
        geometry = replace(geometry, mean=mean, std=std)
    return _Read(path, contents, name, translation, geometry, pyslowfast.is_detector(config))


def _of_card(path: Path) -> Geometry:
    """Return the clips that the card beside the file names, if it is one of ours."""
    try:
        card, _ = load_weights(path, path.stem)
    except CheckpointError:
        return Geometry()
    return stated(card)


def _empty(contents: Contents) -> str:
    if contents.unbuilt:
        return (
            f"holds no tensors but objects of {', '.join(contents.unbuilt[:4])}; expected weights"
        )
    return "holds no tensors"


# --- the backbone


def _stated(model: str | None, recipe: str | None) -> _Target | None:
    """Return the backbone that a person named, if any."""
    if model is not None and recipe is not None:
        raise RecipeError("expected --model or --recipe, found both")
    if model is not None:
        if model not in SETTINGS:
            raise RecipeError(
                f"no model {model!r}{nearest(model, SETTINGS)} (choices: {', '.join(SETTINGS)})"
            )
        return _Target(model, SETTINGS[model].config)
    if recipe is None:
        return None
    path = Path(recipe)
    if not path.is_file():
        path = recipes.find(recipe).path
    try:
        values = parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a text file ({error})") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected keys and values")
    return _Target(recipe, backbone_from(values, str(path)))


def _matched(read: _Read, config: BackboneConfig) -> Match:
    with torch.device("meta"):
        target = config.build().state_dict()
    return match(read.translation.tensors, target, inflates=read.translation.inflates)


def _ranked(read: _Read, progress: Progress) -> list[tuple[_Target, Match]]:
    """Return the known settings, best first: by share, then by how little is left over.

    Settings that exchange weights with one before them are compared once. A family begins with one
    name in all its settings; where the file does not have it, the others are not compared.
    """
    found: list[tuple[_Target, Match]] = []
    strangers: set[str] = set()
    for number, (name, setting) in enumerate(SETTINGS.items()):
        progress("comparing", number, len(SETTINGS))
        config = setting.config
        if config.name in strangers:
            continue
        twins = (m for t, m in found if t.config.geometry_free() == config.geometry_free())
        fit = next(twins, None) or _matched(read, config)
        if fit.first not in read.translation.tensors:
            strangers.add(config.name)
        found.append((_Target(name, config), fit))
    progress("comparing", len(SETTINGS), len(SETTINGS))
    return sorted(found, key=lambda one: _rank(one[1], one[0].config, read.geometry))


def _rank(found: Match, config: BackboneConfig, there: Geometry) -> tuple[float, int, bool]:
    clip = (there.frames, there.stride)
    return (-found.share, len(found.unexpected), clip != (config.frames, config.stride))


def _chosen(read: _Read, progress: Progress) -> tuple[_Target, Match]:
    """Return the setting that fits best.

    Raises:
        CheckpointError: if several fit equally.
    """
    (best, found), *others = _ranked(read, progress)
    rank = _rank(found, best.config, read.geometry)
    equal = [one.name for one, fit in others if _rank(fit, one.config, read.geometry) == rank]
    if equal and found.share >= ENOUGH:
        names = ", ".join([best.name, *equal])
        raise CheckpointError(f"{read.path}: fits {names} equally; choose one with --model")
    return best, found


def _filled(config: BackboneConfig, fitted: dict[str, Tensor]) -> Encoder:
    """Return the backbone with these weights; what is missing is fresh, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = config.build()
    encoder.load_state_dict(fitted, strict=False)
    return encoder


def _head(read: _Read, encoder: Encoder) -> Classifier:
    """Return the encoder with the file's classifier.

    Raises:
        CheckpointError: if there is none, it reads other features or boxes, or is damaged.
    """
    given = read.translation.classifier
    if not given or read.is_detector:
        why = ", but that of a detector, which reads boxes" if given else ""
        raise CheckpointError(
            f"{read.path}: holds no classifier that reads the encoder's features{why}"
        )
    weight, bias = given["weight"], given["bias"].flatten()
    if weight.ndim > 2:
        weight = weight.flatten(1)  # some are kept as a convolution of 1 x 1 x 1
    if weight.shape[1:] != (encoder.features,) or bias.shape != weight.shape[:1] or not len(bias):
        raise CheckpointError(
            f"{read.path}: its classifier has weights of {tuple(weight.shape)} and a bias of "
            f"{tuple(bias.shape)}; expected (classes, {encoder.features}) and (classes)"
        )
    with torch.no_grad():
        classifier = Classifier(encoder, num_classes=len(weight))
        classifier.classifier.weight.copy_(weight)
        classifier.classifier.bias.copy_(bias)
    _require_finite(read.path, classifier.classifier.state_dict())
    return classifier


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path}: {len(bad)} tensors are not finite, such as {bad[0]}")


# --- writing


def _check_output(path: Path, to: Path, *, classifier: bool) -> None:
    if to.suffix != ".safetensors":
        raise OutputError(f"{to}: expected a name that ends in .safetensors")
    if classifier and to.stem == "classifier":
        raise OutputError(f"{to}: is the classifier's name; choose another for the encoder")
    names = [to, to.with_suffix(".json")]
    if classifier:
        names += [to.with_name("classifier.safetensors"), to.with_name("classifier.json")]
    for name in names:
        if name.exists():
            raise OutputError(f"{name}: is there already; choose another name, or remove it")


def _card(read: _Read, target: _Target, found: Match) -> dict[str, Any]:
    published = {
        "file": read.path.name,
        "sha256": sha256(read.path),
        "format": read.format,
        "layout": read.contents.layout,
        "model": target.name,
        "share": found.share,
        **found.counts,
        "fresh": list(found.unfilled),
    }
    return {
        "backbone": target.config.model_dump(mode="json"),
        "features": _features(target.config),
        "trained_by": {"task": "published", "format": read.format},
        "geometry": asdict(read.geometry),
        "published": published,
        "code": __version__,
    }


def _card_beside(path: Path) -> dict[str, Any]:
    """Return the card of weights that are ours, or nothing."""
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _features(config: BackboneConfig) -> int:
    with torch.device("meta"):
        return config.build().features
