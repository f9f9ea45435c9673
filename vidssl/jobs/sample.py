"""``vidssl sample``: what a method will see, drawn on one sheet.

The clips and their augmentation come from the same functions and seeds as in training. Of the
source only the few videos that are drawn are looked at, so they are not those of the first step.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.augment import geometry
from vidssl.augment.views import MEAN, STD, SSLConfig, detection_view, draw_view, ssl_views
from vidssl.ava.annotations import group_keyframes, read_annotations
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.origins import parse_origin, require_alone, summary
from vidssl.boxes import Boxes
from vidssl.data.clips import ClipDataset, ClipReading, ClipSample
from vidssl.data.keyframes import (
    KeyFramePlan,
    KeyFrameSample,
    Moment,
    Placed,
    annotated,
    place,
    read_keyframes,
)
from vidssl.data.order import rng_for
from vidssl.data.people import People
from vidssl.errors import AnnotationError, OutputError, SourceError, VideoError, listed
from vidssl.files import replacing
from vidssl.jobs import _detector
from vidssl.jobs import _people as people_job
from vidssl.jobs._people import BoxFiles
from vidssl.methods import Batch
from vidssl.progress import Progress, silent
from vidssl.recipe import Detection, Pretrain
from vidssl.report.figures import spread
from vidssl.report.sheet import SheetBlock, SheetView, sample_sheet
from vidssl.sources import scan
from vidssl.video.index import ClipIndex, is_index, read_rows, write_index
from vidssl.video.probe import VideoFacts, probe
from vidssl.video.sampling import centred_times, last_s
from vidssl.video.storage import Location, file_name, shown, told_apart, video_id

MOMENTS = 2
"""Key frames of a video that are drawn for a detection recipe."""


@dataclass(frozen=True)
class SampledView:
    """A view of a video on the sheet, and when its first and its last frame begin."""

    video: str
    view: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class SampleResult:
    """The sheet and its views from top to bottom; ``set_aside`` gives the reason by video.

    ``time_origins`` gives each origin with its number of videos and the evidence.
    """

    path: Path
    views: list[SampledView]
    set_aside: dict[str, str]
    time_origins: list[dict[str, object]] = field(default_factory=list)


def run(
    source: str,
    plan: Pretrain,
    out: Path,
    *,
    boxes: BoxFiles | None = None,
    count: int = 4,
    progress: Progress = silent,
) -> SampleResult:
    """Draw the views of ``count`` videos of ``source``, evenly spaced in it, to the PNG ``out``.

    ``boxes`` are for a method that is shown people; videos that have some are drawn then.

    Raises:
        RecipeError: if the recipe asks for boxes and there are none, or the other way round.
        AnnotationError: if the boxes are wrong, or no video is there for them.
        SourceError: if there is no video, or not one of those chosen can be decoded.
        OutputError: if ``out`` is not to be a PNG, or cannot be written.
        ValueError: if ``count`` is less than 1.
    """
    _check(out, count)
    boxes = boxes or BoxFiles()
    tables = people_job.read_boxes(plan, boxes)
    wanted = {name for table in tables for name in set(table.video.tolist())} if tables else None
    facts = _facts(source, count, progress, wanted)
    _require_usable(source, facts)
    set_aside = {row.path: row.error for row in facts if row.status != "ok"}
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder) / "index.parquet", facts)
        index = ClipIndex(Path(folder) / "index.parquet")
        others = scan(source) if tables else ()
        people = people_job.open_people(tables, index, boxes.time_origin, others)
        dataset = _dataset(plan, index, people)
        samples: list[ClipSample] = []
        for position in range(len(dataset)):
            samples.append(dataset[position])
            progress("drawing clips", position + 1, len(dataset))
    for sample in samples:
        set_aside.update(sample.failed)
    known = {row.path: row for row in facts}
    blocks = [_block(known[sample.video], _ssl_views(sample, plan)) for sample in samples]
    title = f"What {plan.method.name} sees"
    _write(out, title, f"{_many(len(samples), 'video')}, {_looks(plan.augment.crop_px)}", blocks)
    return _result(out, [view for sample in samples for view in _views(sample)], set_aside)


def run_detection(
    source: str,
    plan: Detection,
    annotations: Path,
    out: Path,
    *,
    labels: Path | None = None,
    time_origin: str = "auto",
    count: int = 4,
    progress: Progress = silent,
) -> SampleResult:
    """Draw training clips around annotated key frames, two of each of ``count`` videos.

    Raises:
        SourceError, AnnotationError: if there is no video, no key frame, or they do not fit.
        OutputError: if ``out`` is not to be a PNG, or cannot be written.
        ValueError: if ``count`` is less than 1.
    """
    _check(out, count)
    names = read_labels(labels) if labels is not None else None
    table = read_annotations(annotations, names)
    keyframes = group_keyframes(table, names.size if names else max(1, int(table.action.max())))
    moments = [annotated(keyframe) for keyframe in keyframes if len(keyframe.boxes)]
    if not moments:
        raise AnnotationError(f"{annotations}: holds no key frame with people")
    facts = _facts(source, count, progress, {moment.video for moment in moments})
    _require_usable(source, facts)
    set_aside = {row.path: row.error for row in facts if row.status != "ok"}
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder) / "index.parquet", facts)
        index = ClipIndex(Path(folder) / "index.parquet")
        stated = parse_origin(time_origin)
        placed = place(moments, index, {}, stated, scan(source) if stated.by_video else ())
    require_alone(placed.origins)  # with all videos at hand training might find another
    multiple = plan.backbone.build().spatial_stride
    blocks: list[SheetBlock] = []
    views: list[SampledView] = []
    chosen = [row for row in facts if row.status == "ok" and _of(placed, row)]
    for done, row in enumerate(chosen):
        drawn: list[SheetView] = []
        for number in _few(_of(placed, row)):
            sample = _read(placed, number, plan, set_aside)
            if sample is None:
                continue
            drawn.append(_detection_view(sample, plan, placed, row, names, multiple, len(drawn)))
            times_s = drawn[-1].times_s
            views.append(SampledView(row.path, len(drawn) - 1, times_s[0], times_s[-1]))
        if drawn:
            blocks.append(_block(row, drawn))
        progress("drawing clips", done + 1, len(chosen))
    if not blocks:
        raise AnnotationError(
            f"{annotations}: none of its key frames can be read from {shown(source)}"
        )
    looks = f"{_many(len(blocks), 'video')}, people as annotated, as training draws them"
    _write(out, "What the detector is trained on", looks, blocks)
    return replace(_result(out, views, set_aside), time_origins=summary(placed.origins))


def augmented(clip: ClipSample, view: int, config: SSLConfig) -> NDArray[np.uint8]:
    """Return a view as the method sees it, ``(T, crop, crop, 3)``, in colours that can be shown."""
    return _in_colour(ssl_views([clip.views[view]], [clip.seed + view], config, view))


def prepared(clip: ClipSample, plan: Pretrain) -> Batch:
    """Return the batch of a single clip as the method gets it, its task included."""
    views = (
        ssl_views([view], [clip.seed + number], plan.augment, number)
        for number, view in enumerate(clip.views)
    )
    times_s = tuple(times_T[None] for times_T in clip.times_s)
    targets = people_job.targets(plan, [clip], torch.device("cpu"))
    batch = Batch(
        tuple(views), seed=plan.seed, seeds=(clip.seed,), times_s=times_s, targets=targets
    )
    return plan.method.prepare(batch)


def boxes_of(batch: Batch, view: int) -> list[Boxes] | None:
    """Return the boxes that the method's task has in each frame of a view of the first clip.

    ``boxes`` are those of each view, ``(B, V, N, 4)``, if ``boxes_valid`` says which of them stand;
    else those of N things in each frame of the only view, ``(B, N, T, 4)``.
    """
    if "boxes" not in batch.targets:
        return None
    boxes = batch.targets["boxes"][0].double().numpy()
    if "boxes_valid" in batch.targets:
        standing = boxes[view][batch.targets["boxes_valid"][0, view].numpy()]
        return [standing] * batch.views[view].shape[2]
    return [boxes[:, frame] for frame in range(boxes.shape[1])]


def _in_colour(view_BCTHW: Tensor) -> NDArray[np.uint8]:
    shown_CTHW = view_BCTHW[0].mul(STD).add(MEAN).clamp(0, 1).mul(255).round()
    return shown_CTHW.permute(1, 2, 3, 0).to(torch.uint8).numpy()


def crop_box(clip: ClipSample, view: int, config: SSLConfig) -> NDArray[np.float64]:
    """Return the part of the picture that a view keeps, ``(1, 4)``, normalised."""
    _, height, width, _ = clip.views[view].shape
    crop = draw_view(clip.seed + view, (height, width), config.of(view)).crop
    return np.array([[crop.left, crop.top, crop.right, crop.bottom]])


def _result(out: Path, views: Sequence[SampledView], set_aside: dict[str, str]) -> SampleResult:
    """Return the result, in which addresses show no secrets."""
    name_of = told_apart([*(view.video for view in views), *set_aside])
    named = [replace(view, video=name_of[view.video]) for view in views]
    return SampleResult(out, named, {name_of[path]: why for path, why in set_aside.items()})


# --- which videos


def _check(out: Path, count: int) -> None:
    if count < 1:
        raise ValueError(f"expected at least 1 video, got {count}")
    if out.suffix.lower() != ".png":
        raise OutputError(f"{out}: the sheet is a picture; expected a name that ends in .png")


def _facts(
    source: str, count: int, progress: Progress, wanted: set[str] | None = None
) -> list[VideoFacts]:
    """Return the index rows of ``count`` videos; those of an index are believed.

    ``wanted`` are the ids of which videos are taken; where none has one, of all.
    """
    path = Path(source)
    if path.suffix == ".parquet" and path.is_file() and is_index(path):
        rows = read_rows(path)
        usable = [row for row in rows if row.status == "ok"] or rows
        if wanted is not None:
            usable = [row for row in usable if video_id(row.path) in wanted] or usable
        return [usable[index] for index in spread(len(usable), count)]
    videos: Sequence[Location] = scan(source)
    if wanted is not None:
        videos = [video for video in videos if video_id(video) in wanted] or videos
    facts: list[VideoFacts] = []
    chosen = spread(len(videos), count)
    for index in chosen:
        facts.append(probe(videos[index]))
        progress("looking at videos", len(facts), len(chosen))
    return facts


def _require_usable(source: str, facts: Sequence[VideoFacts]) -> None:
    if not any(row.status == "ok" for row in facts):
        title = f"{shown(source)}: none of the {len(facts)} videos looked at can be decoded"
        raise SourceError(listed(title, [row.error or row.status for row in facts], limit=8))


def _dataset(plan: Pretrain, index: ClipIndex, people: People | None) -> ClipDataset:
    method = plan.method.build(plan.backbone.build())
    return ClipDataset(
        index,
        frames=plan.backbone.frames,
        stride=plan.backbone.stride,
        views=method.num_views,
        seed=plan.seed,
        reading=ClipReading(plan.decode_short_side_px, plan.decoder),
        sampling=plan.sampling,
        people=people,
    )


def _of(placed: Placed, row: VideoFacts) -> list[int]:
    """Return the numbers of a video's key frames."""
    return [n for n, m in enumerate(placed.moments) if placed.paths[m.video] == row.path]


def _few(numbers: Sequence[int]) -> list[int]:
    """Return some of a video's key frames, from its inside rather than from its ends."""
    count = min(MOMENTS, len(numbers))
    return [numbers[int((n + 0.5) * len(numbers) / count)] for n in range(count)]


def _read(
    placed: Placed, number: int, plan: Detection, set_aside: dict[str, str]
) -> KeyFrameSample | None:
    """Return the clip of a key frame as a first epoch would draw it; None if it cannot be read."""
    moment = placed.moments[number]
    path, seed = placed.paths[moment.video], int(rng_for(plan.seed, 0, number).integers(2**62))
    one = KeyFramePlan(path, (moment,), (seed,), placed.origin_s(moment.video))
    try:
        return read_keyframes(replace(_detector.reading(plan), window=None), None, one)[0]
    except VideoError as error:
        set_aside[path] = str(error)
        return None


# --- what is drawn of them


def _write(out: Path, title: str, subtitle: str, blocks: Sequence[SheetBlock]) -> None:
    sheet = sample_sheet(title, subtitle, blocks)
    with replacing(out) as aside:
        aside.write_bytes(sheet)


def _block(row: VideoFacts, views: Sequence[SheetView]) -> SheetBlock:
    return SheetBlock(file_name(row.path), facts_of(row), row.duration_s, row.keyframes_s, views)


def facts_of(row: VideoFacts) -> str:
    """Return what an index knows of a video in plain words."""
    rate = f"{row.fps:.4g} frames a second" + (", uneven" if row.variable_rate else "")
    words = [row.codec, f"{row.width} × {row.height}", rate, f"{row.duration_s:.2f} s"]
    words.append(_many(row.frames, "frame"))
    if row.rotation:
        words.append(f"turned by {row.rotation}°")
    if len(row.keyframes_s) > 1:
        gaps_s = np.diff(row.keyframes_s)
        words.append(f"a key frame every {_seconds(float(np.median(gaps_s)))}")
        if gaps_s.max() > 1.5 * np.median(gaps_s):
            words[-1] += f" (at most {_seconds(float(gaps_s.max()))})"
    else:
        words.append("one key frame")
    if row.cut_off:
        words.append("cut off")
    return "  ·  ".join([*words, f"decoded by {row.decoder}"])


def _ssl_views(sample: ClipSample, plan: Pretrain) -> list[SheetView]:
    drawn = []
    batch = prepared(sample, plan)
    for found in _views(sample):
        frames = _in_colour(batch.views[found.view])
        times_s = [float(t) for t in sample.times_s[found.view]]
        drawn.append(
            SheetView(
                f"view {found.view + 1}",
                f"{_span(times_s)}  ·  {_drawn(sample, found.view, plan.augment)}",
                sample.views[found.view][0].numpy(),
                times_s[0],
                crop_box(sample, found.view, plan.augment)[0],
                list(frames),
                times_s,
                boxes=boxes_of(batch, found.view),
            )
        )
    return drawn


def _span(times_s: Sequence[float]) -> str:
    words = f"{min(times_s):.2f} – {max(times_s):.2f} s, {_many(len(times_s), 'frame')}"
    different = len(set(times_s))
    if any(later < earlier for earlier, later in pairwise(times_s)):
        return f"{words}, begun anew at the end of the video"
    if different < len(times_s):
        words += f", {different} of them different"
    elif len(times_s) > 1:
        words += f" {_seconds((times_s[-1] - times_s[0]) / (len(times_s) - 1))} apart"
    return words


def _drawn(sample: ClipSample, view: int, config: SSLConfig) -> str:
    """Return what the seed drew for a view, in plain words."""
    _, height, width, _ = sample.views[view].shape
    draw = draw_view(sample.seed + view, (height, width), config.of(view))
    crop = draw.crop
    share = (crop.right - crop.left) * (crop.bottom - crop.top)
    words = [f"keeps {share:.0%} of the picture"]
    done = {
        "mirrored": crop.flip,
        "colours changed": draw.jitter is not None and not draw.grey,
        "brightness changed": draw.jitter is not None and draw.grey,
        "grey": draw.grey,
        "blurred": draw.sigma_px is not None,
        "solarised": draw.solarise,
        "change only": draw.difference,
    }
    return ", ".join([*words, *(name for name, is_done in done.items() if is_done)])


def _detection_view(
    sample: KeyFrameSample,
    plan: Detection,
    placed: Placed,
    row: VideoFacts,
    names: LabelMap | None,
    multiple: int,
    number: int,
) -> SheetView:
    moment, clip = sample.moment, sample.clip
    view = detection_view(clip, sample.seed, plan.augment, multiple)
    frames = geometry.apply(clip, view).clamp(0, 1).mul(255).round().to(torch.uint8)
    centre_s = moment.timestamp - placed.origin_s(moment.video)
    wanted_s = centred_times(centre_s, len(clip), plan.backbone.stride)
    times_s = [float(t) for t in np.clip(wanted_s, 0.0, last_s(row.duration_s))]
    middle = len(clip) // 2
    carried = geometry.carry(torch.as_tensor(moment.boxes, dtype=torch.float32), view)
    words = f"key frame at {moment.timestamp:g} s  ·  {_many(len(moment.boxes), 'person')}"
    share = (view.right - view.left) * (view.bottom - view.top)
    words += f"  ·  keeps {share:.0%} of the picture{', mirrored' if view.flip else ''}"
    return SheetView(
        f"clip {number + 1}",
        words,
        clip[middle].numpy(),
        times_s[middle],
        np.array([view.left, view.top, view.right, view.bottom]),
        list(frames.permute(1, 2, 3, 0).numpy()),
        times_s,
        people=moment.boxes,
        carried=carried.numpy().astype(np.float64),
        marked=middle,
        said=_said(moment, names),
    )


def _said(moment: Moment, names: LabelMap | None) -> list[str]:
    known = names.names if names else {}
    return [
        ", ".join(known.get(int(n) + 1, f"action {int(n) + 1}") for n in np.flatnonzero(person))
        or "no label"
        for person in moment.labels
    ]


def _views(sample: ClipSample) -> Sequence[SampledView]:
    return [
        SampledView(sample.video, view, float(times_T[0]), float(times_T[-1]))
        for view, times_T in enumerate(sample.times_s)
    ]


def _many(count: int, what: str) -> str:
    plural = {"person": "people"}.get(what, f"{what}s")
    return f"{count} {what if count == 1 else plural}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def _looks(crop_px: int) -> str:
    return f"views of {crop_px} × {crop_px} pixels"
