"""How others name weights: one naming a file, and the contract that they share.

A format is chosen by looking at the names; adding one means adding
``vidssl/published/formats/NAME.py`` with

- ``recognise(names) -> bool``: whether these are its names; no two formats know the same file;
- ``translate(tensors) -> Translation``: the same weights by our names.

Names of ours: ``trunk.`` for one pathway, ``slow.``, ``fast.`` and ``laterals.`` for SlowFast.
"""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vidssl.errors import CheckpointError
from vidssl.section import choices

Colour = tuple[float, float, float]
"""A number for each of three channels, in the order that the network takes them."""


@dataclass(frozen=True)
class Translation:
    """Weights by our names.

    ``classifier`` holds ``weight`` (classes, features) and ``bias`` of a linear layer on the pooled
    features, or nothing. ``ignored`` counts what has no place here, by what it is. Names that the
    format does not know stay in ``tensors`` as they are. Only if ``inflates`` is set may a 2D
    kernel be spread over time. ``pixels`` is the (mean, std) that the format's networks are trained
    with, if it is one for all.
    """

    tensors: dict[str, Tensor]
    classifier: dict[str, Tensor] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    inflates: bool = False
    pixels: tuple[Colour, Colour] | None = None


@dataclass(frozen=True)
class Geometry:
    """The clips that weights were trained on; None where nothing says it.

    ``stride`` counts raw frames, ``crop_px`` is the side of the training crop. Pixels from 0 to 1
    became ``(pixel - mean) / std``, in the order ``channels``, ``rgb`` or ``bgr``.
    """

    frames: int | None = None
    stride: int | None = None
    crop_px: int | None = None
    mean: Colour | None = None
    std: Colour | None = None
    channels: str | None = None


def recognised(names: Collection[str]) -> str:
    """Return the format whose names these are.

    Raises:
        CheckpointError: if no format, or more than one, knows them.
    """
    formats = choices(__name__)
    found = [one for one in formats if _of(one).recognise(names)]
    if len(found) != 1:
        some = ", ".join(sorted(names)[:4]) or "none"
        why = f"of more than one format ({', '.join(found)})" if found else "of no known format"
        raise CheckpointError(
            f"its names of weights are {why}: {some} (known: {', '.join(formats)})"
        )
    return found[0]


def translate(name: str, tensors: Mapping[str, Tensor]) -> Translation:
    """Return the weights, which are in the format ``name``, by our names."""
    translation: Translation = _of(name).translate(tensors)
    return translation


def renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> Translation:
    """Return a translation by a function of the name.

    It returns our name; ``classifier.weight`` and ``classifier.bias``; ``ignored: REASON``; or None
    for a name that it does not know.
    """
    kept: dict[str, Tensor] = {}
    classifier: dict[str, Tensor] = {}
    ignored: dict[str, int] = {}
    for theirs, tensor in tensors.items():
        ours = rename(theirs) or theirs
        if ours.startswith("ignored: "):
            reason = ours.removeprefix("ignored: ")
            ignored[reason] = ignored.get(reason, 0) + 1
        elif ours.startswith("classifier."):
            classifier[ours.removeprefix("classifier.")] = tensor
        elif ours in kept:
            raise CheckpointError(f"two of its weights are {ours} here; the second is {theirs}")
        else:
            kept[ours] = tensor
    if set(classifier) != {"weight", "bias"}:
        ignored |= {"part of a classifier": len(classifier)} if classifier else {}
        classifier = {}
    return Translation(kept, classifier, ignored)


def _of(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
