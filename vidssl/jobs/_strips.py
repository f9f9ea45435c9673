"""Clips for a report card: a few frames of each video, cut and packed by the workers that decode.

They are spread over what the encoder saw of the video: from its first clip's start to its last
clip's end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vidssl.data.loader import Loader, LoaderConfig
from vidssl.data.samples import Failed, Samples
from vidssl.jobs._stopping import stoppable
from vidssl.progress import Progress, silent
from vidssl.report.card import Strip
from vidssl.report.card_strips import LADDER, Rung, rung_for, strip
from vidssl.video.reader import Decoder, open_reader
from vidssl.video.storage import Location

EXAMPLES = 24
"""Videos by which it is judged how large clips will be."""
LARGE_SHARE = 0.3
"""Of the room, at most, is for clips that are shown large."""
LARGE = LADDER[0]
Frames = list[NDArray[np.uint8]]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Shown:
    """A video to show, between two of its times."""

    location: Location
    from_s: float
    until_s: float


def make_strips(
    videos: Mapping[int, Shown],
    large: Sequence[int],
    room: int,
    *,
    decoder: Decoder = "auto",
    loader: LoaderConfig | None = None,
    progress: Progress = silent,
) -> dict[int, Strip]:
    """Return a strip of each video that can be read, about ``room`` bytes in all.

    Those of ``large`` get the best picture that fits into their part of the room, the others the
    second best or what fits into the rest; none where not even the smallest does.
    """
    config = loader or LoaderConfig()
    first = [number for number in dict.fromkeys(large) if number in videos]
    rest = [number for number in videos if number not in {*first}]
    made: dict[int, Strip] = {}
    done = 0
    parts = ((first, LARGE_SHARE if rest else 1.0, LADDER), (rest, 1.0, LADDER[1:]))
    for numbers, share, ladder in parts:
        examples = _chosen(numbers)
        frames = _read([videos[n] for n in examples], partial(_frames, decoder=decoder), config)
        left = room - sum(len(one.image) for one in made.values())
        known = [one for one in frames if one]
        rung = rung_for(known, len(numbers), int(share * left), ladder)
        if rung is None:
            continue

        def note(count: int, before: int = done) -> None:
            progress("clips to show", before + count, len(videos))

        read = partial(_packed, decoder=decoder, rung=rung)
        packed = _read([videos[n] for n in numbers], read, config, note)
        made.update({n: one for n, one in zip(numbers, packed, strict=True) if one})
        done += len(numbers)
    return made


def _chosen(numbers: Sequence[int]) -> list[int]:
    places = np.linspace(0, len(numbers) - 1, min(EXAMPLES, len(numbers))).round()
    return [numbers[int(place)] for place in places]


def _frames(plan: Shown, decoder: Decoder) -> Frames:
    """Return the frames of a strip as they are decoded.

    Raises:
        VideoError: if the video cannot be read.
    """
    count = LARGE.frames
    times_s = np.linspace(plan.from_s, plan.until_s, count)
    with open_reader(plan.location, decoder) as reader:
        return list(reader.frames_at(times_s, short_side_px=2 * LARGE.height_px).frames)


def _packed(plan: Shown, decoder: Decoder, rung: Rung) -> Strip:
    return strip(_frames(plan, decoder), rung)


def _read(
    plans: Sequence[Shown],
    read: Callable[[Shown], Made],
    config: LoaderConfig,
    note: Callable[[int], None] = lambda count: None,
) -> list[Made | None]:
    samples = _Reading(plans, read)
    found: list[Made | None] = []
    for (one,) in stoppable(Loader(samples, [[n] for n in range(len(plans))], config)):
        found.append(one)
        note(len(found))
    return found


class _Reading(Samples[Shown, Made | None], Generic[Made]):
    """What ``read`` makes of each video; None of one that cannot be read."""

    def __init__(self, plans: Sequence[Shown], read: Callable[[Shown], Made]) -> None:
        self.plans, self.reading = plans, read

    @property
    def read(self) -> Callable[[Shown], Made | None]:
        return self.reading

    def __len__(self) -> int:
        return len(self.plans)

    def plan(self, position: int, attempt: int = 0) -> Shown | None:
        return None if attempt else self.plans[position]

    def tell(self, sample: Made | None, failed: Failed) -> Made | None:
        return sample

    def lost(self, plan: Shown, failed: Failed) -> Made | None:
        return None
