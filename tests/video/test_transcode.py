"""Copies against their originals: the same frames at the same times, whatever the original is."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from vidssl.errors import VideoError, VidsslError
from vidssl.video.decoders.pyav import Reader
from vidssl.video.probe import probe
from vidssl.video.reader import Decoder, decoder_version, open_reader
from vidssl.video.transcode import Copying, copied_size, transcode
from vidssl.video.write import write_video

WriteNumbered = Callable[..., Path]
ReadNumbers = Callable[[NDArray[np.uint8]], list[int]]
COPYING = Copying(short_side_px=32, gop=8, crf=12)


def numbered(number: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Eight cells along the upper quarter, bright where the number has a bit."""
    frame = np.full((height, width, 3), 90, np.uint8)
    frame[height // 4 :, :, 0] = np.linspace(0, 190, width).astype(np.uint8)
    bits = (number >> np.arange(8)) & 1
    frame[: height // 4] = np.repeat(bits * 235, -(-width // 8))[None, :width, None]
    return frame


def write_timed(
    path: Path,
    ticks: Sequence[int],
    clock: Fraction,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 96),
    turn: int = 0,
) -> Path:
    """Write numbered frames that begin at these ticks; the last stays as long as the one before."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = clock
        if turn:
            stream.set_display_rotation(turn)

        def write(packets: list["Packet[VideoStream]"]) -> None:
            for packet in packets:
                packet.duration = ticks[-1] - ticks[-2]
                file.mux(packet)

        for number, tick in enumerate(ticks):
            rgb = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
            frame = rgb.reformat(format=pix_fmt)
            frame.pts, frame.time_base = tick, clock
            write(stream.encode(frame))
        write(stream.encode(None))
    return path


def times(path: Path) -> list[float]:
    with Reader(str(path)) as reader:
        return [start_s for start_s, _ in reader.all_frames()]


def frames(path: Path) -> NDArray[np.uint8]:
    with Reader(str(path)) as reader:
        return reader.frames_at(np.array(times(path))).frames


def test_the_same_times_give_the_same_frames(
    write_numbered: WriteNumbered, read_numbers: ReadNumbers, tmp_path: Path
) -> None:
    original = write_numbered(tmp_path / "a.mp4", 50)
    made = transcode(str(original), tmp_path / "b.mp4", COPYING)
    assert (made.frames, made.width, made.height, made.sound) == (50, 48, 32, "none")
    assert made.duration_s == pytest.approx(5.0)
    asked_s = np.random.default_rng(0).uniform(0, 5, 40)
    with Reader(str(original)) as one, Reader(str(tmp_path / "b.mp4")) as other:
        before, after = one.frames_at(asked_s, 32), other.frames_at(asked_s)
    assert read_numbers(after.frames) == read_numbers(before.frames)
    assert after.times_s.tolist() == before.times_s.tolist()
    # Grey and reddish areas at a quality that is nearly lossless.
    assert np.abs(after.frames.astype(int) - before.frames.astype(int)).mean() < 4


@pytest.mark.parametrize(("name", "clock"), [("a.mkv", 1000), ("a.mp4", 90_000), ("a.mp4", 30_000)])
def test_a_variable_rate_stays_to_the_tick(
    read_numbers: ReadNumbers, tmp_path: Path, name: str, clock: int
) -> None:
    rng = np.random.default_rng(1)
    ticks = np.cumsum([0, *rng.integers(1, clock // 5, 39)]).tolist()
    original = write_timed(tmp_path / name, ticks, Fraction(1, clock))
    made = transcode(str(original), tmp_path / "b.mp4", COPYING)
    # To the last digit: the clock of the copy is a multiple of the original's.
    assert times(tmp_path / "b.mp4") == times(original) == [tick / clock for tick in ticks]
    assert read_numbers(frames(tmp_path / "b.mp4")) == list(range(40))
    assert made.duration_s == pytest.approx(probe(str(original)).duration_s, abs=1.5 / clock)
    after = probe(str(tmp_path / "b.mp4"))
    assert after.variable_rate
    assert not after.cut_off
    # MP4 says how long frames stay in the order in which they are decoded.
    assert after.duration_s == pytest.approx(made.duration_s, abs=0.2)


def test_a_rate_of_30000_by_1001_is_kept(tmp_path: Path) -> None:
    ticks = [1001 * n for n in range(30)]
    original = write_timed(tmp_path / "a.mp4", ticks, Fraction(1, 30_000))
    transcode(str(original), tmp_path / "b.mp4", COPYING)
    assert times(tmp_path / "b.mp4") == [tick / 30_000 for tick in ticks]
    facts = probe(str(tmp_path / "b.mp4"))
    assert facts.fps == pytest.approx(30_000 / 1001)
    assert not facts.variable_rate


def test_a_file_without_times_is_counted_by_its_rate(
    read_numbers: ReadNumbers, tmp_path: Path
) -> None:
    original = write_timed(tmp_path / "a.avi", range(25), Fraction(1, 10), codec="mpeg4")
    transcode(str(original), tmp_path / "b.mp4", COPYING)
    assert times(tmp_path / "b.mp4") == pytest.approx([n / 10 for n in range(25)], abs=1e-9)
    assert read_numbers(frames(tmp_path / "b.mp4")) == list(range(25))


def test_key_frames_begin_every_group_and_nowhere_else(tmp_path: Path) -> None:
    # A cut in every frame, and an original with a key frame in every one.
    rng = np.random.default_rng(2)
    noise = [rng.integers(0, 256, (64, 96, 3)).astype(np.uint8) for _ in range(30)]
    write_video(tmp_path / "a.mp4", noise, 10, gop=1)
    transcode(str(tmp_path / "a.mp4"), tmp_path / "b.mp4", replace(COPYING, gop=8))
    assert probe(str(tmp_path / "b.mp4")).keyframes_s == [0.0, 0.8, 1.6, 2.4]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turn_goes_into_the_pixels(tmp_path: Path, turn: int) -> None:
    original = write_timed(tmp_path / "a.mov", range(6), Fraction(1, 10), turn=turn)
    assert probe(str(original)).rotation != 0
    made = transcode(str(original), tmp_path / "b.mp4", replace(COPYING, short_side_px=64))
    assert (made.width, made.height) == ((96, 64) if turn == 180 else (64, 96))
    facts = probe(str(tmp_path / "b.mp4"))
    assert (facts.rotation, facts.width, facts.height) == (0, made.width, made.height)
    before, after = frames(original), frames(tmp_path / "b.mp4")
    assert before.shape == after.shape
    assert np.abs(before.astype(int) - after.astype(int)).mean() < 4


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((1920, 1080), 256, (456, 256)),  # 455.1 to the nearest even number
        ((1080, 1920), 256, (256, 456)),
        ((176, 144), 256, (176, 144)),  # never enlarged
        ((175, 143), 256, (174, 142)),  # not even by a pixel
        ((256, 256), 256, (256, 256)),
        ((301, 257), 257, (300, 256)),
        ((4000, 3), 256, (4000, 2)),
        ((100, 1), 256, (100, 2)),
    ],
)
def test_copies_have_even_sizes_and_are_never_larger(
    size: tuple[int, int], short: int, expected: tuple[int, int]
) -> None:
    assert copied_size(*size, short) == expected


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("ffv1", "yuv420p10le", (64, 96)),
        ("ffv1", "yuv444p", (63, 95)),
        ("ffv1", "yuv422p16le", (63, 95)),
        ("ffv1", "bgr0", (64, 96)),
        ("libx264rgb", "rgb24", (64, 96)),
        ("mjpeg", "yuvj420p", (64, 96)),
        ("libvpx-vp9", "yuv420p", (63, 95)),
    ],
)
def test_any_depth_subsampling_and_size_becomes_8_bit_420(
    tmp_path: Path, codec: str, pix_fmt: str, size: tuple[int, int]
) -> None:
    original = write_timed(
        tmp_path / "a.mkv", range(0, 1000, 100), Fraction(1, 1000), codec=codec, pix_fmt=pix_fmt,
        size=size,
    )  # fmt: skip
    transcode(str(original), tmp_path / "b.mp4", Copying(gop=4, crf=8))
    with av.open(str(tmp_path / "b.mp4")) as file:
        context = file.streams.video[0].codec_context
        assert context.name == "h264"
        assert context.pix_fmt in {"yuv420p", "yuvj420p"}  # the latter is of full range
    before, after = frames(original), frames(tmp_path / "b.mp4")
    before = before[:, : after.shape[1], : after.shape[2]]
    assert np.abs(before.astype(int) - after.astype(int)).mean() < 6  # 20 were it the wrong range


def test_a_damaged_file_gives_the_frames_that_can_be_decoded(
    write_numbered: WriteNumbered, tmp_path: Path
) -> None:
    original = write_numbered(tmp_path / "a.mp4", 60)
    content = bytearray(original.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 60] = bytes(60)
    original.write_bytes(content)
    made = transcode(str(original), tmp_path / "b.mp4", COPYING)
    facts = probe(str(original))
    assert made.frames == facts.frames == probe(str(tmp_path / "b.mp4")).frames


@pytest.mark.parametrize(
    ("content", "reason"), [(b"no video", "unreadable"), (b"", "empty"), (None, "missing")]
)
def test_what_is_no_video_is_told_of(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"a\.mp4") as caught:
        transcode(str(tmp_path / "a.mp4"), tmp_path / "b.mp4", COPYING)
    assert caught.value.reason == reason


def test_a_folder_of_pictures_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    Image.fromarray(numbered(1)).save(tmp_path / "v" / "img_00001.jpg")
    with pytest.raises(VideoError, match="v: a folder of pictures; only video files are copied"):
        transcode(str(tmp_path / "v"), tmp_path / "b.mp4", COPYING)


@pytest.mark.parametrize("decoder", ["torchcodec", "decord"])
def test_other_decoders_read_copies_alike(tmp_path: Path, decoder: Decoder) -> None:
    try:
        decoder_version(decoder)
    except (ImportError, OSError, RuntimeError, VidsslError) as error:
        pytest.skip(f"{decoder} does not load here: {type(error).__name__}")
    ticks = np.cumsum([0, *np.random.default_rng(3).integers(20, 90, 39)]).tolist()
    original = write_timed(tmp_path / "a.mkv", ticks, Fraction(1, 1000))
    transcode(str(original), tmp_path / "b.mp4", replace(COPYING, short_side_px=64))
    asked_s = np.random.default_rng(4).uniform(0, ticks[-1] / 1000, 30)
    with (
        open_reader(str(tmp_path / "b.mp4"), "pyav") as one,
        open_reader(str(tmp_path / "b.mp4"), decoder) as other,
    ):
        expected, found = one.frames_at(asked_s), other.frames_at(asked_s)
    assert found.times_s == pytest.approx(expected.times_s, abs=1e-6)
    assert np.abs(found.frames.astype(int) - expected.frames.astype(int)).mean() < 1


def tone(seconds: float, rate: int = 16_000) -> NDArray[np.float32]:
    """Silence, and from 1 s on 500 Hz."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 500 * t) * (t >= 1)).astype(np.float32)


def with_pcm(original: Path, target: Path) -> Path:
    """Write the pictures and the sound of a file to a Matroska file with uncompressed sound."""
    with av.open(str(original)) as source, av.open(str(target), "w") as file:
        video = file.add_stream_from_template(source.streams.video[0])
        sound = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                file.mux(packet)
        source.seek(0)
        for frame in source.decode(audio=0):
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    return target


@pytest.mark.parametrize("kind", ["copied", "encoded"])
def test_sound_stays_in_step(tmp_path: Path, kind: str) -> None:
    write_video(tmp_path / "a.mp4", [numbered(n) for n in range(30)], 10, tone(3.0))
    original = tmp_path / "a.mp4"
    if kind == "encoded":
        original = with_pcm(original, tmp_path / "a.mkv")
    made = transcode(str(original), tmp_path / "b.mp4", replace(COPYING, keep_audio=True))
    assert made.sound == kind
    with av.open(str(tmp_path / "b.mp4")) as file:
        rate = file.streams.audio[0].codec_context.sample_rate
        first, heard = None, []
        for frame in file.decode(audio=0):
            first = frame.time if first is None else first
            heard.append(frame.to_ndarray()[0])
    loud = np.flatnonzero(np.abs(np.concatenate(heard)) > 0.1)
    assert (first or 0) + loud[0] / rate == pytest.approx(1.0, abs=0.1)
    assert times(tmp_path / "b.mp4") == times(original)


def test_sound_that_is_not_asked_for_is_dropped(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [numbered(n) for n in range(10)], 10, tone(1.5))
    assert transcode(str(tmp_path / "a.mp4"), tmp_path / "b.mp4", COPYING).sound == "dropped"
    assert not probe(str(tmp_path / "b.mp4")).has_audio


def test_a_full_disk_is_told_of_as_such(write_numbered: WriteNumbered, tmp_path: Path) -> None:
    original = write_numbered(tmp_path / "a.mp4", 60)
    # A limit on the size of files stands for the disk; it holds for a whole process.
    program = f"""
import resource, signal
from pathlib import Path
from vidssl.errors import OutputError
from vidssl.video.reader import Decoder, decoder_version, open_reader
from vidssl.video.transcode import Copying, transcode
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (10, 3000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        transcode({str(original)!r}, Path({str(tmp_path / "b.mp4")!r}), Copying(crf=1))
    except OutputError as error:
        assert "b.mp4: cannot be written: File too large" in str(error), error
    else:
        raise AssertionError("written in spite of the limit")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_odd_real_files_keep_every_frame_and_time(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "odd_videos_dev"
    chosen = ["rot90.mov", "h265_video.mp4", "carphone_176x144.mp4", "hmdb_RATRACE_wave.avi"]
    tried = [folder / name for name in chosen if (folder / name).exists()]
    assert tried
    for original in tried:
        transcode(str(original), tmp_path / "b.mp4", Copying())
        assert times(tmp_path / "b.mp4") == pytest.approx(times(original), abs=1e-9)
        with Reader(str(original)) as one, Reader(str(tmp_path / "b.mp4")) as other:
            asked_s = np.array(times(original)[::7])
            before, after = one.frames_at(asked_s, 256), other.frames_at(asked_s)
        if before.frames.shape == after.frames.shape:
            assert np.abs(before.frames.astype(int) - after.frames.astype(int)).mean() < 4
