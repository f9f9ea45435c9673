"""ConST-CL's instance reconstructor: a region of one clip, told by the cells of another.

Yuan et al., CVPR 2022, https://arxiv.org/abs/2112.05181; built after a reading of the released
TensorFlow code, the paper's text not having been at hand. A transformer decoder whose layers are
three units of one head side by side; a unit adds its *projected* query to what it has attended to,
has no residual around its feed-forward part and no projection behind the attention.

Differences: weights begin as PyTorch's linear layers do. The released sizes belong to 2048 channels
(6,928,356 parameters); narrower encoders get heads a sixteenth as wide as their map. Maps of fewer
than five steps, which the release does not speak of, give those steps that they have.

Tensor suffixes: B clips, N regions, M cells, C channels of the map, W channels of a unit;
T', H', W' of a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12
POSITION = 8
"""Channels of a cell's position in time, and as many in space."""
NARROWEST = 8
CONTEXT = (-2, -1, 0, 1, 2)


class Reconstructor(nn.Module):
    """Queries of regions ``(B, N, C)`` and another view's map, to regions as that view has them."""

    def __init__(self, channels: int, *, layers: int = 3, units: int = 3) -> None:
        """Make fresh weights for maps of ``channels`` channels."""
        super().__init__()
        width = max(NARROWEST, channels // 16)
        memory = channels + 2 * POSITION
        self.time = position_mlp(1)
        self.space = position_mlp(2)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                Unit(units * width if layer else channels, memory, width) for _ in range(units)
            )
            for layer in range(layers)
        )
        self.last = nn.Linear(units * width, channels)

    def forward(self, regions_BNC: Tensor, map_BCTHW: Tensor) -> Tensor:
        """Return each region as made of the map's cells around its middle, ``(B, N, C)``."""
        memory_BMC = self.memory(map_BCTHW)
        x_BNC = regions_BNC
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            x_BNC = torch.cat([unit(x_BNC, memory_BMC) for unit in layer], dim=2)
        reconstructed: Tensor = self.last(x_BNC)
        return reconstructed

    def memory(self, map_BCTHW: Tensor) -> Tensor:
        """Return the cells of the context with their positions, ``(B, M, C + 16)``.

        Positions are cells from the middle of the picture and whole steps from the key step.
        """
        _, _, frames, height, width = map_BCTHW.shape
        steps = context(frames)
        cells = map_BCTHW[:, :, steps]
        axes = [
            torch.tensor(steps) - float(frames // 2),
            torch.arange(height) - (height - 1) / 2,
            torch.arange(width) - (width - 1) / 2,
        ]
        grid_M3 = torch.cartesian_prod(*axes).to(map_BCTHW)
        position_MP = torch.cat([self.time(grid_M3[:, :1]), self.space(grid_M3[:, 1:])], dim=1)
        position_BMP = position_MP.expand(len(map_BCTHW), -1, -1)
        return torch.cat([cells.flatten(2).transpose(1, 2), position_BMP], dim=2)


class Unit(nn.Module):
    """One head of attention and its feed-forward part, ``(B, N, C) -> (B, N, W)``."""

    def __init__(self, inputs: int, memory: int, width: int) -> None:
        """Make fresh weights."""
        super().__init__()
        self.query = nn.Linear(inputs, width)
        self.key = nn.Linear(memory, width)
        self.value = nn.Linear(memory, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, memory_BMC: Tensor) -> Tensor:
        """Return what the queries find in the memory."""
        return self.found(self.query(x_BNC), self.key(memory_BMC), self.value(memory_BMC))

    def found(self, query_BNW: Tensor, key_BMW: Tensor, value_BMW: Tensor) -> Tensor:
        """Return the same from what the three projections made of queries and memory."""
        found_BNW = F.scaled_dot_product_attention(query_BNW, key_BMW, value_BMW)
        out: Tensor = self.outer(F.gelu(self.inner(self.norm(found_BNW + query_BNW))))
        return out


def context(frames: int) -> list[int]:
    """Return the steps of a map around its key step: five, a fifth of the map apart.

    Of a map of fewer than five steps, those of the five that it has.
    """
    apart = max(1, frames // len(CONTEXT))
    steps = [frames // 2 + apart * offset for offset in CONTEXT]
    return [step for step in steps if 0 <= step < frames]


def position_mlp(axes: int) -> nn.Sequential:
    """Return what makes channels of a position of so many coordinates."""
    return nn.Sequential(nn.Linear(axes, 4), nn.ReLU(), nn.Linear(4, POSITION))
