"""BYOL on clips: predict what a moving average of the network says of the other clips of a video.

Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733, and for rho clips of one video
Feichtenhofer et al., CVPR 2021, https://arxiv.org/abs/2104.14558, section 3.

The loss is ``sum over clips i of the mean over the other clips j of 2 - 2 cos(p(i), target(j))``,
a mean over videos: 0 where all agree, 2 rho for unrelated features. For two clips it is the image
paper's ``L + L~``. It has the gradient of the video release, which sums over the rho clips but logs
``-cos / T`` divided by 2 rho; so the published rates hold as they are. A mean over clips would not
be made up for by the rate: LARS takes no notice of a gradient's length in matrices, but does in
biases and norms.

Differences: all clips go forward before one backward pass, where the video release goes backward
after each clip, which takes less memory; targets of the first clips, of the second ones and so on
have norm statistics apart, where the release encodes all together, as far as they fit into its
memory; and linear layers start as PyTorch starts them, where the release takes Xavier's rule.

An option of another paper: Un-Mix (``vidssl.augment.mixing``) mixes what predicts, never what sets
targets; each clip then goes forward and backward through the network once more.

Tensor suffixes: B clips of this process, D projected features.
"""

from functools import partial
from itertools import permutations
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from vidssl.augment.mixing import UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.heads import mlp
from vidssl.nn.health import between, spread
from vidssl.nn.momentum import Momentum, frozen_copy


class Config(MethodConfig):
    """Clips, momentum and heads."""

    name: Literal["byol"] = "byol"
    clips: Annotated[int, Field(ge=2, le=16)] = 2
    """Of each video, each drawn and augmented for itself: rho."""
    momentum: Annotated[float, Field(ge=0.0, le=1.0)] = 0.996
    """Of the moving average, at first."""
    anneal: bool = True
    """Raise the momentum to 1 along a cosine over the training."""
    hidden: PositiveInt = 4096
    """Width inside projector and predictor, both of two layers."""
    dim: PositiveInt = 256
    unmix: UnmixConfig = UnmixConfig()

    def build(self, encoder: Encoder) -> "BYOL":
        """Return the method around ``encoder``."""
        return BYOL(encoder, self)

    def require_batch(self, clips: int) -> None:
        """Refuse a batch of one, of which BatchNorm leaves nothing."""
        if clips < 2:
            raise ValueError(f"byol needs at least 2 videos a step for BatchNorm, found {clips}")


class BYOL(SSLMethod):
    """An encoder, projector and predictor; the moving average of the first two sets the targets."""

    collapse_causes: ClassVar[str] = (
        "an average that follows too quickly (a higher method.momentum), a backbone's norm without "
        "batch statistics (norm: sync), or a rate that is too high (a lower optim.lr)"
    )

    def __init__(self, encoder: Encoder, config: Config) -> None:
        """Start the moving average at the network itself."""
        super().__init__()
        self.config = config
        self.num_views = config.clips
        self.encoder = encoder
        self.projector = mlp(encoder.features, config.hidden, config.dim, norm=True)
        self.predictor = mlp(config.dim, config.hidden, config.dim, norm=True)
        self.target_encoder = frozen_copy(encoder)
        self.target_projector = frozen_copy(self.projector)
        self.momentum = Momentum(config.momentum, anneal=config.anneal)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of all ordered pairs; the average moves before the targets are made."""
        self.momentum.move(
            (self.target_encoder, self.encoder), (self.target_projector, self.projector)
        )
        targets = [self._target(clips) for clips in batch.views]
        projections = [self.projector(self.encoder(clips)) for clips in batch.views]
        predictions = [self.predictor(projected) for projected in projections]
        pairs = list(permutations(range(len(batch.views)), 2))
        losses = [distance(predictions[i], targets[j]) for i, j in pairs]
        mix = self.config.unmix.draw(batch.seed, batch.step, batch.views[0])
        if mix is not None:
            mixed = [
                self.predictor(self.projector(self.encoder(mix_reversed(clips, mix))))
                for clips in batch.views
            ]
            to = [partial(distance, target_BD=target) for target in targets]
            losses += [of_both(to[j], mixed[i], mix) for i, j in pairs]
        loss = torch.stack(losses).sum() / (len(batch.views) - 1)
        if not batch.watched:
            return StepOutput(loss)
        # What is spread are projections: predictions begin as one for all, and that is no collapse.
        return StepOutput(loss, between(predictions[0], targets[1]) | spread(projections[0]))

    def after_step(self, progress: float) -> None:
        """Set the momentum of the next step."""
        self.momentum.after_step(progress)

    @torch.no_grad()
    def _target(self, clips: Tensor) -> Tensor:
        """Return projections ``(B, D)``; BatchNorm takes their own batch's statistics."""
        projected: Tensor = self.target_projector(self.target_encoder(clips))
        return projected


def distance(p_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Return the mean of ``2 - 2 cos``: 0 for one direction, 4 for opposite ones.

    The squared distance once both are on unit length. In full precision.
    """
    with torch.autocast(p_BD.device.type, enabled=False):
        return 2 - 2 * F.cosine_similarity(p_BD.float(), target_BD.float(), dim=1).mean()
