"""Our own files, for a backbone of another shape: non-local blocks more, another depth.

A detector's or classifier's encoder is found as any other is, by the prefix ``encoder.``.
"""

from collections.abc import Collection, Mapping

from torch import Tensor

from vidssl.published.formats import Translation

PATHWAYS = ("trunk.", "slow.", "fast.", "laterals.", "local.")


def recognise(names: Collection[str]) -> bool:
    """Whether there is a trunk, or both pathways of SlowFast."""
    first = {name.partition(".")[0] for name in names}
    return "trunk" in first or {"slow", "fast"} <= first


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Return the weights as they are, without what is behind the trunk."""
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(PATHWAYS)}
    left = len(tensors) - len(kept)
    return Translation(kept, ignored={"layers of the head": left} if left else {})
