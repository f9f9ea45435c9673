"""Normalisation of feature maps, in the five forms that video networks are trained with.

``batch``: Ioffe and Szegedy, ICML 2015. ``sync``: the same with the statistics of all processes.
``sub-batch``: each of ``splits`` parts of the batch has statistics of its own while training
(Wu et al., "A Multigrid Method", CVPR 2020, https://arxiv.org/abs/1912.00998, section 3.3).
``frozen``: the running statistics always, the affine trained, as long-term feature bank models do
it (Wu et al., CVPR 2019). ``group``: Wu and He, ECCV 2018, https://arxiv.org/abs/1803.08494.

Differences: the running statistics of ``sub-batch`` are those of the whole batch, gathered as it
goes, where the authors' code keeps one for each part and joins them before an evaluation. The
paper on groups takes 32 everywhere; a Fast pathway's 8 to 32 channels get a quarter as many groups
as channels.

All forms but ``group`` have BatchNorm's names of weights, so that one can load what another saved.

Tensor suffixes: B clips, C channels, T frames, H and W pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from vidssl.errors import RecipeError
from vidssl.nn.distributed import sum_with_grad, world_size
from vidssl.section import Section

EPS = 1e-5
ALONG = (0, 2, 3, 4)


class NormConfig(Section):
    """Which norm; a recipe may give the kind alone, as in ``norm: group``."""

    kind: Literal["batch", "sync", "group", "frozen", "sub-batch"] = "batch"
    groups: PositiveInt = 32
    """Of ``group``; no more channels than this have a quarter as many groups as channels."""
    splits: PositiveInt = 2
    """Parts of the batch in ``sub-batch``."""
    ranks: PositiveInt | None = None
    """Of ``sync``: processes in a row that share their statistics; null is all of them."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """How much of a running statistic the newest batch replaces."""

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    def build(self, channels: int, *, gamma: float = 1.0) -> nn.Module:
        """Return the norm of ``channels`` channels with every scale starting at ``gamma``."""
        layer = self._fresh(channels)
        nn.init.constant_(layer.weight, gamma)
        return layer

    def weights_key(self) -> dict[str, Any]:
        """Return what decides whether two configs can exchange weights."""
        if self.kind == "group":
            return {"norm": "group", "groups": self.groups}
        return {"norm": "batch"}

    def _fresh(self, channels: int) -> nn.BatchNorm3d | nn.GroupNorm:
        match self.kind:
            case "batch":
                return nn.BatchNorm3d(channels, eps=EPS, momentum=self.momentum)
            case "sync":
                norm = SyncNorm(channels, eps=EPS, momentum=self.momentum)
                norm.ranks = self.ranks
                return norm
            case "sub-batch":
                return SubBatchNorm(channels, splits=self.splits, momentum=self.momentum)
            case "frozen":
                return FrozenNorm(channels, eps=EPS)
            case "group":
                return nn.GroupNorm(groups_of(channels, self.groups), channels, eps=EPS)


class SyncNorm(nn.BatchNorm3d):
    """Batch norm whose training statistics are those of all processes' clips; affine or not.

    Unlike PyTorch's own it works on CPUs too, and with another number of clips in each process.
    """

    ranks: int | None = None
    """How many processes in a row share their statistics; None is all of them."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the normalised map, of the shape that came in."""
        if not self.training or world_size() == 1:
            return super().forward(x_BCTHW)
        out, mean_C, var_C, count = _Synced.apply(
            x_BCTHW, self.weight, self.bias, self.eps, self.ranks
        )
        remember(self, mean_C, var_C * count / (count - 1))
        normalised: Tensor = out
        return normalised


def require_groups(module: nn.Module, processes: int) -> None:
    """Refuse groups of processes for statistics into which so many cannot be parted.

    Raises:
        RecipeError: if they cannot.
    """
    for part in module.modules():
        if isinstance(part, SyncNorm) and part.ranks and processes % part.ranks:
            raise RecipeError(f"norm.ranks: {processes} processes have no groups of {part.ranks}")


class _Synced(torch.autograd.Function):
    """Batch norm by the statistics of all processes; keeps its input alone for the way back.

    Written out, since each step of it that autograd remembers is a map in single precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_BCTHW: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        eps: float,
        ranks: int | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x_BCTHW.to(torch.promote_types(x_BCTHW.dtype, torch.float32))
        count = wide.new_tensor([wide.numel() / wide.shape[1]])
        totals = sum_with_grad(torch.cat([wide.sum(ALONG), count]), ranks)
        mean_C, count = totals[:-1] / totals[-1], totals[-1:]
        centred = wide - _over_maps(mean_C)
        # From the distances to the mean: squares less the square of the mean lose digits.
        var_C = sum_with_grad(centred.square().sum(ALONG), ranks) / count
        rstd_C = (var_C + eps).rsqrt()
        ctx.ranks = ranks
        ctx.save_for_backward(x_BCTHW, weight_C, mean_C, rstd_C, count)
        ctx.mark_non_differentiable(mean_C, var_C, count)
        out = centred.mul_(_over_maps(rstd_C if weight_C is None else rstd_C * weight_C))
        if bias_C is not None:
            out = out.add_(_over_maps(bias_C))
        return out.to(x_BCTHW.dtype), mean_C, var_C, count

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x_BCTHW, weight_C, mean_C, rstd_C, count = ctx.saved_tensors
        unit = (x_BCTHW.to(mean_C.dtype) - _over_maps(mean_C)).mul_(_over_maps(rstd_C))
        grad = grads[0].to(mean_C.dtype)
        sums_2C = torch.stack([grad.sum(ALONG), (grad * unit).sum(ALONG)])
        # Of weight and bias each process has its own clips' gradient: DDP averages them.
        bias_grad_C, weight_grad_C = sums_2C.unbind()
        mean_grad_C, along_C = (sum_with_grad(sums_2C, ctx.ranks) / count).unbind()
        scale_C = rstd_C if weight_C is None else rstd_C * weight_C
        x_grad = unit.mul_(_over_maps(-along_C)).add_(grad).sub_(_over_maps(mean_grad_C))
        x_grad = x_grad.mul_(_over_maps(scale_C)).to(x_BCTHW.dtype)
        if weight_C is None:
            return x_grad, None, None, None, None
        return x_grad, weight_grad_C, bias_grad_C, None, None


def _over_maps(values_C: Tensor) -> Tensor:
    return values_C.view(1, -1, 1, 1, 1)


class SubBatchNorm(nn.BatchNorm3d):
    """Batch norm over each of ``splits`` equal parts of the batch; one set of running statistics.

    Several devices with a small batch each can so be imitated on one, and the noise of small
    batches kept at large ones.
    """

    def __init__(self, channels: int, *, splits: int, momentum: float = 0.1) -> None:
        """Make fresh weights."""
        super().__init__(channels, eps=EPS, momentum=momentum)
        self.splits = splits

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the normalised map, of the shape that came in.

        Raises:
            RecipeError: while training, if B is not a multiple of ``splits``.
        """
        if not self.training:
            return super().forward(x_BCTHW)
        if len(x_BCTHW) % self.splits:
            raise RecipeError(
                f"sub-batch norm in {self.splits} splits needs a multiple of them at a time, "
                f"got {len(x_BCTHW)} clips"
            )
        seen = [(self._zeros(), self._zeros()) for _ in range(self.splits)]
        parts = [
            # A momentum of 1 leaves the statistics of this part alone behind.
            F.batch_norm(part, mean, var, self.weight, self.bias, True, 1.0, self.eps)
            for part, (mean, var) in zip(x_BCTHW.chunk(self.splits), seen, strict=True)
        ]
        self._join(seen, x_BCTHW.numel() // x_BCTHW.shape[1])
        return torch.cat(parts)

    def _zeros(self) -> Tensor:
        return torch.zeros_like(self.weight, requires_grad=False)

    @torch.no_grad()
    def _join(self, seen: list[tuple[Tensor, Tensor]], count: int) -> None:
        """Remember mean and variance of the whole batch, by the law of total variance."""
        means, variances = (torch.stack(values) for values in zip(*seen, strict=True))
        each = count / self.splits
        within = variances.mean(dim=0) * (each - 1) / each
        total = within + means.var(dim=0, correction=0)
        remember(self, means.mean(dim=0), total * count / (count - 1))


class FrozenNorm(nn.BatchNorm3d):
    """An affine map by the running statistics, which never change; weight and bias are trained."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the normalised map, of the shape that came in."""
        return F.batch_norm(
            x_BCTHW, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps
        )


@torch.no_grad()
def remember(norm: nn.BatchNorm3d, mean_C: Tensor, var_C: Tensor) -> None:
    """Move the running statistics towards a batch's."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    _count(norm).add_(1)
    norm.running_mean.lerp_(mean_C, norm.momentum)
    norm.running_var.lerp_(var_C, norm.momentum)


def groups_of(channels: int, most: int) -> int:
    """Return how many groups ``channels`` channels have: ``most``, or a quarter of the channels.

    Lowered to a number that divides the channels.
    """
    wanted = min(most, max(1, channels // 4)) if channels <= most else most
    return next(groups for groups in range(wanted, 0, -1) if channels % groups == 0)


@contextmanager
def unremembered(module: nn.Module) -> Iterator[None]:
    """Run the block without moving any running statistic: for a pass over a batch already seen."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm3d)]
    before = [(norm.momentum, _count(norm).clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            _count(norm).copy_(count)


def _count(norm: nn.BatchNorm3d) -> Tensor:
    assert norm.num_batches_tracked is not None
    return norm.num_batches_tracked
