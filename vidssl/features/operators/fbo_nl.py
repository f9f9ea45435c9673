"""FBO-NL: the box asks the bank by attention, layer after layer.

Wu et al., "Long-Term Feature Banks for Detailed Video Understanding", CVPR 2019,
https://arxiv.org/abs/1812.05038, section 3.3, in the form of the authors' code: only the box's side
changes from layer to layer, and all layers read one projection of the bank. ``form: pre`` is their
AVA and EPIC form, ``post`` their Charades form, which ends each layer with a ReLU: where the one
starts by answering ``W_s S``, the other starts by answering ``ReLU(W_s S)``.

Differences, all off by default: ``masked`` keeps rows that are not there out of the softmax (theirs
take part as zeros); ``time_encoding`` tells each row how long before or after the box it is, which
theirs cannot know (permuting the bank changes nothing); ``likeness`` has the first layer begin by
attending to rows that are like the box. LayerNorm's epsilon is PyTorch's.

Tensor suffixes: N boxes, Q rows of a window, F features, D the operator's width, E time features.
"""

import math
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as nnf
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from vidssl.errors import BankError
from vidssl.features.operators import BankOperator, OperatorConfig

PERIODS_S = (6.0, 20.0, 60.0)
TIME_FEATURES = 3 + 2 * len(PERIODS_S)
LEAST_VARIANCE = 1e-8
TIME_SHARE = 3 / 8
"""Of a look's length, what each time feature gets beside it: neither drowns the other."""


class Config(OperatorConfig):
    """The options of FBO-NL; the paper's best AVA model has 3 layers."""

    name: Literal["fbo_nl"] = "fbo_nl"
    width: PositiveInt = 512
    layers: PositiveInt = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    form: Literal["pre", "post"] = "pre"
    """Whether a layer normalises before its output weights (AVA, EPIC) or after (Charades)."""
    masked: bool = False
    """Leave rows that are not there out of the softmax; the paper has them take part as zeros."""
    time_encoding: bool = False
    """Add to each row where it lies in time; not in the paper."""
    likeness: PositiveFloat | None = None
    """The score before the softmax with which the first layer starts for a row exactly like the
    box, 0 for one that has nothing to do with it; about 12 finds who was there before. The bank
    must hold the box's own kind of feature. Both sides are then told by how they differ from the
    window's mean row, in its deviations, at one length, through one projection; a ``width`` of at
    least the bank's numbers and 9 keeps looks and time apart. Null starts as the paper does, and
    has to find out by training what is alike. Not in the paper."""
    init_std: PositiveFloat = 0.01

    def build(self, short_dim: int, bank_dim: int) -> "FBONonLocal":
        """Build the operator; at the start it answers ``W_s S`` whatever the bank holds.

        In the form ``post`` that is ``ReLU(W_s S)``; with ``likeness`` S stands relative to its
        window, and the answer depends on the bank in that alone.

        Raises:
            BankError: if ``likeness`` is asked for and the two sides are of different sizes.
        """
        if self.likeness is not None and short_dim != bank_dim:
            raise BankError(
                f"operator.likeness compares a feature with the bank's rows: expected rows of "
                f"{short_dim} numbers, made by the same encoder and layers, found {bank_dim}"
            )
        return FBONonLocal(short_dim, bank_dim, self)


class FBONonLocal(BankOperator):
    """Layers of attention from one box to the rows of its window."""

    def __init__(self, short_dim: int, bank_dim: int, config: Config) -> None:
        """Make fresh weights."""
        super().__init__()
        self.features = config.width
        self.masked = config.masked
        self.compares = config.likeness is not None
        if not self.compares:  # else the memory's projection is that of both sides
            self.query = linear(short_dim, config.width, config.init_std)
        self.memory = linear(bank_dim, config.width, config.init_std)
        self.time: nn.Linear | None = None
        if config.time_encoding:
            self.time = nn.Linear(TIME_FEATURES, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        if config.likeness is not None:
            self._start_alike(config.likeness, bank_dim, config.width)

    def forward(
        self, short_NF: Tensor, bank_NQF: Tensor, mask_NQ: Tensor, offset_NQ: Tensor
    ) -> Tensor:
        """Return ``(N, D)``, the box's side after the last layer."""
        if self.compares:
            short_NF, bank_NQF = relative(short_NF, bank_NQF, mask_NQ)
        project = self.memory if self.compares else self.query
        a_ND: Tensor = self.dropout(project(short_NF))
        b_NQD = self.memory(bank_NQF)
        if self.time is not None:  # a row that is not there has no time either
            time_NQE = time_features(offset_NQ) * mask_NQ[..., None]
            b_NQD = b_NQD + self.time(time_NQE.to(bank_NQF.dtype))
        b_NQD = self.dropout(b_NQD)
        for layer in self.layers:
            a_ND = layer(a_ND, b_NQD, mask_NQ if self.masked else None)
        return a_ND

    @torch.no_grad()
    def _start_alike(self, likeness: float, bank_dim: int, width: int) -> None:
        """Make the first layer's scores ``likeness`` times the cosine of the two sides.

        With room for both, time gets directions of its own: it bears on no score yet, and what the
        attended rows say of time can be told from how they look. In less room the two overlap, and
        a projection to fewer numbers than rows have keeps the cosine in the mean only.
        """
        times = TIME_FEATURES if self.time is not None else 0
        if bank_dim + times <= width:
            together = nn.init.orthogonal_(torch.empty(width, bank_dim + times))
            self.memory.weight.copy_(together[:, :bank_dim])
            of_time = together[:, bank_dim:]
        else:
            nn.init.orthogonal_(self.memory.weight)
            of_time = nn.init.orthogonal_(torch.empty(width, times))
        if self.time is not None:
            self.time.weight.copy_(of_time * TIME_SHARE * math.sqrt(min(bank_dim, width)))
        first = cast(Layer, self.layers[0])
        # Sides of length sqrt(F) have a product of F; the attention divides by sqrt(D).
        each = math.sqrt(likeness * math.sqrt(width) / min(bank_dim, width))
        for side in (first.theta, first.phi):
            side.weight.copy_(torch.eye(width) * each)


class Layer(nn.Module):
    """One step of attention; its output weights start at zero, so it starts by adding nothing.

    In the form ``post`` it cuts what is below zero off all the same.
    """

    def __init__(self, config: Config) -> None:
        """Make fresh weights."""
        super().__init__()
        width = config.width
        self.form = config.form
        self.theta, self.phi, self.g = (linear(width, width, config.init_std) for _ in range(3))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out = linear(width, width, 0.0)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, a_ND: Tensor, b_NQD: Tensor, mask_NQ: Tensor | None) -> Tensor:
        """Return the box's side after one step, ``(N, D)``; without a mask, all rows speak."""
        y_ND = attend(self.theta(a_ND), self.phi(b_NQD), self.g(b_NQD), mask_NQ)
        if self.form == "pre":
            pre_ND: Tensor = a_ND + self.dropout(self.out(self.norm(y_ND).relu()))
            return pre_ND
        post_ND: Tensor = a_ND + self.dropout(self.norm(self.out(y_ND)))
        return post_ND.relu()


def relative(short_NF: Tensor, bank_NQF: Tensor, mask_NQ: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides relative to the window, each vector of length sqrt(F).

    Of every feature the mean over the rows that are there is taken off, and what is left divided by
    their deviation: what all of a video's rows share, its scene say, tells nobody from another.
    Rows that are not there, or equal the mean, are zero.
    """
    bank_NQF, short_NF = bank_NQF.float(), short_NF.float()
    there_NQ1 = mask_NQ[..., None].float()
    count_N1 = there_NQ1.sum(dim=1).clamp(min=1)
    mean_NF = (bank_NQF * there_NQ1).sum(dim=1) / count_N1
    away_NQF = (bank_NQF - mean_NF[:, None]) * there_NQ1
    deviation_NF = (away_NQF.square().sum(dim=1) / count_N1 + LEAST_VARIANCE).sqrt()
    length = math.sqrt(short_NF.shape[1])
    one_NF = nnf.normalize((short_NF - mean_NF) / deviation_NF, dim=1) * length
    rows_NQF = nnf.normalize(away_NQF / deviation_NF[:, None], dim=2) * length
    return one_NF, rows_NQF


def attend(theta_ND: Tensor, phi_NQD: Tensor, g_NQD: Tensor, mask_NQ: Tensor | None) -> Tensor:
    """Return the mean of ``g`` weighted by ``softmax(theta . phi / sqrt(D))``, ``(N, D)``.

    Rows outside ``mask_NQ`` get no weight, and where all rows are outside, the answer is zero.
    """
    scores_NQ = torch.einsum("nd,nqd->nq", theta_ND, phi_NQD) / math.sqrt(theta_ND.shape[1])
    if mask_NQ is None:
        weights_NQ = scores_NQ.softmax(dim=1)
    else:  # the least finite number and not -inf, of which a whole row would give NaN
        lowest = torch.finfo(scores_NQ.dtype).min
        weights_NQ = scores_NQ.masked_fill(~mask_NQ, lowest).softmax(dim=1) * mask_NQ
    return torch.einsum("nq,nqd->nd", weights_NQ.to(g_NQD.dtype), g_NQD)


def time_features(offset_NQ: Tensor) -> Tensor:
    """Return ``(N, Q, E)`` numbers around [-1, 1] that vary smoothly with an offset in seconds.

    The side (past or future), the distance on a linear and on a logarithmic scale of half a minute,
    and the phase in three periods.
    """
    distance_NQ = offset_NQ.abs()
    features = [offset_NQ.tanh(), distance_NQ / 30, distance_NQ.log1p() / math.log1p(30)]
    for period_s in PERIODS_S:
        phase_NQ = offset_NQ * (2 * math.pi / period_s)
        features += [phase_NQ.sin(), phase_NQ.cos()]
    return torch.stack(features, dim=-1)


def linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """Return a layer with weights of N(0, std) and no bias yet (all zero)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
