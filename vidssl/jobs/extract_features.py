"""``vidssl extract-features``: a long-term feature bank, second by second of every video."""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from vidssl.augment.views import DetectionConfig
from vidssl.ava.annotations import read_person_boxes
from vidssl.ava.origins import parse_origin, summary
from vidssl.backbones import Encoder
from vidssl.backbones._layers import Tapped
from vidssl.data.keyframes import (
    KeyFrameSample,
    Moment,
    Placed,
    Reading,
    VideoChunks,
    detected,
    place,
)
from vidssl.data.loader import Loader
from vidssl.detection.cells import cell_boxes, pooled_cells
from vidssl.detection.detector import DetectionBatch
from vidssl.detection.roi_head import RoIHead
from vidssl.errors import AnnotationError, CheckpointError, Interrupted, RecipeError, VidsslError
from vidssl.features import BankIdentity, BankRows, BankWriter
from vidssl.features.manifest import Kind, Manifest
from vidssl.features.writer import require_place
from vidssl.files import sha256
from vidssl.jobs import _bank_again as again
from vidssl.jobs import _detector as shared
from vidssl.jobs import bank as banks
from vidssl.jobs._geometry import other_sight, remark
from vidssl.jobs._stopping import stoppable
from vidssl.jobs.index import open_index, set_aside
from vidssl.nn.distributed import (
    first_here,
    gather_texts,
    joined,
    rank,
    wait_for_all,
    world_size,
)
from vidssl.nn.layout import laid_out
from vidssl.progress import Progress, silent
from vidssl.recipe import Extract
from vidssl.train.trainer import device_of, half_type
from vidssl.video.index import ClipIndex
from vidssl.video.reader import decoder_version
from vidssl.video.storage import stat, video_id

INDEX = ".index.parquet"  # of the videos, in the bank's folder while it is being made
MEASURED_BATCHES = 4
HARMLESS = ("loader", "device", "batch")
"""Keys of a recipe that do not decide what is in a bank."""


@dataclass(frozen=True)
class Part:
    """Which shards a call writes: every ``of``-th from the ``number``-th on, both from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what ``K/N`` says.

        Raises:
            RecipeError: if it is anything else, or K is not from 1 to N.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise RecipeError(f"--part: expected K/N, K from 1 to N, found {text!r}")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class ExtractResult:
    """The bank, and what of its key frames could not be read.

    ``expected_keyframes`` counts also those of videos that are not usable, as far as boxes tell of
    them. ``time_origins`` gives each origin with its number of videos and the evidence. The bank of
    a call that writes a part of the ``shards`` is not ``complete``: it is to be merged with others.
    """

    bank: Path
    complete: bool
    rows: int
    dim: int
    videos: int
    expected_videos: int
    shards: int
    finished: int
    kind: Kind
    keyframes: int
    expected_keyframes: int
    failed_keyframes: int
    unusable_videos: dict[str, str]
    time_origins: list[dict[str, object]]
    encoder_hash: str
    seconds: float

    @property
    def failures(self) -> tuple[int, int, str]:
        """Return how many of how many failed, and of what.

        How many key frames a video has that cannot be read is known only of people: of clips and
        grids, videos are counted where any is lost.
        """
        if self.kind == "box" or not self.unusable_videos:
            return self.failed_keyframes, self.expected_keyframes, "key frames"
        return len(self.unusable_videos), self.expected_videos, "videos"


def run(
    plan: Extract,
    encoder: Path,
    videos: str,
    boxes: Sequence[Path],
    out: Path,
    *,
    time_origin: str = "auto",
    part: str = "1/1",
    retry: bool = False,
    progress: Progress = silent,
) -> ExtractResult:
    """Write a bank to ``out``, or finish it where it was stopped.

    Of the people in ``boxes``, or of clips or grids, whatever the recipe says. Rows of people carry
    the boxes' own times, from wherever these count; ``time_origin`` says from where: ``auto``,
    seconds, or a csv file of video and seconds. Rows of clips count from there too, with ``auto``
    from a video's beginning.

    Processes that torchrun started share the shards. ``part``, ``K/N``, writes one N-th of them, to
    be merged with the others. ``retry`` writes those again in which key frames failed, and adds
    videos that there are now; the rows are those of a bank made at once, the shards may not be.

    Raises:
        RecipeError: if boxes are given where none are asked for or the reverse, or there is no such
            part or layer; or for another try at a part.
        AnnotationError: if the boxes are wrong, or no video is there for them.
        CheckpointError: if the encoder is absent, damaged or does not fit the recipe.
        BankError: if ``out`` holds another bank, or on another try one of videos that cannot be
            used any more.
        OutputError: if ``out`` holds something else.
        Interrupted: on Ctrl-C, after the shards so far; the same call writes the rest.
    """
    started = time.monotonic()
    plan.loader.preload("vidssl.data.keyframes")
    share = Part.parse(part)
    if retry and share.of > 1:
        raise RecipeError(f"--retry: is for a whole bank; leave --part {part}")
    trunk, card = shared.load_encoder(encoder, plan.backbone)
    if told := other_sight(card, plan.backbone):
        raise CheckpointError(f"{encoder}: {told[0]}; expected the same of a bank's recipe")
    remark(card, plan.backbone, None, progress)
    if plan.layers:
        trunk = Tapped(trunk, plan.layers, plan.backbone.frames)
    people = people_of(plan, boxes)
    with joined():
        with first_here(), _beginning(out):
            if retry and rank() == 0 and (out / INDEX).exists():  # of a call that was stopped
                open_index(videos, out / INDEX, progress, retry=True)
            placed = _placed(plan, people, videos, out / INDEX, time_origin, progress)
            names, made_of = sorted(placed.paths), partial(_fingerprint, _files(placed))
            details = {
                "recipe": plan.model_dump(mode="json", exclude={*HARMLESS}),
                "boxes": [sha256(path)[:16] for path in boxes],
                again.VIDEOS: made_of(names),
                "decoder": decoder_version(plan.decoder),
            }
            identity = BankIdentity(card["hash"], details)
            if retry and rank() == 0:
                wanted = Manifest(trunk.features, identity, (tuple(names),), kind=plan.features)
                again.reopen(out, wanted, plan.videos_per_shard, made_of, placed.unusable)
            shards = again.planned(out, names, plan.videos_per_shard)
            writer = BankWriter(
                out, dim=trunk.features, identity=identity, plan=shards, kind=plan.features
            )
        in_part = range(len(shards))[share.number - 1 :: share.of]
        own = in_part[rank() :: world_size()]
        try:
            hashes = [made_of(videos) for videos in shards]
            work = _Work(shards, hashes, placed)
            failed = _write(writer, own, work, _Extractor(plan, trunk), progress)
            wait_for_all()
        except KeyboardInterrupt:
            left = len(writer.missing(own))
            raise Interrupted(f"{out}: {left} of {len(own)} shards are still to do") from None
        failed = gather_texts(failed)
        with first_here():
            if rank() == 0:
                if share.of == 1:
                    writer.close()
                (out / INDEX).unlink(missing_ok=True)
    info = banks.info(out)
    return ExtractResult(
        bank=out,
        complete=info.complete,
        rows=info.rows,
        dim=info.dim,
        videos=len(names),
        expected_videos=len({*names, *placed.unusable, *failed}),
        shards=info.shards,
        finished=info.finished,
        kind=plan.features,
        keyframes=len(placed.moments),
        expected_keyframes=len(placed.moments) + placed.lost,
        failed_keyframes=info.failed_keyframes + placed.lost,
        unusable_videos=placed.unusable | failed,
        time_origins=summary(placed.origins),
        encoder_hash=info.encoder_hash,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class Measured:
    """What an extraction took of a few videos, and the bank of some of their key frames.

    ``keyframe_s`` is of one process, reading by workers beside it. ``keyframes`` and ``rows`` are
    those of all boxes, or of the few videos where a video's length tells how many it has.
    """

    bank: Path
    keyframes: int
    rows: int
    dim: int
    keyframe_s: float


def measure(
    plan: Extract, encoder: Path, videos: str, boxes: Sequence[Path], out: Path, time_origin: str
) -> Measured:
    """Extract some batches of a few ``videos`` to ``out``, the first one untimed.

    Raises:
        VidsslError: as :func:`run` does.
    """
    trunk, card = shared.load_encoder(encoder, plan.backbone)
    if plan.layers:
        trunk = Tapped(trunk, plan.layers, plan.backbone.frames)
    people = people_of(plan, boxes)
    placed = _placed(plan, people, videos, out.with_name("few.parquet"), time_origin, silent)
    every = placed.moments if people is None else people
    some = placed.moments[: plan.batch * MEASURED_BATCHES]
    extractor = _Extractor(plan, trunk)
    extractor.rows(replace(placed, moments=some[: plan.batch]), silent, len(some))
    started = time.monotonic()
    rows, _ = extractor.rows(replace(placed, moments=some), silent, len(some))
    keyframe_s = (time.monotonic() - started) / len(some)
    details = {"recipe": plan.model_dump(mode="json"), "decoder": decoder_version(plan.decoder)}
    writer = BankWriter(
        out,
        dim=trunk.features,
        identity=BankIdentity(card["hash"], details),
        plan=[sorted(placed.paths)],
        kind=plan.features,
    )
    writer.write_shard(0, rows)
    writer.close()
    count = sum(len(moment.boxes) for moment in every)
    return Measured(out, len(every), count, trunk.features, keyframe_s)


def people_of(plan: Extract, boxes: Sequence[Path]) -> list[Moment] | None:
    """Return the people in the boxes by key frame; None where the recipe is not about people.

    Raises:
        RecipeError: if boxes are given where none are asked for or the reverse.
        AnnotationError: if a file is wrong, or no box is sure enough.
    """
    if (plan.features == "box") != bool(boxes):
        asked = "of people: give them with --boxes" if not boxes else "not of people: leave --boxes"
        raise RecipeError(f"the recipe's features ({plan.features}) are {asked}")
    if not boxes:
        return None
    tables = [read_person_boxes(path, plan.min_score) for path in boxes]
    moments = [moment for table in tables for moment in detected(table)]
    if not moments:
        where = ", ".join(map(str, boxes))
        raise AnnotationError(f"{where}: no box has a score of at least {plan.min_score}")
    return moments


@contextmanager
def _beginning(out: Path) -> Iterator[None]:
    """Refuse a folder that is no place for a bank; leave none behind if the block refuses."""
    require_place(out)
    is_new, had_index = not out.exists(), (out / INDEX).exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException as error:
        if isinstance(error, VidsslError) and not had_index:  # an interrupted call goes on with it
            (out / INDEX).unlink(missing_ok=True)
        if is_new and not any(out.iterdir()):
            out.rmdir()
        raise


def _placed(
    plan: Extract,
    people: list[Moment] | None,
    videos: str,
    cache: Path,
    time_origin: str,
    progress: Progress,
) -> Placed:
    if people is not None:
        return shared.place_moments(people, videos, cache, progress, time_origin)
    stated = parse_origin(time_origin)
    index = open_index(videos, cache, progress)
    everywhere = stated.everywhere or 0.0
    moments = [
        moment
        for video, duration_s in _durations(index)
        for moment in _regular(
            video, duration_s, stated.by_video.get(video, everywhere), plan.rate, plan.side
        )
    ]
    reasons = {video_id(path): why for path, why in set_aside(index).items()}
    placed = place(moments, index, reasons, stated)
    return replace(placed, unusable=reasons | placed.unusable)


def _durations(index: ClipIndex) -> Iterator[tuple[str, float]]:
    for position in range(len(index)):
        location, duration_s = index.video(position)
        yield video_id(location), duration_s


def _regular(
    video: str, duration_s: float, origin_s: float, rate: float, grid: int
) -> Iterator[Moment]:
    """Give a video's key frames at a steady rate from its beginning on, with cells for people."""
    boxes = cell_boxes(grid)
    labels, scores = np.zeros((len(boxes), 0), np.bool_), np.ones(len(boxes))
    for number in range(int(duration_s * rate) + 1):
        yield Moment(video, origin_s + number / rate, boxes, labels, scores)


@dataclass(frozen=True)
class _Work:
    """The videos of each shard, the hash of their files, and the key frames of all."""

    shards: again.Plan
    made_of: Sequence[str]
    placed: Placed


def _write(
    writer: BankWriter,
    own: Sequence[int],
    work: "_Work",
    extractor: "_Extractor",
    progress: Progress,
) -> dict[str, str]:
    """Write those of the shards that are missing; return why videos could not be read."""
    missing = writer.missing(own)
    shard_of = {video: shard for shard in missing for video in work.shards[shard]}
    moments: dict[int, list[Moment]] = {shard: [] for shard in missing}
    for moment in work.placed.moments:
        if moment.video in shard_of:
            moments[shard_of[moment.video]].append(moment)
    total = sum(map(len, moments.values()))
    failed: dict[str, str] = {}
    for shard, mine in moments.items():
        rows, lost = extractor.rows(replace(work.placed, moments=mine), progress, total)
        failed |= dict(lost)
        writer.write_shard(shard, rows, failed_keyframes=len(lost), made_of=work.made_of[shard])
    return failed


class _Extractor:
    """The encoder at work on key frames."""

    def __init__(self, plan: Extract, trunk: Encoder) -> None:
        self.plan = plan
        self.device = device_of(plan.device)
        self.trunk = laid_out(trunk, self.device).eval()
        self.half = half_type(plan.precision if plan.precision != "auto" else "fp32", self.device)
        self.people = RoIHead(
            trunk.spatial_stride,
            resolution=plan.roi_resolution,
            aligned=plan.aligned,
            pooling=plan.pooling or "max",
        )
        self.reading = Reading(
            plan.backbone.frames,
            plan.backbone.stride,
            plan.decode_short_side_px,
            decoder=plan.decoder,
        )
        view = DetectionConfig(test_short_side_px=plan.short_side_px)
        self.batch = shared.batcher(view, trunk.spatial_stride, self.device, training=False)
        self.done = 0

    @torch.inference_mode()
    def rows(
        self, placed: Placed, progress: Progress, total: int
    ) -> tuple[BankRows, list[tuple[str, str]]]:
        """Return the rows of some key frames, and (video, reason) of each that cannot be read."""
        dataset = VideoChunks(placed, self.reading, self.plan.batch, None)
        parts: list[BankRows] = []
        failed: list[tuple[str, str]] = []
        batches = Loader(dataset, [[i] for i in range(len(dataset))], self.plan.loader)
        for (samples,) in stoppable(batches):
            if samples[0].clip.numel():
                parts.append(self._rows_of(samples))
            else:
                failed += [(sample.moment.video, sample.failed[0][1]) for sample in samples]
            self.done += len(samples)
            progress("extracting features", self.done, total)
        return BankRows.joined(parts, self.trunk.features), failed

    def _rows_of(self, samples: Sequence[KeyFrameSample]) -> BankRows:
        batch = self.batch(samples, 0)
        pooled = self._pooled(batch).float()
        moments = [sample.moment for sample in samples]
        counts = [len(moment.boxes) for moment in moments]
        return BankRows(
            videos=[moment.video for moment in moments for _ in moment.boxes],
            seconds=np.repeat([moment.timestamp for moment in moments], counts),
            boxes=np.concatenate([moment.boxes for moment in moments]),
            scores=np.concatenate([moment.scores for moment in moments]),
            features=pooled.cpu().numpy(),
        )

    def _pooled(self, batch: DetectionBatch) -> Tensor:
        dtype = self.half or torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.half is not None):
            maps = self.trunk.maps(batch.clips)
        if self.plan.features != "box":
            return pooled_cells(maps, self.plan.side, self.plan.pooling or "mean")
        height_px, width_px = batch.clips.shape[-2:]
        pooled: Tensor = self.people(maps, batch.boxes, (height_px, width_px))
        return pooled


def _files(placed: Placed) -> dict[str, str]:
    """Return a line for each video with its name, size and time origin."""
    lines = {}
    for video, path in placed.paths.items():
        origin_s = placed.origin_s(video)
        lines[video] = f"{video} {stat(path).bytes}{f' {origin_s}' if origin_s else ''}\n"
    return lines


def _fingerprint(files: Mapping[str, str], videos: Sequence[str]) -> str:
    """Return a short hash of the lines of some videos."""
    told = "".join(files[video] for video in sorted(videos))
    return hashlib.sha256(told.encode()).hexdigest()[:16]
