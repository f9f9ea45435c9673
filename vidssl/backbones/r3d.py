"""R3D: a ResNet that halves time in its stem, and for ConST-CL ends in two branches.

The plain 3D ResNet of the released TensorFlow models (the R3D-50 baseline of Du et al., "Revisiting
3D ResNets for Video Recognition", 2021, https://arxiv.org/abs/2109.01696), and the "ResNet3DY" of
Yuan et al., ConST-CL, CVPR 2022, https://arxiv.org/abs/2112.05181, which splits after res4: a
global and a local res5 with weights of their own, both fed by the same res4.

Differences: padding is symmetric, where TensorFlow's "same" puts more of it behind. The paper does
not say which branch a detector takes over, so ``maps_from`` chooses.

Tensor suffixes: B clips, C channels, T frames, H and W pixels; T', H', W' of a map.
"""

from typing import Any, Literal, Self

from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from vidssl.backbones import Encoder, takes_clips
from vidssl.backbones import _residual as residual


class Config(residual.SingleConfig):
    """An R3D-50 over 16 frames, 2 raw frames apart, by default."""

    name: Literal["r3d"] = "r3d"
    frames: PositiveInt = 16
    stride: PositiveInt = 2
    temporal_kernels: residual.Kernels = (5, 1, 1, 3, 3)
    local_branch: bool = False
    """Add ConST-CL's second res5."""
    maps_from: Literal["global", "local"] = "global"
    """The branch whose map stands for the encoder where only one is asked for."""

    @model_validator(mode="after")
    def _branch_is_there(self) -> Self:
        if self.maps_from == "local" and not self.local_branch:
            raise ValueError("maps_from: local needs local_branch: true")
        return self

    def plan(self) -> residual.Plan:
        """Return the pathway of the global branch: half as many frames out as in, rounded up."""
        return residual.Plan(
            self, self.kernels_by_block(), self.width, stem_stride=2, non_local=self.non_local
        )

    def network(self) -> "R3D":
        """Return the encoder with fresh weights."""
        return R3D(self)

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        return {**super().geometry_free(), "local_branch": self.local_branch}


class R3D(Encoder):
    """One trunk; with a local branch a second res5 on its res4."""

    def __init__(self, config: Config) -> None:
        """Make fresh weights."""
        super().__init__()
        plan = config.plan()
        self.features = residual.outputs_of(config.block, config.width, 5)
        self.spatial_stride = residual.spatial_stride(config)
        self.temporal_stride = plan.stem_stride
        self.spares_weights = config.local_branch
        self.maps_from = config.maps_from
        self.trunk = residual.pathway(plan)
        self.local: nn.Sequential | None = None
        if config.local_branch:
            self.local = residual.stage(plan, 5)

    @takes_clips
    def maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the map of one branch, ``(B, F, T/2, H/32, W/32)``; H/16, W/16 for detection."""
        map_: Tensor
        if self.maps_from == "local" and self.local is not None:
            # The global res5 is not run: its norms would count what it is not trained on.
            map_ = self.local(self.trunk[:-1](clips_BCTHW))
        else:
            map_ = self.trunk(clips_BCTHW)
        return map_

    @takes_clips
    def global_maps(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the global branch's map, whichever ``maps_from`` names."""
        map_: Tensor = self.trunk(clips_BCTHW)
        return map_

    @takes_clips
    def branches(self, clips_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the global and the local map, each as :meth:`maps` gives one.

        Raises:
            ValueError: if the encoder has no local branch.
        """
        if self.local is None:
            raise ValueError("this encoder has no local branch; set local_branch: true")
        shared = self.trunk[:-1](clips_BCTHW)
        return self.trunk[-1](shared), self.local(shared)
