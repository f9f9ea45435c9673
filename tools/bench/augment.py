"""Time of the SSL augmentation of one sample, against torchvision v2 with the same parameters.

    python tools/bench/augment.py [--samples 20] [--rounds 5] [--frames 8] [--threads 1]

Two views of a clip of 256 x 340 pixels become 224 x 224. Torchvision is run frame by frame and on
the frames stacked; all take their turn on every sample, so that what else the machine does falls
on all of them. Only the ratios carry over to another machine. The greatest difference between the
results is printed beside them: bytes are rounded alike, so it is that of float arithmetic.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from vidssl.augment.blur import radius_px
from vidssl.augment.views import CVRL, MEAN, STD, SSLConfig, draw_view, ssl_view

SETTINGS = {"aug+": SSLConfig(), "cvrl": CVRL}


def torchvision_view(frames_TCHW: Tensor, seed: int, config: SSLConfig) -> Tensor:
    """Return what :func:`ssl_view` does, by torchvision's functions, ``(T, C, S, S)``."""
    _, _, height, width = frames_TCHW.shape
    draw = draw_view(seed, (height, width), config)
    left, top = round(draw.crop.left * width), round(draw.crop.top * height)
    right, bottom = round(draw.crop.right * width), round(draw.crop.bottom * height)
    size = [config.crop_px, config.crop_px]
    x = tv.resized_crop(frames_TCHW, top, left, bottom - top, right - left, size, antialias=True)
    x = tv.horizontal_flip(x) if draw.crop.flip else x
    x = tv.to_dtype(x, torch.float32, scale=True)
    if (jitter := draw.jitter) is not None:
        changes: list[Callable[[Tensor], Tensor]] = [
            lambda x: tv.adjust_brightness(x, jitter.brightness),
            lambda x: tv.adjust_contrast(x, jitter.contrast),
            lambda x: tv.adjust_saturation(x, jitter.saturation),
            lambda x: tv.adjust_hue(x, jitter.hue),
        ]
        for place in jitter.order:
            x = changes[place](x)
    x = tv.rgb_to_grayscale(x, 3) if draw.grey else x
    if draw.sigma_px is not None:
        x = tv.gaussian_blur(x, 2 * radius_px(draw.sigma_px, config.blur_px) + 1, draw.sigma_px)
    x = tv.solarize(x, 0.5) if draw.solarise else x
    normalised: Tensor = tv.normalize(x, [MEAN] * 3, [STD] * 3)
    return normalised


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20, help="draws of parameters")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(arguments.frames, 3, 32, 43, generator=generator)
    smooth = torch.nn.functional.interpolate(small, (256, 340), mode="bicubic").clamp(0, 1)
    clip_THWC = smooth.mul(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    frames_TCHW = clip_THWC.permute(0, 3, 1, 2).contiguous()
    for name, config in SETTINGS.items():
        compare(name, config, clip_THWC, frames_TCHW, arguments.samples, arguments.rounds)


def compare(
    name: str,
    config: SSLConfig,
    clip_THWC: Tensor,
    frames_TCHW: Tensor,
    samples: int,
    rounds: int,
) -> None:
    """Print the medians over samples, their ratios and the greatest difference."""

    def ours(seed: int) -> Tensor:
        views = [ssl_view(clip_THWC, seed + view, config, view) for view in range(2)]
        return torch.stack(views).transpose(1, 2)

    def stacked(seed: int) -> Tensor:
        return torch.stack(
            [torchvision_view(frames_TCHW, seed + view, config.of(view)) for view in range(2)]
        )

    def by_frame(seed: int) -> Tensor:
        views = [
            torch.cat(
                [torchvision_view(f[None], seed + view, config.of(view)) for f in frames_TCHW]
            )
            for view in range(2)
        ]
        return torch.stack(views)

    ways = {"vidssl": ours, "torchvision, stacked": stacked, "torchvision, by frame": by_frame}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    apart = 0.0
    for seed in range(0, 2 * samples, 2):
        apart = max(apart, float((ours(seed) - by_frame(seed)).abs().max()))
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(rounds):
            for way, run in ways.items():
                begun = time.perf_counter()
                run(seed)
                best[way] = min(best[way], time.perf_counter() - begun)
        for way, seconds in best.items():
            taken[way].append(seconds * 1e3)
    own = statistics.median(taken["vidssl"])
    sys.stdout.write(f"{name}: one sample of 2 views x {len(frames_TCHW)} frames, median (ms)\n")
    for way, times in taken.items():
        ratio = statistics.median(times) / own
        sys.stdout.write(
            f"  {way:24s} {statistics.median(times):8.2f}  greatest {max(times):8.2f}"
            f"  x {ratio:.2f}\n"
        )
    sys.stdout.write(f"  greatest difference from torchvision: {apart:.1e} standard deviations\n")


if __name__ == "__main__":
    main()
