"""What the files in a run's folder say, however much of it there is yet."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

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
    cards = {name: folder / f"{name}.json" for name in ("encoder", "detector", "classifier")}
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
        except (OSError, ValueError, RecursionError) as error:
            unread.append(f"{path}: cannot be read as JSON ({error})")
            continue
        if isinstance(value, dict):
            found[name] = value
        else:
            unread.append(f"{path}: expected a JSON object, found {type(value).__name__}")
    return found


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value from a file is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


# --- numbers


@dataclass(frozen=True)
class Speed:
    """Clips in a second and the share of time spent waiting, over the logged steps."""

    clips_per_s: float
    data_wait: float


def steps_done(files: RunFiles) -> int:
    """Return the number of steps done, as far as the files tell."""
    logged = [entry["step"] + 1 for entry in files.log]
    return max([*_steps_of_cards(files), *logged], default=0)


def steps_of_weights(files: RunFiles) -> int | None:
    """Return after how many steps the run's weights were written; None if there are none."""
    return max(_steps_of_cards(files), default=0) if files.cards else None


def _steps_of_cards(files: RunFiles) -> list[int]:
    cards = [card.get("trained_by") for card in files.cards.values()]
    steps = [card.get("steps") for card in cards if isinstance(card, dict)]
    return [count for count in steps if type(count) is int]


def speed_of(log: Sequence[Mapping[str, Any]]) -> Speed | None:
    """Return the speed over the logged steps, each weighed by its length.

    The first step of all is left out: it waits for the workers to start.
    """
    pairs = [
        (float(entry["clips_per_s"]), float(entry["data_wait"]))
        for entry in log
        if is_finite(entry.get("clips_per_s")) and is_finite(entry.get("data_wait"))
    ]
    pairs = [(clips, wait) for clips, wait in pairs[1:] or pairs if clips > 0]
    if not pairs:
        return None
    seconds = [1 / clips for clips, _ in pairs]  # of one clip, hence of each step in proportion
    waited = sum(s * wait for s, (_, wait) in zip(seconds, pairs, strict=True))
    return Speed(len(pairs) / sum(seconds), waited / sum(seconds))


def last_number(log: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the last finite number that was logged under ``name``."""
    values = [float(entry[name]) for entry in log if is_finite(entry.get(name))]
    return values[-1] if values else None


def samples_seen(log: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many samples the run itself has trained on; repeats count."""
    seen = last_number(log, "samples_seen")
    return None if seen is None else int(seen)
