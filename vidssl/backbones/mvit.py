"""MViT: a video transformer whose tokens become fewer and wider with depth.

Fan, Xiong, Mangalam, Li, Yan, Malik and Feichtenhofer, ICCV 2021, https://arxiv.org/abs/2104.11227,
section 3: MViT-B with learned pooling, 16 blocks, separate embeddings of place and of time. The
network is pytorchvideo's, with the settings of its published 16x4 and 32x3 models.

Two things to know:

- Published classifiers read the class token, so that is this encoder's pooled feature; the map
  holds the other tokens, whose mean is something else. Whoever pools a map (a detection head, a
  feature bank) does not read what those classifiers read.
- The embeddings of position have a fixed size. The encoder takes clips of ``frames`` frames of
  ``crop_px`` x ``crop_px`` pixels and no others, and both decide the shapes of weights. Key frames
  are tested and put into banks as whole pictures, so that of these only square ones fit.

Difference from the paper, which trains with stochastic depth: pytorchvideo's settings leave it at
0, and so does ``drop_path`` here unless it is set.

Weights have pytorchvideo's names under ``trunk.``; its ``head`` is left out.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, N tokens; T', H', W' of a map.
"""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from vidssl.backbones import BackboneConfig, Encoder, takes_clips
from vidssl.backbones._adapter import importing_pytorchvideo, with_clip_of
from vidssl.errors import RecipeError

CLIPS = {"b16x4": (16, 4), "b32x3": (32, 3)}
FEATURES = 768
CELL_PX, CELL_FRAMES = 32, 2
# (block, factor): before it, width and heads double; (block, t, h, w): it strides its queries.
WIDER = [[1, 2.0], [3, 2.0], [14, 2.0]]
SMALLER = [[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]]


class Config(BackboneConfig):
    """MViT-B 16x4 (16 frames, 4 raw frames apart) at 224 pixels by default."""

    name: Literal["mvit"] = "mvit"
    frames: PositiveInt = 16
    stride: PositiveInt = 4
    size: Literal["b16x4", "b32x3"] = "b16x4"
    """Gives frames and stride where they are left out."""
    crop_px: PositiveInt = 224
    """Side of the clips that it takes, a multiple of 32."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How often the last block is skipped in training; earlier blocks less, down to never."""

    @model_validator(mode="before")
    @classmethod
    def _clip_of_size(cls, options: Any) -> Any:
        return with_clip_of(options, CLIPS, "b16x4")

    @model_validator(mode="after")
    def _whole_cells(self) -> Self:
        if self.crop_px % CELL_PX:
            raise ValueError(f"crop_px {self.crop_px} is not a multiple of {CELL_PX}")
        if self.frames % CELL_FRAMES:
            raise ValueError(f"frames {self.frames} is not a multiple of {CELL_FRAMES}")
        return self

    def network(self) -> "MViT":
        """Return the encoder with fresh weights."""
        return MViT(self)

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights.

        Frames and pixels are among them: there is one embedding of position for each.
        """
        return {"name": self.name, "frames": self.frames, "crop_px": self.crop_px}

    def require_side(self, side_px: int | None, key: str) -> None:
        """Refuse all clips but those of ``crop_px``.

        Raises:
            ValueError: if they have another size.
        """
        if side_px != self.crop_px:
            found = "whole pictures" if side_px is None else f"{side_px} pixels"
            raise ValueError(
                f"{key}: this mvit takes clips of backbone.crop_px = {self.crop_px} pixels a side, "
                f"found {found}"
            )


class MViT(Encoder):
    """Tokens with a class token in front; one size of clip."""

    def __init__(self, config: Config) -> None:
        """Make fresh weights."""
        super().__init__()
        self.features = FEATURES
        self.spatial_stride = CELL_PX
        self.temporal_stride = CELL_FRAMES
        self.clip = (config.frames, config.crop_px, config.crop_px)
        self.trunk = network(config)

    @takes_clips
    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the class token, ``(B, F)``: what published classifiers read, not the map's mean.

        Raises:
            RecipeError: if the clips are not of the size that the encoder was built for.
        """
        return self.tokens(clips_BCTHW)[:, 0]

    @takes_clips
    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return all tokens but the class token, ``(B, F, T/2, H/32, W/32)``.

        Raises:
            RecipeError: if the clips are not of the size that the encoder was built for.
        """
        tokens_BNF = self.tokens(clips_BCTHW)[:, 1:]
        frames, height, width = self.clip
        grid = (frames // CELL_FRAMES, height // CELL_PX, width // CELL_PX)
        return tokens_BNF.transpose(1, 2).reshape(-1, self.features, *grid)

    def tokens(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the last block's tokens after their norm, ``(B, N, F)``, the class token first.

        Raises:
            RecipeError: if the clips are not of the size that the encoder was built for.
        """
        if tuple(clips_BCTHW.shape[2:]) != self.clip:
            raise RecipeError(
                f"this MViT's embeddings of position are for {_size(self.clip)}, "
                f"got {_size(clips_BCTHW.shape[2:])}"
            )
        tokens_BNF: Tensor = self.trunk(clips_BCTHW)
        return tokens_BNF


def network(config: Config) -> nn.Module:
    """Return pytorchvideo's MViT-B without its head, on the default device."""
    with importing_pytorchvideo():
        from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers
    # Its builder reads numbers out of small tensors, which the meta device does not have.
    with torch.device("cpu"):
        trunk: nn.Module = create_multiscale_vision_transformers(
            spatial_size=config.crop_px,
            temporal_size=config.frames,
            embed_dim_mul=WIDER,
            atten_head_mul=WIDER,
            pool_q_stride_size=SMALLER,
            pool_kv_stride_adaptive=[1, 8, 8],
            pool_kvq_kernel=[3, 3, 3],
            droppath_rate_block=config.drop_path,
            head=None,
        )
    return trunk.to(torch.get_default_device())


def _size(clip: tuple[int, ...] | torch.Size) -> str:
    frames, height, width = clip
    return f"clips of {frames} frames of {height}x{width} pixels"
