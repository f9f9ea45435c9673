"""The frozen features of every video of a source, kept in feature banks.

The cache has a folder for each encoder, protocol and set of videos, named by their hashes. In it
are a bank for each way of showing a clip's frames (``normal``, ``static`` ...), a row a clip, its
time the clip's start; ``tokens``, a bank of cells of the map, if they were wanted; and
``failed-NNNNN.json`` with the videos of a shard that could not be read, and why. What is there is
never decoded again, and whoever is stopped goes on from there, with any number of processes: those
that torchrun started share the shards that are to do, and see one disk. A shard is the same
whichever process encodes it. What failed is read again only if that is asked for.

Array suffixes: V clips, T frames, C channels, S pixels a side, F features, L tokens, N videos.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from torch import Tensor

from vidssl.augment import geometry
from vidssl.augment.views import normalise
from vidssl.data.clips import ClipReading, ClipSample
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.errors import BankError, Interrupted
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter
from vidssl.features.manifest import BANK_JSON, Kind, Manifest
from vidssl.files import replacing_folder, write_text
from vidssl.jobs._item_clips import ItemClips
from vidssl.jobs._probe_encoder import Looked
from vidssl.jobs._stopping import stoppable, terminated_like_ctrl_c
from vidssl.jobs._tested import Item, Tested
from vidssl.jobs.index import open_index, set_aside
from vidssl.nn.distributed import (
    Tally,
    first_here,
    gather_texts,
    rank,
    wait_for_all,
    world_size,
)
from vidssl.nn.layout import laid_out
from vidssl.probe.motion import Time, frame_order
from vidssl.probe.tokens import StoredTokens
from vidssl.progress import Progress, silent
from vidssl.recognition.protocol import Protocol
from vidssl.recognition.views import pools_its_map
from vidssl.train.trainer import half_type
from vidssl.video.index import ClipIndex, read_tables
from vidssl.video.reader import Decoder, decoder_version

TOKENS = "tokens"
VIDEOS_A_SHARD, FEWEST_A_SHARD, SHARDS = 256, 8, 64
"""As many shards as there are for processes to share, within these bounds of their size."""
CELLS = (4, 4, 4)
"""At most so many times, rows and columns of a clip's map are kept as tokens."""
FORMAT = 1


@dataclass(frozen=True)
class Work:
    """What is wanted: features of ``found``, the videos of ``source``, by an encoder.

    ``cache`` is the folder of all caches; ``tokens`` are of normal clips. ``retry`` reads again
    what the cache says has failed.
    """

    found: Tested
    source: str
    looked: Looked
    protocol: Protocol
    cache: Path
    times: tuple[Time, ...] = ("normal",)
    tokens: bool = False
    clips_at_once: int = 16
    retry: bool = False
    decoder: Decoder = "auto"
    loader: LoaderConfig = field(default_factory=LoaderConfig)


@dataclass(frozen=True)
class Frozen:
    """Features of the videos that could be read, and why others could not.

    ``features`` are by way of showing a clip, ``(N, F)`` float32, the mean over its clips, for
    ``ids`` in the order of the source; ``tokens`` ``(N, L, F)``, stored, where they were wanted.
    ``decoded`` counts videos that were looked at this time, and were not in the cache;
    ``remembered`` those of the failures that were not, and might be read if that was tried again.
    """

    folder: Path
    ids: tuple[str, ...]
    failures: dict[str, str]
    features: Mapping[Time, NDArray[np.float32]]
    tokens: StoredTokens | None
    decoded: int
    data: str
    """A short hash of the videos: names, times, lengths and sizes."""
    remembered: int = 0


@dataclass(frozen=True)
class Banked:
    """What is in the cache of one work, features not yet read from it, for the first process.

    ``looked_at`` names the videos that were looked at this time, by whichever process, ``lasting``
    those that there is no use in trying again.
    """

    work: Work
    folder: Path
    data: str
    failures: Mapping[str, str]
    looked_at: frozenset[str]
    lasting: frozenset[str]

    def frozen(self) -> Frozen:
        """Return the features.

        Raises:
            BankError: if a bank is damaged.
        """
        return _gathered(self)


def collect(work: Work, device: torch.device, progress: Progress = silent) -> Frozen:
    """Return the features, from the cache as far as they are there.

    Raises:
        SourceError: if no video can be decoded.
        BankError: if a cached bank is damaged, or a feature is no finite number.
        OutputError: if the cache cannot be written.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    return look(work, device, progress).frozen()


def look(work: Work, device: torch.device, progress: Progress = silent) -> Banked:
    """Put into the cache what it lacks, together with the other processes; all must call it.

    Raises:
        SourceError, BankError, OutputError, Interrupted: as :func:`collect`.
    """
    with terminated_like_ctrl_c():
        with first_here():
            index = _indexed(work, progress)
            data = _data(work, index.path)
            maker = _Maker(
                work, _folder(work, data), _described(work, data), index, device, progress
            )
        try:
            todo = maker.run()
        except KeyboardInterrupt:
            raise Interrupted(
                f"{maker.folder}: {maker.left} of {maker.share} parts are to do"
            ) from None
    shards = range(len(maker.plan)) if rank() == 0 else ()  # the others have no use for it
    failures = {one: why for shard in shards for one, why in maker.told(shard)}
    looked_at = frozenset(item.id for items in todo.values() for item in items)
    lasting = frozenset(item.id for item in work.found.items if maker.is_lasting(item))
    return Banked(work, maker.folder, data, failures, looked_at, lasting)


NOT_OF_FEATURES = {"pooling", "activation", "over_views"}
"""Settings of a protocol that are a classifier's."""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _described(work: Work, data: str) -> dict[str, Any]:
    """Return what decides the features, beside the encoder."""
    views = work.protocol.fingerprint()
    return {
        "format": FORMAT,
        "backbone": work.looked.backbone.model_dump(mode="json"),  # weights do not say it all
        "views": {key: value for key, value in views.items() if key not in NOT_OF_FEATURES},
        "decoder": decoder_version(work.decoder),
        "data": data,
    }


def _folder(work: Work, data: str) -> Path:
    return work.cache / f"{work.looked.hash}-{_hash(json.dumps(_described(work, data)))}"


def _indexed(work: Work, progress: Progress) -> ClipIndex:
    """Return an index of the videos, kept in the cache; to try again is the first process's."""
    paths = "\n".join(sorted({str(item.path) for item in work.found.items}))
    cache = work.cache / f".index-{_hash(paths)}.parquet"
    is_known = cache.exists()
    index = open_index(work.source, cache, progress)
    again = work.retry and rank() == 0 and is_known and index.path == cache
    if not again or not index.set_aside:
        return index
    before = _data(work, cache)
    index = open_index(work.source, cache, progress, retry=True)
    _carry_over(work, before, _data(work, cache))
    return index


def _carry_over(work: Work, before: str, data: str) -> None:
    """Have the banks of videos, more of which can be used than before, under their hash of now.

    The folder of before stays for those who have an index of their own: its files are linked, and
    take no room twice where the disk knows links.
    """
    old, new = _folder(work, before), _folder(work, data)
    if not old.is_dir() or new.exists():
        return
    with replacing_folder(new) as aside:
        shutil.copytree(old, aside, copy_function=_link, dirs_exist_ok=True)
        for path in aside.glob(f"*/{BANK_JSON}"):
            bank = Manifest.read(path.parent)
            details = {**bank.identity.details, "data": data}
            replace(bank, identity=replace(bank.identity, details=details)).write(path.parent)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every disk knows links
        shutil.copy2(source, target)


def _data(work: Work, index: Path) -> str:
    about: dict[str, tuple[int, float]] = {}
    for part in read_tables(index, ["path", "bytes", "duration_s"]):
        for row in part.to_pylist():
            about[row["path"]] = (row["bytes"], row["duration_s"])
    lines = [
        json.dumps([item.id, item.start_s, item.end_s, about.get(item.path or "")])
        for item in work.found.items
    ]
    return _hash("\n".join(lines))


# --- from videos to banks


class _Maker:
    """The banks of one encoder, protocol and set of videos, and what is missing of them.

    ``left`` of the ``share`` of shards that are this process's are to do.
    """

    def __init__(
        self,
        work: Work,
        folder: Path,
        described: Mapping[str, Any],
        index: ClipIndex,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.work, self.folder, self.device, self.progress = work, folder, device, progress
        self.durations = dict(index.video(number) for number in range(len(index)))
        self.reasons = set_aside(index)
        self.is_own_index = index.path.parent == work.cache
        items = work.found.items
        size = _shard_size(folder, len(items))
        self.plan = [items[first : first + size] for first in range(0, len(items), size)]
        self.left = self.share = 0
        encoder = work.looked.encoder
        self.writers: dict[str, BankWriter] = {}
        kinds: dict[str, Kind] = {time: "clip" for time in work.times}
        for name, kind in (kinds | ({TOKENS: "grid"} if work.tokens else {})).items():
            details = {**described, "frames": name}
            if name == TOKENS:
                details["cells"] = CELLS
            self.writers[name] = BankWriter(
                folder / name,
                dim=encoder.features,
                identity=BankIdentity(work.looked.hash, details),
                plan=[[item.id for item in shard] for shard in self.plan],
                kind=kind,
            )

    def run(self) -> dict[int, Sequence[Item]]:
        """Write what is missing; return what was looked at for it, by all processes."""
        todo = self._todo()
        own = {shard: todo[shard] for shard in sorted(todo)[rank() :: world_size()]}
        self.left = self.share = len(own)
        counter = _Counter(sum(map(len, todo.values())), self.progress)
        if own:
            self._look(own, counter)
        wait_for_all(counter.tell)
        counter.tell()
        with first_here():
            if rank() == 0:
                for writer in self.writers.values():
                    if not Manifest.read(writer.folder).complete:
                        writer.close()
                for path in self.folder.glob(".failed-*.part"):  # of processes that were killed
                    path.unlink(missing_ok=True)
        return todo

    def _todo(self) -> dict[int, Sequence[Item]]:
        """Return what is to be looked at, by shard; each process asks its share of the disk."""
        own = range(len(self.plan))[rank() :: world_size()]
        unfinished = [w for w in self.writers.values() if not Manifest.read(w.folder).complete]
        missing = {shard for writer in unfinished for shard in writer.missing(own)}
        missing |= {shard for shard in own if not self._failed(shard).exists()}
        found = {str(shard): "all" for shard in missing}
        for shard in own if self.work.retry else ():
            if shard not in missing and (places := self._lacking(shard)):
                found[str(shard)] = json.dumps(places)
        told = gather_texts(found)
        return {
            shard: self.plan[shard]
            if (text := told[str(shard)]) == "all"
            else [self.plan[shard][place] for place in json.loads(text)]
            for shard in sorted(map(int, told))
        }

    def _lacking(self, shard: int) -> list[int]:
        """Return the places of a shard's videos that a bank has no rows of, if there is hope.

        Of a damaged shard these are all places.
        """
        try:
            known = [writer.videos_in(shard) for writer in self.writers.values()]
        except BankError:
            return [*range(len(self.plan[shard]))]
        return [
            place
            for place, item in enumerate(self.plan[shard])
            if not (all(item.id in videos for videos in known) or self.is_lasting(item))
        ]

    def _look(self, own: Mapping[int, Sequence[Item]], counter: "_Counter") -> None:
        """Read and encode this process's share."""
        encoding = _Encoding(self.work, self.device)
        readable = [item for items in own.values() for item in items if not self._why_not(item)]
        protocol = self.work.protocol
        reading = ClipReading(protocol.decode_short_side_px, self.work.decoder, _Cut(protocol))
        dataset = ItemClips(readable, self.durations, protocol, reading)
        loader = Loader(dataset, [[n] for n in range(len(readable))], self.work.loader)
        stream = cast(Generator[list[ClipSample]], stoppable(loader))
        with closing(stream) as samples:
            for shard, items in own.items():
                failed: dict[str, str] = {}
                for item in items:
                    why = self._why_not(item)
                    if not why:
                        (sample,) = next(samples)
                        why = sample.failed[0][1] if sample.failed else ""
                    if why:
                        failed[item.id] = why
                    else:
                        encoding.add(item, sample)
                    counter.tell(1)
                self._write(shard, items, encoding.rows(), failed)
                self.left -= 1

    def told(self, shard: int) -> list[tuple[str, str]]:
        """Return (id, reason) of the videos of a shard that could not be read.

        Raises:
            BankError: if that is not known.
        """
        path = self._failed(shard)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return [(str(one), str(why)) for one, why in found.items()]
        except (OSError, ValueError, AttributeError) as error:
            raise BankError(f"{path}: damaged; remove it to look at its videos again") from error

    def _write(
        self,
        shard: int,
        items: Sequence[Item],
        rows: Mapping[str, BankRows],
        failed: Mapping[str, str],
    ) -> None:
        """Write what came of some videos of a shard beside what there is of the others."""
        looked_at = {item.id for item in items}
        is_whole = len(looked_at) == len(self.plan[shard])
        is_richer = len(failed) < len(looked_at)
        if not is_whole:
            failed = {o: why for o, why in self.told(shard) if o not in looked_at} | dict(failed)
        for name, writer in self.writers.items() if is_whole or is_richer else ():
            new = rows[name] if is_whole else _beside(writer.rows(shard), looked_at, rows[name])
            writer.write_shard(shard, new, failed_keyframes=len(failed))
        write_text(self._failed(shard), json.dumps(failed, indent=1) + "\n")

    def _failed(self, shard: int) -> Path:
        return self.folder / f"failed-{shard:05d}.json"

    def is_lasting(self, item: Item) -> bool:
        """Whether the video would fail again for what is known, so that nobody need try."""
        if item.path is not None and item.path in self.reasons:
            return not self.is_own_index
        return bool(self._why_not(item))

    def _why_not(self, item: Item) -> str:
        """Return why an item cannot be read, or nothing."""
        if item.path is None:
            return "no such video"
        if item.path not in self.durations:
            return self.reasons.get(item.path, "not in the index")
        length_s = self.durations[item.path]
        if item.start_s is not None and item.start_s >= length_s:
            return f"begins at {item.start_s:g} s, and the video ends at {length_s:.2f} s"
        return ""


class _Counter:
    """The videos that all processes have looked at, told of by whoever counts, once each time."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.progress = total, progress
        self.tally, self.told = Tally(), 0

    def tell(self, more: int = 0) -> None:
        """Count some more, and tell if there are more than before."""
        count = self.tally.add(more)
        if count > self.told:
            self.told = count
            self.progress("looking at videos", count, self.total)


def _shard_size(folder: Path, videos: int) -> int:
    """Return how many videos make a shard: what banks there have, for they cannot be parted anew.

    Otherwise it depends on the number of videos alone, and not on that of processes.
    """
    for path in sorted(folder.glob(f"*/{BANK_JSON}")):
        if plan := Manifest.read(path.parent).plan:
            return len(plan[0])
    return min(VIDEOS_A_SHARD, max(FEWEST_A_SHARD, -(-videos // SHARDS)))


def _beside(there: BankRows, looked_at: set[str], now: BankRows) -> BankRows:
    """Return rows of now with those of the videos that were not looked at."""
    kept = np.array([video not in looked_at for video in there.videos], np.bool_)
    others = BankRows(
        [video for video in there.videos if video not in looked_at],
        *(there.seconds[kept], there.boxes[kept], there.scores[kept], there.features[kept]),
    )
    return BankRows.joined([others, now], now.features.shape[1])


@dataclass(frozen=True)
class _Kept:
    """A video whose clips wait for the encoder: ``(V * crops, T, C, S, S)`` bytes."""

    item: Item
    starts_s: NDArray[np.float64]
    clips: Tensor
    span_s: float


class _Encoding:
    """The encoder at work, several videos at once; rows gather until they are asked for."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self.work, self.device = work, device
        self.encoder = laid_out(work.looked.encoder, device).eval()
        self.half = half_type(work.protocol.precision, device)
        self.waiting: list[_Kept] = []
        self.parts: dict[str, list[BankRows]] = {}

    def add(self, item: Item, sample: ClipSample) -> None:
        """Take a video's clips."""
        starts_s = np.array([float(times_s[0]) for times_s in sample.times_s])
        span_s = float(sample.times_s[0][-1] - sample.times_s[0][0])
        self.waiting.append(_Kept(item, starts_s, torch.cat(sample.views), span_s))
        if sum(len(kept.clips) for kept in self.waiting) >= self.work.clips_at_once:
            self._encode()

    def rows(self) -> dict[str, BankRows]:
        """Return the rows since the last call, by bank."""
        if self.waiting:
            self._encode()
        dim = self.work.looked.encoder.features
        names = [*self.work.times, *([TOKENS] if self.work.tokens else [])]
        rows = {name: BankRows.joined(self.parts.get(name, []), dim) for name in names}
        self.parts = {}
        return rows

    @torch.inference_mode()
    def _encode(self) -> None:
        waiting, self.waiting = self.waiting, []
        clips_BTCSS = torch.cat([kept.clips for kept in waiting]).to(self.device)
        for time in self.work.times:
            shown = self._shown(clips_BTCSS, waiting, time)
            with_tokens = self.work.tokens and time == "normal"
            dtype = self.half or torch.bfloat16
            with torch.autocast(self.device.type, dtype, enabled=self.half is not None):
                maps = self.encoder.maps(shown) if with_tokens else None
                mean = maps is not None and pools_its_map(self.encoder)
                features = maps.mean(dim=(2, 3, 4)) if maps is not None and mean else None
                features = self.encoder(shown) if features is None else features
            self._keep(time, waiting, features.float())
            if maps is not None:
                self._keep_tokens(waiting, maps.float())

    def _shown(self, clips_BTCSS: Tensor, waiting: Sequence[_Kept], time: Time) -> Tensor:
        """Return the clips as the encoder takes them, their frames in the order of ``time``."""
        if time != "normal":
            crops = self.work.protocol.crops
            orders = [
                frame_order(time, clips_BTCSS.shape[1], name=kept.item.id, clip=number // crops)
                for kept in waiting
                for number in range(len(kept.clips))
            ]
            order_BT = torch.from_numpy(np.stack(orders)).to(self.device)
            row_B1 = torch.arange(len(order_BT), device=self.device)[:, None]
            clips_BTCSS = clips_BTCSS[row_B1, order_BT]
        return normalise(clips_BTCSS.transpose(1, 2).float().div_(255.0))

    def _keep(self, name: str, waiting: Sequence[_Kept], features_BF: Tensor) -> None:
        crops = self.work.protocol.crops
        by_clip = _over_crops(features_BF, crops).cpu().numpy()
        videos = [kept.item.id for kept in waiting for _ in kept.starts_s]
        seconds = np.concatenate([kept.starts_s for kept in waiting])
        boxes = np.tile([0.0, 0.0, 1.0, 1.0], (len(videos), 1))
        rows = BankRows(videos, seconds, boxes, np.ones(len(videos)), by_clip)
        self.parts.setdefault(name, []).append(rows)

    def _keep_tokens(self, waiting: Sequence[_Kept], maps_BFTHW: Tensor) -> None:
        frames, height, width = maps_BFTHW.shape[2:]
        size = (min(CELLS[0], frames), min(CELLS[1], height), min(CELLS[2], width))
        maps = _over_crops(maps_BFTHW, self.work.protocol.crops)
        pooled = nnf.adaptive_avg_pool3d(maps, size)
        cells = pooled.flatten(2).transpose(1, 2).cpu().numpy()  # (clips, L, F)
        t, y, x = (one.reshape(-1) for one in np.indices(size))
        boxes = np.stack([x / size[2], y / size[1], (x + 1) / size[2], (y + 1) / size[1]], axis=1)
        videos = [kept.item.id for kept in waiting for _ in range(len(kept.starts_s) * len(t))]
        seconds = [
            start_s + (t + 0.5) / size[0] * kept.span_s
            for kept in waiting
            for start_s in kept.starts_s
        ]
        count = len(cells)
        rows = BankRows(
            videos,
            np.concatenate(seconds),
            np.tile(boxes, (count, 1)),
            np.ones(len(videos)),
            cells.reshape(-1, cells.shape[2]),
        )
        self.parts.setdefault(TOKENS, []).append(rows)


def _over_crops(values: Tensor, crops: int) -> Tensor:
    """Return the mean over the crops of each clip, which stand side by side."""
    return values.reshape(-1, crops, *values.shape[1:]).mean(dim=1)


@dataclass(frozen=True)
class _Cut:
    """What a worker does with the clips it has read: resize, and cut the crops of each."""

    protocol: Protocol

    def __call__(self, sample: ClipSample) -> ClipSample:
        """Return the sample with views ``(crops, T, C, S, S)``, bytes."""
        return replace(sample, views=tuple(map(self._crops, sample.views)))

    def _crops(self, clip_THWC: Tensor) -> Tensor:
        _, height, width, _ = clip_THWC.shape
        places = {"left": 0.0, "centre": 0.5, "right": 1.0}
        views = []
        for side in self.protocol.sides:
            wide = width >= height
            views.append(
                geometry.scaled_crop(
                    *(height, width),
                    short_side_px=self.protocol.short_side_px,
                    crop_px=self.protocol.crop_px,
                    across=places[side] if wide else 0.5,
                    down=0.5 if wide else places[side],
                )
            )
        return torch.stack([geometry.cut(clip_THWC, view) for view in views]).contiguous()


# --- from banks to features


def _gathered(banked: Banked) -> Frozen:
    """Return the features of all videos that every bank has."""
    work = banked.work
    features = {
        time: {
            one: rows.astype(np.float32).mean(axis=0)
            for one, rows in _by_video(Bank.open(banked.folder / time))
        }
        for time in work.times
    }
    places = _Places.of(Bank.open(banked.folder / TOKENS)) if work.tokens else None
    has: dict[str, Collection[str]] = {
        f"{time} clips": one.keys() for time, one in features.items()
    }
    if places is not None:
        has["tokens"] = places.of_video.keys()
    failures = dict(banked.failures)
    ids = []
    for item in work.found.items:
        if item.id in failures:
            continue
        lacks = [what for what, found in has.items() if item.id not in found]
        if lacks:  # read this time, and not when the bank was made
            failures[item.id] = f"could not be read for {lacks[0]}"
        else:
            ids.append(item.id)
    dim = work.looked.encoder.features
    return Frozen(
        banked.folder,
        tuple(ids),
        failures,
        {
            time: np.stack([found[one] for one in ids]) if ids else np.zeros((0, dim), np.float32)
            for time, found in features.items()
        },
        places.stored(ids) if places is not None and ids else None,
        len(banked.looked_at),
        banked.data,
        len(failures.keys() - banked.looked_at - banked.lasting),
    )


@dataclass(frozen=True)
class _Places:
    """Where the tokens of each video are: in which of the files, from which row on, how many."""

    files: tuple[Path, ...]
    of_video: Mapping[str, tuple[int, int, int]]
    features: int

    @classmethod
    def of(cls, bank: Bank) -> "_Places":
        """Find the tokens in a bank; none are read."""
        files, of_video = list[Path](), dict[str, tuple[int, int, int]]()
        for table, mapped in bank.shards():
            for name, first, last in _runs(table):
                of_video[name] = (len(files), first, last - first)
            files.append(Path(str(cast("np.memmap[Any, Any]", mapped).filename)))
        return cls(tuple(files), of_video, bank.dim)

    def stored(self, ids: Sequence[str]) -> StoredTokens:
        """Return the tokens of some videos, not yet read; there are as many of each."""
        found = np.array([self.of_video[one] for one in ids], np.int64)
        tokens = int(found[0, 2])
        if (found[:, 2] != tokens).any():
            odd = ids[int(np.argmax(found[:, 2] != tokens))]
            raise BankError(
                f"{self.files[0].parent}: expected {tokens} tokens of {odd}, as of others"
            )
        return StoredTokens(
            *(self.files, found[:, 0], found[:, 1]), tokens=tokens, features=self.features
        )


def _by_video(bank: Bank) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Give (id, its rows, mapped) of each video with rows; not to be kept, but copied."""
    for table, features in bank.shards():
        for name, first, last in _runs(table):
            yield name, features[first:last]


def _runs(table: pa.Table) -> Iterator[tuple[str, int, int]]:
    """Give each video of a shard with the first of its rows, and that after the last."""
    names = table["video"].to_pylist()
    first = 0
    for row in range(1, len(names) + 1):
        if row == len(names) or names[row] != names[first]:
            yield names[first], first, row
            first = row
