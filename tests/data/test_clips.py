"""Clips of pretraining: what they show, and that a position means the same clip anywhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidssl.data.clips import ClipDataset, ClipReading, ClipSample, SamplingConfig
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.data.order import StepBatches
from vidssl.errors import RecipeError, VideoError
from vidssl.video.index import ClipIndex
from vidssl.video.sampling import Short

Numbers = Callable[[NDArray[np.uint8]], list[int]]


def dataset(index: ClipIndex, seed: int = 0) -> ClipDataset:
    """Two clips of 4 frames, 6 apart at 30 a second: 0.2 s, two frames of these videos."""
    return ClipDataset(index, frames=4, stride=6, views=2, seed=seed)


def same(one: ClipSample, two: ClipSample) -> bool:
    pairs = zip((*one.views, *one.times_s), (*two.views, *two.times_s), strict=True)
    texts = (one.video, one.seed, one.failed) == (two.video, two.seed, two.failed)
    return texts and all(torch.equal(a, b) for a, b in pairs)


def test_the_frames_of_a_clip_are_those_on_the_screen_at_its_times(
    index: ClipIndex, videos: list[Path], read_numbers: Numbers
) -> None:
    clips = dataset(index)
    for position in range(20):
        sample = clips[position]
        number = videos.index(Path(sample.video))
        assert len(sample.views) == len(sample.times_s) == 2
        for view, times_s in zip(sample.views, sample.times_s, strict=True):
            assert view.shape == (4, 64, 96, 3)
            assert view.dtype == torch.uint8
            # The times are those at which the frames begin, and say which frames they are.
            shown = (times_s.numpy() * 10).round().astype(int)
            assert read_numbers(view.numpy()) == (shown + 50 * number).tolist()
            assert np.diff(shown).tolist() == pytest.approx([2, 2, 2], abs=1)
        assert sample.times_s[0][0] <= sample.times_s[1][0]


def test_an_epoch_shows_every_video_once_at_times_of_its_own(index: ClipIndex) -> None:
    clips = dataset(index)
    assert len(clips) == 5
    epochs = [[clips[5 * epoch + place] for place in range(5)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(sample.video for sample in epoch) == sorted(map(str, index.paths()))
    seeds = {sample.seed for epoch in epochs for sample in epoch}
    assert len(seeds) == 15
    starts_s = {float(s.times_s[0][0]) for e in epochs for s in e if s.video.endswith("4.mp4")}
    assert len(starts_s) > 1


def test_a_position_gives_the_same_sample_in_any_process_and_after_any_other(
    index: ClipIndex,
) -> None:
    forth = [dataset(index)[position] for position in range(8)]
    clips = dataset(index)
    back = [clips[position] for position in reversed(range(8))][::-1]
    assert all(same(a, b) for a, b in zip(forth, back, strict=True))
    other = dataset(index, seed=1)
    assert not any(same(sample, other[n]) for n, sample in enumerate(forth))
    # Workers of another process, and ranks that read every second position.
    for workers in (0, 2):
        batches = Loader(dataset(index), StepBatches(4, 0, 2), LoaderConfig(workers=workers))
        read = [sample for batch in batches for sample in batch]
        assert all(same(a, b) for a, b in zip(forth, read, strict=True))
    ranks = [
        [
            s
            for b in Loader(dataset(index), StepBatches(4, 0, 2, r, 2), LoaderConfig(workers=0))
            for s in b
        ]
        for r in (0, 1)
    ]
    merged = [sample for pair in zip(*ranks, strict=True) for sample in pair]
    assert all(same(a, b) for a, b in zip(forth, merged, strict=True))


def test_frames_are_shrunk_as_they_are_read(index: ClipIndex) -> None:
    clips = ClipDataset(index, frames=2, stride=6, views=3, seed=0, reading=ClipReading(32))
    assert [view.shape for view in clips[0].views] == [(2, 32, 48, 3)] * 3


def test_a_video_shorter_than_the_clip_ends_on_its_last_frame(
    index: ClipIndex, videos: list[Path], read_numbers: Numbers
) -> None:
    # 8 frames, one a second, of a video of 3 to 5 s.
    clips = ClipDataset(index, frames=8, stride=30, views=1, seed=0)
    sample = clips[0]
    number = videos.index(Path(sample.video))
    last = 30 + 5 * number - 1
    expected = [min(10 * second, last) + 50 * number for second in range(8)]
    assert read_numbers(sample.views[0].numpy()) == expected


def test_short_videos_loop_slow_down_or_are_refused_as_the_recipe_says(
    index: ClipIndex, videos: list[Path], read_numbers: Numbers
) -> None:
    def clips(short: Short) -> ClipDataset:
        sampling = SamplingConfig(short_videos=short)
        return ClipDataset(index, frames=8, stride=30, views=1, seed=0, sampling=sampling)

    sample = clips("loop")[0]
    number = videos.index(Path(sample.video))
    length = 30 + 5 * number  # frames, ten a second: one is taken each second
    expected = [10 * second % length + 50 * number for second in range(8)]
    assert read_numbers(sample.views[0].numpy()) == expected
    slow = read_numbers(clips("slow")[0].views[0].numpy())
    assert slow == sorted(set(slow))  # every frame another
    assert (slow[0], slow[-1]) == (50 * number, 50 * number + length - 1)
    with pytest.raises(VideoError, match=r"(?s)5 videos in a row cannot be read.* at least 7.00 s"):
        clips("refuse")[0]


def test_near_clips_are_drawn_for_two_views_only(index: ClipIndex) -> None:
    near = SamplingConfig(starts="interval")
    clips = ClipDataset(index, frames=2, stride=6, views=2, seed=0, sampling=near)
    assert {len(clips[position].views) for position in range(5)} == {2}
    with pytest.raises(RecipeError, match="interval is for methods of 2 views, this one has 3"):
        ClipDataset(index, frames=2, stride=6, views=3, seed=0, sampling=near)


def test_linspace_spreads_frames_over_the_window_as_for_published_weights(
    index: ClipIndex, videos: list[Path]
) -> None:
    # 4 frames with stride 6 are a window of 24 at 30 a second: every 23 / 3 = 7.67 frames, cut to
    # whole ones.
    sampling = SamplingConfig(indexing="linspace")
    plan = ClipDataset(index, frames=4, stride=6, views=1, seed=0, sampling=sampling).plan(0)
    assert plan is not None
    numbers = plan.times_s[0] * 30
    assert numbers == pytest.approx(numbers.round())
    assert set(np.diff(numbers).round().astype(int)) == {7, 8}
    assert numbers[-1] - numbers[0] == pytest.approx(23)


def test_a_broken_video_gives_its_place_to_the_next_and_is_told_of(
    broken_index: Callable[[set[int]], ClipIndex],
) -> None:
    index = broken_index({1, 3})
    clips = dataset(index)
    for position in range(15):
        tried = [clips.order.at(position, further)[1] for further in range(5)]
        before = tried[: next(n for n, video in enumerate(tried) if video not in {1, 3})]
        sample = clips[position]
        assert sample.video == str(index.video(tried[len(before)])[0])
        assert [path for path, _ in sample.failed] == [str(index.video(v)[0]) for v in before]
        assert all("cannot be opened as a video" in error for _, error in sample.failed)
    assert sum(bool(clips[position].failed) for position in range(5)) == 2


def test_a_sample_gives_up_when_nothing_can_be_read(
    broken_index: Callable[[set[int]], ClipIndex],
) -> None:
    with pytest.raises(VideoError, match=r"(?s)5 videos in a row cannot be read.*cannot be opened"):
        dataset(broken_index({0, 1, 2, 3, 4}))[0]
