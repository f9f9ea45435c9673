"""Boxes of people for pretraining: asked for by the recipe, given with ``--boxes``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidssl.ava.annotations import PersonBoxes, read_person_boxes
from vidssl.ava.origins import parse_origin, told
from vidssl.data.clips import ClipSample, carried
from vidssl.data.people import People
from vidssl.errors import RecipeError
from vidssl.files import sha256
from vidssl.jobs.index import set_aside
from vidssl.recipe import Pretrain
from vidssl.video.index import ClipIndex
from vidssl.video.storage import Location, video_id


@dataclass(frozen=True)
class BoxFiles:
    """What a person says of the boxes: csv files in AVA layout, and from where their times count.

    ``time_origin`` is ``auto``, seconds, or a csv file of video and seconds.
    """

    paths: tuple[Path, ...] = ()
    time_origin: str = "auto"

    def identity(self) -> dict[str, object]:
        """Return what tells these boxes from others, nothing if there are none."""
        if not self.paths:
            return {}
        hashes = [sha256(path)[:16] for path in self.paths]
        return {"boxes": hashes, "time_origin": self.time_origin}


def read_boxes(plan: Pretrain, boxes: BoxFiles) -> list[PersonBoxes]:
    """Return the tables that the recipe asks for, none for most recipes.

    Raises:
        RecipeError: if the recipe asks for boxes and there are none, or the other way round; or
            if there is a time origin of none.
        AnnotationError: if a file is absent or has a mistake.
    """
    name = plan.method.name
    if plan.method.people() and not boxes.paths:
        raise RecipeError(f"method: {name} takes people from a file: give it with --boxes")
    if boxes.paths and not plan.method.people():
        raise RecipeError(
            f"--boxes: method {name} of this recipe takes none; "
            "a method that does: {name: const_cl, boxes: table}"
        )
    if not boxes.paths and boxes.time_origin != "auto":
        raise RecipeError("--time-origin is that of --boxes, of which there are none")
    return [read_person_boxes(path) for path in boxes.paths]


def open_people(
    tables: Sequence[PersonBoxes],
    index: ClipIndex,
    time_origin: str,
    others: Sequence[Location] = (),
) -> People | None:
    """Return the people of the index's videos; None without tables.

    Where the index holds only some of the videos, ``others`` are all of them.

    Raises:
        AnnotationError: if they do not fit the videos.
    """
    if not tables:
        return None
    reasons = {video_id(path): why for path, why in set_aside(index).items()}
    return People(tables, index, reasons, parse_origin(time_origin), others)


def account(people: People, boxes: BoxFiles) -> dict[str, object]:
    """Return what is told of the people in the folder of a run."""
    return {
        "files": [str(path) for path in boxes.paths],
        "videos": people.videos,
        "absent_videos": people.absent,
        "time_origins": told(people.time_origins),
    }


def videos_with_people(
    paths: Sequence[Location], tables: Sequence[PersonBoxes]
) -> Sequence[Location]:
    """Return the videos that have boxes, or all if none has or there are no tables."""
    known = {name for table in tables for name in set(table.video.tolist())}
    return [path for path in paths if video_id(path) in known] or paths


def targets(
    plan: Pretrain, samples: Sequence[ClipSample], device: torch.device
) -> dict[str, Tensor]:
    """Return the boxes of the augmented views, ``(B, V, N, 4)``, and which are valid."""
    most = plan.method.people()
    if not most:
        return {}
    pairs = [carried(sample, plan.augment, most) for sample in samples]
    boxes, valid = (torch.stack(parts).to(device) for parts in zip(*pairs, strict=True))
    return {"boxes": boxes, "boxes_valid": valid}
