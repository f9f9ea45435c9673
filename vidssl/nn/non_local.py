"""Non-local blocks: every position of a feature map looks at every other.

Wang et al., "Non-local Neural Networks", CVPR 2018, https://arxiv.org/abs/1711.07971, sections 3.2
and 3.3. As in the authors' later code (PySlowFast): the embedded Gaussian is scaled by D^-0.5, keys
and values may be pooled, the norm behind the output starts at zero, so that a fresh block is the
identity, and convolutions start Kaiming normal. ``frames_per_group`` is the long-term feature
bank's form (Wu et al., CVPR 2019): attention inside groups of that many frames.

Tensor suffixes: B maps, C channels, T frames, H and W cells; D inner channels, P positions that
ask, Q positions that are asked, T*H*W of them or fewer after the pool.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from vidssl.errors import RecipeError
from vidssl.nn.norms import NormConfig
from vidssl.section import Section

Similarity = Literal["embedded_gaussian", "dot_product", "gaussian", "concatenation"]


class NonLocalConfig(Section):
    """Where non-local blocks stand, by the number of the block before them, and how they compare.

    The published five are ``res3: [1, 3], res4: [1, 3, 5]`` in a ResNet-50; SlowFast R101 has
    ``res4: [6, 13, 20]`` with ``dot_product`` and a pool of (2, 2, 2).
    """

    res2: tuple[int, ...] = ()
    res3: tuple[int, ...] = ()
    res4: tuple[int, ...] = ()
    res5: tuple[int, ...] = ()
    similarity: Similarity = "embedded_gaussian"
    pool: tuple[PositiveInt, PositiveInt, PositiveInt] | None = (1, 2, 2)
    """Frames, rows and columns of keys and values that become one; null keeps all."""
    frames_per_group: dict[Literal["res2", "res3", "res4", "res5"], PositiveInt] | None = None
    """Attention inside groups of this many frames, by stage; all frames where nothing is said."""

    def after(self, stage: int) -> tuple[int, ...]:
        """Return the blocks of stage 2 to 5 that a non-local block follows."""
        return (self.res2, self.res3, self.res4, self.res5)[stage - 2]

    def group_of(self, stage: int) -> int | None:
        """Return how many frames of stage 2 to 5 attend to each other; None for all."""
        groups: dict[str, int] = {name: n for name, n in (self.frames_per_group or {}).items()}
        return groups.get(f"res{stage}")

    def require_fit(self, stage: int, frames: int) -> None:
        """Refuse what does not fit the ``frames`` frames of stage 2 to 5.

        Raises:
            ValueError: if a block stands twice, or groups do not divide the frames, stand where no
                block is, or have fewer frames than the pool.
        """
        group, after = self.group_of(stage), self.after(stage)
        if twice := [block for block in set(after) if after.count(block) > 1]:
            raise ValueError(f"non_local.res{stage}: block {min(twice)} stands twice")
        if group and not after:
            raise ValueError(
                f"non_local.frames_per_group.res{stage}: no block stands in res{stage}"
            )
        if group and frames % group:
            raise ValueError(
                f"non_local.frames_per_group.res{stage}: {group} does not divide the stage's "
                f"{frames} frames"
            )
        asked = group or frames
        if self.pool and after and self.pool[0] > asked:
            raise ValueError(
                f"non_local.pool: {self.pool[0]} frames, but res{stage} compares only {asked}"
            )

    def build(self, stage: int, channels: int, norm: NormConfig) -> "NonLocal":
        """Return a fresh block for stage 2 to 5, whose maps have ``channels`` channels."""
        return NonLocal(
            channels,
            similarity=self.similarity,
            pool=self.pool,
            frames_per_group=self.group_of(stage),
            norm=norm,
        )


class NonLocal(nn.Module):
    """``x + norm(out(attention))``, ``(B, C, T, H, W)`` in and out, whatever T, H and W are."""

    def __init__(
        self,
        channels: int,
        *,
        similarity: Similarity = "embedded_gaussian",
        pool: tuple[int, int, int] | None = (1, 2, 2),
        frames_per_group: int | None = None,
        norm: NormConfig | None = None,
    ) -> None:
        """Make fresh weights, by default with batch norm; the inner width D is half of C."""
        super().__init__()
        inner = max(1, channels // 2)
        self.similarity = similarity
        self.frames_per_group = frames_per_group
        self.pool = nn.MaxPool3d(pool, stride=pool) if pool else nn.Identity()
        self._pooled_by = pool
        # The Gaussian compares the features as they are.
        compares = similarity != "gaussian"
        self.theta = pointwise(channels, inner) if compares else None
        self.phi = pointwise(channels, inner) if compares else None
        self.g = pointwise(channels, inner)
        self.join = nn.Linear(2 * inner, 1, bias=False) if similarity == "concatenation" else None
        self.out = pointwise(inner, channels)
        self.norm = (norm or NormConfig()).build(channels, gamma=0.0)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the map with what its positions learned of each other.

        Raises:
            ValueError: if T is not a multiple of ``frames_per_group``.
            RecipeError: if the map is smaller than the pool.
        """
        grouped = self._groups(x_BCTHW)
        query_BPD, key_BQD, value_BQD = self._parts(grouped)
        if self.similarity in {"embedded_gaussian", "gaussian"}:
            # As one head: the fused kernels, and ONNX, take four dimensions only.
            query, key, value = (part[:, None] for part in (query_BPD, key_BQD, value_BQD))
            scale = self._scale(query_BPD)
            y_BPD = F.scaled_dot_product_attention(query, key, value, scale=scale)[:, 0]
        else:
            y_BPD = self._weights(query_BPD, key_BQD) @ value_BQD
        y = y_BPD.mT.reshape(grouped.shape[0], -1, *grouped.shape[2:])
        return x_BCTHW + self._ungroup(self.norm(self.out(y)), x_BCTHW)

    def attention(self, x_BCTHW: Tensor) -> Tensor:
        """Return how much each position listens to each other one, ``(B, P, Q)``.

        With groups of frames, B counts the groups of all maps.
        """
        query_BPD, key_BQD, _ = self._parts(self._groups(x_BCTHW))
        return self._weights(query_BPD, key_BQD)

    def _parts(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = self._pooled_by
        if sizes and any(n < size for n, size in zip(x_BCTHW.shape[2:], sizes, strict=True)):
            found = "x".join(str(n) for n in x_BCTHW.shape[2:])
            raise RecipeError(
                f"non_local.pool: {sizes} does not fit into a map of {found}; "
                "larger clips do, or pool: null"
            )
        asked = self.pool(x_BCTHW)
        query = x_BCTHW if self.theta is None else self.theta(x_BCTHW)
        key = asked if self.phi is None else self.phi(asked)
        return positions(query), positions(key), positions(self.g(asked))

    def _weights(self, query_BPD: Tensor, key_BQD: Tensor) -> Tensor:
        if self.join is not None:
            own, other = self.join.weight.chunk(2, dim=1)
            return F.relu(query_BPD @ own.mT + (key_BQD @ other.mT).mT) / key_BQD.shape[1]
        similar_BPQ = query_BPD @ key_BQD.mT
        if self.similarity == "dot_product":
            return similar_BPQ / key_BQD.shape[1]
        return torch.softmax(similar_BPQ * self._scale(query_BPD), dim=2)

    def _scale(self, query_BPD: Tensor) -> float:
        return 1.0 if self.theta is None else float(query_BPD.shape[2]) ** -0.5

    def _groups(self, x_BCTHW: Tensor) -> Tensor:
        """Return groups of frames as maps of their own, or the maps as they are."""
        length = self.frames_per_group
        if length is None:
            return x_BCTHW
        B, C, T, H, W = x_BCTHW.shape
        if T % length:
            raise ValueError(f"groups of {length} frames need a multiple of them, got {T} frames")
        groups = x_BCTHW.reshape(B, C, T // length, length, H, W).transpose(1, 2)
        return groups.reshape(B * (T // length), C, length, H, W)

    def _ungroup(self, y: Tensor, x_BCTHW: Tensor) -> Tensor:
        if self.frames_per_group is None:
            return y
        B, C, T, H, W = x_BCTHW.shape
        groups = y.reshape(B, T // self.frames_per_group, C, self.frames_per_group, H, W)
        return groups.transpose(1, 2).reshape(B, C, T, H, W)


def pointwise(inputs: int, outputs: int) -> nn.Conv3d:
    """Return a 1x1x1 convolution with bias, Kaiming normal by its fan-out."""
    layer = nn.Conv3d(inputs, outputs, 1)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def positions(map_BCTHW: Tensor) -> Tensor:
    """Return ``(B, C, T, H, W)`` as ``(B, T*H*W, C)``."""
    return map_BCTHW.flatten(2).mT
