"""Features of whole clips and of a grid's cells, by hand and against a loop."""

import pytest
import torch

from vidssl.backbones import slow
from vidssl.detection.cells import Pooling, cell_boxes, pooled_cells
from vidssl.detection.roi_head import RoIHead


def test_cells_by_hand() -> None:
    # One clip, one feature, two frames of 2 x 4 cells: the mean over time is 1..8, row by row.
    frame = torch.arange(1.0, 9.0).reshape(1, 1, 1, 2, 4)
    maps = torch.cat([frame - 1, frame + 1], dim=2)
    assert pooled_cells(maps, 2, "mean").flatten().tolist() == [1.5, 3.5, 5.5, 7.5]
    assert pooled_cells(maps, 2, "max").flatten().tolist() == [2, 4, 6, 8]
    assert pooled_cells(maps, 1, "mean").tolist() == [[4.5]]


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_rows_are_clips_then_cells_and_equal_a_loop(pooling: Pooling) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 5, 4, 6, 8)
    found = pooled_cells(maps, 2, pooling)
    assert found.shape == (3 * 4, 5)
    expected = []
    for clip in maps.mean(dim=2):
        for rows in (slice(0, 3), slice(3, 6)):
            for columns in (slice(0, 4), slice(4, 8)):
                cell = clip[:, rows, columns].flatten(1)
                expected.append(cell.mean(dim=1) if pooling == "mean" else cell.amax(dim=1))
    torch.testing.assert_close(found, torch.stack(expected))


def test_one_cell_s_mean_is_the_encoder_s_own_feature() -> None:
    torch.manual_seed(0)
    encoder = slow.Config(frames=4, width=8, depths=(1, 1, 1, 1)).build().eval()
    clips = torch.randn(2, 3, 4, 64, 96)
    torch.testing.assert_close(pooled_cells(encoder.maps(clips), 1, "mean"), encoder(clips))


def test_boxes_of_cells_part_the_frame() -> None:
    assert cell_boxes(1).tolist() == [[0, 0, 1, 1]]
    assert cell_boxes(2).tolist() == [
        [0, 0, 0.5, 0.5],
        [0.5, 0, 1, 0.5],
        [0, 0.5, 0.5, 1],
        [0.5, 0.5, 1, 1],
    ]


def test_people_s_boxes_can_be_averaged_instead() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 5, 2, 4, 4)
    whole = (torch.tensor([[0.0, 0.0, 1.0, 1.0]]),)
    mean = RoIHead(4, resolution=4, pooling="mean")(maps, whole, (16, 16))
    torch.testing.assert_close(mean, pooled_cells(maps, 1, "mean"))
    most = RoIHead(4, resolution=4)(maps, whole, (16, 16))
    assert (most > mean).all()
