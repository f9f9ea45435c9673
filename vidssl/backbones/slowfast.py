"""SlowFast: a wide pathway over few frames, joined by a thin one over all of them.

Feichtenhofer et al., ICCV 2019, https://arxiv.org/abs/1812.03982, section 3 and table 1; lateral
connections are the paper's time-strided convolutions. As in the authors' released code:

- the clip holds the Fast frames, and the Slow pathway takes ``alpha`` times fewer of them, evenly
  spread with both ends included, not every ``alpha``-th;
- the lateral convolution spans 5 frames as in the paper, or 7 in the released R50 8x8 model;
- the lateral output has batch norm and ReLU, and twice the Fast channels.

Differences: ``width``, ``depths`` and the ratios are free; the two pathways leave ``maps`` as one
tensor, the Fast one averaged over each ``alpha`` frames, so that the mean over its cells is the
paper's pooling of each pathway over all its own frames.

Tensor suffixes: B clips, C channels, T frames, H and W pixels; T', H', W' of a map.
"""

from collections import OrderedDict
from typing import Any, Literal, Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from vidssl.backbones import Encoder, takes_clips
from vidssl.backbones import _residual as residual


class Config(residual.ResNetConfig):
    """A SlowFast ResNet-50 8x8 by default: 32 Fast frames 2 raw frames apart, 8 of them Slow.

    ``width``, ``non_local`` and its positions are the Slow pathway's; the rest is common to both.
    """

    name: Literal["slowfast"] = "slowfast"
    frames: PositiveInt = 32
    stride: PositiveInt = 2
    beta_inverse: PositiveInt = 8
    """How many times thinner the Fast pathway is."""
    alpha: PositiveInt = 4
    """How many times fewer frames the Slow pathway takes."""
    fusion_kernel: Literal[5, 7] = 7
    """Frames that a lateral convolution spans."""
    slow_temporal_kernels: residual.Kernels = (1, 1, 1, 3, 3)
    """Of the stem and of res2 to res5, in frames."""
    fast_temporal_kernels: residual.Kernels = (5, 3, 3, 3, 3)
    slow_temporal_blocks: residual.Counts | None = None
    """How many blocks of each stage, the first ones, have its temporal kernel; all if null."""
    fast_temporal_blocks: residual.Counts | None = None

    @model_validator(mode="after")
    def _ratios_and_blocks_fit(self) -> Self:
        if self.width % self.beta_inverse:
            raise ValueError(
                f"width {self.width} is not a multiple of beta_inverse {self.beta_inverse}"
            )
        for key in ("slow_temporal_blocks", "fast_temporal_blocks"):
            residual.require_blocks(key, getattr(self, key), self.depths)
        if self.frames % self.alpha:
            raise ValueError(f"frames {self.frames} is not a multiple of alpha {self.alpha}")
        return self

    def frames_in(self, stage: int) -> int:
        """Return the Slow pathway's frames, the same in all stages."""
        return max(1, self.frames // self.alpha)  # where alpha is too large, that is told

    def network(self) -> "SlowFast":
        """Return the encoder with fresh weights."""
        return SlowFast(self)

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        return {
            **self.shared_key(),
            "beta_inverse": self.beta_inverse,
            "fusion_kernel": self.fusion_kernel,
            "slow_temporal_kernels": list(self.slow_kernels_by_block()),
            "fast_temporal_kernels": list(self.fast_kernels_by_block()),
        }

    def slow_kernels_by_block(self) -> tuple[int, list[list[int]]]:
        """Return the Slow temporal kernels: the stem's, then one list a stage with one a block."""
        return residual.kernels_by_block(
            self.slow_temporal_kernels, self.depths, self.slow_temporal_blocks
        )

    def fast_kernels_by_block(self) -> tuple[int, list[list[int]]]:
        """Return the Fast temporal kernels: the stem's, then one list a stage with one a block."""
        return residual.kernels_by_block(
            self.fast_temporal_kernels, self.depths, self.fast_temporal_blocks
        )


class SlowFast(Encoder):
    """Two pathways over one clip; after the stem and each stage but the last, Fast informs Slow."""

    def __init__(self, config: Config) -> None:
        """Make fresh weights."""
        super().__init__()
        fast_width = config.width // config.beta_inverse
        fast_outputs = [residual.outputs_of(config.block, fast_width, n) for n in range(1, 6)]
        slow = residual.Plan(
            config,
            config.slow_kernels_by_block(),
            config.width,
            extra=[2 * channels for channels in fast_outputs[:-1]],
            non_local=config.non_local,
        )
        fast = residual.Plan(config, config.fast_kernels_by_block(), fast_width)
        self.features = residual.outputs_of(config.block, config.width, 5) + fast_outputs[-1]
        self.spatial_stride = residual.spatial_stride(config)
        self.temporal_stride = config.alpha
        self.alpha = config.alpha
        self.slow, self.fast = residual.pathway(slow), residual.pathway(fast)
        self.laterals = nn.ModuleList(lateral(config, channels) for channels in fast_outputs[:-1])

    @takes_clips
    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return both pathways' maps as one, ``(B, F, T/alpha, H', W')``, Slow features first.

        H' and W' are H/32 and W/32, or H/16 and W/16 in the detection form. A cell holds one Slow
        frame's features and the mean of its ``alpha`` Fast frames'.

        Raises:
            ValueError: if T is not a multiple of ``alpha``.
        """
        slow, fast = self.pathways(clips_BCTHW)
        B, F, T, H, W = fast.shape
        fast = fast.reshape(B, F, T // self.alpha, self.alpha, H, W).mean(dim=3)
        return torch.cat([slow, fast], dim=1)

    def pathways(self, clips_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Slow map ``(B, Fs, T/alpha, H', W')`` and the Fast map ``(B, Ff, T, H', W')``.

        Raises:
            ValueError: if T is not a multiple of ``alpha``.
        """
        slow = clips_BCTHW[:, :, slow_frames(clips_BCTHW.shape[2], self.alpha, clips_BCTHW.device)]
        fast = clips_BCTHW
        *earlier, last = zip(self.slow, self.fast, strict=True)
        for (slow_stage, fast_stage), fuse in zip(earlier, self.laterals, strict=True):
            slow, fast = slow_stage(slow), fast_stage(fast)
            slow = torch.cat([slow, fuse(fast)], dim=1)
        slow_stage, fast_stage = last
        return slow_stage(slow), fast_stage(fast)


def slow_frames(frames: int, alpha: int, device: torch.device | None = None) -> Tensor:
    """Return which of ``frames`` the Slow pathway takes: ``frames // alpha`` indices, both ends in.

    In whole numbers, so that rounding cannot differ between devices.

    Raises:
        ValueError: if ``frames`` is not a multiple of ``alpha``.
    """
    if frames % alpha:
        raise ValueError(f"SlowFast needs a multiple of alpha = {alpha} frames, got {frames}")
    count = frames // alpha
    return torch.arange(count, device=device) * (frames - 1) // max(count - 1, 1)


def lateral(config: Config, channels: int) -> nn.Sequential:
    """Return ``(B, C, T, H, W) -> (B, 2 C, T/alpha, H, W)``, the Fast features for the Slow."""
    kernel, stride = (config.fusion_kernel, 1), (config.alpha, 1)
    return nn.Sequential(
        OrderedDict(
            conv=residual.conv(channels, 2 * channels, kernel, stride=stride),
            norm=config.norm.build(2 * channels),
            relu=nn.ReLU(inplace=True),
        )
    )
