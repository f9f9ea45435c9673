"""FBO-avg: the mean of the window's rows.

Wu et al., "Long-Term Feature Banks for Detailed Video Understanding", CVPR 2019,
https://arxiv.org/abs/1812.05038, section 3.3. Nothing is learnt here: the classifier sees the
box's own feature and the mean.

Difference, off by default: ``masked`` divides by the number of rows that are there, where the
authors' code divides by the size of the window, absent rows taking part as zeros.

Tensor suffixes: N boxes, Q rows of a window, F features.
"""

from typing import Literal

from torch import Tensor

from vidssl.features.operators import BankOperator, OperatorConfig


class Config(OperatorConfig):
    """The options of FBO-avg."""

    name: Literal["fbo_avg"] = "fbo_avg"
    masked: bool = False
    """Take the mean of the rows that are there; in the paper absent ones take part as zeros."""

    def build(self, short_dim: int, bank_dim: int) -> "FBOAverage":
        """Build the operator, which has no weights."""
        return FBOAverage(bank_dim, masked=self.masked)


class FBOAverage(BankOperator):
    """The mean over a window."""

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
            return bank_NQF.mean(dim=1)
        total_NF = (bank_NQF * mask_NQ[..., None]).sum(dim=1)
        return total_NF / mask_NQ.sum(dim=1, keepdim=True).clamp(min=1)
