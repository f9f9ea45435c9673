"""Folders of frames read as videos: names, gaps, damage, and what an index says of them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vidssl import sources
from vidssl.errors import SourceError, VideoError
from vidssl.jobs import index as job
from vidssl.video.decoders.frames import Reader, series_of
from vidssl.video.index import read_rows
from vidssl.video.probe import probe
from vidssl.video.reader import open_reader
from vidssl.video.storage import Stat, stat, video_id

Numbers = Callable[[NDArray[np.uint8]], list[int]]


@pytest.fixture
def extracted(
    tmp_path: Path, write_numbered: Callable[..., Path]
) -> Callable[[str, Sequence[int]], Path]:
    """Write pictures that carry the numbers of their names, and return their folder."""
    with open_reader(str(write_numbered(tmp_path / "all.mp4", 200))) as reader:
        clip = reader.frames_at(np.arange(200) / 10).frames

    def write(pattern: str, numbers: Sequence[int]) -> Path:
        for number in numbers:
            path = tmp_path / pattern.format(number)
            path.parent.mkdir(exist_ok=True, parents=True)
            Image.fromarray(clip[number]).save(path, quality=95)
        return path.parent

    return write


Extracted = Callable[[str, Sequence[int]], Path]
LAYOUTS = ["v1/v1_{:06d}.jpg", "v1/img_{:05d}.jpg", "v1/{}.png", "v1/frame{:04d}.JPEG"]


def shown(folder: Path, times_s: Sequence[float], read_numbers: Numbers) -> list[int]:
    with open_reader(str(folder)) as reader:
        return read_numbers(reader.frames_at(np.array(times_s)).frames)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frame_n_is_on_the_screen_from_n_less_1_thirtieths_on(
    layout: str, extracted: Extracted, read_numbers: Numbers
) -> None:
    folder = extracted(layout, range(1, 100))
    # 1 + t * 30, before the first the first, after the last the last; in the order asked.
    times = [0.0, 3.0, 1.0, 0.99, 1 / 30, 7 / 30, -1.0, 5.0, 98 / 30]
    assert shown(folder, times, read_numbers) == [1, 91, 31, 30, 2, 8, 1, 99, 99]
    with open_reader(str(folder), "pyav") as reader:  # nothing else reads a folder
        clip = reader.frames_at(np.array([1.01]))
    assert clip.times_s.tolist() == [1.0]


def test_a_series_from_number_0_begins_with_it(extracted: Extracted, read_numbers: Numbers) -> None:
    folder = extracted("v1/img_{:05d}.jpg", range(60))
    assert shown(folder, [0.0, 1.0], read_numbers) == [0, 30]


def test_a_gap_shows_the_frame_before_and_the_index_tells_of_it(
    extracted: Extracted, read_numbers: Numbers
) -> None:
    folder = extracted("v1/v1_{:06d}.jpg", [*range(3, 10), *range(14, 31)])
    assert shown(folder, [0.0, 8 / 30, 9 / 30, 12 / 30, 13 / 30], read_numbers) == [3, 9, 9, 9, 14]
    row = probe(str(folder))
    # 1, 2 and 10 to 13 are missing of 30.
    assert (row.status, row.codec, row.frames, row.duration_s) == ("ok", "jpeg", 24, 1.0)
    assert (row.width, row.height, row.fps) == (96, 64, 30.0)
    assert "6 of 30 frames are missing (the first: 1)" in row.error
    assert row.decoder.startswith("frames-pillow-")


def test_a_whole_series_is_told_of_without_a_word_of_complaint(extracted: Extracted) -> None:
    folder = extracted("v1/img_{:05d}.png", range(1, 16))
    row = probe(str(folder))
    assert (row.status, row.error, row.codec, row.duration_s) == ("ok", "", "png", 0.5)
    assert stat(str(folder)) == Stat(15, os.stat(folder).st_mtime)


def test_a_broken_picture_is_stood_for_by_the_one_before_it(
    extracted: Extracted, read_numbers: Numbers
) -> None:
    folder = extracted("v1/img_{:05d}.jpg", range(1, 31))
    for number in (1, 9, 10):
        (folder / f"img_{number:05d}.jpg").write_bytes(b"not a picture")
    with Reader(str(folder)) as reader:
        clip = reader.frames_at(np.array([0.0, 9 / 30, 10 / 30]))
        assert read_numbers(clip.frames) == [2, 8, 11]
        assert clip.times_s.tolist() == [1 / 30, 7 / 30, 10 / 30]
        assert reader.errors == 3
    row = probe(str(folder))
    assert (row.status, row.frames) == ("ok", 30)
    assert "the first frame that can be decoded is 2" in row.error
    (folder / "img_00030.jpg").write_bytes((folder / "img_00029.jpg").read_bytes()[:-200])
    assert "the last frame, img_00030.jpg, cannot be decoded" in probe(str(folder)).error


def test_folders_of_nothing_that_can_be_decoded_are_refused(extracted: Extracted) -> None:
    folder = extracted("v1/img_{:05d}.jpg", range(1, 4))
    for path in folder.iterdir():
        path.write_bytes(b"")
    with Reader(str(folder)) as reader, pytest.raises(VideoError, match="no frame can be decoded"):
        reader.frames_at(np.array([0.0]))
    assert probe(str(folder)).status == "no_frames"


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_frames_are_shrunk_as_they_are_read(
    suffix: str, extracted: Extracted, read_numbers: Numbers
) -> None:
    folder = extracted("v1/img_{:05d}." + suffix, range(1, 31))
    with Reader(str(folder)) as reader:
        clip = reader.frames_at(np.array([0.5, 0.6]), 32)
        assert clip.frames.shape == (2, 32, 48, 3)
        assert read_numbers(clip.frames) == [16, 19]
        assert reader.frames_at(np.array([0.5]), 100).frames.shape == (1, 64, 96, 3)


def test_all_frames_have_the_size_of_the_first(extracted: Extracted, read_numbers: Numbers) -> None:
    folder = extracted("v1/img_{:05d}.png", range(1, 31))
    path = folder / "img_00016.png"
    with Image.open(path) as image:
        image.resize((192, 128)).save(path)
    assert shown(folder, [0.0, 0.5], read_numbers) == [1, 16]


def test_the_rate_may_be_stated_for_one_folder_or_for_all(
    extracted: Extracted, read_numbers: Numbers
) -> None:
    folder = extracted("v1/img_{:05d}.jpg", range(1, 51))
    (folder.parent / "fps.txt").write_text("10\n")
    assert shown(folder, [1.0], read_numbers) == [11]
    (folder / "fps.txt").write_text("12.5")
    assert shown(folder, [1.0, 2.0], read_numbers) == [13, 26]
    assert probe(str(folder)).duration_s == 4.0
    (folder / "fps.txt").write_text("thirty")
    with pytest.raises(
        VideoError, match=r"fps\.txt: expected the frames per second, found 'thirty'"
    ):
        Reader(str(folder))


def test_optical_flow_beside_the_frames_is_left_alone(extracted: Extracted) -> None:
    folder = extracted("v1/img_{:05d}.jpg", range(1, 5))
    extracted("v1/flow_x_{:05d}.jpg", range(1, 10))
    extracted("v1/flow_y_{:05d}.jpg", range(1, 10))
    assert series_of(str(folder)).length == 4


def test_several_series_of_which_none_is_the_usual_are_refused(extracted: Extracted) -> None:
    folder = extracted("v1/a_{:05d}.jpg", range(1, 4))
    extracted("v1/b_{:05d}.jpg", range(1, 4))
    with pytest.raises(VideoError, match=r"several series of pictures \(a_N\.jpg, b_N\.jpg\)"):
        series_of(str(folder))
    extracted("v1/v1_{:06d}.jpg", range(1, 6))
    assert series_of(str(folder)).length == 5


def test_a_folder_without_frames_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "poster.jpg").write_bytes(b"x")
    with pytest.raises(VideoError, match="v1: not a file"):
        open_reader(str(tmp_path / "v1"))
    with pytest.raises(VideoError, match="holds no numbered pictures"):
        Reader(str(tmp_path / "v1"))
    with pytest.raises(VideoError, match="no such folder"):
        Reader(str(tmp_path / "v2"))


# --- the source


def test_frames_are_a_source_by_name_and_a_folder_of_videos_is_what_it_was(
    extracted: Extracted, tmp_path: Path
) -> None:
    one = extracted("rawframes/one/img_{:05d}.jpg", range(1, 31))
    two = extracted("rawframes/sub/two/two_{:06d}.jpg", range(1, 46))
    (tmp_path / "rawframes" / "readme.txt").write_text("frames")
    root = tmp_path / "rawframes"
    assert sources.scan(f"frames:{root}") == [str(one), str(two)]
    assert sources.scan(f"frames:{one}") == [str(one)]
    assert sources.scan(str(tmp_path)) == [str(tmp_path / "all.mp4")]
    with pytest.raises(SourceError, match="holds no video file"):
        sources.scan(str(root))


def test_a_source_without_frames_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no folder there holds frames"):
        sources.scan(f"frames:{tmp_path / 'empty'}")
    with pytest.raises(SourceError, match="no such file or folder; did you mean 'empty'"):
        sources.scan(f"frames:{tmp_path / 'empyt'}")


def test_an_index_of_frames_is_kept_until_they_change(extracted: Extracted, tmp_path: Path) -> None:
    one = extracted("rawframes/one/img_{:05d}.jpg", range(1, 31))
    extracted("rawframes/two/img_{:05d}.jpg", range(1, 61))
    out = tmp_path / "index.parquet"
    found = job.run(f"frames:{one.parent}", out, workers=1)
    assert (found.counts, found.frames) == ({"ok": 2}, 90)
    assert found.hours == pytest.approx(3 / 3600)
    job.run(f"frames:{one.parent}", out, workers=1)
    before = read_rows(out)
    extracted("rawframes/one/img_{:05d}.jpg", range(31, 46))
    assert job.run(f"frames:{one.parent}", out, workers=1).frames == 105
    after = read_rows(out)
    assert after[1] == before[1]
    listing = tmp_path / "list.txt"
    listing.write_text(f"{one}\n{one.parent / 'two'}\n")
    assert job.run(str(listing), tmp_path / "other.parquet", workers=1).frames == 105


@pytest.mark.parametrize(
    ("name", "known_as"),
    [("a.b", "a.b"), ("-IELREHX_js.v2", "-IELREHX_js.v2"), ("movie.mp4", "movie")],
)
def test_what_follows_a_dot_in_the_name_of_a_folder_is_part_of_its_id(
    name: str, known_as: str, extracted: Extracted, tmp_path: Path
) -> None:
    assert video_id(str(extracted(f"{name}/img_{{:05d}}.jpg", [1, 2]))) == known_as
    (tmp_path / "plain.b").write_bytes(b"a file")
    assert video_id(str(tmp_path / "plain.b")) == "plain"
