"""Projection heads.

Tensor suffixes: B clips, D features.
"""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from vidssl.nn.norms import SyncNorm


class HeadNorm(SyncNorm):
    """Batch norm of features ``(B, D)``, with the statistics of all processes' clips."""

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return the normalised features, of the shape that came in."""
        return super().forward(x_BD[:, :, None, None, None])[:, :, 0, 0, 0]


def mlp(
    *widths: int, norm: bool = False, last: Literal["bias", "norm", "fixed norm", "none"] = "bias"
) -> nn.Sequential:
    """Return Linear layers of the given widths with ReLU between them, none after the last.

    ``norm`` puts a :class:`HeadNorm` before each ReLU, and leaves out the bias that it would undo.
    ``last`` says what the last layer has: a bias, or a norm with or without an affine instead, or
    nothing but its matrix.

    Raises:
        ValueError: if there are not at least an input and an output width.
    """
    if len(widths) < 2:
        raise ValueError(f"a head needs an input and an output width, got {widths}")
    *inner, (wide, narrow) = pairwise(widths)
    layers: list[nn.Module] = []
    for before, after in inner:
        layers.append(nn.Linear(before, after, bias=not norm))
        layers += [HeadNorm(after), nn.ReLU()] if norm else [nn.ReLU()]
    layers.append(nn.Linear(wide, narrow, bias=last == "bias"))
    if last in {"norm", "fixed norm"}:
        layers.append(HeadNorm(narrow, affine=last == "norm"))
    return nn.Sequential(*layers)
