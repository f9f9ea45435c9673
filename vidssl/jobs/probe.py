"""``vidssl probe``: what the frozen features of an encoder tell of labelled videos.

Each video is seen once, in a few clips at equal distances; the mean of their features, kept in a
bank, is all that the probes are given. With one source alone each video is judged by the others:
neighbours by leaving it out, classifiers by cross-validation, whole groups at a time.
"""

import os
import re
import time as clock
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vidssl.data.loader import LoaderConfig
from vidssl.errors import RecipeError, nearest
from vidssl.jobs import _probe_encoder as encoders
from vidssl.jobs import _probe_features as features
from vidssl.jobs._detector import require_alone
from vidssl.jobs._geometry import remark
from vidssl.jobs._limits import usable_cores
from vidssl.jobs._probe_features import Banked, Work
from vidssl.jobs._probe_result import ProbeResult, fingerprint
from vidssl.jobs._probe_sides import Classes, Side
from vidssl.jobs._probing import PROBES, Probe, Probing, Request
from vidssl.jobs._tested import Tested, expected_of
from vidssl.nn.distributed import joined, rank
from vidssl.probe.motion import TIMES, Time
from vidssl.progress import Progress, silent
from vidssl.recognition.protocol import Protocol, parse_views
from vidssl.train.trainer import device_of
from vidssl.video.reader import decoder_version
from vidssl.video.storage import shown
from vidssl.video.workers import preload

__all__ = [
    "ProbeResult",
    "Request",
    "Seen",
    "cache_of",
    "chosen",
    "judged",
    "look",
    "protocol_of",
    "run",
    "run_together",
    "workers_of",
]

SCALE = 256 / 224
"""The short side, over the side of the crop, where it is not said."""


@dataclass(frozen=True)
class Seen:
    """A request whose videos are in the cache, looked at in ``seconds``; to be judged."""

    request: Request
    looked: encoders.Looked
    protocol: Protocol
    classes: Classes
    train: Banked
    test: Banked | None
    pattern: re.Pattern[str] | None
    device: torch.device
    notes: tuple[str, ...]
    seconds: float


def run(request: Request, *, progress: Progress = silent) -> ProbeResult:
    """Probe an encoder.

    Raises:
        CheckpointError: if there is no encoder, or it is damaged.
        SourceError: if there are no videos, no labels, or train and test have other classes.
        RecipeError: if the views, sizes or the pattern of groups are none.
        BankError, OutputError: if the cache is damaged, or cannot be written; under torchrun.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    require_alone("probe")
    return judged(look(request, progress=progress), progress=progress)


def run_together(request: Request, *, progress: Progress = silent) -> ProbeResult | None:
    """Probe an encoder, with the processes that torchrun started beside this one, if any.

    All read and encode a share of the videos; then the first works out the probes, and returns what
    :func:`run` would in one process, if it has as many threads. The others return None.

    Raises:
        VidsslError, Interrupted: as :func:`run`; LaunchError if the processes do not meet.
    """
    with joined():
        seen = look(request, progress=progress)
        is_first = rank() == 0
    return judged(seen, progress=progress) if is_first else None


def look(request: Request, *, progress: Progress = silent) -> Seen:
    """Put the features of all videos into the cache, together with all processes of a group.

    Raises:
        VidsslError, Interrupted: as :func:`run`.
    """
    started = clock.monotonic()
    pattern = _pattern(request.group)
    looked = encoders.load(request.encoder, request.random)
    protocol = protocol_of(request, looked)
    remark(looked.card, looked.backbone, protocol.crop_px, progress)
    train = _training(expected_of(request.train))
    test = None if request.test is None else expected_of(request.test)
    classes = Classes.of(train, test)
    preload(["vidssl.data.clips", "vidssl.jobs._probe_features", "vidssl.jobs.index"])
    device = device_of(request.device)
    times, notes = _times(request, looked, protocol, device)
    notes += [note for one in (train, test) if one is not None for note in one.notes]

    def banked(found: Tested, source: str) -> Banked:
        work = Work(
            *(found, source, looked, protocol, cache_of(request)),
            times=times,
            tokens="attentive" in request.probes,
            clips_at_once=request.clips_at_once,
            retry=request.retry,
            decoder=request.decoder,
            loader=LoaderConfig(workers=workers_of(request)),
        )
        return features.look(work, device, progress)

    gallery = banked(train, request.train)
    queries = None if test is None or request.test is None else banked(test, request.test)
    spent_s = clock.monotonic() - started
    return Seen(
        *(request, looked, protocol, classes, gallery, queries, pattern, device, tuple(notes)),
        seconds=spent_s,
    )


def judged(seen: Seen, *, progress: Progress = silent) -> ProbeResult:
    """Work out the probes of videos that are in the cache, in this process alone.

    Raises:
        SourceError: if no video could be read, or those of TRAIN are of a single class.
        BankError: if the cache is damaged.
    """
    started = clock.monotonic() - seen.seconds
    request, protocol, notes = seen.request, seen.protocol, [*seen.notes]

    def side(banked: Banked, is_train: bool) -> Side:
        frozen = banked.frozen()
        if frozen.remembered:
            notes.append(_remembered(banked.work.source, frozen))
        return Side.of(banked.work.found, frozen, seen.classes, is_train, seen.pattern)

    gallery = side(seen.train, True)
    queries = None if seen.test is None else side(seen.test, False)
    about = {
        **{k: v for k, v in protocol.fingerprint().items() if k not in features.NOT_OF_FEATURES},
        "decoder": decoder_version(request.decoder),
        "train": f"{gallery.found.source}, {gallery.expected} videos, {gallery.frozen.data}",
        "test": "train, each left out"
        if queries is None
        else f"{queries.found.source}, {queries.expected} videos, {queries.frozen.data}",
        "labels": fingerprint({"train": gallery.told(), "test": queries.told() if queries else ""}),
        "groups": "by name" if gallery.has_groups else "none",
    }
    probing = Probing(request, seen.classes, gallery, queries, about, seen.device, progress)
    return probing.result(seen.looked, [*notes, *probing.notes], started)


def _remembered(source: str, frozen: features.Frozen) -> str:
    return (
        f"{shown(source)}: {frozen.remembered} of {len(frozen.failures)} failures are remembered "
        "from an earlier run, and not tried again; --retry reads them again"
    )


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


def workers_of(request: Request) -> int:
    """Return how many processes decode for this one; those beside it on a machine share cores."""
    if request.workers is not None:
        return request.workers
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def cache_of(request: Request) -> Path:
    """Return the folder that keeps features."""
    encoder = request.encoder
    return request.cache or (encoder if encoder.is_dir() else encoder.parent) / "probe"


def protocol_of(request: Request, looked: encoders.Looked) -> Protocol:
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


def _training(found: Tested) -> Tested:
    """Return videos to train on without the count of a published list, which is a test list's."""
    if found.published is None:
        return found
    notes = [note for note in found.notes if found.published["list"] not in note]
    return replace(found, published=None, notes=notes)


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
