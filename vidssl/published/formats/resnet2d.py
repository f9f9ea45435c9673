"""ResNets over pictures (torchvision's, MoCo's and others in its names), to be inflated.

Carreira and Zisserman, CVPR 2017, https://arxiv.org/abs/1705.07750, section 2: a 2D kernel is
repeated along time and divided by the number of repetitions, so that a clip that stands still gives
the picture's activations. The spatial stride sits in the second convolution of a bottleneck, as in
torchvision, MoCo and here.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from vidssl.published.formats import Translation, renamed

STEM = re.compile(r"(conv|bn)1\.(\w+)")
BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(.+)")
BRANCH = re.compile(r"(conv|bn)([123])\.(\w+)")
SHORTCUT = re.compile(r"downsample\.([01])\.(\w+)")
PIXELS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet, which nearly all are trained with."""
LAYERS = {"conv": "conv", "bn": "norm", "0": "conv", "1": "norm"}


def recognise(names: Collection[str]) -> bool:
    """Whether there is a stem, and a first block with a norm of its own."""
    return {"conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight"} <= set(names)


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Return the weights by our names, the kernels still in 2D."""
    return replace(renamed(tensors, _rename), inflates=True, pixels=PIXELS)


def _rename(name: str) -> str | None:
    if found := STEM.fullmatch(name):
        return f"trunk.stem.{LAYERS[found[1]]}.{found[2]}"
    if name in {"fc.weight", "fc.bias"}:
        return f"classifier.{name.removeprefix('fc.')}"
    if name.startswith("fc."):
        return "ignored: heads of pretraining"
    found = BLOCK.fullmatch(name)
    if not found:
        return None
    place, rest = f"trunk.res{int(found[1]) + 1}.{found[2]}", found[3]
    if inner := BRANCH.fullmatch(rest):
        return f"{place}.branch.{LAYERS[inner[1]]}{inner[2]}.{inner[3]}"
    if inner := SHORTCUT.fullmatch(rest):
        return f"{place}.shortcut.{LAYERS[inner[1]]}.{inner[2]}"
    return None
