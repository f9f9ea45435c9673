"""CO2: a clip and its positive shall see the negatives alike; an option of contrastive methods.

Wei et al., ICLR 2021, https://arxiv.org/abs/2010.02217: ``alpha`` times the symmetric KL divergence
of :func:`vidssl.nn.contrast.consistency` is added to each contrastive term. Two clips that do the
same are negatives of each other; where query and positive agree on how near such a one is, it is
pushed away less.

The paper is for a queue and keys without gradient. What :func:`among_clips` does where the other
clips of the batch are the negatives, with gradient to all of them, is ours; so is
:func:`among_regions`, where they are the regions of other videos.

Tensor suffixes: B clips of this process, G of all processes, D projected features, N regions, C
channels of a map.
"""

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from vidssl.nn.contrast import SELF, symmetric_kl
from vidssl.nn.distributed import gather, gather_with_grad, own_rows, world_size
from vidssl.section import Section


class Co2Config(Section):
    """The weight of the consistency term, 0 leaves it out, and its temperature."""

    alpha: NonNegativeFloat = 0.0
    temperature: PositiveFloat = 0.05

    def require_batch(self, clips: int) -> None:
        """Refuse batches whose clips have a single negative, which all see alike.

        Raises:
            ValueError: if the term is asked for and would train nothing.
        """
        if self.alpha and clips < 3:
            raise ValueError(
                "co2 compares how two clips see the others of the batch and needs at least 3 "
                f"clips a step over all processes, found {clips}; or set co2.alpha to 0"
            )


def among_clips(one_BD: Tensor, two_BD: Tensor, temperature: float) -> Tensor:
    """Return the consistency term of two views on unit length, summed over the two directions.

    The negatives of a clip are the other clips, of all processes, in its positive's view: G - 1 of
    them. Each direction is a mean over clips.
    """
    there = among_keys(one_BD, two_BD, temperature)
    return there + among_keys(two_BD, one_BD, temperature)


def among_keys(q_BD: Tensor, p_BD: Tensor, temperature: float) -> Tensor:
    """Return one direction of it, from queries to their positives; those may lack a gradient."""
    with torch.autocast(q_BD.device.type, enabled=False):
        q_BD, p_BD = q_BD.float(), p_BD.float()
        others_GD = gather_with_grad(p_BD)
        own_BG = _own(q_BD, others_GD)  # a clip's own positive is none of its negatives
        log_q, log_p = (
            F.log_softmax((z_BD @ others_GD.T).masked_fill(own_BG, SELF) / temperature, dim=1)
            for z_BD in (q_BD, p_BD)
        )
        return symmetric_kl(log_p, log_q).mean()


def among_regions(
    query_BNC: Tensor, positive_BNC: Tensor, other_BNC: Tensor, valid_BN: Tensor, temperature: float
) -> Tensor:
    """Return the consistency term of regions on unit length, a mean over valid ones; 0 if none is.

    The negatives of a region are those of ``other``, the positives' view, of the other videos of
    all processes, valid or not: (G - 1) N of them. Averaged over processes, as DDP does, it is the
    mean over all valid regions.
    """
    with torch.autocast(query_BNC.device.type, enabled=False):
        other_GNC = gather_with_grad(other_BNC.float())
        same_B1G1 = _own(query_BNC, other_GNC)[:, None, :, None]
        log_q, log_p = (
            F.log_softmax(
                torch.einsum("bnc,gmc->bngm", z_BNC.float(), other_GNC)
                .masked_fill(same_B1G1, SELF)
                .flatten(2)
                .div(temperature),
                dim=2,
            )
            for z_BNC in (query_BNC, positive_BNC)
        )
        each_BN = symmetric_kl(log_p, log_q)
        count = gather(valid_BN).sum().clamp(min=1)
    return (each_BN * valid_BN).sum() * world_size() / count


def _own(local: Tensor, everyones: Tensor) -> Tensor:
    """Return which rows of all processes are which of this one's, ``(B, G)``."""
    return own_rows(local)[:, None] == torch.arange(len(everyones), device=local.device)
