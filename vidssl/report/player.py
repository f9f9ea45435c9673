"""A page to look through what a detector saw in a video: player, time lines, table.

One HTML file that plays a video lying beside it, by its relative name, from a disk as from a
server. It fetches nothing else. Its only script, which its policy knows by its hash, makes spans
seek and moves the hand of the time lines; without it they are links into the video.

Whatever a class or a file is called is escaped.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from vidssl.ava.detections import Detections, Interval, Track
from vidssl.files import write_text
from vidssl.report._template import environment, text_of, writable
from vidssl.report.marks import colour_of

TICKS = 5


@dataclass(frozen=True)
class Lane:
    """One action of one person."""

    name: str
    intervals: list[Interval]


@dataclass(frozen=True)
class Row:
    """One person's time line."""

    track: Track
    colour: str
    lanes: list[Lane]


def write(path: Path, found: Detections, video: str) -> None:
    """Write the page to ``path``; ``video`` is the file name beside it of the video to play.

    Raises:
        OutputError: if it cannot be written.
    """
    write_text(path, render(found, video))


def render(found: Detections, video: str) -> str:
    """Return the page as HTML; equal detections give equal text."""
    templates = environment()
    templates.filters |= {"clock": clock, "fragment": fragment}
    script = text_of("player.js").strip() + "\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    length_s = max(found.video.duration_s, 1e-3)
    html = templates.get_template("player.html").render(
        found=found,
        video=video,
        length_s=length_s,
        rows=[_row(track) for track in found.tracks if track.intervals],
        quiet=sum(not track.intervals for track in found.tracks),
        ticks=[length_s * n / (TICKS - 1) for n in range(TICKS)],
        script=script,
        digest=digest,
    )
    return writable(html)


def clock(seconds: float) -> str:
    """Return a time as minutes, seconds and tenths.

    >>> clock(75.26)
    '1:15.3'
    """
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def fragment(interval: Interval) -> str:
    """Return the part of an address that asks a player for a stretch of a video."""
    return f"t={interval.from_s:.3f},{interval.to_s:.3f}"


def _row(track: Track) -> Row:
    lanes: dict[int, Lane] = {}
    for interval in sorted(track.intervals, key=lambda interval: interval.action):
        lanes.setdefault(interval.action, Lane(interval.name, [])).intervals.append(interval)
    return Row(track, colour_of(track.track), list(lanes.values()))
