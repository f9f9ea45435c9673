"""An attentive probe: a learned query looks at the tokens of a frozen map, then a linear layer.

After the probe of V-JEPA (Bardes et al., 2024, https://arxiv.org/abs/2404.08471), a reconstruction
from its description: cross-attention with one learned query, added to the query, a two-layer MLP
with GELU, LayerNorm, a linear classifier. Known differences: tokens are standardised by the
training set and brought to ``width`` numbers first, so that the probe's size does not follow the
backbone's; each place has a learned offset, since tokens of a convolution do not tell where they
are; tokens are means over cells of the map, so that they can be kept; trained on those kept tokens
without augmentation, with settings of our own.

Tensor suffixes: N training videos, M test videos, L tokens, F features, K classes, B of a batch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vidssl.probe.tokens import StoredTokens

Tokens = NDArray[np.floating] | StoredTokens
"""Of some videos, ``(N, L, F)``; a batch is read at a time."""


@dataclass(frozen=True)
class AttentiveConfig:
    """How the probe is built and trained: AdamW, a cosine from ``lr`` to 0."""

    width: int = 256
    heads: int = 4
    epochs: int = 20
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Attentive:
    """Probabilities ``(M, K)``; the mean loss of the last epoch; the probe's weights, counted."""

    probabilities: NDArray[np.float64]
    loss: float
    parameters: int
    steps: int


class AttentiveProbe(nn.Module):
    """The probe itself, ``(B, L, F) -> (B, K)``."""

    def __init__(self, tokens: int, features: int, classes: int, config: AttentiveConfig) -> None:
        super().__init__()
        width = config.width
        self.enter = nn.Linear(features, width)
        self.place = nn.Parameter(torch.empty(tokens, width))
        self.query = nn.Parameter(torch.empty(width))
        self.before = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.between = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.after = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        for learned in (self.query, self.place):
            nn.init.normal_(learned, std=0.5)  # told apart from the start: few steps are trained

    def forward(self, tokens_BLF: Tensor) -> Tensor:
        """Return logits."""
        tokens_BLW = self.before(self.enter(tokens_BLF) + self.place)
        query_B1W = self.query.expand(len(tokens_BLF), 1, -1)
        looked_B1W, _ = self.attention(query_B1W, tokens_BLW, tokens_BLW, need_weights=False)
        pooled_BW = (query_B1W + looked_B1W)[:, 0]
        pooled_BW = pooled_BW + self.mlp(self.between(pooled_BW))
        logits_BK: Tensor = self.classifier(self.after(pooled_BW))
        return logits_BK


def fit_attentive(
    train_NLF: Tokens,
    labels_N: NDArray[np.integer] | NDArray[np.bool_],
    test_MLF: Tokens,
    *,
    classes: int,
    config: AttentiveConfig | None = None,
    device: torch.device | None = None,
) -> Attentive:
    """Train the probe and return its probabilities on the test videos.

    ``labels_N`` may be ``(N, K)`` of booleans: each class is then answered by itself. The same
    arguments give the same probe on the same machine, be tokens in memory or stored, of which a
    batch is read at a time; the caller's random state stays as it is.

    Raises:
        ValueError: if shapes do not agree, or there is nothing to train on.
    """
    config, device = config or AttentiveConfig(), device or torch.device("cpu")
    if train_NLF.ndim != 3 or train_NLF.shape[1:] != test_MLF.shape[1:] or not len(train_NLF):
        shapes = f"{train_NLF.shape} and {test_MLF.shape}"
        raise ValueError(f"expected tokens (N, L, F) and (M, L, F), got {shapes}")
    if labels_N.shape not in {(len(train_NLF),), (len(train_NLF), classes)}:
        raise ValueError(f"labels of shape {labels_N.shape} for {len(train_NLF)} videos")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        probe = AttentiveProbe(train_NLF.shape[1], train_NLF.shape[2], classes, config).to(device)
    mean_F, scale_F = (torch.from_numpy(one).to(device) for one in _scale(train_NLF, config.batch))

    def tokens(rows: NDArray[np.floating]) -> Tensor:
        batch = torch.from_numpy(np.asarray(rows, dtype=np.float32)).to(device)
        return (batch - mean_F) / scale_F

    loss, steps = _train(probe, tokens, train_NLF, labels_N, config, device)
    probe.eval()
    parts = [np.zeros((0, classes))]
    with torch.inference_mode():
        for rows in _batches(len(test_MLF), config.batch):
            logits = probe(tokens(test_MLF[rows])).double()
            answered = logits.softmax(1) if labels_N.ndim == 1 else logits.sigmoid()
            parts.append(answered.cpu().numpy())
    parameters = sum(weight.numel() for weight in probe.parameters())
    return Attentive(np.concatenate(parts), loss, parameters, steps)


def _train(
    probe: AttentiveProbe,
    tokens: Callable[[NDArray[np.floating]], Tensor],
    train_NLF: Tokens,
    labels_N: NDArray[np.integer] | NDArray[np.bool_],
    config: AttentiveConfig,
    device: torch.device,
) -> tuple[float, int]:
    """Return the mean loss of the last epoch, and how many steps there were."""
    optimizer = torch.optim.AdamW(
        probe.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    count = len(train_NLF)
    each = math.ceil(count / config.batch)
    rng = np.random.default_rng(config.seed)
    targets = torch.from_numpy(
        labels_N.astype(np.int64) if labels_N.ndim == 1 else labels_N.astype(np.float32)
    ).to(device)
    step, loss_sum = 0, 0.0
    for _ in range(config.epochs):
        loss_sum = 0.0
        order = rng.permutation(count)
        for rows in np.array_split(order, each):
            done = step / (each * config.epochs)
            optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * done)) / 2
            logits = probe(tokens(train_NLF[rows]))
            wanted = targets[torch.from_numpy(rows).to(device)]
            if labels_N.ndim == 1:
                loss = F.cross_entropy(logits, wanted)
            else:
                loss = F.binary_cross_entropy_with_logits(logits, wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += loss.item() * len(rows)
            step += 1
    return loss_sum / count, step


def _batches(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))


def _scale(train_NLF: Tokens, at_once: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation of each feature over videos and tokens, a video at a time."""
    total_F = np.zeros(train_NLF.shape[2])
    square_F = np.zeros_like(total_F)
    for rows in _batches(len(train_NLF), at_once):
        for tokens_LF in train_NLF[rows]:
            wide_LF = tokens_LF.astype(np.float64)
            total_F += wide_LF.sum(axis=0)
            square_F += (wide_LF**2).sum(axis=0)
    count = train_NLF.shape[0] * train_NLF.shape[1]
    mean_F = total_F / count
    deviation_F = np.sqrt(np.maximum(square_F / count - mean_F**2, 0.0))
    scale_F = np.where(deviation_F > 1e-6 * np.abs(mean_F) + 1e-12, deviation_F, 1.0)
    return mean_F.astype(np.float32), scale_F.astype(np.float32)
