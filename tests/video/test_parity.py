"""Every decoder gives the same frames for the same times, or says that it will not.

Made files carry the number of each frame in the picture, so that the right frame is known for
certain; real files are held against the sequential decode of PyAV.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vidssl.errors import VideoError, VidsslError
from vidssl.video.decoders.pyav import Reader as PyAV

FPS = 10
Picture = NDArray[np.uint8]


def numbered(number: int, width: int = 96, height: int = 64) -> Picture:
    """Eight cells along the upper quarter, bright where the number has a bit; a ramp below."""
    frame = np.full((height, width, 3), 90, np.uint8)
    frame[:, :, 0] = np.linspace(0, 190, width).astype(np.uint8)
    bits = (number >> np.arange(8)) & 1
    cells = np.arange(width) * 8 // width
    frame[: height // 4] = (bits * 235)[cells][None, :, None]
    return frame


@dataclass(frozen=True)
class Made:
    """How one file is written: frame n begins at ``starts_s[n]`` and carries n."""

    codec: str = "libx264"
    count: int = 60
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (96, 64)
    options: Mapping[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    gop: int = 12
    b_frames: int = 2
    starts_s: Sequence[float] | None = None
    rotation: int = 0
    first_s: float = 0.0
    streams: int = 1
    sound_first: bool = False
    colours: tuple[int, int] | None = None
    """Matrix and range, as FFmpeg numbers them."""

    def starts(self) -> NDArray[np.float64]:
        return np.asarray(self.starts_s if self.starts_s else np.arange(self.count) / FPS)


UNEVEN = np.cumsum([0.0, *([0.04] * 9), *([0.1] * 20), 1.5, *([0.033] * 20), 0.5, 0.02]).tolist()
X264 = {"preset": "veryfast", "crf": "12"}
X265: dict[str, str] = {"preset": "ultrafast", "crf": "12", "x265-params": "log-level=none:pools=1"}

MADE: dict[str, Made] = {
    "b_frames.mp4": Made(options=X264, count=200, gop=30),
    "one_gop.mp4": Made(options=X264, count=200, gop=250),
    "open_gop.mp4": Made(options={**X264, "x264-params": "open-gop=1:bframes=3:b-adapt=0"}, gop=10),
    "open_gop.mkv": Made(options={**X264, "x264-params": "open-gop=1:bframes=3:b-adapt=0"}, gop=10),
    "all_key.mp4": Made(options=X264, gop=1, b_frames=0),
    "variable.mp4": Made(options=X264, count=len(UNEVEN), starts_s=UNEVEN),
    "variable.mkv": Made(options=X264, count=len(UNEVEN), starts_s=UNEVEN),
    "turned_90.mp4": Made(options=X264, rotation=90),
    "turned_180.mp4": Made(options=X264, rotation=180),
    "turned_270.mp4": Made(options=X264, rotation=270),
    "odd_size.mp4": Made(options=X264, pix_fmt="yuv444p", size=(97, 65)),
    "odd_420.mp4": Made("libx265", options=X265, size=(98, 66)),
    "ten_bit.mp4": Made(options=X264, pix_fmt="yuv420p10le"),
    "hevc.mp4": Made("libx265", options=X265),
    "hevc_ten_bit.mp4": Made("libx265", options=X265, pix_fmt="yuv420p10le"),
    "hevc_open_gop.mkv": Made(
        "libx265",
        options={**X265, "x265-params": X265["x265-params"] + ":open-gop=1:bframes=3"},
        gop=10,
    ),
    "av1.mp4": Made("libsvtav1", options={"preset": "12", "crf": "20"}, b_frames=0),
    "av1.webm": Made("libsvtav1", options={"preset": "12", "crf": "20"}, b_frames=0),
    "vp8.webm": Made("libvpx", b_frames=0),
    "vp9.webm": Made("libvpx-vp9", options={"deadline": "realtime"}, b_frames=0),
    "live.webm": Made(
        "libvpx-vp9", options={"deadline": "realtime"}, container={"live": "1"}, b_frames=0
    ),
    "live.mkv": Made(options=X264, container={"live": "1"}),
    "fragments.mp4": Made(
        options=X264, container={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    ),
    "late.mp4": Made(options=X264, first_s=2.0),
    "late.mkv": Made(options=X264, first_s=2.0),
    "late.ts": Made(options=X264, first_s=1000.0),
    "negative_start.mp4": Made(options=X264, first_s=-0.5),
    "no_edit_list.mp4": Made(options=X264, container={"use_editlist": "0"}),
    "two_streams.mp4": Made(options=X264, streams=2),
    "sound_first.mp4": Made(options=X264, sound_first=True),
    "h264.ts": Made(options=X264),
    "hevc.ts": Made("libx265", options=X265),
    "mpeg2.ts": Made("mpeg2video"),
    "h264.m2ts": Made(options=X264, container={"mpegts_m2ts_mode": "1"}),
    "mpeg2.mpg": Made("mpeg2video"),
    "h264.flv": Made(options=X264),
    "h264.mov": Made(options=X264),
    "h264.nut": Made(options=X264),
    "mpeg4.avi": Made("mpeg4"),
    "mpeg4_no_b.avi": Made("mpeg4", b_frames=0),
    "mpeg4.mp4": Made("mpeg4"),
    "h264.avi": Made(options=X264),
    "mjpeg.avi": Made("mjpeg", pix_fmt="yuvj420p", b_frames=0),
    "mjpeg.mov": Made("mjpeg", pix_fmt="yuvj420p", b_frames=0),
    "wmv2.asf": Made("wmv2", b_frames=0),
    "flv1.flv": Made("flv", b_frames=0),
    "ffv1.mkv": Made("ffv1", b_frames=0),
    "prores.mov": Made("prores_ks", pix_fmt="yuv422p10le", b_frames=0),
    "animated.gif": Made("gif", pix_fmt="rgb8", b_frames=0),
    "raw.h264": Made(options={**X264, "x264-params": "annexb=1"}),
    "one_frame.mp4": Made(options=X264, count=1),
    "two_frames.mp4": Made(options=X264, count=2),
    "bt709.mp4": Made(options=X264, colours=(1, 1)),
    "full_range.mp4": Made(options=X264, pix_fmt="yuvj420p", colours=(5, 2)),
    "large_709.mp4": Made(options=X264, size=(1280, 720), count=12, colours=(1, 1)),
}


def write(path: Path, made: Made) -> Path:
    """Write one file of the table."""
    # These count frames, whatever times they are given.
    counts = path.suffix in {".avi", ".mpg", ".h264"} or made.codec in {"mpeg2video", "mpeg4"}
    base = Fraction(1, FPS) if counts else Fraction(1, 1000)
    with av.open(str(path), "w", options=made.container) as container:
        sound = (
            container.add_stream("aac", rate=16_000, layout="mono") if made.sound_first else None
        )
        streams = [_stream(container, made, first=n == 0) for n in range(made.streams)]
        if sound is not None:
            chunk = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = 16_000, 0, Fraction(1, 16_000)
            container.mux([*sound.encode(chunk), *sound.encode(None)])
        for stream in streams:
            stream.codec_context.time_base = base
        for number, start_s in enumerate(made.starts()):
            for index, stream in enumerate(streams):
                frame = _frame(made, number + 100 * index, stream.width, stream.height)
                frame.pts = number if counts else round((start_s + made.first_s) / base)
                frame.time_base = base
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def _frame(made: Made, number: int, width: int, height: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(numbered(number, width, height), "rgb24")
    if made.colours is None:
        return frame.reformat(format=made.pix_fmt)
    matrix, span = made.colours
    frame = frame.reformat(format=made.pix_fmt, dst_colorspace=matrix, dst_color_range=span)
    frame.colorspace, frame.color_range = matrix, span
    return frame


def _stream(container: OutputContainer, made: Made, *, first: bool) -> VideoStream:
    stream = container.add_stream(made.codec, rate=FPS)
    assert isinstance(stream, VideoStream)
    # The second is larger, so that it is the one which FFmpeg calls the best.
    stream.width, stream.height = made.size if first else (192, 128)
    stream.pix_fmt = made.pix_fmt
    stream.thread_count = 1
    stream.gop_size = made.gop
    stream.codec_context.max_b_frames = made.b_frames
    if made.codec in {"mpeg4", "mpeg2video", "mjpeg", "wmv2", "flv", "libvpx", "libvpx-vp9"}:
        stream.bit_rate = 2_000_000
    stream.options = dict(made.options)
    if made.colours:
        stream.codec_context.colorspace, stream.codec_context.color_range = made.colours
    if made.rotation:
        stream.set_display_rotation(made.rotation)
    return stream


# --- what is compared

DECODERS = ("pyav", "torchcodec", "decord")
ODD = (
    *("ava_movie_0902.mp4", "bikes_640x272.mp4", "bunny_vp8_vorbis.webm", "carphone_176x144.mp4"),
    *("chaplin_mp3_audio.mp4", "h265_video.mp4", "hmdb_RATRACE_wave.avi"),
    *("hmdb_TrumanShow_wave.avi", "kinetics_R6llTwEh07w.mp4", "kinetics_WUzgd7C1pWA.mp4"),
    *("mmaction2_demo.mp4", "mmaction2_part_0.mp4", "mmaction2_stdet_6fps.mp4"),
    *("mmaction2_test.avi", "nasa_two_video_streams.mp4", "no_duration_vp9_opus.webm"),
    *("pancake_h264_opus.mkv", "pedestrians_vtest_msmpeg4.avi", "rot0.mov", "rot90.mov"),
    *("rot180.mov", "rot270.mov", "transparent_vp9.webm"),
)

TOO_OLD = "is too old for av1"
OPEN_GROUP = "counts wrong after a seek into an open group of pictures"
NO_LENGTH = "cannot open it .*broken metadata"
STREAMS = "cannot be told which of several video streams"
REFUSED: dict[str, dict[str, str]] = {
    # What a decoder is known to read differently, and the words with which it is refused instead.
    "pyav": {},
    # Frames are missing at the end, or none can be had.
    "torchcodec": {
        **dict.fromkeys(("h264.ts", "hevc.ts", "late.ts", "h264.m2ts", "mpeg2.ts"), "mpegts"),
        "mpeg2.mpg": "mpeg",
        **dict.fromkeys(("mpeg4.avi", "mpeg4_no_b.avi", "h264.avi", "mjpeg.avi"), "avi"),
        **{name: "avi" for name in ODD if name.endswith(".avi")},
        "raw.h264": "h264",
    },
    "decord": {
        # It never returns, or gives frames shifted by a group of pictures.
        **dict.fromkeys(
            ("h264.ts", "hevc.ts", "late.ts", "h264.m2ts", "mpeg2.ts"), "does not read mpegts"
        ),
        # Times like -1e14 s.
        "mpeg2.mpg": "does not read mpeg",
        **dict.fromkeys(
            ("mpeg4.avi", "mpeg4_no_b.avi", "h264.avi", "mjpeg.avi"), "does not read avi"
        ),
        **{name: "does not read avi" for name in ODD if name.endswith(".avi")},
        # Most frames differ after a seek.
        "wmv2.asf": "does not read asf",
        **dict.fromkeys(
            ("open_gop.mp4", "open_gop.mkv", "hevc.mp4", "hevc_ten_bit.mp4", "odd_420.mp4"),
            OPEN_GROUP,
        ),
        **dict.fromkeys(("hevc_open_gop.mkv", "mpeg4.mp4", "h265_video.mp4"), OPEN_GROUP),
        "negative_start.mp4": "counts the frames that an edit list cuts away",
        **dict.fromkeys(("two_streams.mp4", "nasa_two_video_streams.mp4"), STREAMS),
        **dict.fromkeys(("av1.mp4", "av1.webm"), TOO_OLD),
        **dict.fromkeys(("live.webm", "live.mkv", "no_duration_vp9_opus.webm"), NO_LENGTH),
        "animated.gif": "does not read gif",
        "raw.h264": "does not read h264",
    },
}
MEAN_DIFFERENCE = 0.5
"""Of 255: what rounding makes of 10 bits (0.44 was the most); 8 bits agree to the last one."""


def decoder(name: str) -> Any:
    """Return the module of a decoder, or skip where it does not load."""
    try:
        return importlib.import_module(f"vidssl.video.decoders.{name}")
    except VidsslError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a file of the table once, and return its path."""
    folder = tmp_path_factory.mktemp("parity")

    def get(name: str) -> Path:
        path = folder / name
        return path if path.exists() else write(path, MADE[name])

    return get


def refused(name: str, file: str, path: Path) -> bool:
    """Check a refusal of the table, and return whether there is one."""
    words = REFUSED[name].get(file)
    if words is None:
        return False
    with pytest.raises(VideoError, match=rf"(?s){words}.*choose decoder: pyav$") as caught:
        decoder(name).Reader(str(path))
    assert caught.value.reason == "unsupported"
    return True


def numbers(frames: Picture, rotation: int = 0) -> list[int]:
    """Return the numbers that frames ``(T, H, W, 3)`` carry, once turned back."""
    frames = np.rot90(frames, -rotation // 90, axes=(1, 2))
    _, height, width, _ = frames.shape
    bits = frames[:, height // 8, (np.arange(8) * 2 + 1) * width // 16, 1] > 128
    return [int(n) for n in bits @ (1 << np.arange(8))]


SPARSE = np.s_[::4, ::4]


def sequence(path: Path) -> list[Picture]:
    """Return every frame as PyAV decodes it, upright, and one pixel in 16 of it."""
    with av.open(str(path)) as container:
        return [_upright(frame)[SPARSE].copy() for frame in container.decode(video=0)]


def _upright(frame: av.VideoFrame) -> Picture:
    picture = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.rot90(picture, round(frame.rotation / 90) % 4)


def difference(one: Picture, other: Picture) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


@pytest.mark.parametrize("file", MADE)
@pytest.mark.parametrize("name", DECODERS)
def test_the_frame_written_for_a_time_is_the_frame_read(
    name: str, file: str, made: Callable[[str], Path]
) -> None:
    path, how = made(file), MADE[file]
    reader = decoder(name).Reader
    if refused(name, file, path):
        return
    first = 5 if file == "negative_start.mp4" else 0  # an edit list cuts away what begins below 0
    wanted = np.arange(first, how.count)
    starts_s = how.starts()[first:] - how.starts()[first]
    if file == "raw.h264":
        starts_s = np.arange(how.count) / 25  # it states no rate
    # Halfway to the next frame, so that the rounding of times in the file does not matter.
    times_s = starts_s + np.diff(starts_s, append=starts_s[-1] + 1.0) / 2
    height, width = how.size[::-1] if how.rotation % 180 == 0 else how.size
    with reader(str(path)) as video:
        clip = video.frames_at(times_s)
        assert clip.frames.dtype == np.uint8
        assert clip.frames.shape == (len(wanted), height, width, 3)
        assert numbers(clip.frames, how.rotation) == wanted.tolist()
        # Matroska, FLV and ASF round to milliseconds, GIF to hundredths of a second.
        assert np.abs(clip.times_s - starts_s).max() <= 1e-3
        outside = video.frames_at(np.array([1e6, -5.0]))
        assert numbers(outside.frames, how.rotation) == [wanted[-1], wanted[0]]
        # At the very start, and a little before it, it is on the screen.
        for early_s in (0.0, 5e-7):
            exact = video.frames_at(clip.times_s - early_s)
            assert exact.times_s.tolist() == clip.times_s.tolist()
        for n in np.random.default_rng(0).permutation(len(wanted))[:30]:
            alone = video.frames_at(times_s[n : n + 1])
            assert np.array_equal(alone.frames[0], clip.frames[n]), n
    for n in (len(wanted) - 1, len(wanted) // 2, len(wanted) // 3):
        with reader(str(path)) as video:
            alone = video.frames_at(times_s[n : n + 1])
        assert np.array_equal(alone.frames[0], clip.frames[n]), n


@pytest.mark.parametrize("file", [*MADE, *ODD])
@pytest.mark.parametrize("name", DECODERS)
def test_frames_are_those_of_decoding_from_end_to_end(
    name: str, file: str, made: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    if file in MADE:
        path = made(file)
    else:
        path = request.getfixturevalue("shared_data") / "odd_videos_dev" / file
    reader = decoder(name).Reader
    if refused(name, file, path):
        return
    frames = sequence(path)
    with PyAV(str(path)) as video:
        starts_s = np.array([start_s for start_s, _ in video.all_frames()])
    assert len(frames) == len(starts_s)
    wanted = np.random.default_rng(0).permutation(len(frames))[:24]
    times_s = starts_s[wanted] + 1e-4
    with reader(str(path)) as video:
        together = video.frames_at(times_s)
        assert np.abs(together.times_s - starts_s[wanted]).max() < 1e-6
        for n, picture in zip(wanted, together.frames, strict=True):
            found = difference(picture[SPARSE], frames[n])
            assert found <= MEAN_DIFFERENCE, n
            # Not only close: no frame beside it is closer.
            beside = [frames[m] for m in (n - 1, n + 1) if 0 <= m < len(frames)]
            assert all(found <= difference(picture[SPARSE], other) for other in beside), n
        for position in range(min(6, len(wanted))):
            alone = video.frames_at(times_s[position : position + 1])
            assert np.array_equal(alone.frames[0], together.frames[position]), wanted[position]


@pytest.mark.parametrize("file", ["b_frames.mp4", "turned_90.mp4", "large_709.mp4"])
@pytest.mark.parametrize("name", DECODERS)
def test_shrunken_frames_agree(name: str, file: str, made: Callable[[str], Path]) -> None:
    times_s = np.array([0.95, 0.15])
    with PyAV(str(made(file))) as video:
        expected = video.frames_at(times_s, short_side_px=48)
    with decoder(name).Reader(str(made(file))) as video:
        clip = video.frames_at(times_s, short_side_px=48)
        grown = video.frames_at(times_s, short_side_px=2000)
        full = video.frames_at(times_s)
    assert clip.frames.shape == expected.frames.shape
    assert min(clip.frames.shape[1:3]) == 48
    assert grown.frames.shape == full.frames.shape
    assert numbers(clip.frames, MADE[file].rotation) == [9, 1]
    # Colours are taken from halved chroma before or after the shrinking.
    assert difference(clip.frames, expected.frames) < 2


def test_what_is_refused_is_in_the_tables() -> None:
    for name, files in REFUSED.items():
        assert files.keys() <= {*MADE, *ODD}, name
    assert set(REFUSED) == set(DECODERS)


def test_every_odd_file_is_compared(shared_data: Path) -> None:
    there = {p.name for p in (shared_data / "odd_videos_dev").iterdir()}
    assert there - {"README.md", "facts.json"} == set(ODD)
