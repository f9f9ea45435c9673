"""The optimizer and the learning rate as a function of progress."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn, optim

from vidssl.section import Section


class OptimConfig(Section):
    """Optimizer, learning rate and length of a training."""

    optimizer: Literal["sgd", "adamw", "lars"] = "sgd"
    """``lars`` is for large batches: SGD whose matrices each step in proportion to their norm."""
    lr: PositiveFloat
    """Peak learning rate, for the global batch as it is given here; never scaled silently."""
    batch: PositiveInt
    """Samples a step over all processes."""
    steps: PositiveInt | None = None
    """Length of the training; give either this or ``epochs``."""
    epochs: PositiveFloat | None = None
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of ``sgd`` and ``lars``; ``adamw`` has betas of its own, 0.9 and 0.999."""
    nesterov: bool = False
    """Of ``sgd``."""
    trust: PositiveFloat = 0.001
    """Of ``lars``: a matrix's step at a rate of 1, as a share of the matrix's norm."""
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
        if self.nesterov and self.optimizer == "lars":
            raise ValueError("nesterov is for optimizer: sgd, found optimizer: lars")
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
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "lars":
        groups[0]["trust"] = config.trust
        return LARS(groups, lr=config.lr, momentum=config.momentum)
    # On a GPU one kernel updates all parameters.
    fused = all(p.is_cuda for p in trained) or None
    if config.optimizer == "adamw":
        return optim.AdamW(groups, lr=config.lr, fused=fused)
    return optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
    )


class LARS(optim.Optimizer):
    """SGD with momentum, each weight's step being ``trust`` of its own norm.

    You, Gitman and Ginsburg, 2017, https://arxiv.org/abs/1708.03888, as self-supervised methods
    use it: with ``d = gradient + weight_decay * w``, ``v`` becomes
    ``momentum * v + trust * |w| / |d| * d`` and ``w`` becomes ``w - lr * v``. A group with a
    ``trust`` of None takes ``d`` as it is: plain SGD, for biases and norms. So does a weight
    that is 0 or whose ``d`` is.

    Differences: the paper divides by ``|gradient| + weight_decay * |w|``, the two norms taken
    apart, and remembers steps with their rate in them, where here, as in PyTorch's SGD, the rate
    of today scales all that is remembered.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float | None = None,
    ) -> None:
        """Remember nothing yet; groups may have values of their own."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every weight that has a gradient; return what ``closure`` returns, if given."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if weights:
                self._move(weights, group)
        return result

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        grads = [weight.grad for weight in weights if weight.grad is not None]
        steps = torch._foreach_add(grads, weights, alpha=group["weight_decay"])
        if group["trust"] is not None:
            for step, ratio in zip(steps, _ratios(weights, steps, group["trust"]), strict=True):
                step.mul_(ratio)
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        moving = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_mul_(moving, group["momentum"])
        torch._foreach_add_(moving, steps)
        torch._foreach_add_(weights, moving, alpha=-group["lr"])


def _ratios(weights: Sequence[Tensor], steps: Sequence[Tensor], trust: float) -> Tensor:
    """Return ``trust * |w| / |d|`` of each, 1 where either norm is 0; no wait for the GPU."""
    w, d = (torch.stack(torch._foreach_norm(list(tensors))) for tensors in (weights, steps))
    return torch.where((w > 0) & (d > 0), trust * w / d, 1.0)
