"""What shows that features collapse, from the features of one batch.

Tensor suffixes: B clips, D projected features on unit length, K negatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ENOUGH = 6


@torch.no_grad()
def spread(z_BD: Tensor) -> dict[str, Tensor]:
    """Return ``feature_std`` and ``effective_rank`` of a batch of features, of any length.

    ``feature_std`` is the mean over D of a normalised feature's deviation times the root of D: 1
    for features spread evenly over the sphere, 0 for a constant. ``effective_rank`` is the
    exponential of the entropy of the centred features' singular values as shares of their sum, from
    1 to the smaller of B - 1 and D (Roy and Vetterli, EUSIPCO 2007): 1 where all lies on a line.
    Fewer than ``ENOUGH`` clips say nothing of a rank and have none; a single one says nothing.
    """
    if len(z_BD) == 1:
        return {}
    with torch.autocast(z_BD.device.type, enabled=False):
        z_BD = F.normalize(z_BD.float(), dim=1)
        centred = z_BD - z_BD.mean(dim=0)
        gram = centred @ centred.T if len(z_BD) < z_BD.shape[1] else centred.T @ centred
        # A decomposition refuses what is not finite; the trainer has the better message for that.
        singular = torch.linalg.eigvalsh(gram.nan_to_num(0, 0, 0)).clamp(min=0).sqrt()
        share = singular / singular.sum().clamp(min=1e-12)
        rank = torch.special.entr(share).sum().exp() + gram.sum() * 0
        std = z_BD.std(dim=0, correction=0).mean() * z_BD.shape[1] ** 0.5
    return {"feature_std": std} | ({"effective_rank": rank} if len(z_BD) >= ENOUGH else {})


@torch.no_grad()
def against(q_BD: Tensor, k_BD: Tensor, negatives_KD: Tensor) -> dict[str, Tensor]:
    """Return the similarities of queries to their own keys and to negatives, all on unit length.

    ``top1`` is the share of queries whose own key is nearer than every negative.
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        q_BD, k_BD = q_BD.float(), k_BD.float()
        positive_B = (q_BD * k_BD).sum(dim=1)
        negative_BK = q_BD @ negatives_KD.float().T
    return {
        "positive_similarity": positive_B.mean(),
        "negative_similarity": negative_BK.mean(),
        "top1": (positive_B[:, None] > negative_BK).all(dim=1).float().mean(),
        **spread(q_BD),
    }


@torch.no_grad()
def between(one_BD: Tensor, two_BD: Tensor) -> dict[str, Tensor]:
    """Return the similarities of two views of the same clips, every other clip being a negative.

    As :func:`against`; of a batch of one clip, which has no negative, only the positive.
    """
    with torch.autocast(one_BD.device.type, enabled=False):
        one_BD = F.normalize(one_BD.float(), dim=1)
        two_BD = F.normalize(two_BD.float(), dim=1)
        similarity = one_BD @ two_BD.T
    positive_B = similarity.diagonal()
    if len(one_BD) == 1:
        return {"positive_similarity": positive_B.mean()}
    best_B = similarity.clone().fill_diagonal_(-2.0).amax(dim=1)
    of_others = similarity.sum() - positive_B.sum()
    return {
        "positive_similarity": positive_B.mean(),
        "negative_similarity": of_others / (len(one_BD) * (len(one_BD) - 1)),
        "top1": (positive_B > best_B).float().mean(),
        **spread(one_BD),
    }
