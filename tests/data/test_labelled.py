"""Samples of a labelled list, shares of its labels, and the clips that are read of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from vidssl.augment.recognition import RecognitionConfig
from vidssl.data.clips import ClipReading
from vidssl.data.labelled import (
    Examples,
    LabelledClips,
    LabelledSampling,
    LabelsConfig,
    examples,
    recognised,
    require_labels,
    with_labels,
)
from vidssl.errors import SourceError
from vidssl.sources import ENTRIES, Ledger, Listing
from vidssl.video.index import ClipIndex

Row = tuple[int | None, Sequence[int], float | None, float | None]
ReadNumbers = Callable[[NDArray[np.uint8]], list[int]]


def listing(
    index: ClipIndex, rows: Sequence[Row], *, names: Sequence[str] = (), **more: Any
) -> Listing:
    """A list of rows (video, labels, start, end) about the index's videos."""
    paths = index.paths()
    table = pa.table(
        {
            "id": [f"v{video}" for video, *_ in rows],
            "video": [video for video, *_ in rows],
            "labels": [list(labels) for _, labels, *_ in rows],
            "start_s": [start for *_, start, _ in rows],
            "end_s": [end for *_, end in rows],
        },
        schema=ENTRIES,
    )
    for name, values in more.items():
        table = table.append_column(name, pa.array(values))
    return Listing("test", paths, table, Ledger(len(paths), len(paths)), dict(enumerate(names)))


def whole(*labels: int) -> list[Row]:
    return [(n, [label], None, None) for n, label in enumerate(labels)]


# --- from a list to samples


def test_each_row_is_a_sample_of_its_class_and_time(index: ClipIndex) -> None:
    rows: list[Row] = [(0, [1], None, None), (3, [0], 1.0, 2.5), (3, [1], 2.0, 99.0)]
    found = examples(listing(index, rows, names=["a", "b"]), index)
    assert found.classes == ("a", "b")
    assert found.video.tolist() == [0, 3, 3]
    # Videos are 3.0, 3.5, 4.0, 4.5 and 5.0 s long; times past the end are cut.
    assert found.start_s.tolist() == [0.0, 1.0, 2.0]
    assert found.end_s == pytest.approx([3.0, 2.5, 4.5], abs=1e-3)
    assert found.labels.tolist() == [1, 0, 1]
    assert found.counts().tolist() == [1, 2]
    assert found.lost == {}


def test_rows_that_cannot_be_trained_on_are_counted_by_reason(
    broken_index: Callable[[set[int]], ClipIndex],
) -> None:
    usable = broken_index(set())
    rows: list[Row] = [
        *((0, [0], None, None), (1, [], None, None), (None, [1], None, None)),
        *((2, [1], 50.0, 60.0), (4, [1], None, None)),
    ]
    made = listing(usable, rows)
    # The last of the list's videos is not in the index: set aside.
    aside = replace(made, videos=[*made.videos[:4], "/elsewhere/other.mp4"])
    found = examples(replace(aside, entries=made.entries), usable)
    assert found.video.tolist() == [0]
    assert found.lost == {
        **{"no class": 1, "video missing or not decodable": 2},
        "begins behind its video's end": 1,
    }
    rows = [(None, [0], None, None), (None, [1], None, None), (1, [], None, None)]
    with pytest.raises(SourceError, match="nothing is left to train on:\n  1 rows: no class"):
        examples(listing(usable, rows), usable)


def test_a_video_is_a_sample_that_shows_what_its_rows_say_of_each_time(index: ClipIndex) -> None:
    rows: list[Row] = [
        *((4, [2], 0.0, 1.0), (4, [0], 0.5, 3.0), (1, [1], None, None), (4, [2], 4.0, 4.5)),
        (3, [], None, None),
    ]
    found = examples(listing(index, rows), index, samples="videos", one_class=False)
    # In the order of the videos; 0 and 2 have no row: nothing of the list is in them. Video 3 has
    # one that says nothing: it is not known what is in it.
    assert found.video.tolist() == [0, 1, 2, 4]
    assert found.end_s == pytest.approx([3.0, 3.5, 4.0, 5.0], abs=1e-3)
    last = 3
    assert found.labels_between(last, 0.0, 0.4) == (2,)
    assert found.labels_between(last, 0.7, 0.8) == (0, 2)
    assert found.labels_between(last, 3.2, 3.9) == ()
    assert found.labels_between(last, 0.0, 5.0) == (0, 2)  # each class once
    assert found.labels_between(1, 2.0, 2.1) == (1,)
    assert found.labels_between(0, 0.0, 3.0) == ()
    assert found.counts().tolist() == [1, 1, 1]


def test_all_hangs_on_the_fingerprint(index: ClipIndex) -> None:
    base = whole(0, 1, 0, 1, 0)
    one = examples(listing(index, base), index).fingerprint(index)
    assert one == examples(listing(index, base), index).fingerprint(index)
    others = [
        listing(index, whole(0, 1, 0, 1, 1)),
        listing(index, base, names=["x", "y"]),
        listing(index, [*base[:4], (4, [0], 1.0, None)]),
        listing(index, base[:4]),
    ]
    prints = {examples(other, index).fingerprint(index) for other in others}
    assert len(prints | {one}) == 5


# --- lists that nothing can be learnt from


def test_lists_without_labels_are_refused_with_what_would_do(index: ClipIndex) -> None:
    for made in (
        Listing.plain("folder", index.paths()),
        listing(index, [(0, [], None, None)]),
    ):
        with pytest.raises(SourceError, match=r"the videos have no labels; expected a csv with co"):
            require_labels(made)


def test_numbers_with_gaps_are_refused_unless_the_classes_have_names(index: ClipIndex) -> None:
    with pytest.raises(SourceError, match=r"up to 4, yet 2 of them have no sample \(1, 2\)"):
        require_labels(listing(index, whole(0, 3, 4)))
    require_labels(listing(index, whole(0, 3, 4), names="abcde"))
    with pytest.raises(SourceError, match=r"class 4 has no name; expected one for each of 0 to 4"):
        require_labels(listing(index, whole(0, 3, 4), names="abcd"))
    gap = replace(listing(index, whole(0, 1)), classes={0: "a", 2: "c"})
    with pytest.raises(SourceError, match=r"without gaps, number 1 is missing"):
        require_labels(gap)
    with pytest.raises(SourceError, match="several classes are called 'a'"):
        require_labels(listing(index, whole(0, 1), names="aa"))


def test_one_class_is_expected_of_each_row_unless_several_are_learnt(index: ClipIndex) -> None:
    made = listing(index, [(0, [0, 1], None, None), (1, [1], None, None)])
    with pytest.raises(SourceError, match=r"1 rows have several classes; .*\n  v0$"):
        require_labels(made)
    require_labels(made, one_class=False)
    with pytest.raises(SourceError, match="has a single class; there is nothing to tell apart"):
        require_labels(listing(index, whole(0, 0)))


def test_verbs_and_nouns_are_those_of_the_source(index: ClipIndex) -> None:
    made = listing(index, whole(0, 1, 0), verb=[0, 1, 0], noun=[1, 1, 0])
    require_labels(made, "verb")
    with pytest.raises(SourceError, match=r"labels are not its nouns.*the option label=noun"):
        require_labels(made, "noun")
    with pytest.raises(SourceError, match=r"has no verbs; head.target: verb is for lists as EPIC"):
        require_labels(listing(index, whole(0, 1)), "verb")


# --- a share of the labels


def many(counts: Sequence[int], order: Sequence[int] | None = None) -> Examples:
    """Samples of as many classes as there are counts, in some order."""
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"video{n}" for n in range(len(labels))]
    order = range(len(labels)) if order is None else order
    return Examples(
        classes=tuple(map(str, range(len(counts)))),
        video=np.array(order),
        start_s=np.zeros(len(labels)),
        end_s=np.ones(len(labels)),
        ends=np.arange(1, len(labels) + 1),
        labels=labels[list(order)],
        from_s=np.zeros(len(labels)),
        to_s=np.ones(len(labels)),
        key=[names[n] for n in order],
    )


def test_a_share_is_taken_of_each_class_and_one_at_least() -> None:
    every = many([100, 30, 4, 1])
    # A tenth: 10, 3, 0.4 and 0.1, of which one at least; a hundredth: 1, 0.3, ...; half: 15, 2.
    for share, expected in ((0.1, [10, 3, 1, 1]), (0.01, [1, 1, 1, 1]), (0.5, [50, 15, 2, 1])):
        found = with_labels(every, LabelsConfig(share=share))
        assert found.counts().tolist() == expected
        assert list(found.video) == sorted(found.video)  # in the list's order
    assert with_labels(every, LabelsConfig()) is every


def chosen(found: Examples, share: float, seed: int = 0) -> set[str]:
    return set(with_labels(found, LabelsConfig(share=share, seed=seed)).key)


def test_the_draw_is_the_seeds_and_not_the_orders() -> None:
    every = many([100, 30, 4, 1])
    shuffled = many([100, 30, 4, 1], np.random.default_rng(0).permutation(135).tolist())
    assert chosen(every, 0.1) == chosen(shuffled, 0.1) == chosen(every, 0.1)
    assert chosen(every, 0.1, seed=1) != chosen(every, 0.1, seed=0)


def test_a_hundredth_is_part_of_a_tenth_is_part_of_a_half() -> None:
    every = many([300, 120, 44, 3])
    for seed in range(5):
        assert chosen(every, 0.01, seed) < chosen(every, 0.1, seed) < chosen(every, 0.5, seed)


def test_videos_that_are_gone_change_nothing_about_the_others() -> None:
    every = many([100, 30])
    drawn = chosen(every, 0.1)
    absent = next(n for n, key in enumerate(every.key) if key not in drawn and n < 100)
    without = every.taken(np.array([n for n in range(len(every)) if n != absent]))
    assert chosen(without, 0.1) == drawn


def test_of_samples_with_several_classes_each_class_is_met() -> None:
    # 200 samples of class 0, of which every 20th has one of ten rare classes besides.
    labels = [[0] if n % 20 else [0, 1 + n // 20] for n in range(200)]
    base = many([200])
    every = replace(
        base,
        classes=tuple(map(str, range(11))),
        ends=np.cumsum([len(own) for own in labels]),
        labels=np.array([label for own in labels for label in own]),
        from_s=np.zeros(210),
        to_s=np.ones(210),
    )
    few = with_labels(every, LabelsConfig(share=0.01))
    assert (few.counts() > 0).all()
    assert few.counts()[1:].tolist() == [1] * 10
    assert 10 <= len(few) <= 12  # two drawn, and the first of each rare class
    for seed in range(5):
        assert chosen(every, 0.01, seed) < chosen(every, 0.1, seed) < chosen(every, 0.5, seed)


# --- clips


def clips(
    index: ClipIndex, rows: Sequence[Row], sampling: LabelledSampling, **more: Any
) -> LabelledClips:
    found = examples(
        listing(index, rows),
        index,
        samples=sampling.samples,
        one_class=sampling.samples == "entries",
    )
    options = {"frames": 4, "stride": 6, "seed": 0, **more}
    return LabelledClips(found, index, sampling=sampling, **options)


def test_clips_lie_between_the_times_of_their_row(index: ClipIndex) -> None:
    # 4 frames of stride 6 span 0.6 s.
    rows: list[Row] = [(4, [0], 1.0, 2.0), (4, [1], 3.0, 3.3), (2, [1], None, None)]
    samples = clips(index, rows, LabelledSampling(clips=3))
    starts: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for position in range(90):
        _, number = samples.order.at(position)
        plan = samples.plan(position)
        assert plan is not None
        assert plan.clip.times_s.shape == (3, 4)
        assert plan.labels == (((0,), (1,), (1,))[number],) * 3
        starts[number] += plan.clip.times_s[:, 0].tolist()
        begin, end = ((1.0, 2.0), (3.0, 3.3), (0.0, 4.0))[number]
        assert plan.clip.times_s.min() >= begin
        assert plan.clip.times_s.max() < end
    assert np.ptp(starts[0]) > 0.35  # from 1.0 to 1.4
    assert np.ptp(starts[2]) > 2.5
    # A row shorter than the clip begins where it begins, and its last frame repeats.
    assert set(starts[1]) == {3.0}


def test_the_frames_that_are_read_are_those_of_the_times(
    index: ClipIndex, read_numbers: ReadNumbers
) -> None:
    # Frame n of video v carries 50 v + n, ten a second.
    samples = clips(index, [(2, [0], 1.0, 1.7), (3, [1], 2.0, 2.7)], LabelledSampling())
    for position in range(4):
        _, number = samples.order.at(position)
        sample = samples[position]
        first = (100 + 10, 150 + 20)[number]
        numbers = read_numbers(sample.clip.views[0].numpy())
        assert first <= numbers[0] <= numbers[-1] <= first + 7
        assert np.diff(numbers).tolist() == [2, 2, 2]
        assert sample.labels == ((number,),)


def test_segments_have_a_frame_in_each_equal_part(index: ClipIndex) -> None:
    rows: list[Row] = [(4, [0], 1.0, 3.0), (0, [1], None, None)]
    samples = clips(index, rows, LabelledSampling(frames="segments"))
    for position in range(40):
        _, number = samples.order.at(position)
        plan = samples.plan(position)
        assert plan is not None
        begin, length = ((1.0, 2.0), (0.0, 3.0))[number]
        parts = (plan.clip.times_s[0] - begin) / (length / 4)
        assert np.floor(parts).tolist() == [0, 1, 2, 3]


def test_a_clip_of_a_video_shows_the_rows_that_it_overlaps(index: ClipIndex) -> None:
    rows: list[Row] = [(4, [0], 0.0, 1.5), (4, [1], 3.5, 5.0)]
    samples = clips(index, rows, LabelledSampling(samples="videos", clips=2))
    seen = set()
    for position in range(len(samples) * 40):
        plan = samples.plan(position)
        assert plan is not None
        is_labelled = plan.location.endswith("video4.mp4")
        for times, labels in zip(plan.clip.times_s, plan.labels, strict=True):
            expected = (*((0,) if times[0] <= 1.5 else ()), *((1,) if times[-1] >= 3.5 else ()))
            assert labels == (expected if is_labelled else ())
            seen.add(labels)
    assert seen == {(), (0,), (1,)}


def test_a_clip_that_begins_anew_shows_what_all_its_frames_do(index: ClipIndex) -> None:
    # Of 5 s, 60 frames of stride 3 are 5.9 s: the clip ends at 0.9 s, in its second round.
    rows: list[Row] = [(4, [0], 0.0, 1.5), (4, [1], 3.5, 5.0)]
    found = examples(listing(index, rows), index, samples="videos", one_class=False)
    sampling = LabelledSampling(samples="videos", short_videos="loop")
    samples = LabelledClips(found, index, frames=60, stride=3, seed=0, sampling=sampling)
    plans = [samples.plan(position) for position in range(len(samples))]
    (plan,) = [one for one in plans if one and one.location.endswith("video4.mp4")]
    assert plan.clip.times_s[0, -1] == pytest.approx(0.9, abs=0.01)
    assert plan.labels == ((0, 1),)


def test_a_position_gives_the_same_clip_again_and_another_epoch_another(index: ClipIndex) -> None:
    samples = clips(index, whole(0, 1, 0, 1, 0), LabelledSampling())
    again = clips(index, whole(0, 1, 0, 1, 0), LabelledSampling())
    for position in range(7):
        one, two = samples.plan(position), again.plan(position)
        assert one is not None
        assert two is not None
        assert one.labels == two.labels
        assert one.clip.seed == two.clip.seed
        assert np.array_equal(one.clip.times_s, two.clip.times_s)
    later = [
        plan
        for position in range(5, 10)
        if samples.order.at(position)[1] == samples.order.at(0)[1]
        and (plan := samples.plan(position)) is not None
    ]
    first = samples.plan(0)
    assert first is not None
    assert not np.array_equal(later[0].clip.times_s, first.clip.times_s)


def test_a_video_too_short_for_the_clip_is_another_sample_where_it_is_refused(
    index: ClipIndex,
) -> None:
    rows: list[Row] = [(0, [0], 0.0, 0.2), (1, [1], None, None)]
    samples = clips(index, rows, LabelledSampling(short_videos="refuse"))
    for position in range(4):
        sample = samples[position]
        assert sample.labels == ((1,),)
        is_short = samples.order.at(position)[1] == 0
        assert len(sample.failed) == is_short
        if is_short:
            assert "expected a video of at least 0.60 s" in sample.failed[0][1]


def test_a_video_that_breaks_later_is_told_of_and_another_takes_its_place(
    broken_index: Callable[[set[int]], ClipIndex],
) -> None:
    damaged = broken_index({1})
    samples = clips(damaged, whole(0, 1, 0, 1, 0), LabelledSampling())
    told = {}
    for position in range(5):
        sample = samples[position]
        assert Path(sample.clip.video).name != "video1.mp4"
        told.update(dict(sample.failed))
    assert [Path(path).name for path in told] == ["video1.mp4"]


def test_workers_may_crop_and_normalise(index: ClipIndex) -> None:
    config = RecognitionConfig(crop_px=32, short_side_px=(32, 40))
    reading = ClipReading(finish=lambda sample: recognised(config, sample))
    samples = clips(index, whole(0, 1), LabelledSampling(clips=2), reading=reading)
    one, two = samples[0].clip.views
    assert one.shape == two.shape == (3, 4, 32, 32)
    assert one.is_floating_point()
    assert not one.equal(two)
