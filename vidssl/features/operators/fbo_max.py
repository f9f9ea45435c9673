"""FBO-max: the greatest value of each feature over the window's rows.

Wu et al., "Long-Term Feature Banks for Detailed Video Understanding", CVPR 2019,
https://arxiv.org/abs/1812.05038, section 3.3. Nothing is learnt here: the classifier sees the
box's own feature and the maximum.

Difference, off by default: ``masked`` leaves absent rows out, where in the authors' code they take
part as zeros, so that no feature falls below zero while a row is absent. (Features after a ReLU
never do.)

Tensor suffixes: N boxes, Q rows of a window, F features.
"""

from typing import Literal

import torch
from torch import Tensor

from vidssl.features.operators import BankOperator, OperatorConfig


class Config(OperatorConfig):
    """The options of FBO-max."""

    name: Literal["fbo_max"] = "fbo_max"
    masked: bool = False
    """Take the maximum of the rows that are there; in the paper absent ones take part as zeros."""

    def build(self, short_dim: int, bank_dim: int) -> "FBOMax":
        """Build the operator, which has no weights."""
        return FBOMax(bank_dim, masked=self.masked)


class FBOMax(BankOperator):
    """The maximum over a window."""

    def __init__(self, bank_dim: int, *, masked: bool) -> None:
        """Answer with as many features as the bank has."""
        super().__init__()
        self.features = bank_dim
        self.masked = masked

    def forward(
        self, short_NF: Tensor, bank_NQF: Tensor, mask_NQ: Tensor, offset_NQ: Tensor
    ) -> Tensor:
        """Return ``(N, F)``; zero for a window without rows."""
        if not self.masked:
            return bank_NQF.amax(dim=1)
        lowest = torch.finfo(bank_NQF.dtype).min  # -inf would be NaN times the mask below
        greatest_NF = bank_NQF.masked_fill(~mask_NQ[..., None], lowest).amax(dim=1)
        return greatest_NF * mask_NQ.any(dim=1, keepdim=True)
