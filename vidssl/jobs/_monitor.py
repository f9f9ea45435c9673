"""Watching a pretraining: a few fixed clips now and then, and alarms on what is logged."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from vidssl.data.clips import ClipReading
from vidssl.data.fixed import OF_A_CLASS, FixedClips, choose_fixed, read_fixed, spaced
from vidssl.methods import SSLMethod
from vidssl.nn.distributed import rank
from vidssl.nn.neighbours import same_class, same_video
from vidssl.progress import REMARK, Progress
from vidssl.recipe import Pretrain
from vidssl.sources import Listing
from vidssl.train.alarms import Alarms
from vidssl.train.folder import RunFolder
from vidssl.train.trainer import Trainer
from vidssl.video.index import ClipIndex
from vidssl.video.storage import Location

BATCH = 16


def classes_of(listing: Listing, most: int) -> dict[Location, int]:
    """Return the class of each video of at most ``most`` classes, at equal distances.

    Of classes with enough videos to watch, and videos that the source gives exactly one class.
    """
    labels = listing.entries["labels"].combine_chunks()
    lengths = np.asarray(labels.value_lengths().fill_null(0), dtype=np.int64)
    entry_video = np.asarray(listing.entries["video"].fill_null(-1), dtype=np.int64)
    video, label = np.repeat(entry_video, lengths), np.asarray(labels.flatten(), dtype=np.int64)
    video, label = video[video >= 0], label[video >= 0]
    lowest = np.full(len(listing.videos), np.iinfo(np.int64).max)
    highest = np.full(len(listing.videos), -1)
    np.minimum.at(lowest, video, label)
    np.maximum.at(highest, video, label)
    known = np.flatnonzero(lowest == highest)
    counts = np.bincount(highest[known])
    some = spaced(np.flatnonzero(counts >= OF_A_CLASS).tolist(), most)
    chosen = known[np.isin(highest[known], some)]
    return {listing.videos[n]: int(highest[n]) for n in chosen.tolist()}


class Monitor:
    """Looks at the encoder every so many steps, on the first process alone."""

    def __init__(self, plan: Pretrain, index: ClipIndex, listing: Listing) -> None:
        """Choose the videos; their clips are read when they are first wanted."""
        self.plan, self.index = plan, index
        self.clips: FixedClips | None = None
        self.wanted = rank() == 0 and plan.monitor.videos > 0
        self.rows = _rows(index, listing, plan.monitor.videos) if self.wanted else {}

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """Return the scalars of this step; none where it is not one of those to look at.

        Those are every ``monitor.every``-th, and the first and the last to compare it with.
        """
        done = trainer.step
        due = done % self.plan.monitor.every == 0 or done in {1, trainer.plan.steps}
        if not self.wanted or not due:
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
            with trainer.autocast():
                parts = [
                    method.encoder(clips).float().cpu()
                    for clips in fixed.batches(BATCH, trainer.device)
                ]
        finally:
            method.encoder.train(training)
        features = torch.cat(parts)
        found = {"knn_video": float(same_video(features, fixed.video))}
        if len(set(fixed.label.tolist()) - {-1}) > 1:
            found["knn_class"] = float(same_class(features, fixed.video, fixed.label))
        return found


def _rows(index: ClipIndex, listing: Listing, videos: int) -> dict[int, int]:
    return choose_fixed(index, classes_of(listing, videos // OF_A_CLASS), videos)


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
