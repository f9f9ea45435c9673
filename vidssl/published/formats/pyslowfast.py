"""PySlowFast's checkpoints (``.pyth``): Slow-only, C2D, I3D and SlowFast, with non-local blocks.

``s1`` is the stem and ``s2`` to ``s5`` are res2 to res5; ``pathway0`` is the Slow or only pathway,
``pathway1`` the Fast one; ``s1_fuse`` to ``s4_fuse`` are the lateral connections. Sub-batch norm
keeps its common statistics one level deeper, beside those of each split, which are left out.

X3D and MViT have names of their own there, which are not translated.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from vidssl.published.formats import Colour, Geometry, Translation, renamed

PATHWAY = re.compile(r"s(?P<stage>[1-5])\.pathway(?P<path>[01])_(?P<rest>.+)")
BRANCH = re.compile(r"res(?P<block>\d+)\.branch2\.(?P<layer>[abc])(?P<bn>_bn)?\.(?P<leaf>\w+)")
SHORTCUT = re.compile(r"res(?P<block>\d+)\.branch1(?P<bn>_bn)?\.(?P<leaf>\w+)")
NON_LOCAL = re.compile(
    r"nonlocal(?P<block>\d+)\.(?:conv_(?P<layer>theta|phi|g|out)|bn)\.(?P<leaf>\w+)"
)
STEM = re.compile(r"stem\.(?P<layer>conv|bn)\.(?P<leaf>\w+)")
LATERAL = re.compile(r"s(?P<stage>[1-4])_fuse\.(?P<layer>conv_f2s|bn)\.(?P<leaf>\w+)")


def recognise(names: Collection[str]) -> bool:
    """Whether there is a stem under a pathway's name."""
    return any(name.startswith("s1.pathway0_stem.") for name in names)


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Return the weights by our names."""
    both = any(name.startswith("s1.pathway1_") for name in tensors)
    paths = ("slow", "fast") if both else ("trunk", "trunk")

    def rename(name: str) -> str | None:
        if ".split_bn." in name:
            return "ignored: statistics of splits"
        if name in {"head.projection.weight", "head.projection.bias"}:
            return f"classifier.{name.rpartition('.')[2]}"
        if name.startswith("head."):
            return "ignored: heads of pretraining"
        name = re.sub(r"bn\.bn\.", "bn.", name)
        if found := LATERAL.fullmatch(name):
            layer = "conv" if found["layer"] == "conv_f2s" else "norm"
            return f"laterals.{int(found['stage']) - 1}.{layer}.{found['leaf']}"
        if found := PATHWAY.fullmatch(name):
            inside = _inside(found["stage"], found["rest"])
            return f"{paths[int(found['path'])]}.{inside}" if inside else None
        return None

    return renamed(tensors, rename)


def _inside(stage: str, rest: str) -> str | None:
    """Return our name within a pathway, or None if there is none."""
    if stage == "1":
        found = STEM.fullmatch(rest)
        layer = "conv" if found and found["layer"] == "conv" else "norm"
        return f"stem.{layer}.{found['leaf']}" if found else None
    if found := BRANCH.fullmatch(rest):
        layer = f"{'norm' if found['bn'] else 'conv'}{'abc'.index(found['layer']) + 1}"
        return f"res{stage}.{found['block']}.branch.{layer}.{found['leaf']}"
    if found := SHORTCUT.fullmatch(rest):
        layer = "norm" if found["bn"] else "conv"
        return f"res{stage}.{found['block']}.shortcut.{layer}.{found['leaf']}"
    if found := NON_LOCAL.fullmatch(rest):
        return f"res{stage}.nonlocal{found['block']}.{found['layer'] or 'norm'}.{found['leaf']}"
    return None


def geometry(config: Mapping[str, Any]) -> Geometry:
    """Return the clips that a checkpoint's own config describes, all its values still texts.

    As with ours, the frames of a SlowFast network are the Fast ones.
    """
    data, ava = config.get("DATA"), config.get("AVA")
    if not isinstance(data, Mapping):
        return Geometry()
    keys = ("NUM_FRAMES", "SAMPLING_RATE", "TRAIN_CROP_SIZE")
    frames, stride, crop_px = (_count(data.get(key)) for key in keys)
    mean, std = (_colour(data.get(key)) for key in ("MEAN", "STD"))
    is_bgr = data.get("REVERSE_INPUT_CHANNEL") == "true" or (
        is_detector(config) and isinstance(ava, Mapping) and ava.get("BGR") == "true"
    )
    return Geometry(frames, stride, crop_px, mean, std, "bgr" if is_bgr else None)


def is_detector(config: Mapping[str, Any]) -> bool:
    """Whether the config is that of a detector, whose classifier reads boxes."""
    detection = config.get("DETECTION")
    return isinstance(detection, Mapping) and detection.get("ENABLE") == "true"


def _count(value: object) -> int | None:
    is_count = isinstance(value, str) and re.fullmatch("[1-9][0-9]{0,5}", value)
    return int(value) if isinstance(value, str) and is_count else None


def _colour(values: object) -> Colour | None:
    if not isinstance(values, list) or len(values) != 3:
        return None
    if not all(isinstance(value, str) and re.fullmatch(r"\d?\.\d{1,9}", value) for value in values):
        return None
    red, green, blue = map(float, values)
    return red, green, blue
