"""Boxes of one person linked from key frame to key frame by how far they overlap.

The IoU tracker of Bochinski, Eiselein and Sikora, AVSS 2017, "High-Speed Tracking-by-Detection
Without Using Image Information": in every key frame each track, the oldest first, takes the free
box that overlaps its last one most, if by at least ``iou``; a track that gets none ends; boxes that
nobody took begin new ones. Tracks stay if they are long enough and were once sure enough.

Written from the paper's description. Differences from it:

- the paper's detections come 25 times a second, those of key frames once: what overlaps by half
  after a second is a person who hardly moves. Lower ``iou`` for others;
- its thresholds were chosen for each detector and data set; the defaults here keep every box;
- a track may miss key frames, as long as no more than ``gap_s`` lie between two of its boxes. The
  paper has no gaps.

Array suffixes: N boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.annotations import PersonBoxes
from vidssl.ava.frames import time_keys
from vidssl.boxes import iou

NO_TRACK = -1
ROUNDING_S = 1e-6
USUAL_GAPS = 1.5
"""Unless a gap is given: a little more than from one key frame to the next."""


@dataclass(frozen=True)
class Linking:
    """The tracker's thresholds.

    ``iou`` is the least overlap of one box with the next (sigma IOU in the paper), ``min_score``
    the least score of a box (sigma l), ``peak_score`` what the best box of a track must have
    (sigma h), ``min_length`` its least number of boxes (t min), ``gap_s`` the longest time between
    two of its boxes; None: half as long again as key frames usually lie apart.
    """

    iou: float = 0.5
    min_score: float = 0.0
    peak_score: float = 0.0
    min_length: int = 1
    gap_s: float | None = None


@dataclass
class _Track:
    """Rows of one person, by rising time."""

    rows: list[int]


def link(people: PersonBoxes, rules: Linking) -> NDArray[np.int64]:
    """Return each box's track, ``(N,)``, numbered from 0 in each video in order of time.

    Boxes of tracks that are too short or too unsure, and boxes of too low a score, have
    ``NO_TRACK``.
    """
    track_N = np.full(len(people.score), NO_TRACK, dtype=np.int64)
    gap_s = usual_gap_s(people) * USUAL_GAPS if rules.gap_s is None else rules.gap_s
    order = np.argsort(people.video, kind="stable")
    names = people.video[order]
    edges = np.flatnonzero(names[1:] != names[:-1]) + 1
    for rows in np.split(order, edges) if len(order) else []:
        rows = rows[people.score[rows] >= rules.min_score]
        kept = [
            track
            for track in _tracks(people, rows, rules.iou, gap_s)
            if len(track.rows) >= rules.min_length
            and people.score[track.rows].max() >= rules.peak_score
        ]
        for number, track in enumerate(kept):
            track_N[track.rows] = number
    return track_N


def usual_gap_s(people: PersonBoxes) -> float:
    """Return the commonest distance of two key frames of a video; 0 where none has two."""
    order = np.lexsort((people.timestamp, people.video))
    video, time = people.video[order], people.timestamp[order]
    gaps = np.round(np.diff(time)[(video[1:] == video[:-1]) & (np.diff(time) > ROUNDING_S)], 3)
    values, counts = np.unique(gaps, return_counts=True)
    return float(values[np.argmax(counts)]) if len(values) else 0.0


def _tracks(
    people: PersonBoxes, rows: NDArray[np.int64], least: float, gap_s: float
) -> Sequence[_Track]:
    """Return all tracks of one video in the order in which they begin."""
    key = time_keys(people.timestamp[rows])
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    found: list[_Track] = []
    last: list[_Track] = []
    for now in np.split(rows, np.flatnonzero(key[1:] != key[:-1]) + 1) if len(rows) else []:
        time_s = people.timestamp[now[0]]
        last = [t for t in last if time_s - people.timestamp[t.rows[-1]] <= gap_s + ROUNDING_S]
        overlap = iou(
            people.box[[track.rows[-1] for track in last]].reshape(-1, 4), people.box[now]
        )
        free = np.ones(len(now), dtype=np.bool_)
        for track, overlaps in zip(last, overlap, strict=True):
            best = int(np.argmax(np.where(free, overlaps, -1.0)))
            if free[best] and overlaps[best] >= least:
                track.rows.append(int(now[best]))
                free[best] = False
        begun = [_Track([int(row)]) for row in now[free]]
        found += begun
        last += begun  # who is too long ago leaves it for good, as time only rises
    return found
