"""The loader against pytorchvideo's, both with one worker and the same augmentation.

    python tools/bench/loader.py [--videos SOURCE] [--samples 24] [--rounds 5] [--json FILE]

A sample is two views of 8 frames of 224 x 224 from windows of 64 frames, with the augmentation that
is called "aug+" in Feichtenhofer et al. (CVPR 2021). The other side is pytorchvideo's
LabeledVideoDataset with each of its decoders, in PyTorch's DataLoader, with the same operations
from torchvision's transforms v2, on bytes as long as they allow. All sides and decoding alone take
their turns in one run; the ratios are those of the medians.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

from vidssl.augment.views import MEAN, STD, SSLConfig
from vidssl.data.clips import ClipReading, augmented
from vidssl.jobs import bench
from vidssl.jobs.index import open_index
from vidssl.video.index import ClipIndex
from vidssl.video.sampling import step_s


class Views:
    """What a user of pytorchvideo would write: frames thinned out, then torchvision."""

    def __init__(self, config: SSLConfig) -> None:
        self.draw = v2.Compose(
            [
                v2.RandomResizedCrop(
                    config.crop_px, scale=config.area, ratio=config.aspect, antialias=True
                ),
                v2.RandomHorizontalFlip(config.flip),
                v2.ToDtype(torch.float32, scale=True),
                v2.RandomApply([v2.ColorJitter(*config.strengths)], config.jitter),
                v2.RandomGrayscale(config.grey),
                v2.RandomApply([v2.GaussianBlur(11, config.blur_sigma)], config.blur),
                v2.Normalize([MEAN] * 3, [STD] * 3),
            ]
        )

    def __call__(self, sample: dict[str, list[Tensor]]) -> list[Tensor]:
        """Return the views of a sample, ``(C, T, S, S)``."""
        views = []
        for video_CTHW in sample["video"]:
            length = video_CTHW.shape[1]
            places = torch.linspace(0, length - 1, bench.FRAMES).long()
            frames_TCHW = video_CTHW[:, places].permute(1, 0, 2, 3).to(torch.uint8)
            views.append(self.draw(frames_TCHW).permute(1, 0, 2, 3))
        return views


def timed_pytorchvideo(index: ClipIndex, decoder: str, samples: int) -> float:
    """Return the seconds in which pytorchvideo's loader gives ``samples`` samples, once up."""
    from pytorchvideo.data import LabeledVideoDataset
    from pytorchvideo.data.clip_sampling import RandomMultiClipSampler

    needed = bench.WARM + samples
    paths = index.paths()
    repeated = [(path, {}) for path in paths * -(-needed // len(paths))][:needed]
    dataset = LabeledVideoDataset(
        repeated,
        RandomMultiClipSampler(bench.FRAMES * step_s(bench.STRIDE), bench.VIEWS),
        transform=Views(SSLConfig()),
        decode_audio=False,
        decoder=decoder,
    )
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=1,
        num_workers=1,
        prefetch_factor=2,
        multiprocessing_context="fork",  # its dataset does not survive the way to another process
    )
    start, number = 0.0, 0
    for number, _ in enumerate(loader, 1):
        if number == bench.WARM:
            start = time.perf_counter()
    if number != needed:
        sys.exit(f"pytorchvideo with {decoder} gave {number} samples of {needed}")
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", help="what to read; else videos are rendered")
    parser.add_argument("--samples", type=int, default=24, help="samples of each round")
    parser.add_argument("--rounds", type=int, default=5, help="times that each side is measured")
    parser.add_argument("--json", type=Path, help="write what was measured, with the raw times")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.videos is None:
            bench.render(Path(folder) / "videos")
        index = open_index(
            options.videos or str(Path(folder) / "videos"), Path(folder) / "index.parquet"
        )
        reading = ClipReading(finish=partial(augmented, SSLConfig()))
        ours, limit, count = "ours", "decode only", options.samples
        sides = {
            ours: lambda: bench.timed_loader(index, reading, count),
            limit: lambda: bench.timed_decoding(index, count),
            "pytorchvideo, pyav": lambda: timed_pytorchvideo(index, "pyav", count),
            "pytorchvideo, decord": lambda: timed_pytorchvideo(index, "decord", count),
        }
        times_s = bench.in_turn(sides, options.rounds, clocked=True)
    found = [
        bench.compared(f"ours against {other}", times_s, ours, other, limit, count)
        for other in list(sides)[1:]
    ]
    for one in found:
        sys.stdout.write(
            f"{one.name}: {one.ours:.2f} and {one.other:.2f} {one.unit}, ratio {one.ratio:.2f}\n"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=2))


if __name__ == "__main__":
    main()
