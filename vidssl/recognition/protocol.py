"""How a classifier is tested: which views of a video it sees, and what becomes of their scores.

Nothing here needs torch.

Array suffixes: V clips, T frames.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vidssl.errors import RecipeError
from vidssl.video.sampling import (
    CROPS,
    Crop,
    Indexing,
    Times,
    clip_times,
    fitted,
    segment_times,
    uniform_starts,
)

NOT_SAID = "not said"
COMPARED = frozenset({"classifier", "code"})
"""What is no setting but what scores are there to compare."""
Sampling = Literal["uniform", "segments"]
Activation = Literal["softmax", "sigmoid"]
Gathering = Literal["mean", "max"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a video's scores but the network and the video.

    ``clips`` at equal distances, of ``frames`` at a ``stride`` in frames at 30 per second, each
    with ``crops`` along its long side; with ``segments`` one clip, a frame from the middle of each
    of ``frames`` equal parts. ``window`` is the side in cells over which a map is averaged, None
    for all of it. No view is mirrored.
    """

    clips: int
    crops: int
    frames: int
    stride: int
    sampling: Sampling
    indexing: Indexing
    reach_end: bool
    short_side_px: int
    crop_px: int
    decode_short_side_px: int | None
    window: int | None
    activation: Activation
    gathering: Gathering
    precision: Precision

    def __post_init__(self) -> None:
        """Refuse what is no protocol."""
        if self.sampling == "segments" and self.clips != 1:
            raise RecipeError(
                f"--views {self.clips}x{self.crops}: frames from equal parts of the whole video "
                f"are one clip; expected 1x{self.crops}"
            )
        if self.crop_px > self.short_side_px:
            raise RecipeError(
                f"--crop {self.crop_px} is longer than the short side, {self.short_side_px}"
            )

    @property
    def sides(self) -> tuple[Crop, ...]:
        """Which crops of a clip are taken."""
        return CROPS if self.crops == 3 else CROPS[1:2]

    def times(self, duration_s: float) -> Times:
        """Return the times of all clips of a video, ``(V, T)``.

        A video shorter than a clip shows its last frame again and again. A single clip lies in the
        middle; in the reference's code it would be the first.
        """
        if self.sampling == "segments":
            return segment_times(duration_s, self.frames)[None]
        starts_s = uniform_starts(
            duration_s,
            self.frames,
            self.stride,
            self.clips,
            reach_end=self.reach_end or self.clips == 1,
            indexing=self.indexing,
        )
        clips = [clip_times(float(s), self.frames, self.stride, self.indexing) for s in starts_s]
        return np.stack([fitted(times_T, duration_s) for times_T in clips])

    def fingerprint(self) -> dict[str, Any]:
        """Return the protocol as it stands beside a score."""
        if self.sampling == "segments":
            clips = f"{self.frames} frames, one from the middle of each of as many equal parts"
            starts = "the whole video"
        else:
            clips = f"{self.frames} frames, {self.stride} apart at 30 per second"
            starts = "up to the end" if self.reach_end else "n-th part of the latest start"
            starts = "middle" if self.clips == 1 else starts
        return {
            "views": f"{self.clips}x{self.crops}",
            "clip": clips,
            "starts": starts,
            "indexing": "none" if self.sampling == "segments" else self.indexing,
            "short_side_px": self.short_side_px,
            "crop_px": self.crop_px,
            "decode_short_side_px": self.decode_short_side_px,
            "crops": " ".join(self.sides),
            "flip": "none",
            "pooling": f"windows of {self.window} cells" if self.window else "all cells",
            "activation": self.activation,
            "over_views": self.gathering,
            "precision": self.precision,
        }


def parse_views(text: str) -> tuple[int, int]:
    """Return (clips, crops) of ``10x3``.

    Raises:
        RecipeError: if it is anything else.
    """
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text.strip().lower())
    if not found or int(found[1]) < 1 or int(found[2]) not in (1, 3):
        raise RecipeError(
            f"--views: expected CLIPSxCROPS with 1 or 3 crops, as 10x3 or 1x1, found {text!r}"
        )
    return int(found[1]), int(found[2])


def differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting in which two fingerprints differ; none: they compare."""
    keys = [key for key in dict.fromkeys([*one, *two]) if key not in COMPARED]
    return [
        f"{key}: {one.get(key, NOT_SAID)} and {two.get(key, NOT_SAID)}"
        for key in keys
        if one.get(key, NOT_SAID) != two.get(key, NOT_SAID)
    ]
