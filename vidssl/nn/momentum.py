"""A copy of a network that follows it as an exponential moving average."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

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


class Momentum(nn.Module):
    """How slowly twins follow their networks; part of every checkpoint.

    ``value`` is a plain number, for which no device has to be waited for.
    """

    def __init__(self, start: float, *, anneal: bool) -> None:
        """Begin at ``start``, and stay there or be raised to 1."""
        super().__init__()
        self.start, self.anneal = start, anneal
        self.value = start

    def move(self, *pairs: tuple[nn.Module, nn.Module]) -> None:
        """Move each (twin, network)'s twin a little; not while evaluating."""
        for twin, net in pairs if self.training else ():
            follow(twin, net, self.value)

    def after_step(self, progress: float) -> None:
        """Set the value of the next step; ``progress`` runs over [0, 1]."""
        if self.anneal:
            self.value = annealed(self.start, progress)

    def get_extra_state(self) -> Tensor:
        """Return what a checkpoint keeps: the value, ``()``."""
        return torch.tensor(self.value, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up what a checkpoint kept."""
        self.value = float(state)


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
