"""Times of clips against arithmetic by hand."""

import numpy as np
import pytest

from vidssl.errors import VideoError
from vidssl.video.sampling import (
    EvalView,
    Short,
    centred_times,
    clip_times,
    fitted,
    interval_starts,
    multi_views,
    nested_starts,
    random_starts,
    segment_times,
    sliding_times,
    span_s,
    step_s,
    uniform_starts,
)


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


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        # Times 0, 0.5, 1.0, 1.5 of a video of 0.8 s; its last moment is 0.799.
        ("repeat", [0.0, 0.5, 0.799, 0.799]),
        ("loop", [0.0, 0.5, 0.2, 0.7]),
        ("slow", [0.0, 0.799 / 3, 0.799 * 2 / 3, 0.799]),
    ],
)
def test_a_video_shorter_than_the_clip_is_stretched_by_the_policy(
    short: Short, expected: list[float]
) -> None:
    assert fitted(clip_times(0.0, 4, 15), 0.8, short) == pytest.approx(expected)
    # A clip that fits is left alone by all of them.
    assert fitted(clip_times(0.0, 4, 15), 1.6, short) == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_a_clip_that_sticks_out_of_a_longer_video_is_moved_in_rather_than_shrunk() -> None:
    assert fitted(centred_times(0.0, 4, 15), 10.0, "slow") == pytest.approx([0.0, 0.5, 1.0, 1.5])
    assert fitted(centred_times(9.999, 3, 15), 10.0, "slow") == pytest.approx([8.999, 9.499, 9.999])
    assert fitted(centred_times(0.0, 4, 15), 10.0, "repeat") == pytest.approx([0.0, 0.0, 0.0, 0.5])
    assert fitted(centred_times(0.0, 4, 15), 10.0, "loop") == pytest.approx([9.0, 9.5, 0.0, 0.5])


def test_a_video_too_short_is_refused_with_both_lengths() -> None:
    with pytest.raises(VideoError, match=r"at least 1\.50 s for the clip, found 0\.80 s") as caught:
        fitted(clip_times(0.0, 4, 15), 0.8, "refuse")
    assert caught.value.reason == "too_short"


@pytest.mark.parametrize("short", ["repeat", "loop", "slow"])
def test_a_video_of_one_frame_shows_it_all_the_time(short: Short) -> None:
    kept = fitted(clip_times(0.0, 8, 8), 1 / 30, short)
    assert kept.min() >= 0.0
    assert kept.max() < 1 / 30
    assert fitted(clip_times(0.0, 8, 8), 0.0, short).tolist() == [0.0] * 8


def test_the_frames_of_published_weights_lie_farther_apart_than_their_stride() -> None:
    # linspace(0, 63, 8) = 0, 9, ..., 63; linspace(0, 63, 4) = 0, 21, 42, 63.
    assert clip_times(0.0, 8, 8, "linspace") * 30 == pytest.approx(np.arange(8) * 9)
    assert clip_times(0.0, 4, 16, "linspace") * 30 == pytest.approx([0, 21, 42, 63])
    # linspace(0.5, 63.5, 16) = 0.5, 4.7, 8.9, 13.1, ... of which the whole numbers are taken.
    start_s = 0.5 / 30
    assert clip_times(start_s, 16, 4, "linspace")[:5] * 30 == pytest.approx([0, 4, 8, 13, 17])
    assert span_s(8, 8, "linspace") == pytest.approx(63 / 30)
    assert span_s(8, 8) == pytest.approx(56 / 30)


def test_ten_clips_start_at_tenths_of_the_latest_start() -> None:
    # 4 frames, 15 apart, span 1.5 s: of 11.501 s the latest start is 10 s.
    assert uniform_starts(11.501, 4, 15, 10) == pytest.approx(np.arange(10.0))
    assert uniform_starts(11.501, 4, 15, 11, reach_end=True) == pytest.approx(np.arange(11.0))
    assert uniform_starts(11.501, 4, 15, 1, reach_end=True) == pytest.approx([5.0])
    assert uniform_starts(1.0, 4, 15, 3).tolist() == [0.0, 0.0, 0.0]


def test_the_crops_of_a_clip_stand_side_by_side() -> None:
    # 10.625 - 1.5 - 0.001 leaves 9.124, whose half is 4.562.
    views = multi_views(10.625, 4, 15, clips=2)
    assert [view.crop for view in views] == ["left", "centre", "right"] * 2
    assert [view.start_s for view in views] == pytest.approx([0.0] * 3 + [4.562] * 3)
    assert multi_views(11.501, 4, 15, clips=1, crops=1) == [EvalView(0.0, "centre")]
    with pytest.raises(ValueError, match="expected 1 or 3 crops of each clip, got 2"):
        multi_views(10.0, 4, 15, crops=2)


def test_a_power_that_is_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be positive, got 0\.0"):
        interval_starts(np.random.default_rng(0), 10.0, 8, 8, power=0.0)


def test_both_clips_of_a_short_video_may_start_anywhere_if_they_loop() -> None:
    rng = np.random.default_rng(0)
    starts_s = np.concatenate([interval_starts(rng, 1.0, 16, 8) for _ in range(2000)])
    assert np.histogram(starts_s, 4, (0.0, 1.0))[0] == pytest.approx([1000] * 4, rel=0.12)


def test_a_short_clip_longer_than_the_long_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"short clip spans 2\.00 s, the long one only 1\.00 s"):
        nested_starts(np.random.default_rng(0), 10.0, long=(16, 2), short=(16, 4))


def test_windows_are_centred_every_second() -> None:
    # 2.5 s: centres 0, 1 and 2; two frames, 15 apart, of which the second is the centre.
    assert sliding_times(2.5, 2, 15) == pytest.approx(
        np.array([[0.0, 0.0], [0.5, 1.0], [1.5, 2.0]])
    )
    # From 0.5 s every 2 s: 0.5 and 2.5, of which the last moment is left.
    assert sliding_times(2.501, 3, 15, every_s=2.0, first_s=0.5) == pytest.approx(
        np.array([[0.0, 0.5, 1.0], [2.0, 2.5, 2.5]])
    )
    with pytest.raises(ValueError, match="step between windows must be positive, got 0"):
        sliding_times(2.5, 2, 15, every_s=0)


def test_segments_are_tested_in_their_middle() -> None:
    assert segment_times(8.0, 4) == pytest.approx([1.0, 3.0, 5.0, 7.0])
    assert segment_times(0.0, 2).tolist() == [0.0, 0.0]
