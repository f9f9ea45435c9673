"""The residual network that the ResNet families share: stem, blocks, stages, fresh weights.

He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, in the 3D form of Feichtenhofer et al.,
SlowFast, ICCV 2019, https://arxiv.org/abs/1812.03982, section 3.4 and table 1. As in the authors'
released code:

- a block's temporal kernel sits in its first convolution, its spatial stride in the 3x3 one;
- no stage strides in time;
- convolutions are Kaiming normal, fan-out; the last norm of each block starts at zero, so that a
  fresh block is its shortcut.

The basic block's stage width is He et al.'s (64 to 512 at width 64), without their expansion of 4.

Tensor suffixes: B clips, C channels, T frames, H and W pixels; T', H', W' of a map.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from vidssl.backbones import BackboneConfig, Encoder, takes_clips
from vidssl.nn.gates import SelfGate, SqueezeExcitation
from vidssl.nn.non_local import NonLocalConfig
from vidssl.nn.norms import NormConfig
from vidssl.nn.recompute import recompute

Block = Literal["bottleneck", "basic"]
Form = Literal["clip", "detection"]
Gate = Literal["none", "last", "all"]

RGB = 3
STAGES = 4  # res2 to res5
EXPANSION: dict[Block, int] = {"bottleneck": 4, "basic": 1}


Given = TypeVar("Given", int, int | tuple[int, ...])


def _odd(given: Given) -> Given:
    for kernel in given if isinstance(given, tuple) else (given,):
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(
                f"a temporal kernel must be odd to keep the number of frames, got {kernel}"
            )
    return given


# Judged after the types, not inside the union: its parts' names would stand in every message.
Kernel = Annotated[int, AfterValidator(_odd)]
StageKernel = Annotated[int | Annotated[tuple[int, ...], Field(min_length=1)], AfterValidator(_odd)]
"""Of all blocks of a stage, or a pattern that its blocks repeat, as in I3D's (3, 1)."""
Kernels = tuple[Kernel, StageKernel, StageKernel, StageKernel, StageKernel]
"""Temporal kernels of the stem and of res2 to res5."""
Depths = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
"""Blocks in res2 to res5."""
Counts = tuple[
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
]


class ResNetConfig(BackboneConfig, ABC):
    """What every residual family can choose."""

    width: PositiveInt = 64
    """Channels of the stem and inner channels of res2; each later stage doubles them."""
    depths: Depths = (3, 4, 6, 3)
    """Blocks in res2 to res5: (2, 2, 2, 2) basic ones make 18 layers, (3, 4, 23, 3) make 101."""
    block: Block = "bottleneck"
    form: Form = "clip"
    """``detection`` dilates res5 instead of striding; it has the clip form's weights."""
    stem_pool: bool = True
    """Whether the stem ends in a pooling that halves both sides; without it all maps are twice as
    fine, from the same weights, for about four times the work."""
    norm: NormConfig = NormConfig()
    non_local: NonLocalConfig | None = None
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of leaving out the last block for a clip while training; earlier blocks have
    less, down to none for the first (Huang et al., ECCV 2016, https://arxiv.org/abs/1603.09382)."""
    activation_checkpointing: bool = False
    """Keep the input of the stem and of each block only, and compute their insides again on the way
    back: less memory, about a third more time, the same gradients and running statistics."""

    @abstractmethod
    def frames_in(self, stage: int) -> int:
        """Return the frames that non-local blocks see in stage 2 to 5."""

    @model_validator(mode="after")
    def _non_local_blocks_stand(self) -> Self:
        for stage, depth in enumerate(self.depths, 2):
            for block in self.non_local.after(stage) if self.non_local else ():
                if not 0 <= block < depth:
                    raise ValueError(
                        f"non_local.res{stage}: no block {block}; the stage has 0 to {depth - 1}"
                    )
            if self.non_local:
                self.non_local.require_fit(stage, self.frames_in(stage))
        return self

    def require_batch(self, clips: int) -> None:
        """Refuse a number of clips that the norm cannot divide.

        Raises:
            ValueError: if they are no multiple of a sub-batch norm's splits.
        """
        if self.norm.kind == "sub-batch" and clips % self.norm.splits:
            raise ValueError(
                f"optim.batch {clips} is not a multiple of backbone.norm.splits, {self.norm.splits}"
            )

    def shared_key(self) -> dict[str, Any]:
        """Return what all families' weights depend on, of the options above."""
        key: dict[str, Any] = {
            "name": self.name,
            "width": self.width,
            "block": self.block,
            **self.norm.weights_key(),
        }
        if self.non_local and any(self.non_local.after(stage) for stage in range(2, 6)):
            key["non_local"] = {
                "similarity": self.non_local.similarity,
                "after": [sorted(self.non_local.after(stage)) for stage in range(2, 6)],
            }
        return key


@dataclass(frozen=True)
class Plan:
    """One pathway: ``kernels`` holds the stem's temporal kernel, then one list a stage.

    ``extra`` counts the channels that something else appends before each stage. ``drop_path`` is
    each stage's own rate, which replaces the config's rising one. ``pool_frames`` joins that many
    frames by their maximum behind res2. The deep stem is 3D ResNet-RS's.
    """

    config: ResNetConfig
    kernels: tuple[int, Sequence[Sequence[int]]]
    width: int
    extra: Sequence[int] = (0, 0, 0, 0)
    stem: Literal["plain", "deep"] = "plain"
    stem_stride: int = 1
    pool_frames: int = 1
    gate: Gate = "none"
    excite: bool = False
    drop_path: Sequence[float] | None = None
    non_local: NonLocalConfig | None = None

    @property
    def depths(self) -> list[int]:
        """Blocks in each stage."""
        return [len(kernels) for kernels in self.kernels[1]]

    def drop_rate(self, stage: int, block: int) -> float:
        """Return the probability of leaving out block ``block`` of stage 2 to 5."""
        if self.drop_path is not None:
            return self.drop_path[stage - 2]
        number = sum(self.depths[: stage - 2]) + block
        return self.config.drop_path * number / max(1, sum(self.depths) - 1)

    def gated(self, stage: int, block: int) -> bool:
        """Whether that block scales its channels by a self-gate."""
        return self.gate == "all" or (self.gate == "last" and block == self.depths[stage - 2] - 1)


class SingleConfig(ResNetConfig, ABC):
    """The options of a family with one pathway."""

    temporal_kernels: Kernels
    """Of the stem and of res2 to res5, in frames; a list is repeated over a stage's blocks."""
    temporal_blocks: Counts | None = None
    """How many blocks of each stage, the first ones, have its temporal kernel; all if null."""

    @model_validator(mode="after")
    def _counted_blocks_are_there(self) -> Self:
        require_blocks("temporal_blocks", self.temporal_blocks, self.depths)
        return self

    @model_validator(mode="after")
    def _frames_are_paired(self) -> Self:
        pooled = self.plan().pool_frames  # 1 or 2
        if self.frames % pooled:
            raise ValueError(
                f"frames {self.frames} is not a multiple of {pooled}; pairs of them are pooled"
            )
        return self

    @abstractmethod
    def plan(self) -> Plan:
        """Return the pathway that these options describe."""

    def frames_in(self, stage: int) -> int:
        """Return the frames that non-local blocks see in stage 2 to 5."""
        plan = self.plan()
        frames = -(-self.frames // plan.stem_stride)
        return frames if stage == 2 else frames // plan.pool_frames

    def network(self) -> Encoder:
        """Return the encoder with fresh weights."""
        return Trunk(self.plan())

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        return {**self.shared_key(), "temporal_kernels": list(self.kernels_by_block())}

    def kernels_by_block(self) -> tuple[int, list[list[int]]]:
        """Return the temporal kernels: the stem's, then one list a stage with one a block."""
        return kernels_by_block(self.temporal_kernels, self.depths, self.temporal_blocks)


class Trunk(Encoder):
    """One pathway as an encoder, whatever its plan."""

    def __init__(self, plan: Plan) -> None:
        """Make fresh weights."""
        super().__init__()
        self.features = outputs_of(plan.config.block, plan.width, 5)
        self.spatial_stride = spatial_stride(plan.config)
        self.temporal_stride = plan.stem_stride * plan.pool_frames
        self.trunk = pathway(plan)

    @takes_clips
    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return res5's map, ``(B, F, T', H/32, W/32)``, or H/16 and W/16 in the detection form.

        Half as coarse without ``stem_pool``.
        """
        map_: Tensor = self.trunk(clips_BCTHW)
        return map_


class Residual(nn.Module):
    """The ReLU of a branch plus a shortcut, both ``(B, C, T, H, W) -> (B, C', T, H', W')``."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, *, recomputed: bool = False) -> None:
        """``recomputed`` keeps the input alone for the backward pass."""
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.recomputed = recomputed

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the block's output."""
        if self.recomputed and self.training and torch.is_grad_enabled():
            return recompute(self, self._block, x_BCTHW)
        return self._block(x_BCTHW)

    def _block(self, x_BCTHW: Tensor) -> Tensor:
        return F.relu_(self.branch(x_BCTHW) + self.shortcut(x_BCTHW))


class Recomputed(nn.Sequential):
    """Layers that keep their input alone for the backward pass."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return what the last layer gives."""
        if self.training and torch.is_grad_enabled():
            return recompute(self, self._layers, x_BCTHW)
        return self._layers(x_BCTHW)

    def _layers(self, x_BCTHW: Tensor) -> Tensor:
        for layer in self:
            x_BCTHW = layer(x_BCTHW)
        return x_BCTHW


def conv(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    dilation: int = 1,
) -> nn.Conv3d:
    """Convolve without bias; kernel and stride are (frames, pixels), the dilation is spatial.

    The padding divides frames and pixels by their strides, rounding up.
    """
    frames, pixels = kernel
    margin = dilation * (pixels // 2)
    layer = nn.Conv3d(
        inputs,
        outputs,
        kernel_size=(frames, pixels, pixels),
        stride=(stride[0], stride[1], stride[1]),
        padding=(frames // 2, margin, margin),
        dilation=(1, dilation, dilation),
        bias=False,
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def pathway(plan: Plan) -> nn.Sequential:
    """Return the stem and res2 to res5, ``(B, 3, T, H, W) -> (B, F, T', H/32, W/32)``.

    The detection form dilates the last stage instead of striding: its map has 1/16 of the pixels a
    side.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=stem(plan))
    for number in range(2, 2 + STAGES):
        layers[f"res{number}"] = stage(plan, number)
        if number == 2 and plan.pool_frames > 1:
            layers["pool"] = nn.MaxPool3d((plan.pool_frames, 1, 1))
    return nn.Sequential(layers)


def stem(plan: Plan) -> nn.Sequential:
    """Return the first layers, ``(B, 3, T, H, W) -> (B, width, T', H/4, W/4)``.

    H/2 and W/2 without ``stem_pool``.
    """
    width, stride = plan.width, (plan.stem_stride, 2)
    if plan.stem == "deep":
        half = max(1, width // 2)
        layers = [
            *_normed(plan, 1, conv(RGB, half, (plan.kernels[0], 3), stride=stride)),
            *_normed(plan, 2, conv(half, half, (1, 3))),
            *_normed(plan, 3, conv(half, width, (1, 3))),
        ]
    else:
        layers = _normed(plan, None, conv(RGB, width, (plan.kernels[0], 7), stride=stride))
    if plan.config.stem_pool:
        pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        layers.append(("pool", pool))
    kind = Recomputed if plan.config.activation_checkpointing else nn.Sequential
    return kind(OrderedDict(layers))


def stage(plan: Plan, number: int) -> nn.Sequential:
    """Return the blocks of stage 2 to 5; the first has the stride, all the dilation.

    Blocks go by their number, a non-local block by that of the block before it.
    """
    config, index = plan.config, number - 2
    width = plan.width * 2**index
    inputs = outputs_of(config.block, plan.width, number - 1) + plan.extra[index]
    outputs = outputs_of(config.block, plan.width, number)
    dilated = config.form == "detection" and number == 5
    stride, dilation = 1 if number == 2 or dilated else 2, 2 if dilated else 1
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, kernel in enumerate(plan.kernels[1][index]):
        branch = BRANCHES[config.block](plan, inputs, width, (kernel, stride, dilation))
        branch.update(_endings(plan, number, block, outputs))
        layers[str(block)] = Residual(
            nn.Sequential(branch),
            shortcut(plan, inputs, outputs, stride),
            recomputed=config.activation_checkpointing,
        )
        if plan.non_local and block in plan.non_local.after(number):
            layers[f"nonlocal{block}"] = plan.non_local.build(number, outputs, config.norm)
        inputs, stride = outputs, 1
    return nn.Sequential(layers)


Layers = OrderedDict[str, nn.Module]
Shape = tuple[int, int, int]
"""Temporal kernel, spatial stride and dilation of a block."""


def bottleneck(plan: Plan, inputs: int, width: int, shape: Shape) -> Layers:
    """Return the branch kt x 1 x 1, 1 x 3 x 3, 1 x 1 x 1 with ``4 * width`` outputs."""
    kernel, stride, dilation = shape
    outputs = EXPANSION["bottleneck"] * width
    return OrderedDict(
        [
            *_normed(plan, 1, conv(inputs, width, (kernel, 1))),
            *_normed(plan, 2, conv(width, width, (1, 3), stride=(1, stride), dilation=dilation)),
            ("conv3", conv(width, outputs, (1, 1))),
            ("norm3", plan.config.norm.build(outputs, gamma=0.0)),
        ]
    )


def basic(plan: Plan, inputs: int, width: int, shape: Shape) -> Layers:
    """Return the branch kt x 3 x 3, 1 x 3 x 3 with ``width`` outputs."""
    kernel, stride, dilation = shape
    first = conv(inputs, width, (kernel, 3), stride=(1, stride), dilation=dilation)
    return OrderedDict(
        [
            *_normed(plan, 1, first),
            ("conv2", conv(width, width, (1, 3), dilation=dilation)),
            ("norm2", plan.config.norm.build(width, gamma=0.0)),
        ]
    )


BRANCHES = {"bottleneck": bottleneck, "basic": basic}


def shortcut(plan: Plan, inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the identity, or a projection where the branch changes the shape."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    projection = conv(inputs, outputs, (1, 1), stride=(1, stride))
    return nn.Sequential(OrderedDict(conv=projection, norm=plan.config.norm.build(outputs)))


def _normed(plan: Plan, number: int | None, layer: nn.Conv3d) -> list[tuple[str, nn.Module]]:
    """Return a convolution, its norm and ReLU under their names, numbered if there are several."""
    mark = "" if number is None else str(number)
    norm = plan.config.norm.build(layer.out_channels)
    relu = nn.ReLU(inplace=True)
    return [(f"conv{mark}", layer), (f"norm{mark}", norm), (f"relu{mark}", relu)]


def _endings(plan: Plan, stage: int, block: int, outputs: int) -> Iterator[tuple[str, nn.Module]]:
    """Give what follows a branch's last norm."""
    if plan.gated(stage, block):
        yield "gate", SelfGate(outputs)
    if plan.excite:
        yield "excite", SqueezeExcitation(outputs)
    if rate := plan.drop_rate(stage, block):
        yield "drop", StochasticDepth(rate, "row")


def outputs_of(block: Block, width: int, stage: int) -> int:
    """Return the channels behind stage 2 to 5 of a pathway, or behind its stem (1)."""
    return width if stage == 1 else EXPANSION[block] * width * 2 ** (stage - 2)


def spatial_stride(config: ResNetConfig) -> int:
    """Return the pixels a side that a cell of the last map covers."""
    pooled = 2 if config.stem_pool else 1
    return pooled * (16 if config.form == "clip" else 8)


def require_blocks(key: str, counts: Counts | None, depths: Depths) -> None:
    """Refuse to count more blocks than a stage has.

    Raises:
        ValueError: with the stage.
    """
    for stage, (count, depth) in enumerate(zip(counts or depths, depths, strict=True), 2):
        if count > depth:
            raise ValueError(f"{key}: {count} blocks in res{stage}, which has {depth}")


def kernels_by_block(
    kernels: Kernels, depths: Sequence[int], temporal_blocks: Sequence[int] | None = None
) -> tuple[int, list[list[int]]]:
    """Spread five kernels over the blocks: the stem's, then one list a stage.

    A stage's pattern is repeated over its blocks. Only the first ``temporal_blocks`` blocks of a
    stage get its kernel, the others get 1; None gives it to all.
    """
    counts = depths if temporal_blocks is None else temporal_blocks
    first, *patterns = kernels
    spread = []
    for pattern, depth, count in zip(patterns, depths, counts, strict=True):
        repeated = islice(cycle((pattern,) if isinstance(pattern, int) else pattern), depth)
        spread.append([kernel if block < count else 1 for block, kernel in enumerate(repeated)])
    return first, spread
