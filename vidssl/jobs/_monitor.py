"""Watching a pretraining: a few fixed clips now and then, and alarms on what is logged."""

from collections.abc import Callable, Mapping

import torch

from vidssl.data.clips import ClipReading
from vidssl.data.fixed import FixedClips, choose_fixed, read_fixed
from vidssl.methods import SSLMethod
from vidssl.nn.distributed import rank
from vidssl.nn.neighbours import same_class, same_video
from vidssl.progress import REMARK, Progress
from vidssl.recipe import Pretrain
from vidssl.sources import Listing
from vidssl.train.alarms import Alarms
from vidssl.train.folder import RunFolder
from vidssl.train.loop import Trainer
from vidssl.video.index import ClipIndex
from vidssl.video.storage import Location

BATCH = 16


def classes_of(listing: Listing) -> dict[Location, int]:
    """Return the class of each video that the source gives exactly one."""
    found: dict[Location, int] = {}
    for row in listing.entries.select(["video", "labels"]).to_batches():
        videos, labels = row.column("video"), row.column("labels")
        for video, label in zip(videos.to_pylist(), labels.to_pylist(), strict=True):
            if video is not None and label and len(label) == 1:
                found[listing.videos[video]] = label[0]
    return found


class Monitor:
    """Looks at the encoder every so many steps, on the first process alone."""

    def __init__(self, plan: Pretrain, index: ClipIndex, classes: Mapping[Location, int]) -> None:
        """Choose the videos; their clips are read when they are first wanted."""
        self.plan, self.index = plan, index
        self.clips: FixedClips | None = None
        self.wanted = rank() == 0 and plan.monitor.videos > 0
        self.rows = choose_fixed(index, classes, plan.monitor.videos) if self.wanted else {}

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """Return the scalars of this step; none where it is not one of those to look at."""
        if not self.wanted or trainer.step % self.plan.monitor.every:
            return {}
        if self.clips is None:
            self._read()
        if self.clips is None:
            self.wanted = False
            return {}
        return self._look(trainer, self.clips)

    def _read(self) -> None:
        plan = self.plan
        self.clips = read_fixed(
            self.index,
            self.rows,
            frames=plan.backbone.frames,
            stride=plan.backbone.stride,
            side_px=plan.augment.crop_px,
            reading=ClipReading(plan.decode_short_side_px, plan.decoder),
            loader=plan.loader,
        )

    @torch.inference_mode()
    def _look(self, trainer: Trainer, fixed: FixedClips) -> dict[str, float]:
        method = trainer.module
        assert isinstance(method, SSLMethod)
        training = method.encoder.training
        method.encoder.eval()
        try:
            with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.half):
                parts = [
                    method.encoder(clips.to(trainer.device)).float().cpu()
                    for clips in fixed.clips.split(BATCH)
                ]
        finally:
            method.encoder.train(training)
        features = torch.cat(parts)
        found = {"knn_video": float(same_video(features, fixed.video))}
        if len(fixed.label[fixed.label >= 0].unique()) > 1:
            found["knn_class"] = float(same_class(features, fixed.video, fixed.label))
        return found


def alarmed(
    causes: str, folder: RunFolder, progress: Progress
) -> Callable[[int, Mapping[str, float]], None]:
    """Return what raises an alarm over logged scalars: an event, and a remark to the person."""
    alarms = Alarms(causes)

    def note(step: int, scalars: Mapping[str, float]) -> None:
        for alarm in alarms.note(scalars):
            folder.event("alarm", alarm=alarm.name, step=step, words=alarm.words)
            progress(f"alarm at step {step}: {alarm.words}", 0, REMARK)

    return note
