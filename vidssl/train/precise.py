"""Batch norm's statistics taken anew, by weights that no longer change.

Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576, section
3; the estimate of the population's variance is its appendix's, and fvcore's.
"""

import warnings
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.nn.distributed import world_size


@torch.no_grad()
def take_statistics(encoder: Encoder, batches: Iterable[Sequence[Tensor]], count: int) -> None:
    """Replace every running mean and variance by those of the batches, over all processes.

    Each of ``count`` batches is one or several tensors of clips, ``(B, C, T, H, W)``, which are
    encoded one after the other. All processes have batches of one size.
    """
    training, parts = encoder.training, encoder.parts
    encoder.train()
    encoder.parts = 1  # nothing is kept for a way back
    with warnings.catch_warnings():  # of PyTorch's about what fvcore has beside it
        warnings.filterwarnings("ignore", message=".*torch.jit.script")
        from fvcore.nn import update_bn_stats
    batches = iter(batches)
    first = next(batches)
    clips = (view for batch in chain([first], batches) for view in batch)
    try:
        update_bn_stats(encoder, clips, count * len(first))
    finally:
        encoder.train(training)
        encoder.parts = parts
    if world_size() > 1:
        for norm in encoder.modules():
            if isinstance(norm, nn.BatchNorm3d) and norm.running_mean is not None:
                _join(norm)


def _join(norm: nn.BatchNorm3d) -> None:
    """Bring the statistics of all processes together, by the law of total variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = norm.running_mean.clone()
    dist.all_reduce(mean)
    mean /= world_size()
    # Not the mean of squares less the square of means, which cancels where means are large.
    var = norm.running_var + (norm.running_mean - mean).square()
    dist.all_reduce(var)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var / world_size())
