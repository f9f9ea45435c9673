"""Reading with PyAV, the decoder that is always there: it brings its own FFmpeg.

Presentation times are trusted where the decoder gives them in increasing order. AVI files and raw
streams have none worth the name (MPEG-4 in AVI can run backwards), so there frame i begins at
i / rate, and reading starts at the beginning; frames are never sorted.
"""

import re
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vidssl.errors import VideoError
from vidssl.video.reader import EPSILON_S, Clip
from vidssl.video.storage import Location, opened

VERSION = f"pyav-{av.__version__}"
UNTIMED_FORMATS = {"avi", "m4v", "h264", "hevc", "mpegvideo", "mjpeg"}
UNSEEKABLE_FORMATS = {"mpeg"}  # after a seek in a program stream, FFmpeg gives other times
CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,nut,mxf,dv,rm,wtv,"
    "h264,hevc,m4v,mpegvideo,mjpeg,av1,obu"
)
"""What may be opened. FFmpeg looks at the content, not at the name, and would also follow a list of
other files (concat, HLS, DASH), draw a text, or play a picture."""
SEEK_BACK_S = (0.0, 2.0, 10.0, 60.0)
"""How far before the wanted time to seek: formats without a table of key frames land between them,
and show nothing until the next."""

# FFmpeg's own log goes to stderr behind every progress bar; errors reach us as exceptions.
av.logging.set_level(av.logging.PANIC)


class Reader:
    """One open video, read forward; asking for an earlier time seeks.

    Not to be shared between threads, nor carried across a fork.
    """

    def __init__(self, location: Location, *, threads: int = 1) -> None:
        """Open ``location``.

        Raises:
            VideoError: if the file is missing, empty, unreadable or holds no video stream.
        """
        self.location = location
        self._container = _open(location)
        self._stream = _video_stream(self._container, location)
        self._stream.thread_type = "AUTO" if threads > 1 else "SLICE"
        self._stream.codec_context.thread_count = threads
        names = set(self._container.format.name.split(","))
        self._by_count = bool(names & UNTIMED_FORMATS) or self._stream.time_base is None
        self._seekable = not self._by_count and not names & UNSEEKABLE_FORMATS
        self._size = self._stream.codec_context.width, self._stream.codec_context.height
        self._fresh = True  # nothing has been read since the file was opened
        self._frames: Iterator[tuple[float, VideoFrame]] = iter(())
        self._shown: tuple[float, VideoFrame] | None = None  # on the screen at the last time asked
        self._ahead: tuple[float, VideoFrame] | None = None  # the one decoded after it
        self.errors = 0
        """Packets that the decoder refused so far; the frames around them are still used."""

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Release the decoder at once; a reader left to the garbage collector leaks memory."""
        self._frames, self._shown, self._ahead = iter(()), None, None
        self._container.close()

    @property
    def codec(self) -> str:
        """The codec's short name, such as ``h264``."""
        return self._stream.codec_context.name

    @property
    def stated_fps(self) -> float:
        """Frames per second as the file states it; 25 where it does not."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 25)

    @property
    def stated_duration_s(self) -> float | None:
        """Length of the video stream as the file states it; None where it does not."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        # Matroska: hours, minutes and seconds among the stream's tags.
        tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", self._stream.metadata.get("DURATION", ""))
        if tag is None:
            return None
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])

    @property
    def has_audio(self) -> bool:
        """Whether the file holds sound."""
        return bool(self._container.streams.audio)

    @property
    def untimed(self) -> bool:
        """Whether times are counted from the rate, for want of trustworthy ones in the file."""
        return self._by_count

    def frames_at(self, times_s: NDArray[np.float64], short_side_px: int | None = None) -> Clip:
        """Return the frames on the screen at ``times_s``, in the order asked.

        A frame wanted twice is decoded once. ``short_side_px`` shrinks frames whose short side is
        longer, keeping the shape of the picture. Where the picture changes its size midway, all
        frames get that of the beginning.

        Raises:
            VideoError: if not a single frame can be decoded.
            ValueError: if no time is given.
        """
        if len(times_s) == 0:
            raise ValueError("expected at least one time, got none")
        order = np.argsort(times_s, kind="stable")
        pictures: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(times_s)
        found_s = np.empty(len(times_s))
        last: tuple[float, NDArray[np.uint8]] | None = None
        for position in order:
            start_s, frame = self._frame_at(float(times_s[position]))
            if last is None or last[0] != start_s:
                last = (start_s, _picture(frame, self._size, short_side_px))
            found_s[position], pictures[position] = last
        return Clip(np.stack(pictures), found_s)

    def all_frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """Give every decodable frame from the beginning with its start in seconds."""
        self._rewind()
        self._shown = self._ahead = None
        yield from self._frames

    def _frame_at(self, time_s: float) -> tuple[float, VideoFrame]:
        if self._shown is None or not self._reaches(time_s):
            self._restart(time_s)
        while self._ahead is not None and self._ahead[0] <= time_s + EPSILON_S:
            self._shown, self._ahead = self._ahead, self._next()
        if self._shown is None:
            raise VideoError(f"{self.location}: no frame can be decoded", "no_frames")
        return self._shown

    def _reaches(self, time_s: float) -> bool:
        """Whether reading on from here is right, and cheaper than a seek."""
        shown_s = self._shown[0] if self._shown else 0.0
        return shown_s <= time_s + EPSILON_S and (not self._seekable or time_s - shown_s < 10.0)

    def _restart(self, time_s: float) -> None:
        """Stand so that the frame at ``time_s`` lies at or after the position."""
        self._shown = self._ahead = None
        first = self._seek_back(time_s)
        if first is None:
            self._rewind()
            first = self._next()
        self._shown = first
        self._ahead = self._next() if first else None

    def _seek_back(self, time_s: float) -> tuple[float, VideoFrame] | None:
        """Return a key frame at or before ``time_s`` and stand behind it; None if that fails."""
        for back_s in SEEK_BACK_S:
            if not self._seekable or time_s - back_s <= 0 or not self._seek(time_s - back_s):
                return None
            first = self._next()
            if first is not None and first[0] <= time_s + EPSILON_S:
                return first
        return None

    def _seek(self, time_s: float) -> bool:
        """Go to a key frame near ``time_s``; return whether the file can."""
        base = self._stream.time_base
        if base is None:
            return False
        ticks = int(time_s / base) + (self._stream.start_time or 0)
        try:
            self._container.seek(ticks, stream=self._stream, backward=True)
        except FFmpegError:
            return False
        self._fresh = False
        self._frames = self._decode(midway=True)
        return True

    def _rewind(self) -> None:
        """Stand before the first frame: a seek to its time may land behind it."""
        if not self._fresh:
            threads, kind = self._stream.codec_context.thread_count, self._stream.thread_type
            self._container.close()
            self._container = _open(self.location)
            self._stream = _video_stream(self._container, self.location)
            self._stream.thread_type = kind
            self._stream.codec_context.thread_count = threads
        self._fresh = False
        self._frames = self._decode()

    def _next(self) -> tuple[float, VideoFrame] | None:
        return next(self._frames, None)

    def _decode(self, *, midway: bool = False) -> Iterator[tuple[float, VideoFrame]]:
        """Give frames in the decoder's order, stepping over packets that it refuses.

        ``midway`` begins at a key frame: those before it may lack what they were predicted from.
        """
        frame_s = 1 / self.stated_fps
        previous_s, count = -np.inf, 0
        for frame in self._packets():
            start_s = self._time_of(frame)
            if midway and count == 0 and (start_s is None or not frame.key_frame):
                continue
            if start_s is None or start_s <= previous_s:
                # No time of its own: it follows the frame before it by one frame.
                start_s = count * frame_s if self._by_count or count == 0 else previous_s + frame_s
            previous_s, count = start_s, count + 1
            yield start_s, frame

    def _time_of(self, frame: VideoFrame) -> float | None:
        if self._by_count or frame.pts is None or frame.time_base is None:
            return None
        return float((frame.pts - (self._stream.start_time or 0)) * frame.time_base)

    def _packets(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (FFmpegError, EOFError):
                self.errors += 1
                return
            try:
                yield from packet.decode()
            except (FFmpegError, EOFError):
                self.errors += 1


def _open(location: Location) -> av.container.InputContainer:
    file = opened(location)
    try:
        # The prefix keeps names such as "concat:x" or "-" from being read as something else;
        # the white lists keep playlists from opening other files or addresses.
        options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
        name = f"file:{file}" if isinstance(file, str) else file
        return av.open(name, "r", options=options, metadata_errors="replace")
    except (FFmpegError, ValueError, OSError) as error:
        what = getattr(error, "strerror", None) or type(error).__name__
        raise VideoError(
            f"{location}: cannot be opened as a video ({what})", "unreadable"
        ) from error


def _video_stream(container: av.container.InputContainer, location: Location) -> VideoStream:
    if not container.streams.video:
        raise VideoError(f"{location}: holds no video stream", "no_video")
    return container.streams.video[0]


def _picture(
    frame: VideoFrame, size: tuple[int, int], short_side_px: int | None
) -> NDArray[np.uint8]:
    """Return the frame as ``(H, W, 3)`` RGB of the stored ``size``, shrunk, then turned upright."""
    width, height = size if min(size) > 0 else (frame.width, frame.height)
    short = min(width, height)
    if short_side_px is not None and short > short_side_px:
        width = max(1, round(width * short_side_px / short))
        height = max(1, round(height * short_side_px / short))
    shaped = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    picture = shaped.astype(np.uint8, copy=False)
    turns = round(rotation(frame) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def rotation(frame: VideoFrame) -> int:
    """Return the counter-clockwise turn in degrees that shows the frame upright."""
    return int(getattr(frame, "rotation", 0) or 0)
