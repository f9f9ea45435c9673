"""CVRL: two clips of a video, near ones more often than far ones, found among all of the batch.

Qian et al., CVPR 2021, https://arxiv.org/abs/2008.03800. The recipe asks for what else the paper
consists of: ``sampling: {starts: interval}``, and its augmentation, drawn once a clip.

The loss is that of the paper's released code: the sum of the two directions, each a mean over
clips, with both views of all other clips as negatives. As there, both views go through the network
as one batch and share the statistics of each norm. Differences: statistics are those of all
processes in the projector always, in the backbone with ``norm: sync``; and linear layers start as
PyTorch starts them. On nested clips, which TeG samples, this is TeG's persistent part alone.

Options of other papers: Un-Mix (``vidssl.augment.mixing``) mixes the first clip, CO2
(``vidssl.nn.co2``) takes the other clips of the batch as its negatives, in each direction.

Tensor suffixes: B clips of this process, D projected features.
"""

from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from vidssl.augment.mixing import UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.co2 import Co2Config, among_clips
from vidssl.nn.contrast import nt_xent
from vidssl.nn.heads import mlp
from vidssl.nn.health import between


class Config(MethodConfig):
    """Temperature and projector."""

    name: Literal["cvrl"] = "cvrl"
    starts: ClassVar[tuple[str, ...]] = ("random", "interval", "nested")
    temperature: PositiveFloat = 0.1
    hidden: PositiveInt = 2048
    """Width of the projector's three hidden layers, each with batch norm and ReLU."""
    dim: PositiveInt = 128
    unmix: UnmixConfig = UnmixConfig()
    co2: Co2Config = Co2Config()

    def build(self, encoder: Encoder) -> "CVRL":
        """Return the method around ``encoder``."""
        return CVRL(encoder, self)

    def require_batch(self, clips: int) -> None:
        """Refuse a batch of one clip, which has no negatives.

        Raises:
            ValueError: if the loss is not defined on so few.
        """
        if clips < 2:
            raise ValueError(
                "cvrl's negatives are the other clips of the batch: it needs at least 2 clips a "
                f"step over all processes, found {clips}"
            )
        self.co2.require_batch(clips)


class CVRL(SSLMethod):
    """Two clips of a video and one trained encoder."""

    collapse_causes: ClassVar[str] = (
        "a rate that is too high (a lower optim.lr or a longer optim.warmup), a temperature that "
        "is too high (a lower method.temperature), or too few clips a step (a larger optim.batch)"
    )
    num_views = 2

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        hidden = [config.hidden] * 3
        self.projector = mlp(encoder.features, *hidden, config.dim, norm=True)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss, summed over the two directions."""
        config = self.config
        one_BD, two_BD = self._project(torch.cat(batch.views)).chunk(2)
        contrast = partial(nt_xent, two_BD=two_BD, temperature=config.temperature)
        loss = contrast(one_BD)
        scalars: dict[str, Tensor] = {}
        if config.co2.alpha:
            differs = among_clips(one_BD, two_BD, config.co2.temperature)
            loss = loss + config.co2.alpha * differs
            scalars["consistency"] = differs.detach()
        mix = config.unmix.draw(batch.seed, batch.step, batch.views[0])
        if mix is not None:
            mixed_BD = self._project(mix_reversed(batch.views[0], mix))
            loss = loss + of_both(contrast, mixed_BD, mix)
        if batch.watched:
            scalars |= between(one_BD.detach(), two_BD.detach())
        return StepOutput(loss, scalars)

    def _project(self, clips_BCTHW: Tensor) -> Tensor:
        """Return projected clips on unit length, ``(B, D)``."""
        return F.normalize(self.projector(self.encoder(clips_BCTHW)).float(), dim=1)
