"""MoCo v2 on clips: find the other clip of the same video among a queue of earlier ones.

He et al., CVPR 2020, https://arxiv.org/abs/1911.05722 (v1), Chen et al.,
https://arxiv.org/abs/2003.04297 (v2, the MLP head), and for clips of one video as positives
Feichtenhofer et al., CVPR 2021, https://arxiv.org/abs/2104.14558, section 3.

Differences: both clips serve as query in turn and the two losses are averaged (``symmetric``;
the image version queries with one view only, the video release sums the gradients, which is a
learning rate twice as high). The video release also fills the queue before its first optimizer step
and keeps BatchNorm to 8 clips; neither is done here. Keys of all
processes enter the queue, as in the image version. In one process, shuffled BatchNorm is emulated
by encoding the keys in ``key_groups`` random groups, each with statistics of its own.

Tensor suffixes: B clips of this process, G of all processes, D projected features, K queue rows.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.distributed import gather, local_rows, world_size
from vidssl.nn.heads import mlp
from vidssl.nn.momentum import follow, frozen_copy


class Config(MethodConfig):
    """Queue, temperature, momentum and head."""

    name: Literal["moco"] = "moco"
    queue: PositiveInt = 65536
    """Keys kept as negatives; need not be a multiple of the batch."""
    temperature: PositiveFloat = 0.2
    momentum: Annotated[float, Field(ge=0.0, le=1.0)] = 0.999
    anneal: bool = False
    """Raise the momentum to 1 along a cosine over the training, as the video version does."""
    layers: Annotated[int, Field(ge=1, le=8)] = 2
    """Of the head; MoCo v1 has 1, v2 2, the video version 3."""
    hidden: PositiveInt = 2048
    dim: PositiveInt = 128
    symmetric: bool = True
    key_groups: PositiveInt = 2
    """Groups with BatchNorm statistics of their own, in one process; several use one each."""

    def build(self, encoder: Encoder) -> "MoCo":
        """Return the method around ``encoder``."""
        return MoCo(encoder, self)


class MoCo(SSLMethod):
    """Two clips of a video, a trained encoder, its moving average, and a queue of keys."""

    num_views: ClassVar[int] = 2
    momentum: Tensor
    queue: Tensor  # (K, D)
    pointer: Tensor

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        hidden = [config.hidden] * (config.layers - 1)
        self.projector = mlp(encoder.features, *hidden, config.dim)
        self.key_encoder = frozen_copy(encoder)
        self.key_projector = frozen_copy(self.projector)
        self.register_buffer("momentum", torch.tensor(config.momentum, dtype=torch.float64))
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, config.dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(self, batch: Batch) -> StepOutput:
        """Return the contrastive loss; the moving average moves before the keys are made."""
        self._follow()
        one, two = batch.views
        pairs = [(one, two), (two, one)] if self.config.symmetric else [(one, two)]
        keys = [self._keys(clips, batch.step * 2 + i) for i, (_, clips) in enumerate(pairs)]
        queries = [F.normalize(self.projector(self.encoder(q)).float(), dim=1) for q, _ in pairs]
        negatives = self.queue.clone()  # the queue changes below, before the backward pass
        losses = [
            contrast(q, k, negatives, self.config.temperature)
            for q, k in zip(queries, keys, strict=True)
        ]
        scalars = health(queries[0].detach(), keys[0], negatives)
        for key in keys:
            self._enqueue(gather(key))
        return StepOutput(torch.stack(losses).mean(), scalars)

    def after_step(self, progress: float) -> None:
        """Set the momentum of the next step: ``1 - (1 - m) (cos(pi progress) + 1) / 2``."""
        if self.config.anneal:
            left = (math.cos(math.pi * progress) + 1) / 2
            self.momentum.fill_(1 - (1 - self.config.momentum) * left)

    def _follow(self) -> None:
        if self.training:
            follow(self.key_encoder, self.encoder, float(self.momentum))
            follow(self.key_projector, self.projector, float(self.momentum))

    @torch.no_grad()
    def _keys(self, clips: Tensor, draw: int) -> Tensor:
        """Return normalised keys ``(B, D)``, each made among other clips than its query was."""
        everything = gather(clips)
        generator = torch.Generator().manual_seed(draw)
        shuffled = torch.randperm(len(everything), generator=generator).to(clips.device)
        mine = local_rows(everything[shuffled])
        groups = mine.chunk(self.config.key_groups if world_size() == 1 else 1)
        keys = torch.cat([self.key_projector(self.key_encoder(group)) for group in groups])
        return local_rows(gather(F.normalize(keys.float(), dim=1))[shuffled.argsort()])

    @torch.no_grad()
    def _enqueue(self, keys_GD: Tensor) -> None:
        """Overwrite the oldest rows of the queue, going round at its end."""
        length = len(self.queue)
        keys_GD = keys_GD[-length:]
        rows = (self.pointer + torch.arange(len(keys_GD), device=keys_GD.device)) % length
        self.queue[rows] = keys_GD
        self.pointer.copy_((self.pointer + len(keys_GD)) % length)


def contrast(q_BD: Tensor, k_BD: Tensor, negatives_KD: Tensor, temperature: float) -> Tensor:
    """Return the mean of ``-log softmax`` of each query's own key against the negatives.

    In full precision: half of it would leave two digits of a similarity.
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        positive_B1 = (q_BD * k_BD).sum(dim=1, keepdim=True)
        logits = torch.cat([positive_B1, q_BD @ negatives_KD.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q_BD), dtype=torch.long, device=q_BD.device))


@torch.no_grad()
def health(q_BD: Tensor, k_BD: Tensor, negatives_KD: Tensor) -> dict[str, Tensor]:
    """Return what shows a collapse.

    ``feature_std`` is the mean over D of a normalised feature's deviation times the root of D: 1
    for features spread evenly over the sphere, 0 for a constant.
    """
    positive_B = (q_BD * k_BD).sum(dim=1)
    negative_BK = q_BD @ negatives_KD.T
    return {
        "positive_similarity": positive_B.mean(),
        "negative_similarity": negative_BK.mean(),
        "top1": (positive_B[:, None] > negative_BK).all(dim=1).float().mean(),
        "feature_std": q_BD.std(dim=0, correction=0).mean() * q_BD.shape[1] ** 0.5,
    }
