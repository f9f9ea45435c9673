"""``vidssl probe``: what the frozen features of an encoder tell of labelled videos.

Each video is seen once, in a few clips at equal distances; the mean of their features, kept in a
bank, is all that the probes are given. With one source alone each video is judged by the others:
neighbours by leaving it out, classifiers by cross-validation, whole groups at a time.
"""

import re
import time as clock
from dataclasses import replace
from pathlib import Path

import torch

from vidssl.data.loader import LoaderConfig
from vidssl.errors import RecipeError, nearest
from vidssl.jobs import _probe_encoder as encoders
from vidssl.jobs._detector import require_alone
from vidssl.jobs._geometry import remark
from vidssl.jobs._limits import usable_cores
from vidssl.jobs._probe_features import NOT_OF_FEATURES, Work, collect
from vidssl.jobs._probe_result import ProbeResult, fingerprint
from vidssl.jobs._probe_sides import Classes, Side
from vidssl.jobs._probing import PROBES, Probe, Probing, Request
from vidssl.jobs._tested import Tested, expected_of
from vidssl.probe.motion import TIMES, Time
from vidssl.progress import Progress, silent
from vidssl.recognition.protocol import Protocol, parse_views
from vidssl.train.trainer import device_of
from vidssl.video.reader import decoder_version
from vidssl.video.workers import preload

__all__ = ["ProbeResult", "Request", "chosen", "run"]

SCALE = 256 / 224
"""The short side, over the side of the crop, where it is not said."""


def run(request: Request, *, progress: Progress = silent) -> ProbeResult:
    """Probe an encoder.

    Raises:
        CheckpointError: if there is no encoder, or it is damaged.
        SourceError: if there are no videos, no labels, or train and test have other classes.
        RecipeError: if the views, sizes or the pattern of groups are none.
        BankError, OutputError: if the cache is damaged, or cannot be written; under torchrun.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    started = clock.monotonic()
    require_alone("probe")
    pattern = _pattern(request.group)
    looked = encoders.load(request.encoder, request.random)
    protocol = _protocol(request, looked)
    remark(looked.card, looked.backbone, protocol.crop_px, progress)
    train = _training(expected_of(request.train))
    test = None if request.test is None else expected_of(request.test)
    classes = Classes.of(train, test)
    preload(["vidssl.data.clips", "vidssl.jobs._probe_features", "vidssl.jobs.index"])
    device = device_of(request.device)
    times, notes = _times(request, looked, protocol, device)
    notes += [note for one in (train, test) if one is not None for note in one.notes]

    def side(found: Tested, source: str, is_train: bool) -> Side:
        work = Work(
            *(found, source, looked, protocol, request.cache or _beside(request.encoder)),
            times=times,
            tokens="attentive" in request.probes,
            clips_at_once=request.clips_at_once,
            decoder=request.decoder,
            loader=LoaderConfig(workers=_workers(request)),
        )
        return Side.of(found, collect(work, device, progress), classes, is_train, pattern)

    gallery = side(train, request.train, True)
    queries = None if test is None or request.test is None else side(test, request.test, False)
    about = {
        **{k: v for k, v in protocol.fingerprint().items() if k not in NOT_OF_FEATURES},
        "decoder": decoder_version(request.decoder),
        "train": f"{train.source}, {len(train.items)} videos, {gallery.frozen.data}",
        "test": "train, each left out"
        if queries is None or test is None
        else f"{test.source}, {len(test.items)} videos, {queries.frozen.data}",
        "labels": fingerprint({"train": gallery.told(), "test": queries.told() if queries else ""}),
        "groups": "by name" if gallery.has_groups else "none",
    }
    probing = Probing(request, classes, gallery, queries, about, device, progress)
    notes += probing.notes
    return probing.result(looked, notes, started)


def chosen(text: str) -> tuple[Probe, ...]:
    """Return the probes that are named, apart by commas.

    Raises:
        RecipeError: if one is not known, or none is named.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PROBES:
            known = ", ".join(PROBES)
            raise RecipeError(f"--probes: expected {known}, found {name!r}{nearest(name, PROBES)}")
    if not names:
        raise RecipeError(f"--probes: expected some of {', '.join(PROBES)}, found none")
    return tuple(probe for probe in PROBES if probe in names)


def _training(found: Tested) -> Tested:
    """Return videos to train on without the count of a published list, which is a test list's."""
    if found.published is None:
        return found
    notes = [note for note in found.notes if found.published["list"] not in note]
    return replace(found, published=None, notes=notes)


def _workers(request: Request) -> int:
    return usable_cores() if request.workers is None else request.workers


def _beside(encoder: Path) -> Path:
    return (encoder if encoder.is_dir() else encoder.parent) / "probe"


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        found = re.compile(text)
    except re.error as error:
        raise RecipeError(
            f"--group: expected a regular expression, found {text!r}: {error}"
        ) from None
    if found.groups < 1:
        raise RecipeError(
            f"--group: expected a group in parentheses that names the film, found {text!r}"
        )
    return found


def _protocol(request: Request, looked: encoders.Looked) -> Protocol:
    """Return how videos are seen.

    Raises:
        RecipeError: if that is no protocol, or the network cannot take such clips.
    """
    clips, crops = parse_views(request.views)
    crop_px = request.crop_px or looked.side_px
    short_px = request.short_side_px or max(crop_px, round(crop_px * SCALE))
    try:
        looked.backbone.require_side(crop_px, "--crop")
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return Protocol(
        clips=clips,
        crops=crops,
        frames=looked.backbone.frames,
        stride=looked.backbone.stride,
        sampling="uniform",
        indexing="stride",
        reach_end=False,
        short_side_px=short_px,
        crop_px=crop_px,
        decode_short_side_px=short_px,
        window=None,
        activation="softmax",
        gathering="mean",
        precision=request.precision,
    )


def _times(
    request: Request, looked: encoders.Looked, protocol: Protocol, device: torch.device
) -> tuple[tuple[Time, ...], list[str]]:
    """Return the ways of showing clips that are needed, the one to score first."""
    wanted = [request.time, *(TIMES if request.motion else ())]
    if "attentive" in request.probes and "normal" not in wanted:
        raise RecipeError("the attentive probe sees normal clips alone: leave out --time")
    if "single" not in wanted or _takes_one_frame(looked, protocol.crop_px, device):
        return tuple(dict.fromkeys(wanted)), []
    words = f"{looked.backbone.name} does not take clips of a single frame"
    if request.time == "single":
        raise RecipeError(f"--time single: {words}; expected static, which repeats the frame")
    return tuple(dict.fromkeys(one for one in wanted if one != "single")), [
        f"{words}: see static, which repeats it"
    ]


@torch.inference_mode()
def _takes_one_frame(looked: encoders.Looked, side_px: int, device: torch.device) -> bool:
    clip = torch.zeros(1, 3, 1, side_px, side_px, device=device)
    try:
        looked.encoder.to(device).eval()(clip)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
    return True
