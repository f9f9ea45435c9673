"""Memory against computing: a forward pass that runs once more on the way back.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016,
https://arxiv.org/abs/1604.06174. Applied to parts of a batch it lets the loss see all clips while
only one part's activations are held, as in Gao et al., "Scaling Deep Contrastive Learning Batch
Size under Memory Limited Setup", 2021, https://arxiv.org/abs/2101.06983.

Tensor suffixes: B clips, C channels, T frames, H and W pixels.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidssl.nn.norms import unremembered

Net = TypeVar("Net", bound=nn.Module)
Maps = TypeVar("Maps", bound=Tensor | tuple[Tensor, ...])


def recompute(module: nn.Module, inside: Callable[[Tensor], Maps], x_BCTHW: Tensor) -> Maps:
    """Return ``inside(x)``, which runs once more on the way back instead of being kept.

    The second run draws the same random numbers and moves none of the module's statistics, which
    ``torch.compile`` sees to by itself.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), unremembered(module)

    out: Any
    if torch.compiler.is_compiling():
        out = checkpoint(inside, x_BCTHW, use_reentrant=False)
    else:
        out = checkpoint(inside, x_BCTHW, use_reentrant=False, context_fn=contexts)
    return cast(Maps, out)


def in_parts(encode: Callable[[Any, Tensor], Maps]) -> Callable[[Any, Tensor], Maps]:
    """Have a method of a network take clips in as many parts as its ``parts`` says while training.

    Part p of P holds the clips p, p + P, p + 2 P, ...: what process p of P holds of a batch, and of
    several views of each clip, one after the other in the batch, all in the same part where P
    divides the clips. What comes back is in the order of the clips.
    """

    @wraps(encode)
    def whole(net: Any, clips_BCTHW: Tensor) -> Maps:
        count = min(net.parts, len(clips_BCTHW)) if net.training else 1
        if count == 1:
            return encode(net, clips_BCTHW)
        one = partial(encode, net)
        parts = []
        for part in range(count):
            rows = clips_BCTHW[part::count]
            parts.append(recompute(net, one, rows) if torch.is_grad_enabled() else one(rows))
        if isinstance(parts[0], Tensor):
            return cast(Maps, _interleaved(cast(list[Tensor], parts)))
        return cast(Maps, tuple(_interleaved(list(maps)) for maps in zip(*parts, strict=True)))

    return whole


def _interleaved(parts: list[Tensor]) -> Tensor:
    """Return rows 0 of all parts, then rows 1, and so on; earlier parts may have one row more."""
    least = len(parts[-1])
    even = torch.stack([part[:least] for part in parts], dim=1).flatten(0, 1)
    return torch.cat([even, *(part[least:] for part in parts if len(part) > least)])
