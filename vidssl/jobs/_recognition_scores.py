"""A classifier at work on the views of every video of a list.

Each video's views go through the network by themselves, so that its scores depend neither on the
other videos nor on how many processes share them. Scores are on the disk every so many videos, in
``OUT/.parts``: whoever is stopped goes on from there, with any number of processes. All of them
see one disk.

Array suffixes: V clips, T frames, K classes.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.augment.recognition import RecognitionConfig, side_crops
from vidssl.data.clips import ClipReading, ClipSample
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.errors import (
    AnnotationError,
    Interrupted,
    OutputError,
    SourceError,
    VidsslError,
    listed,
)
from vidssl.features.operators import BankWindow
from vidssl.files import write_text
from vidssl.jobs._banks import Memory, stacked
from vidssl.jobs._item_clips import ItemClips
from vidssl.jobs._stopping import stoppable, terminated_like_ctrl_c
from vidssl.jobs._tested import Item
from vidssl.jobs.index import open_index, set_aside
from vidssl.nn.distributed import first_here, rank, wait_for_all, world_size
from vidssl.nn.layout import laid_out
from vidssl.progress import Progress
from vidssl.recognition import scores as files
from vidssl.recognition.classifier import Classifier
from vidssl.recognition.protocol import Protocol
from vidssl.recognition.scores import About, Scores
from vidssl.recognition.views import clip_scores, video_scores
from vidssl.train.trainer import half_type
from vidssl.video.index import ClipIndex
from vidssl.video.reader import Decoder
from vidssl.video.storage import Location

SCORES, PARTS, INDEX, ABOUT = "scores.parquet", ".parts", ".index.parquet", "about.json"
VIDEOS_A_PART = 64


@dataclass(frozen=True)
class Work:
    """What is to be done: ``items`` by a network under a protocol, and where it is kept.

    ``source`` gives their videos, ``index`` is one that was made of it before. ``memory`` is for a
    network that reads a feature bank.
    """

    items: Sequence[Item]
    source: str
    protocol: Protocol
    about: About
    out: Path
    index: Path | None = None
    clips_at_once: int = 10
    decoder: Decoder = "auto"
    memory: Memory | None = None
    loader: LoaderConfig = field(default_factory=LoaderConfig)


def predicted(
    work: Work, classifier: Classifier, device: torch.device, retry: bool, progress: Progress
) -> Scores:
    """Return the scores of all items, written to ``OUT/scores.parquet``; those there are kept.

    With ``retry`` only those of videos that did not fail. All processes return the same.

    Raises:
        OutputError: if ``out`` holds the scores of something else, or cannot be written.
        SourceError: if no video can be decoded.
        Interrupted: on Ctrl-C or SIGTERM, after what was scored; the same call goes on.
    """
    whole = work.out / SCORES
    with first_here():
        found = _finished(work)
        if found is not None and (found.is_ok.all() or not retry):
            return found
        with _beginning(work):
            located = _located(work, progress)
    known = {} if found is None else _rows_of(found, retry)
    known |= _rows_of_parts(work, retry)
    with terminated_like_ctrl_c():
        _Predictor(work, classifier, device, progress).run(located, known)
    wait_for_all()
    with first_here():
        if rank() == 0:
            rows = ({} if found is None else _rows_of(found, retry)) | _rows_of_parts(work, False)
            files.write(_together(work, rows), whole)
            shutil.rmtree(work.out / PARTS, ignore_errors=True)
            (work.out / INDEX).unlink(missing_ok=True)
    return files.read(whole)


# --- what there is


@dataclass(frozen=True)
class _Located:
    """The videos' lengths by path, and why others cannot be used."""

    duration_s: Mapping[Location, float]
    reasons: Mapping[Location, str]


@dataclass(frozen=True)
class _Row:
    """What is known of one item."""

    scores: NDArray[np.float32]
    reason: str


def _finished(work: Work) -> Scores | None:
    """Return the scores that are there already.

    Raises:
        OutputError: if they are not those of this work.
    """
    path = work.out / SCORES
    if not path.exists():
        return None
    try:
        found = files.read(path)
    except AnnotationError as error:
        raise OutputError(f"{error}; choose another folder with --out") from None
    _require_same(work, path, found.about.protocol)
    return _together(work, _rows_of(found, False))  # in the order of the list, if that changed


@contextmanager
def _beginning(work: Work) -> Iterator[None]:
    """Make the folder of parts, or take up that of the same work; leave nothing if it is refused.

    Raises:
        OutputError: if the parts are of other work, or cannot be written.
    """
    path = work.out / PARTS / ABOUT
    if path.exists():
        try:
            there = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise OutputError(f"{path}: is damaged; remove {path.parent}") from None
        _require_same(work, path.parent, there)
        yield
        return
    is_new = not work.out.exists()
    write_text(path, json.dumps(work.about.protocol) + "\n")
    try:
        yield
    except VidsslError:
        shutil.rmtree(path.parent, ignore_errors=True)
        (work.out / INDEX).unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                work.out.rmdir()
        raise


def _require_same(work: Work, path: Path, there: Mapping[str, Any]) -> None:
    here = json.loads(json.dumps(work.about.protocol))
    differ = [
        f"{key}: {there.get(key)} there, {here.get(key)} here"
        for key in dict.fromkeys([*there, *here])
        if there.get(key) != here.get(key)
    ]
    if differ:
        title = f"{path}: holds other scores; choose another folder with --out"
        raise OutputError(listed(title, differ))


def _located(work: Work, progress: Progress) -> _Located:
    if work.index is not None:
        index = ClipIndex(work.index)
    else:
        index = open_index(work.source, work.out / INDEX, progress)
    durations = dict(index.video(number) for number in range(len(index)))
    located = _Located(durations, set_aside(index))
    reasons = [_why_not(item, located) for item in work.items]
    if all(reasons):
        told = [f"{one.id}: {why}" for one, why in zip(work.items, reasons, strict=True)]
        raise SourceError(listed(f"none of the {len(told)} videos can be scored", told, 8))
    return located


def _rows_of(scores: Scores, retry: bool) -> dict[str, _Row]:
    rows = zip(scores.ids, scores.scores, scores.reasons, strict=True)
    return {one: _Row(values, why) for one, values, why in rows if not (retry and why)}


def _rows_of_parts(work: Work, retry: bool) -> dict[str, _Row]:
    rows: dict[str, _Row] = {}
    for path in sorted((work.out / PARTS).glob("*.parquet")):
        for one, row in _rows_of(files.read(path), retry).items():
            if one not in rows or rows[one].reason:  # what was read stays, whoever failed at it
                rows[one] = row
    return rows


def _together(work: Work, rows: Mapping[str, _Row]) -> Scores:
    nothing = _Row(np.zeros(work.about.num_classes, np.float32), "not looked at")
    found = [rows.get(item.id, nothing) for item in work.items]
    return Scores(
        tuple(item.id for item in work.items),
        tuple(item.labels for item in work.items),
        np.stack([row.scores for row in found]),
        tuple(row.reason for row in found),
        work.about,
    )


# --- the work itself


class _Predictor:
    """The network, what it has seen, and what of that is not on the disk yet."""

    def __init__(
        self, work: Work, classifier: Classifier, device: torch.device, progress: Progress
    ) -> None:
        self.work, self.device, self.progress = work, device, progress
        self.network = laid_out(classifier, device).eval()
        self.half = half_type(work.protocol.precision, device)
        self.fresh: list[tuple[Item, _Row]] = []
        self.crops = RecognitionConfig(
            crop_px=1,
            short_side_px=None,
            test_short_side_px=work.protocol.short_side_px,
            test_crop_px=work.protocol.crop_px,
        )

    def run(self, located: _Located, known: Mapping[str, _Row]) -> None:
        """Predict this process's share: every N-th item that is not known."""
        own = self.work.items[rank() :: world_size()]
        todo = [item for item in own if item.id not in known]
        readable: list[Item] = []
        for item in todo:
            if why := _why_not(item, located):
                self._keep(item, _Row(np.zeros(self.work.about.num_classes, np.float32), why))
            else:
                readable.append(item)
        done = len(own) - len(readable)
        protocol = self.work.protocol
        reading = ClipReading(protocol.decode_short_side_px, self.work.decoder)
        dataset = ItemClips(readable, located.duration_s, protocol, reading)
        batches = Loader(dataset, [[n] for n in range(len(readable))], self.work.loader)
        try:
            for number, (sample,) in enumerate(stoppable(batches)):
                self._keep(readable[number], self._row(sample))
                self.progress("scoring videos", done + number + 1, len(own))
        except KeyboardInterrupt:
            self._flush()
            left = len(own) - done - len(_rows_of_parts(self.work, False).keys() & _ids(readable))
            raise Interrupted(f"{self.work.out}: {left} of {len(own)} videos are to do") from None
        self._flush()

    def _keep(self, item: Item, row: _Row) -> None:
        self.fresh.append((item, row))
        if len(self.fresh) >= VIDEOS_A_PART:
            self._flush()

    def _flush(self) -> None:
        if not self.fresh:
            return
        part = _together(
            replace(self.work, items=[item for item, _ in self.fresh]),
            {item.id: row for item, row in self.fresh},
        )
        folder, own = self.work.out / PARTS, f"{rank():04}"
        number = len(list(folder.glob(f"{own}-*.parquet")))
        files.write(part, folder / f"{own}-{number:06}.parquet")
        self.fresh.clear()

    @torch.inference_mode()
    def _row(self, sample: ClipSample) -> _Row:
        nothing = np.zeros(self.work.about.num_classes, np.float32)
        if sample.failed:
            return _Row(nothing, sample.failed[0][1])
        how = self.work.protocol
        parts: list[Tensor] = []
        step = max(1, self.work.clips_at_once // how.crops)
        for first in range(0, len(sample.views), step):
            views = torch.cat([self._crops(c) for c in sample.views[first : first + step]])
            dtype = self.half or torch.bfloat16
            seen = self._seen(sample, slice(first, first + step))
            with torch.autocast(self.device.type, dtype, enabled=self.half is not None):
                parts.append(clip_scores(self.network, views, how.activation, how.window, seen))
        values = video_scores(torch.cat(parts), how.gathering).cpu().numpy()
        (reason,) = files.finite(values[None], [""])
        return _Row(nothing if reason else values, reason)

    def _seen(self, sample: ClipSample, part: slice) -> BankWindow | None:
        """Return what those of a sample's clips see of the bank, once for each crop."""
        if self.work.memory is None:
            return None
        windows = [
            window
            for times_s in sample.times_s[part]
            for window in [self.work.memory.of(sample.video, times_s)] * self.work.protocol.crops
        ]
        return stacked(windows, self.device)

    def _crops(self, clip_THWC: Tensor) -> Tensor:
        clip = clip_THWC.to(self.device, non_blocking=True)
        return side_crops(clip, self.crops, self.work.protocol.sides)


def _ids(items: Sequence[Item]) -> set[str]:
    return {item.id for item in items}


def _why_not(item: Item, located: _Located) -> str:
    """Return why an item cannot be read, or nothing."""
    if item.path is None:
        return "no such video"
    if item.path not in located.duration_s:
        return located.reasons.get(item.path, "not in the index")
    length_s = located.duration_s[item.path]
    if item.start_s is not None and item.start_s >= length_s:
        return f"begins at {item.start_s:g} s, and the video ends at {length_s:.2f} s"
    return ""
