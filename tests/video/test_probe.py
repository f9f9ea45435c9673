"""What a video really holds, whatever its header says, and files that were cut."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from vidssl.video.decoders.pyav import VERSION
from vidssl.video.probe import probe
from vidssl.video.write import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, write_numbered: Callable[..., Path]) -> Path:
    """200 frames at 10 a second, in groups of 30: 20 s."""
    return write_numbered(tmp_path_factory.mktemp("probe") / "video.mp4", 200, fps=10)


def remux(source: Path, target: Path, options: dict[str, str] | None = None) -> Path:
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream = old.streams.video[0]
        out = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = out
                new.mux(packet)
    return target


def cut(source: Path, target: Path, share: float) -> Path:
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def test_the_facts_of_a_video_are_those_that_it_was_written_with(video: Path) -> None:
    facts = probe(str(video))
    stat = video.stat()
    assert (facts.path, facts.status, facts.error) == (str(video), "ok", "")
    assert (facts.bytes, facts.mtime) == (stat.st_size, stat.st_mtime)
    assert (facts.codec, facts.width, facts.height, facts.rotation) == ("h264", 96, 64, 0)
    assert facts.frames == 200
    assert facts.duration_s == pytest.approx(20.0)
    assert facts.fps == pytest.approx(10.0)
    assert not facts.variable_rate
    assert not facts.has_audio
    assert facts.keyframes_s == pytest.approx([0, 3, 6, 9, 12, 15, 18])
    assert facts.decoder == VERSION


def test_sound_is_told_of(tmp_path: Path) -> None:
    frames = [np.zeros((32, 32, 3), np.uint8)] * 10
    write_video(tmp_path / "loud.mp4", frames, 10, np.zeros(16_000, np.float32))
    assert probe(str(tmp_path / "loud.mp4")).has_audio


@pytest.mark.parametrize("last_s", [0.1, 3.0])
def test_an_uneven_rate_is_told_of_and_a_long_last_frame_is_no_cut(
    last_s: float, tmp_path: Path
) -> None:
    # Recordings of screens do this: a frame a change, and nothing changes for long.
    path, gaps_s = tmp_path / "uneven.mp4", [0.1, 0.4, 1.5, last_s]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.max_b_frames = 0
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        packets, start = [], 0
        for grey, gap_s in zip([40, 90, 140, 190], gaps_s, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, np.uint8), "rgb24")
            frame.pts, frame.time_base = start, Fraction(1, 1000)
            start += round(gap_s * 1000)
            packets += stream.encode(frame)
        for packet, gap_s in zip([*packets, *stream.encode(None)], gaps_s, strict=True):
            packet.duration = round(gap_s * 1000)
            container.mux(packet)
    facts = probe(str(path))
    assert (facts.status, facts.frames) == ("ok", 4)
    assert facts.variable_rate
    assert facts.duration_s == pytest.approx(sum(gaps_s), abs=0.01)


def test_a_single_picture_lasts_as_long_as_its_rate_says(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", [np.zeros((32, 32, 3), np.uint8)], 5)
    facts = probe(str(tmp_path / "one.mp4"))
    assert (facts.frames, facts.variable_rate) == (1, False)
    assert facts.duration_s == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("suffix", "options", "states"),
    [
        (".mp4", {"movflags": "faststart"}, "20.00"),
        (".mp4", {"movflags": "frag_keyframe+empty_moov"}, "15.00"),  # the fragments that begin
        (".mkv", {}, "20.00"),
    ],
    ids=["table first", "fragments", "matroska"],
)
def test_a_cut_file_is_found_out_by_its_own_table(
    suffix: str, options: dict[str, str], states: str, video: Path, tmp_path: Path
) -> None:
    whole = remux(video, tmp_path / f"whole{suffix}", options)
    assert probe(str(whole)).status == "ok"
    facts = probe(str(cut(whole, tmp_path / f"cut{suffix}", 0.7)))
    assert facts.status == "truncated"
    assert 50 < facts.frames < 180
    assert f"cut{suffix}: cut off: states {states} s, {facts.frames} frames" in facts.error


def test_a_cut_file_whose_table_comes_last_cannot_be_opened(video: Path, tmp_path: Path) -> None:
    facts = probe(str(cut(video, tmp_path / "cut.mp4", 0.9)))
    assert facts.status == "unreadable"
    assert "cut.mp4: cannot be opened as a video" in facts.error
    assert facts.bytes == (tmp_path / "cut.mp4").stat().st_size  # kept, to know it again


def test_a_cut_avi_is_found_out_by_the_bytes_that_are_missing(tmp_path: Path) -> None:
    # Its stated length is no help: in some collections every header gives more than there is.
    whole = tmp_path / "whole.avi"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(50):
            noise = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode(None))
    facts = probe(str(whole))
    assert (facts.status, facts.frames, facts.codec) == ("ok", 50, "mpeg4")
    assert facts.duration_s == pytest.approx(5.0)
    size = whole.stat().st_size
    facts = probe(str(cut(whole, tmp_path / "cut.avi", 0.5)))
    assert facts.status == "truncated"
    assert 10 < facts.frames < 40
    assert f"the last {size - size // 2} bytes are missing" in facts.error


def test_a_header_that_promises_more_than_can_be_decoded_is_not_believed(shared_data: Path) -> None:
    facts = probe(
        str(shared_data / "odd_videos_dev" / "hmdb_RATRACE_wave.avi")
    )  # it says 73 frames
    assert (facts.status, facts.frames) == ("ok", 72)
    assert facts.duration_s == pytest.approx(2.4)


def test_sizes_are_those_shown_not_those_stored(shared_data: Path) -> None:
    upright = probe(str(shared_data / "odd_videos_dev" / "rot0.mov"))
    turned = probe(str(shared_data / "odd_videos_dev" / "rot90.mov"))
    assert (upright.width, upright.height, upright.rotation) == (568, 320, 0)
    assert (turned.width, turned.height) == (320, 568)
    assert turned.rotation in {90, 270}


def test_no_real_odd_video_is_taken_for_a_cut_one(shared_data: Path) -> None:
    paths = sorted((shared_data / "odd_videos_dev").glob("*.*"))
    videos = [path for path in paths if path.suffix not in {".md", ".json"}]
    assert len(videos) == 23
    small = [path for path in videos if path.stat().st_size < 200_000]
    assert {probe(str(path)).status for path in small} == {"ok"}


def test_what_cannot_be_used_gets_its_reason_as_status(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "garbage.mp4").write_bytes(b"garbage" * 1000)
    expected = {"absent.mp4": "missing", "empty.mp4": "empty", "garbage.mp4": "unreadable"}
    for name, status in expected.items():
        facts = probe(str(tmp_path / name))
        assert facts.status == status
        assert name in facts.error
        assert (facts.frames, facts.duration_s) == (0, 0.0)
