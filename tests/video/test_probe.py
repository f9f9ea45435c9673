"""What a video really holds, whatever its header says, and files that were cut."""

import errno
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from vidssl.video.decoders.pyav import VERSION
from vidssl.video.ends import missing
from vidssl.video.probe import BACKOFF_S, inert, probe
from vidssl.video.storage import Location, Stat
from vidssl.video.write import write_video

Factory = pytest.TempPathFactory


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


def remux_all(source: Path, target: Path, options: dict[str, str]) -> Path:
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        out = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = out[packet.stream.index]
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


def write_timed(path: Path, gaps_ms: Sequence[int]) -> Path:
    """Write frames that stay for the milliseconds given, in a container that can say so."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.max_b_frames = 0
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        packets, start = [], 0
        for number, gap_ms in enumerate(gaps_ms):
            grey = np.full((32, 32, 3), 40 + 50 * (number % 4), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, "rgb24")
            frame.pts, frame.time_base = start, Fraction(1, 1000)
            start += gap_ms
            packets += stream.encode(frame)
        for packet, gap_ms in zip([*packets, *stream.encode(None)], gaps_ms, strict=True):
            packet.duration = gap_ms
            container.mux(packet)
    return path


@pytest.mark.parametrize("last_ms", [100, 3000])
def test_an_uneven_rate_is_told_of_and_a_long_last_frame_is_no_cut(
    last_ms: int, tmp_path: Path
) -> None:
    # Recordings of screens do this: a frame a change, and nothing changes for long.
    gaps_ms = [100, 400, 1500, last_ms]
    facts = probe(str(write_timed(tmp_path / "uneven.mp4", gaps_ms)))
    assert (facts.status, facts.frames) == ("ok", 4)
    assert facts.variable_rate
    assert facts.duration_s == pytest.approx(sum(gaps_ms) / 1000, abs=0.01)


@pytest.mark.parametrize(
    ("gaps_ms", "expected"),
    [
        ([33, 33, 34] * 20, False),  # 30 per second in Matroska's milliseconds
        ([16, 17, 17] * 20, False),  # 60 per second; a tenth alone would be 1.7 ms, but 1 ms is two
        ([33] * 10 + [66] + [33] * 10, False),  # one frame lost of 20: 1/20 is not more than that
        ([33] * 10 + [66] + [33, 33], False),  # a single one is never enough
        ([33] * 30 + [66] * 2 + [33] * 30, False),  # two lost of 62: 3 %
        ([33, 50] * 20, True),  # film on a 60 Hz screen
        ([33] * 27 + [99] * 3 + [33] * 3, True),  # 3 gaps of 32: 9 %
    ],
    ids=["30", "60", "one of 20", "one of 12", "two of 62", "pulldown", "stutter"],
)
def test_a_lost_frame_or_a_coarse_clock_is_no_uneven_rate(
    gaps_ms: list[int], expected: bool, tmp_path: Path
) -> None:
    facts = probe(str(write_timed(tmp_path / "video.mkv", gaps_ms)))
    assert facts.frames == len(gaps_ms)
    assert facts.variable_rate is expected


def test_a_single_picture_lasts_as_long_as_its_rate_says(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", [np.zeros((32, 32, 3), np.uint8)], 5)
    facts = probe(str(tmp_path / "one.mp4"))
    assert (facts.frames, facts.variable_rate) == (1, False)
    assert facts.duration_s == pytest.approx(0.2)


WRITTEN = {
    "exact, table first": (".mp4", {"movflags": "faststart"}),
    "exact, matroska": (".mkv", {}),
    "exact, avi": (".avi", {}),
    "fragments": (".mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "live matroska": (".mkv", {"live": "1"}),
}


@pytest.fixture(scope="module", params=WRITTEN)
def whole(request: pytest.FixtureRequest, tmp_path_factory: Factory) -> Path:
    """100 frames of noise at 10 a second, in groups of 20: many bytes beside those of headers."""
    suffix, options = WRITTEN[request.param]
    path = tmp_path_factory.mktemp(request.param) / f"whole{suffix}"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4" if suffix == ".avi" else "libx264", rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.gop_size = 20
        stream.codec_context.max_b_frames = 0  # where frames are reordered, a cut leaves holes
        for _ in range(100):
            noise = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_whole_file_is_not_taken_for_a_cut_one(whole: Path) -> None:
    facts = probe(str(whole))
    assert (facts.status, facts.cut_off, facts.error, facts.frames) == ("ok", False, "", 100)
    assert missing(str(whole)) is None
    longer = whole.with_name(f"longer{whole.suffix}")
    longer.write_bytes(whole.read_bytes() + b"appended by a web server\n")
    assert not probe(str(longer)).cut_off


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 0.97])
def test_a_cut_file_is_used_as_far_as_it_goes_and_says_how_far(
    share: float, whole: Path, tmp_path: Path
) -> None:
    facts = probe(str(cut(whole, tmp_path / f"cut{whole.suffix}", share)))
    assert (facts.status, facts.cut_off) == ("ok", True)
    assert facts.frames == pytest.approx(100 * share, abs=12)  # the first are larger
    assert facts.duration_s == pytest.approx(facts.frames / 10, abs=0.01)
    assert f"cut{whole.suffix}: cut off: the last " in facts.error
    assert f"bytes are missing; {facts.frames} frames ({facts.duration_s:.2f} s" in facts.error


def test_the_missing_bytes_are_counted_from_the_end_that_is_stated(
    whole: Path, tmp_path: Path
) -> None:
    shorter = cut(whole, tmp_path / f"cut{whole.suffix}", 0.6)
    lost = whole.stat().st_size - shorter.stat().st_size
    lacks = missing(str(shorter))
    assert lacks is not None
    if whole.parent.name.startswith("exact"):
        assert lacks.bytes == lost
    else:  # fragments and clusters tell of the part that was cut, not of those behind it
        assert 0 < lacks.bytes < lost


def test_a_fragment_whose_header_was_cut_is_not_taken_for_none(tmp_path: Path) -> None:
    frames = [np.full((32, 32, 3), 10 * n, np.uint8) for n in range(20)]
    write_video(tmp_path / "video.mp4", frames, 10, gop=10)
    options = {"movflags": "frag_keyframe+empty_moov"}
    content = remux(tmp_path / "video.mp4", tmp_path / "whole.mp4", options).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: content.rindex(b"moof") + 20])
    facts = probe(str(tmp_path / "cut.mp4"))
    assert facts.cut_off
    assert 10 <= facts.frames < 20


def test_a_cut_that_leaves_every_picture_is_told_of_and_is_none(tmp_path: Path) -> None:
    # Sound is cut off, or the table of an AVI: the pictures are all there.
    frames = [np.full((32, 32, 3), 10 * n, np.uint8) for n in range(10)]
    write_video(tmp_path / "loud.mp4", frames, 10, np.zeros(160_000, np.float32))
    whole = remux_all(tmp_path / "loud.mp4", tmp_path / "first.mp4", {"movflags": "faststart"})
    shorter = tmp_path / "cut.mp4"
    shorter.write_bytes(whole.read_bytes()[:-20])
    facts = probe(str(shorter))
    assert (facts.status, facts.cut_off, facts.frames) == ("ok", False, 10)
    assert facts.error.endswith("cut.mp4: the last 20 bytes are missing, but no picture")


@pytest.mark.parametrize("whole", ["exact, avi"], indirect=True)
def test_an_avi_without_its_table_has_all_its_pictures(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: content.rindex(b"idx1") + 20])
    facts = probe(str(tmp_path / "cut.avi"))
    assert (facts.cut_off, facts.frames) == (False, 100)


@pytest.mark.parametrize("suffix", [".ts", ".flv"])
def test_where_nothing_tells_a_cut_a_file_holds_what_it_holds(
    suffix: str, video: Path, tmp_path: Path
) -> None:
    whole = remux(video, tmp_path / f"whole{suffix}")
    facts = probe(str(cut(whole, tmp_path / f"cut{suffix}", 0.7)))
    assert facts.status == "ok"
    assert 50 < facts.frames < 180
    assert facts.duration_s == pytest.approx(facts.frames / 10, abs=0.4)  # reordered: with holes


def test_a_cut_file_whose_table_comes_last_cannot_be_opened(video: Path, tmp_path: Path) -> None:
    facts = probe(str(cut(video, tmp_path / "cut.mp4", 0.9)))
    assert facts.status == "unreadable"
    assert "cut.mp4: cannot be opened as a video" in facts.error
    assert facts.bytes == (tmp_path / "cut.mp4").stat().st_size  # kept, to know it again


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


def test_what_may_pass_is_tried_again(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidssl.video.probe.BACKOFF_S", (0.01, 0.01, 0.01))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video.read_bytes())
    times = []

    def stale(location: Location, found: Stat) -> dict[str, object]:
        times.append(location)
        if len(times) < 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        return {"frames": 7}

    assert probe(str(copy), stale).frames == 7
    assert len(times) == 3

    def growing(location: Location, found: Stat) -> dict[str, object]:
        times.append(location)
        with copy.open("ab") as file:
            file.write(b"more")
        return {}

    times.clear()
    facts = probe(str(copy), growing)
    assert facts.status == "changing"
    assert "copy.mp4: the file changed while it was read" in facts.error
    assert len(times) == len(BACKOFF_S) + 1


def test_what_will_not_pass_is_not(video: Path, tmp_path: Path) -> None:
    times = []

    def decode(location: Location, found: Stat) -> dict[str, object]:
        times.append(location)
        if len(times) == 1:
            raise OSError(errno.EACCES, "Permission denied")
        Path(location).unlink()
        return {}

    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video.read_bytes())
    facts = probe(str(copy), decode)
    assert (facts.status, len(times)) == ("unreadable", 1)
    assert "copy.mp4: cannot be read (Permission denied)" in facts.error
    facts = probe(str(copy), decode)  # it vanishes while it is read
    assert (facts.status, len(times)) == ("missing", 2)


def test_a_file_that_gives_frames_without_end_is_given_up(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidssl.video.probe.MAX_FRAMES", 199)
    facts = probe(str(video))
    assert (facts.status, facts.frames) == ("endless", 0)
    assert f"gives more than 199 frames from {video.stat().st_size} bytes" in facts.error
    monkeypatch.setattr("vidssl.video.probe.MAX_FRAMES", 200)
    assert probe(str(video)).status == "ok"


def test_text_from_files_becomes_inert() -> None:
    assert inert("plain é 日本") == "plain é 日本"
    assert inert("\x1b[31mred\n2 ok\r\x00\u202e") == r"\x1b[31mred\n2 ok\r\x00\u202e"
    assert inert("caf\udce9.mp4") == r"caf\xe9.mp4"  # a byte that is no UTF-8
