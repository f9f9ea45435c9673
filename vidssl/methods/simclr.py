"""SimCLR on clips: find the other clip of the same video among all clips of the batch.

Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, and for clips of one video as positives
Feichtenhofer et al., CVPR 2021, https://arxiv.org/abs/2104.14558, section 3.

The paper on clips takes all clips of a video as positives of each other; its released code, and
this file, take consecutive pairs, (1, 2), (2, 3), ..., each with a loss of its own, whose mean is
the loss here; for two clips that is the same. Its projector starts with Xavier's weights, ours with
PyTorch's. Its norms gather statistics over 64 clips; ours, with ``norm: sync`` in the backbone,
over all.

Options of other papers: Un-Mix (``vidssl.augment.mixing``) mixes the first clip of each pair, CO2
(``vidssl.nn.co2``) takes the other clips of the batch as its negatives.

Tensor suffixes: B clips of this process, D projected features.
"""

from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from vidssl.augment.mixing import UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.co2 import Co2Config, among_clips
from vidssl.nn.contrast import nt_xent
from vidssl.nn.heads import mlp
from vidssl.nn.health import between


class Config(MethodConfig):
    """Clips of a video, temperature and projector."""

    name: Literal["simclr"] = "simclr"
    clips: Annotated[int, Field(ge=2, le=16)] = 2
    """Of each video, rho."""
    temperature: PositiveFloat = 0.1
    layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Of the projector, with batch norm and ReLU between them."""
    hidden: PositiveInt = 2048
    dim: PositiveInt = 128
    unmix: UnmixConfig = UnmixConfig()
    co2: Co2Config = Co2Config()

    def build(self, encoder: Encoder) -> "SimCLR":
        """Return the method around ``encoder``."""
        return SimCLR(encoder, self)

    def require_batch(self, clips: int) -> None:
        """Refuse a batch of one clip, which has no negatives.

        Raises:
            ValueError: if the loss is not defined on so few.
        """
        if clips < 2:
            raise ValueError(
                "simclr's negatives are the other clips of the batch: it needs at least 2 clips a "
                f"step over all processes, found {clips}"
            )
        self.co2.require_batch(clips)


class SimCLR(SSLMethod):
    """Clips of a video and one trained encoder; no momentum encoder, no queue."""

    collapse_causes: ClassVar[str] = (
        "a rate that is too high (a lower optim.lr or a longer optim.warmup), a temperature that "
        "is too high (a lower method.temperature), or too few clips a step (a larger optim.batch)"
    )

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self.config = config
        self.num_views = config.clips
        self.encoder = encoder
        hidden = [config.hidden] * (config.layers - 1)
        self.projector = mlp(encoder.features, *hidden, config.dim, norm=True)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the mean over consecutive pairs of clips."""
        config = self.config
        projected = [self._project(clips) for clips in batch.views]
        mix = config.unmix.draw(batch.seed, batch.step, batch.views[0])
        losses, differences = [], []
        for clips, (one_BD, two_BD) in zip(batch.views, pairwise(projected), strict=False):
            contrast = partial(self._contrast, two_BD=two_BD)
            losses.append(contrast(one_BD))
            if config.co2.alpha:
                differences.append(among_clips(one_BD, two_BD, config.co2.temperature) / 2)
            if mix is not None:
                mixed_BD = self._project(mix_reversed(clips, mix))
                losses[-1] = losses[-1] + of_both(contrast, mixed_BD, mix)
        loss = torch.stack(losses).mean()
        scalars: dict[str, Tensor] = {}
        if differences:
            differs = torch.stack(differences).mean()
            loss = loss + config.co2.alpha * differs
            scalars["consistency"] = differs.detach()
        if batch.watched:
            scalars |= between(projected[0].detach(), projected[1].detach())
        return StepOutput(loss, scalars)

    def _contrast(self, one_BD: Tensor, two_BD: Tensor) -> Tensor:
        return nt_xent(one_BD, two_BD, self.config.temperature) / 2

    def _project(self, clips_BCTHW: Tensor) -> Tensor:
        """Return projected clips on unit length, ``(B, D)``."""
        return F.normalize(self.projector(self.encoder(clips_BCTHW)).float(), dim=1)
