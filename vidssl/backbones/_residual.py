"""The residual network that the ResNet families share: stem, blocks, stages, fresh weights.

He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, in the 3D form of Feichtenhofer et al.,
SlowFast, ICCV 2019, https://arxiv.org/abs/1812.03982, section 3.4 and table 1. As in the authors'
released code:

- a block's temporal kernel sits in its first convolution, its spatial stride in the 3x3 one;
- no stage strides in time;
- convolutions are Kaiming normal, fan-out; the last norm of each block starts at zero, so that a
  fresh block is its shortcut.

The basic block's stage width is He et al.'s (64 to 512 at width 64), without their expansion of 4.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor, nn

Block = Literal["bottleneck", "basic"]
Form = Literal["clip", "detection"]

RGB = 3
EXPANSION: dict[Block, int] = {"bottleneck": 4, "basic": 1}


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"a temporal kernel must be odd to keep the number of frames, got {value}")
    return value


Kernel = Annotated[int, Field(ge=1), AfterValidator(_odd)]
Kernels = tuple[Kernel, Kernel, Kernel, Kernel, Kernel]
"""Temporal kernels of the stem and of res2 to res5."""
Depths = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
"""Blocks in res2 to res5."""
Counts = tuple[
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
]


class Residual(nn.Module):
    """The ReLU of a branch plus a shortcut, both ``(B, C, T, H, W) -> (B, C', T, H', W')``."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the block's output."""
        return F.relu_(self.branch(x_BCTHW) + self.shortcut(x_BCTHW))


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


def norm(channels: int, *, gamma: float = 1.0) -> nn.BatchNorm3d:
    """Batch norm with every scale starting at ``gamma``."""
    layer = nn.BatchNorm3d(channels, eps=1e-5, momentum=0.1)
    nn.init.constant_(layer.weight, gamma)
    return layer


def stem(width: int, temporal_kernel: int) -> nn.Sequential:
    """Return the first layers, ``(B, 3, T, H, W) -> (B, width, T, H/4, W/4)``."""
    return nn.Sequential(
        OrderedDict(
            conv=conv(RGB, width, (temporal_kernel, 7), stride=(1, 2)),
            norm=norm(width),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        )
    )


def bottleneck(
    inputs: int, width: int, temporal_kernel: int, stride: int, dilation: int
) -> nn.Sequential:
    """Return the branch kt x 1 x 1, 1 x 3 x 3, 1 x 1 x 1 with ``4 * width`` outputs."""
    outputs = EXPANSION["bottleneck"] * width
    return nn.Sequential(
        OrderedDict(
            conv1=conv(inputs, width, (temporal_kernel, 1)),
            norm1=norm(width),
            relu1=nn.ReLU(inplace=True),
            conv2=conv(width, width, (1, 3), stride=(1, stride), dilation=dilation),
            norm2=norm(width),
            relu2=nn.ReLU(inplace=True),
            conv3=conv(width, outputs, (1, 1)),
            norm3=norm(outputs, gamma=0.0),
        )
    )


def basic(
    inputs: int, width: int, temporal_kernel: int, stride: int, dilation: int
) -> nn.Sequential:
    """Return the branch kt x 3 x 3, 1 x 3 x 3 with ``width`` outputs."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv(inputs, width, (temporal_kernel, 3), stride=(1, stride), dilation=dilation),
            norm1=norm(width),
            relu1=nn.ReLU(inplace=True),
            conv2=conv(width, width, (1, 3), dilation=dilation),
            norm2=norm(width, gamma=0.0),
        )
    )


BRANCHES = {"bottleneck": bottleneck, "basic": basic}


def stage(
    block: Block,
    inputs: int,
    width: int,
    temporal_kernels: Sequence[int],
    *,
    stride: int,
    dilation: int,
) -> nn.Sequential:
    """Return one block for each temporal kernel; the first has the stride, all the dilation."""
    outputs = EXPANSION[block] * width
    blocks = []
    for temporal_kernel in temporal_kernels:
        branch = BRANCHES[block](inputs, width, temporal_kernel, stride, dilation)
        blocks.append(Residual(branch, shortcut(inputs, outputs, stride)))
        inputs, stride = outputs, 1
    return nn.Sequential(*blocks)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the identity, or a projection where the branch changes the shape."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(conv=conv(inputs, outputs, (1, 1), stride=(1, stride)), norm=norm(outputs))
    )


def pathway(
    block: Block,
    width: int,
    temporal_kernels: tuple[int, Sequence[Sequence[int]]],
    *,
    form: Form,
    extra: Sequence[int] = (0, 0, 0, 0),
) -> nn.Sequential:
    """Return the stem and res2 to res5, ``(B, 3, T, H, W) -> (B, F, T, H/32, W/32)``.

    ``temporal_kernels`` holds the stem's, then one sequence a stage with one kernel a block.
    ``extra`` counts the channels that something else appends before each stage. The detection
    form dilates the last stage instead of striding: its map has 1/16 of the pixels a side.
    """
    first, kernels = temporal_kernels
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=stem(width, first))
    inputs = width
    for index, (stage_kernels, appended) in enumerate(zip(kernels, extra, strict=True)):
        inner = width * 2**index
        dilated = form == "detection" and index == 3
        layers[f"res{index + 2}"] = stage(
            block,
            inputs + appended,
            inner,
            stage_kernels,
            stride=1 if index == 0 or dilated else 2,
            dilation=2 if dilated else 1,
        )
        inputs = EXPANSION[block] * inner
    return nn.Sequential(layers)


def kernels_by_block(
    kernels: Sequence[int], depths: Sequence[int], temporal_blocks: Sequence[int] | None
) -> tuple[int, list[list[int]]]:
    """Spread five kernels over the blocks: the stem's, then one list a stage.

    Only the first ``temporal_blocks`` blocks of a stage get its kernel, the others get 1; None
    gives it to all.
    """
    counts = depths if temporal_blocks is None else temporal_blocks
    stages = zip(kernels[1:], depths, counts, strict=True)
    return kernels[0], [
        [kernel if block < count else 1 for block in range(depth)]
        for kernel, depth, count in stages
    ]
