"""TeG: a long clip, a short one inside it; agree at every moment, and on the video as a whole.

Qian et al., "On Temporal Granularity in Self-Supervised Video Representation Learning", BMVC 2022,
https://arxiv.org/abs/2112.04480. A reconstruction: the abstract gives the nested clips, a
fine-grained term between embeddings of the same moment, and a persistent one between the global
embeddings of the two clips. No code is released. Not from the paper, and so options or open to
doubt: lengths and strides of the clips (``sampling.strides``), the weight of the terms
(``fine_weight``), whether distant moments of the same video are negatives
(``same_video_negatives``), the interpolation between steps, the widths of the heads (the
persistent one is CVRL's), the mean over time as the global embedding, and that both clips share the
statistics of each norm, as in CVRL's code.

A step of the map stands at the time of input frame ``step * temporal_stride``, where strided
convolutions with PyTorch's symmetric padding are centred. Networks that pool frames or pick them
otherwise (SlowFast) are centred less than a step later, by more in the long clip than in the short
one. Times are those of the video, so crops, flips and any pace keep the correspondence.

Options of other papers: Un-Mix (``vidssl.augment.mixing``) mixes the long clip, frame by frame, and
weighs both terms by what is kept of it; the long clip goes forward and backward once more, with
norm statistics of its own. CO2 (``vidssl.nn.co2``) is for the persistent term, with the other
videos' clips as its negatives.

Tensor suffixes: B clips of this process, G of all processes, S steps of one clip's map, L of the
other's, D projected features, F the encoder's, T frames, H and W pixels, V views.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from vidssl.augment.mixing import UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder
from vidssl.errors import RecipeError
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.co2 import Co2Config, among_clips
from vidssl.nn.contrast import nt_xent
from vidssl.nn.distributed import gather_with_grad, own_rows, sum_with_grad, world_size
from vidssl.nn.heads import mlp
from vidssl.nn.health import between

SAME_S = 1e-6
"""Times that differ by less are equal: far below a frame, far above what float64 rounds."""


class Config(MethodConfig):
    """The balance of the two terms, the negatives of the fine one, and the heads."""

    name: Literal["teg"] = "teg"
    starts: ClassVar[tuple[str, ...]] = ("nested",)
    fine_weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Of the fine-grained term; the persistent one has the rest. A term of weight 0 has no head."""
    same_video_negatives: bool = True
    """Whether moments of the same video further away than a step of the long clip are negatives;
    without them, features that are constant in time satisfy the fine-grained term."""
    temperature: PositiveFloat = 0.1
    hidden: PositiveInt = 2048
    dim: PositiveInt = 128
    unmix: UnmixConfig = UnmixConfig()
    """``region: space`` only, where there is a fine term."""
    co2: Co2Config = Co2Config()

    @model_validator(mode="after")
    def _options_have_their_term(self) -> Self:
        if self.fine_weight > 0 and self.unmix.prob > 0 and self.unmix.region == "time":
            raise ValueError(
                "unmix would swap whole frames, which leaves nothing of the moments that the fine "
                "term looks for; expected unmix.region: space or fine_weight: 0, found region: time"
            )
        if self.fine_weight == 1 and self.co2.alpha > 0:
            raise ValueError(
                "co2 is for the persistent term; expected fine_weight below 1 or co2.alpha: 0, "
                f"found fine_weight: 1 and co2.alpha: {self.co2.alpha:g}"
            )
        return self

    def build(self, encoder: Encoder) -> "TeG":
        """Return the method around ``encoder``."""
        return TeG(encoder, self)

    def require_map(self, clips: torch.Size, map_: torch.Size) -> None:
        """Refuse a map of a single step, which tells no moments apart."""
        if map_[2] < 2:
            raise RecipeError(
                f"method teg: the backbone makes {map_[2]} step in time of {clips[2]} frames; "
                "expected at least 2 to tell moments apart: take more backbone.frames, or a "
                "backbone that keeps more of them"
            )

    def require_batch(self, clips: int) -> None:
        """Refuse a single clip where other videos are needed as negatives.

        Raises:
            ValueError: if there is none.
        """
        if clips < 2 and not (self.fine_weight == 1 and self.same_video_negatives):
            raise ValueError(
                f"optim.batch: teg tells a video from the others of the batch; expected at least "
                f"2 clips, found {clips}"
            )
        self.co2.require_batch(clips)


class TeG(SSLMethod):
    """View 0 is the long clip, view 1 the short one; a head for moments and one for the whole."""

    collapse_causes: ClassVar[str] = (
        "a fine term that asks for no difference in time (method.same_video_negatives), too few "
        "clips a step (a larger optim.batch), or a rate that is too high (a lower optim.lr)"
    )
    num_views = 2

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        width, hidden = encoder.features, config.hidden
        self.fine: nn.Sequential | None = None
        self.persistent: nn.Sequential | None = None
        if config.fine_weight > 0:
            self.fine = mlp(width, hidden, config.dim, norm=True)
        if config.fine_weight < 1:
            self.persistent = mlp(width, hidden, hidden, hidden, config.dim, norm=True)

    def forward(self, batch: Batch) -> StepOutput:
        """Return ``w * fine + (1 - w) * persistent``; both terms, before their weights, as scalars.

        What options add has the weight of its term; of it CO2's is told, as ``consistency``.

        Raises:
            ValueError: if the batch does not say when its frames stand in their videos.
        """
        config = self.config
        both = self.encoder.maps(torch.cat(batch.views))  # one batch for all norms, as in CVRL
        maps = both.chunk(2)
        mix = config.unmix.draw(batch.seed, batch.step, batch.views[0])
        mixed = [] if mix is None else [self.encoder.maps(mix_reversed(batch.views[0], mix))]
        terms: dict[str, Tensor] = {}
        added: list[tuple[str, Tensor]] = []
        watched: dict[str, Tensor] = {}
        if self.fine is not None:
            times = _step_times(batch, maps, self.encoder.temporal_stride)
            steps = unit_steps(self.fine, both).chunk(2)
            near_s = _longest_gap(times[0])
            align = partial(self._fine, short_BSD=steps[1], times=times, near_s=near_s)
            terms["fine"] = align(steps[0])
            if mix is not None:
                added.append(("fine", of_both(align, unit_steps(self.fine, *mixed), mix)))
            one_BD, two_BD = (z_BSD.mean(dim=1) for z_BSD in steps)
            watched |= _over_time(steps[0].detach()) if batch.watched else {}
        if self.persistent is not None:
            one_BD, two_BD = unit_wholes(self.persistent, both).chunk(2)
            contrast = partial(nt_xent, two_BD=two_BD, temperature=config.temperature)
            terms["persistent"] = contrast(one_BD)
            if mix is not None:
                blend_BD = unit_wholes(self.persistent, *mixed)
                added.append(("persistent", of_both(contrast, blend_BD, mix)))
            if config.co2.alpha:
                differs = among_clips(one_BD, two_BD, config.co2.temperature)
                added.append(("persistent", config.co2.alpha * differs))
                watched["consistency"] = differs.detach()
        if batch.watched:
            watched |= between(one_BD.detach(), two_BD.detach())
        weights = {"fine": config.fine_weight, "persistent": 1 - config.fine_weight}
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        for name, term in added:
            loss = loss + weights[name] * term
        return StepOutput(loss, {name: term.detach() for name, term in terms.items()} | watched)

    def _fine(
        self, long_BSD: Tensor, short_BSD: Tensor, times: list[Tensor], near_s: Tensor
    ) -> Tensor:
        """Return the fine term: the short clip's steps ask the long clip, and the other way."""
        steps = long_BSD, short_BSD
        both = zip((1, 0), (0, 1), strict=True)
        return torch.stack(
            [
                aligned_nce(
                    (steps[asking], times[asking]),
                    (steps[asked], times[asked]),
                    near_s,
                    self.config.temperature,
                    same_video_negatives=self.config.same_video_negatives,
                )
                for asking, asked in both
            ]
        ).sum()


def unit_steps(head: nn.Module, map_BFTHW: Tensor) -> Tensor:
    """Return the head's unit vectors of each step of a map, ``(B, S, D)``, space averaged."""
    dense_BSF = map_BFTHW.mean(dim=(3, 4)).transpose(1, 2)
    z = head(dense_BSF.flatten(0, 1)).unflatten(0, dense_BSF.shape[:2])
    return F.normalize(z.float(), dim=2)


def unit_wholes(head: nn.Module, map_BFTHW: Tensor) -> Tensor:
    """Return the head's unit vector of each map as a whole, ``(B, D)``."""
    return F.normalize(head(map_BFTHW.mean(dim=(2, 3, 4))).float(), dim=1)


def interpolation(at_BS: Tensor, times_BL: Tensor) -> Tensor:
    """Return the share of each of L moments in the values at other times, ``(B, S, L)``, float64.

    A time between two neighbouring moments takes from both, linearly; the rows of times that lie
    between no two neighbours are 0. Equal moments, as of a frame that repeats, do no harm, and a
    clip that begins anew at the end of its video is not read across that seam.
    """
    left, right = times_BL[:, None, :-1], times_BL[:, None, 1:]
    at = at_BS[:, :, None]
    within = (at >= left - SAME_S) & (at <= right + SAME_S) & (left <= right)
    gap = within.to(torch.int8).argmax(dim=2, keepdim=True)  # the first of several
    share = ((at - left) / (right - left).clamp(min=SAME_S)).clamp(0, 1).gather(2, gap)
    found = within.any(dim=2, keepdim=True)
    weights = times_BL.new_zeros(*at_BS.shape, times_BL.shape[1])
    weights.scatter_(2, gap, (1 - share) * found)
    return weights.scatter_add_(2, gap + 1, share * found)


def aligned_nce(
    asking: tuple[Tensor, Tensor],
    asked: tuple[Tensor, Tensor],
    near_s: Tensor,
    temperature: float,
    *,
    same_video_negatives: bool,
) -> Tensor:
    """Return the mean loss of finding, at the time of each step, the other clip of the video.

    ``asking`` and ``asked`` are unit vectors ``(B, S, D)`` and ``(B, L, D)`` with their times in
    seconds. A step's positive is the other clip, interpolated at its time; its negatives are all
    steps of the other clips of other videos, of all processes, and if so wished those of its own
    video more than ``near_s``, ``(B,)``, away. Steps outside the other clip's range do not count.
    0 if none counts.
    """
    (q_BSD, at_BS), (k_BLD, times_BL) = asking, asked
    B, S = at_BS.shape
    with torch.autocast(q_BSD.device.type, enabled=False):
        weights = interpolation(at_BS, times_BL)
        counts = (weights.sum(dim=2) > 0).flatten()
        target_BSD = F.normalize(weights.to(k_BLD.dtype) @ k_BLD, dim=2)
        k_GLD = gather_with_grad(k_BLD)
        positive_B1 = (q_BSD * target_BSD).sum(dim=2).reshape(B * S, 1)
        negative = torch.einsum("bsd,gld->bsgl", q_BSD, k_GLD)
        allowed = torch.ones_like(negative, dtype=torch.bool)
        far = (at_BS[:, :, None] - times_BL[:, None, :]).abs() > near_s[:, None, None] + SAME_S
        own = torch.arange(B, device=q_BSD.device)
        allowed[own, :, own_rows(q_BSD)] = far & same_video_negatives
        negative = negative.masked_fill(~allowed, float("-inf")).reshape(B * S, -1)
        logits = torch.cat([positive_B1, negative], dim=1) / temperature
        each = logits.logsumexp(dim=1) - logits[:, 0]
        total = sum_with_grad(counts.sum().to(each.dtype)).clamp(min=1)
        return (each * counts).sum() * world_size() / total


def _step_times(batch: Batch, maps: Sequence[Tensor], stride: int) -> list[Tensor]:
    """Return when the steps of each view's map stand, ``(B, S)``, seconds in float64."""
    if len(batch.times_s) != len(maps):
        raise ValueError(f"expected the times of {len(maps)} views, got {len(batch.times_s)}")
    return [
        times_BT.double()[:, ::stride][:, : map_.shape[2]]
        for times_BT, map_ in zip(batch.times_s, maps, strict=True)
    ]


def _longest_gap(times_BS: Tensor) -> Tensor:
    """Return the longest time between neighbouring steps, ``(B,)``: a step, if none repeats."""
    return times_BS.diff(dim=1).amax(dim=1).clamp(min=0)


@torch.no_grad()
def _over_time(z_BSD: Tensor) -> dict[str, Tensor]:
    """Return how alike neighbouring steps of a video are, and its first and last step."""
    return {
        "time_similarity_near": (z_BSD[:, 1:] * z_BSD[:, :-1]).sum(dim=2).mean(),
        "time_similarity_far": (z_BSD[:, 0] * z_BSD[:, -1]).sum(dim=1).mean(),
    }
