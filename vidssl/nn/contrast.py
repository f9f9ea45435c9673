"""Contrastive losses on unit vectors, in full precision whatever the autocast.

Half precision would leave two digits of a similarity. A loss over the batch of all processes
gathers with gradient: averaged over processes, as DDP does, it has the gradient of one process.

Tensor suffixes: B clips of this process, G of all processes, D projected features, K negatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.nn.distributed import gather_with_grad, own_rows

SELF = -1e9
"""Stands for the similarity of a clip with itself, which is no negative."""


def info_nce(q_BD: Tensor, k_BD: Tensor, negatives_KD: Tensor, temperature: float) -> Tensor:
    """Return the mean of ``-log softmax`` of each query's own key against the negatives.

    van den Oord et al., https://arxiv.org/abs/1807.03748; in this form MoCo's equation 1.
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        q_BD, k_BD, negatives_KD = q_BD.float(), k_BD.float(), negatives_KD.float()
        positive_B1 = (q_BD * k_BD).sum(dim=1, keepdim=True)
        logits = torch.cat([positive_B1, q_BD @ negatives_KD.T], dim=1) / temperature
    own = torch.zeros(len(q_BD), dtype=torch.long, device=q_BD.device)
    return F.cross_entropy(logits, own)


def nt_xent(one_BD: Tensor, two_BD: Tensor, temperature: float) -> Tensor:
    """Return SimCLR's loss of two views, summed over the two directions, each a mean over clips.

    A clip's positive is its other view; its negatives are both views of all other clips of all
    processes: 2 G - 2 of them. CVRL's equation 1 (Qian et al., CVPR 2021,
    https://arxiv.org/abs/2008.03800) is this sum, SimCLR's (Chen et al., ICML 2020,
    https://arxiv.org/abs/2002.05709) the half of it. ``2 ln(2 G - 1)`` for equal features.
    """
    with torch.autocast(one_BD.device.type, enabled=False):
        one_BD, two_BD = one_BD.float(), two_BD.float()
        one_GD, two_GD = gather_with_grad(one_BD), gather_with_grad(two_BD)
        mine = own_rows(one_BD)
        loss = one_BD.new_zeros(())
        for here_BD, same_GD, other_GD in ((one_BD, one_GD, two_GD), (two_BD, two_GD, one_GD)):
            within = (here_BD @ same_GD.T / temperature).clone()
            within[torch.arange(len(mine), device=mine.device), mine] = SELF
            logits = torch.cat([here_BD @ other_GD.T / temperature, within], dim=1)
            loss = loss + F.cross_entropy(logits, mine)
    return loss


def consistency(q_BD: Tensor, p_BD: Tensor, negatives_KD: Tensor, temperature: float) -> Tensor:
    """Return CO2's term: how differently a query and its positive see the negatives.

    The symmetric KL divergence, halved, between the softmax over the similarities of each with the
    negatives, the positive excluded (Wei et al., ICLR 2021, https://arxiv.org/abs/2010.02217).
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        negatives_KD = negatives_KD.float()
        log_p = F.log_softmax(p_BD.float() @ negatives_KD.T / temperature, dim=1)
        log_q = F.log_softmax(q_BD.float() @ negatives_KD.T / temperature, dim=1)
        return symmetric_kl(log_p, log_q).mean()


def symmetric_kl(log_p_BK: Tensor, log_q_BK: Tensor) -> Tensor:
    """Return half the sum of both divergences, ``(B,)``, from logs of probabilities; any B."""
    return ((log_p_BK.exp() - log_q_BK.exp()) * (log_p_BK - log_q_BK)).sum(dim=-1) / 2
