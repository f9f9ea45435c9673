"""The optimizer and the learning rate as a function of progress."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor, nn, optim

from vidssl.section import Section
from vidssl.train.depth import rate_shares


class OptimConfig(Section):
    """Optimizer, learning rate and length of a training."""

    optimizer: Literal["sgd", "adamw", "lars"] = "sgd"
    """``lars`` is for large batches: SGD whose matrices each step in proportion to their norm."""
    lr: PositiveFloat
    """Peak learning rate, for ``batch`` as it is given here, or for ``lr_batch``."""
    batch: PositiveInt
    """Samples a step over all processes."""
    lr_batch: PositiveInt | None = None
    """The batch that ``lr`` is for: the rate is then ``lr * batch / lr_batch``, and told so."""
    accumulate: PositiveInt = 1
    """Parts that a process's clips go through the backbone in, one after the other.

    Less memory for a third more computing; loss, gradients and negatives stay those of the whole
    batch, and BatchNorm sees one part at a time, as it would on so many times the processes.
    """
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
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    drops: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    """Of ``step``: shares of the training, counted from its end, at whose beginning the rate drops,
    largest first; ``[0.3, 0.1]`` drops it for the last 30 % and again for the last 10 %."""
    drop: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """What a drop multiplies the rate by."""
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the training in which the rate rises linearly from a hundredth of its peak."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the rate that a stage of the backbone has of the rate of the one above; the head has
    the whole. For fine-tuning."""
    clip_grad_norm: PositiveFloat | None = None
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Momentum of averaged weights and running statistics, which are then the training's result."""
    precise_bn: NonNegativeInt = 0
    """Batches from which BatchNorm's statistics are taken anew before the result is saved."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give the length of the training as steps or as epochs, not both")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.nesterov and self.optimizer == "lars":
            raise ValueError("nesterov is for optimizer: sgd, found optimizer: lars")
        return self

    @model_validator(mode="after")
    def _drops_in_order(self) -> Self:
        if bool(self.drops) != (self.schedule == "step"):
            raise ValueError("drops belong to schedule: step, which needs them")
        if any(first <= second for first, second in pairwise(self.drops)):
            raise ValueError(f"drops are counted from the end, largest first, found {self.drops}")
        if self.drops and self.warmup > 1 - self.drops[0]:
            raise ValueError("the warmup ends after the first of the drops")
        return self

    @model_validator(mode="after")
    def _parts_of_the_batch(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} has no {self.accumulate} equal parts")
        return self

    @property
    def peak_lr(self) -> float:
        """The peak learning rate for ``batch``."""
        return self.lr * self.batch / (self.lr_batch or self.batch)

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
    peak = config.peak_lr
    main: ParamScheduler = ConstantParamScheduler(peak)
    if config.schedule == "cosine":
        main = CosineParamScheduler(peak, 0.0)
    elif config.schedule == "step":
        main = _Drops(peak, config.drop, config.drops)
    if not config.warmup:
        return main
    rise = LinearParamScheduler(peak / 100, main(config.warmup))
    return CompositeParamScheduler(
        [rise, main], [config.warmup, 1 - config.warmup], ["rescaled", "fixed"]
    )


class _Drops(ParamScheduler):  # type: ignore[misc]
    """A rate that drops where so much of the training is left."""

    def __init__(self, peak: float, drop: float, left: Sequence[float]) -> None:
        self.peak, self.drop, self.left = peak, drop, left

    def __call__(self, where: float) -> float:
        """Return the rate at a place in [0, 1)."""
        # What is left is rounded as little as a step of the longest training.
        passed = sum(1 - where <= left + 1e-9 for left in self.left)
        return self.peak * self.drop**passed


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
    if config.layer_decay != 1:
        groups = _by_depth(module, groups, config)
    if config.optimizer == "lars":
        return LARS(groups, lr=config.peak_lr, momentum=config.momentum)
    # On a GPU one kernel updates all parameters.
    fused = all(p.is_cuda for p in trained) or None
    if config.optimizer == "adamw":
        return optim.AdamW(groups, lr=config.peak_lr, fused=fused)
    return optim.SGD(
        groups, lr=config.peak_lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
    )


def set_rate(of: optim.Optimizer, lr: float) -> None:
    """Set the learning rate, of which a group may have a share, its ``lr_share``."""
    for group in of.param_groups:
        group["lr"] = lr * group.get("lr_share", 1.0)


def _by_depth(
    module: nn.Module, groups: Sequence[dict[str, Any]], config: OptimConfig
) -> list[dict[str, Any]]:
    """Return the groups parted by the rate that their weights' depth gives, least first."""
    share_of = rate_shares(module, config.layer_decay)
    names = {id(weight): name for name, weight in module.named_parameters()}
    parted = []
    for share in sorted(set(share_of.values())):
        for group in groups:
            own = [p for p in group["params"] if share_of[names[id(p)]] == share]
            if own:
                lr = config.peak_lr * share
                parted.append({**group, "params": own, "lr": lr, "lr_share": share})
    return parted


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
