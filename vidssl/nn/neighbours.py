"""How often the nearest neighbour of a feature is of its own kind.

Tensor suffixes: N clips, F features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS, TEMPERATURE = 5, 0.1


@torch.no_grad()
def same_video(features_NF: Tensor, video_N: Tensor) -> Tensor:
    """Return the share of clips whose nearest other clip, by cosine, is of the same video."""
    alike_NN = _similarity(features_NF)
    nearest_N = alike_NN.argmax(dim=1)
    return (video_N[nearest_N] == video_N).float().mean()


@torch.no_grad()
def same_class(features_NF: Tensor, video_N: Tensor, class_N: Tensor) -> Tensor:
    """Return the share of clips whose class the five nearest clips of other videos vote for.

    Votes weigh ``exp(cosine / 0.1)``. Clips of class -1 neither vote nor count.
    """
    known = class_N >= 0
    features_NF, video_N, class_N = features_NF[known], video_N[known], class_N[known]
    alike_NN = _similarity(features_NF)
    alike_NN = alike_NN.masked_fill(video_N[:, None] == video_N, -torch.inf)
    near, rows = alike_NN.topk(min(NEIGHBOURS, len(alike_NN)), dim=1)
    votes = F.one_hot(class_N[rows]) * (near / TEMPERATURE).exp()[:, :, None]
    return (votes.sum(dim=1).argmax(dim=1) == class_N).float().mean()


def _similarity(features_NF: Tensor) -> Tensor:
    unit_NF = F.normalize(features_NF.float(), dim=1)
    return (unit_NF @ unit_NF.T).fill_diagonal_(-torch.inf)
