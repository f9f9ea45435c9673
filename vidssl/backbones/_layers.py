"""The maps of any layers of a backbone in place of its last one.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, F features; T', H', W' of a map.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.errors import RecipeError, nearest

TRIED_PX = 64
"""The side of the clip on which the maps' sizes are found out; it is computed by nobody."""


class _ReachedError(Exception):
    """All layers that are wanted have answered; the rest of the network need not."""


class Tapped(Encoder):
    """A backbone up to some of its layers: their maps, averaged over time, one after the other.

    ``maps`` gives ``(B, F, 1, H', W')``, F being the sum of the layers' channels. Layers are named
    as PyTorch names parts of a network: ``trunk.res4``, or ``slow.res4`` and ``fast.res4``.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[str], frames: int) -> None:
        """Tap an encoder of clips of so many frames.

        Raises:
            RecipeError: if there is no such layer, it gives no map, or the maps differ in size.
        """
        super().__init__()
        self.encoder = encoder
        self.layers = tuple(layers)
        names = [name for name, _ in encoder.named_modules() if name]
        for layer in self.layers:
            if layer not in names:
                stages = [name for name in names if name.count(".") < 2]
                raise RecipeError(
                    f"layers: the backbone has no {layer!r}{nearest(layer, names)} (it has "
                    f"{', '.join(stages[:12])}, ...)"
                )
        found = self._tried(frames)
        sizes = {layer: tuple(maps.shape[3:]) for layer, maps in found.items()}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{layer} {h}x{w}" for layer, (h, w) in sizes.items())
            raise RecipeError(f"layers: their maps differ in size ({told} of {TRIED_PX} pixels)")
        self.features = sum(maps.shape[1] for maps in found.values())
        self.spatial_stride = TRIED_PX // next(iter(sizes.values()))[0]
        self.temporal_stride = frames

    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the layers' maps, ``(B, F, 1, H', W')``."""
        found = _answers(self.encoder, self.layers, clips_BCTHW)
        return torch.cat([found[layer].mean(dim=2, keepdim=True) for layer in self.layers], dim=1)

    def _tried(self, frames: int) -> dict[str, Tensor]:
        """Return the layers' maps of one clip, without values."""
        shadow = copy.deepcopy(self.encoder).to("meta").eval()
        clip = torch.empty(1, 3, frames, TRIED_PX, TRIED_PX, device="meta")
        found = _answers(shadow, self.layers, clip)
        for layer in self.layers:
            maps = found.get(layer)
            if not isinstance(maps, Tensor) or maps.ndim != 5:
                raise RecipeError(f"layers: {layer} gives no map (B, C, T, H, W)")
        return {layer: found[layer] for layer in self.layers}


def _answers(encoder: Encoder, layers: Sequence[str], clips_BCTHW: Tensor) -> dict[str, Any]:
    """Return what some layers give for clips; nothing behind the last of them is computed."""
    found: dict[str, Any] = {}
    wanted = set(layers)

    def noting(layer: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            found[layer] = output
            if found.keys() == wanted:
                raise _ReachedError

        return note

    hooks = [encoder.get_submodule(layer).register_forward_hook(noting(layer)) for layer in wanted]
    try:
        encoder.maps(clips_BCTHW)
    except _ReachedError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found
