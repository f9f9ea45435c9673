"""torchvision's 18-layer 3D ResNets, which are its own networks here as well.

They keep its names under ``trunk.``.
"""

from collections.abc import Collection, Mapping

from torch import Tensor

from vidssl.published.formats import Translation, renamed


def recognise(names: Collection[str]) -> bool:
    """Whether there is a stem of numbered layers before the first block."""
    return {"stem.0.weight", "layer1.0.conv1.0.weight"} <= set(names) or (
        {"stem.0.weight", "layer1.0.conv1.0.0.weight"} <= set(names)
    )


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Return the weights by our names."""
    return renamed(
        tensors,
        lambda name: (
            f"classifier.{name.removeprefix('fc.')}" if name.startswith("fc.") else f"trunk.{name}"
        ),
    )
