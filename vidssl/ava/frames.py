"""Key frames as numbers: one video at one time, equal when the times agree to a microsecond.

Array suffixes: N rows of a table.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Names = NDArray[np.str_]
Seconds = NDArray[np.float64]
Codes = NDArray[np.int64]

MICROSECONDS = 6  # decimals of a time key, as in the official "%.6f"


def time_keys(timestamp_N: Seconds) -> NDArray[np.int64]:
    """Return the times in whole microseconds, ``(N,)``: what two times are compared by."""
    return np.rint(timestamp_N * 10.0**MICROSECONDS).astype(np.int64)


def frame_codes(*tables: tuple[Names, Seconds]) -> list[Codes]:
    """Number the key frames of several tables alike, from 0 in order of first appearance.

    Each table is its videos and its seconds, ``(N,)`` both; each result is ``(N,)``.
    """
    video = np.concatenate(video_codes(*(names for names, _ in tables)))
    seconds = np.concatenate([time_keys(timestamp) for _, timestamp in tables])
    starts, lengths = runs(video, seconds)  # a frame's rows mostly stand together
    times, time = np.unique(seconds[starts], return_inverse=True)
    codes = numbered(video[starts] * max(len(times), 1) + time)
    stops = np.cumsum([len(names) for names, _ in tables])[:-1]
    return np.split(np.repeat(codes, lengths), stops)


def video_codes(*tables: Names) -> list[Codes]:
    """Number the videos of several tables alike, from 0 in order of first appearance."""
    seen: dict[str, int] = {}
    codes = []
    for names in tables:
        starts, lengths = runs(names)
        firsts = (seen.setdefault(name, len(seen)) for name in names[starts].tolist())
        codes.append(np.repeat(np.fromiter(firsts, np.int64, len(starts)), lengths))
    return codes


def runs(*columns_N: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where rows equal in every column begin, and how many they are, ``(runs,)`` both."""
    changes = np.ones(len(columns_N[0]), dtype=np.bool_)
    changes[1:] = False
    for column in columns_N:
        changes[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(changes)
    return starts, np.diff(starts, append=len(changes))


def numbered(values_N: NDArray[np.int64]) -> Codes:
    """Return the values renamed 0, 1, 2, ... in order of first appearance, ``(N,)``."""
    starts, lengths = runs(values_N)
    _, first, inverse = np.unique(values_N[starts], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.repeat(rank[inverse], lengths)


def frame_columns(frames: frozenset[tuple[str, float]]) -> tuple[Names, Seconds]:
    """Return a set of key frames as a table of videos and seconds."""
    ordered = sorted(frames)
    names = np.array([video for video, _ in ordered], dtype=np.str_)
    return names, np.array([timestamp for _, timestamp in ordered], dtype=np.float64)
