"""The classifier of clips: a trunk, dropout, one linear layer.

Feichtenhofer et al., "SlowFast Networks", ICCV 2019, https://arxiv.org/abs/1812.03982, sections 3.4
and 4.1: the pooled feature, dropout of 0.5, and a layer that starts at N(0, 0.01) with a bias of 0.
Difference: the authors' code returns the softmax when it tests; logits leave here, always.

Before that layer a linear probe may bring features to one scale, which self-supervised ones lack.
``batch`` is the batch norm with scale and shift of CoCLR's probe (Han et al., NeurIPS 2020,
https://arxiv.org/abs/2010.09709; in its code, not in the paper), ``l2`` the unit length of CVRL's
(Qian et al., CVPR 2021, https://arxiv.org/abs/2008.03800; in its code). Difference: the batch's
statistics are those of all processes.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, F features, K classes.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.nn.norms import SyncNorm

Scaling = Literal["none", "batch", "l2"]


class Classifier(nn.Module):
    """A logit for each class of each clip; weights are named ``encoder.*`` and ``classifier.*``.

    The norm's, if there is one, are named ``norm.*``.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_classes: int,
        dropout: float = 0.5,
        scaling: Scaling = "none",
    ) -> None:
        """Put a fresh layer for ``num_classes`` on ``encoder``."""
        super().__init__()
        self.encoder = encoder
        self.scaling = scaling
        if scaling == "batch":
            self.norm = SyncNorm(encoder.features)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.features, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Return ``(B, K)``, before the softmax."""
        return self.logits_of(self.encoder(clips_BCTHW))

    def logits_of(self, features: Tensor) -> Tensor:
        """Return the logits ``(..., K)`` of features ``(..., F)``: of clips, or of places in maps.

        While training with ``scaling: batch`` all rows together are the batch.
        """
        if self.scaling == "l2":
            features = F.normalize(features, dim=-1)
        elif self.scaling == "batch":
            rows_BF = features.flatten(0, -2)
            features = self.norm(rows_BF[:, :, None, None, None]).reshape(features.shape)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits
