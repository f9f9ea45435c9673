"""The views of a test: how many, where their clips lie, and how a score tells of them."""

import numpy as np
import pytest

from vidssl.detection.views import Views
from vidssl.video.sampling import centred_times


def test_one_view_is_the_picture_around_the_key_frame() -> None:
    views = Views((256,))
    assert (views.count, views.pictures) == (1, ((256, False),))
    assert views.shifts_s(8) == (0.0,)
    assert views.told(8) == "1 (short side 256 px)"


def test_views_multiply() -> None:
    views = Views((224, 256, 320), flip=True, clips=3)
    assert views.count == 18
    assert views.pictures[:3] == ((224, False), (224, True), (256, False))
    # A stride of 9 frames at 30 a second is 0.3 s; its third is 0.1 s.
    assert views.shifts_s(9) == pytest.approx((-0.1, 0.0, 0.1))
    told = "18 (short sides 224, 256, 320 px; mirrored too; clips at -0.100, +0.000, +0.100 s)"
    assert views.told(9) == told


@pytest.mark.parametrize("clips", [1, 3, 5])
def test_clips_interleave_evenly_about_the_key_frame(clips: int) -> None:
    stride, frames = 4, 8
    shifts_s = Views((256,), clips=clips).shifts_s(stride)
    assert 0.0 in shifts_s
    assert sum(shifts_s) == pytest.approx(0)
    assert max(shifts_s) < stride / 30 / 2  # within half a step
    times_s = np.sort(np.concatenate([centred_times(9 + s, frames, stride) for s in shifts_s]))
    assert np.diff(times_s) == pytest.approx(stride / 30 / clips)


@pytest.mark.parametrize(
    ("sides", "clips", "message"),
    [
        ((), 1, "rising short sides"),
        ((256, 224), 1, "rising short sides"),
        ((224, 224), 1, "rising short sides"),
        ((0,), 1, "rising short sides"),
        ((224,), 0, "an odd number of clips, got 0"),
        ((224,), 2, "an odd number of clips, got 2"),
    ],
)
def test_views_that_are_none_are_refused(sides: tuple[int, ...], clips: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Views(sides, clips=clips)
