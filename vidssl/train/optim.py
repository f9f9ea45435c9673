"""The optimizer and the learning rate as a function of progress."""

from typing import Annotated, Literal, Self

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import nn, optim

from vidssl.section import Section


class OptimConfig(Section):
    """Optimizer, learning rate and length of a training."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat
    """Peak learning rate, for the global batch as it is given here; never scaled silently."""
    batch: PositiveInt
    """Samples a step over all processes."""
    steps: PositiveInt | None = None
    """Length of the training; give either this or ``epochs``."""
    epochs: PositiveFloat | None = None
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    """Not applied to biases and normalisation, as in the SlowFast configs."""
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the training in which the rate rises linearly from a hundredth of its peak."""
    clip_grad_norm: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give the length of the training as steps or as epochs, not both")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def total_steps(self, samples: int) -> int:
        """Return the steps of the whole training on ``samples`` samples; at least one."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * samples / self.batch))


def schedule(config: OptimConfig) -> ParamScheduler:
    """Return the learning rate over progress in [0, 1).

    The cosine runs over the whole training; the warm-up replaces its beginning and ends at the
    cosine's own value there, as in SlowFast.
    """
    main: ParamScheduler = ConstantParamScheduler(config.lr)
    if config.schedule == "cosine":
        main = CosineParamScheduler(config.lr, 0.0)
    if not config.warmup:
        return main
    rise = LinearParamScheduler(config.lr / 100, main(config.warmup))
    return CompositeParamScheduler(
        [rise, main], [config.warmup, 1 - config.warmup], ["rescaled", "fixed"]
    )


def optimizer(module: nn.Module, config: OptimConfig) -> optim.Optimizer:
    """Return the optimizer over what takes gradient, without decay on vectors and scalars.

    Raises:
        ValueError: if nothing takes gradient.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing to train: every parameter is frozen")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # On a GPU one kernel updates all parameters.
    fused = all(p.is_cuda for p in trained) or None
    if config.optimizer == "adamw":
        return optim.AdamW(groups, lr=config.lr, fused=fused)
    return optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
    )
