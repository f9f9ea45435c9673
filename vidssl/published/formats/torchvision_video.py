"""torchvision's 18-layer 3D ResNets, which are its own networks here as well.

They keep its names under ``trunk.``.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from vidssl.published.formats import Translation, renamed

PIXELS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
"""Mean and standard deviation of Kinetics-400, as its weights' own transforms have them."""


def recognise(names: Collection[str]) -> bool:
    """Whether there is a stem of numbered layers before the first block."""
    return {"stem.0.weight", "layer1.0.conv1.0.weight"} <= set(names) or (
        {"stem.0.weight", "layer1.0.conv1.0.0.weight"} <= set(names)
    )


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Return the weights by our names."""
    return replace(renamed(tensors, _rename), pixels=PIXELS)


def _rename(name: str) -> str:
    return f"classifier.{name.removeprefix('fc.')}" if name.startswith("fc.") else f"trunk.{name}"
