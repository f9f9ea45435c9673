"""The rows of a bank in memory: one box of one second of one video, and its feature.

Array suffixes: N rows, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vidssl.errors import BankError

SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("second", pa.float64()),
        *((name, pa.float32()) for name in ("x1", "y1", "x2", "y2", "score")),
        ("row", pa.int64()),
    ]
)


@dataclass(frozen=True)
class BankRows:
    """N rows: ``videos`` of N names, ``seconds`` and ``scores`` ``(N,)``, ``features`` ``(N, D)``.

    ``boxes`` is ``(N, 4)``, normalised x1 y1 x2 y2.

    Raises:
        ValueError: if the parts do not have these shapes.
    """

    videos: Sequence[str]
    seconds: NDArray[np.floating]
    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    features: NDArray[np.floating]

    def __post_init__(self) -> None:
        """Compare the lengths."""
        n = len(self.videos)
        shapes = (self.seconds.shape, self.boxes.shape, self.scores.shape, self.features.shape)
        if shapes[:3] != ((n,), (n, 4), (n,)) or self.features.shape[:-1] != (n,):
            raise ValueError(
                f"for {n} videos, expected shapes ({n},), ({n}, 4), ({n},), ({n}, D): got {shapes}"
            )

    def __len__(self) -> int:
        """Return N."""
        return len(self.videos)

    @classmethod
    def joined(cls, parts: Sequence["BankRows"], dim: int) -> "BankRows":
        """Return all rows of ``parts`` as one; ``dim`` is D, for when there are no parts."""
        empty = cls([], np.zeros(0), np.zeros((0, 4)), np.zeros(0), np.zeros((0, dim), np.float16))
        parts = parts or [empty]
        return cls(
            [video for part in parts for video in part.videos],
            np.concatenate([part.seconds for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.features for part in parts]),
        )


def on_disk(rows: BankRows, videos: Sequence[str]) -> tuple[NDArray[np.float16], pa.Table]:
    """Return a shard's features ``(N, D)`` and its table, in the one order that the content allows.

    The order is the shard's videos, then time, then falling score, then the box, so that it does
    not depend on the order in which the boxes were computed.

    Raises:
        BankError: if a number is not finite, or a feature does not fit float16.
        ValueError: if a row is of a video outside ``videos``.
    """
    position = {video: index for index, video in enumerate(videos)}
    if strangers := sorted({*rows.videos} - {*videos}):
        raise ValueError(f"rows of {strangers[0]!r}, which the plan does not put into this shard")
    with np.errstate(over="ignore"):
        features_ND = rows.features.astype(np.float16)
    _require_finite(rows, features_ND)

    seconds = rows.seconds.astype(np.float64)
    scores, boxes_N4 = rows.scores.astype(np.float32), rows.boxes.astype(np.float32)
    which = np.array([position[video] for video in rows.videos], np.int64)
    order = np.lexsort((*boxes_N4.T[::-1], -scores, seconds, which))
    names = pa.array([rows.videos[index] for index in order], pa.string())
    numbers = [seconds[order], *boxes_N4[order].T, scores[order], np.arange(len(rows))]
    columns = [pa.array(np.ascontiguousarray(column)) for column in numbers]
    return features_ND[order], pa.Table.from_arrays([names, *columns], schema=SCHEMA)


def _require_finite(rows: BankRows, features_ND: NDArray[np.float16]) -> None:
    """Refuse a row that float16 or a comparison would silently spoil, by name."""
    parts = (("time", rows.seconds[:, None]), ("box", rows.boxes), ("score", rows.scores[:, None]))
    for what, values in (*parts, ("feature", features_ND)):
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            row = int(bad.argmax())
            raise BankError(
                f"video {rows.videos[row]!r}, second {rows.seconds[row]}: the {what} is not finite"
                f" in the bank's number format ({int(bad.sum())} rows of {len(rows)})"
            )
