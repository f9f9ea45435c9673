"""Clips around key frames: where their videos are, what they show, and that none is left out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidssl.ava.annotations import KeyFrame, PersonBoxes
from vidssl.data.keyframes import (
    KeyFrameDataset,
    KeyFrameSample,
    Moment,
    Placed,
    Reading,
    VideoChunks,
    annotated,
    chunks,
    detected,
    place,
)
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.data.order import StepBatches
from vidssl.errors import AnnotationError, VideoError
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter, WindowConfig
from vidssl.video.index import ClipIndex, write_index
from vidssl.video.probe import VideoFacts

Numbers = Callable[[NDArray[np.uint8]], list[int]]


def moment(video: int | str, timestamp: float, people: int = 1) -> Moment:
    boxes = np.tile([0.1, 0.2, 0.5, 0.9], (people, 1))
    name = f"video{video}" if isinstance(video, int) else video
    return Moment(name, timestamp, boxes, np.ones((people, 2), np.bool_), np.ones(people))


def at(*pairs: tuple[int, float]) -> list[Moment]:
    return [moment(video, timestamp) for video, timestamp in pairs]


READING = Reading(frames=4, stride=6)  # -0.4, -0.2, 0 and +0.2 s: two frames of these videos apart


def placed(index: ClipIndex, moments: Sequence[Moment]) -> Placed:
    return place(moments, index, {})


def everything(parts: VideoChunks) -> list[KeyFrameSample]:
    return [sample for number in range(len(parts)) for sample in parts[number]]


def test_a_clip_stands_around_its_key_frame(index: ClipIndex, read_numbers: Numbers) -> None:
    # Frame n of video v carries 50 v + n and begins at n / 10 s. Key frames lie in the middle of
    # one. Before the video comes its first frame, after it its last.
    moments = at((1, 2.05), (0, 0.05), (0, 2.95))
    expected = {
        (1, 2.05): [66, 68, 70, 72],
        (0, 0.05): [0, 0, 0, 2],
        (0, 2.95): [25, 27, 29, 29],
    }
    samples = KeyFrameDataset(placed(index, moments), READING, seed=0, bank=None)
    assert len(samples) == 3
    for position in range(3):
        sample = samples[position]
        assert sample.clip.shape == (4, 64, 96, 3)
        key = (int(sample.moment.video[-1]), sample.moment.timestamp)
        assert read_numbers(sample.clip.numpy()) == expected.pop(key)
    assert not expected  # an epoch shows each key frame once


def test_a_position_gives_the_same_key_frame_and_seed_on_any_worker(index: ClipIndex) -> None:
    moments = at(*[(v, 0.5 + s) for v in range(5) for s in range(3)])
    samples = KeyFrameDataset(placed(index, moments), READING, seed=3, bank=None)
    alone = [samples[position] for position in range(16)]
    batches = Loader(samples, StepBatches(4, 0, 4), LoaderConfig(workers=2))
    for one, two in zip(alone, [s for batch in batches for s in batch], strict=True):
        assert (one.moment.video, one.moment.timestamp) == (two.moment.video, two.moment.timestamp)
        assert one.seed == two.seed
        assert torch.equal(one.clip, two.clip)
    assert len({sample.seed for sample in alone}) == 16


def test_a_key_frame_of_a_broken_video_gives_its_place_to_the_next(
    broken_index: Callable[[set[int]], ClipIndex],
) -> None:
    index = broken_index({2})
    where = placed(index, at((2, 1.0), (3, 1.0)))
    samples = KeyFrameDataset(where, READING, seed=0, bank=None)
    both = [samples[position] for position in range(2)]
    assert [sample.moment.video for sample in both] == ["video3", "video3"]
    (failed,) = [sample.failed for sample in both if sample.failed]
    assert failed[0][0] == str(where.paths["video2"])
    assert "cannot be opened" in failed[0][1]
    with pytest.raises(VideoError, match="1 videos in a row cannot be read"):
        KeyFrameDataset(placed(index, at((2, 1.0))), READING, seed=0, bank=None)[0]


def test_missing_videos_are_set_aside_with_their_reasons(index: ClipIndex) -> None:
    moments = [*at((0, 1.0), (1, 1.0)), moment("gone", 1.0), moment("torn", 2.0), moment("torn", 3)]
    found = place(moments, index, {"torn": "torn.mp4: cut off"})
    assert [m.video for m in found.moments] == ["video0", "video1"]
    assert found.paths == {"video0": index.paths()[0], "video1": index.paths()[1]}
    assert found.unusable == {"gone": "no such video", "torn": "torn.mp4: cut off"}
    assert found.lost == 3


def test_annotations_of_other_videos_are_refused_with_names_of_both(index: ClipIndex) -> None:
    with pytest.raises(AnnotationError) as caught:
        place([moment("x", 1.0), moment("y", 1.0)], index, {})
    message = str(caught.value)
    assert "none of the 2 annotated videos (x, y, ...) is among the 5 given" in message
    assert "(video0, video1, video2, ...); ids are file names without their suffix" in message


def test_two_files_of_one_id_are_refused(facts: list[VideoFacts], tmp_path: Path) -> None:
    twin = VideoFacts(**{**vars(facts[0]), "path": "/elsewhere/video0.mkv"})
    write_index(tmp_path / "twins.parquet", [*facts, twin])
    index = ClipIndex(tmp_path / "twins.parquet")
    message = rf"several files have the id of one video:\n  video0: {facts[0].path} and {twin.path}"
    with pytest.raises(AnnotationError, match=message):
        place(at((0, 1.0)), index, {})
    assert len(place(at((1, 1.0)), index, {}).moments) == 1  # nobody asks for the twins


def test_key_frames_behind_the_end_are_refused(index: ClipIndex) -> None:
    # video0 ends at 3.0 s; half a second is forgiven.
    assert len(place(at((0, 3.5)), index, {}).moments) == 1
    with pytest.raises(AnnotationError) as caught:
        place(at((0, 1.0), (0, 3.6), (1, 90.2)), index, {})
    message = str(caught.value)
    assert "behind the end of their video (is the time origin another?)" in message
    assert "video0 at 3.6 s: the video ends at 3.00 s" in message
    assert "video1 at 90.2 s: the video ends at 3.50 s" in message


def test_chunks_give_every_moment_once_in_order_of_video_and_time() -> None:
    moments = at((1, 3.0), (0, 2.0), (1, 1.0), (0, 1.0), (1, 2.0), (0, 3.0), (0, 4.0), (2, 0.0))
    got = [part.tolist() for part in chunks(moments, 3)]
    # video0 has positions 3, 1, 5 and 6, video1 has 2, 4 and 0, video2 has 7.
    assert got == [[3, 1, 5], [6], [2, 4, 0], [7]]
    for size in (1, 2, 100):
        parts = [part.tolist() for part in chunks(moments, size)]
        assert [i for part in parts for i in part] == [3, 1, 5, 6, 2, 4, 0, 7]
        assert max(map(len, parts)) <= size
    assert list(chunks([], 3)) == []


def test_extraction_reads_the_same_clips_as_training_each_once(
    index: ClipIndex, read_numbers: Numbers
) -> None:
    rng = np.random.default_rng(0)
    moments = at(
        *[
            (int(v), float(t))
            for v, t in zip(rng.integers(0, 5, 30), rng.uniform(0, 3, 30), strict=True)
        ]
    )
    where = placed(index, moments)
    got = everything(VideoChunks(where, READING, 4, None))
    assert sorted(id(s.moment) for s in got) == sorted(id(m) for m in where.moments)
    training = KeyFrameDataset(where, READING, seed=0, bank=None)
    trained = {id(s.moment): s for s in (training[position] for position in range(30))}
    for sample in got:
        assert torch.equal(sample.clip, trained[id(sample.moment)].clip)
        assert not sample.failed


def test_a_failing_video_is_told_of_for_each_of_its_key_frames(
    broken_index: Callable[[set[int]], ClipIndex],
) -> None:
    where = placed(broken_index({1}), at((0, 1.0), (1, 1.0), (1, 2.0), (2, 1.0)))
    got = everything(VideoChunks(where, READING, 8, None))
    assert [s.moment.video for s in got] == ["video0", "video1", "video1", "video2"]
    assert [len(s.failed) for s in got] == [0, 1, 1, 0]
    assert [s.clip.numel() > 0 for s in got] == [True, False, False, True]
    assert got[1].failed[0][0] == str(where.paths["video1"])


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    """A row each second of video0 and video1; its feature is 10 v + second."""
    rows = [(f"video{v}", float(s), 10 * v + s) for v in (0, 1) for s in range(4)]
    writer = BankWriter(
        tmp_path / "bank", dim=1, identity=BankIdentity("f00d", {}), plan=[["video0", "video1"]]
    )
    writer.write_shard(
        0,
        BankRows(
            [video for video, _, _ in rows],
            np.array([second for _, second, _ in rows]),
            np.tile([0.0, 0.0, 1.0, 1.0], (len(rows), 1)),
            np.ones(len(rows)),
            np.array([[feature] for _, _, feature in rows], dtype=np.float64),
        ),
    )
    return writer.close()


def test_the_window_of_the_bank_comes_along_with_its_key_frame(
    index: ClipIndex, bank: Bank
) -> None:
    # One second before, the present, and one after.
    reading = Reading(4, 6, window=WindowConfig(before_s=1, after_s=2, per_step=1))
    where = placed(index, at((0, 1.0), (1, 2.0), (1, 0.0)))
    expected = {
        ("video0", 1.0): ([0, 1, 2], [-1, 0, 1], [True, True, True]),
        ("video1", 2.0): ([11, 12, 13], [-1, 0, 1], [True, True, True]),
        ("video1", 0.0): ([0, 10, 11], [0, 0, 1], [False, True, True]),
    }
    training = KeyFrameDataset(where, reading, seed=0, bank=bank)
    extraction = VideoChunks(where, reading, 8, bank)
    samples = [training[position] for position in range(3)]
    samples += [
        s
        for batch in Loader(training, StepBatches(3, 0, 1), LoaderConfig(workers=1))
        for s in batch
    ]
    samples += everything(extraction)
    assert len(samples) == 9
    for sample in samples:
        features, offsets, mask = expected[sample.moment.video, sample.moment.timestamp]
        assert sample.window is not None
        assert sample.window.features[:, 0].tolist() == features
        assert sample.window.offset_s.tolist() == offsets
        assert sample.window.mask.tolist() == mask
    assert KeyFrameDataset(where, reading, seed=0, bank=None)[0].window is None


def test_true_people_have_score_1_and_detected_ones_no_labels() -> None:
    labels = np.array([[True, False], [False, True]])
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    true = annotated(KeyFrame("v", 902.0, boxes, labels, np.array([7, 8])))
    assert (true.video, true.timestamp) == ("v", 902.0)
    assert true.scores.tolist() == [1.0, 1.0]
    assert np.array_equal(true.labels, labels)
    people = PersonBoxes(
        np.array(["b", "a", "b", "b"], dtype=object),
        np.array([2.0, 1.0, 3.0, 2.0000000001]),
        np.arange(16, dtype=np.float64).reshape(4, 4) / 16,
        np.array([0.9, 0.8, 0.7, 0.6]),
    )
    got = detected(people)
    assert [(m.video, m.timestamp) for m in got] == [("b", 2.0), ("a", 1.0), ("b", 3.0)]
    assert got[0].scores.tolist() == [0.9, 0.6]
    assert np.array_equal(got[0].boxes, people.box[[0, 3]])
    assert got[0].labels.shape == (2, 0)
