"""The clips that weights were trained on, against those that they are now given."""

import re
from collections.abc import Mapping
from typing import Any

from vidssl.backbones import BackboneConfig
from vidssl.errors import RecipeError
from vidssl.progress import REMARK, Progress
from vidssl.published.formats import Geometry, pyslowfast
from vidssl.recipe import parse


def described(facts: Mapping[str, Any]) -> Geometry:
    """Return the clips that PySlowFast's config describes, if there is one that can be read."""
    text = facts.get("cfg")
    # A merge key can make a short text long; PySlowFast writes none.
    if not isinstance(text, str) or re.search(r"<<\s*:", text):
        return Geometry()
    try:
        config = parse(text, "cfg")
    except (RecipeError, RecursionError):
        return Geometry()
    return pyslowfast.geometry(config) if isinstance(config, dict) else Geometry()


def differences(there: Geometry, config: BackboneConfig, crop_px: int | None = None) -> list[str]:
    """Return a remark where weights were trained on other clips than a backbone is given."""
    pairs = (
        ("frames", there.frames, config.frames),
        ("stride", there.stride, config.stride),
        ("crop_px", there.crop_px, crop_px),
    )
    told = [f"{key} {a} there, {b} here" for key, a, b in pairs if None not in (a, b) and a != b]
    return [f"the weights were trained on other clips: {', '.join(told)}"] if told else []


def remark(
    card: Mapping[str, Any], config: BackboneConfig, crop_px: int | None, progress: Progress
) -> None:
    """Tell where an encoder's card names other clips than the recipe's.

    Only weights that were converted name them; ``crop_px`` is None where a recipe has none.
    """
    stated = card.get("geometry")
    if not isinstance(stated, dict):
        return
    there = Geometry(*(_count(stated.get(key)) for key in ("frames", "stride", "crop_px")))
    for told in differences(there, config, crop_px):
        progress(told, 0, REMARK)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
