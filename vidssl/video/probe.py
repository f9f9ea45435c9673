"""What one video really holds, found by decoding it once from end to end.

Headers are not believed: in some collections every header gives more frames than can be decoded.
"""

import errno
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from vidssl.errors import VideoError
from vidssl.video.decoders import frames
from vidssl.video.decoders.pyav import VERSION, Reader, rotation
from vidssl.video.ends import missing
from vidssl.video.storage import Location, Stat, is_frames, opened, shown, stat
from vidssl.video.workers import beat

UNCUT_SHARE = 0.9
"""Where no number of bytes tells, a file that ends before this share of its stated length is cut:
stated lengths are not exact."""
MAX_FRAMES = 20_000_000
"""Frames after which a file is given up: a week at 30 per second."""
FRAMES_PER_BYTE = 0.5
"""No codec stores a frame in less than two bytes; a file that gives more frames is a trap."""
UNEVEN_GAP, UNEVEN_SHARE = 0.1, 0.05
BACKOFF_S = (0.5, 2.0, 8.0)
"""Pauses before a video is looked at again whose file changed meanwhile or could not be read."""
PASSING = {
    *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH),
    *(errno.ENFILE, errno.EMFILE),
}
"""What a network disk or a busy machine says for a while."""


@dataclass(frozen=True)
class VideoFacts:
    """One row of an index; the names are its columns.

    ``status`` is ``ok`` or the short name of the reason why the video is set aside; ``error`` says
    it in words, and for a usable video what is wrong with it. ``frames`` counts decodable frames;
    ``width`` and ``height`` are as displayed. ``cut_off`` is true of a file that ends before its
    container says; ``duration_s`` is then what can be decoded.
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
    cut_off: bool = False


def probe(
    location: Location,
    decode: Callable[[Location, Stat], dict[str, object]] | None = None,
) -> VideoFacts:
    """Return the facts of one video; a video that cannot be used gets its reason as status.

    What may pass is tried again after ``BACKOFF_S``: a file that changes while it is read, and
    errors of the storage. ``decode`` finds the facts, given the size of the file.
    """
    for pause_s in (*BACKOFF_S, None):
        facts, may_pass = _look(location, decode or (_frames if is_frames(location) else _decode))
        if not may_pass or pause_s is None:
            break
        _wait(pause_s)
    return replace(facts, error=inert(facts.error))


def inert(text: str) -> str:
    """Return text on one line, whose control characters cannot steer a terminal, nor be stored.

    A byte of a file name that is no UTF-8 becomes ``\\xNN``.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds such a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _look(
    location: Location, decode: Callable[[Location, Stat], dict[str, object]]
) -> tuple[VideoFacts, bool]:
    """Return the facts, and whether another look may find others."""
    known: dict[str, object] = {"path": location}
    try:
        before = stat(location)
        known.update(vars(before))
        known.update(decode(location, before))
        if stat(location) == before:
            return VideoFacts(**known), False  # type: ignore[arg-type]
        raise VideoError(f"{shown(location)}: the file changed while it was read", "changing")
    except VideoError as error:
        known.update(status=error.reason, error=str(error))
        may_pass = error.reason == "changing" or _is_passing(error.__cause__)
    except (FFmpegError, OSError) as error:
        words = f"{shown(location)}: cannot be read ({error.strerror or type(error).__name__})"
        known.update(status="unreadable", error=words)
        may_pass = _is_passing(error)
    except (ValueError, ArithmeticError) as error:  # times or sizes that make no sense
        words = f"{shown(location)}: makes no sense ({type(error).__name__}: {error})"
        known.update(status="unreadable", error=words)
        may_pass = False
    return VideoFacts(**known), may_pass  # type: ignore[arg-type]


def _is_passing(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in PASSING


def _wait(pause_s: float) -> None:
    end = time.monotonic() + pause_s
    while (left_s := end - time.monotonic()) > 0:
        beat()
        time.sleep(min(left_s, 0.5))


def _frames(location: Location, found: Stat) -> dict[str, object]:
    with frames.Reader(location) as reader:
        return reader.facts()


def _decode(location: Location, found: Stat) -> dict[str, object]:
    most = min(MAX_FRAMES, 1000 + int(found.bytes * FRAMES_PER_BYTE))
    starts_s, keyframes_s = array("d"), array("d")
    frame = None
    with Reader(location, threads=1) as reader:
        for start_s, frame in reader.all_frames():
            beat()
            starts_s.append(start_s)
            if frame.key_frame:
                keyframes_s.append(start_s)
            if len(starts_s) > most:
                words = f"{shown(location)}: gives more than {most} frames from {found.bytes} bytes"
                raise VideoError(words, "endless")
        if frame is None:
            _read_through(location)
            raise VideoError(f"{shown(location)}: no frame can be decoded", "no_frames")
        turned = rotation(frame) % 180 == 90
        gaps_s = np.diff(starts_s)
        duration_s = starts_s[-1] + _last_s(reader, frame, gaps_s)
        return {
            "codec": reader.codec,
            "width": frame.height if turned else frame.width,
            "height": frame.width if turned else frame.height,
            "fps": len(starts_s) / duration_s,
            "variable_rate": _is_uneven(gaps_s, float(frame.time_base or 0)),
            "rotation": rotation(frame) % 360,
            "duration_s": duration_s,
            "frames": len(starts_s),
            "keyframes_s": keyframes_s.tolist(),
            "has_audio": reader.has_audio,
            **_end(reader, gaps_s, duration_s),
        }


def _last_s(reader: Reader, frame: VideoFrame, gaps_s: NDArray[np.float64]) -> float:
    """Return how long the last frame stays: as the file says, else as long as most others."""
    if not reader.untimed and frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return float(np.median(gaps_s)) if len(gaps_s) else 1 / reader.stated_fps


def _is_uneven(gaps_s: NDArray[np.float64], tick_s: float) -> bool:
    """Whether frames stay for different times, beyond a frame lost here and there.

    That is if more than a twentieth of the gaps, and more than one of them, are further from the
    median than a tenth of it and a tick of the container's clock: Matroska's milliseconds give 33
    and 34 for one and the same rate.
    """
    if len(gaps_s) < 2:
        return False
    middle_s = float(np.median(gaps_s))
    off = np.abs(gaps_s - middle_s) > UNEVEN_GAP * middle_s + tick_s * 1.001
    return bool(off.sum() > max(1, UNEVEN_SHARE * len(gaps_s)))


def _end(reader: Reader, gaps_s: NDArray[np.float64], duration_s: float) -> dict[str, object]:
    """Return whether the file ends before its container says, and what else is wrong with it."""
    location, stated_s = reader.location, reader.stated_duration_s
    frames = len(gaps_s) + 1
    found = f"{frames} frames ({duration_s:.2f} s) can be decoded"
    if stated_s is not None and not reader.untimed:
        found = f"{frames} frames ({duration_s:.2f} s of {stated_s:.2f} s) can be decoded"
    lacks = missing(location)
    if lacks is not None:
        shortest_s = float(np.median(gaps_s)) / 2 if len(gaps_s) else 0.0
        if not lacks.is_certain and stated_s and duration_s > stated_s - shortest_s:
            words = f"{shown(location)}: the last {lacks.bytes} bytes are missing, but no picture"
            return {"error": words}
        words = f"{shown(location)}: cut off: the last {lacks.bytes} bytes are missing; {found}"
        return {"cut_off": True, "error": words}
    is_short = stated_s is not None and duration_s < UNCUT_SHARE * stated_s
    if is_short or reader.errors:
        _read_through(location)
    if is_short and not reader.untimed:
        return {"cut_off": True, "error": f"{shown(location)}: breaks off: {found}"}
    if reader.errors:
        return {"error": f"{shown(location)}: {reader.errors} damaged packets were stepped over"}
    return {}


def _read_through(location: Location) -> None:
    """Read a file that could not be decoded to its end: was it the storage?

    Raises:
        OSError: if it was.
    """
    source = opened(location)
    with open(source, "rb") if isinstance(source, str) else source as file:
        while file.read(1 << 20):
            beat()
