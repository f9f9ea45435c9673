"""``vidssl sample``: what a pretraining method will see, drawn on one sheet.

The clips and their augmentation come from the same functions and seeds as in training. Of the
source only the few videos that are drawn are looked at, so they are not those of the first step.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vidssl.augment.views import MEAN, STD, SSLConfig, draw_view, ssl_views
from vidssl.data.clips import ClipDataset, ClipReading, ClipSample
from vidssl.errors import OutputError
from vidssl.files import replacing
from vidssl.progress import Progress, silent
from vidssl.recipe import Pretrain
from vidssl.report.figures import SheetRow, contact_sheet, spread
from vidssl.sources import scan
from vidssl.video.index import ClipIndex, is_index, read_rows, write_index
from vidssl.video.probe import VideoFacts, probe

COLUMNS = 8
"""Pictures in a row: the first frame as decoded, then frames as the method sees them."""


@dataclass(frozen=True)
class SampledView:
    """One row of the sheet: a view of a video, and when its first and its last frame begin."""

    video: str
    view: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class SampleResult:
    """The sheet and its rows from top to bottom; ``set_aside`` gives the reason by video."""

    path: Path
    views: list[SampledView]
    set_aside: dict[str, str]


def run(
    source: str, plan: Pretrain, out: Path, *, count: int = 4, progress: Progress = silent
) -> SampleResult:
    """Draw the views of ``count`` videos of ``source``, evenly spaced in it, to the PNG ``out``.

    Raises:
        SourceError: if there is no video, or not one of those chosen can be decoded.
        OutputError: if ``out`` is not to be a PNG, or cannot be written.
        ValueError: if ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError(f"expected at least 1 video, got {count}")
    if out.suffix.lower() != ".png":
        raise OutputError(f"{out}: the sheet is a picture; expected a name that ends in .png")
    facts = _facts(source, count, progress)
    set_aside = {row.path: row.error for row in facts if row.status != "ok"}
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder) / "index.parquet", facts)
        dataset = _dataset(plan, ClipIndex(Path(folder) / "index.parquet"))
        samples = []
        for position in range(len(dataset)):
            samples.append(dataset[position])
            progress("drawing clips", position + 1, len(dataset))
    for sample in samples:
        set_aside.update(sample.failed)
    sheet = contact_sheet([row for sample in samples for row in _rows(sample, plan)], COLUMNS)
    with replacing(out) as aside:
        aside.write_bytes(sheet)
    return SampleResult(out, [view for sample in samples for view in _views(sample)], set_aside)


def augmented(clip: ClipSample, view: int, config: SSLConfig) -> NDArray[np.uint8]:
    """Return a view as the method sees it, ``(T, crop, crop, 3)``, in colours that can be shown."""
    batch_BCTHW = ssl_views([clip.views[view]], [clip.seed + view], config, view)
    shown_CTHW = batch_BCTHW[0].mul(STD).add(MEAN).clamp(0, 1).mul(255).round()
    return shown_CTHW.permute(1, 2, 3, 0).to(torch.uint8).numpy()


def crop_box(clip: ClipSample, view: int, config: SSLConfig) -> NDArray[np.float64]:
    """Return the part of the picture that a view keeps, ``(1, 4)``, normalised."""
    _, height, width, _ = clip.views[view].shape
    crop = draw_view(clip.seed + view, (height, width), config.of(view)).crop
    return np.array([[crop.left, crop.top, crop.right, crop.bottom]])


def _facts(source: str, count: int, progress: Progress) -> list[VideoFacts]:
    """Return the index rows of ``count`` videos; those of an index are believed."""
    path = Path(source)
    if path.suffix == ".parquet" and path.is_file() and is_index(path):
        rows = read_rows(path)
        usable = [row for row in rows if row.status == "ok"] or rows
        return [usable[index] for index in spread(len(usable), count)]
    videos = scan(source)
    facts = []
    chosen = spread(len(videos), count)
    for index in chosen:
        facts.append(probe(videos[index]))
        progress("looking at videos", len(facts), len(chosen))
    return facts


def _dataset(plan: Pretrain, index: ClipIndex) -> ClipDataset:
    method = plan.method.build(plan.backbone.build())
    return ClipDataset(
        index,
        frames=plan.backbone.frames,
        stride=plan.backbone.stride,
        views=method.num_views,
        seed=plan.seed,
        reading=ClipReading(plan.decode_short_side_px, plan.decoder),
    )


def _rows(sample: ClipSample, plan: Pretrain) -> list[SheetRow]:
    rows = []
    for found in _views(sample):
        frames = augmented(sample, found.view, plan.augment)
        shown = [frames[index] for index in spread(len(frames), COLUMNS - 1)]
        box = crop_box(sample, found.view, plan.augment)
        rows.append(
            SheetRow(
                f"{Path(found.video).name}   view {found.view + 1}   "
                f"{found.start_s:.2f} – {found.end_s:.2f} s   {len(frames)} frames",
                [sample.views[found.view][0].numpy(), *shown],
                [box, *(box[:0] for _ in shown)],
            )
        )
    return rows


def _views(sample: ClipSample) -> Sequence[SampledView]:
    return [
        SampledView(sample.video, view, float(times_T[0]), float(times_T[-1]))
        for view, times_T in enumerate(sample.times_s)
    ]
