"""Finding a network's own weights among everything that a training saves.

A checkpoint holds an optimizer beside the network, a wrapper's prefix before each name, and, after
self-supervised pretraining, a momentum encoder, predictors and a queue.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vidssl.errors import CheckpointError

CONTAINERS = ("model_state", "state_dict", "model_state_dict", "model", "blobs")
"""Keys under which trainings keep the network; the first that is there is taken."""
WRAPPERS = ("module.", "model.")
QUERY = ("encoder_q.", "base_encoder.", "backbone.", "encoder.")
MOMENTUM = ("encoder_k.", "momentum_encoder.", "backbone_hist.")


@dataclass(frozen=True)
class State:
    """A network's weights by its own names, and how many tensors were left aside, by reason."""

    tensors: dict[str, Tensor]
    ignored: dict[str, int]


def find_state(tensors: Mapping[str, Tensor], *, momentum: bool = False) -> State:
    """Return the weights of the network, of the momentum encoder if that is asked for.

    Raises:
        CheckpointError: if there is no momentum encoder.
    """
    ignored: Counter[str] = Counter()
    found = dict(tensors)
    for container in CONTAINERS:
        inside = _under(f"{container}.", found)
        if inside:
            ignored["beside the network"] += len(found) - len(inside)
            found = inside
            break
    for wrapper in WRAPPERS:
        if found and all(name.startswith(wrapper) for name in found):
            found = _under(wrapper, found)
    for prefix in MOMENTUM if momentum else QUERY:
        inside = _under(prefix, found)
        if inside:
            for name in found:
                if not name.startswith(prefix):
                    ignored[_kind(name)] += 1
            return State(inside, dict(+ignored))
    if momentum:
        raise CheckpointError("holds no momentum encoder")
    return State(found, dict(+ignored))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _kind(name: str) -> str:
    if name.startswith(MOMENTUM):
        return "momentum encoder"
    if name.startswith(QUERY):
        return "trained encoder"
    return "queue" if "queue" in name else "heads of pretraining"
