"""What one training step returns, whether of a self-supervised method or of a detector."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class StepOutput:
    """The loss to differentiate, and detached scalars to log under their names."""

    loss: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)
