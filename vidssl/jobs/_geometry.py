"""The clips that weights were trained on, against those that they are now given."""

from collections.abc import Mapping
from typing import Any

from vidssl.augment.views import MEAN, STD
from vidssl.backbones import BackboneConfig
from vidssl.progress import REMARK, Progress
from vidssl.published.formats import Colour, Geometry
from vidssl.recipe import parse_texts

LONGEST = 2**18
"""Characters of a config; PySlowFast's have some thousands."""
SAME = 1e-3
"""Difference up to which two means or deviations are one."""


def config_of(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return PySlowFast's config, all values as texts, or nothing if there is none to be read."""
    text = facts.get("cfg")
    if not isinstance(text, str) or len(text) > LONGEST:
        return {}
    config = parse_texts(text)
    return config if isinstance(config, dict) else {}


def stated(card: Mapping[str, Any]) -> Geometry:
    """Return the clips that an encoder's card names; only weights that were converted do."""
    there = card.get("geometry")
    if not isinstance(there, dict):
        return Geometry()
    frames, stride, crop_px = (_count(there.get(key)) for key in ("frames", "stride", "crop_px"))
    mean, std = (_colour(there.get(key)) for key in ("mean", "std"))
    channels = there.get("channels")
    return Geometry(frames, stride, crop_px, mean, std, channels if channels == "bgr" else None)


def differences(there: Geometry, config: BackboneConfig, crop_px: int | None = None) -> list[str]:
    """Return a remark where weights were trained on other clips than a backbone is given."""
    pairs = (
        ("frames", there.frames, config.frames),
        ("stride", there.stride, config.stride),
        ("crop_px", there.crop_px, crop_px),
    )
    told = [f"{key} {a} there, {b} here" for key, a, b in pairs if None not in (a, b) and a != b]
    for key, colour, ours in (("mean", there.mean, MEAN), ("std", there.std, STD)):
        if colour and any(abs(value - ours) > SAME for value in colour):
            told.append(f"{key} {' '.join(f'{value:.3f}' for value in colour)} there, {ours} here")
    if there.channels:
        told.append(f"channels {there.channels} there, rgb here")
    return [f"the weights were trained on other clips: {', '.join(told)}"] if told else []


def remark(
    card: Mapping[str, Any], config: BackboneConfig, crop_px: int | None, progress: Progress
) -> None:
    """Tell where an encoder's card names other clips than the recipe's.

    ``crop_px`` is None where a recipe has none.
    """
    for told in (*other_sight(card, config), *differences(stated(card), config, crop_px)):
        progress(told, 0, REMARK)


def other_sight(card: Mapping[str, Any], config: BackboneConfig) -> list[str]:
    """Return a remark where weights of ours saw other than a backbone will: frames, or changes.

    ``card`` is that of an encoder, or of a detector, which has its backbone in its recipe.
    """
    recipe = card.get("recipe")
    holder = recipe if isinstance(recipe, dict) else card
    backbone = holder.get("backbone")
    if not isinstance(backbone, dict):  # of weights that say nothing of it
        return []
    seen = backbone.get("sees", "frames")
    if seen == config.sees:
        return []
    return [f"the weights were trained on {seen}; backbone.sees: {config.sees}"]


def _count(value: object) -> int | None:
    return value if type(value) is int else None


def _colour(values: object) -> Colour | None:
    if not isinstance(values, list) or len(values) != 3:
        return None
    if not all(type(value) is float and value > 0 for value in values):
        return None
    red, green, blue = values
    return red, green, blue
