"""Self-supervised methods: one file each, and the contract that they share.

A method is a module whose ``forward`` is the whole training step, so that DDP can wrap it. It is
chosen by its file's name; adding one means adding ``vidssl/methods/NAME.py`` with a ``Config``.

Tensor suffixes: B clips, C channels, T frames, H and W pixels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.nn.step import StepOutput
from vidssl.section import Section

__all__ = ["Batch", "MethodConfig", "SSLMethod", "StepOutput"]


@dataclass(frozen=True)
class Batch:
    """One step's input: ``views`` holds V tensors ``(B, C, T, H, W)``, float, normalised."""

    views: tuple[Tensor, ...]
    step: int = 0
    """The step of the run, from 0: seeds whatever the method draws, so that a resume is exact."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """What a pretext task asks for, each ``(B, ...)``; empty for most methods."""


class SSLMethod(nn.Module, ABC):
    """A self-supervised training step around an encoder."""

    num_views: ClassVar[int]
    encoder: Encoder

    @abstractmethod
    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of one batch and the scalars to log."""

    def after_step(self, progress: float) -> None:
        """Update what is not trained by gradient; ``progress`` runs over [0, 1]."""


class MethodConfig(Section, ABC):
    """The options of one method."""

    name: Any

    @abstractmethod
    def build(self, encoder: Encoder) -> SSLMethod:
        """Return the method around ``encoder``."""
