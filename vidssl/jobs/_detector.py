"""What training a detector, scoring one and extracting a bank have in common."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidssl import __version__
from vidssl.augment import geometry
from vidssl.augment.views import DetectionConfig, detection_view, normalise
from vidssl.ava.labels import LabelMap
from vidssl.ava.origins import parse_origin
from vidssl.backbones import BackboneConfig, Encoder
from vidssl.data.keyframes import KeyFrameSample, Moment, Placed, Reading, place
from vidssl.detection.detector import DetectionBatch, Detector
from vidssl.detection.views import Views
from vidssl.errors import (
    AnnotationError,
    BankError,
    CheckpointError,
    OutputError,
    RecipeError,
    listed,
)
from vidssl.features import Bank
from vidssl.features.manifest import flatten
from vidssl.features.operators import BankWindow
from vidssl.jobs._training import Seen
from vidssl.jobs.index import open_index, set_aside
from vidssl.progress import Progress
from vidssl.recipe import Detection, backbone_from, validate
from vidssl.train.weights import load_into, load_weights, save_weights
from vidssl.video.reader import decoder_version
from vidssl.video.storage import Location, video_id

INDIFFERENT = {
    *("task", "seed", "compile", "faults", "version"),
    *("min_score", "rate", "videos_per_shard", "decoder"),
}
"""Keys of an extraction's recipe that decide which rows there are, or nothing at all."""
SPARED = ("backbone.sees",)
"""Keys that a recipe of before has not, and one of today only where they are not as ever."""
RANDOM = "random"
"""In place of an encoder: start from fresh weights."""


@dataclass(frozen=True)
class Trained:
    """A detector from disk with what it was trained for."""

    detector: Detector
    recipe: Detection
    labels: LabelMap
    bank_encoder: str | None
    weights_hash: str
    bank_made_by: dict[str, Any] = field(default_factory=dict)
    """How the rows of the bank it was trained with were made; nothing if that was not kept yet."""

    def require_bank(self, bank: Bank) -> None:
        """Refuse a bank whose rows were made in another way than those the detector knows.

        Raises:
            BankError: with every difference.
        """
        assert self.bank_encoder is not None
        require_made_alike(bank, self.bank_encoder, self.bank_made_by, "the detector's bank")


def require_made_alike(bank: Bank, encoder: str, made: Mapping[str, object], known_as: str) -> None:
    """Refuse a bank of another encoder, or made in another way than the one that is known.

    Raises:
        BankError: with every difference.
    """
    bank.require(encoder)
    found = made_by(bank)
    keys = [*made, *(key for key in SPARED if made and key not in made)]
    differences = [
        f"{key}: {found.get(key)!r} in the bank, {made.get(key)!r} in the one it was trained with"
        for key in keys
        if found.get(key) != made.get(key)
    ]
    if differences:
        title = f"{bank.folder}: was made in another way than {known_as}"
        raise BankError(listed(title, differences))


def require_alone(command: str) -> None:
    """Refuse to run as one of several processes, which would all write the same files.

    Raises:
        OutputError: under torchrun with more than one process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OutputError(f"{command} runs as one process; start it without torchrun")


def check_encoder(card: dict[str, Any], backbone: BackboneConfig, where: str) -> None:
    """Compare an encoder's card with the recipe's backbone.

    Raises:
        CheckpointError: with every option that decides the weights and differs.
    """
    there, here = backbone_from(card, where).geometry_free(), backbone.geometry_free()
    differences = [
        f"backbone.{key}: {there.get(key)} in the encoder, {here.get(key)} in the recipe"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise CheckpointError(listed(f"{where}: does not fit the recipe", differences))


def load_encoder(path: Path, backbone: BackboneConfig) -> tuple[Encoder, dict[str, Any]]:
    """Return (the recipe's backbone with the weights at ``path``, their card).

    Raises:
        CheckpointError: if there are none, or they do not fit.
    """
    card, tensors = load_weights(path, "encoder")
    check_encoder(card, backbone, str(path))
    encoder = backbone.build()
    load_into(encoder, tensors, str(path))
    return encoder, card


def save_detector(
    folder: Path,
    detector: Detector,
    plan: Detection,
    labels: LabelMap,
    bank: Bank | None,
    *,
    steps: int,
    seen: Seen,
) -> str:
    """Write the detector and its encoder alone, each with a card; return the former's hash."""
    common = {
        "trained_by": {"task": plan.task, "steps": steps, **asdict(seen)},
        "decoder": decoder_version(plan.decoder),
        "code": __version__,
    }
    backbone = plan.backbone.model_dump(mode="json")
    save_weights(
        folder,
        "encoder",
        detector.encoder,
        {
            "backbone": backbone,
            "features": detector.encoder.features,
            **common,
        },
    )
    card = {
        "recipe": plan.model_dump(mode="json"),
        "classes": {str(number): name for number, name in labels.names.items()},
        "bank": {"encoder": bank.encoder_hash, "dim": bank.dim, "made_by": made_by(bank)}
        if bank
        else None,
        **common,
    }
    return save_weights(folder, "detector", detector, card)


def load_detector(run: Path) -> Trained:
    """Return the detector of a finished run.

    Raises:
        CheckpointError: if the run holds none, or it is damaged.
    """
    card, tensors = load_weights(run, "detector")
    if "recipe" not in card:
        raise CheckpointError(f"{run}: holds an encoder; expected a detector")
    plan = validate(Detection, card["recipe"], f"{run}/detector.json")
    labels = LabelMap({int(number): name for number, name in card["classes"].items()})
    bank = card["bank"]
    detector = build_detector(plan, plan.backbone.build(), labels, bank["dim"] if bank else None)
    load_into(detector, tensors, str(run))
    encoder, made = (bank["encoder"], bank.get("made_by", {})) if bank else (None, {})
    return Trained(detector, plan, labels, encoder, card["hash"], made)


def require_videos(bank: Bank | None, moments: Sequence[Moment]) -> None:
    """Refuse a bank of other videos: all windows would be empty, and nothing would tell.

    Some videos may be lacking, as those in which nobody was detected.

    Raises:
        BankError: if it has none of the videos.
    """
    names = sorted({moment.video for moment in moments})
    if bank is not None and names and not any(map(bank.has, names)):
        raise BankError(
            f"{bank.folder}: holds nothing of the {len(names)} videos ({', '.join(names[:3])}, "
            "...); extract a bank of them first (`vidssl extract-features`, with their boxes)"
        )


def made_by(bank: Bank) -> dict[str, Any]:
    """Return what decides a bank's rows, whichever the videos and boxes, by dotted key.

    Of the decoder the name counts: its next version is not another one.
    """
    details = dict(bank.identity.details)
    decoder = str(details.pop("decoder", "")).partition("-")[0]  # from "pyav-18.1.0"
    recipe = {
        key: value
        for key, value in dict(details.get("recipe", {})).items()
        if key not in INDIFFERENT
    }
    return {"kind": bank.kind, "decoder": decoder, **dict(flatten("", recipe))}


def build_detector(
    plan: Detection, encoder: Encoder, labels: LabelMap, bank_dim: int | None
) -> Detector:
    """Return a detector with a fresh head on ``encoder``."""
    return Detector(
        encoder,
        plan.head,
        num_classes=labels.size,
        bank_dim=bank_dim,
        freeze_backbone=plan.freeze == "backbone",
        classes=labels.ids,
    )


@torch.no_grad()
def take_own_part(detector: Detector, before: Detector) -> None:
    """Give a detector the head of another of the same context, but for what reads the bank."""
    own = detector.own_features
    detector.classifier.weight[:, :own] = before.classifier.weight[:, :own]
    detector.classifier.bias.copy_(before.classifier.bias)
    if detector.context is not None and before.context is not None:
        detector.context.load_state_dict(before.context.state_dict())


def reading(plan: Detection, views: Views | None = None) -> Reading:
    """Return how the recipe's clips and windows are read; with views, those of a test.

    Pictures that are to be seen larger than the recipe has them decoded are decoded so large.
    """
    window = plan.head.operator.window if plan.head.operator else None
    frames, stride = plan.backbone.frames, plan.backbone.stride
    own = Reading(frames, stride, plan.decode_short_side_px, window, plan.decoder)
    if views is None:
        return own
    side_px = own.short_side_px
    if side_px is not None and views.short_sides_px != (plan.augment.test_short_side_px,):
        side_px = max(side_px, *views.short_sides_px)
    return replace(own, short_side_px=side_px, shifts_s=views.shifts_s(stride))


def views_of(plan: Detection, scales: str | None, flip: bool, clips: int) -> Views:
    """Return the views that a person asks for; those of the recipe's test where nothing is said.

    ``scales`` are short sides in pixels with commas between them.

    Raises:
        RecipeError: if they are none, name one twice, or are shorter than the crop of training or
            than the backbone can take; or if the clips are not odd in number.
    """
    if clips < 1 or clips % 2 == 0:
        raise RecipeError(
            f"--clips: expected an odd number from 1, found {clips}: one of the clips is to stand "
            "on the key frame, and as many before it as after it"
        )
    sides_px = {plan.augment.test_short_side_px} if scales is None else _sides(plan, scales)
    return Views(tuple(sorted(sides_px)), flip, clips)


def _sides(plan: Detection, scales: str) -> set[int]:
    words = [word.strip() for word in scales.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise RecipeError(
            f"--scales: expected short sides in pixels, as 224,256,320, found {scales!r}"
        )
    sides_px = [int(word) for word in words]
    if twice := sorted({side for side in sides_px if sides_px.count(side) > 1}):
        raise RecipeError(f"--scales: {twice[0]} is there twice; each counts once")
    crop_px = plan.augment.crop_px
    if crop_px is not None and min(sides_px) < crop_px:
        raise RecipeError(
            f"--scales: {min(sides_px)} is shorter than the crop of {crop_px} pixels that the "
            "detector was trained on"
        )
    for side in sides_px:
        try:
            plan.backbone.require_side(side, "--scales")
        except ValueError as error:
            raise RecipeError(str(error)) from None
    return set(sides_px)


def place_moments(
    moments: Sequence[Moment],
    videos: str,
    cache: Path,
    progress: Progress,
    time_origin: str,
    others: Iterable[Location] = (),
) -> Placed:
    """Return the key frames with their videos, indexed once at ``cache``.

    ``time_origin`` says from where their times count, as ``vidssl.ava.origins`` understands it.
    ``others`` are more videos of the source that ``videos`` is a part of.

    Raises:
        SourceError, AnnotationError: if none can be used, or times count from who knows where.
    """
    stated = parse_origin(time_origin)
    is_new = not cache.exists()
    index = open_index(videos, cache, progress)
    try:
        reasons = {video_id(path): why for path, why in set_aside(index).items()}
        return place(moments, index, reasons, stated, others)
    except AnnotationError:
        if is_new:  # a refused command leaves nothing behind
            cache.unlink(missing_ok=True)
        raise


def fingerprint(placed: Placed) -> str:
    """Return a short hash of the key frames, their people and labels, and of time origins."""
    digest = hashlib.sha256()
    for moment in placed.moments:
        digest.update(f"{moment.video} {moment.timestamp} ".encode())
        digest.update(moment.boxes.tobytes() + moment.labels.tobytes())
        if origin_s := placed.origin_s(moment.video):
            digest.update(f"{origin_s}".encode())
    return digest.hexdigest()[:16]


def batcher(
    augment: DetectionConfig,
    multiple: int,
    device: torch.device,
    *,
    training: bool,
    mirrored: bool = False,
) -> Callable[[Sequence[KeyFrameSample], int], DetectionBatch]:
    """Return what makes a batch of raw samples: on the device, resized, boxes carried along.

    Boxes of which nothing is left inside a training crop get the label -1, not known: there is
    nothing to see of them (SlowFast trains on them all the same). ``mirrored`` is about testing:
    clips and boxes are then seen from left to right reversed.
    """

    def make(samples: Sequence[KeyFrameSample], step: int) -> DetectionBatch:
        clips, boxes, labels = [], [], []
        size: tuple[int, int] | None = None
        for sample in samples:
            clip = sample.clip.to(device, non_blocking=True)
            view = detection_view(clip, sample.seed if training else None, augment, multiple)
            if not training:
                view = replace(view, flip=mirrored)
            if size is not None and augment.crop_px is None:
                # One batch, one size: the first clip's.
                view = replace(view, height_px=size[0], width_px=size[1])
            size = (view.height_px, view.width_px)
            clips.append(normalise(geometry.apply(clip, view)))
            own = torch.as_tensor(sample.moment.boxes, dtype=torch.float32, device=device)
            carried = geometry.carry(own, view)
            boxes.append(carried)
            labels.append(_labels(sample, carried))
        window = _window(samples, device)
        return DetectionBatch(torch.stack(clips), tuple(boxes), torch.cat(labels), window, step)

    return make


def _labels(sample: KeyFrameSample, carried: Tensor) -> Tensor:
    known = torch.as_tensor(sample.moment.labels, dtype=torch.float32, device=carried.device)
    gone = (carried[:, 2] <= carried[:, 0]) | (carried[:, 3] <= carried[:, 1])
    return known.masked_fill(gone[:, None], -1.0)


def _window(samples: Sequence[KeyFrameSample], device: torch.device) -> BankWindow | None:
    windows = [sample.window for sample in samples if sample.window is not None]
    if not windows:
        return None
    return BankWindow(
        torch.from_numpy(np.stack([w.features for w in windows])).to(device),
        torch.from_numpy(np.stack([w.mask for w in windows])).to(device),
        torch.from_numpy(np.stack([w.offset_s for w in windows])).to(device),
    )
