"""``vidssl probe``: against decoding alone, in turn; and neighbours at the size of Kinetics.

    python tools/bench/probe.py [--video FILE] [--copies 200] [--rounds 3] [--workers 2]
    python tools/bench/probe.py --neighbours [--queries 2000] [--rows 240000] [--features 2048]

The first looks at ``--copies`` links to one video (one of 10 s, 340 x 256, H.264, is made where
none is named) by a small network of fresh weights, and decodes the very same clips with as many
workers without a network; each round does both, each in a process of its own. Told, as JSON, are
the videos a second of both, medians over the rounds, and the ratio, by the clock from the first
video to the last and for all of the command (starting workers, reading the index and all probes
included). The second tells the products (query times row) of ``nearest`` in a second of processor
time, what 20,000 queries of 240,000 such rows would take of it, and the peak of numpy's memory
beside the features, which are float16 in a mapped file.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidssl.data.clips import ClipReading
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.jobs import _probe_features as features
from vidssl.jobs import probe as job
from vidssl.jobs._item_clips import ItemClips
from vidssl.jobs._probe_encoder import load
from vidssl.jobs._tested import expected_of
from vidssl.jobs.index import open_index
from vidssl.probe.neighbours import nearest
from vidssl.recipe import backbone_from
from vidssl.train.trainer import device_of
from vidssl.train.weights import save_weights
from vidssl.video.write import write_video

SMALL = {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 8, "stride": 8}
HEIGHT, WIDTH, FPS, SECONDS = 256, 340, 30, 10


def pictures() -> Iterator[NDArray[np.uint8]]:
    """Give frames of textures that move."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (HEIGHT // 8 + 40, WIDTH // 8 + 40, 3), np.uint8)
    large = coarse.repeat(8, axis=0).repeat(8, axis=1)
    for number in range(FPS * SECONDS):
        yield np.ascontiguousarray(large[number : number + HEIGHT, number : number + WIDTH])


def make(folder: Path, video: Path | None, copies: int) -> tuple[Path, Path]:
    """Return a list of links to one video in two classes, and a run with an encoder."""
    source = video or folder / "video.mp4"
    if video is None:
        write_video(source, pictures(), FPS)
    rows = ["path,label"]
    for number in range(copies):
        path = folder / f"v{number:06}{source.suffix}"
        os.symlink(source.resolve(), path)
        rows.append(f"{path},{number % 2}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    backbone = backbone_from({"backbone": SMALL}, "here")
    encoder = backbone.build()
    card = {"backbone": backbone.model_dump(mode="json"), "features": encoder.features}
    save_weights(folder / "run", "encoder", encoder, card)
    return folder / "list.csv", folder / "run"


def request(listing: Path, run: Path, cache: Path, arguments: argparse.Namespace) -> job.Request:
    """Return what is probed."""
    return job.Request(
        *(run, str(listing)),
        crop_px=arguments.crop,
        cache=cache,
        workers=arguments.workers,
    )


class Clock:
    """Notes when the first and the last video came."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None
        self.last: tuple[float, int] = (0.0, 0)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take word of progress."""
        if what == "looking at videos":
            self.last = (time.perf_counter(), done)
            self.first = self.first or self.last

    def per_s(self) -> float:
        """Return videos a second between the first and the last."""
        assert self.first is not None
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


def probing(asked: job.Request) -> tuple[float, float]:
    """Return videos a second of probing, steady and of the whole command."""
    clock, start = Clock(), time.perf_counter()
    result = job.run(asked, progress=clock)
    assert result.train.decoded == result.expected
    return clock.per_s(), result.expected / (time.perf_counter() - start)


def decoding(asked: job.Request) -> tuple[float, float]:
    """Return videos a second of decoding the same clips, steady and with the workers' start."""
    clock, start = Clock(), time.perf_counter()
    looked = load(asked.encoder)
    found, protocol = expected_of(asked.train), job.protocol_of(asked, looked)
    assert asked.cache is not None
    index = open_index(asked.train, asked.cache / ".index.parquet")
    durations = dict(index.video(number) for number in range(len(index)))
    without_cutting = ClipReading(protocol.decode_short_side_px)
    dataset = ItemClips(found.items, durations, protocol, without_cutting)
    positions = [[n] for n in range(len(dataset))]
    for done, _ in enumerate(Loader(dataset, positions, LoaderConfig(workers=asked.workers or 0))):
        clock("looking at videos", done + 1, len(dataset))
    return clock.per_s(), len(dataset) / (time.perf_counter() - start)


def one_side(arguments: argparse.Namespace) -> None:
    """Measure one side in this process, told as JSON."""
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.folder)
    with tempfile.TemporaryDirectory() as cache:
        asked = request(folder / "list.csv", folder / "run", Path(cache), arguments)
        listing = "\n".join(sorted({str(i.path) for i in expected_of(asked.train).items}))
        for name in (".index.parquet", f".index-{features._hash(listing)}.parquet"):
            shutil.copy(folder / "index.parquet", Path(cache) / name)  # not what is measured
        side = probing if arguments.side == "probing" else decoding
        sys.stdout.write(json.dumps(side(asked)))


def against_decoding(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides in turn."""
    found: dict[str, list[tuple[float, float]]] = {"decoding": [], "probing": []}
    with tempfile.TemporaryDirectory() as folder:
        listing, _ = make(Path(folder), arguments.video, arguments.copies)
        open_index(str(listing), Path(folder) / "index.parquet")
        for number in range(arguments.rounds):
            for side in sorted(found, reverse=bool(number % 2)):
                command = [sys.executable, __file__, "--side", side, "--folder", folder]
                for name in ("workers", "crop", "threads"):
                    command += [f"--{name}", str(getattr(arguments, name))]
                told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
                found[side].append(tuple(json.loads(told)))
    middle = {
        side: [statistics.median(values) for values in zip(*rounds, strict=True)]
        for side, rounds in found.items()
    }
    ratios = [one[0] / other[0] for one, other in zip(*found.values(), strict=True)]
    ratios = [1 / ratio for ratio in ratios]
    return {
        "decoding_videos_per_s": middle["decoding"][0],
        "probing_videos_per_s": middle["probing"][0],
        "ratio": statistics.median(ratios),
        "ratio_of_whole_command": middle["probing"][1] / middle["decoding"][1],
        "limit": 0.75,
        "device": str(device_of()),
        "raw": found,
    }


def at_scale(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the search for neighbours."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "gallery.npy", (arguments.rows, arguments.features)
        gallery = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        for first in range(0, arguments.rows, 4096):
            gallery[first : first + 4096] = rng.normal(
                size=(len(gallery[first : first + 4096]), arguments.features)
            )
        del gallery
        queries = rng.normal(size=(arguments.queries, arguments.features)).astype(np.float16)
        mapped = np.load(path, mmap_mode="r")
        tracemalloc.start()
        start, cpu = time.perf_counter(), time.process_time()
        nearest(mapped, queries, 200)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        _, peak = tracemalloc.get_traced_memory()
    products = arguments.queries * arguments.rows
    return {
        "queries": arguments.queries,
        "rows": arguments.rows,
        "features": arguments.features,
        "seconds": wall,
        "cpu_seconds": cpu,
        "products_per_cpu_s": products / cpu,
        "gflops_per_cpu_s": 2e-9 * products * arguments.features / cpu,
        "cpu_s_of_20000_by_240000": 20_000 * 240_000 / (products / cpu),
        "peak_mb_beside_the_features": peak / 2**20,
    }


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--neighbours", action="store_true")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=240_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--side", choices=("probing", "decoding"))
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    if arguments.side:
        one_side(arguments)
        return
    found = at_scale(arguments) if arguments.neighbours else against_decoding(arguments)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
