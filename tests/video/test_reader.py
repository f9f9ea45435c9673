"""The frame on the screen at a time, whatever the order, the file's name, or its state."""

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vidssl.errors import VideoError
from vidssl.video import reader as contract
from vidssl.video.decoders.pyav import Reader

Numbers = Callable[[NDArray[np.uint8]], list[int]]
COUNT, FPS = 200, 10


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("numbered")


@pytest.fixture(scope="session", params=[12, 250], ids=["short gop", "one long gop"])
def video(
    request: pytest.FixtureRequest, folder: Path, write_numbered: Callable[..., Path]
) -> Path:
    """200 frames at 10 a second, with B-frames; frame n carries n."""
    return write_numbered(folder / f"gop{request.param}.mp4", COUNT, fps=FPS, gop=request.param)


@pytest.fixture(scope="session")
def short(folder: Path, write_numbered: Callable[..., Path]) -> Path:
    """30 frames at 10 a second: 0.0 to 2.9 s."""
    return write_numbered(folder / "short.mp4", 30, fps=FPS)


def remux(source: Path, target: Path, options: dict[str, str] | None = None) -> Path:
    """Copy the packets of a video into another container."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream = old.streams.video[0]
        out = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = out
                new.mux(packet)
    return target


def recode(source: Path, target: Path, codec: str, **settings: int) -> Path:
    """Write the frames of a video with another codec, or in another size."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        out = new.add_stream(codec, rate=FPS)
        assert isinstance(out, VideoStream)
        out.pix_fmt, out.bit_rate = "yuv420p", 2_000_000
        for name, value in {"width": 96, "height": 64, **settings}.items():
            setattr(out.codec_context, name, value)
        for frame in old.decode(video=0):
            picture = frame.reformat(width=out.width, height=out.height)
            picture.pict_type = PictureType.NONE
            new.mux(out.encode(picture))
        new.mux(out.encode(None))
    return target


def test_the_videos_have_b_frames_and_the_key_frames_that_were_asked_for(
    folder: Path, write_numbered: Callable[..., Path]
) -> None:
    # What the tests below rest on: pictures that are stored in another order than they are shown.
    for gop, keys in ((12, 17), (250, 1)):
        path = write_numbered(folder / "checked.mp4", COUNT, fps=FPS, gop=gop)
        with av.open(str(path)) as container:
            kinds = [PictureType(frame.pict_type) for frame in container.decode(video=0)]
        assert kinds.count(PictureType.B) > COUNT / 4
        assert kinds.count(PictureType.I) == keys


def test_the_frame_shown_is_the_last_that_begins_at_or_before_the_time(
    short: Path, read_numbers: Numbers
) -> None:
    # Frame 4 is shown over [0.4, 0.5).
    times_s = np.array([0.4, 0.401, 0.499, 0.5, 2.85])
    with Reader(str(short)) as reader:
        clip = reader.frames_at(times_s)
    assert read_numbers(clip.frames) == [4, 4, 4, 5, 28]
    assert clip.times_s == pytest.approx([0.4, 0.4, 0.4, 0.5, 2.8])
    assert clip.frames.shape == (5, 64, 96, 3)
    assert clip.frames.dtype == np.uint8


def test_every_time_of_a_start_gives_its_frame_however_it_was_computed(
    short: Path, read_numbers: Numbers
) -> None:
    # Sums, products and quotients of floats fall on either side of the start that they mean.
    with Reader(str(short)) as reader:
        for times_s in (np.cumsum([0.0, *[0.1] * 29]), np.arange(30) * 0.1, np.arange(30) / 10):
            clip = reader.frames_at(np.asarray(times_s, dtype=np.float64))
            assert read_numbers(clip.frames) == list(range(30))


def test_times_outside_the_video_get_its_first_and_its_last_frame(
    video: Path, read_numbers: Numbers
) -> None:
    times_s = np.array([-5.0, -1e-9, 0.0, 19.9, 20.0, 1e6])
    with Reader(str(video)) as reader:
        clip = reader.frames_at(times_s)
        assert read_numbers(clip.frames) == [0, 0, 0, 199, 199, 199]
        assert clip.times_s == pytest.approx([0, 0, 0, 19.9, 19.9, 19.9])
        assert read_numbers(reader.frames_at(np.array([1e6])).frames) == [199]
    with Reader(
        str(video)
    ) as reader:  # the end is asked for first, of a reader that has seen nothing
        assert read_numbers(reader.frames_at(np.array([1e6])).frames) == [199]
        assert read_numbers(reader.frames_at(np.array([-1.0])).frames) == [0]


def test_any_order_with_repeats_equals_reading_in_order(video: Path, read_numbers: Numbers) -> None:
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, COUNT, 60)
    times_s = wanted / FPS + rng.uniform(0.0, 0.09, 60)
    with Reader(str(video)) as reader:
        clip = reader.frames_at(times_s)
    assert read_numbers(clip.frames) == wanted.tolist()
    assert clip.times_s == pytest.approx(wanted / FPS)


def test_random_access_gives_the_pixels_of_sequential_reading(video: Path) -> None:
    with Reader(str(video)) as reader:
        sequence = [frame.to_ndarray(format="rgb24") for _, frame in reader.all_frames()]
    assert len(sequence) == COUNT
    # Each time a call of its own: back, forth, near and far, so that both ways to get there occur.
    wanted = [150, 3, 4, 90, 30, 199, 0, 101, 100, 12, 11, 180]
    with Reader(str(video)) as reader:
        for n in wanted:
            clip = reader.frames_at(np.array([n / FPS]))
            assert np.abs(clip.frames[0].astype(int) - sequence[n]).max() <= 1, n
    for n in wanted[:4]:
        with Reader(str(video)) as reader:  # and from a fresh start
            clip = reader.frames_at(np.array([n / FPS]))
        assert np.abs(clip.frames[0].astype(int) - sequence[n]).max() <= 1, n


def test_frames_that_no_other_depends_on_are_not_decoded(video: Path) -> None:
    wanted = [150, 156, 162, 168, 171]
    with Reader(str(video)) as reader:
        every = {
            n: frame.to_ndarray(format="rgb24") for n, (_, frame) in enumerate(reader.all_frames())
        }
    with Reader(str(video)) as reader:
        clip = reader.frames_at(np.array(wanted) / FPS)
        # From the key frame before 150 (144, or the first) to 171, less what is left out.
        on_the_way = 171 - (144 if video.stem == "gop12" else 0)
        assert len(wanted) < reader.decoded < 0.8 * on_the_way
    for n, frame in zip(wanted, clip.frames, strict=True):
        assert np.array_equal(frame, every[n]), n


def test_two_windows_of_one_call_share_their_frames(video: Path) -> None:
    times_s = 5 + np.arange(16) / FPS
    with Reader(str(video)) as reader:
        once = reader.frames_at(times_s)
        alone = reader.decoded
    with Reader(str(video)) as reader:
        both = reader.frames_at(np.concatenate([times_s, times_s + 0.3]))
        assert reader.decoded <= alone + 8
    assert np.array_equal(both.frames[:16], once.frames)
    assert np.array_equal(both.frames[16:29], once.frames[3:])


def test_real_files_give_the_same_pixels_with_and_without_skipping(shared_data: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [p for p in sorted((shared_data / "odd_videos_dev").iterdir()) if p.suffix == ".mp4"]
    assert len(paths) > 8
    for path in paths:
        with Reader(str(path)) as reader:
            every = {round(s, 6): f.to_ndarray(format="rgb24") for s, f in reader.all_frames()}
        starts_s = np.array(sorted(every))
        times_s = rng.uniform(-0.1, starts_s[-1] + 0.2, 12)
        with Reader(str(path)) as reader:
            clip = reader.frames_at(times_s)
        shown = starts_s[np.maximum(0, np.searchsorted(starts_s, times_s, side="right") - 1)]
        assert clip.times_s == pytest.approx(shown, abs=1e-6), path
        for start_s, frame in zip(shown, clip.frames, strict=True):
            assert np.array_equal(frame, every[start_s]), path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_times_in_the_order_of_decoding_are_not_believed(
    suffix: str, short: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    # As some old tools write them: the pictures come out in their order, the times in another.
    path = tmp_path / f"decoding{suffix}"
    with av.open(str(short)) as old, av.open(str(path), "w") as new:
        out = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.pts, packet.stream = packet.dts, out
                new.mux(packet)
    with Reader(str(path)) as reader:
        every = [(s, frame.to_ndarray(format="rgb24")) for s, frame in reader.all_frames()]
    numbers = read_numbers(np.stack([picture for _, picture in every]))
    assert numbers == sorted(numbers)
    assert len(numbers) > 25
    for wanted in ([17], [3, 22], [26, 9, 10, 11]):
        times_s = np.array([every[n][0] for n in wanted]) + 1e-4
        with Reader(str(path)) as reader:
            found = read_numbers(reader.frames_at(times_s).frames)
        assert found == [numbers[n] for n in wanted]


def test_a_codec_that_nobody_knows_is_told_of(short: Path, tmp_path: Path) -> None:
    content = short.read_bytes()
    assert b"avc1" in content
    path = tmp_path / "unknown.mp4"
    path.write_bytes(content.replace(b"avc1", b"zzz1"))
    with pytest.raises(VideoError, match="its codec is not known to FFmpeg"):
        Reader(str(path))


def test_a_picture_that_there_is_no_memory_for_is_no_damaged_packet(short: Path) -> None:
    script = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from vidssl.video.decoders.pyav import Reader\n"
        "with Reader(sys.argv[1]) as reader:\n"
        "    reader._size = (100_000, 100_000)\n"
        "    resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, 2 * 2**30))\n"
        "    try:\n"
        "        reader._require_memory()\n"
        "    except MemoryError:\n"
        "        print('told')\n"
    )
    command = [sys.executable, "-c", script, str(short)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "told\n"


def test_a_reader_cannot_be_carried_across_a_fork(video: Path) -> None:
    with Reader(str(video)) as reader:
        child = os.fork()
        if child == 0:
            try:
                reader.frames_at(np.array([0.0]))
            except RuntimeError as error:
                os._exit(7 if "cannot be carried across a fork" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mkv", ""), (".ts", ""), (".flv", ""), (".mov", ""), (".avi", "mpeg4"), (".webm", "libvpx")],
)
def test_other_containers_give_the_same_frames(
    suffix: str, codec: str, short: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    path = tmp_path / f"other{suffix}"
    recode(short, path, codec) if codec else remux(short, path)
    wanted = [17, 0, 29, 5, 6, 28, 12]
    with Reader(str(path)) as reader:
        together = reader.frames_at((np.array(wanted) + 0.5) / FPS)
        assert read_numbers(together.frames) == wanted
        alone = [reader.frames_at(np.array([(n + 0.5) / FPS])).frames for n in wanted]
    assert [read_numbers(frames)[0] for frames in alone] == wanted
    assert together.times_s == pytest.approx(np.array(wanted) / FPS, abs=0.002)


def test_times_count_from_the_first_frame_of_a_stream_that_starts_late(
    short: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    late = remux(short, tmp_path / "late.ts", {"output_ts_offset": "1000"})
    with av.open(str(late)) as container:
        start = container.streams.video[0].start_time
        assert start is not None
        assert start * (container.streams.video[0].time_base or 0) > 999
    with Reader(str(late)) as reader:
        assert read_numbers(reader.frames_at(np.array([2.05, 0.05])).frames) == [20, 0]


def test_uneven_frames_are_shown_until_the_next_begins(tmp_path: Path) -> None:
    path, starts_s = tmp_path / "uneven.mp4", [0.0, 0.1, 0.5, 2.0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for grey, start_s in zip([40, 90, 140, 190], starts_s, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, np.uint8), "rgb24")
            frame.pts, frame.time_base = int(start_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with Reader(str(path)) as reader:
        clip = reader.frames_at(np.array([1.99, 0.09, 0.1, 0.3, 2.0, 0.5]))
    assert clip.times_s == pytest.approx([0.5, 0.0, 0.1, 0.1, 2.0, 0.5])
    greys = clip.frames[:, 16, 16, 0].astype(int)
    assert greys.tolist() == pytest.approx([140, 40, 90, 90, 190, 140], abs=4)


def test_seeking_in_a_file_without_a_table_of_key_frames_equals_sequential_reading(
    video: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    # A seek lands anywhere in it, and MPEG-4 shows pictures whose predecessor it has not seen.
    for path in (
        recode(video, tmp_path / "mpeg2.ts", "mpeg2video", gop_size=25, max_b_frames=2),
        recode(video, tmp_path / "mpeg2.mpg", "mpeg2video", gop_size=25, max_b_frames=2),
        recode(video, tmp_path / "mpeg4.ts", "mpeg4", gop_size=25, max_b_frames=2),
        remux(video, tmp_path / "h264.ts"),
    ):
        with Reader(str(path)) as reader:
            sequence = [frame.to_ndarray(format="rgb24") for _, frame in reader.all_frames()]
        assert read_numbers(np.stack(sequence)) == list(range(COUNT)), path.name
        with Reader(str(path)) as reader:
            for n in (150, 30, 31, 199, 0, 100, 24, 25, 26):
                clip = reader.frames_at(np.array([(n + 0.5) / FPS]))
                assert np.abs(clip.frames[0].astype(int) - sequence[n]).max() <= 1, (path.name, n)
                assert clip.times_s[0] == pytest.approx(n / FPS, abs=0.002)


def test_a_picture_that_changes_size_midway_keeps_its_first_size(
    short: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    # Broadcasts and glued files do this; a clip is one array, so its frames need one size.
    small = recode(short, tmp_path / "small.ts", "mpeg2video")
    large = recode(short, tmp_path / "large.ts", "mpeg2video", width=192, height=128)
    glued = tmp_path / "glued.ts"
    glued.write_bytes(small.read_bytes() + large.read_bytes())
    with Reader(str(glued)) as reader:
        assert {frame.width for _, frame in reader.all_frames()} == {96, 192}
        clip = reader.frames_at(np.array([2.05, 5.05]))
        assert clip.frames.shape == (2, 64, 96, 3)
        first, second = read_numbers(clip.frames)
        assert first == 20
        assert second in {20, 21}  # the decoder drops a frame at the change
        assert reader.frames_at(np.array([5.05]), short_side_px=32).frames.shape == (1, 32, 48, 3)


@pytest.mark.parametrize(
    "name",
    [
        "-i.mp4",
        "[0]%03d*?.mp4",
        "two words\tand tab.mp4",
        "new\nline.mp4",
        "ütf-Ж-日本語-🎬.mp4",
        "concat:a|b.mp4",
        "http:%2f%2fexample.mp4",
        "'quoted' \"twice\".mp4",
        "#hash?query&x=1.mp4",
    ],
)
def test_names_are_only_names(
    name: str, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_numbers: Numbers
) -> None:
    monkeypatch.chdir(tmp_path)
    os.link(short, tmp_path / name)
    for path in (tmp_path / name, Path(name)):
        with Reader(str(path)) as reader:
            assert read_numbers(reader.frames_at(np.array([0.7])).frames) == [7]


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'victim.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nvictim.mp4\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nvictim.ts\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT3S"><Period><AdaptationSet mimeType="video/mp4">'
        '<Representation id="1" bandwidth="1"><BaseURL>victim.mp4</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>",
    ],
    ids=["concat", "playlist of mp4", "playlist of ts", "dash"],
)
def test_a_list_that_calls_itself_a_video_is_refused_and_opens_nothing_else(
    text: str, short: Path, tmp_path: Path
) -> None:
    os.link(short, tmp_path / "victim.mp4")
    remux(short, tmp_path / "victim.ts")
    (tmp_path / "list.mp4").write_text(text)
    with (
        pytest.raises(VideoError, match=r"list\.mp4: ") as caught,
        Reader(str(tmp_path / "list.mp4")) as reader,
    ):
        reader.frames_at(np.array([0.0]))
    assert caught.value.reason in {"unreadable", "no_video", "no_frames"}


def test_what_is_no_video_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (tmp_path / "text.mp4").write_text("not a video, but words\n" * 100)
    (tmp_path / "folder.mp4").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        for start in range(0, 16_000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    expected = {
        "absent.mp4": ("missing", "no such file"),
        "folder.mp4": ("missing", "not a file"),
        "empty.mp4": ("empty", r"the file is empty \(0 bytes\)"),
        "garbage.mp4": ("unreadable", "cannot be opened as a video"),
        "text.mp4": ("unreadable", "cannot be opened as a video"),
        "sound.mp4": ("no_video", "holds no video stream"),
    }
    for name, (reason, words) in expected.items():
        with pytest.raises(VideoError, match=rf"{name}: {words}") as caught:
            Reader(str(tmp_path / name))
        assert caught.value.reason == reason, name


def test_a_file_that_may_not_be_read_is_refused(short: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked.mp4"
    path.write_bytes(short.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(VideoError, match=r"locked\.mp4: cannot be opened"):
        Reader(str(path))


def test_the_frames_before_a_cut_can_be_read_and_times_behind_it_get_the_last(
    short: Path, tmp_path: Path, read_numbers: Numbers
) -> None:
    whole = remux(short, tmp_path / "whole.mp4", {"movflags": "faststart"}).read_bytes()
    cut = tmp_path / "cut.mp4"
    # The first picture, which holds the still background, makes up most of so small a file.
    cut.write_bytes(whole[: len(whole) * 9 // 10])
    with Reader(str(cut)) as reader:
        starts_s = [start_s for start_s, _ in reader.all_frames()]
        assert 5 < len(starts_s) < 30
        clip = reader.frames_at(np.array([0.2, 2.9]))
    assert read_numbers(clip.frames)[0] == 2
    assert clip.times_s[1] == starts_s[-1]


def test_a_damaged_middle_is_stepped_over(short: Path, tmp_path: Path) -> None:
    whole = remux(short, tmp_path / "whole.mp4", {"movflags": "faststart"})
    content = bytearray(whole.read_bytes())
    media = content.index(b"mdat") + 4
    start = media + (len(content) - media) // 2
    content[start : start + 300] = np.random.default_rng(0).bytes(300)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with Reader(str(path)) as reader:
        clip = reader.frames_at(np.arange(30) / FPS)
        assert clip.frames.shape == (30, 64, 96, 3)
        assert (np.diff(clip.times_s) >= 0).all()


def test_the_short_side_is_shrunk_but_never_grown(short: Path, read_numbers: Numbers) -> None:
    # 64 x 96: a short side of 32 halves both; 80 is more than there is.
    with Reader(str(short)) as reader:
        half = reader.frames_at(np.array([0.5, 1.2]), short_side_px=32).frames
        same = reader.frames_at(np.array([0.5]), short_side_px=80).frames
        full = reader.frames_at(np.array([0.5])).frames
    assert half.shape == (2, 32, 48, 3)
    assert same.shape == full.shape == (1, 64, 96, 3)
    assert read_numbers(half) == [5, 12]
    mean_of_four = full[0].reshape(32, 2, 48, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(mean_of_four - half[0])[10:].max() <= 4  # below the cells nothing is sharp


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rot0", (320, 568, 3)),
        ("rot90", (568, 320, 3)),
        ("rot180", (320, 568, 3)),
        ("rot270", (568, 320, 3)),
    ],
)
def test_turned_files_are_shown_upright(
    name: str, shape: tuple[int, int, int], shared_data: Path
) -> None:
    decord = pytest.importorskip("decord")  # it turns frames itself, and so is the oracle
    path = shared_data / "odd_videos_dev" / f"{name}.mov"
    with Reader(str(path)) as reader:
        clip = reader.frames_at(np.array([0.5, 0.0]))
        small = reader.frames_at(np.array([0.0]), short_side_px=60).frames[0]
    assert clip.frames[1].shape == shape
    expected = decord.VideoReader(str(path))[0].asnumpy()
    assert np.abs(expected.astype(int) - clip.frames[1]).mean() < 1
    assert np.abs(np.rot90(expected, 2).astype(int) - clip.frames[1]).mean() > 20
    assert min(small.shape[:2]) == 60
    assert (small.shape[0] > small.shape[1]) == (shape[0] > shape[1])


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("hmdb_RATRACE_wave.avi", 72),
        ("mmaction2_test.avi", 164),
        ("no_duration_vp9_opus.webm", 74),
        ("nasa_two_video_streams.mp4", 325),
    ],
)
def test_odd_files_give_their_frames_in_order(name: str, frames: int, shared_data: Path) -> None:
    path = shared_data / "odd_videos_dev" / name
    with av.open(str(path)) as container:
        oracle = [f.to_ndarray(format="rgb24")[::8, ::8] for f in container.decode(video=0)]
    with Reader(str(path)) as reader:
        starts_s = [start_s for start_s, _ in reader.all_frames()]
        assert len(starts_s) == len(oracle) == frames
        assert (np.diff(starts_s) > 0).all()
        wanted = [frames - 1, 0, frames // 2, frames // 2 + 1, 7]
        clip = reader.frames_at(np.array(starts_s)[wanted])
    for n, picture in zip(wanted, clip.frames, strict=True):
        assert np.abs(picture[::8, ::8].astype(int) - oracle[n]).max() <= 1, n


def test_the_reason_of_a_failure_survives_the_way_from_another_process(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError) as caught:
        Reader(str(tmp_path / "empty.mp4"))
    back = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(back, VideoError)
    assert (str(back), back.reason) == (str(caught.value), "empty")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(VideoError, match="0 bytes") as sent:
            pool.apply(Reader, (str(tmp_path / "empty.mp4"),))
        assert sent.value.reason == "empty"


def test_many_openings_leave_no_file_open(short: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage.mp4").write_bytes(b"garbage" * 1000)

    def round_trip() -> int:
        with Reader(str(short)) as reader:
            reader.frames_at(np.array([2.0, 0.1]))
        with pytest.raises(VideoError):
            Reader(str(tmp_path / "garbage.mp4"))
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    # Readers that earlier tests left to the collector may close in between: fewer is no fault.
    gc.collect()
    before = round_trip()
    for _ in range(50):
        after = round_trip()
    assert after <= before


def test_no_times_are_no_frames_wanted_by_mistake(short: Path) -> None:
    with Reader(str(short)) as reader, pytest.raises(ValueError, match="at least one"):
        reader.frames_at(np.empty(0))


def test_frames_in_turn_are_those_at_their_times_each_decoded_once(
    video: Path, read_numbers: Numbers
) -> None:
    # Twice as many times as frames, and some past the end.
    times_s = np.arange(2 * COUNT + 6) / (2 * FPS) + 0.01
    with Reader(str(video)) as reader:
        numbers = [read_numbers(frame[None])[0] for frame in reader.in_turn(times_s)]
        assert reader.decoded == COUNT
        assert numbers == [min(n // 2, COUNT - 1) for n in range(2 * COUNT + 6)]
        # What is asked for in between does not matter, nor beginning again.
        frames = reader.in_turn(times_s[:40])
        mixed = []
        for _ in range(20):
            mixed.append(read_numbers(next(frames)[None])[0])
            assert read_numbers(reader.frames_at(np.array([15.05])).frames) == [150]
        assert mixed == numbers[:20]
        (small,) = reader.in_turn(times_s[:1], 32)
        assert small.shape == (32, 48, 3)


@pytest.mark.parametrize("block", [1, 3 * 64 * 96 * 3])
def test_blocks_of_frames_are_the_same_as_one_after_another(
    short: Path, read_numbers: Numbers, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(contract, "BLOCK_BYTES", block)
    times_s = np.arange(30) / FPS + 0.01
    with Reader(str(short)) as reader:
        frames = contract.Reader.in_turn(reader, times_s)
        assert [read_numbers(frame[None])[0] for frame in frames] == list(range(30))
