"""What holds of every draw: in bounds, right length, in order, decided by the generator's seed."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidssl.errors import VideoError
from vidssl.video.sampling import (
    Indexing,
    Short,
    Times,
    centred_times,
    clip_times,
    fitted,
    interval_starts,
    latest_start_s,
    multi_views,
    nested_starts,
    random_starts,
    segment_times,
    sliding_times,
    span_s,
    uniform_starts,
)

# A busy machine must not fail a test, and one commit must not pass today and fail tomorrow.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")

# From a single frame at 60 per second to a film; many are shorter than most clips.
durations = st.one_of(st.floats(1 / 60, 4.0), st.floats(4.0, 7200.0))
frames_of_a_clip = st.integers(1, 64)
strides = st.integers(1, 32)
seeds = st.integers(0, 2**32 - 1)
policies = st.sampled_from([policy for policy in get_args(Short) if policy != "refuse"])
indexings = st.sampled_from(get_args(Indexing))
ROUNDING_S = 1e-9


def drawn(seed: int, draw: Callable[[np.random.Generator], Times]) -> Times:
    """What the seed draws, which a second generator of the same seed must draw again."""
    first, again = draw(np.random.default_rng(seed)), draw(np.random.default_rng(seed))
    assert first.tobytes() == again.tobytes()
    return first


@given(durations, frames_of_a_clip, strides, st.integers(1, 6), seeds)
def test_random_clips_are_sorted_and_lie_within_any_video_that_holds_them(
    duration_s: float, frames: int, stride: int, count: int, seed: int
) -> None:
    starts_s = drawn(seed, lambda rng: random_starts(rng, duration_s, frames, stride, count))
    assert starts_s.shape == (count,)
    assert (np.diff(starts_s) >= 0).all()
    assert starts_s[0] >= 0
    if span_s(frames, stride) < duration_s:
        assert starts_s[-1] + span_s(frames, stride) < duration_s
    else:
        assert starts_s.tolist() == [0.0] * count


@given(durations, frames_of_a_clip, strides, st.floats(-10, 7300), policies, indexings)
def test_every_policy_keeps_all_frames_within_the_video(
    duration_s: float, frames: int, stride: int, start_s: float, short: Short, indexing: Indexing
) -> None:
    times_T = clip_times(start_s, frames, stride, indexing)
    kept_T = fitted(times_T, duration_s, short)
    assert kept_T.shape == (frames,)
    assert kept_T.min() >= 0
    assert kept_T.max() < duration_s
    if short != "loop":
        assert (np.diff(kept_T) >= 0).all()
    if start_s >= 0 and times_T[-1] <= duration_s - 0.001:
        assert kept_T.tolist() == times_T.tolist()


@given(durations, frames_of_a_clip, strides, st.floats(0, 100), indexings)
def test_a_clip_is_refused_if_and_only_if_it_sticks_out(
    duration_s: float, frames: int, stride: int, start_s: float, indexing: Indexing
) -> None:
    times_T = clip_times(start_s, frames, stride, indexing)
    if times_T[-1] <= max(0.0, duration_s - 0.001) and times_T[0] >= 0:
        assert fitted(times_T, duration_s, "refuse").tolist() == times_T.tolist()
    else:
        with pytest.raises(VideoError, match=f"found {duration_s:.2f} s") as caught:
            fitted(times_T, duration_s, "refuse")
        assert caught.value.reason == "too_short"


@given(durations, frames_of_a_clip, strides, policies)
def test_slowing_down_keeps_the_steps_equal(
    duration_s: float, frames: int, stride: int, short: Short
) -> None:
    kept_T = fitted(clip_times(0.0, frames, stride), duration_s, "slow")
    steps_s = np.diff(kept_T)
    if frames > 1:
        assert steps_s == pytest.approx(np.full(frames - 1, steps_s[0]), abs=1e-9)
        assert steps_s[0] <= stride / 30 + ROUNDING_S


@given(frames_of_a_clip, strides, st.floats(0, 1000))
def test_linspace_picks_whole_frames_in_order_no_farther_than_its_span(
    frames: int, stride: int, start_s: float
) -> None:
    times_T = clip_times(start_s, frames, stride, "linspace")
    indices_T = times_T * 30
    assert indices_T == pytest.approx(np.round(indices_T), abs=1e-6)
    # Truncated, so a frame before the start at the most, and never past the end.
    assert start_s - 1 / 30 - 1e-6 < times_T[0] <= start_s + 1e-6
    assert times_T[-1] <= start_s + span_s(frames, stride, "linspace") + 1e-6
    assert (np.diff(indices_T) >= 1 - 1e-6).all()


@given(durations, frames_of_a_clip, strides, seeds, st.sampled_from([0.5, 1.0, 3.0]), policies)
def test_two_clips_at_a_drawn_interval_lie_within_the_video(
    duration_s: float, frames: int, stride: int, seed: int, power: float, short: Short
) -> None:
    starts_s = drawn(
        seed,
        lambda rng: interval_starts(rng, duration_s, frames, stride, power=power, short=short),
    )
    assert starts_s.shape == (2,)
    assert starts_s.min() >= 0
    latest_s = latest_start_s(duration_s, frames, stride)
    if latest_s > 0:
        assert starts_s.max() <= latest_s + ROUNDING_S
    elif short == "loop":
        assert starts_s.max() < duration_s
    else:
        assert starts_s.tolist() == [0.0, 0.0]


@given(durations, st.integers(1, 32), strides, st.integers(1, 32), strides, seeds)
def test_the_short_clip_lies_inside_the_long_one(
    duration_s: float, frames: int, stride: int, short_frames: int, short_stride: int, seed: int
) -> None:
    long, short = (frames, stride), (short_frames, short_stride)
    if span_s(*short) > span_s(*long):
        long, short = short, long
    outer_s, inner_s = drawn(
        seed, lambda rng: nested_starts(rng, duration_s, long=long, short=short)
    )
    assert 0 <= outer_s <= inner_s
    assert inner_s + span_s(*short) <= outer_s + span_s(*long) + ROUNDING_S
    if span_s(*long) < duration_s - 0.001:
        assert outer_s + span_s(*long) < duration_s
    if span_s(*short) < duration_s - 0.001:
        assert inner_s + span_s(*short) < duration_s


@given(durations, frames_of_a_clip, strides, st.integers(1, 20), st.booleans(), indexings)
def test_equal_starts_are_equal_steps_from_the_beginning(
    duration_s: float, frames: int, stride: int, count: int, reach_end: bool, indexing: Indexing
) -> None:
    starts_s = uniform_starts(
        duration_s, frames, stride, count, reach_end=reach_end, indexing=indexing
    )
    latest_s = latest_start_s(duration_s, frames, stride, indexing)
    assert starts_s.shape == (count,)
    assert starts_s.max() <= latest_s + ROUNDING_S
    if count > 1:
        assert starts_s[0] == 0
        assert np.diff(starts_s) == pytest.approx(np.full(count - 1, starts_s[1]), abs=1e-6)
        share = 1.0 if reach_end else (count - 1) / count
        assert starts_s[-1] == pytest.approx(latest_s * share)


@given(durations, st.integers(1, 12), st.sampled_from([1, 3]))
def test_a_video_has_clips_times_crops_views(duration_s: float, clips: int, crops: int) -> None:
    views = multi_views(duration_s, 8, 8, clips=clips, crops=crops)
    assert len(set(views)) == len({view.start_s for view in views}) * crops
    assert len(views) == clips * crops


@settings(settings.get_profile("steady"), max_examples=50)
@given(
    st.floats(1 / 60, 90.0),
    frames_of_a_clip,
    strides,
    st.floats(0.2, 3.0),
    st.floats(0, 5),
    policies,
)
def test_windows_slide_over_the_whole_video(
    duration_s: float, frames: int, stride: int, every_s: float, first_s: float, short: Short
) -> None:
    windows_NT = sliding_times(
        duration_s, frames, stride, every_s=every_s, first_s=first_s, short=short
    )
    assert windows_NT.shape[1] == frames
    assert windows_NT.min() >= 0
    assert windows_NT.max() < duration_s
    begun_s = min(first_s, duration_s - 0.001)
    # No further window fits, and each that there is does.
    assert begun_s + len(windows_NT) * every_s > duration_s - 0.001 - 1e-6
    assert begun_s + (len(windows_NT) - 1) * every_s < duration_s
    middle_s = begun_s + (len(windows_NT) // 2) * every_s
    expected_T = fitted(centred_times(middle_s, frames, stride), duration_s, short)
    assert windows_NT[len(windows_NT) // 2] == pytest.approx(expected_T, abs=1e-6)


@given(durations, frames_of_a_clip, seeds)
def test_segments_hold_one_frame_each_in_order(duration_s: float, frames: int, seed: int) -> None:
    part_s = duration_s / frames
    for times_T in (
        drawn(seed, lambda rng: segment_times(duration_s, frames, rng)),
        segment_times(duration_s, frames),
    ):
        assert times_T.shape == (frames,)
        assert times_T.max() < duration_s
        # 0.001 s: the last time asked of a video lies that much before its end.
        inside_T = times_T - np.arange(frames) * part_s
        assert inside_T.min() >= -0.001 - ROUNDING_S
        assert inside_T.max() <= part_s + ROUNDING_S
        assert (np.diff(times_T) >= 0).all()


def largest_gap(drawn_N: Times, cdf: Callable[[Times], Times]) -> float:
    """Kolmogorov and Smirnov's: how far the drawn share lies from the expected one at most."""
    expected_N = cdf(np.sort(drawn_N))
    steps = np.arange(len(drawn_N) + 1) / len(drawn_N)
    return float(max((expected_N - steps[:-1]).max(), (steps[1:] - expected_N).max()))


@pytest.mark.parametrize("power", [0.3, 1.0, 2.0, 7.5])
def test_intervals_follow_the_distribution_of_cvrl(power: float) -> None:
    # 16 frames, 2 apart, in 601 frames: M = 601 - 30 frames, 571 / 30 s less the last moment.
    rng = np.random.default_rng(0)
    pairs = np.stack([interval_starts(rng, 601 / 30, 16, 2, power=power) for _ in range(10_000)])
    latest_s = 571 / 30 - 0.001
    share_N = np.abs(np.diff(pairs, axis=1))[:, 0] / latest_s
    gap = largest_gap(share_N, lambda x: ((power + 1) * x - x ** (power + 1)) / power)
    assert gap < 1.63 / np.sqrt(10_000)  # what 99 in 100 true samples of 10,000 stay below
    if power == 1:
        assert share_N.mean() == pytest.approx(1 / 3, abs=0.01)
    # The order is shuffled, and the first start uniform over what the distance leaves.
    assert np.mean(pairs[:, 0] < pairs[:, 1]) == pytest.approx(0.5, abs=0.02)
    assert largest_gap(pairs.min(axis=1) / (latest_s * (1 - share_N)), lambda x: x) < 0.0163


def test_a_wrong_distribution_would_be_noticed() -> None:
    uniform_N = np.random.default_rng(0).random(10_000)
    assert largest_gap(uniform_N, lambda x: x) < 0.0163
    assert largest_gap(uniform_N, lambda x: 2 * x - x**2) > 0.2


def test_short_clips_are_uniform_within_the_long_one() -> None:
    # 16 frames, 4 apart, span 2 s; 16 frames, 2 apart, 1 s: the offset is uniform over 1 s.
    rng = np.random.default_rng(0)
    pairs = np.stack([nested_starts(rng, 10.0, long=(16, 4), short=(16, 2)) for _ in range(10_000)])
    assert largest_gap(pairs[:, 1] - pairs[:, 0], lambda x: x) < 0.0163
    assert largest_gap(pairs[:, 0] / 7.999, lambda x: x) < 0.0163
