"""What a container says of its first video stream, found without decoding anything.

The decoders that find frames through tables of their own are held against this one.
"""

import contextlib
import re
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vidssl.errors import VideoError
from vidssl.video.decoders.pyav import CONTAINERS
from vidssl.video.reader import EPSILON_S
from vidssl.video.storage import Location, opened, shown


@dataclass(frozen=True)
class Packets:
    """The first video stream: its place in the file, and when its frames begin, ``starts_s``.

    Starts are sorted and count from the first of them; frames that an edit list cuts away are left
    out (``trimmed``). ``timed`` says that every packet has a time, and no two the same.
    ``leading`` says that some frames stand behind a key frame in the file but before it on the
    screen (an open group of pictures, or MPEG-4 with B-frames): whoever seeks to that key frame and
    counts on from there counts wrong.
    """

    formats: frozenset[str]
    codec: str
    stream_index: int
    video_streams: int
    starts_s: NDArray[np.float64]
    timed: bool
    trimmed: bool
    leading: bool

    def shown_at(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the index of the last frame that begins at or before each time, or 0."""
        behind = np.searchsorted(self.starts_s, times_s + EPSILON_S, side="right")
        return np.maximum(behind - 1, 0).astype(np.int64)


def scan(location: Location) -> Packets:
    """Read all packets of a video; takes about 4 us each on top of opening it.

    Raises:
        VideoError: if the file is missing, empty, unreadable or holds no video stream.
    """
    file = opened(location)
    try:
        # As for PyAV's own reader: a name is only a name, and lists of other files are refused.
        name = f"file:{file}" if isinstance(file, str) else file
        options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
        with av.open(name, "r", options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise VideoError(f"{shown(location)}: holds no video stream", "no_video")
            if container.streams.video[0].codec_context is None:
                raise VideoError(f"{shown(location)}: its codec is not known to FFmpeg")
            return _read(container, container.streams.video[0])
    except (FFmpegError, ValueError, OSError) as error:
        what = getattr(error, "strerror", None) or type(error).__name__
        raise VideoError(
            f"{shown(location)}: cannot be opened as a video ({inert(what)})", "unreadable"
        ) from error
    finally:
        if not isinstance(file, str):
            file.close()


def _read(container: InputContainer, stream: VideoStream) -> Packets:
    rows: list[tuple[int | None, bool, bool]] = []
    # Where reading fails the file is cut off: what lies behind cannot be read by anyone.
    with contextlib.suppress(FFmpegError, EOFError):
        # The last packet, which flushes a decoder, is empty.
        rows.extend(
            (packet.pts, packet.is_keyframe, packet.is_discard)
            for packet in container.demux(stream)
            if packet.size
        )
    timed = [row for row in rows if row[0] is not None]
    table = np.array(timed, np.int64).reshape(-1, 3)
    ticks, keys, discarded = table[:, 0], table[:, 1] > 0, table[:, 2] > 0
    # The newest key frame at each packet: key frames themselves come in the order of their times.
    newest = np.maximum.accumulate(np.where(keys, ticks, np.iinfo(np.int64).min))
    starts = np.sort(ticks[~discarded])
    starts -= starts[:1].sum()
    return Packets(
        formats=frozenset(container.format.name.split(",")),
        codec=stream.codec_context.codec.canonical_name,
        stream_index=stream.index,
        video_streams=len(container.streams.video),
        starts_s=starts.astype(np.float64) * float(stream.time_base or 0),
        timed=len(timed) == len(rows) and bool((np.diff(starts) > 0).all()),
        trimmed=bool(discarded.any()),
        leading=bool((ticks < newest).any()),
    )


def shrunk(frames: NDArray[np.uint8], short_side_px: int | None) -> NDArray[np.uint8]:
    """Return frames ``(T, H, W, 3)`` with their short side at most ``short_side_px``.

    The pixels are averaged over areas, as PyAV's reader does.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    if short_side_px is None or short <= short_side_px:
        return frames
    size = [max(1, round(side * short_side_px / short)) for side in (height, width)]
    small = np.empty((len(frames), *size, 3), np.uint8)
    for position, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame, "rgb24")
        small[position] = picture.to_ndarray(
            format="rgb24", height=size[0], width=size[1], interpolation="AREA"
        )
    return small


def inert(text: object, longest: int = 200) -> str:
    """Return what another library says as one line, without what a terminal would obey.

    Where it begins with a place in the library's own source code, that is left out.
    """
    line = " ".join(str(text).split())
    line = re.sub(r"^.*?\.(cpp|cc|h):\d+[,:] |\[file:/proc/self/fd/\d+\] ", "", line)
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= longest else line[: longest - 3] + "..."
