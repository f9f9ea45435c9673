"""From where annotated times count: the second of the film at which a video's file begins.

AVA's key frames are seconds 902 to 1798 of the film. What is at hand is the film itself, origin 0;
its cut of 15 minutes, origin 900, which ends at 901 (27,030 frames at 30 a second) and up to 905 s
in the copies that are passed on; or a cut of somebody's own. A wrong origin trains on the wrong
pictures without a word, so it is found from the length of each file or asked for, never guessed:

1. a key frame before 900 s: origin 0, as nothing else could hold it;
2. all from 900 s on, in a file of 898 to 905 s: origin 900, AVA's cut;
3. all from 900 s on, in a file that holds them from 0 and reaches second 1798: origin 0, a film;
4. a file that was cut off: the origin of those told by 2 and 3, if they agree and it is no longer
   than they are to be;
5. else there is no telling.

Each video is judged by itself. That it holds its key frames counted from 0 is no proof of a film: a
cut of somebody's own that is a little longer than AVA's holds the first of them either way. A file
of rule 2 that does so has all of its key frames in its last seconds, or is a cut; it counts as one
unless other videos have key frames before 900 s, so that the data are not AVA's alone.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vidssl.ava.annotations import read_excluded
from vidssl.ava.frames import Seconds
from vidssl.errors import AnnotationError, listed, nearest

SLACK_S = 0.5
"""A key frame may lie this far behind the end of its video, or before its beginning."""
CUT_S = 900.0
CUT_LENGTH_S = 898.0, 905.0  # the shortest that holds second 1798, to the longest in use
CUT_FRAMES, CUT_FPS = 27_030, 30.0  # the published extraction of frames
LAST_S = 1798.0
CUTS, FILMS, OWN = "15-minute cuts", "whole films", f"key frames before {CUT_S:g} s"
STATED, OTHERS = "as stated", "cut off; as the others"
MOST_NAMED = 8  # of the mistakes in a csv: the nearest of many names takes its time
WAYS = "0 for films, 900 for AVA's cuts, SECONDS, or a csv file of video and seconds"


@dataclass(frozen=True)
class Footage:
    """What is at hand of a video: its length, and the pictures that a folder of frames holds."""

    length_s: float
    cut_off: bool = False
    frames: int | None = None
    """At 30 a second; None for a file that is a video, or for another rate."""


@dataclass(frozen=True)
class Origin:
    """A video's time 0 on the clock of its annotations, and what decided that."""

    seconds: float = 0.0
    evidence: str = OWN


@dataclass(frozen=True)
class Stated:
    """Origins that a person gave: for all videos, or by video; the others are found."""

    everywhere: float | None = None
    by_video: Mapping[str, float] = field(default_factory=dict)


def parse_origin(text: str) -> Stated:
    """Return what ``auto``, a number of seconds, or the name of a csv file says.

    The file has two columns, video and seconds; videos that it does not name are found.

    Raises:
        AnnotationError: if it is none of these, or the file has a mistake.
    """
    if text == "auto":
        return Stated()
    try:
        seconds = float(text)
    except ValueError:
        path = Path(text)
        if not path.is_file():
            raise AnnotationError(
                f"--time-origin: expected auto, a number of seconds, or a csv file of video and "
                f"seconds, found {text!r}"
            ) from None
        return Stated(None, _by_video(path))
    if not math.isfinite(seconds):
        raise AnnotationError(f"--time-origin: expected a number of seconds, found {text!r}")
    return Stated(seconds)


def strangers(stated: Stated, annotated: Collection[str]) -> set[str]:
    """Return the videos that a csv names and nobody annotated.

    Raises:
        AnnotationError: if those are all that it names.
    """
    strange = set(stated.by_video).difference(annotated)
    if strange and len(strange) == len(stated.by_video):
        raise refusal(strange, annotated, "--time-origin: the csv file names no annotated video")
    return strange


def refusal(
    strange: Collection[str],
    annotated: Collection[str],
    title: str = "--time-origin: the csv file names videos that are neither annotated nor given",
) -> AnnotationError:
    """Return the error that names each of ``strange`` with the nearest annotated video."""
    choices = set(annotated).difference(strange)
    names = sorted(strange)
    told = [f"{name}{nearest(name, choices)}" for name in names[:MOST_NAMED]]
    return AnnotationError(listed(title, told + names[MOST_NAMED:], limit=MOST_NAMED))


def find_origins(
    times_s: Mapping[str, Seconds], footage: Mapping[str, Footage], stated: Stated | None = None
) -> dict[str, Origin]:
    """Return the origin of each video in ``footage``; ``times_s`` are the key frames of all.

    Raises:
        AnnotationError: if there is no telling for some, with the numbers of each.
    """
    stated = stated or Stated()
    is_mixed = any(float(times.min()) < CUT_S for times in times_s.values())
    found: dict[str, Origin | None] = {}
    for video, one in footage.items():
        given = stated.by_video.get(video, stated.everywhere)
        found[video] = (
            _found(times_s[video], one, is_mixed) if given is None else Origin(given, STATED)
        )
    ava = {o.seconds for o in found.values() if o and o.evidence not in (OWN, STATED)}
    if len(ava) == 1:
        others = Origin(ava.pop(), OTHERS)
        longest = CUT_LENGTH_S[1] + SLACK_S if others.seconds else math.inf
        torn = {video for video, one in footage.items() if one.cut_off and one.length_s <= longest}
        found |= {v: others for v, o in found.items() if o is None and v in torn}
    unclear = [_numbers(v, times_s[v], footage[v]) for v, o in found.items() if o is None]
    if unclear:
        title = f"from where do the key frames' times count? Say it with --time-origin ({WAYS})"
        raise AnnotationError(listed(title, unclear, limit=8))
    return {video: origin for video, origin in found.items() if origin is not None}


def summary(origins: Mapping[str, Origin]) -> list[dict[str, object]]:
    """Return the origins with the number of videos and the evidence, the most frequent first."""
    counts: dict[Origin, int] = {}
    for origin in origins.values():
        counts[origin] = counts.get(origin, 0) + 1
    return [
        {"origin_s": origin.seconds, "videos": count, "evidence": origin.evidence}
        for origin, count in sorted(counts.items(), key=lambda item: (-item[1], item[0].seconds))
    ]


def is_worth_telling(found: list[dict[str, object]]) -> bool:
    """Whether a summary says more than that key frames before 900 s count from 0."""
    return any(one["evidence"] != OWN for one in found)


def told(found: list[dict[str, object]]) -> str:
    """Return a summary as a sentence: ``time origin 900 s in 57 videos (15-minute cuts), ...``."""
    parts: list[str] = []
    for one in found:
        videos = "" if parts else " video" if one["videos"] == 1 else " videos"
        parts.append(f"{one['origin_s']:g} s in {one['videos']}{videos} ({one['evidence']})")
    return f"time origin {', '.join(parts)}"


def require_alone(origins: Mapping[str, Origin]) -> None:
    """Refuse origins taken from other videos; for where not all of these were looked at.

    Raises:
        AnnotationError: with the videos.
    """
    if torn := [video for video, origin in origins.items() if origin.evidence == OTHERS]:
        title = (
            "cut off, so that their key frames count as those of all other videos, of which only "
            f"some were looked at; say from where with --time-origin ({WAYS})"
        )
        raise AnnotationError(listed(title, torn, limit=8))


def _found(times_s: Seconds, footage: Footage, is_mixed: bool) -> Origin | None:
    """Return a video's origin as far as it tells by itself; None if there is no telling."""
    first, last, end = float(times_s.min()), float(times_s.max()), footage.length_s + SLACK_S
    if first < CUT_S:
        return Origin()
    low, high = CUT_LENGTH_S
    fits = last <= end
    if low - SLACK_S <= footage.length_s <= high + SLACK_S and not footage.cut_off:
        return None if fits and is_mixed else Origin(CUT_S, CUTS + _frames(footage))
    return Origin(0.0, FILMS) if fits and end >= LAST_S else None


def _frames(footage: Footage) -> str:
    """Return how the pictures of a cut stand to those of the published extraction."""
    if footage.frames is None:
        return ""
    if footage.frames == CUT_FRAMES:
        return f", all {CUT_FRAMES:,} frames"
    return f", {footage.frames:,} frames in place of {CUT_FRAMES:,}"


def _numbers(video: str, times_s: Seconds, footage: Footage) -> str:
    length_s, count = footage.length_s, len(times_s)
    held = [
        int(((times_s - start >= 0) & (times_s - start <= length_s + SLACK_S)).sum())
        for start in (0.0, CUT_S)
    ]
    more = f"; {footage.frames:,} frames, not {CUT_FRAMES:,}" if footage.frames else ""
    more += "; the file was cut off" if footage.cut_off else ""
    return (
        f"{video} is {length_s:.2f} s long; of its {count} key frames from {times_s.min():g} to "
        f"{times_s.max():g} s it holds {held[0]} counted from 0, {held[1]} from 900{more}"
    )


def _by_video(path: Path) -> dict[str, float]:
    rows = read_excluded(path)  # the same two columns
    found = dict(rows)
    if len(found) < len(rows):
        again = [v for v in found if sum(name == v for name, _ in rows) > 1]
        raise AnnotationError(listed(f"{path}: several origins for one video", sorted(again)))
    return found
