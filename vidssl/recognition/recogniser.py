"""A classifier in training: which of its parts learn, and its loss.

Two protocols are called linear, and differ by points. In ``backbone`` the trunk is a fixed
function: its BatchNorm keeps the statistics of the pretraining (MoCo's probe). In
``backbone_train_bn`` its weights do not change, but BatchNorm uses each batch's statistics and its
running ones go on adapting: the release of Feichtenhofer et al., CVPR 2021,
https://arxiv.org/abs/2104.14558, cuts the gradient before the classifier and leaves the trunk in
training mode. BatchNorm's scale and shift are weights, and stay, in both.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, K classes.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.features.operators import AnyOperator, BankWindow
from vidssl.nn.step import StepOutput
from vidssl.recognition.classifier import Classifier, Scaling
from vidssl.recognition.losses import Loss, Weighing, sigmoid_loss, softmax_loss
from vidssl.section import Section

Freeze = Literal["none", "backbone", "backbone_train_bn"]


class HeadConfig(Section):
    """What is between the pooled feature and the loss."""

    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    scaling: Scaling = "none"
    """Of features before the linear layer: ``batch`` is a batch norm with scale and shift, ``l2``
    makes them of unit length."""
    loss: Loss = "softmax"
    """``softmax``: one class a sample; ``sigmoid``: any number of them."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    class_weights: Weighing = "none"
    """How much more the loss of a rare class counts, by the samples that it has in training."""
    target: Literal["label", "verb", "noun"] = "label"
    """Which of a source's labels are learnt: its own, or the column of an EPIC list."""
    operator: AnyOperator | None = None
    """How a feature bank is read; null trains without a bank."""


@dataclass(frozen=True)
class RecognitionBatch:
    """One step's input: ``clips`` ``(B, C, T, H, W)``, float, normalised; ``targets`` ``(B, K)``.

    ``is_mixed`` says that targets are shares of two classes; ``window`` is what each clip sees of a
    bank.
    """

    clips: Tensor
    targets: Tensor
    is_mixed: bool = False
    window: BankWindow | None = None


class Recogniser(nn.Module):
    """A classifier with the loss that it is trained by; ``classifier`` is the result."""

    class_weights: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        config: HeadConfig,
        *,
        num_classes: int,
        freeze: Freeze = "none",
        weights_K: Tensor | None = None,
        bank_dim: int | None = None,
    ) -> None:
        """Put a fresh head on ``encoder``; ``weights_K`` says how much each class counts.

        ``bank_dim`` is the number of features of a bank's row, by default the encoder's.
        """
        super().__init__()
        self.config, self.freeze = config, freeze
        operator = None
        if config.operator is not None:
            operator = config.operator.build(encoder.features, bank_dim or encoder.features)
        self.classifier = Classifier(
            encoder,
            num_classes=num_classes,
            dropout=config.dropout,
            scaling=config.scaling,
            operator=operator,
        )
        # No part of the state: it follows from recipe and data.
        self.register_buffer("class_weights", weights_K, persistent=False)
        if freeze != "none":
            encoder.requires_grad_(False)

    @property
    def encoder(self) -> Encoder:
        """The trunk."""
        return self.classifier.encoder

    def train(self, mode: bool = True) -> "Recogniser":
        """Set the mode; a trunk that is a fixed function stays in evaluation mode."""
        super().train(mode)
        if self.freeze == "backbone":
            self.encoder.eval()
        return self

    def forward(self, batch: RecognitionBatch) -> StepOutput:
        """Return the mean loss: at the start ln K of one class a clip, ln 2 of several.

        The scalars are ``top1``, the share of clips whose class is the first, where clips have one
        and are not mixed; of several classes the mean score of those shown and of the others.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.freeze == "none"):
            features_BF = self.encoder(batch.clips)
        logits_BK = self.classifier.logits_of(features_BF, batch.window)
        smoothing, weights_K = self.config.label_smoothing, self.class_weights
        if self.config.loss == "softmax":
            loss = softmax_loss(logits_BK, batch.targets, smoothing=smoothing, weights_K=weights_K)
        else:
            loss = sigmoid_loss(logits_BK, batch.targets, smoothing=smoothing, weights_K=weights_K)
        return StepOutput(loss, self._scalars(logits_BK.detach(), batch))

    def after_step(self, progress: float) -> None:
        """Do nothing; the trainer calls this after each step of whatever it trains."""

    def _scalars(self, logits_BK: Tensor, batch: RecognitionBatch) -> dict[str, Tensor]:
        if batch.is_mixed:
            return {}
        if self.config.loss == "softmax":
            right_B = logits_BK.argmax(dim=1) == batch.targets.argmax(dim=1)
            return {"top1": right_B.float().mean()}
        scores_BK = logits_BK.float().sigmoid()
        shown_BK = batch.targets > 0.5
        return {
            "positive_score": _mean_where(scores_BK, shown_BK),
            "negative_score": _mean_where(scores_BK, ~shown_BK),
        }


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
