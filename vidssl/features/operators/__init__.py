"""Feature-bank operators: one file each, and the contract that they share.

An operator relates the feature of a box, or of a clip, to what the bank remembers of the same
video. It is chosen by its file's name; adding one means adding
``vidssl/features/operators/NAME.py`` with a ``Config``. Detection and recognition both use them.

Tensor suffixes: B clips, N boxes or clips that ask, Q rows of a window, F features, D features of
the operator's answer.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor, nn

from vidssl.features import WindowConfig
from vidssl.section import Section, choose


@dataclass(frozen=True)
class BankWindow:
    """What the moment of each clip sees of the bank; all that is in the clip sees the same.

    ``features`` is ``(B, Q, F)``; ``mask`` ``(B, Q)`` is true where there is a row; ``offset_s``
    ``(B, Q)`` is the row's time less the moment's.
    """

    features: Tensor
    mask: Tensor
    offset_s: Tensor


class BankOperator(nn.Module, ABC):
    """What a box or clip learns from its window of the bank; ``features`` is D."""

    features: int

    @abstractmethod
    def forward(
        self, short_NF: Tensor, bank_NQF: Tensor, mask_NQ: Tensor, offset_NQ: Tensor
    ) -> Tensor:
        """Return ``(N, D)``.

        ``short_NF`` is the own feature of what asks, ``bank_NQF`` the window's rows (their F is the
        bank's), ``mask_NQ`` true where there is a row, ``offset_NQ`` the row's time less that of
        what asks, in seconds. Rows that are not there are zero in all three.
        """


class OperatorConfig(Section, ABC):
    """The options of one operator, and the window that it looks at."""

    name: Any
    window: WindowConfig = WindowConfig()

    @abstractmethod
    def build(self, short_dim: int, bank_dim: int) -> BankOperator:
        """Return the operator with fresh weights."""


AnyOperator = Annotated[SerializeAsAny[OperatorConfig], BeforeValidator(partial(choose, __name__))]
"""The field of a config that holds any operator's config, read by its name and written in full."""
