"""CO2: a clip and its positive shall see the negatives alike; an option of contrastive methods.

Wei et al., ICLR 2021, https://arxiv.org/abs/2010.02217: ``alpha`` times the symmetric KL divergence
of :func:`vidssl.nn.contrast.consistency` is added to each contrastive term. Two clips that do the
same are negatives of each other; where query and positive agree on how near such a one is, it is
pushed away less.

The paper is for a queue and keys without gradient. What :func:`among_clips` does where the other
clips of the batch are the negatives, with gradient to all of them, is ours.

Tensor suffixes: B clips of this process, G of all processes, D projected features.
"""

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from vidssl.nn.contrast import symmetric_kl
from vidssl.nn.distributed import gather_with_grad, rank
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
    with torch.autocast(one_BD.device.type, enabled=False):
        one_BD, two_BD = one_BD.float(), two_BD.float()
        return _against(one_BD, two_BD, temperature) + _against(two_BD, one_BD, temperature)


def _against(q_BD: Tensor, p_BD: Tensor, temperature: float) -> Tensor:
    others_GD = gather_with_grad(p_BD)
    mine = rank() * len(q_BD) + torch.arange(len(q_BD), device=q_BD.device)
    columns = torch.arange(len(others_GD), device=q_BD.device)
    shape = len(q_BD), len(others_GD) - 1
    other = columns != mine[:, None]  # a clip's own positive is none of its negatives
    log_q, log_p = (
        F.log_softmax((z_BD @ others_GD.T / temperature)[other].view(shape), dim=1)
        for z_BD in (q_BD, p_BD)
    )
    return symmetric_kl(log_p, log_q)
