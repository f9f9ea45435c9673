"""SwAV on clips: predict from one clip of a video to which prototypes another belongs.

Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882, and for rho clips of one video
Feichtenhofer et al., CVPR 2021, https://arxiv.org/abs/2104.14558, section 3. As in the latter there
are no small crops and no queue of earlier features; the codes are those of the batch of all
processes.

The loss of a pair of clips is the mean over its two directions, that of rho clips the mean over all
pairs: ``ln K`` for equal scores.

Differences: for the first ``frozen_prototypes`` steps, which stand for the release's first epoch,
the prototypes' gradient is zero where the release has none: the optimizer may then change their
lengths, which are made 1 again, but not their directions. Prototypes start at directions drawn from
a normal distribution, and linear layers as PyTorch starts them, where the video release takes
Xavier's rule. Of more than two clips the release makes codes of the first two alone, which all
others predict; and on a single machine its codes are those of each process's clips.

An option of another paper: Un-Mix (``vidssl.augment.mixing``) mixes what predicts, never what sets
codes; each clip then goes forward and backward once more, which doubles the cost of a step.

Tensor suffixes: B clips of this process, D projected features, K prototypes.
"""

from functools import partial
from itertools import permutations
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from vidssl.augment.mixing import UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.heads import mlp
from vidssl.nn.health import between
from vidssl.nn.prototypes import Prototypes, equal_codes


class Config(MethodConfig):
    """Clips, head, prototypes and how sharp codes and predictions are."""

    name: Literal["swav"] = "swav"
    clips: Annotated[int, Field(ge=2, le=16)] = 2
    """Of each video, each drawn and augmented for itself: rho."""
    prototypes: Annotated[int, Field(ge=2)] = 1000
    temperature: PositiveFloat = 0.1
    """Of the predictions."""
    epsilon: PositiveFloat = 0.05
    """Of the codes: the smaller, the nearer they are to a single prototype."""
    iterations: PositiveInt = 3
    """Of Sinkhorn's algorithm."""
    frozen_prototypes: NonNegativeInt = 0
    """Steps at the start in which the prototypes rest; an epoch's in the published setting."""
    layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Of the projector."""
    hidden: PositiveInt = 2048
    dim: PositiveInt = 128
    unmix: UnmixConfig = UnmixConfig()

    def build(self, encoder: Encoder) -> "SwAV":
        """Return the method around ``encoder``."""
        return SwAV(encoder, self)

    def require_batch(self, clips: int) -> None:
        """Refuse a batch of one, which has nothing to share out among prototypes."""
        if clips < 2:
            raise ValueError(f"swav needs at least 2 videos a step to tell apart, found {clips}")


class SwAV(SSLMethod):
    """An encoder, a projector and prototypes; no negatives, no average, no queue."""

    collapse_causes: ClassVar[str] = (
        "codes that are all but even (a lower method.epsilon), prototypes that move too early "
        "(method.frozen_prototypes), or a rate that is too high (a lower optim.lr)"
    )

    def __init__(self, encoder: Encoder, config: Config) -> None:
        """Start with random prototypes."""
        super().__init__()
        self.config = config
        self.num_views = config.clips
        self.encoder = encoder
        hidden = [config.hidden] * (config.layers - 1)
        self.projector = mlp(encoder.features, *hidden, config.dim, norm=True)
        self.prototypes = Prototypes(config.dim, config.prototypes)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the mean loss of all ordered pairs; prototypes are put on unit length before."""
        config = self.config
        if self.training:
            self.prototypes.renormalise()
        hold = batch.step < config.frozen_prototypes
        features = [self._features(clips) for clips in batch.views]
        scores = [self.prototypes(z_BD, hold=hold) for z_BD in features]
        codes = [equal_codes(s_BK, config.epsilon, config.iterations) for s_BK in scores]
        pairs = list(permutations(range(len(batch.views)), 2))
        losses = [cross_entropy(scores[i], codes[j], config.temperature) for i, j in pairs]
        loss = torch.stack(losses).mean()
        mix = config.unmix.draw(batch.seed, batch.step, batch.views[0])
        if mix is not None:
            mixed = [self._features(mix_reversed(clips, mix)) for clips in batch.views]
            scores = [self.prototypes(z_BD, hold=hold) for z_BD in mixed]
            to = [
                partial(cross_entropy, codes_BK=c_BK, temperature=config.temperature)
                for c_BK in codes
            ]
            loss = loss + torch.stack([of_both(to[j], scores[i], mix) for i, j in pairs]).mean()
        scalars = between(features[0], features[1]) if batch.watched else {}
        return StepOutput(loss, scalars)

    def _features(self, clips: Tensor) -> Tensor:
        """Return projections ``(B, D)`` on unit length."""
        return F.normalize(self.projector(self.encoder(clips)).float(), dim=1)


def cross_entropy(scores_BK: Tensor, codes_BK: Tensor, temperature: float) -> Tensor:
    """Return the mean of ``-sum over prototypes of code * log softmax(score / temperature)``."""
    return -(codes_BK * F.log_softmax(scores_BK / temperature, dim=1)).sum(dim=1).mean()
