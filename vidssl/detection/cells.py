"""Features of a whole clip, or of equal cells of it.

Wu et al., CVPR 2019, https://arxiv.org/abs/1812.05038, sections 3.2 and 4: banks of clip features
for EPIC-Kitchens and Charades (``grid`` 1, the mean), and of a 2 x 2 grid in the ablation on AVA.
Where cells of the map do not part equally, a cell of the grid takes all that it touches, as
PyTorch's adaptive pooling does; the paper does not say.

Tensor suffixes: B clips, F features, G cells of the grid a side, N = B * G * G.
"""

from typing import Literal

import numpy as np
import torch.nn.functional as nnf
from torch import Tensor

from vidssl.boxes import Boxes

Pooling = Literal["max", "mean"]


def pooled_cells(maps_BFTHW: Tensor, grid: int, pooling: Pooling) -> Tensor:
    """Return ``(N, F)``: of each clip its cells by row, then column; time is averaged first."""
    map_BFHW = maps_BFTHW.mean(dim=2)
    pool = nnf.adaptive_max_pool2d if pooling == "max" else nnf.adaptive_avg_pool2d
    cells_BFGG: Tensor = pool(map_BFHW, grid)
    return cells_BFGG.flatten(2).transpose(1, 2).flatten(0, 1)


def cell_boxes(grid: int) -> Boxes:
    """Return ``(G * G, 4)``, the cells as normalised x1 y1 x2 y2, by row, then column."""
    edges = np.arange(grid + 1) / grid
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    corners = [edges[columns], edges[rows], edges[columns + 1], edges[rows + 1]]
    return np.stack(corners, axis=1)
