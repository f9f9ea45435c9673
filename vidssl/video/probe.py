"""What one video really holds, found by decoding it once from end to end.

Headers are not believed: in some collections every header gives more frames than can be decoded.
"""

from dataclasses import dataclass, field

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from vidssl.errors import VideoError
from vidssl.video.decoders.pyav import VERSION, Reader, rotation
from vidssl.video.storage import Location, opened, stat

UNCUT_SHARE = 0.9  # a file whose frames end before this share of its stated length is cut


@dataclass(frozen=True)
class VideoFacts:
    """One row of an index; the names are its columns.

    ``status`` is ``ok`` or the short name of the reason why the video is set aside; ``error`` says
    it in words. ``frames`` counts decodable frames; ``width`` and ``height`` are as displayed.
    """

    path: str
    status: str = "ok"
    error: str = ""
    bytes: int = 0
    mtime: float = 0.0
    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    variable_rate: bool = False
    rotation: int = 0
    duration_s: float = 0.0
    frames: int = 0
    keyframes_s: list[float] = field(default_factory=list)
    has_audio: bool = False
    decoder: str = VERSION


def probe(location: Location) -> VideoFacts:
    """Return the facts of one video; a video that cannot be used gets its reason as status."""
    known: dict[str, object] = {"path": location}
    try:
        known.update(vars(stat(location)))
        with Reader(location, threads=2) as reader:
            known.update(_decode(reader))
    except VideoError as error:
        known.update(status=error.reason, error=str(error))
    return VideoFacts(**known)  # type: ignore[arg-type]


def _decode(reader: Reader) -> dict[str, object]:
    starts_s: list[float] = []
    keyframes_s: list[float] = []
    frame = None
    for start_s, frame in reader.all_frames():
        starts_s.append(start_s)
        if frame.key_frame:
            keyframes_s.append(start_s)
    if frame is None:
        raise VideoError(f"{reader.location}: no frame can be decoded", "no_frames")
    turned = rotation(frame) % 180 == 90
    gaps_s = np.diff(starts_s)
    duration_s = starts_s[-1] + _last_s(reader, frame, gaps_s)
    return {
        "codec": reader.codec,
        "width": frame.height if turned else frame.width,
        "height": frame.width if turned else frame.height,
        "fps": len(starts_s) / duration_s,
        "variable_rate": bool(len(gaps_s) and gaps_s.max() > 1.5 * max(gaps_s.min(), 1e-9)),
        "rotation": rotation(frame) % 360,
        "duration_s": duration_s,
        "frames": len(starts_s),
        "keyframes_s": keyframes_s,
        "has_audio": reader.has_audio,
        **_cut(reader, len(starts_s), duration_s),
    }


def _last_s(reader: Reader, frame: VideoFrame, gaps_s: NDArray[np.float64]) -> float:
    """Return how long the last frame stays: as the file says, else as long as most others."""
    if not reader.untimed and frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return float(np.median(gaps_s)) if len(gaps_s) else 1 / reader.stated_fps


def _cut(reader: Reader, frames: int, duration_s: float) -> dict[str, object]:
    """Return the status of a file that ends before its own table of contents does.

    The table of an MP4 or a Matroska file is exact when it was written; the length in an AVI
    header is not, but the size of its outer chunk is.
    """
    stated_s = reader.stated_duration_s
    found = f"{frames} frames ({duration_s:.2f} s) can be decoded"
    if reader.untimed:
        missing = _missing_riff_bytes(reader.location)
        if missing > 0:
            error = f"{reader.location}: cut off: the last {missing} bytes are missing, {found}"
            return {"status": "truncated", "error": error}
    elif stated_s is not None and duration_s < UNCUT_SHARE * stated_s:
        error = f"{reader.location}: cut off: states {stated_s:.2f} s, {found}"
        return {"status": "truncated", "error": error}
    if reader.errors:
        return {"error": f"{reader.location}: {reader.errors} damaged packets were stepped over"}
    return {}


def _missing_riff_bytes(location: Location) -> int:
    """Return how many bytes an AVI's outer chunk states beyond the end of the file."""
    file = opened(location)
    with open(file, "rb") if isinstance(file, str) else file as file:
        head = file.read(8)
    if head[:4] != b"RIFF":
        return 0
    return int.from_bytes(head[4:], "little") + 8 - stat(location).bytes
