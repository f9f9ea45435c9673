"""What a box asks the clip around it: one file each, and the contract that they share.

Where a bank operator looks at the rest of the video, this looks at the rest of the clip: at other
people, at things, at the scene. It is chosen by its file's name; adding one means adding
``vidssl/detection/context/NAME.py`` with a ``Config``.

Tensor suffixes: B clips, N boxes of all clips, F features of the map, D features of the answer;
T', H', W' of the map.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor, nn

from vidssl.section import Section, choose

Pool = Callable[[Tensor], Tensor]
"""Pools any map ``(B, F, T', H', W')`` over the boxes, ``(N, F)``, each channel by itself."""


class ClipContext(nn.Module, ABC):
    """What a box is in its clip; ``features`` is D."""

    features: int

    @abstractmethod
    def forward(self, short_NF: Tensor, maps_BFTHW: Tensor, clip_N: Tensor, pool: Pool) -> Tensor:
        """Return ``(N, D)``, which is classified in place of the box's own feature.

        ``short_NF`` is that feature, ``maps_BFTHW`` the maps it was pooled from; ``clip_N`` says of
        which clip a box is.
        """


class ContextConfig(Section, ABC):
    """The options of one context."""

    name: Any

    @abstractmethod
    def build(self, features: int) -> ClipContext:
        """Return the context with fresh weights, for maps of so many features."""


AnyContext = Annotated[SerializeAsAny[ContextConfig], BeforeValidator(partial(choose, __name__))]
"""The field of a config that holds any context's config, read by its name and written in full."""
