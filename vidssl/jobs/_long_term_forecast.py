"""What ``vidssl long-term`` will need: each of its three stages, a little of it done."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from vidssl.ava.labels import read_labels
from vidssl.jobs import _detector as shared
from vidssl.jobs import extract_features, finetune
from vidssl.jobs._forecast import GB, Forecast
from vidssl.jobs._training import Seen
from vidssl.jobs.long_term import (
    BANK,
    FIRST,
    SECOND,
    LongTermData,
    begin_of_second,
    require_sound,
)
from vidssl.recipe import LongTerm
from vidssl.sources import scan as scan_videos

FEW = 2
ROW_BYTES = 2  # of a number


@dataclass(frozen=True)
class BankForecast:
    """What the bank will need: ``keyframe_s`` is of one process, reading beside it included.

    ``rows`` and ``keyframes`` are those of the boxes; of clips and grids, of as many videos as the
    source has, each as long as those looked at. ``disk_gb``, in GiB, are the features alone.
    """

    keyframes: int
    rows: int
    keyframe_s: float
    hours: float
    disk_gb: float


@dataclass(frozen=True)
class LongTermForecast:
    """The three stages, one after the other: hours and GiB of disk are the sums."""

    first: Forecast
    bank: BankForecast
    second: Forecast
    hours: float
    disk_gb: float
    warnings: list[str]


def forecast(
    plan: LongTerm, encoder: str, data: LongTermData, out: Path, *, processes: int = 1
) -> LongTermForecast:
    """Do a few steps of both trainings, and a few key frames of the bank between them.

    The first detector is not trained here: that of step 0 makes a bank of some key frames, and the
    second reads it, as large as a window is, if mostly empty. Nothing is written that stays.

    Raises:
        VidsslError: as :func:`vidssl.jobs.long_term.run` does.
    """
    require_sound(plan, encoder, data)
    labels = read_labels(data.labels)
    given = data.of_detector(data.videos, None)
    first = finetune.forecast(plan.first, encoder, given, out / FIRST, processes=processes)
    with tempfile.TemporaryDirectory() as scratch:
        begun = Path(scratch) / FIRST
        begun.mkdir()
        detector = finetune.initial_detector(plan.first, encoder, labels, None)
        shared.save_detector(begun, detector, plan.first, labels, None, steps=0, seen=Seen(0, None))
        bank, measured = _bank(plan, data, begun, Path(scratch) / BANK, processes)
        second = finetune.forecast(
            plan.second,
            begin_of_second(plan, encoder, begun),
            data.of_detector(data.videos, measured),
            out / SECOND,
            processes=processes,
        )
    disk_gb = first.disk_gb + bank.disk_gb + second.disk_gb
    warnings = list(dict.fromkeys([*first.warnings, *second.warnings]))
    if not warnings and disk_gb > first.disk_free_gb:
        warnings.append(
            f"{out}: all three stages need about {disk_gb:.2f} GiB, {first.disk_free_gb:.2f} GiB "
            "are free there"
        )
    hours = first.hours + bank.hours + second.hours
    return LongTermForecast(first, bank, second, hours, disk_gb, warnings)


def _bank(
    plan: LongTerm, data: LongTermData, begun: Path, out: Path, processes: int
) -> tuple[BankForecast, Path]:
    """Return what the bank will need, and one of some key frames of videos that are trained on."""
    labels = read_labels(data.labels)
    trained = finetune.training_moments(data.of_detector(data.videos, None), labels, plan.second)
    wanted = {moment.video for moment in trained}
    people = extract_features.people_of(plan.extract, data.boxes)
    if people is not None:
        wanted &= {moment.video for moment in people}
    every = scan_videos(data.videos)
    few = finetune.few_videos(every, wanted, FEW)
    listing = out.with_name("few.txt")
    listing.write_text("".join(f"{path}\n" for path in few), encoding="utf-8")
    found = extract_features.measure(
        *(plan.extract, begun, str(listing), data.boxes, out, data.time_origin)
    )
    share = 1.0 if people is not None else len(every) / len(few)
    keyframes, rows = round(found.keyframes * share), round(found.rows * share)
    bank = BankForecast(
        keyframes=keyframes,
        rows=rows,
        keyframe_s=found.keyframe_s,
        hours=keyframes * found.keyframe_s / processes / 3600,
        disk_gb=rows * found.dim * ROW_BYTES / GB,
    )
    return bank, out
