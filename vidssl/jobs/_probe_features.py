"""The frozen features of every video of a source, kept in feature banks.

The cache has a folder for each encoder, protocol and set of videos, named by their hashes. In it
are a bank for each way of showing a clip's frames (``normal``, ``static`` ...), a row a clip, its
time the clip's start; ``tokens``, a bank of cells of the map, if they were wanted; and
``failed-NNNNN.json`` with the videos of a shard that could not be read, and why. What is there is
never decoded again, and whoever is stopped goes on from there.

Array suffixes: V clips, T frames, C channels, S pixels a side, F features, L tokens, N videos.
"""

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
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
from vidssl.features.manifest import Kind, Manifest
from vidssl.files import write_text
from vidssl.jobs._item_clips import ItemClips
from vidssl.jobs._probe_encoder import Looked
from vidssl.jobs._stopping import stoppable
from vidssl.jobs._tested import Item, Tested
from vidssl.jobs.index import open_index, set_aside
from vidssl.nn.layout import laid_out
from vidssl.probe.motion import Time, frame_order
from vidssl.progress import Progress, silent
from vidssl.recognition.protocol import Protocol
from vidssl.recognition.views import pools_its_map
from vidssl.train.trainer import half_type
from vidssl.video.index import ClipIndex, read_tables
from vidssl.video.reader import Decoder, decoder_version

TOKENS = "tokens"
VIDEOS_A_SHARD = 256
CELLS = (4, 4, 4)
"""At most so many times, rows and columns of a clip's map are kept as tokens."""
FORMAT = 1


@dataclass(frozen=True)
class Work:
    """What is wanted: features of ``found``, the videos of ``source``, by an encoder.

    ``cache`` is the folder of all caches; ``tokens`` are of normal clips.
    """

    found: Tested
    source: str
    looked: Looked
    protocol: Protocol
    cache: Path
    times: tuple[Time, ...] = ("normal",)
    tokens: bool = False
    clips_at_once: int = 16
    decoder: Decoder = "auto"
    loader: LoaderConfig = field(default_factory=LoaderConfig)


@dataclass(frozen=True)
class Frozen:
    """Features of the videos that could be read, and why others could not.

    ``features`` are by way of showing a clip, ``(N, F)`` float32, the mean over its clips, for
    ``ids`` in the order of the source; ``tokens`` ``(N, L, F)`` float16 where they were wanted.
    ``decoded`` counts videos that were looked at this time, and were not in the cache.
    """

    folder: Path
    ids: tuple[str, ...]
    failures: dict[str, str]
    features: Mapping[Time, NDArray[np.float32]]
    tokens: NDArray[np.float16] | None
    decoded: int
    data: str
    """A short hash of the videos: names, times, lengths and sizes."""


def collect(work: Work, device: torch.device, progress: Progress = silent) -> Frozen:
    """Return the features, from the cache as far as they are there.

    Raises:
        SourceError: if no video can be decoded.
        BankError: if a cached bank is damaged, or a feature is no finite number.
        OutputError: if the cache cannot be written.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    paths = "\n".join(sorted({str(item.path) for item in work.found.items}))
    index = open_index(work.source, work.cache / f".index-{_hash(paths)}.parquet", progress)
    data = _data(work, index.path)
    described = {
        "format": FORMAT,
        "views": {k: v for k, v in work.protocol.fingerprint().items() if k not in NOT_OF_FEATURES},
        "decoder": decoder_version(work.decoder),
        "data": data,
    }
    folder = work.cache / f"{work.looked.hash}-{_hash(json.dumps(described))}"
    maker = _Maker(work, folder, described, index, device, progress)
    decoded = maker.run()
    failures = {one: why for shard in range(len(maker.plan)) for one, why in maker.told(shard)}
    return _gathered(work, maker.banks(), folder, failures, decoded, data)


NOT_OF_FEATURES = {"pooling", "activation", "over_views"}
"""Settings of a protocol that are a classifier's."""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


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
    """The banks of one encoder, protocol and set of videos, and what is missing of them."""

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
        items = work.found.items
        self.plan = [
            items[first : first + VIDEOS_A_SHARD] for first in range(0, len(items), VIDEOS_A_SHARD)
        ]
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

    def run(self) -> int:
        """Write what is missing; return how many videos were looked at for it."""
        unfinished = [n for n in self.writers if not Manifest.read(self.folder / n).complete]
        shards = {shard for name in unfinished for shard in self.writers[name].missing()}
        shards |= {n for n in range(len(self.plan)) if not self._failed(n).exists()}
        if not shards:
            self._close(unfinished)
            return 0
        encoding = _Encoding(self.work, self.device)
        readable = [i for n in sorted(shards) for i in self.plan[n] if not self._why_not(i)]
        protocol = self.work.protocol
        side_px, decoder = protocol.decode_short_side_px, self.work.decoder
        reading = ClipReading(side_px, decoder, _Cut(protocol))
        dataset = ItemClips(readable, self.durations, protocol, reading)
        loader = Loader(dataset, [[n] for n in range(len(readable))], self.work.loader)
        total, done = sum(len(self.plan[n]) for n in shards), 0
        try:
            stream = cast(Generator[list[ClipSample]], stoppable(loader))
            with closing(stream) as samples:
                for shard in sorted(shards):
                    failed: dict[str, str] = {}
                    for item in self.plan[shard]:
                        why = self._why_not(item)
                        if not why:
                            (sample,) = next(samples)
                            why = sample.failed[0][1] if sample.failed else ""
                        if why:
                            failed[item.id] = why
                        else:
                            encoding.add(item, sample)
                        done += 1
                        self.progress("looking at videos", done, total)
                    self._write(shard, encoding.rows(), failed)
        except KeyboardInterrupt:
            left = len({s for w in self.writers.values() for s in w.missing()})
            raise Interrupted(
                f"{self.folder}: {left} of {len(self.plan)} parts are to do"
            ) from None
        self._close([*self.writers])
        return total

    def banks(self) -> dict[str, Bank]:
        """Open the banks."""
        return {name: Bank.open(self.folder / name) for name in self.writers}

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

    def _write(self, shard: int, rows: Mapping[str, BankRows], failed: dict[str, str]) -> None:
        for name, writer in self.writers.items():
            writer.write_shard(shard, rows[name], failed_keyframes=len(failed))
        write_text(self._failed(shard), json.dumps(failed, indent=1) + "\n")

    def _close(self, names: Sequence[str]) -> None:
        for name in names:
            self.writers[name].close()

    def _failed(self, shard: int) -> Path:
        return self.folder / f"failed-{shard:05d}.json"

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


def _gathered(
    work: Work,
    banks: Mapping[str, Bank],
    folder: Path,
    failures: dict[str, str],
    decoded: int,
    data: str,
) -> Frozen:
    """Return the features of all videos that every bank has."""
    features = {
        time: {one: rows.astype(np.float32).mean(axis=0) for one, rows in _by_video(banks[time])}
        for time in work.times
    }
    tokens = {one: np.array(rows) for one, rows in _by_video(banks[TOKENS])} if work.tokens else {}
    failures = dict(failures)
    ids = []
    for item in work.found.items:
        if item.id in failures:
            continue
        lacks = [time for time, found in features.items() if item.id not in found]
        if lacks:  # read this time, and not when the bank was made
            failures[item.id] = f"could not be read for {lacks[0]} clips"
        else:
            ids.append(item.id)
    dim = work.looked.encoder.features
    return Frozen(
        folder,
        tuple(ids),
        failures,
        {
            time: np.stack([found[one] for one in ids]) if ids else np.zeros((0, dim), np.float32)
            for time, found in features.items()
        },
        np.stack([tokens[one] for one in ids]) if tokens and ids else None,
        decoded,
        data,
    )


def _by_video(bank: Bank) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Give (id, its rows, mapped) of each video with rows; not to be kept, but copied."""
    for table, features in bank.shards():
        names = table["video"].to_pylist()
        first = 0
        for row in range(1, len(names) + 1):
            if row == len(names) or names[row] != names[first]:
                yield names[first], features[first:row]
                first = row
