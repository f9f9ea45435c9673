"""What torchcodec and decord owe beside the right frames: names, refusals, forks, imports."""

import gc
import importlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vidssl.errors import VideoError, VidsslError
from vidssl.video.packets import inert, scan

Numbers = Callable[[NDArray[np.uint8]], list[int]]
OTHERS = ("torchcodec", "decord")


def load(name: str) -> Any:
    """Return the module of a decoder, or skip where it does not load."""
    try:
        return importlib.import_module(f"vidssl.video.decoders.{name}")
    except VidsslError as error:
        pytest.skip(str(error))


@pytest.fixture(params=OTHERS)
def reader(request: pytest.FixtureRequest) -> Any:
    """The reader of each decoder that loads here."""
    return load(request.param).Reader


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, write_numbered: Callable[..., Path]) -> Path:
    """60 frames at 10 a second, with B-frames and a key frame every second or so."""
    return write_numbered(tmp_path_factory.mktemp("others") / "video.mp4", 60, gop=12)


def remux(source: Path, target: Path, **options: str) -> Path:
    """Copy the packets of a video, with a title."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        new.metadata["title"] = "a title of this length"
        stream = old.streams.video[0]
        out = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = out
                new.mux(packet)
    return target


@pytest.mark.parametrize("name", OTHERS)
def test_versions_name_the_decoder(name: str) -> None:
    assert load(name).VERSION.partition("-")[0] == name
    assert "+" not in load(name).VERSION


@pytest.mark.parametrize(
    "name",
    [
        *("-i.mp4", "[0]%03d*?.mp4", "[red]new\nline.mp4", "concat:a|b.mp4", "http:%2f%2fx.mp4"),
        *(
            "'quoted' \"twice\".mp4",
            "#hash?query&x=1.mp4",
            "ütf-Ж-🎬.mp4",
            os.fsdecode(b"\xff.mp4"),
        ),
    ],
)
def test_names_are_only_names(
    name: str,
    reader: Any,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_numbers: Numbers,
) -> None:
    monkeypatch.chdir(tmp_path)
    os.link(video, tmp_path / name)
    for location in (name, str(tmp_path / name)):
        with reader(location) as opened:
            assert read_numbers(opened.frames_at(np.array([0.7])).frames) == [7]


def test_titles_that_are_no_text_do_not_matter(
    reader: Any, video: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    content = remux(video, tmp_path / "titled.mp4").read_bytes()
    assert content.count(b"a title of this length") == 1
    path = tmp_path / "odd.mp4"
    path.write_bytes(content.replace(b"a title of", b"\xff\xfe\x1b[31\x00m\x80"))
    with reader(str(path)) as opened:
        assert read_numbers(opened.frames_at(np.array([3.1])).frames) == [31]


def test_unusable_files_are_refused_with_the_reason(reader: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(10_000))
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:3,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        chunk = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        chunk.sample_rate = 16_000
        container.mux([*sound.encode(chunk), *sound.encode(None)])
    reasons = {
        "absent.mp4": "missing",
        "empty.mp4": "empty",
        "garbage.mp4": "unreadable",
        "list.mp4": "unreadable",
        "sound.mp4": "no_video",
    }
    for name, reason in reasons.items():
        with pytest.raises(VideoError, match=name) as caught:
            reader(str(tmp_path / name))
        assert caught.value.reason == reason, name


def test_a_transport_stream_under_another_name_is_refused_at_once(
    reader: Any, video: Path, tmp_path: Path
) -> None:
    stream = remux(video, tmp_path / "stream.ts").rename(tmp_path / "stream.mp4")
    with pytest.raises(VideoError, match="mpegts") as caught:
        reader(str(stream))
    assert caught.value.reason == "unsupported"


def test_a_picture_that_changes_its_size_keeps_the_first_or_is_refused(
    reader: Any, tmp_path: Path
) -> None:
    path = tmp_path / "sizes.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number, packet in enumerate([*encoded(96, 64), *encoded(192, 128)]):
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 10), stream
            container.mux(packet)
    refusals = 0
    for times_s in (np.array([0.5]), np.array([1.5]), np.array([0.5, 1.5])):
        try:
            with reader(str(path)) as opened:
                clip = opened.frames_at(times_s)
        except VideoError:
            refusals += 1
        else:
            assert clip.frames.shape[1:] == (64, 96, 3)
    assert refusals <= 2


def encoded(width: int, height: int) -> list["Packet[VideoStream]"]:
    """Return the packets of ten grey frames."""
    context = VideoCodecContext.create("libvpx", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = Fraction(1, 10)
    frames = [av.VideoFrame(width, height, "yuv420p") for _ in range(10)]
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = number, Fraction(1, 10)
    return [packet for frame in (*frames, None) for packet in context.encode(frame)]


def test_a_member_of_a_tar_is_read_where_it_lies(
    reader: Any, video: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    with tarfile.open(tmp_path / "videos.tar", "w") as tar:
        tar.add(video, "in it.mp4")
    with tarfile.open(tmp_path / "videos.tar") as tar:
        (member,) = tar.getmembers()
    location = f"{tmp_path}/videos.tar!in it.mp4@{member.offset_data}+{member.size}"
    with reader(location) as opened:
        assert read_numbers(opened.frames_at(np.array([3.3, 0.1])).frames) == [33, 1]


@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_damaged_file_is_read_right_or_refused(
    where: str, reader: Any, video: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    content = bytearray(remux(video, tmp_path / "whole.mp4", movflags="faststart").read_bytes())
    media = content.index(b"mdat") + 4
    if where == "end":
        del content[media + (len(content) - media) * 3 // 4 :]
    else:
        start = media + (len(content) - media) * 3 // 4
        content[start : start + 150] = np.random.default_rng(0).bytes(150)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    told = []
    for n in range(60):
        try:
            with reader(str(path)) as opened:
                clip = opened.frames_at(np.array([n / 10]))
        except VideoError as error:
            told.append(error)
        else:
            # Of a file that was cut the last frame in it is the last there is.
            last = round(float(clip.times_s[0]) * 10)
            assert last == n or (where == "end" and last < n)
            assert read_numbers(clip.frames) == [last]
    assert told
    assert {refusal.reason for refusal in told} <= {"unreadable", "unsupported"}
    for message in map(str, told):
        assert "decoder: pyav" in message
        assert message.isprintable()
        assert ".cpp" not in message


def test_no_times_and_closed_readers_are_refused(reader: Any, video: Path) -> None:
    with reader(str(video)) as opened, pytest.raises(ValueError, match="at least one"):
        opened.frames_at(np.empty(0))
    with pytest.raises(ValueError, match="closed"):
        opened.frames_at(np.array([0.0]))


def test_many_openings_leave_no_file_open(reader: Any, video: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage.mp4").write_bytes(b"garbage" * 1000)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")

    def round_trip() -> int:
        with reader(str(video)) as opened:
            opened.frames_at(np.array([2.0, 0.1]))
        with pytest.raises(VideoError):
            reader(str(tmp_path / "garbage.mp4"))
        return len(os.listdir("/proc/self/fd"))

    # Readers that earlier tests left to the collector may close in between: fewer is no fault.
    gc.collect()
    before = round_trip()
    assert [round_trip() for _ in range(30)][-1] <= before


FORK = """
import os, sys
import numpy as np
from importlib import import_module
reader = import_module("vidssl.video.decoders." + sys.argv[1]).Reader(sys.argv[2])
reader.frames_at(np.array([0.5]))
if os.fork() == 0:
    try:
        reader.frames_at(np.array([0.5]))
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
print(reader.frames_at(np.array([0.5])).times_s.tolist())
"""


def python(code: str, *arguments: object) -> list[str]:
    """Run code in a process of its own, and return the lines that it prints."""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.parametrize("name", OTHERS)
def test_a_reader_carried_across_a_fork_says_so(name: str, video: Path) -> None:
    load(name)
    told, times_s = python(FORK, name, video)
    assert told.endswith("cannot be carried across a fork; open it in the process itself")
    assert times_s == "[0.5]"


ORDER = """
import sys
import numpy as np
for module in sys.argv[2:]:
    __import__(module)
import torch
from vidssl.video.decoders import decord, pyav
for module in (decord, pyav):
    with module.Reader(sys.argv[1]) as reader:
        print(reader.frames_at(np.array([3.3, 0.1])).times_s.round(3).tolist())
print(float(torch.ones(64, 64).matmul(torch.ones(64, 64)).mean()))
"""


@pytest.mark.parametrize("order", [["decord", "torch", "av"], ["torch", "av", "decord"]])
def test_decord_and_torch_may_be_imported_in_any_order(order: list[str], video: Path) -> None:
    load("decord")
    assert python(ORDER, video, *order) == ["[3.3, 0.1]", "[3.3, 0.1]", "64.0"]


@pytest.mark.gpu
def test_frames_decoded_by_the_gpu_are_those_of_the_cpu(
    tmp_path: Path, write_numbered: Callable[..., Path], read_numbers: Numbers
) -> None:
    path = write_numbered(tmp_path / "video.mp4", 60, gop=12)
    times_s = np.array([3.35, 0.15, 9.0])
    with load("torchcodec").Reader(str(path), device="cuda") as opened:
        clip = opened.frames_at(times_s)
    with load("torchcodec").Reader(str(path)) as opened:
        expected = opened.frames_at(times_s)
    assert read_numbers(clip.frames) == [33, 1, 59]
    assert np.abs(clip.frames.astype(int) - expected.frames).mean() < 3


def test_a_gpu_that_is_not_there_is_refused(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = load("torchcodec").Reader
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda:0'.*no usable CUDA device"):
        reader(str(video), device="cuda:0")


def test_the_table_of_packets_is_that_of_the_frames(video: Path) -> None:
    packets = scan(str(video))
    assert packets.starts_s == pytest.approx(np.arange(60) / 10)
    assert (packets.codec, packets.stream_index, packets.video_streams) == ("h264", 0, 1)
    assert (packets.timed, packets.trimmed, packets.leading) == (True, False, False)
    # Frame 4 is shown over [0.4, 0.5); 1e-6 before it counts as its start.
    times_s = np.array([-1.0, 0.0, 0.3999995, 0.45, 0.5 - 1e-7, 5.95, 99.0])
    assert packets.shown_at(times_s).tolist() == [0, 0, 4, 4, 5, 59, 59]


def test_what_a_library_says_is_inert() -> None:
    assert inert("a\n\x1b[31mred\x07 \u202e b") == "a \\x1b[31mred\\x07 \\u202e b"
    assert inert("decode, /w/src/core/Decoder.cpp:1500, Invalid data") == "Invalid data"
    assert inert("[01:14:28] /w/src/video/reader.cc:270: [file:/proc/self/fd/3] broken") == "broken"
    assert len(inert("x" * 1000)) == 200
