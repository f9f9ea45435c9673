"""Boxes of people for clips of pretraining: those of the second nearest to a moment of a video.

The whole table stays in arrays, 28 bytes a box, and 16 a video of the index: no object for either.

Array suffixes: R rows of the table, sorted by video and time; P people.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.annotations import PersonBoxes
from vidssl.ava.frames import MICROSECONDS
from vidssl.ava.origins import SLACK_S, Origin, Stated, require_alone, summary
from vidssl.data.keyframes import VideoFile, locate
from vidssl.errors import AnnotationError
from vidssl.video.index import ClipIndex
from vidssl.video.storage import Location

NEAR_S = 0.5
"""A second this far away still tells where people are: AVA's are one second apart."""
FIELDS = 5
"""x1 y1 x2 y2 of the whole picture, and the detector's score."""


class People:
    """People by video of an index and by time in it."""

    def __init__(
        self,
        tables: Sequence[PersonBoxes],
        index: ClipIndex,
        reasons: Mapping[str, str],
        stated: Stated | None = None,
        others: Sequence[Location] = (),
    ) -> None:
        """Find the videos of the tables in the index; see :func:`vidssl.data.keyframes.locate`.

        Raises:
            AnnotationError: if no video is there, two files share an id, there is no telling from
                where times count (with ``others``, without having looked at all videos), or most
                boxes lie outside of their video.
        """
        names, code_R = np.unique(np.concatenate([t.video for t in tables]), return_inverse=True)
        seconds_R = np.concatenate([t.timestamp for t in tables])
        order = np.lexsort((seconds_R, code_R))
        code_R, seconds_R = code_R[order], seconds_R[order]
        starts = np.searchsorted(code_R, np.arange(len(names) + 1))
        times_s = dict(zip(names.tolist(), np.split(seconds_R, starts[1:-1]), strict=True))
        files, origins = locate(times_s, index, reasons, stated, others)
        if others:
            require_alone(origins)
        self.time_origins = summary(origins)
        """Each with its number of videos and the evidence."""
        self._seconds_R = _in_video(seconds_R, code_R, names.tolist(), files, origins)
        rows = [np.column_stack([t.box, t.score]).astype(np.float32) for t in tables]
        self._people_R5: NDArray[np.float32] = np.concatenate(rows)[order]
        code_of = {files[name].path: code for code, name in enumerate(times_s) if name in files}
        codes = np.fromiter(
            (code_of.get(index.video(n)[0], -1) for n in range(len(index))), np.int64, len(index)
        )
        self._spans = np.stack([starts[:-1][codes], starts[1:][codes]], axis=1)
        self._spans[codes < 0] = 0
        self.absent = len(names) - len(files)
        """Videos of the tables that are not in the index."""

    @property
    def videos(self) -> int:
        """How many videos of the index have people."""
        return int((self._spans[:, 1] > self._spans[:, 0]).sum())

    def near(self, video: int, time_s: float) -> NDArray[np.float32]:
        """Return the people ``(P, 5)`` around a time of usable video ``video``, box and score.

        Those of the annotated second that is nearest, if it is at most half a second away.
        """
        start, stop = self._spans[video]
        seconds = self._seconds_R[start:stop]
        after = int(np.searchsorted(seconds, time_s))
        about = seconds[max(0, after - 1) : after + 1]
        if not len(about):
            return self._people_R5[:0]
        nearest_s = about[np.abs(about - time_s).argmin()]
        if abs(nearest_s - time_s) > NEAR_S + 10.0**-MICROSECONDS:
            return self._people_R5[:0]
        first = int(np.searchsorted(seconds, nearest_s, "left"))
        last = int(np.searchsorted(seconds, nearest_s, "right"))
        return self._people_R5[start + first : start + last]


def _in_video(
    seconds_R: NDArray[np.float64],
    code_R: NDArray[np.int64],
    names: Sequence[str],
    files: Mapping[str, VideoFile],
    origins: Mapping[str, Origin],
) -> NDArray[np.float64]:
    """Return the times from each video's beginning, to a microsecond.

    Raises:
        AnnotationError: if most of those whose video is there lie outside of it.
    """
    origin = np.array([origins[name].seconds if name in files else np.nan for name in names])
    length = np.array([files[name].footage.length_s if name in files else 0.0 for name in names])
    inside_s: NDArray[np.float64] = np.round(seconds_R - origin[code_R], MICROSECONDS)
    there = ~np.isnan(inside_s)
    outside = there & ((inside_s < -SLACK_S) | (inside_s > length[code_R] + SLACK_S))
    if 2 * outside.sum() > there.sum():
        row = int(outside.argmax())
        raise AnnotationError(
            f"most boxes lie outside of their video (is the time origin another?): "
            f"{outside.sum()} of {there.sum()}, such as {names[code_R[row]]} at "
            f"{seconds_R[row]:g} s; it is {length[code_R[row]]:.2f} s long"
        )
    return inside_s
