"""Times of clips against arithmetic by hand."""

import numpy as np
import pytest

from vidssl.video.sampling import centred_times, clip_times, random_starts, step_s


def test_a_stride_counts_frames_of_a_video_at_thirty_a_second() -> None:
    assert step_s(8) == pytest.approx(8 / 30)
    assert clip_times(2.0, 4, 15) == pytest.approx([2.0, 2.5, 3.0, 3.5])


def test_the_key_frame_is_the_one_behind_the_middle() -> None:
    # range(center - T * stride / 2, ..., stride) of 4 frames, 15 apart: -30, -15, 0, +15.
    assert centred_times(10.0, 4, 15) == pytest.approx([9.0, 9.5, 10.0, 10.5])
    assert centred_times(10.0, 5, 15) == pytest.approx([9.0, 9.5, 10.0, 10.5, 11.0])
    assert centred_times(10.0, 1, 15) == pytest.approx([10.0])
    assert centred_times(0.0, 32, 2)[16] == 0.0


def test_starts_are_sorted_and_spread_over_all_that_fit() -> None:
    # 8 frames, 15 apart, take 3.5 s: of 10 s, the starts are uniform over [0, 6.5).
    rng = np.random.default_rng(0)
    starts_s = np.stack([random_starts(rng, 10.0, 8, 15, 2) for _ in range(4000)])
    assert (np.diff(starts_s, axis=1) >= 0).all()
    assert starts_s.min() >= 0
    assert starts_s.max() <= 6.5
    # The least of two uniform draws has mean 1/3 of the range, the greatest 2/3.
    assert starts_s.mean(axis=0) == pytest.approx([6.5 / 3, 6.5 * 2 / 3], abs=0.1)
    assert np.histogram(starts_s, 5, (0, 6.5))[0] == pytest.approx([1600] * 5, rel=0.1)


@pytest.mark.parametrize("duration_s", [0.04, 1.0, 3.5])
def test_a_video_no_longer_than_the_clip_is_read_from_its_start(duration_s: float) -> None:
    rng = np.random.default_rng(0)
    assert random_starts(rng, duration_s, 8, 15, 3).tolist() == [0.0, 0.0, 0.0]


def test_the_last_frame_of_a_clip_lies_within_the_video() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        (start_s,) = random_starts(rng, 3.6, 8, 15, 1)
        assert clip_times(start_s, 8, 15)[-1] < 3.6
