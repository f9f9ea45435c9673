"""A copy of a network that follows it as an exponential moving average."""

import copy
from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def frozen_copy(net: Net) -> Net:
    """Return a copy with the same weights that takes no gradient."""
    twin = copy.deepcopy(net)
    return twin.requires_grad_(False)


@torch.no_grad()
def follow(twin: nn.Module, net: nn.Module, momentum: float) -> None:
    """Move the parameters of ``twin`` to ``momentum * twin + (1 - momentum) * net``.

    Parameters only: the twin's BatchNorm keeps running statistics of what the twin itself sees.
    """
    kept = [p.detach() for p in twin.parameters()]
    new = [p.detach() for p in net.parameters()]
    torch._foreach_lerp_(kept, new, 1 - momentum)
