"""Projection heads.

Tensor suffixes: B clips, D features.
"""

from itertools import pairwise

from torch import nn


def mlp(*widths: int, norm: bool = False) -> nn.Sequential:
    """Return Linear layers of the given widths with ReLU between them, none after the last.

    ``norm`` puts a BatchNorm before each ReLU, and leaves out the bias that it would undo.

    Raises:
        ValueError: if there are not at least an input and an output width.
    """
    if len(widths) < 2:
        raise ValueError(f"a head needs an input and an output width, got {widths}")
    layers: list[nn.Module] = []
    for i, (wide, narrow) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        layers.append(nn.Linear(wide, narrow, bias=last or not norm))
        if not last:
            layers += [nn.BatchNorm1d(narrow), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*layers)
