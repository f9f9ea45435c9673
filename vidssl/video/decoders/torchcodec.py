"""Reading with torchcodec, which finds FFmpeg's libraries on this machine or does not load.

Always in its exact mode: the approximate one takes the frame at t to be number t * rate, which is
wrong for every variable rate, and no header can rule that out. Exactness costs reading all packets
when a file is opened: 3.3 against 2.4 ms for 10 s of 340x256, 180 against 7 ms for an hour. They
are read once more, by PyAV (half a second for an hour), so that every frame that comes back can be
checked: it must begin when the packets say that the wanted one does.

So a damaged file is refused by name, whole clips at a time, where PyAV salvages what it can:
torchcodec gives up the frames around a damaged packet, or answers with a later one. It also refuses
the frames behind a change of the picture's size. Containers are read if the parity tests show that
they are read right (``RIGHT``).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from vidssl.errors import VideoError, VidsslError
from vidssl.video import reader as contract
from vidssl.video.packets import inert, scan, shrunk
from vidssl.video.reader import Clip
from vidssl.video.storage import Location, opened_bytes, shown

try:
    import torchcodec
    from torchcodec.decoders import VideoDecoder
except (ImportError, OSError, RuntimeError) as error:
    raise VidsslError(f"decoder: torchcodec does not load ({inert(error)})") from error
if getattr(torchcodec, "ffmpeg_major_version", 0) is None:
    raise VidsslError(
        "decoder: torchcodec finds no FFmpeg libraries; `vidssl doctor` says how to mend that"
    )

VERSION = f"torchcodec-{torchcodec.__version__.partition('+')[0]}"
RIGHT = {"mov", "matroska", "gif", "flv", "nut", "asf"}
"""Containers read as PyAV reads them. It loses the last frames of MPEG streams and of AVI."""
SAME_S = 1e-4  # frames are further apart than this, and its times are exact

_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, OSError)


class Reader(contract.Reader):
    """One open video. Not to be shared between threads, nor carried across a fork."""

    def __init__(self, location: Location, *, threads: int = 1, device: str = "cpu") -> None:
        """Open ``location``; a ``device`` such as ``cuda:0`` decodes there.

        With CUDA, only in the main process or one that was spawned, not forked. The colours then
        differ a little, and what that GPU cannot decode is decoded by the CPU.

        Raises:
            VideoError: if the file is missing, empty, unreadable, holds no video stream, or is of
                a kind that is not known to be read right.
            ValueError: if there is no such device.
        """
        super().__init__(location)
        self._packets = scan(location)
        self._refuse_what_is_read_wrongly()
        if device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device {device!r}: there is no usable CUDA device here")
        # Of an open file FFmpeg cannot go on to others, as it might from a list of them.
        self._file = opened_bytes(location)
        try:
            self._video: VideoDecoder | None = VideoDecoder(
                self._file,
                stream_index=self._packets.stream_index,
                dimension_order="NHWC",
                num_ffmpeg_threads=threads,
                device=device,
                seek_mode="exact",
            )
        except _FAILURES as error:
            self._file.close()
            raise self._error(f"cannot be opened ({inert(error)})", error) from error
        counted, there = len(self._video), len(self._packets.starts_s)
        if counted != there:
            self.close()
            raise self._unsupported(f"counts {counted} frames where the file has {there}")

    def close(self) -> None:
        """Release the decoder at once."""
        self._video = None
        self._file.close()

    def frames_at(self, times_s: NDArray[np.float64], short_side_px: int | None = None) -> Clip:
        """Return the frames on the screen at ``times_s``, in the order asked.

        Raises:
            VideoError: if one of the frames cannot be decoded.
            ValueError: if no time is given, or the reader is closed.
            RuntimeError: in another process than the one that opened the video.
        """
        self._require_right_use(times_s)
        if self._video is None:
            raise ValueError("the reader is closed")
        indices = self._packets.shown_at(times_s)
        starts_s = self._packets.starts_s[indices]
        try:
            batch = self._video.get_frames_at(indices.tolist())
            frames = batch.data.cpu().numpy()
            begin_s = self._video.metadata.begin_stream_seconds_from_content or 0.0
        except _FAILURES as error:
            raise self._damaged(starts_s, inert(error), error) from error
        found_s = batch.pts_seconds.numpy() - begin_s
        other = np.abs(found_s - starts_s) > SAME_S
        if other.any():
            raise self._damaged(starts_s[other], f"it gave that of {found_s[other][0]:.3f} s")
        return Clip(shrunk(frames, short_side_px), starts_s)

    def _refuse_what_is_read_wrongly(self) -> None:
        packets = self._packets
        if not packets.formats & RIGHT:
            raise self._unsupported(f"is not known to read {min(packets.formats)} right")
        if not packets.timed:
            raise self._unsupported("needs a time of its own for every frame")
        if not len(packets.starts_s):
            raise VideoError(f"{shown(self.location)}: no frame can be decoded", "no_frames")

    def _unsupported(self, what: str) -> VideoError:
        return VideoError(
            f"{shown(self.location)}: torchcodec {what}; choose decoder: pyav", "unsupported"
        )

    def _damaged(
        self, starts_s: NDArray[np.float64], why: str, cause: BaseException | None = None
    ) -> VideoError:
        first, last = starts_s.min(), starts_s.max()
        return self._error(
            f"torchcodec cannot decode a frame between {first:.3f} and {last:.3f} s ({why}); "
            "decoder: pyav steps over damage",
            cause,
        )

    def _error(self, what: str, cause: BaseException | None) -> VideoError:
        if isinstance(cause, VideoError):  # the file could not be read on
            return cause
        return VideoError(f"{shown(self.location)}: {what}", "unreadable")
