"""Fitting weights from elsewhere to a backbone, with an account of every tensor.

Two changes of shape are legal and told: an axis of size 1 more or less, and a 2D kernel spread
along time (Carreira and Zisserman, CVPR 2017, https://arxiv.org/abs/1705.07750, section 2). Batch
norm's count of batches is not counted as a tensor; where a file has none, it starts at 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidssl.errors import CheckpointError

LEAST = 0.95
"""Share of a backbone's tensors that a file must have, and of the file's with a place there."""
COUNTER = "num_batches_tracked"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of weights; numbers of 8 bits and fewer mean nothing without their scale."""


@dataclass(frozen=True)
class Match:
    """What fits where.

    ``fitted`` holds the tensors in the backbone's shapes and types. ``matched`` names them without
    counters; ``reshaped`` and ``wrong_shape`` say ``NAME: there -> here``, the latter also where a
    type is no weight's. ``missing`` is the backbone's alone, ``unexpected`` the file's; ``first``
    is the first of the backbone's names.
    """

    fitted: dict[str, Tensor]
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    first: str

    @property
    def share(self) -> float:
        """Return the share of the backbone's tensors that the file has."""
        total = len(self.matched) + len(self.missing) + len(self.wrong_shape)
        return len(self.matched) / total if total else 0.0

    @property
    def used(self) -> float:
        """Return the share of the file's tensors that have a place in the backbone."""
        total = len(self.matched) + len(self.wrong_shape) + len(self.unexpected)
        return 1 - len(self.unexpected) / total if total else 0.0

    @property
    def unfilled(self) -> tuple[str, ...]:
        """Return the names of the backbone's tensors that the file does not fill."""
        return self.missing + tuple(told.partition(":")[0] for told in self.wrong_shape)

    @property
    def counts(self) -> dict[str, int]:
        """Return how many tensors there are of each kind."""
        kinds = ("matched", "missing", "unexpected", "reshaped", "wrong_shape")
        return {kind: len(getattr(self, kind)) for kind in kinds}


def match(
    tensors: Mapping[str, Tensor], target: Mapping[str, Tensor], *, inflates: bool = False
) -> Match:
    """Return how ``tensors`` fit a state dict, which may be on the meta device.

    2D kernels are spread along time only if ``inflates`` is set.
    """
    fitted: dict[str, Tensor] = {}
    matched, missing, reshaped, wrong = [], [], [], []
    for name, wanted in target.items():
        counts = not name.endswith(COUNTER)
        if name not in tensors:
            if counts:
                missing.append(name)
            else:
                fitted[name] = torch.zeros(wanted.shape, dtype=wanted.dtype)
            continue
        given = tensors[name]
        shape = tuple(wanted.shape)
        change = f"{name}: {tuple(given.shape)} -> {shape}"
        if wanted.is_floating_point() and given.dtype not in FLOATS:
            change = f"{name}: {given.dtype} -> {wanted.dtype}".replace("torch.", "")
            wrong.append(change)
            continue
        value = _fit(given, shape, inflates=inflates)
        if value is None:
            wrong.append(change)
            continue
        fitted[name] = value.to(wanted.dtype)
        if counts:
            matched.append(name)
            if tuple(given.shape) != shape:
                reshaped.append(change)
    unexpected = [n for n in tensors if n not in target and not n.endswith(COUNTER)]
    return Match(
        fitted,
        matched=tuple(matched),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        reshaped=tuple(reshaped),
        wrong_shape=tuple(wrong),
        first=next(iter(target), ""),
    )


def _fit(given: Tensor, shape: tuple[int, ...], *, inflates: bool) -> Tensor | None:
    """Return the tensor in the wanted shape, or None if there is no legal way."""
    if tuple(given.shape) == shape:
        return given
    if [n for n in given.shape if n != 1] == [n for n in shape if n != 1]:
        return given.reshape(shape)
    if inflates and given.ndim == 4 and len(shape) == 5:
        frames = shape[2]
        if tuple(given.shape) == (*shape[:2], *shape[3:]):
            return given.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    return None


def require(found: Match, least: float | None, what: str) -> None:
    """Refuse weights of which too little fits ``what``, such as ``"slow_r50_8x8"``.

    A deeper network holds all that a shallower one needs, so what is left over counts as well.
    Relatives such as I3D and Slow share nearly all shapes, and differ in the stem; so unless a
    person states ``least``, no tensor may have another shape.

    Raises:
        CheckpointError: with the counts, and the first names of each list.
    """
    is_same = least is not None or not found.wrong_shape
    least = LEAST if least is None else least
    if found.share >= least and found.used >= least and is_same:
        return
    total = len(found.matched) + len(found.missing) + len(found.wrong_shape)
    counted = f"{len(found.matched)} of the {total} tensors of {what} are there ({found.share:.1%})"
    expected = f"expected at least {least:.0%}"
    if found.used < least <= found.share:
        counted = f"{counted}, but only {found.used:.1%} of the file's have a place in it"
    elif found.share >= least:
        expected = "those of another shape are the mark of another network"
    shared = min(found.share, found.used)
    lines = [
        f"{counted}; {expected}",
        *_some("missing", found.missing),
        *_some("of another shape", found.wrong_shape),
        *_some("unexpected", found.unexpected),
        f"--min-match {_floor(shared)} takes it nevertheless{_rest(found)}"
        if shared
        else "these are the weights of another network",
    ]
    raise CheckpointError("\n  ".join(lines))


def _floor(share: float) -> float:
    return math.floor(share * 100) / 100


def _rest(found: Match) -> str:
    """Say what becomes of the tensors that are not in a file."""
    if not found.unfilled:
        return ""
    if all(".nonlocal" in name for name in found.unfilled):
        return "; the non-local blocks, which are all that is missing, start as the identity"
    return "; the rest keeps fresh weights"


def _some(title: str, names: Sequence[str], limit: int = 4) -> list[str]:
    if not names:
        return []
    rest = f", and {len(names) - limit} more" if len(names) > limit else ""
    return [f"{title} ({len(names)}): {', '.join(names[:limit])}{rest}"]
