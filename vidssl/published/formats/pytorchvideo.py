"""pytorchvideo's zoo: its own blocks in a row, the classifier in the last.

Its ResNets (Slow, C2D, I3D) and SlowFast become our trunks. R(2+1)D, CSN, X3D and MViT are its own
networks here as well, and keep its names under ``trunk.``. A ResNet's stages are counted among the
blocks that hold stages: C2D and I3D have a pool in a block of its own behind res2.

X3D's classifier reads a layer that our encoder does not have, so it is left out.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from vidssl.published.formats import Translation, renamed

BRANCH = re.compile(r"res_blocks\.(\d+)\.branch2\.(conv|norm)_([abc])\.(\w+)")
SHORTCUT = re.compile(r"res_blocks\.(\d+)\.branch1_(conv|norm)\.(\w+)")
PATHWAY = re.compile(r"multipathway_blocks\.([01])\.(.+)")
LATERAL = re.compile(r"blocks\.([0-3])\.multipathway_fusion\.(conv|norm)(?:_fast_to_slow)?\.(\w+)")
CLASSIFIER = re.compile(r"(blocks\.\d+|head)\.proj\.(weight|bias)")
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
PIXELS = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
"""Of its own training programs, and of PySlowFast's, where many of its weights are from."""


def recognise(names: Collection[str]) -> bool:
    """Whether there are blocks in a row, of stages or of a transformer."""
    return any(name.startswith("blocks.0.") for name in names)


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Return the weights by our names."""
    if _is_kept(tensors):
        widened = any(".pool.post_conv." in name for name in tensors)
        rename = partial(_under_trunk, head=_head(tensors), widened=widened)
        return replace(renamed(tensors, rename), pixels=PIXELS)
    stages, head = _stages(tensors), _head(tensors)

    def rename_residual(name: str) -> str | None:
        if name.startswith(f"{head}.proj."):
            return f"classifier.{name.rpartition('.')[2]}"
        if found := LATERAL.fullmatch(name):
            return f"laterals.{found[1]}.{found[2]}.{found[3]}"
        found = BLOCK.fullmatch(name)
        if not found or found[1] not in stages:
            return None
        stage, rest, path = stages[found[1]], found[2], "trunk"
        if inner := PATHWAY.fullmatch(rest):
            path, rest = ("slow", "fast")[int(inner[1])], inner[2]
        inside = _inside(rest)
        return f"{path}.{stage}.{inside}" if inside else None

    return replace(renamed(tensors, rename_residual), pixels=PIXELS)


def _is_kept(tensors: Mapping[str, Tensor]) -> bool:
    """Whether this network is pytorchvideo's own here as well."""
    for name, tensor in tensors.items():
        if name.startswith(("patch_embed.", "blocks.0.conv.conv_t.")) or ".conv_b.conv_t." in name:
            return True
        # Channels that do not meet: CSN.
        if name.endswith(".branch2.conv_b.weight") and tensor.ndim == 5 and tensor.shape[1] == 1:
            return tensor.shape[0] > 1
    return False


def _head(names: Collection[str]) -> str:
    """Return the place of the classifier: ``head``, or the last block that has one.

    The blocks of a transformer all have a layer of the classifier's name, but it has a head.
    """
    places = {found[1] for name in names if (found := CLASSIFIER.fullmatch(name))}
    if "head" in places or "patch_embed.patch_model.weight" in names:
        return "head"
    return max(places, key=lambda place: int(place.partition(".")[2]), default="head")


def _under_trunk(name: str, *, head: str, widened: bool) -> str:
    """Return our name; ``widened``: the classifier reads a layer of the head, not our features."""
    is_classifier = name.startswith(f"{head}.proj.")
    if ".pool.post_conv." in name or (is_classifier and widened):
        return "ignored: layers of the head"
    return f"classifier.{name.rpartition('.')[2]}" if is_classifier else f"trunk.{name}"


def _stages(names: Collection[str]) -> dict[str, str]:
    """Return our name of each block that holds a stage: the stem, then res2 to res5 in order."""
    numbers = {int(found[1]) for name in names if (found := BLOCK.match(name)) and "res_" in name}
    return {"0": "stem"} | {str(n): f"res{i}" for i, n in enumerate(sorted(numbers), 2)}


def _inside(rest: str) -> str | None:
    """Return our name within a stage, or None if there is none."""
    if found := BRANCH.fullmatch(rest):
        return f"{found[1]}.branch.{found[2]}{'abc'.index(found[3]) + 1}.{found[4]}"
    if found := SHORTCUT.fullmatch(rest):
        return f"{found[1]}.shortcut.{found[2]}.{found[3]}"
    return rest if re.fullmatch(r"(conv|norm)\.\w+", rest) else None
