"""The action detector: a trunk, a feature for each box, a bank operator if asked for, a classifier.

Without an operator it is the AVA head of Feichtenhofer et al., "SlowFast Networks", ICCV 2019,
https://arxiv.org/abs/1812.03982, section 5; with one, the long-term detector of Wu et al., CVPR
2019, https://arxiv.org/abs/1812.05038, section 3: Linear(dropout(concat[S, operator(S, bank)])), of
which S is what a bank stores. A context takes the place of S before the classifier, for which the
box looks at its whole clip (``vidssl.detection.context``); banks store, and operators ask by, S.

Differences from both: a label of -1 is left out of the loss; the mean is over the labels of one
process, as in the authors' code, so that a process with fewer boxes gives each more weight.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, N boxes of all clips in order, Q
rows of a window, F features, K classes.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.detection.context import AnyContext, ClipContext, Pool
from vidssl.detection.roi_head import RoIHead, numbered
from vidssl.features.operators import AnyOperator, BankOperator, BankWindow
from vidssl.nn.step import StepOutput
from vidssl.section import Section

LEAST = 1e-30


class FocalConfig(Section):
    """Focal loss (Lin et al., ICCV 2017, https://arxiv.org/abs/1708.02002), against rare classes.

    A label's loss counts ``(1 - p) ** gamma`` times, p being the probability that its answer gets,
    so that what is easy hardly counts. The paper sums over all and divides by the number of
    positives; here it is the mean over known labels, as without it. On AVA mmaction2 reports 26.65
    for it to 26.41 without (SlowFast R50 8x8, v2.2, temporal max-pool).
    """

    gamma: NonNegativeFloat = 2.0
    """0 counts every label alike: the binary cross-entropy."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Weight of labels that are 1, and 1 - alpha of the others (the paper: 0.25); null: all 1."""


class HeadConfig(Section):
    """The options of all that stands on the trunk."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Before the classifier: SlowFast's AVA models 0.5, those with a feature bank 0.3."""
    roi_resolution: PositiveInt = 7
    aligned: bool = True
    """RoIAlign with half-pixel alignment; models ported from Caffe2 were trained without."""
    operator: AnyOperator | None = None
    """How a feature bank is read; null trains without a bank."""
    context: AnyContext | None = None
    """How a box looks at the rest of its clip; null classifies the box's own feature."""
    focal: FocalConfig | None = None
    """Focal loss in place of binary cross-entropy."""


@dataclass(frozen=True)
class DetectionBatch:
    """One step's input: ``clips`` ``(B, C, T, H, W)``, float, normalised.

    ``boxes`` holds ``(P, 4)`` of each clip, normalised x1 y1 x2 y2, P from 0; ``labels`` is
    ``(N, K)``: 1 the box shows the class, 0 it does not, -1 not known.
    """

    clips: Tensor
    boxes: tuple[Tensor, ...]
    labels: Tensor
    window: BankWindow | None = None
    step: int = 0


class Detector(nn.Module):
    """A score for each class of each box."""

    ignored: Tensor

    def __init__(
        self,
        encoder: Encoder,
        config: HeadConfig,
        *,
        num_classes: int,
        bank_dim: int | None = None,
        freeze_backbone: bool = False,
        classes: Collection[int] | None = None,
    ) -> None:
        """Put a fresh head for ``num_classes`` on ``encoder``.

        ``bank_dim`` is the number of features of a bank's row, by default the trunk's. A frozen
        backbone gets no gradient, and its BatchNorm keeps its statistics. ``classes`` are the ids
        that are trained, counted from 1, None for all: of the others no label is known, whatever a
        batch says.

        Raises:
            ValueError: if a class is beyond ``num_classes``.
        """
        super().__init__()
        self.encoder = encoder
        self.focal = config.focal
        self.frozen = freeze_backbone
        if self.frozen:
            encoder.requires_grad_(False).eval()
        self.roi_head = RoIHead(
            encoder.spatial_stride, resolution=config.roi_resolution, aligned=config.aligned
        )
        self.bank_dim = bank_dim or encoder.features
        self.context: ClipContext | None = None
        if config.context is not None:
            self.context = config.context.build(encoder.features)
        self.operator: BankOperator | None = None
        width = self.own_features
        if config.operator is not None:
            self.operator = config.operator.build(encoder.features, self.bank_dim)
            width += self.operator.features
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        ignored = torch.zeros(num_classes, dtype=torch.bool)
        if classes is not None:
            if not set(classes) <= set(range(1, num_classes + 1)):
                raise ValueError(f"expected classes from 1 to {num_classes}, got {sorted(classes)}")
            ignored = torch.ones(num_classes, dtype=torch.bool)
            ignored[torch.tensor(sorted(classes)) - 1] = False
        self.register_buffer("ignored", ignored, persistent=False)

    @property
    def own_features(self) -> int:
        """The classifier's first columns: those of the box without the bank."""
        return self.encoder.features if self.context is None else self.context.features

    def train(self, mode: bool = True) -> "Detector":
        """Set the mode; a frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, clips_BCTHW: Tensor, boxes: tuple[Tensor, ...]) -> Tensor:
        """Return the feature of each box, ``(N, F)``: what a bank stores."""
        boxes_N4, clip_N = numbered(boxes, len(clips_BCTHW))
        return self._pool(clips_BCTHW, boxes_N4, clip_N)(self.encoder.maps(clips_BCTHW))

    def logits(
        self, clips_BCTHW: Tensor, boxes: tuple[Tensor, ...], window: BankWindow | None = None
    ) -> Tensor:
        """Return ``(N, K)``, before the sigmoid.

        Raises:
            ValueError: if a window is absent where an operator needs it, present where there is
                none, or does not fit the clips or the bank's F.
        """
        return self.logits_of(clips_BCTHW, *numbered(boxes, len(clips_BCTHW)), window)

    def logits_of(
        self,
        clips_BCTHW: Tensor,
        boxes_N4: Tensor,
        clip_N: Tensor,
        window: BankWindow | None = None,
    ) -> Tensor:
        """Return ``(N, K)``, before the sigmoid; ``clip_N`` says which clip each box is of.

        Raises:
            ValueError: as ``logits`` does.
        """
        self._require_window(window, clips_BCTHW.shape[0])
        maps_BFTHW = self.encoder.maps(clips_BCTHW)
        pool = self._pool(clips_BCTHW, boxes_N4, clip_N)
        short_NF = pool(maps_BFTHW)
        own_ND = short_NF
        if self.context is not None:
            own_ND = self.context(short_NF, maps_BFTHW, clip_N, pool)
        if self.operator is not None and window is not None:
            answer_ND = self._ask(self.operator, short_NF, clip_N, window)
            own_ND = torch.cat([own_ND, answer_ND], dim=1)
        logits_NK: Tensor = self.classifier(self.dropout(own_ND))
        return logits_NK

    def forward(self, batch: DetectionBatch) -> StepOutput:
        """Return the mean loss over all known labels; of binary cross-entropy ln 2 at the start.

        The scalars are the mean score of the labels that are 1, and of those that are 0; 0 if there
        are none. Without any known label the loss is 0 and every gradient zero rather than absent,
        so that the other processes' step is not held up.

        Raises:
            ValueError: if the labels are not ``(N, K)``, or as ``logits`` does.
        """
        logits_NK = self.logits(batch.clips, batch.boxes, batch.window)
        if logits_NK.shape != batch.labels.shape:
            expected, found = tuple(logits_NK.shape), tuple(batch.labels.shape)
            raise ValueError(f"expected labels {expected}, got {found}")
        labels_NK = batch.labels.masked_fill(self.ignored, -1)
        return detection_loss(logits_NK, labels_NK, self.focal)

    def after_step(self, progress: float) -> None:
        """Do nothing; the trainer calls this after each step of whatever it trains."""

    def _pool(self, clips_BCTHW: Tensor, boxes_N4: Tensor, clip_N: Tensor) -> Pool:
        height_px, width_px = clips_BCTHW.shape[-2:]
        size_px = (height_px, width_px)
        return partial(self.roi_head.pooled, boxes_N4=boxes_N4, clip_N=clip_N, size_px=size_px)

    @staticmethod
    def _ask(
        operator: BankOperator, short_NF: Tensor, clip_N: Tensor, window: BankWindow
    ) -> Tensor:
        """Return the operator's answer for each box; the bank is data, no gradient enters it."""
        device = short_NF.device
        clip_N = clip_N.to(device)
        bank_NQF, mask_NQ, offset_NQ = (
            part.index_select(0, clip_N)
            for part in (
                window.features.detach().to(short_NF),
                window.mask.to(device),
                window.offset_s.to(device),
            )
        )
        answer_ND: Tensor = operator(short_NF, bank_NQF, mask_NQ, offset_NQ)
        return answer_ND

    def _require_window(self, window: BankWindow | None, clips: int) -> None:
        if (window is None) != (self.operator is None):
            needed, given = ("no" if part is None else "a" for part in (self.operator, window))
            raise ValueError(f"this detector needs {needed} window of the bank, got {given} window")
        if window is not None:
            found = (window.features.shape[0], window.features.shape[-1])
            if found != (clips, self.bank_dim):
                expected = f"({clips}, Q, {self.bank_dim})"
                raise ValueError(
                    f"expected a window {expected}, got {tuple(window.features.shape)}"
                )


def detection_loss(
    logits_NK: Tensor, labels_NK: Tensor, focal: FocalConfig | None = None
) -> StepOutput:
    """Return the mean loss of the labels that are not -1, and the mean scores.

    It is the binary cross-entropy, or made focal.
    """
    logits_NK = logits_NK.float()  # half precision would round small losses away
    targets_NK = labels_NK.to(logits_NK).clamp(min=0)  # what is not known is left out below
    loss_NK = F.binary_cross_entropy_with_logits(logits_NK, targets_NK, reduction="none")
    if focal is not None:
        loss_NK = loss_NK * _focus(loss_NK, targets_NK, focal)
    scores_NK = logits_NK.detach().sigmoid()
    scalars = {
        "positive_score": mean_where(scores_NK, labels_NK == 1),
        "negative_score": mean_where(scores_NK, labels_NK == 0),
    }
    return StepOutput(mean_where(loss_NK, labels_NK >= 0), scalars)


def _focus(loss_NK: Tensor, targets_NK: Tensor, focal: FocalConfig) -> Tensor:
    """Return how much each label's cross-entropy counts; -log p is that cross-entropy."""
    # 1 - p by expm1, as 1 - exp(-loss) would round it; a root of 0 has no gradient.
    weights_NK: Tensor = (-torch.expm1(-loss_NK)).clamp(min=LEAST).pow(focal.gamma)
    if focal.alpha is None:
        return weights_NK
    return weights_NK * torch.where(targets_NK == 1, focal.alpha, 1 - focal.alpha)


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values inside the mask, 0 (with a gradient of 0) if there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
