"""A transformer decoder: the box asks every cell of its clip's map, layer after layer.

The detection head of ConST-CL (Yuan et al., CVPR 2022, https://arxiv.org/abs/2112.05181) and of
VideoGLUE, after Girdhar et al., "Video Action Transformer Network", CVPR 2019,
https://arxiv.org/abs/1812.02707. It is built after a reading of the released TensorFlow code
(tensorflow/models, ``ActionTransformerHead``), the first paper's text not having been at hand: each
cell of the map gets eight channels for its place in time and eight for that in space; the box's
query is pooled from that map as the box's feature is; layers are units of one head side by side,
those of ``vidssl.nn.reconstructor``. The defaults are ConST-CL's; VideoGLUE's AVA configuration of
a ViT-B has 1 layer of 6 heads, 768 wide.

``hidden`` is the hidden layer with batch norm of their classifier, 1024 wide in the description of
the released head, and so in the recipe ``const_cl_decoder_ava``; the default here is none.

Differences: RoIAlign is that of ``vidssl.detection.roi_head`` (theirs takes one sample a cell, of
4 x 4 cells in ConST-CL's configuration); weights begin as PyTorch's linear layers do; dropout
comes after the hidden layer, theirs before; a single box in a training batch is normalised by the
running statistics.

Tensor suffixes: B clips, N boxes of all clips, M cells, F features, P channels of positions, C
channels of a cell (F + P), W channels of a unit, D features of the answer; T, H, W of maps.
"""

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from vidssl.detection.context import ClipContext, ContextConfig, Pool
from vidssl.nn.distributed import world_size
from vidssl.nn.heads import HeadNorm
from vidssl.nn.reconstructor import POSITION, Unit, position_mlp


class Config(ContextConfig):
    """The options of the decoder."""

    name: Literal["decoder"] = "decoder"
    layers: PositiveInt = 3
    heads: PositiveInt = 3
    """Units of a layer, each with weights of its own; their answers are joined."""
    width: PositiveInt = 128
    """Channels of a unit."""
    positions: bool = True
    """Whether cells and boxes know where they are; the pictures alone do not say it."""
    hidden: NonNegativeInt = 0
    """Width of a hidden layer with batch norm behind the decoder; 0 is none."""

    def build(self, features: int) -> "Decoder":
        """Build the decoder."""
        return Decoder(features, self)


class Decoder(ClipContext):
    """Layers of attention from one box to all cells of its clip."""

    def __init__(self, features: int, config: Config) -> None:
        """Make fresh weights for maps of ``features`` features."""
        super().__init__()
        self.time = position_mlp(1) if config.positions else None
        self.space = position_mlp(2) if config.positions else None
        cell = features + (2 * POSITION if config.positions else 0)
        joined = config.heads * config.width
        self.layers = nn.ModuleList(
            nn.ModuleList(
                Unit(joined if layer else cell, cell, config.width) for _ in range(config.heads)
            )
            for layer in range(config.layers)
        )
        self.hidden: nn.Sequential | None = None
        self.features = joined
        if config.hidden:
            linear = nn.Linear(joined, config.hidden, bias=False)
            self.hidden = nn.Sequential(linear, BoxNorm(config.hidden), nn.ReLU())
            self.features = config.hidden

    def forward(self, short_NF: Tensor, maps_BFTHW: Tensor, clip_N: Tensor, pool: Pool) -> Tensor:
        """Return ``(N, D)``: what the units of the last layer found, or the hidden layer of it."""
        clip_N = clip_N.to(maps_BFTHW.device)
        x_ND, cells_BCTHW = short_NF, maps_BFTHW
        if self.time is not None and self.space is not None:
            place_BPTHW = self._places(self.time, self.space, maps_BFTHW)
            x_ND = torch.cat([short_NF, pool(place_BPTHW)], dim=1)
            cells_BCTHW = torch.cat([maps_BFTHW, place_BPTHW], dim=1)
        memory_BMC = cells_BCTHW.flatten(2).transpose(1, 2)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            x_ND = torch.cat([_found(unit, x_ND, memory_BMC, clip_N) for unit in layer], dim=1)
        return x_ND if self.hidden is None else self.hidden(x_ND)

    @staticmethod
    def _places(time: nn.Module, space: nn.Module, maps_BFTHW: Tensor) -> Tensor:
        """Return the channels of each cell's place, ``(B, P, T, H, W)``.

        Coordinates are whole steps and cells from the middle of the map, whatever its size.
        """
        clips, _, frames, height, width = maps_BFTHW.shape
        device = maps_BFTHW.device
        exact = torch.promote_types(maps_BFTHW.dtype, torch.float32)
        axes = [
            torch.arange(size, device=device, dtype=exact) - (size - 1) / 2
            for size in (frames, height, width)
        ]
        place_THW3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        place_THWP = torch.cat([time(place_THW3[..., :1]), space(place_THW3[..., 1:])], dim=-1)
        place_BPTHW = place_THWP.permute(3, 0, 1, 2).expand(clips, -1, -1, -1, -1)
        return place_BPTHW.to(maps_BFTHW.dtype)


def _found(unit: nn.Module, x_ND: Tensor, memory_BMC: Tensor, clip_N: Tensor) -> Tensor:
    """Return what one unit finds for each box in its own clip, ``(N, W)``."""
    assert isinstance(unit, Unit)
    # Projected once a clip, then handed to each of its boxes.
    key_NMW = unit.key(memory_BMC).index_select(0, clip_N)
    value_NMW = unit.value(memory_BMC).index_select(0, clip_N)
    # With an axis of heads, of one: ONNX has no attention without.
    query_N11W = unit.query(x_ND)[:, None, None]
    return unit.found(query_N11W, key_NMW[:, None], value_NMW[:, None])[:, 0, 0]


class BoxNorm(HeadNorm):
    """Batch norm over the boxes of all processes; fewer than two have no statistics to learn by."""

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return the normalised features, of the shape that came in."""
        if self.training and len(x_ND) < 2 and world_size() == 1:
            return nn.functional.batch_norm(
                x_ND, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x_ND)
