"""3D ResNet-RS: the plain 3D ResNet with a deeper stem, gated channels and stochastic depth.

Du et al., "Revisiting 3D ResNets for Video Recognition", 2021, https://arxiv.org/abs/2109.01696,
as released with TensorFlow's models: self-gating in the last block of each stage, then
squeeze-and-excitation and stochastic depth in every block, behind its last norm; a stage's blocks
share one rate of 0.04, 0.06, 0.08 and 0.10.

Where sources disagree on self-gating ("every block" in a summary), the code is followed, and
``self_gating`` has the other. Differences: padding is symmetric, where TensorFlow's "same" puts
more of it behind; fresh weights are those of the other families here. Scores are published of
weights averaged over the training (decay 0.9999) with the norms' statistics averaged alike, the
norms' own momentum being 1 (theirs: 0): ``norm: {momentum: 1.0}`` and
``vidssl.nn.momentum.follow(..., buffers=True)`` make that together, and neither alone does.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from vidssl.backbones import _residual as residual

Rates = tuple[
    Annotated[float, Field(ge=0, lt=1)],
    Annotated[float, Field(ge=0, lt=1)],
    Annotated[float, Field(ge=0, lt=1)],
    Annotated[float, Field(ge=0, lt=1)],
]

DEPTHS: dict[int, residual.Depths] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    300: (4, 36, 54, 4),
    350: (4, 36, 72, 4),
}
"""Blocks in res2 to res5 of the published depths."""


class Config(residual.SingleConfig):
    """A 3D ResNet-RS-50 over 32 frames, 2 raw frames apart, by default."""

    name: Literal["resnet_rs"] = "resnet_rs"
    frames: PositiveInt = 32
    stride: PositiveInt = 2
    temporal_kernels: residual.Kernels = (5, 1, 1, 3, 3)
    self_gating: residual.Gate = "last"
    """Which blocks of a stage have a self-gate."""
    squeeze_excitation: bool = True
    stochastic_depth: Rates = (0.04, 0.06, 0.08, 0.10)
    """Probability of leaving a block out while training, one for each of res2 to res5."""

    @model_validator(mode="after")
    def _stages_have_the_rates(self) -> Self:
        if self.drop_path:
            raise ValueError(
                f"drop_path {self.drop_path}: resnet_rs has a rate for each stage instead; "
                "set stochastic_depth"
            )
        return self

    def plan(self) -> residual.Plan:
        """Return the pathway: half as many frames out as in, rounded up."""
        return residual.Plan(
            self,
            self.kernels_by_block(),
            self.width,
            stem="deep",
            stem_stride=2,
            gate=self.self_gating,
            excite=self.squeeze_excitation,
            drop_path=self.stochastic_depth,
            non_local=self.non_local,
        )

    def geometry_free(self) -> dict[str, Any]:
        """Return the options that decide names and shapes of weights."""
        gates = {"self_gating": self.self_gating, "squeeze_excitation": self.squeeze_excitation}
        return {**super().geometry_free(), **gates}
