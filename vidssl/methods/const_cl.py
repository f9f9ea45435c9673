"""ConST-CL: clips of one video attract each other, and so do their regions through the clip.

Yuan et al., "Contextualized Spatio-Temporal Contrastive Learning with Self-Supervision", CVPR 2022,
https://arxiv.org/abs/2112.05181. A global branch is CVRL (Qian et al., CVPR 2021,
https://arxiv.org/abs/2008.03800); a local branch reconstructs the regions of one view's key step
from the cells of the other view, and finds each among the regions of all other videos.

Built after a reading of the released TensorFlow code, the paper's text not having been at hand.
Differences: pixels are normalised as everywhere here, not to [-1, 1]; weight decay is the
optimizer's; random boxes are drawn as intended, where the release draws all four numbers of a box
from one seed (``correlated``). ``grid`` boxes are a reconstruction: the paper names them, no more.
``table`` boxes of people are, too. The local loss is a mean over the valid regions of all
processes, where the release averages over each one's and then over processes; without any it is 0.

Options of other papers: Un-Mix (``vidssl.augment.mixing``) is for the global loss alone, as boxes
do not survive a mixture; the first clip goes forward and backward through the trunk and the global
branch once more, with norm statistics of its own. CO2 (``vidssl.nn.co2``) is for the local loss,
under its weight, with the regions of other videos as negatives: two people in two videos who do the
same thing are pushed apart less.

Tensor suffixes: B clips of this process, G of all processes, V views, N regions, D projected
features, C channels of the map; T', H', W' of a map.
"""

from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torchvision.ops import roi_align

from vidssl.augment.mixing import UnmixConfig, mix_reversed, of_both
from vidssl.backbones import Encoder
from vidssl.backbones.r3d import R3D
from vidssl.errors import RecipeError
from vidssl.methods import Batch, MethodConfig, SSLMethod, StepOutput
from vidssl.nn.co2 import Co2Config, among_regions
from vidssl.nn.contrast import SELF, nt_xent
from vidssl.nn.distributed import gather, gather_with_grad, own_rows, world_size
from vidssl.nn.heads import mlp
from vidssl.nn.health import between
from vidssl.nn.reconstructor import Reconstructor

VIEWS = 2
BINS = 4
"""Bins a side of a region, each read at its middle."""
EDGE = 0.999
"""Where the release cuts boxes off."""
TAG = 0xB0CE5
"""Tells the draw of boxes from others of the same seed."""


class Config(MethodConfig):
    """Temperatures, the weight of the local loss, the boxes, and the head of the global branch."""

    name: Literal["const_cl"] = "const_cl"
    temperature: PositiveFloat = 0.1
    local_temperature: PositiveFloat = 0.2
    local_weight: NonNegativeFloat = 0.001
    """Of the mean over regions; the published learning rate is 40.96."""
    hidden: PositiveInt = 2048
    dim: PositiveInt = 128
    boxes: Literal["random", "grid", "table"] = "random"
    """``random``: drawn for each view; ``grid``: equal cells that cover the view; ``table``: people
    of the file that the command is given with ``--boxes``."""
    regions: PositiveInt = 8
    """Boxes a view."""
    correlated: bool = False
    """Of ``random``: one draw gives position, width and aspect, as in the released code."""
    unmix: UnmixConfig = UnmixConfig()
    co2: Co2Config = Co2Config()

    @model_validator(mode="after")
    def _random_boxes_correlate(self) -> Self:
        if self.correlated and self.boxes != "random":
            raise ValueError(f"correlated is for boxes: random, found boxes: {self.boxes}")
        return self

    @model_validator(mode="after")
    def _consistency_has_its_term(self) -> Self:
        if self.co2.alpha > 0 and self.local_weight == 0:
            raise ValueError(
                "co2 is for the local loss; expected local_weight above 0 or co2.alpha: 0, found "
                f"local_weight: 0 and co2.alpha: {self.co2.alpha:g}"
            )
        return self

    def build(self, encoder: Encoder) -> "ConSTCL":
        """Return the method around ``encoder``.

        Raises:
            RecipeError: if the encoder has no local branch.
        """
        if not isinstance(encoder, R3D) or encoder.local is None:
            raise RecipeError(
                "method const_cl needs an encoder with a global and a local branch: "
                "backbone: {name: r3d, local_branch: true}"
            )
        return ConSTCL(encoder, self)

    def require_map(self, clips: torch.Size, map_: torch.Size) -> None:
        """Refuse a map of a single step or cell: all its regions would be alike."""
        if map_[2] < 2:
            raise RecipeError(
                f"method const_cl needs a map of 2 steps or more: backbone.frames {clips[2]} gives "
                f"{map_[2]}"
            )
        if min(map_[3:]) < 2:
            raise RecipeError(
                "method const_cl needs a map of 2 x 2 cells or more, or all regions are alike: "
                f"augment.crop_px {clips[3]} gives {map_[3]} x {map_[4]}; take a larger one, or "
                "backbone.form: detection"
            )

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with ``boxes`` ``(B, V, N, 4)`` and ``boxes_valid`` ``(B, V, N)``.

        Boxes are normalised to the augmented view. Those of a table come with the batch.
        """
        if self.boxes == "table":
            return batch
        device = batch.views[0].device
        if self.boxes == "grid":
            boxes = np.broadcast_to(grid(self.regions), (len(batch.seeds), VIEWS, self.regions, 4))
        else:
            boxes = np.stack([self._drawn(seed) for seed in batch.seeds])
        drawn = torch.from_numpy(np.ascontiguousarray(boxes, dtype=np.float32)).to(device)
        valid = torch.ones(drawn.shape[:3], dtype=torch.bool, device=device)
        targets = {**batch.targets, "boxes": drawn, "boxes_valid": valid}
        return replace(batch, targets=targets)

    def people(self) -> int:
        """Return how many boxes of people each view brings along."""
        return self.regions if self.boxes == "table" else 0

    def _drawn(self, seed: int) -> NDArray[np.float64]:
        rng = np.random.default_rng(np.random.SeedSequence([seed, TAG]))
        return random_boxes(rng, (VIEWS, self.regions), correlated=self.correlated)

    def require_batch(self, clips: int) -> None:
        """Refuse one clip a step: it has no negatives.

        Raises:
            ValueError: if there is only one.
        """
        if clips < 2:
            raise ValueError(
                f"const_cl compares videos: optim.batch must be 2 or more, got {clips}"
            )
        if self.regions == 1:  # more give each region several negatives, even of two videos
            self.co2.require_batch(clips)


class ConSTCL(SSLMethod):
    """Two clips of a video through one trunk with two ends."""

    collapse_causes: ClassVar[str] = (
        "a local loss that drowns the global one (a lower method.local_weight), a rate that is too "
        "high (a lower optim.lr or a longer optim.warmup), or too few clips a step (a larger "
        "optim.batch)"
    )
    num_views = VIEWS
    encoder: R3D

    def __init__(self, encoder: R3D, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        hidden = [config.hidden] * 3
        self.projector = mlp(encoder.features, *hidden, config.dim, norm=True)
        self.reconstructor = Reconstructor(encoder.features)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the global loss plus the weighted local one."""
        config = self.config
        # Both views share the statistics of each norm, as in the release.
        clips = torch.cat(batch.views)
        global_map, local_map = self.encoder.branches(clips)
        one_BD, two_BD = self._projected(global_map).chunk(VIEWS)
        contrast = partial(nt_xent, two_BD=two_BD, temperature=config.temperature)
        global_loss = contrast(one_BD)
        terms = self._local(local_map, batch.targets)
        loss = global_loss + config.local_weight * terms["local_loss"]
        if "consistency" in terms:
            loss = loss + config.local_weight * config.co2.alpha * terms["consistency"]
        mix = config.unmix.draw(batch.seed, batch.step, batch.views[0])
        if mix is not None:
            # Not the encoder's own choice of a branch, which may be the local one.
            mixed = self.encoder.global_maps(mix_reversed(batch.views[0], mix))
            loss = loss + of_both(contrast, self._projected(mixed), mix)
        scalars = {"global_loss": global_loss.detach()}
        scalars |= {name: term.detach() for name, term in terms.items()}
        if batch.watched:
            scalars |= between(one_BD, two_BD)
        return StepOutput(loss, scalars)

    def _projected(self, map_BCTHW: Tensor) -> Tensor:
        """Return projections of a global map on unit length, ``(B, D)``."""
        return F.normalize(self.projector(map_BCTHW.mean(dim=(2, 3, 4))).float(), dim=1)

    def _local(self, map_BCTHW: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the local loss, and its consistency where that is asked for, before weights."""
        with torch.autocast(map_BCTHW.device.type, enabled=False):
            cells = F.normalize(map_BCTHW.float(), dim=1)
        boxes, valid = targets["boxes"].unbind(1), targets["boxes_valid"].unbind(1)
        one, two = cells.chunk(VIEWS)
        of_one, of_two = regions(one, boxes[0]), regions(two, boxes[1])
        one_in_two, two_in_one = self.reconstructor(of_one, two), self.reconstructor(of_two, one)
        found = (of_one, of_two), (one_in_two, two_in_one), (valid[0], valid[1])
        terms = {"local_loss": local_loss(*found, self.config.local_temperature)}
        if self.config.co2.alpha:
            terms["consistency"] = local_consistency(*found, self.config.co2.temperature)
        return terms


def regions(map_BCTHW: Tensor, boxes_BN4: Tensor) -> Tensor:
    """Return the mean feature of each normalised box at the map's key step, ``(B, N, C)``.

    One bilinear sample at the middle of each of 4 x 4 bins. Cell i of the map lies at coordinate i,
    where a box is its normalised self times the cells a side, so half a cell to the lower right of
    what an aligned crop would read: as released.
    """
    key_BCHW = map_BCTHW[:, :, map_BCTHW.shape[2] // 2]
    height, width = key_BCHW.shape[2:]
    scale = boxes_BN4.new_tensor([width, height, width, height])
    shifted = (boxes_BN4 * scale + 0.5).to(key_BCHW.dtype)  # aligned takes the half off again
    with torch.autocast(key_BCHW.device.type, enabled=False):
        crops: Tensor = roi_align(key_BCHW, list(shifted), BINS, sampling_ratio=1, aligned=True)
    return crops.mean(dim=(2, 3)).view(*boxes_BN4.shape[:2], -1)


Two = tuple[Tensor, Tensor]


def local_loss(regions: Two, reconstructed: Two, valid: Two, temperature: float) -> Tensor:
    """Return the mean of both directions of :func:`match`.

    ``regions`` ``(B, N, C)`` of the views, ``reconstructed`` each view's in the other, ``valid``
    ``(B, N)``. ``ln(1 + (G - 1) N)`` for equal features.
    """
    one, two = _unit(regions)
    one_in_two, two_in_one = _unit(reconstructed)
    there = match(one_in_two, one, two, valid[0], temperature)
    back = match(two_in_one, two, one, valid[1], temperature)
    return (there + back) / 2


def local_consistency(regions: Two, reconstructed: Two, valid: Two, temperature: float) -> Tensor:
    """Return CO2's term of :func:`local_loss`, the mean of both directions.

    A reconstruction and its positive, the other view's most similar region, shall see the regions
    of other videos in that view alike.
    """
    one, two = _unit(regions)
    one_in_two, two_in_one = _unit(reconstructed)
    there = among_regions(one_in_two, nearest(one, two), two, valid[0], temperature)
    back = among_regions(two_in_one, nearest(two, one), one, valid[1], temperature)
    return (there + back) / 2


def nearest(own_BNC: Tensor, other_BNC: Tensor) -> Tensor:
    """Return the region of ``other`` that is most similar to each of ``own``, ``(B, N, C)``."""
    nearest_BN = (own_BNC @ other_BNC.transpose(1, 2)).argmax(dim=2)
    return torch.take_along_dim(other_BNC, nearest_BN[:, :, None], dim=1)


def match(
    query_BNC: Tensor, own_BNC: Tensor, other_BNC: Tensor, valid_BN: Tensor, temperature: float
) -> Tensor:
    """Return the mean loss of finding each valid region in the other view; 0 if none is valid.

    ``query`` is the reconstruction of ``own``; its positive is the region of ``other`` that is most
    similar to ``own``, valid or not; its negatives are all regions of the other videos of all
    processes, valid or not. All on unit length, all with gradient. Averaged over processes, as DDP
    does, it is the mean over all valid regions.
    """
    with torch.autocast(query_BNC.device.type, enabled=False):
        positive_BNC = nearest(own_BNC, other_BNC)
        positive_BN1 = (query_BNC * positive_BNC).sum(dim=2, keepdim=True)
        negative_BNGN = torch.einsum("bnc,gmc->bngm", query_BNC, gather_with_grad(other_BNC))
        videos = torch.arange(negative_BNGN.shape[2], device=query_BNC.device)
        same_BG = own_rows(query_BNC)[:, None] == videos
        negative_BNGN = negative_BNGN.masked_fill(same_BG[:, None, :, None], SELF)
        logits = torch.cat([positive_BN1, negative_BNGN.flatten(2)], dim=2) / temperature
        each_BN = logits.logsumexp(dim=2) - logits[:, :, 0]
        count = gather(valid_BN).sum().clamp(min=1)
    return (each_BN * valid_BN).sum() * world_size() / count


def _unit(pair: Two) -> Two:
    one, two = pair
    return F.normalize(one.float(), dim=2), F.normalize(two.float(), dim=2)


def random_boxes(
    rng: np.random.Generator, shape: tuple[int, int], *, correlated: bool = False
) -> NDArray[np.float64]:
    """Return boxes ``(*shape, 4)``: corner in U(0, 1), width in U(0.1, 0.5), aspect in U(0.5, 2).

    The aspect is height over width; what lies outside is cut off. ``correlated``: one number
    decides all four, so that boxes lie on the diagonal and grow along it.
    """
    if correlated:
        draw = np.broadcast_to(rng.random((1, *shape)), (4, *shape))
    else:
        draw = rng.random((4, *shape))
    left, top = draw[0], draw[1]
    width, aspect = 0.1 + 0.4 * draw[2], 0.5 + 1.5 * draw[3]
    boxes = np.stack([left, top, left + width, top + width * aspect], axis=-1)
    return np.asarray(np.minimum(boxes, EDGE))


def grid(count: int) -> NDArray[np.float64]:
    """Return ``count`` equal boxes that tile the view, ``(count, 4)``: 8 are 2 rows of 4."""
    rows = next(n for n in range(int(count**0.5), 0, -1) if count % n == 0)
    columns = count // rows
    row, column = np.divmod(np.arange(count), columns)
    return np.stack(
        [column / columns, row / rows, (column + 1) / columns, (row + 1) / rows], axis=1
    )
