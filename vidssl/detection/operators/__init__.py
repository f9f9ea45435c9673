"""Feature-bank operators: one file each, and the contract that they share.

An operator relates the feature of a box to what the bank remembers of the same video. It is chosen
by its file's name; adding one means adding ``vidssl/detection/operators/NAME.py`` with a
``Config``.

Tensor suffixes: N boxes, Q rows of a window, F features, D features of the operator's answer.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor, nn

from vidssl.features import WindowConfig
from vidssl.section import Section, choose


class BankOperator(nn.Module, ABC):
    """What a box learns from its window of the bank; ``features`` is D."""

    features: int

    @abstractmethod
    def forward(
        self, short_NF: Tensor, bank_NQF: Tensor, mask_NQ: Tensor, offset_NQ: Tensor
    ) -> Tensor:
        """Return ``(N, D)``.

        ``short_NF`` is the box's own feature, ``bank_NQF`` the window's rows (their F is the
        bank's), ``mask_NQ`` true where there is a row, ``offset_NQ`` the row's time less the box's,
        in seconds. Rows that are not there are zero in all three.
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
