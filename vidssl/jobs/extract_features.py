"""``vidssl extract-features``: a long-term feature bank of every person in every second."""

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vidssl.augment.views import DetectionConfig
from vidssl.ava.annotations import read_person_boxes
from vidssl.ava.origins import summary
from vidssl.backbones import Encoder
from vidssl.data.keyframes import KeyFrameSample, Placed, Reading, VideoChunks, detected
from vidssl.data.loader import Loader
from vidssl.detection.roi_head import RoIHead
from vidssl.errors import AnnotationError, Interrupted
from vidssl.features import BankIdentity, BankRows, BankWriter
from vidssl.files import sha256
from vidssl.jobs import _detector as shared
from vidssl.jobs._geometry import remark
from vidssl.jobs._stopping import stoppable
from vidssl.nn.layout import laid_out
from vidssl.progress import Progress, silent
from vidssl.recipe import Extract
from vidssl.train.trainer import device_of
from vidssl.video.reader import decoder_version
from vidssl.video.storage import stat
from vidssl.video.workers import preload


@dataclass(frozen=True)
class ExtractResult:
    """The bank, and what of the boxes' key frames could not be read.

    ``time_origins`` gives each origin with its number of videos and the evidence.
    """

    bank: Path
    rows: int
    dim: int
    videos: int
    keyframes: int
    failed_keyframes: int
    unusable_videos: dict[str, str]
    time_origins: list[dict[str, object]]
    encoder_hash: str
    seconds: float


def run(
    plan: Extract,
    encoder: Path,
    videos: str,
    boxes: Sequence[Path],
    out: Path,
    *,
    time_origin: str = "auto",
    progress: Progress = silent,
) -> ExtractResult:
    """Write the bank of the people in ``boxes`` to ``out``, or finish it where it was stopped.

    Rows carry the boxes' own times, from wherever these count; ``time_origin`` says from where:
    ``auto``, seconds, or a csv file of video and seconds.

    Raises:
        AnnotationError: if the boxes are wrong, or no video is there for them.
        CheckpointError: if the encoder is absent, damaged or does not fit the recipe.
        BankError: if ``out`` holds another bank.
        OutputError: if ``out`` holds something else.
        Interrupted: on Ctrl-C, after the shards so far; the same call writes the rest.
    """
    started = time.monotonic()
    preload(["vidssl.data.keyframes"])
    shared.require_alone("extract-features")
    trunk, card = shared.load_encoder(encoder, plan.backbone)
    remark(card, plan.backbone, None, progress)
    tables = [read_person_boxes(path, plan.min_score) for path in boxes]
    moments = [moment for table in tables for moment in detected(table)]
    if not moments:
        where = ", ".join(map(str, boxes))
        raise AnnotationError(f"{where}: no box has a score of at least {plan.min_score}")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "index.parquet"
        placed = shared.place_moments(moments, videos, cache, progress, time_origin)
    names = sorted(placed.paths)
    shards = [
        names[i : i + plan.videos_per_shard] for i in range(0, len(names), plan.videos_per_shard)
    ]
    details = {
        "recipe": plan.model_dump(mode="json", exclude={"loader", "device", "batch"}),
        "boxes": [sha256(path)[:16] for path in boxes],
        "videos": _fingerprint(placed),
        "decoder": decoder_version(plan.decoder),
    }
    identity = BankIdentity(card["hash"], details)
    writer = BankWriter(out, dim=trunk.features, identity=identity, plan=shards)
    extractor = _Extractor(plan, trunk)
    failed: list[tuple[str, str]] = []
    try:
        for shard in writer.missing():
            members = set(shards[shard])
            mine = [moment for moment in placed.moments if moment.video in members]
            rows, lost = extractor.rows(
                replace(placed, moments=mine), progress, len(placed.moments)
            )
            failed += lost
            writer.write_shard(shard, rows)
    except KeyboardInterrupt:
        left = len(writer.missing())
        raise Interrupted(f"{out}: {left} of {len(shards)} shards are still to do") from None
    bank = writer.close()
    return ExtractResult(
        bank=out,
        rows=len(bank),
        dim=bank.dim,
        videos=len(names),
        keyframes=len(placed.moments),
        failed_keyframes=len(failed) + placed.lost,
        unusable_videos=placed.unusable | dict(failed),
        time_origins=summary(placed.origins),
        encoder_hash=bank.encoder_hash,
        seconds=time.monotonic() - started,
    )


class _Extractor:
    """The encoder at work on key frames."""

    def __init__(self, plan: Extract, trunk: Encoder) -> None:
        self.plan = plan
        self.device = device_of(plan.device)
        self.trunk = laid_out(trunk, self.device).eval()
        self.pool = RoIHead(trunk.spatial_stride, resolution=plan.roi_resolution)
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
        height_px, width_px = batch.clips.shape[-2:]
        pooled = self.pool(self.trunk.maps(batch.clips), batch.boxes, (height_px, width_px))
        moments = [sample.moment for sample in samples]
        counts = [len(moment.boxes) for moment in moments]
        return BankRows(
            videos=[moment.video for moment in moments for _ in moment.boxes],
            seconds=np.repeat([moment.timestamp for moment in moments], counts),
            boxes=np.concatenate([moment.boxes for moment in moments]),
            scores=np.concatenate([moment.scores for moment in moments]),
            features=pooled.cpu().numpy(),
        )


def _fingerprint(placed: Placed) -> str:
    """Return a short hash of the videos' names, sizes and time origins."""
    digest = hashlib.sha256()
    for video, path in sorted(placed.paths.items()):
        origin_s = placed.origin_s(video)
        digest.update(f"{video} {stat(path).bytes}{f' {origin_s}' if origin_s else ''}\n".encode())
    return digest.hexdigest()[:16]
