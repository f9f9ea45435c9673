"""The classifier of clips: a trunk, dropout, one linear layer.

Feichtenhofer et al., "SlowFast Networks", ICCV 2019, https://arxiv.org/abs/1812.03982, sections 3.4
and 4.1: the pooled feature, dropout of 0.5, and a layer that starts at N(0, 0.01) with a bias of 0.
Difference: the authors' code returns the softmax when it tests; logits leave here, always.

Before that layer a linear probe may bring features to one scale, which self-supervised ones lack.
``batch`` is the batch norm with scale and shift of CoCLR's probe (Han et al., NeurIPS 2020,
https://arxiv.org/abs/2010.09709; in its code, not in the paper), ``l2`` the unit length of CVRL's
(Qian et al., CVPR 2021, https://arxiv.org/abs/2008.03800; in its code). Difference: the batch's
statistics are those of all processes.

With an operator it is the long-term classifier of Wu et al., CVPR 2019,
https://arxiv.org/abs/1812.05038, section 5: Linear(dropout(concat[S, operator(S, bank)])), S being
the clip's pooled feature; all that the clip sees of the bank is data, no gradient enters it.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, Q rows of a window, F features, K
classes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.features.operators import BankOperator, BankWindow
from vidssl.nn.norms import SyncNorm

Scaling = Literal["none", "batch", "l2"]


class Classifier(nn.Module):
    """A logit for each class of each clip; weights are named ``encoder.*`` and ``classifier.*``.

    The norm's, if there is one, are named ``norm.*``, those of an operator ``operator.*``.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_classes: int,
        dropout: float = 0.5,
        scaling: Scaling = "none",
        operator: BankOperator | None = None,
    ) -> None:
        """Put a fresh layer for ``num_classes`` on ``encoder``, and on what ``operator`` answers.

        Raises:
            ValueError: if features are scaled, of which the operator knows nothing.
        """
        super().__init__()
        if operator is not None and scaling != "none":
            raise ValueError(f"an operator asks with features as they are, got {scaling!r}")
        self.encoder = encoder
        self.scaling = scaling
        if scaling == "batch":
            self.norm = SyncNorm(encoder.features)
        self.operator = operator
        self.dropout = nn.Dropout(dropout)
        width = encoder.features + (0 if operator is None else operator.features)
        self.classifier = nn.Linear(width, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, clips_BCTHW: Tensor, window: BankWindow | None = None) -> Tensor:
        """Return ``(B, K)``, before the softmax.

        Raises:
            ValueError: as ``logits_of`` does.
        """
        return self.logits_of(self.encoder(clips_BCTHW), window)

    def logits_of(self, features: Tensor, window: BankWindow | None = None) -> Tensor:
        """Return the logits ``(..., K)`` of features ``(..., F)``: of clips, or of places in maps.

        While training with ``scaling: batch`` all rows together are the batch. A window is of
        clips, ``(B, F)``.

        Raises:
            ValueError: if a window is absent where an operator needs it, or is not of the clips.
        """
        if self.operator is not None or window is not None:
            features = self._with_answer(features, window)
        if self.scaling == "l2":
            features = F.normalize(features, dim=-1)
        elif self.scaling == "batch":
            rows_BF = features.flatten(0, -2)
            features = self.norm(rows_BF[:, :, None, None, None]).reshape(features.shape)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits

    def _with_answer(self, features_BF: Tensor, window: BankWindow | None) -> Tensor:
        """Return each clip's feature and the operator's answer to it, one behind the other."""
        if self.operator is None or window is None:
            needed, given = ("no" if part is None else "a" for part in (self.operator, window))
            raise ValueError(f"this classifier needs {needed} window of the bank, got {given}")
        if features_BF.ndim != 2 or len(window.mask) != len(features_BF):
            found = f"{tuple(features_BF.shape)} and {tuple(window.features.shape)}"
            raise ValueError(f"expected features (B, F) and a window of B clips, got {found}")
        rows = window.features.detach().to(features_BF)
        mask, offset_s = (part.to(features_BF.device) for part in (window.mask, window.offset_s))
        return torch.cat([features_BF, self.operator(features_BF, rows, mask, offset_s)], dim=1)
