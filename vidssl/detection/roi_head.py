"""One feature for each box of a key frame: RoIAlign on the clip's map, averaged over time.

Feichtenhofer et al., "SlowFast Networks", ICCV 2019, https://arxiv.org/abs/1812.03982, section 5,
and the authors' code: mean over all frames, RoIAlign 7x7 (sampling ratio 0, which adapts to the
box; half-pixel alignment), maximum over the cells. Wu et al., CVPR 2019 (feature banks) do the same
with ``aligned`` off. Difference: SlowFast's pathways are pooled in one map and not one by one,
which changes nothing, as pooling treats each channel alone.

Tensor suffixes: B clips, N boxes of all clips in order, P boxes of one clip, F features;
R cells of a box a side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from vidssl.detection.cells import Pooling


class RoIHead(nn.Module):
    """Pools maps ``(B, F, T', H', W')`` over boxes to ``(N, F)``; it has no weights."""

    def __init__(
        self,
        spatial_stride: int,
        *,
        resolution: int = 7,
        aligned: bool = True,
        pooling: Pooling = "max",
    ) -> None:
        """Pool maps whose cells cover ``spatial_stride`` pixels a side.

        ``pooling`` is over a box's cells: the papers' maximum, or the mean.
        """
        super().__init__()
        self.spatial_stride = spatial_stride
        self.resolution = resolution
        self.aligned = aligned
        self.pooling = pooling

    def forward(
        self, maps_BFTHW: Tensor, boxes: Sequence[Tensor], size_px: tuple[int, int]
    ) -> Tensor:
        """Return ``(N, F)``, clip by clip in the order of ``boxes``; N may be 0.

        ``boxes`` holds ``(P, 4)`` of each clip. The rest is as :meth:`pooled` says.

        Raises:
            ValueError: as :func:`numbered` and ``pooled`` do.
        """
        return self.pooled(maps_BFTHW, *numbered(boxes, len(maps_BFTHW)), size_px)

    def pooled(
        self, maps_BFTHW: Tensor, boxes_N4: Tensor, clip_N: Tensor, size_px: tuple[int, int]
    ) -> Tensor:
        """Return ``(N, F)``, the feature of each box in the clip whose number ``clip_N`` gives.

        Boxes are normalised x1 y1 x2 y2, in any order; ``size_px`` is the height and width of the
        clips. A box lies on the map at its pixels divided by the stride: where the stride does not
        divide the size, the map's last cell reaches past the frame, and the box does not stretch
        with it. A box without area gives zeros. Numbers in ``clip_N`` are not checked, which would
        make a GPU wait.

        Raises:
            ValueError: if the boxes are not ``(N, 4)``, or the map is not of ``size_px`` divided by
                the stride.
        """
        self._require_fit(maps_BFTHW, boxes_N4, size_px)
        map_BFHW = maps_BFTHW.mean(dim=2)  # linear like RoIAlign, so once for all frames will do
        # In half precision a coordinate of the map would be off by a tenth of a cell.
        map_BFHW = map_BFHW.to(torch.promote_types(map_BFHW.dtype, torch.float32))
        height_px, width_px = size_px
        extent = map_BFHW.new_tensor([width_px, height_px, width_px, height_px])
        cells_NFRR = roi_align(
            map_BFHW,
            torch.cat([clip_N.to(extent)[:, None], boxes_N4.to(extent) * extent], dim=1),
            output_size=self.resolution,
            spatial_scale=1 / self.spatial_stride,
            sampling_ratio=0,
            aligned=self.aligned,
        )
        over = (2, 3)
        is_max = self.pooling == "max"
        pooled_NF: Tensor = cells_NFRR.amax(dim=over) if is_max else cells_NFRR.mean(dim=over)
        return pooled_NF.to(maps_BFTHW.dtype)

    def _require_fit(self, maps_BFTHW: Tensor, boxes_N4: Tensor, size_px: tuple[int, int]) -> None:
        if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4:
            raise ValueError(f"expected boxes (N, 4), got {tuple(boxes_N4.shape)}")
        for cells, pixels in zip(maps_BFTHW.shape[3:], size_px, strict=True):
            if abs(cells - pixels / self.spatial_stride) >= 1:
                raise ValueError(
                    f"{pixels} px at a stride of {self.spatial_stride} px do not make {cells} cells"
                )


def numbered(boxes: Sequence[Tensor], clips: int) -> tuple[Tensor, Tensor]:
    """Return the boxes of all clips, ``(N, 4)``, and the number of each one's clip, ``(N,)``.

    Raises:
        ValueError: if there are not as many lists as ``clips``, or one is not ``(P, 4)``.
    """
    if len(boxes) != clips:
        raise ValueError(f"{len(boxes)} lists of boxes for {clips} clips")
    for boxes_P4 in boxes:
        if boxes_P4.ndim != 2 or boxes_P4.shape[1] != 4:
            raise ValueError(f"expected boxes (P, 4), got {tuple(boxes_P4.shape)}")
    numbers = [clip for clip, boxes_P4 in enumerate(boxes) for _ in range(len(boxes_P4))]
    boxes_N4 = torch.cat(list(boxes))
    return boxes_N4, torch.tensor(numbers, dtype=torch.int64, device=boxes_N4.device)
