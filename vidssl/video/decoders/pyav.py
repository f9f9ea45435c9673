"""Reading with PyAV, the decoder that is always there: it brings its own FFmpeg.

Where the packets of a file tell when their frames are shown, only those are decoded that a wanted
frame depends on; the pictures are the same as if all were, as no other depends on what is
skipped. Where times come out in another order than that of the pictures, all is decoded from the
beginning. In a damaged stretch a picture may depend on where decoding began.

Presentation times are trusted where the decoder gives them in increasing order. AVI files and raw
streams have none worth the name (MPEG-4 in AVI can run backwards), so there frame i begins at
i / rate, and reading starts at the beginning; frames are never sorted.
"""

import contextlib
import re
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Literal

import av
import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vidssl.errors import VideoError
from vidssl.video import reader as contract
from vidssl.video.reader import EPSILON_S, Clip
from vidssl.video.storage import Location, opened, shown

VERSION = f"pyav-{av.__version__}"
UNTIMED_FORMATS = {"avi", "m4v", "h264", "hevc", "mpegvideo", "mjpeg"}
UNSEEKABLE_FORMATS = {"mpeg"}  # after a seek in a program stream, FFmpeg gives other times
CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,nut,mxf,dv,rm,wtv,"
    "h264,hevc,m4v,mpegvideo,mjpeg,av1,obu"
)
"""What may be opened. FFmpeg looks at the content, not at the name, and would also follow a list of
other files (concat, HLS, DASH), draw a text, or play a picture."""
SKIPPING = {"h264", "hevc"}  # their decoders know which frames no other depends on
KEPT_PICTURES = 24  # at most 16 to refer to, and some on the way
LATE_PACKETS = 64  # a wanted frame that is not out this much later will not come
SEEK_GAIN_FRAMES = 4  # a seek has its cost
READ_ON_S = 10.0  # without a table of key frames, what lies closer is reached by decoding
SEEK_BACK_S = (0.0, 2.0, 10.0, 60.0)
"""How far before the wanted time to seek: formats without a table of key frames land between them,
and show nothing until the next."""

# FFmpeg's own log goes to stderr behind every progress bar; errors reach us as exceptions.
av.logging.set_level(av.logging.PANIC)


class Reader(contract.Reader):
    """One open video, read forward; asking for an earlier time seeks.

    Not to be shared between threads, nor carried across a fork.
    """

    def __init__(self, location: Location, *, threads: int = 1) -> None:
        """Open ``location``.

        Raises:
            VideoError: if the file is missing, empty, unreadable or holds no video stream.
        """
        super().__init__(location)
        self._container = _open(location)
        self._stream = _video_stream(self._container, location)
        self._stream.thread_type = "AUTO" if threads > 1 else "SLICE"
        self._stream.codec_context.thread_count = threads
        names = set(self._container.format.name.split(","))
        self._by_count = bool(names & UNTIMED_FORMATS) or self._stream.time_base is None
        self._seekable = not self._by_count and not names & UNSEEKABLE_FORMATS
        self._size = self._stream.codec_context.width, self._stream.codec_context.height
        self._from_start = True  # the packets at hand begin with the first of the file
        self._fresh = True  # nothing has been read since the file was opened
        self._frames: Iterator[tuple[float, VideoFrame]] = iter(())
        self._shown: tuple[float, VideoFrame] | None = None  # on the screen at the last time asked
        self._ahead: tuple[float, VideoFrame] | None = None  # the one decoded after it
        self.decoded = 0
        """Frames that came out of the decoder so far."""
        self.errors = 0
        """Packets that the decoder refused so far; the frames around them are still used."""

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
            RuntimeError: in another process than the one that opened the video.
        """
        pictures = _Pictures(len(times_s), self._size, short_side_px)
        times = self._fill(times_s, pictures)
        return Clip(pictures.frames(), times)

    def in_turn(
        self, times_s: NDArray[np.float64], short_side_px: int | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Give the frames ``(H, W, 3)`` on the screen at rising ``times_s``, one after another.

        Every frame of the video is decoded once, whatever lies between its key frames.

        Raises:
            VideoError, RuntimeError: as ``frames_at``.
        """
        last: tuple[float, NDArray[np.uint8]] | None = None
        for time_s in times_s.tolist():
            self._require_right_use(times_s)
            start_s, frame = self._frame_at(time_s)
            if last is None or last[0] != start_s:
                pictures = _Pictures(1, self._size, short_side_px)
                pictures.put(0, frame)
                last = start_s, pictures.frames()[0]
            yield last[1]

    def decode_only(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Decode what ``frames_at`` would and throw it away: the limit that it is measured by.

        Raises:
            VideoError: if not a single frame can be decoded.
        """
        return self._fill(times_s, _Nowhere())

    def _fill(self, times_s: NDArray[np.float64], pictures: "_Pictures") -> NDArray[np.float64]:
        self._require_right_use(times_s)
        order = np.argsort(times_s, kind="stable")
        sorted_s = times_s[order]
        found_s = self._needed(sorted_s, order, pictures)
        if found_s is None:
            found_s = self._in_turn(sorted_s, order, pictures)
        times = np.empty(len(times_s))
        times[order] = found_s
        return times

    def _in_turn(
        self, sorted_s: NDArray[np.float64], order: NDArray[np.int64], pictures: "_Pictures"
    ) -> list[float]:
        """Fill ``pictures`` by decoding every frame on the way; return the frames' times."""
        found_s: list[float] = []
        for time_s, position in zip(sorted_s, order, strict=True):
            start_s, frame = self._frame_at(float(time_s))
            if found_s and found_s[-1] == start_s:
                pictures.repeat(position)
            else:
                pictures.put(position, frame)
            found_s.append(start_s)
        return found_s

    def _needed(
        self, sorted_s: NDArray[np.float64], order: NDArray[np.int64], pictures: "_Pictures"
    ) -> list[float] | None:
        """Fill ``pictures`` by decoding only what the wanted frames need; return their times.

        Packets tell when their frames are shown before they are decoded. Frames that no other
        depends on are decoded only if they are wanted, and where a key frame lies ahead, the frames
        before it are passed over. None where the packets leave a doubt.
        """
        base = self._stream.time_base
        if not self._seekable or base is None:
            return None
        start = self._stream.start_time or 0
        ticks = np.floor((sorted_s + EPSILON_S) / float(base)).astype(np.int64) + start
        self._shown = self._ahead = None
        found: list[int] = []
        for part in self._stretches(ticks, float(base)):
            pts = self._decode_stretch(ticks[part], order[part], pictures)
            if pts is None:
                return None
            found += pts
        return [float((p - start) * base) for p in found]

    def _stretches(self, ticks: NDArray[np.int64], base: float) -> list[slice]:
        """Return the parts of ``ticks`` between which a seek spares decoding."""
        # The entries belong to the open file, and must not be looked at once it is opened anew.
        entries = self._stream.index_entries
        least = SEEK_GAIN_FRAMES / self.stated_fps / base
        edges = [0]
        for i in range(1, len(ticks)):
            if ticks[i] - ticks[i - 1] <= least:
                continue
            key = entries.search_timestamp(int(ticks[i]), backward=True)
            far = key >= 0 and entries[key].timestamp - ticks[i - 1] > least
            if far or (key < 0 and (ticks[i] - ticks[i - 1]) * base > READ_ON_S):
                edges.append(i)
        return [slice(first, last) for first, last in pairwise([*edges, len(ticks)])]

    def _decode_stretch(
        self, ticks: NDArray[np.int64], order: NDArray[np.int64], pictures: "_Pictures"
    ) -> list[int] | None:
        """Fill the pictures of one stretch; return their presentation times in ticks, or None."""
        packets = self._packets_before(int(ticks[0]))
        ahead: list[Packet[VideoStream]] = []
        for packet in packets:
            ahead.append(packet)
            if packet.size == 0:  # the end of the file
                break
            if packet.pts is None or (packet.dts is not None and packet.pts < packet.dts):
                self._distrust()
                return None
            if packet.dts is not None and packet.dts > ticks[-1]:  # all that come are shown later
                break
        shown = sorted(p.pts for p in ahead if p.pts is not None and not p.is_discard)
        if not self._from_start and ahead:
            shown = [pts for pts in shown if pts >= (ahead[0].pts or 0)]
        if len(set(shown)) != len(shown):
            self._distrust()
            return None
        if not shown:
            return None
        places = np.searchsorted(shown, ticks, side="right") - 1
        wanted = [shown[max(0, place)] for place in places]
        # Some tools write the order of decoding as times; only the pictures in between tell.
        skip = any(packet.pts != packet.dts for packet in ahead if packet.size)
        found = self._put(wanted, order, chain(ahead, packets), pictures, skip=skip)
        return wanted if found else None

    def _distrust(self) -> None:
        """Count on no seek from here on: the times of packets are not those of the pictures."""
        self._seekable = False

    def _put(
        self,
        wanted: list[int],
        order: NDArray[np.int64],
        packets: Iterator["Packet[VideoStream]"],
        pictures: "_Pictures",
        *,
        skip: bool,
    ) -> bool:
        """Decode until each of ``wanted`` is in its picture; return whether all came.

        With ``skip``, frames are left out that are not wanted and that no other depends on.
        """
        left: dict[int, list[int]] = {}
        for pts, position in zip(wanted, order, strict=True):
            left.setdefault(pts, []).append(int(position))
        context = self._stream.codec_context
        skip = (skip or not context.has_b_frames) and context.name in SKIPPING
        skipped: Literal["NONREF", "DEFAULT"] = "NONREF" if skip else "DEFAULT"
        late = 0
        before: int | None = None
        try:
            for packet in packets:
                late += packet.pts is not None and packet.pts > wanted[-1]
                if late > LATE_PACKETS:
                    return False
                context.skip_frame = "DEFAULT" if packet.pts in left else skipped
                for frame in packet.decode():
                    self.decoded += 1
                    if not self._follows(frame, before):
                        return False
                    before = frame.pts
                    positions = left.pop(before, None) if before is not None else None
                    if positions:
                        pictures.put(positions[0], frame)
                        for position in positions[1:]:
                            pictures.repeat(position)
                if not left:
                    return True
        except (FFmpegError, EOFError):
            self._require_memory()
            return False
        finally:
            context.skip_frame = "DEFAULT"
        return False

    def _follows(self, frame: VideoFrame, before: int | None) -> bool:
        """Whether a frame is whole, and shown after the one that came before it."""
        if frame.pts is None or (before is not None and frame.pts <= before):
            self._distrust()
            return False
        return not frame.is_corrupt

    def _packets_before(self, tick: int) -> Iterator["Packet[VideoStream]"]:
        """Give packets from a key frame shown at or before ``tick``, or from the beginning."""
        base = self._stream.time_base or 1
        start = self._stream.start_time or 0
        for back_s in SEEK_BACK_S:
            target = tick - int(back_s / base)
            if target <= start or (self._fresh and not self._key_between(start, tick)):
                break
            try:
                self._container.seek(target, stream=self._stream, backward=True)
                self._fresh = False
                packets = self._demux()
                first = next(packets, None)
            except FFmpegError:
                break
            if first is None or first.pts is None:
                break
            if first.is_keyframe and first.pts <= tick:
                self._from_start = False
                return chain([first], packets)
        self._reopen()
        self._fresh, self._from_start = False, True
        return self._demux()

    def _key_between(self, start: int, tick: int) -> bool:
        entries = self._stream.index_entries
        key = entries.search_timestamp(tick, backward=True)
        return key > 0 and entries[key].timestamp > start

    def _demux(self) -> Iterator["Packet[VideoStream]"]:
        """Give packets to the end; a file that breaks off ends there."""
        with contextlib.suppress(FFmpegError, EOFError):
            yield from self._container.demux(self._stream)

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
            raise VideoError(f"{shown(self.location)}: no frame can be decoded", "no_frames")
        return self._shown

    def _reaches(self, time_s: float) -> bool:
        """Whether reading on from here is right, and cheaper than a seek."""
        shown_s = self._shown[0] if self._shown else 0.0
        return shown_s <= time_s + EPSILON_S and (
            not self._seekable or time_s - shown_s < READ_ON_S
        )

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
        """Stand before the first frame."""
        self._reopen()
        self._fresh = False
        self._frames = self._decode()

    def _reopen(self) -> None:
        """Have nothing read yet: a seek to the first frame's time may land behind it."""
        if not self._fresh:
            threads, kind = self._stream.codec_context.thread_count, self._stream.thread_type
            self._container.close()
            self._container = _open(self.location)
            self._stream = _video_stream(self._container, self.location)
            self._stream.thread_type = kind
            self._stream.codec_context.thread_count = threads

    def _next(self) -> tuple[float, VideoFrame] | None:
        return next(self._frames, None)

    def _decode(self, *, midway: bool = False) -> Iterator[tuple[float, VideoFrame]]:
        """Give frames in the decoder's order, stepping over packets that it refuses.

        ``midway`` begins at a key frame: those before it may lack what they were predicted from.
        """
        frame_s = 1 / self.stated_fps
        previous_s, count = -np.inf, 0
        for frame in self._packets():
            self.decoded += 1
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
                self._require_memory()
                self.errors += 1

    def _require_memory(self) -> None:
        """Tell a damaged packet from one that there is no memory for: FFmpeg may not.

        Raises:
            MemoryError: if there is no room for the pictures that a decoder keeps.
        """
        width, height = self._size
        np.empty(KEPT_PICTURES * 3 * width * height, np.uint8)


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
            f"{shown(location)}: cannot be opened as a video ({what})", "unreadable"
        ) from error


def _video_stream(container: av.container.InputContainer, location: Location) -> VideoStream:
    if not container.streams.video:
        container.close()
        raise VideoError(f"{shown(location)}: holds no video stream", "no_video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        container.close()
        raise VideoError(f"{shown(location)}: its codec is not known to FFmpeg", "unreadable")
    return stream


class _Pictures:
    """The pictures of a clip, ``(T, H, W, 3)``, RGB of one size, filled in any order."""

    def __init__(self, count: int, size: tuple[int, int], short_side_px: int | None) -> None:
        self.count, self.size, self.short_side_px = count, size, short_side_px
        self._frames: NDArray[np.uint8] | None = None
        self._last = 0

    def put(self, position: int, frame: VideoFrame) -> None:
        """Turn a frame into the picture at ``position``: shrunk, then turned upright."""
        picture = self._picture(frame)
        if self._frames is None:
            self._frames = np.empty((self.count, *picture.shape), np.uint8)
        self._frames[position] = picture
        self._last = position

    def repeat(self, position: int) -> None:
        """Show the last picture at ``position`` too."""
        assert self._frames is not None
        self._frames[position] = self._frames[self._last]

    def frames(self) -> NDArray[np.uint8]:
        """Return the pictures."""
        assert self._frames is not None
        return self._frames

    def _picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        width, height = self.size if min(self.size) > 0 else (frame.width, frame.height)
        short = min(width, height)
        if self.short_side_px is not None and short > self.short_side_px:
            width = max(1, round(width * self.short_side_px / short))
            height = max(1, round(height * self.short_side_px / short))
        # One thread: handing a small picture to several takes longer than turning it.
        rgb = frame.reformat(width, height, "rgb24", interpolation="AREA", threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        picture = rows[:, : 3 * width].reshape(height, width, 3)
        return np.rot90(picture, round(rotation(frame) / 90) % 4)


class _Nowhere(_Pictures):
    """Pictures that nobody looks at."""

    def __init__(self) -> None:
        super().__init__(0, (0, 0), None)

    def put(self, position: int, frame: VideoFrame) -> None:
        """Leave the frame as it is."""

    def repeat(self, position: int) -> None:
        """Do nothing."""


def rotation(frame: VideoFrame) -> int:
    """Return the counter-clockwise turn in degrees that shows the frame upright."""
    return int(getattr(frame, "rotation", 0) or 0)
