"""MoCo on clips: find the other clips of the same video among a queue of earlier ones.

He et al., CVPR 2020, https://arxiv.org/abs/1911.05722 (v1: ``layers: 1``, ``temperature: 0.07``),
Chen et al., https://arxiv.org/abs/2003.04297 (v2: ``layers: 2``, ``temperature: 0.2``), and for
``clips`` of one video as positives Feichtenhofer et al., CVPR 2021,
https://arxiv.org/abs/2104.14558, section 3 (``layers: 3``, ``anneal: true``).

The keys of all clips are made once a step, by the moving average as it stands after this step's
update; each clip then queries the keys of all others. As in the released code for clips, a query's
loss is the mean over its positives of the loss with that positive alone; the paper has their sum
inside the logarithm, which for two clips is the same.

Differences: the loss is the mean over clips; the release sums their gradients, which is a learning
rate ``clips`` times as high, and goes backward clip by clip, which holds the activations of one
clip where this holds those of all. The release fills the queue before its first optimizer step and
begins with rows of about unit length; here the first steps train against random rows of unit
length. Keys of all processes enter the queue, as in the image version, where the release's DDP
leaves those of the first process; its heads begin with Xavier's weights, ours with PyTorch's. The
image version queries with the first view alone: ``symmetric: false``.

Shuffled BatchNorm: each process encodes keys that are drawn at random from those of all processes
(in the release, of a machine's), so that statistics do not tell which key is whose. Keys of the
first clips, of the second ones and so on have statistics apart; the release shuffles and encodes
those of all clips together, as far as they fit into its memory. In one process
``key_groups`` random groups have statistics of their own instead. Without norms that see the batch
there is nothing to shuffle.

Options of other papers: Un-Mix (``vidssl.augment.mixing``) mixes queries, never keys; CO2
(``vidssl.nn.co2``) takes the queue as its negatives.

Tensor suffixes: B clips of this process, G of all processes, D projected features, K queue rows.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidssl.augment.mixing import UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder
from vidssl.errors import RecipeError
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.co2 import Co2Config
from vidssl.nn.contrast import consistency, info_nce
from vidssl.nn.distributed import exchange, gather, local_rows, world_size
from vidssl.nn.heads import mlp
from vidssl.nn.health import against
from vidssl.nn.momentum import Momentum, frozen_copy
from vidssl.nn.norms import FrozenNorm, SyncNorm
from vidssl.nn.queue import Queue

SHUFFLE = 0x7368
"""Tells the shuffle's draws from all others that come from the same seed and step."""


class Config(MethodConfig):
    """Clips of a video, queue, temperature, momentum and head."""

    name: Literal["moco"] = "moco"
    clips: Annotated[int, Field(ge=2, le=16)] = 2
    """Of each video, rho."""
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
    """False: of two clips the first is the query and the second gives the key."""
    shuffle: bool = True
    """Encode keys among other clips than their queries; false is for ``norm: sync``."""
    key_groups: PositiveInt = 2
    """Groups with BatchNorm statistics of their own, in one process; several use one each."""
    unmix: UnmixConfig = UnmixConfig()
    co2: Co2Config = Co2Config()

    @model_validator(mode="after")
    def _one_query_has_one_key(self) -> Self:
        if not self.symmetric and self.clips != 2:
            raise ValueError(f"symmetric: false is for clips: 2, found clips: {self.clips}")
        return self

    def build(self, encoder: Encoder) -> "MoCo":
        """Return the method around ``encoder``.

        Raises:
            RecipeError: if the encoder's norms undo the shuffling.
        """
        if self.shuffle and any(isinstance(module, SyncNorm) for module in encoder.modules()):
            raise RecipeError(
                "moco: expected a backbone norm whose statistics are those of a part of the batch, "
                "which method.shuffle mixes, found norm: sync, whose statistics are those of all "
                "of it; take norm: batch, or set method.shuffle to false"
            )
        return MoCo(encoder, self)

    def require_batch(self, clips: int) -> None:
        """Refuse key groups of a single clip.

        Raises:
            ValueError: if one process could not give each group two clips.
        """
        if self.shuffle and clips < 2 * self.key_groups:
            raise ValueError(_few(clips, self.key_groups))


class MoCo(SSLMethod):
    """Clips of a video, a trained encoder, its moving average, and a queue of keys."""

    collapse_causes: ClassVar[str] = (
        "keys that change faster than the queue forgets them (a higher method.momentum), a "
        "temperature that is too high (a lower method.temperature), or a rate that is too high "
        "(a lower optim.lr)"
    )

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self.config = config
        self.num_views = config.clips
        self.encoder = encoder
        hidden = [config.hidden] * (config.layers - 1)
        self.projector = mlp(encoder.features, *hidden, config.dim)
        self.key_encoder = frozen_copy(encoder)
        self.key_projector = frozen_copy(self.projector)
        self.momentum = Momentum(config.momentum, anneal=config.anneal)
        self.queue = Queue(config.queue, config.dim)
        self.shuffled = config.shuffle and _sees_the_batch(encoder)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the contrastive loss; the moving average moves before the keys are made."""
        config, both = self.config, self.config.symmetric
        self.momentum.move((self.key_encoder, self.encoder), (self.key_projector, self.projector))
        keys = [
            self._keys(clips, np.random.default_rng([batch.seed, batch.step, SHUFFLE, view]))
            for view, clips in enumerate(batch.views if both else batch.views[1:])
        ]
        asking = batch.views if both else batch.views[:1]
        queries = [self._query(clips) for clips in asking]
        negatives = self.queue.rows.clone()  # the queue changes below, before the backward pass
        mix = config.unmix.draw(batch.seed, batch.step, batch.views[0])
        losses, differences = [], []
        for i, (clips, query) in enumerate(zip(asking, queries, strict=True)):
            others = [key for j, key in enumerate(keys) if j != i or not both]
            contrast = partial(self._contrast, keys=others, negatives_KD=negatives)
            losses.append(contrast(query))
            if config.co2.alpha:
                differences += [
                    consistency(query, key, negatives, config.co2.temperature) for key in others
                ]
            if mix is not None:
                mixed = self._query(mix_reversed(clips, mix))
                losses[-1] = losses[-1] + of_both(contrast, mixed, mix)
        loss = torch.stack(losses).mean()
        scalars: dict[str, Tensor] = {}
        if differences:
            differs = torch.stack(differences).mean()
            loss = loss + config.co2.alpha * differs
            scalars["consistency"] = differs.detach()
        if batch.watched:
            scalars |= against(queries[0].detach(), keys[-1], negatives)
            scalars["queue_age"] = self.queue.age()
        self.queue.enter(torch.cat([gather(key) for key in keys]))
        return StepOutput(loss, scalars)

    def after_step(self, progress: float) -> None:
        """Set the momentum of the next step."""
        self.momentum.after_step(progress)

    def _query(self, clips_BCTHW: Tensor) -> Tensor:
        """Return queries on unit length, ``(B, D)``."""
        return F.normalize(self.projector(self.encoder(clips_BCTHW)).float(), dim=1)

    def _contrast(self, q_BD: Tensor, keys: Sequence[Tensor], negatives_KD: Tensor) -> Tensor:
        """Return the mean over the keys, ``(B, D)`` each, of the loss with that key alone."""
        terms = [info_nce(q_BD, key, negatives_KD, self.config.temperature) for key in keys]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def _keys(self, clips_BCTHW: Tensor, rng: np.random.Generator) -> Tensor:
        """Return keys on unit length, ``(B, D)``, made among other clips than their queries."""
        if not self.shuffled:
            return self._encoded(clips_BCTHW)
        groups = self.config.key_groups if world_size() == 1 else 1
        if len(clips_BCTHW) < 2 * groups:
            raise RecipeError(_few(len(clips_BCTHW), groups))
        order_G = torch.from_numpy(rng.permutation(len(clips_BCTHW) * world_size()))
        parts = exchange(clips_BCTHW, order_G).tensor_split(groups)
        keys_GD = gather(torch.cat([self._encoded(part) for part in parts]))
        return local_rows(keys_GD[order_G.argsort().to(keys_GD.device)])

    def _encoded(self, clips_BCTHW: Tensor) -> Tensor:
        return F.normalize(self.key_projector(self.key_encoder(clips_BCTHW)).float(), dim=1)


def _sees_the_batch(net: nn.Module) -> bool:
    """Whether what the net makes of a clip depends on the clips that are encoded with it."""
    return any(
        isinstance(module, _BatchNorm) and not isinstance(module, FrozenNorm)
        for module in net.modules()
    )


def _few(clips: int, groups: int) -> str:
    each = f" on each of {world_size()} processes" if world_size() > 1 else ""
    return (
        f"moco encodes keys in {groups} group{'s' * (groups > 1)} a process with BatchNorm "
        f"statistics of their own, and needs at least {2 * groups} clips a step, found {clips}"
        f"{each}; raise optim.batch or lower method.key_groups, or set method.shuffle to false "
        "where the backbone's norm does not see the batch"
    )
