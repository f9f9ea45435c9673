"""Writing a video: H.264 and, if there is sound, AAC, in an MP4 file that is whole or absent."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from vidssl.files import replacing

Frame = NDArray[np.uint8]
_AUDIO_CHUNK = 1024  # what AAC packs into one packet


def write_video(
    path: Path,
    frames: Iterable[Frame],
    fps: int | Fraction,
    audio: NDArray[np.float32] | None = None,
    *,
    audio_rate: int = 16_000,
    crf: int = 23,
    gop: int = 30,
    preset: str = "veryfast",
) -> None:
    """Encode ``frames``, each ``(H, W, 3)`` uint8 RGB of one even size, to ``path``.

    ``audio`` is mono, ``(T,)`` in -1 to 1. ``crf`` is x264's quality: 0 is lossless, 18 looks so,
    51 is the worst. ``gop`` is the largest distance between key frames, in frames; ``preset`` is
    how hard x264 tries. One thread, so that the same frames make the same file.

    Raises:
        OutputError: if the file cannot be written.
        ValueError: if there is no frame, or one of another shape or an odd size.
    """
    stream_of_frames = iter(frames)
    first = next(stream_of_frames, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    if first.ndim != 3 or first.shape[2] != 3 or first.shape[0] % 2 or first.shape[1] % 2:
        raise ValueError(f"expected frames (H, W, 3) of even height and width, got {first.shape}")
    with replacing(path) as aside, av.open(str(aside), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=fps)
        video.height, video.width = first.shape[:2]
        video.pix_fmt = "yuv420p"
        video.gop_size = gop
        video.thread_count = 1
        video.options = {"preset": preset, "crf": str(crf)}
        sound = _Sound(container, audio, audio_rate) if audio is not None else None
        for number, frame in enumerate(chain([first], stream_of_frames)):
            if frame.shape != first.shape or frame.dtype != np.uint8:
                raise ValueError(
                    f"expected uint8 frames {first.shape}, got {frame.dtype} {frame.shape}"
                )
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            if sound is not None:
                sound.write_until(float((number + 1) / fps))
        container.mux(video.encode(None))
        if sound is not None:
            sound.finish()


class _Sound:
    """The audio of a file being written: handed over in step with its frames."""

    def __init__(
        self, container: OutputContainer, samples_T: NDArray[np.float32], rate: int
    ) -> None:
        self.container = container
        self.samples_T = samples_T.astype(np.float32, copy=False)
        self.rate = rate
        self.written = 0
        self.stream = container.add_stream("aac", rate=rate, layout="mono")
        self.stream.bit_rate = 32_000
        # The default search for quantisers takes twice as long as encoding small video does.
        self.stream.options = {"aac_coder": "fast"}

    def write_until(self, seconds: float) -> None:
        """Encode whole chunks up to about this time."""
        while self.written < min(int(seconds * self.rate), len(self.samples_T)):
            chunk_1T = self.samples_T[None, self.written : self.written + _AUDIO_CHUNK]
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(chunk_1T), format="fltp", layout="mono"
            )
            frame.sample_rate = self.rate
            frame.pts = self.written
            frame.time_base = Fraction(1, self.rate)
            self.container.mux(self.stream.encode(frame))
            self.written += chunk_1T.shape[1]

    def finish(self) -> None:
        """Encode what is left."""
        self.write_until(len(self.samples_T) / self.rate + 1)
        self.container.mux(self.stream.encode(None))
