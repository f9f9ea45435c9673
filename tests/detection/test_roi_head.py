"""The feature of a box, by hand on a ramp, and against pooling each frame by itself."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from vidssl.detection.roi_head import RoIHead


def ramp(height: int, width: int) -> Tensor:
    """Two features on one frame: a cell's column, and its row: ``(1, 2, 1, height, width)``."""
    columns = torch.arange(width, dtype=torch.float32).expand(height, width)
    rows = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    return torch.stack([columns, rows])[None, :, None]


def box(*corners: float) -> Tensor:
    return torch.tensor([corners])


def test_a_box_on_a_ramp_by_hand() -> None:
    # 32 px of stride 4: 8 cells. x from .25 to .75 is 8 to 24 px, 2 to 6 cells; less half a cell,
    # as cell i is centred on i: 1.5 to 5.5. Two bins, centred on 2.5 and 4.5; the maximum is 4.5.
    # y from .5 to 1 is 4 to 8 cells, 3.5 to 7.5; the second bin is 5.5 to 7.5, with samples (two in
    # a bin) at 6 and at 7.
    head = RoIHead(4, resolution=2)
    pooled = head(ramp(8, 8), [box(0.25, 0.5, 0.75, 1.0)], (32, 32))
    assert pooled.tolist() == [[pytest.approx(4.5), pytest.approx((6 + 7) / 2)]]


def test_without_alignment_the_box_lies_half_a_cell_further() -> None:
    head = RoIHead(4, resolution=2, aligned=False)
    pooled = head(ramp(8, 8), [box(0.25, 0.25, 0.75, 0.75)], (32, 32))
    assert pooled.tolist() == [[pytest.approx(5.0), pytest.approx(5.0)]]


def test_width_and_height_are_not_exchanged() -> None:
    # 16 x 64 px: 4 x 16 cells. Centre of x: .5 * 16 - .5 = 7.5; of y: .5 * 4 - .5 = 1.5.
    pooled = RoIHead(4, resolution=1)(ramp(4, 16), [box(0.25, 0.25, 0.75, 0.75)], (16, 64))
    assert pooled.tolist() == [[pytest.approx(7.5), pytest.approx(1.5)]]


def test_a_box_does_not_stretch_with_a_map_that_reaches_past_the_frame() -> None:
    # 30 px of stride 4 make 8 cells, of which the frame fills 7.5. Centre of the box: 15 px, 3.75
    # cells, 3.25 after alignment; spread over 8 cells it would have been 3.5.
    pooled = RoIHead(4, resolution=1)(ramp(8, 8), [box(0.2, 0.2, 0.8, 0.8)], (30, 30))
    assert pooled.tolist() == [[pytest.approx(3.25, abs=1e-5)] * 2]


def test_the_mean_over_time_may_come_before_pooling() -> None:
    # The published order, frame by frame, with the cells' maximum last: RoIAlign is linear.
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 3, 6, 7)
    corners = torch.rand(4, 2, 2).sort(dim=1).values.flatten(1)
    boxes = [corners[:3], corners[3:]]
    pixels = [b * torch.tensor([7.0, 6.0, 7.0, 6.0]) * 16 for b in boxes]
    frames = [roi_align(maps[:, :, t], pixels, 7, 1 / 16, 0, aligned=True) for t in range(3)]
    expected = torch.stack(frames).mean(dim=0).amax(dim=(2, 3))
    assert torch.allclose(RoIHead(16)(maps, boxes, (96, 112)), expected, atol=1e-6)


def test_boxes_come_out_clip_by_clip() -> None:
    maps = torch.arange(3.0)[:, None, None, None, None].expand(3, 1, 2, 4, 4)
    whole = torch.tensor([[0.1, 0.1, 0.9, 0.9]])
    boxes = [whole.repeat(2, 1), torch.zeros(0, 4), whole]
    assert RoIHead(4)(maps, boxes, (16, 16)).flatten().tolist() == pytest.approx([0, 0, 2])


def test_boxes_may_stand_in_any_order_if_each_says_its_clip() -> None:
    maps = torch.arange(3.0)[:, None, None, None, None].expand(3, 1, 2, 4, 4)
    boxes, clips = box(0.1, 0.1, 0.9, 0.9).repeat(4, 1), torch.tensor([2, 0, 1, 2])
    pooled = RoIHead(4).pooled(maps, boxes, clips, (16, 16))
    assert pooled.flatten().tolist() == pytest.approx([2, 0, 1, 2])


def test_a_box_without_area_gives_zeros_and_finite_gradients() -> None:
    maps = torch.rand(1, 2, 1, 4, 4, requires_grad=True)
    pooled = RoIHead(4)(maps, [box(0.5, 0.5, 0.5, 0.5)], (16, 16))
    pooled.sum().backward()
    assert pooled.tolist() == [[0, 0]]
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_half_precision_keeps_its_type_and_its_place() -> None:
    # At column 100 bfloat16 counts in halves: the coordinates must not be in it.
    maps = ramp(4, 128).to(torch.bfloat16)
    corners = box(0.8, 0.25, 0.803, 0.75).to(torch.float64)
    pooled = RoIHead(4, resolution=1)(maps, [corners], (16, 512))
    exact = RoIHead(4, resolution=1)(maps.float(), [corners.float()], (16, 512))
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, exact.to(torch.bfloat16))


def test_the_gradient_is_that_of_the_pooling_in_double_precision() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    boxes = [box(0.1, 0.2, 0.7, 0.9), box(0.3, 0.0, 1.0, 0.6)]
    assert torch.autograd.gradcheck(lambda m: RoIHead(4, resolution=2)(m, boxes, (16, 16)), maps)


@pytest.mark.parametrize(
    ("boxes", "size_px", "message"),
    [
        ([box(0, 0, 1, 1)] * 3, (16, 16), "3 lists of boxes for 2 clips"),
        ([box(0, 0, 1, 1), torch.zeros(4)], (16, 16), r"expected boxes \(P, 4\), got \(4,\)"),
        ([box(0, 0, 1, 1)] * 2, (32, 16), "32 px at a stride of 4 px do not make 4 cells"),
        ([box(0, 0, 1, 1)] * 2, (16, 12), "12 px at a stride of 4 px do not make 4 cells"),
    ],
)
def test_what_does_not_fit_is_refused(
    boxes: list[Tensor], size_px: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RoIHead(4)(torch.zeros(2, 1, 1, 4, 4), boxes, size_px)
