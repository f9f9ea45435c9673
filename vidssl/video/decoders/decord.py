"""Reading with decord 0.6, for those who ask for it: an FFmpeg of 2018, no longer maintained.

It finds frames by number and counts wrong in several kinds of file, so each file's table of frames
is compared with its packets, and what it is known to read wrongly is refused by name:

- MPEG transport and program streams (it never returns, or shifts the frames), AVI (no times), ASF
  and GIF, and anything else outside ``RIGHT``;
- frames that stand behind a key frame but are shown before it: open groups of pictures, which is
  what x265 writes unless told otherwise, and MPEG-4 with B-frames. After a seek it is off by them;
- edit lists that cut frames away: it counts those too;
- several video streams: it takes the largest, not the first;
- AV1 and files without a length, which it refuses itself;
- damage: it fails for frames far around it, differently each time.

It turns frames upright itself. Remote files are read into memory as a whole.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VideoError, VidsslError
from vidssl.video import reader as contract
from vidssl.video.packets import inert, scan, shrunk
from vidssl.video.reader import Clip
from vidssl.video.storage import Location, opened, shown

try:
    import decord
except (ImportError, OSError, RuntimeError) as error:
    raise VidsslError(f"decoder: decord does not load ({inert(error)})") from error

VERSION = f"decord-{decord.__version__}"
RIGHT = {"mov", "matroska", "flv", "nut"}
TOO_NEW = {"av1"}

_FAILURES = (
    *(decord.DECORDError, decord.DECORDLimitReachedError),
    *(RuntimeError, ValueError, IndexError, TypeError, AssertionError, OSError, StopIteration),
)

# Its own lines and FFmpeg's go to stderr behind every progress bar; errors come as exceptions.
decord.logging.set_level(decord.logging.QUIET)


class Reader(contract.Reader):
    """One open video. Not to be shared between threads, nor carried across a fork."""

    def __init__(self, location: Location, *, threads: int = 1) -> None:
        """Open ``location``.

        Raises:
            VideoError: if the file is missing, empty, unreadable, holds no video stream, or is of
                a kind that decord reads wrongly.
        """
        super().__init__(location)
        self._threads = threads
        self._packets = scan(location)
        self._refuse_what_is_read_wrongly()
        self._video: Any = self._open()
        try:
            self._refuse_another_table()
        except VideoError:
            self.close()
            raise

    def close(self) -> None:
        """Release the decoder at once."""
        self._video = None

    def frames_at(self, times_s: NDArray[np.float64], short_side_px: int | None = None) -> Clip:
        """Return the frames on the screen at ``times_s``, in the order asked.

        Raises:
            VideoError: if one of the frames cannot be decoded; the reader is then closed.
            ValueError: if no time is given, or the reader is closed.
            RuntimeError: in another process than the one that opened the video.
        """
        self._require_right_use(times_s)
        if self._video is None:
            raise ValueError("the reader is closed")
        indices = self._packets.shown_at(times_s)
        starts_s = self._packets.starts_s[indices]
        try:
            frames: NDArray[np.uint8] = self._video.get_batch(indices.tolist()).asnumpy()
        except _FAILURES as error:
            self.close()  # after a failure it fails for frames that it could read before
            raise VideoError(
                f"{shown(self.location)}: decord cannot decode a frame between "
                f"{starts_s.min():.3f} and {starts_s.max():.3f} s ({inert(error)}); "
                "decoder: pyav steps over damage",
                "unreadable",
            ) from error
        return Clip(shrunk(frames, short_side_px), starts_s)

    def _open(self) -> Any:
        file = opened(self.location)
        try:
            if not isinstance(file, str):
                with file:
                    return decord.VideoReader(file, num_threads=self._threads)
            # Through a descriptor, names of any bytes are only names.
            with open(file, "rb") as handle:
                uri = f"file:/proc/self/fd/{handle.fileno()}"
                return decord.VideoReader(uri, num_threads=self._threads)
        except _FAILURES as error:
            raise VideoError(
                f"{shown(self.location)}: decord cannot open it ({inert(error)}); "
                "choose decoder: pyav",
                "unsupported",
            ) from error

    def _refuse_what_is_read_wrongly(self) -> None:
        packets = self._packets
        if not packets.formats & RIGHT:
            raise self._unsupported(f"does not read {min(packets.formats)} right")
        if packets.codec in TOO_NEW:
            raise self._unsupported(f"is too old for {packets.codec}")
        if packets.video_streams > 1:
            raise self._unsupported("cannot be told which of several video streams to read")
        if packets.trimmed:
            raise self._unsupported("counts the frames that an edit list cuts away")
        if packets.leading:
            raise self._unsupported("counts wrong after a seek into an open group of pictures")
        if not packets.timed:
            raise self._unsupported("needs a time of its own for every frame")
        if not len(packets.starts_s):
            raise VideoError(f"{shown(self.location)}: no frame can be decoded", "no_frames")

    def _refuse_another_table(self) -> None:
        there = self._packets.starts_s
        counted = len(self._video)
        if counted != len(there):
            raise self._unsupported(f"counts {counted} frames where the file has {len(there)}")
        try:
            starts_s = self._video.get_frame_timestamp(range(counted))[:, 0].astype(np.float64)
        except _FAILURES as error:
            raise self._unsupported(f"gives no times ({inert(error)})") from error
        # Its times are of single precision: half a millisecond off after two hours.
        if not np.allclose(starts_s - starts_s[0], there, rtol=1e-6, atol=1e-3):
            raise self._unsupported("gives the frames other times than the file")

    def _unsupported(self, what: str) -> VideoError:
        return VideoError(
            f"{shown(self.location)}: decord {what}; choose decoder: pyav", "unsupported"
        )
