"""The clips by which a training is watched: which, and that they are read as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vidssl.data.clips import ClipReading
from vidssl.data.fixed import FixedClips, choose_fixed, read_fixed
from vidssl.data.loader import LoaderConfig
from vidssl.jobs import index as index_job
from vidssl.video.index import ClipIndex


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_numbered: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("fixed")
    for number in range(12):
        write_numbered(folder / f"v{number:02}.mp4", 20)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> ClipIndex:
    index_job.run(str(folder), folder / "index.parquet")
    return ClipIndex(folder / "index.parquet")


def read(index: ClipIndex, rows: dict[int, int]) -> FixedClips | None:
    return read_fixed(
        index,
        rows,
        frames=4,
        stride=3,
        side_px=32,
        reading=ClipReading(),
        loader=LoaderConfig(workers=0),
    )


def test_without_classes_videos_at_equal_distances_are_watched(index: ClipIndex) -> None:
    assert choose_fixed(index, {}, 3) == {2: -1, 6: -1, 10: -1}
    assert list(choose_fixed(index, {}, 100)) == list(range(12))


def test_with_classes_four_videos_each_of_some_classes_are_watched(index: ClipIndex) -> None:
    classes = {index.video(row)[0]: row % 3 for row in range(12)}
    rows = choose_fixed(index, classes, 8)
    assert sorted(rows.values()) == [0] * 4 + [2] * 4
    assert all(row % 3 == label for row, label in rows.items())
    # Too little room, or classes too small to vote for: any videos.
    assert set(choose_fixed(index, classes, 7).values()) == {-1}
    alone = {index.video(row)[0]: row for row in range(12)}
    assert set(choose_fixed(index, alone, 12).values()) == {-1}


def test_two_clips_of_each_video_are_read_with_its_class(index: ClipIndex) -> None:
    found = read(index, {0: 5, 3: 7})
    assert found is not None
    assert found.clips.shape == (4, 3, 4, 32, 32)
    assert found.video.tolist() == [0, 0, 1, 1]
    assert found.label.tolist() == [5, 5, 7, 7]
    again = read(index, {0: 5, 3: 7})
    assert again is not None
    assert again.clips.equal(found.clips)


def test_a_video_that_went_bad_is_left_out(folder: Path, index: ClipIndex, tmp_path: Path) -> None:
    bad = Path(index.video(4)[0])
    content = bad.read_bytes()
    try:
        bad.write_bytes(b"no video any more")
        found = read(index, {0: 1, 4: 2})
        assert found is not None
        assert found.label.tolist() == [1, 1]
        assert read(index, {4: 2}) is None
    finally:
        bad.write_bytes(content)
