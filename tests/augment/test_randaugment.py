"""RandAugment against torchvision's own, frame by frame."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment

from vidssl.augment.randaugment import (
    OPERATIONS,
    Operation,
    apply_operations,
    draw_operations,
    meaning,
)

TABLE = RandAugment._AUGMENTATION_SPACE


def clip() -> Tensor:
    """A smooth clip ``(T, C, H, W)`` of bytes, so that no operation leaves it as it is."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(3, 3, 5, 6, generator=generator)
    large = torch.nn.functional.interpolate(small, (33, 40), mode="bicubic").clamp(0.1, 0.8)
    return large.mul(255).to(torch.uint8)


def test_the_table_is_torchvisions() -> None:
    assert set(OPERATIONS) == set(TABLE)
    for name, (magnitudes_of, signed) in TABLE.items():
        magnitudes = magnitudes_of(31, 33, 40)
        if magnitudes is None:
            assert meaning(name, 17, (33, 40)) == 0.0
            continue
        found = [meaning(name, place, (33, 40)) for place in range(31)]
        assert found == pytest.approx([float(m) for m in magnitudes], abs=1e-5)
        sign = -1.0 if signed else 1.0
        assert meaning(name, 17, (33, 40), -1.0) == pytest.approx(sign * found[17])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvisions_on_each_frame(name: str, sign: float) -> None:
    magnitude = meaning(name, 21, (33, 40), sign)
    changed = apply_operations(clip(), [Operation(name, magnitude)])
    assert changed.dtype == torch.uint8
    for frame, ours in zip(clip(), changed, strict=True):
        theirs = RandAugment()._apply_image_or_video_transform(
            frame, name, magnitude, InterpolationMode.NEAREST, fill={}
        )
        assert torch.equal(ours, theirs)
    assert torch.equal(changed, clip()) == (name == "Identity")


def test_operations_follow_each_other() -> None:
    both = [Operation("Rotate", 9.0), Operation("Solarize", 0.4)]
    one_by_one = apply_operations(apply_operations(clip(), both[:1]), both[1:])
    assert torch.equal(apply_operations(clip(), both), one_by_one)
    assert torch.equal(apply_operations(clip(), ()), clip())


def test_every_operation_and_either_sign_is_drawn_about_equally_often() -> None:
    rng = np.random.default_rng(0)
    drawn = draw_operations(rng, (33, 40), count=14_000, magnitude=9)
    names = [operation.name for operation in drawn]
    assert all(900 < names.count(name) < 1100 for name in OPERATIONS)
    turns = {operation.magnitude for operation in drawn if operation.name == "Rotate"}
    assert turns == {-9.0, 9.0}  # 30 degrees * 9 / 30
    again = draw_operations(np.random.default_rng(0), (33, 40), count=5, magnitude=9)
    assert again == drawn[:5]
