"""What the files in a run's folder say, however much of it there is yet."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidssl.errors import CheckpointError, nearest
from vidssl.train.folder import (
    IDENTITY,
    of_newer_format,
    read_events,
    read_log,
    without_secrets,
)


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run's folder say; ``unread`` tells of those that cannot be read."""

    folder: Path
    identity: dict[str, Any]
    recipe: str
    log: list[dict[str, Any]]
    events: list[dict[str, Any]]
    cards: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, Any]]
    unread: list[str]


def read_run(folder: Path) -> RunFiles:
    """Return what the files of a run's folder say.

    Raises:
        CheckpointError: if the folder is not that of a run.
    """
    identity = _identity(folder)
    unread: list[str] = []
    cards = {name: folder / f"{name}.json" for name in ("encoder", "detector")}
    scores = {path.parent.name: path for path in sorted(folder.glob("eval-*/score.json"))}
    recipe = folder / "recipe.yaml"
    return RunFiles(
        folder=folder,
        identity=identity,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        log=[e for e in read_log(folder) if isinstance(e, dict) and isinstance(e.get("step"), int)],
        events=[event for event in read_events(folder) if isinstance(event, dict)],
        cards=_objects({name: path for name, path in cards.items() if path.is_file()}, unread),
        scores=_objects(scores, unread),
        unread=unread,
    )


def _identity(folder: Path) -> dict[str, Any]:
    path = folder / IDENTITY
    if not folder.is_dir():
        names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise CheckpointError(f"{folder}: no such folder{nearest(folder.name, names)}")
    if not path.is_file():
        inside = [p.parent.name for p in sorted(folder.glob(f"*/{IDENTITY}"))]
        hint = f"; runs in it: {', '.join(inside[:5])}" if inside else ""
        raise CheckpointError(
            f"{folder}: not a run: expected the {IDENTITY} that `vidssl pretrain` and "
            f"`vidssl finetune` write, found none{hint}"
        )
    unread: list[str] = []
    identity = _objects({IDENTITY: path}, unread)
    if unread:
        raise CheckpointError(unread[0])
    if newer := of_newer_format(identity[IDENTITY]):
        raise CheckpointError(f"{path}: {newer}")
    return without_secrets(identity[IDENTITY])  # those of earlier versions may have some


def _objects(paths: Mapping[str, Path], unread: list[str]) -> dict[str, dict[str, Any]]:
    """Return the JSON object of each file; a file without one is added to ``unread``."""
    found: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            unread.append(f"{path}: cannot be read as JSON ({error})")
            continue
        if isinstance(value, dict):
            found[name] = value
        else:
            unread.append(f"{path}: expected a JSON object, found {type(value).__name__}")
    return found


def is_finite(value: Any) -> bool:
    """Whether a value from a file is a number that can be drawn."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
