"""A copy of a network that follows it as an exponential moving average."""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def frozen_copy(net: Net) -> Net:
    """Return a copy with the same weights that takes no gradient."""
    twin = copy.deepcopy(net)
    return twin.requires_grad_(False)


def annealed(momentum: float, progress: float) -> float:
    """Return ``1 - (1 - momentum) (cos(pi progress) + 1) / 2``: a cosine up to 1 at the end.

    BYOL (Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733, section 3.2).
    """
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


@torch.no_grad()
def follow(twin: nn.Module, net: nn.Module, momentum: float, *, buffers: bool = False) -> None:
    """Move the parameters of ``twin`` to ``momentum * twin + (1 - momentum) * net``.

    By default parameters only: the twin's BatchNorm keeps running statistics of what the twin
    itself sees. With ``buffers`` they are averaged alike, which a twin needs that sees nothing
    itself; whole numbers, such as counts of batches, are copied.
    """
    kept = [p.detach() for p in twin.parameters()]
    new = [p.detach() for p in net.parameters()]
    for mine, theirs in zip(twin.buffers(), net.buffers(), strict=True) if buffers else ():
        if mine.is_floating_point():
            kept.append(mine)
            new.append(theirs)
        else:
            mine.copy_(theirs)
    torch._foreach_lerp_(kept, new, 1 - momentum)
