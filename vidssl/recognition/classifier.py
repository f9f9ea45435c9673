"""The classifier of clips: a trunk, dropout, one linear layer.

Feichtenhofer et al., "SlowFast Networks", ICCV 2019, https://arxiv.org/abs/1812.03982, sections 3.4
and 4.1: the pooled feature, dropout of 0.5, and a layer that starts at N(0, 0.01) with a bias of 0.
Difference: the authors' code returns the softmax when it tests; logits leave here, always.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, K classes.
"""

from torch import Tensor, nn

from vidssl.backbones import Encoder


class Classifier(nn.Module):
    """A logit for each class of each clip; weights are named ``encoder.*`` and ``classifier.*``."""

    def __init__(self, encoder: Encoder, *, num_classes: int, dropout: float = 0.5) -> None:
        """Put a fresh layer for ``num_classes`` on ``encoder``."""
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.features, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Return ``(B, K)``, before the softmax."""
        logits_BK: Tensor = self.classifier(self.dropout(self.encoder(clips_BCTHW)))
        return logits_BK
