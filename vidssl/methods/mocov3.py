"""MoCo v3 on clips: find the other clip of the same video among those of the same batch.

Chen, Xie and He, ICCV 2021, https://arxiv.org/abs/2104.02057. A moving average makes the keys, as
in MoCo, but there is no queue: the negatives are the other clips' keys of all processes. That it is
given clips of one video, and more than two, is not published: it is done here as
Feichtenhofer et al., CVPR 2021, https://arxiv.org/abs/2104.14558, do it for BYOL.

The loss is ``2 T`` times the sum over clips i of the mean over the other clips j of the cross
entropy of i's queries among j's keys: for two clips, the authors' symmetric loss with the scale of
their code. ``2 T rho ln G`` where all is equal.

Differences: two clips have one distribution of augmentations unless the recipe tells them apart;
and a transformer's patch embedding is trained, where the authors freeze it.

Options of other papers: Un-Mix (``vidssl.augment.mixing``) mixes queries, never keys, so that each
clip goes forward and backward through the network once more; CO2 (``vidssl.nn.co2``) takes the
other clips' keys as its negatives and is added to each cross entropy, inside the scale.

Tensor suffixes: B clips of this process, G of all processes, D projected features.
"""

from functools import partial
from itertools import permutations
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from vidssl.augment.mixing import UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.co2 import Co2Config, among_keys
from vidssl.nn.distributed import gather, own_rows
from vidssl.nn.heads import mlp
from vidssl.nn.health import between
from vidssl.nn.momentum import Momentum, frozen_copy


class Config(MethodConfig):
    """Clips, temperature, momentum and heads; the defaults are those for convolutions."""

    name: Literal["mocov3"] = "mocov3"
    clips: Annotated[int, Field(ge=2, le=16)] = 2
    """Of each video, each drawn and augmented for itself: rho."""
    temperature: PositiveFloat = 1.0
    """1 for convolutions, 0.2 for transformers."""
    momentum: Annotated[float, Field(ge=0.0, le=1.0)] = 0.99
    """Of the moving average, at first."""
    anneal: bool = True
    """Raise the momentum to 1 along a cosine over the training."""
    layers: Annotated[int, Field(ge=1, le=8)] = 2
    """Of the projector; 2 for convolutions, 3 for transformers."""
    hidden: PositiveInt = 4096
    dim: PositiveInt = 256
    predictor_norm: bool = False
    """Whether the predictor ends in a norm, as it does for transformers."""
    unmix: UnmixConfig = UnmixConfig()
    co2: Co2Config = Co2Config()

    def build(self, encoder: Encoder) -> "MoCoV3":
        """Return the method around ``encoder``."""
        return MoCoV3(encoder, self)

    def require_batch(self, clips: int) -> None:
        """Refuse a batch of one, where a key has no other to be told from."""
        if clips < 2:
            raise ValueError(f"mocov3 needs at least 2 videos a step to tell apart, found {clips}")
        self.co2.require_batch(clips)


class MoCoV3(SSLMethod):
    """An encoder, projector and predictor; the moving average of the first two makes the keys."""

    collapse_causes: ClassVar[str] = (
        "an average that follows too quickly (a higher method.momentum), too few clips a step to "
        "be told from (a larger optim.batch), or a rate that is too high (a lower optim.lr)"
    )

    def __init__(self, encoder: Encoder, config: Config) -> None:
        """Start the moving average at the network itself."""
        super().__init__()
        self.config = config
        self.num_views = config.clips
        self.encoder = encoder
        hidden, dim = config.hidden, config.dim
        inner = [hidden] * (config.layers - 1)
        self.projector = mlp(encoder.features, *inner, dim, norm=True, last="fixed norm")
        last: Literal["fixed norm", "none"] = "fixed norm" if config.predictor_norm else "none"
        self.predictor = mlp(dim, hidden, dim, norm=True, last=last)
        self.key_encoder = frozen_copy(encoder)
        self.key_projector = frozen_copy(self.projector)
        self.momentum = Momentum(config.momentum, anneal=config.anneal)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of all ordered pairs; the average moves before the keys are made."""
        config = self.config
        self.momentum.move((self.key_encoder, self.encoder), (self.key_projector, self.projector))
        keys = [self._keys(clips) for clips in batch.views]
        queries = [self._queries(clips) for clips in batch.views]
        everyones = [gather(key) for key in keys]
        towards = [
            partial(contrast, keys_GD=keys_GD, temperature=config.temperature)
            for keys_GD in everyones
        ]
        pairs = list(permutations(range(len(batch.views)), 2))
        losses = [towards[j](queries[i]) for i, j in pairs]
        mix = config.unmix.draw(batch.seed, batch.step, batch.views[0])
        if mix is not None:
            mixed = [self._queries(mix_reversed(clips, mix)) for clips in batch.views]
            losses += [of_both(towards[j], mixed[i], mix) for i, j in pairs]
        scale = 2 * config.temperature / (len(batch.views) - 1)
        loss = scale * torch.stack(losses).sum()
        scalars: dict[str, Tensor] = {}
        if config.co2.alpha:
            apart = [among_keys(queries[i], keys[j], config.co2.temperature) for i, j in pairs]
            differs = scale * torch.stack(apart).sum()
            loss = loss + config.co2.alpha * differs
            scalars["consistency"] = differs.detach()
        if batch.watched:
            scalars |= between(queries[0], keys[1])
        return StepOutput(loss, scalars)

    def after_step(self, progress: float) -> None:
        """Set the momentum of the next step."""
        self.momentum.after_step(progress)

    def _queries(self, clips: Tensor) -> Tensor:
        """Return predictions ``(B, D)`` on unit length."""
        predicted = self.predictor(self.projector(self.encoder(clips)))
        return F.normalize(predicted.float(), dim=1)

    @torch.no_grad()
    def _keys(self, clips: Tensor) -> Tensor:
        """Return keys ``(B, D)`` on unit length; BatchNorm takes their own batch's statistics."""
        return F.normalize(self.key_projector(self.key_encoder(clips)).float(), dim=1)


def contrast(q_BD: Tensor, keys_GD: Tensor, temperature: float) -> Tensor:
    """Return the mean of ``-log softmax`` of each query's own key among the keys of all processes.

    The queries are this process's, the keys in order of rank. In full precision.
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        logits_BG = q_BD.float() @ keys_GD.float().T / temperature
    return F.cross_entropy(logits_BG, own_rows(q_BD))
