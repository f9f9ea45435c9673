"""One feature for each box of a key frame: RoIAlign on the clip's map, averaged over time.

Feichtenhofer et al., "SlowFast Networks", ICCV 2019, https://arxiv.org/abs/1812.03982, section 5,
and the authors' code: mean over all frames, RoIAlign 7x7 (sampling ratio 0, which adapts to the
box; half-pixel alignment), maximum over the cells. Wu et al., CVPR 2019 (feature banks) do the same
with ``aligned`` off. Difference: SlowFast's pathways are pooled in one map and not one by one,
which changes nothing, as pooling treats each channel alone.

Tensor suffixes: B clips, N boxes of all clips in order, P boxes of one clip, F features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align


class RoIHead(nn.Module):
    """Pools maps ``(B, F, T', H', W')`` over boxes to ``(N, F)``; it has no weights."""

    def __init__(self, spatial_stride: int, *, resolution: int = 7, aligned: bool = True) -> None:
        """Pool maps whose cells cover ``spatial_stride`` pixels a side."""
        super().__init__()
        self.spatial_stride = spatial_stride
        self.resolution = resolution
        self.aligned = aligned

    def forward(
        self, maps_BFTHW: Tensor, boxes: Sequence[Tensor], size_px: tuple[int, int]
    ) -> Tensor:
        """Return ``(N, F)``, clip by clip in the order of ``boxes``; N may be 0.

        ``boxes`` holds ``(P, 4)`` of each clip, normalised x1 y1 x2 y2; ``size_px`` is the height
        and width of the clips. A box lies on the map at its pixels divided by the stride: where the
        stride does not divide the size, the map's last cell reaches past the frame, and the box
        does not stretch with it. A box without area gives zeros.

        Raises:
            ValueError: if there are not as many lists of boxes as clips, a list is not ``(P, 4)``,
                or the map is not of ``size_px`` divided by the stride.
        """
        self._require_fit(maps_BFTHW, boxes, size_px)
        map_BFHW = maps_BFTHW.mean(dim=2)  # linear like RoIAlign, so once for all frames will do
        # In half precision a coordinate of the map would be off by a tenth of a cell.
        map_BFHW = map_BFHW.to(torch.promote_types(map_BFHW.dtype, torch.float32))
        height_px, width_px = size_px
        extent = map_BFHW.new_tensor([width_px, height_px, width_px, height_px])
        cells_NFRR = roi_align(
            map_BFHW,
            [boxes_P4.to(extent) * extent for boxes_P4 in boxes],
            output_size=self.resolution,
            spatial_scale=1 / self.spatial_stride,
            sampling_ratio=0,
            aligned=self.aligned,
        )
        pooled_NF: Tensor = cells_NFRR.amax(dim=(2, 3))
        return pooled_NF.to(maps_BFTHW.dtype)

    def _require_fit(
        self, maps_BFTHW: Tensor, boxes: Sequence[Tensor], size_px: tuple[int, int]
    ) -> None:
        if len(boxes) != len(maps_BFTHW):
            raise ValueError(f"{len(boxes)} lists of boxes for {len(maps_BFTHW)} clips")
        for boxes_P4 in boxes:
            if boxes_P4.ndim != 2 or boxes_P4.shape[1] != 4:
                raise ValueError(f"expected boxes (P, 4), got {tuple(boxes_P4.shape)}")
        for cells, pixels in zip(maps_BFTHW.shape[3:], size_px, strict=True):
            if abs(cells - pixels / self.spatial_stride) >= 1:
                raise ValueError(
                    f"{pixels} px at a stride of {self.spatial_stride} px do not make {cells} cells"
                )
