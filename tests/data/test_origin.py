"""From where annotated times count: found by the lengths of files, refused where it cannot be."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vidssl.ava.origins import (
    CUT_FRAMES,
    Footage,
    Origin,
    Stated,
    find_origins,
    is_worth_telling,
    parse_origin,
    require_alone,
    summary,
    told,
)
from vidssl.data.keyframes import KeyFrameDataset, Moment, Reading, VideoChunks, place
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.errors import AnnotationError
from vidssl.video.index import ClipIndex, write_index
from vidssl.video.probe import VideoFacts, probe
from vidssl.video.reader import open_reader

Numbers = Callable[[NDArray[np.uint8]], list[int]]

AVA = (902.0, 1300.0, 1798.0)
CUT = Footage(901.0)


def found(
    lengths_s: Mapping[str, float | Footage],
    times: Mapping[str, Sequence[float]] | None = None,
    stated: Stated | None = None,
) -> dict[str, float]:
    footage = {v: Footage(s) if isinstance(s, float) else s for v, s in lengths_s.items()}
    at = {video: np.array((times or {}).get(video, AVA)) for video in [*footage, *(times or {})]}
    return {v: o.seconds for v, o in find_origins(at, footage, stated).items()}


# --- the rule


@pytest.mark.parametrize("length_s", [898.0, 900.0, 901.0, 902.4, 905.0])
def test_a_file_of_15_minutes_is_a_cut(length_s: float) -> None:
    assert found({"v": length_s}) == {"v": 900.0}
    # Though it may hold the only key frames it has from its beginning on, too.
    assert found({"v": length_s}, {"v": [902.0]}) == {"v": 900.0}


@pytest.mark.parametrize("length_s", [1798.0, 1800.0, 7200.0])
def test_a_file_that_reaches_beyond_the_last_key_frame_of_ava_is_a_film(length_s: float) -> None:
    assert found({"v": length_s}) == {"v": 0.0}
    assert found({"v": length_s}, {"v": [902.0]}) == {"v": 0.0}


def test_films_and_cuts_may_lie_in_one_folder() -> None:
    assert found({"a": 901.0, "b": 7200.0, "c": 904.9}) == {"a": 900.0, "b": 0.0, "c": 900.0}


def test_own_data_count_from_the_beginning_of_their_files() -> None:
    assert found({"v": 60.0}, {"v": [1.0, 59.0]}) == {"v": 0.0}
    # A recording of 15 minutes, and one that a key frame leaves before its last 15.
    assert found({"v": 903.0}, {"v": [3.0, 902.0]}) == {"v": 0.0}
    assert found({"v": 1000.0}, {"v": [899.0, 950.0]}) == {"v": 0.0}


@pytest.mark.parametrize(
    ("length_s", "times", "held"),
    [
        # A cut of somebody's own, 20 s longer than AVA's, of which the first seconds are annotated.
        (920.0, (902.0, 910.0), "2 counted from 0, 2 from 900"),
        (906.0, (902.0, 905.0), "2 counted from 0, 2 from 900"),
        (1000.0, (950.0,), "1 counted from 0, 1 from 900"),
        (1790.0, (902.0, 1780.0), "2 counted from 0, 2 from 900"),
        # From 0 it cannot hold them; from 900 nothing is known that is so long.
        (920.0, (902.0, 1798.0), "1 counted from 0, 2 from 900"),
    ],
)
@pytest.mark.parametrize(
    "beside", [{}, {"own": (10.0, (1.0, 8.0))}, {"film": (7200.0, AVA)}, {"cut": (901.0, AVA)}]
)
def test_a_file_between_cut_and_film_is_refused_whatever_lies_beside_it(
    length_s: float,
    times: tuple[float, ...],
    held: str,
    beside: dict[str, tuple[float, tuple[float, ...]]],
) -> None:
    every = {"a": (length_s, times), **beside}
    with pytest.raises(AnnotationError) as caught:
        found({v: one[0] for v, one in every.items()}, {v: one[1] for v, one in every.items()})
    message = str(caught.value)
    assert message.count("\n") == 1  # the others are clear
    assert f"a is {length_s:.2f} s long; of its {len(times)} key frames from " in message
    assert f"it holds {held}" in message
    # As soon as a person says it, all goes on.
    stated = Stated(by_video={"a": 895.0})
    assert found({"a": length_s}, {"a": times}, stated) == {"a": 895.0}


def test_a_film_holds_its_key_frames_and_reaches_beyond_the_last_of_ava() -> None:
    assert found({"v": 1797.5}, {"v": [902.0]}) == {"v": 0.0}  # half a second is forgiven
    with pytest.raises(AnnotationError):
        found({"v": 1797.4}, {"v": [902.0]})
    with pytest.raises(AnnotationError, match="it holds 1 counted from 0, 2 from 900"):
        found({"v": 1900.0}, {"v": [902.0, 2700.0]})
    assert found({"v": 3000.0}, {"v": [902.0, 2700.0]}) == {"v": 0.0}


def test_ava_beside_other_data_is_still_cut() -> None:
    assert found({"v": 901.0, "k": 300.0}, {"k": [5.2, 290.1]}) == {"v": 900.0, "k": 0.0}


def test_a_file_as_long_as_a_cut_that_fits_both_ways_is_refused_beside_own_data() -> None:
    # All key frames in the last seconds of a recording of 15 minutes, or in the first of a cut.
    times = {"v": [902.0], "w": [5.0]}
    with pytest.raises(AnnotationError, match=r"v is 903\.00 s long; .* 1 counted from 0, 1 from"):
        found({"v": 903.0, "w": 60.0}, times)
    # The annotations alone tell of own data: the same, though not every file is looked at.
    with pytest.raises(AnnotationError, match=r"v is 903\.00 s long"):
        find_origins({v: np.array(t) for v, t in times.items()}, {"v": Footage(903.0)})


@pytest.mark.parametrize(
    ("length_s", "held"),
    [
        (14.0, "0 counted from 0, 1 from 900"),  # 902 - 900 = 2
        (600.0, "0 counted from 0, 2 from 900"),  # and 1300 - 900 = 400
        (1500.0, "2 counted from 0, 3 from 900"),
    ],
)
def test_files_of_which_nothing_can_be_told_are_refused_with_the_numbers(
    length_s: float, held: str
) -> None:
    with pytest.raises(AnnotationError) as caught:
        found({"v": length_s, "fine": 901.0})
    assert str(caught.value) == (
        "from where do the key frames' times count? Say it with --time-origin (0 for films, 900 "
        "for AVA's cuts, SECONDS, or a csv file of video and seconds):\n"
        f"  v is {length_s:.2f} s long; of its 3 key frames from 902 to 1798 s it holds {held}"
    )


def test_a_file_that_was_cut_off_goes_by_the_others_if_they_agree() -> None:
    torn = Footage(700.0, cut_off=True)
    assert found({"v": torn, "a": 901.0, "b": 902.0})["v"] == 900.0
    assert found({"v": torn, "a": 7200.0})["v"] == 0.0
    assert found({"v": Footage(1900.0, cut_off=True)}) == {"v": 0.0}
    alone: dict[str, float | Footage] = {"v": torn}
    for lengths in (alone, {**alone, "a": 901.0, "b": 7200.0}):
        with pytest.raises(AnnotationError, match=r"2 from 900; the file was cut off"):
            found(lengths)
    # Own data say nothing of it, and neither does what was stated of others.
    with pytest.raises(AnnotationError, match="the file was cut off"):
        found({"v": torn, "own": 10.0}, {"own": [1.0, 8.0]})
    with pytest.raises(AnnotationError, match="the file was cut off"):
        found({"v": torn, "w": 60.0}, stated=Stated(by_video={"w": 890.0}))
    with pytest.raises(AnnotationError, match=r"cut off, so that .*only some .*:\n  v"):
        require_alone(find_origins(dict.fromkeys("va", np.array(AVA)), {"v": torn, "a": CUT}))
    require_alone(find_origins({"a": np.array(AVA)}, {"a": CUT}))
    # Longer than any cut, it is of none.
    with pytest.raises(AnnotationError, match=r"2 from 900; the file was cut off"):
        found({"v": Footage(1500.0, cut_off=True), "a": 901.0}, {"v": [902.0, 1400.0]})
    # A film that broke off where a cut would end.
    assert found({"v": Footage(903.0, cut_off=True), "a": 7200.0})["v"] == 0.0


def test_the_number_of_frames_is_proof_or_told_of() -> None:
    at = {video: np.array(AVA) for video in ("v", "w")}
    footage = {"v": Footage(901.0, frames=CUT_FRAMES), "w": Footage(900.5, frames=27_000)}
    assert find_origins(at, footage) == {
        "v": Origin(900.0, "15-minute cuts, all 27,030 frames"),
        "w": Origin(900.0, "15-minute cuts, 27,000 frames in place of 27,030"),
    }
    # As OpenCV extracts them: duplicates dropped, so that times are not what they were.
    with pytest.raises(AnnotationError, match=r"2 from 900; 26,500 frames, not 27,030"):
        found({"v": Footage(26_500 / 30, frames=26_500)})


def test_what_is_found_is_told_by_number_of_videos() -> None:
    at = {video: np.array(AVA) for video in "abc"}
    origins = find_origins(at, {"a": Footage(7200.0), "b": Footage(901.0), "c": Footage(902.0)})
    assert summary(origins) == [
        {"origin_s": 900.0, "videos": 2, "evidence": "15-minute cuts"},
        {"origin_s": 0.0, "videos": 1, "evidence": "whole films"},
    ]
    assert told(summary(origins)) == (
        "time origin 900 s in 2 videos (15-minute cuts), 0 s in 1 (whole films)"
    )
    assert told(summary({"b": Origin()})) == "time origin 0 s in 1 video (key frames before 900 s)"


def test_only_of_own_data_there_is_nothing_to_tell() -> None:
    at = {"own": np.array([1.0, 8.0]), "film": np.array(AVA)}
    own, film = {"own": Footage(10.0)}, {"film": Footage(7200.0)}
    assert not is_worth_telling(summary(find_origins(at, own)))
    assert is_worth_telling(summary(find_origins(at, film)))
    assert is_worth_telling(summary(find_origins(at, own | film)))
    assert is_worth_telling(summary(find_origins(at, film, Stated(0.0))))


# --- set by hand


def test_an_origin_may_be_stated_for_all_or_video_by_video(tmp_path: Path) -> None:
    assert found({"v": 901.0, "w": 60.0}, stated=parse_origin("895.5")) == {"v": 895.5, "w": 895.5}
    (tmp_path / "origins.csv").write_text("v,897\nother,3\n")
    stated = parse_origin(str(tmp_path / "origins.csv"))
    assert found({"v": 1200.0, "w": 901.0}, stated=stated) == {"v": 897.0, "w": 900.0}
    assert parse_origin("auto") == Stated()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("atuo", "expected auto, a number of seconds, or a csv file .*, found 'atuo'"),
        ("nan", "expected a number of seconds, found 'nan'"),
        ("inf", "expected a number of seconds, found 'inf'"),
    ],
)
def test_what_is_no_origin_is_refused(text: str, message: str) -> None:
    with pytest.raises(AnnotationError, match="--time-origin: " + message):
        parse_origin(text)


def test_a_file_of_origins_with_mistakes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "origins.csv"
    path.write_text("v,900\nv,0\n")
    with pytest.raises(AnnotationError, match=r"several origins for one video:\n  v"):
        parse_origin(str(path))
    path.write_text("v,900\nw\n")
    with pytest.raises(AnnotationError, match=r"origins\.csv"):
        parse_origin(str(path))


def test_a_file_of_origins_may_name_what_is_annotated_or_given_and_nothing_else(
    tmp_path: Path,
) -> None:
    index = indexed(tmp_path / "i.parquet", movie=920.0, other=901.0)
    wanted = moments(("movie", 902.0), ("movie", 910.0), ("absent", 902.0))

    def placed(*names: str, others: Sequence[str] = ()) -> float:
        stated = Stated(by_video=dict.fromkeys(names, 895.0))
        return place(wanted, index, {"torn": "empty"}, stated, others).origin_s("movie")

    assert placed("movie") == 895.0
    # Annotated and not there, there and not annotated, set aside, of the rest of the source.
    assert placed("movie", "absent", "other", "torn") == 895.0
    assert placed("movie", "late", others=["/videos/late.mp4"]) == 895.0
    with pytest.raises(AnnotationError) as caught:
        placed("movie", "absnt", "nothing_like_it")
    assert str(caught.value) == (
        "--time-origin: the csv file names videos that are neither annotated nor given:\n"
        "  absnt; did you mean 'absent'?\n"
        "  nothing_like_it"
    )
    with pytest.raises(AnnotationError) as caught:
        placed("movie.mp4", "other")
    assert str(caught.value) == (
        "--time-origin: the csv file names no annotated video:\n"
        "  movie.mp4; did you mean 'movie'?\n"
        "  other"
    )


# --- where videos are found


def indexed(path: Path, **lengths_s: float) -> ClipIndex:
    write_index(path, [VideoFacts(f"/videos/{v}.mp4", duration_s=s) for v, s in lengths_s.items()])
    return ClipIndex(path)


def moments(*pairs: tuple[str, float]) -> list[Moment]:
    none = np.zeros((0, 4)), np.zeros((0, 0), np.bool_), np.zeros(0)
    return [Moment(video, timestamp, *none) for video, timestamp in pairs]


def test_key_frames_outside_of_a_cut_are_set_aside_by_its_own_clock(tmp_path: Path) -> None:
    index = indexed(tmp_path / "i.parquet", v=905.0, w=901.0)
    wanted = moments(*[("v", t) for t in (902.0, 1500.0, 1798.0)], ("w", 902.0), ("w", 1802.0))
    got = place(wanted, index, {})
    assert [(m.video, m.timestamp) for m in got.moments][-1] == ("w", 902.0)
    assert got.unusable == {
        "w": "w at 1802 s: the video ends at 1801.00 s, counted from 900 s",
    }
    assert (got.lost, got.origin_s("v"), got.origin_s("w")) == (1, 900.0, 900.0)


def test_a_wrong_origin_by_hand_is_refused_with_the_numbers(tmp_path: Path) -> None:
    index = indexed(tmp_path / "i.parquet", v=901.0, w=60.0)
    with pytest.raises(AnnotationError, match=r"v at 902 s: the video ends at 901\.00 s"):
        place(moments(("v", 902.0), ("v", 1500.0)), index, {}, Stated(0.0))
    with pytest.raises(AnnotationError, match=r"w at 5 s: the video begins at 900 s, counted from"):
        place(moments(("w", 5.0)), index, {}, Stated(900.0))


def test_one_video_in_many_is_found_by_its_id_and_all_are_placed_in_columns(tmp_path: Path) -> None:
    facts = [VideoFacts(f"/d/{n % 100}/video{n}.part.mp4", duration_s=60.0) for n in range(20_000)]
    facts[7] = VideoFacts("/d/a.tar!video/seven.mp4@512+100", duration_s=60.0)
    facts[8] = VideoFacts("https://host/eight.mp4?key=a/b.mp4", duration_s=60.0)
    facts[9] = VideoFacts("/d/.hidden", duration_s=60.0)
    write_index(tmp_path / "i.parquet", facts)
    names = ["video5.part", "seven", "eight", ".hidden", "video19999.part"]
    got = place(moments(*[(name, 1.0) for name in names]), ClipIndex(tmp_path / "i.parquet"), {})
    at = [5, 7, 8, 9, 19_999]
    assert got.paths == {name: facts[n].path for name, n in zip(names, at, strict=True)}


# --- the same key frame from every form of a video


FPS, LAST = 2, 1810  # frame n of the film carries n, less multiples of 256


@pytest.fixture(scope="module")
def forms(
    tmp_path_factory: pytest.TempPathFactory, write_numbered: Callable[..., Path]
) -> dict[str, Path]:
    """A film, its cut from 900 to 901 and 902 s on, and the cut's frames in both layouts."""
    folder = tmp_path_factory.mktemp("forms")
    paths = {
        "film": write_numbered(folder / "film.mp4", LAST * FPS, fps=FPS),
        "cut": write_numbered(folder / "cut.mp4", 902 * FPS, fps=FPS, first=900 * FPS),
        "ava": folder / "ava",
        "mmaction2": folder / "mmaction2",
    }
    with open_reader(str(paths["cut"])) as reader:
        pictures = reader.frames_at(np.arange(CUT_FRAMES // 15) / FPS).frames
    for name, layout in (("ava", "ava_{:06d}.jpg"), ("mmaction2", "img_{:05d}.jpg")):
        paths[name].mkdir()
        for number in range(1, CUT_FRAMES + 1):
            path, (picture, again) = paths[name] / layout.format(number), divmod(number - 1, 15)
            if again:  # one file under many names
                os.link(paths[name] / layout.format(number - again), path)
            else:
                Image.fromarray(pictures[picture]).save(path, quality=95)
    return paths


def test_film_cut_and_frames_give_the_same_pictures(
    forms: dict[str, Path], tmp_path: Path, read_numbers: Numbers
) -> None:
    write_index(tmp_path / "i.parquet", [probe(str(path)) for path in forms.values()])
    seconds = (902.0, 1000.25, 1400.0, 1797.0, 1798.0)
    placed = place(
        moments(*[(name, second) for name in forms for second in seconds]),
        ClipIndex(tmp_path / "i.parquet"),
        {},
    )
    assert {name: origin.seconds for name, origin in placed.origins.items()} == {
        **{"film": 0.0, "cut": 900.0},
        **{"ava": 900.0, "mmaction2": 900.0},
    }
    assert placed.origins["ava"].evidence == "15-minute cuts, all 27,030 frames"
    reading = Reading(frames=8, stride=12)  # 0.4 s apart, from 1.6 s before to 1.2 s after
    training = KeyFrameDataset(placed, reading, seed=0, bank=None)
    extraction = VideoChunks(placed, reading, 8, None)
    samples = [training[position] for position in range(len(training))]
    samples += [sample for n in range(len(extraction)) for sample in extraction[n]]
    beside = Loader(training, [range(len(training))], LoaderConfig(workers=1))  # its own process
    samples += [sample for batch in beside for sample in batch]
    assert len(samples) == 3 * 4 * len(seconds)
    for sample in samples:
        assert not sample.failed
        second = sample.moment.timestamp
        expected = [int(np.floor((second + 0.4 * k) * FPS + 1e-6)) % 256 for k in range(-4, 4)]
        assert read_numbers(sample.clip.numpy()) == expected, sample.moment
