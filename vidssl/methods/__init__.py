"""Self-supervised methods: one file each, and the contract that they share.

A method is a module whose ``forward`` is the whole training step, so that DDP can wrap it. It is
chosen by its file's name; adding one means adding ``vidssl/methods/NAME.py`` with a ``Config``.

Tensor suffixes: B clips, C channels, T frames, H and W pixels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Size, Tensor, nn

from vidssl.backbones import Encoder
from vidssl.nn.step import StepOutput
from vidssl.section import Section

__all__ = ["Batch", "MethodConfig", "SSLMethod", "StepOutput"]


@dataclass(frozen=True)
class Batch:
    """One step's input: ``views`` holds V tensors ``(B, C, T, H, W)``, float, normalised.

    All that a method draws at random comes from ``step`` and ``seed``, which are the same on every
    process, or from ``seeds``, which belong to the clips: so a resume is exact, and what happens to
    a clip does not depend on the number of processes.
    """

    views: tuple[Tensor, ...]
    step: int = 0
    """The step of the run, from 0."""
    seed: int = 0
    """The run's."""
    seeds: tuple[int, ...] = ()
    """One a sample, B of them."""
    times_s: tuple[Tensor, ...] = ()
    """When the frames of each view stand in their video, V tensors ``(B, T)``, float64."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """What a pretext task asks for, each ``(B, ...)``; empty for most methods."""
    watched: bool = True
    """Whether this step's scalars are logged; what is costly is left out otherwise."""


class SSLMethod(nn.Module, ABC):
    """A self-supervised training step around an encoder."""

    num_views: int
    encoder: Encoder
    collapse_causes: ClassVar[str] = "a learning rate that is too high (a lower optim.lr helps)"
    """What makes this method give all clips one feature, for whoever is told that it does."""

    @abstractmethod
    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of one batch and the scalars to log."""

    def after_step(self, progress: float) -> None:
        """Update what is not trained by gradient; ``progress`` runs over [0, 1]."""


class MethodConfig(Section, ABC):
    """The options of one method."""

    name: Any
    starts: ClassVar[tuple[str, ...]] = ("random", "interval")
    """The ways of sampling clips, ``sampling.starts``, that the method can be trained on."""

    @abstractmethod
    def build(self, encoder: Encoder) -> SSLMethod:
        """Return the method around ``encoder``.

        Raises:
            RecipeError: if the encoder does not give what the method needs.
        """

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with the pretext task's pixels and targets; on the batch's device.

        A pure function of the batch: the command that shows samples calls it too.
        """
        return batch

    def people(self) -> int:
        """Return how many boxes of people each view brings along, as the targets ``boxes`` and
        ``boxes_valid``; 0 for most methods."""
        return 0

    def require_map(self, clips: Size, map_: Size) -> None:
        """Refuse clips ``(B, 3, T, H, W)``, or an encoder's map of them ``(B, F, T', H', W')``.

        Asked before any video is looked at; shapes are all that a method can be wrong about.

        Raises:
            RecipeError: if there is too little of them for what the method compares.
        """

    def require_batch(self, clips: int) -> None:
        """Refuse a number of clips a step, over all processes, that the loss is not defined for.

        Raises:
            ValueError: if it cannot be trained on so few.
        """
