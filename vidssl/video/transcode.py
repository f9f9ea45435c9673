"""One video made smaller and quick to seek in: H.264 in an MP4 file, the true times kept.

A copy has as many frames as can be decoded of the original, and each begins at the same time, to a
tick of the original's clock; a variable rate stays variable. What is decoded by the contract of
``vidssl.video.reader`` is what is copied: the first video stream, turned upright. Times begin at 0.

A key frame begins every group and no frame refers to one of another group (closed groups), so at
most a group is decoded to reach any frame.
"""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from vidssl.errors import OutputError, VideoError
from vidssl.files import sync
from vidssl.video.decoders.pyav import CONTAINERS, Reader, rotation
from vidssl.video.probe import FRAMES_PER_BYTE, MAX_FRAMES
from vidssl.video.storage import Location, Stat, is_frames, opened, shown, stat
from vidssl.video.workers import beat

Sound = Literal["none", "dropped", "copied", "encoded", "lost"]
"""What became of the sound: there was none; it was not asked for; it was taken as it is, or encoded
anew; it was asked for and cannot be decoded."""

PRESET = "veryfast"
X264 = "scenecut=0:open-gop=0:bframes=3:b-adapt=0:b-pyramid=0:cabac=0"
"""Made for reading: three of four frames are such that no other depends on, which are skipped where
they are not wanted, and CAVLC is quicker to unpack than CABAC. Clips of copies made so are read in
half the time that those of x264's own choice take, for 5 % more bytes."""
COPIED_SOUND = {"aac", "mp3", "ac3", "eac3", "alac"}
"""Sound that an MP4 file may hold and everything plays."""
AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
LARGEST_CLOCK = 2**31 - 1
FULL_RANGE = 2
DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EMFILE, errno.ENFILE),
}
"""What goes wrong with a disk; anything else that goes wrong in writing is the fault of a video."""


@dataclass(frozen=True)
class Copying:
    """How copies are made.

    ``short_side_px`` is that of the picture, which is never enlarged; ``gop`` the frames from one
    key frame to the next; ``crf`` x264's quality, 0 lossless, 18 looks so, 51 the worst.
    """

    short_side_px: int = 256
    gop: int = 32
    crf: int = 23
    keep_audio: bool = False


@dataclass(frozen=True)
class Copied:
    """What a copy holds, and the size and time of change of its original."""

    source: Stat
    bytes: int
    frames: int
    width: int
    height: int
    duration_s: float
    sound: Sound


def transcode(location: Location, target: Path, copying: Copying) -> Copied:
    """Write the copy of a video to ``target``, synced to the disk, and return what it holds.

    ``target`` is written from the first byte on, so it should not yet bear its final name; it is
    left there half-written if the copy fails.

    Raises:
        VideoError: if the video cannot be decoded, or changes meanwhile.
        OutputError: if ``target`` cannot be written.
    """
    if is_frames(location):
        words = "a folder of pictures; only video files are copied"
        raise VideoError(f"{shown(location)}: {words}", "pictures")
    before = stat(location)
    with ExitStack() as stack:
        reader = stack.enter_context(_reading(location))
        frames = _frames(reader, before)
        with _telling_of(location):
            first = next(frames, None)
        if first is None:
            raise VideoError(f"{shown(location)}: no frame can be decoded", "no_frames")
        with _Copy(target, location, copying, _clock(reader, first[1]), reader) as copy:
            for start_s, frame in _told(location, chain([first], frames)):
                copy.add(start_s, frame)
            copy.finish()
    if stat(location) != before:
        raise VideoError(f"{shown(location)}: the file changed while it was read", "changing")
    with _writing(target, location):
        sync(target)
    _check(target, copy, location)
    return Copied(
        source=before,
        bytes=target.stat().st_size,
        frames=len(copy.ticks),
        width=copy.width,
        height=copy.height,
        duration_s=float((copy.ticks[-1] + copy.last_ticks) * copy.clock),
        sound=copy.sound,
    )


def copied_size(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    """Return (width, height) of a copy: even, the short side at most ``short_side_px``.

    >>> copied_size(1920, 1080, 256)
    (456, 256)
    >>> copied_size(175, 143, 256)
    (174, 142)
    """
    scale = min(1.0, short_side_px / min(width, height))
    if scale == 1.0:
        return max(2, width // 2 * 2), max(2, height // 2 * 2)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


# --- reading


@contextmanager
def _reading(location: Location) -> Iterator[Reader]:
    with _telling_of(location):
        reader = Reader(location)
    try:
        yield reader
    finally:
        reader.close()


def _frames(reader: Reader, found: Stat) -> Iterator[tuple[float, VideoFrame]]:
    """Give the frames of a video; one that gives more than its bytes can hold is given up."""
    most = min(MAX_FRAMES, 1000 + int(found.bytes * FRAMES_PER_BYTE))
    for number, item in enumerate(reader.all_frames()):
        beat()
        if number >= most:
            words = f"gives more than {most} frames from {found.bytes} bytes"
            raise VideoError(f"{shown(reader.location)}: {words}", "endless")
        yield item


def _told(
    location: Location, frames: Iterator[tuple[float, VideoFrame]]
) -> Iterator[tuple[float, VideoFrame]]:
    while True:
        with _telling_of(location):
            item = next(frames, None)
        if item is None:
            return
        yield item


@contextmanager
def _telling_of(location: Location) -> Iterator[None]:
    """Tell of errors in reading by the name of the video."""
    try:
        yield
    except VideoError:
        raise
    except (FFmpegError, OSError) as error:
        what = getattr(error, "strerror", None) or type(error).__name__
        raise VideoError(f"{shown(location)}: cannot be read ({what})") from error
    except (ValueError, ArithmeticError) as error:  # times or sizes that make no sense
        words = f"makes no sense ({type(error).__name__}: {error})"
        raise VideoError(f"{shown(location)}: {words}") from error


def _clock(reader: Reader, frame: VideoFrame) -> Fraction:
    """Return the tick in which a video's times are whole numbers, in seconds."""
    if reader.untimed or not frame.time_base:
        return 1 / Fraction(reader.stated_fps).limit_denominator(100_000)
    clock = frame.time_base
    return clock if clock.denominator <= LARGEST_CLOCK else Fraction(1, 1_000_000)


# --- writing


class _Copy:
    """An MP4 file being written."""

    def __init__(
        self, target: Path, location: Location, copying: Copying, clock: Fraction, reader: Reader
    ) -> None:
        self.target, self.location, self.copying = target, location, copying
        self.clock, self.fps = clock, Fraction(reader.stated_fps).limit_denominator(100_000)
        self.untimed = reader.untimed
        self.ticks: list[int] = []
        self.last_ticks = 1
        self.width = self.height = 0
        self.sound: Sound = "dropped" if reader.has_audio else "none"
        self._stated_ticks = 0
        self._stream: VideoStream | None = None
        self._audio: _Sound | None = None
        self._wants_audio = copying.keep_audio and reader.has_audio

    def __enter__(self) -> "_Copy":
        with _writing(self.target, self.location):
            self._file: OutputContainer = av.open(
                str(self.target), "w", format="mp4", options={"movflags": "+faststart"}
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._audio is not None:
            self._audio.close()
        with _writing(self.target, self.location):
            self._file.close()  # nothing more, if `finish` was reached

    def add(self, start_s: float, frame: VideoFrame) -> None:
        """Encode a frame that begins at ``start_s``."""
        with _writing(self.target, self.location):
            stream = self._stream or self._begin(frame)
            # What precedes the first frame that can be decoded shows that frame: it begins at 0.
            tick = max(round(start_s / self.clock), self.ticks[-1] + 1) if self.ticks else 0
            picture = self._picture(frame)
            picture.pts, picture.time_base = tick, self.clock
            self._stated_ticks = 0
            if frame.duration and frame.time_base and not self.untimed:
                self._stated_ticks = round(frame.duration * frame.time_base / self.clock)
            self.ticks.append(tick)
            self._mux(stream.encode(picture))
            if self._audio is not None:
                self._audio.write_until(start_s)

    def finish(self) -> None:
        """Encode what is left, and close the file."""
        with _writing(self.target, self.location):
            gaps = np.diff(self.ticks)
            usual = round(1 / self.fps / self.clock) if len(gaps) == 0 else int(np.median(gaps))
            self.last_ticks = self._stated_ticks or max(1, usual)
            if self._stream is not None:
                self._mux(self._stream.encode(None))
            if self._audio is not None:
                self._audio.write_until(float("inf"))
                self.sound = self._audio.what
            self._file.close()

    def _begin(self, frame: VideoFrame) -> VideoStream:
        """Open the encoder for frames like this one, the first."""
        upright = (frame.width, frame.height)
        if round(rotation(frame) / 90) % 2:
            upright = (frame.height, frame.width)
        self.width, self.height = copied_size(*upright, self.copying.short_side_px)
        stream = self._file.add_stream("libx264", rate=self.fps)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = self.clock
        stream.codec_context.thread_count = 1
        gop = self.copying.gop
        stream.options = {
            "preset": PRESET,
            "crf": str(self.copying.crf),
            "x264-params": f"keyint={gop}:min-keyint={gop}:{X264}",
        }
        _take_colours(stream, frame)
        self._stream = stream
        if self._wants_audio:
            self._audio = _Sound(self._file, self.location)
        return stream

    def _picture(self, frame: VideoFrame) -> VideoFrame:
        """Return a frame at the size of the copy, upright, without what its decoder noted."""
        turns = round(rotation(frame) / 90) % 4
        width, height = (self.height, self.width) if turns % 2 else (self.width, self.height)
        # RGB has no matrix of its own; that of SD video is what decoders take for untold ones.
        is_rgb = frame.format.is_rgb
        picture = frame.reformat(
            width,
            height,
            "yuv420p",
            dst_colorspace="ITU601" if is_rgb else None,
            interpolation="AREA",
            threads=1,
        )
        if turns:
            picture = _turned(picture, turns)
        picture.pict_type = (
            PictureType.NONE
        )  # else it forces key frames where the original has some
        return picture

    def _mux(self, packets: "list[Packet[VideoStream]]") -> None:
        for packet in packets:
            # The file says of its last frame how long it stays, as the original did.
            if packet.pts == self.ticks[-1]:
                packet.duration = self.last_ticks
            self._file.mux(packet)


def _take_colours(stream: VideoStream, frame: VideoFrame) -> None:
    """Say of the copy what the original says of its colours, which are not converted."""
    context = stream.codec_context
    if not frame.format.is_rgb:
        context.colorspace = frame.colorspace
        context.color_primaries = frame.color_primaries
        context.color_trc = frame.color_trc
        full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
        context.color_range = FULL_RANGE if full else frame.color_range


def _turned(picture: VideoFrame, turns: int) -> VideoFrame:
    """Return a 4:2:0 picture turned counter-clockwise by so many quarters."""
    width, height = picture.width, picture.height
    values = picture.to_ndarray().reshape(-1)
    luma, chroma = width * height, width * height // 4
    planes = (
        values[:luma].reshape(height, width),
        values[luma : luma + chroma].reshape(height // 2, width // 2),
        values[luma + chroma :].reshape(height // 2, width // 2),
    )
    packed = np.concatenate([np.rot90(plane, turns).reshape(-1) for plane in planes])
    width, height = (height, width) if turns % 2 else (width, height)
    return VideoFrame.from_ndarray(packed.reshape(height * 3 // 2, width), format="yuv420p")


@contextmanager
def _writing(target: Path, location: Location) -> Iterator[None]:
    """Tell errors of the disk from those of a video that cannot be encoded."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            what = error.strerror or type(error).__name__
            raise VideoError(f"{shown(location)}: cannot be encoded ({what})") from error
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    except (FFmpegError, ValueError, ArithmeticError) as error:
        words = f"cannot be encoded ({type(error).__name__}: {error})"
        raise VideoError(f"{shown(location)}: {words}") from error


def _check(target: Path, copy: "_Copy", location: Location) -> None:
    """Read the times of a copy back from the disk.

    Raises:
        OutputError: if they are not what was written.
    """
    with _writing(target, location), av.open(str(target), format="mp4") as file:
        found = sorted(p.pts for p in file.demux(video=0) if p.pts is not None)
        clock = file.streams.video[0].time_base or copy.clock
    wanted = [tick * copy.clock for tick in copy.ticks]
    if [(pts - found[0]) * clock for pts in found] != wanted:
        words = f"not whole on the disk: {len(found)} of {len(wanted)} frames, or other times"
        raise OutputError(f"{target}: cannot be written: {words}")


# --- sound


class _Sound:
    """The first sound of a video, written in step with its pictures."""

    def __init__(self, file: OutputContainer, location: Location) -> None:
        source = opened(location)
        name = f"file:{source}" if isinstance(source, str) else source
        options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
        self._file = file
        self._source: InputContainer = av.open(
            name, "r", options=options, metadata_errors="replace"
        )
        self._in: AudioStream = self._source.streams.audio[0]
        video = self._source.streams.video[0]
        self._zero_s = float((video.start_time or 0) * (video.time_base or 0))
        self._out: AudioStream | None = None
        self._packets = self._copies() if self._in.codec_context.name in COPIED_SOUND else None
        self.what: Sound = "copied" if self._packets is not None else "encoded"
        if self._packets is not None:
            self._out = file.add_stream_from_template(self._in)
        else:
            self._begin_encoding()
            self._packets = self._encoded()
        self._next: Packet[AudioStream] | None = None

    def close(self) -> None:
        """Let go of the source."""
        self._packets = None
        self._source.close()

    def _begin_encoding(self) -> None:
        context = self._in.codec_context
        rate = context.sample_rate if context.sample_rate in AAC_RATES else 48_000
        layout = "mono" if context.channels == 1 else "stereo"
        self._out = self._file.add_stream("aac", rate=rate, layout=layout)
        self._resampler = AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=1024)

    def write_until(self, seconds: float) -> None:
        """Write the sound up to about this time."""
        while self._packets is not None:
            if self._next is None:
                try:
                    self._next = next(self._packets, None)
                except (FFmpegError, EOFError):  # what cannot be read is left out
                    self._next = None
                if self._next is None:
                    self._packets = None
                    return
            packet = self._next
            if packet.pts is not None and float(packet.pts * (packet.time_base or 0)) > seconds:
                return
            self._file.mux(packet)
            self._next = None
            beat()

    def _copies(self) -> "Iterator[Packet[AudioStream]]":
        zero = round(self._zero_s / (self._in.time_base or Fraction(1)))
        last = -1
        assert self._out is not None
        for packet in self._source.demux(self._in):
            if packet.pts is None or packet.dts is None:
                continue
            packet.pts -= zero
            packet.dts -= zero
            if packet.pts < 0 or packet.dts <= last:
                continue
            last = packet.dts
            packet.stream = self._out
            yield packet

    def _encoded(self) -> "Iterator[Packet[AudioStream]]":
        assert self._out is not None
        written = None
        for frame in self._decoded():
            for piece in self._resampler.resample(frame):
                if written is None:
                    start_s = max(0.0, (frame.time or 0.0) - self._zero_s)
                    written = round(start_s * self._out.codec_context.sample_rate)
                piece.pts = written
                piece.time_base = Fraction(1, self._out.codec_context.sample_rate)
                written += piece.samples
                yield from self._out.encode(piece)
        if written is None:
            self.what = "lost"
            return
        yield from self._out.encode(None)

    def _decoded(self) -> Iterator[av.AudioFrame]:
        for packet in self._source.demux(self._in):
            try:
                frames = packet.decode()
            except (FFmpegError, EOFError):
                continue
            for frame in frames:
                if (frame.time or 0.0) >= self._zero_s - 0.05:
                    yield frame
