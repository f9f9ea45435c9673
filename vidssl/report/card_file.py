"""A report card as JSON, for programs, and for later cards to compare themselves with.

Numbers that are absent or not finite are null. The pictures are in the page alone.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidssl.errors import CheckpointError, nearest
from vidssl.files import write_text
from vidssl.report.card import UNKNOWN, Card, Rival, Score

FORMAT = 1
NAME = "card.json"


class _Score(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    key: str
    title: str
    meaning: str = ""
    value: Annotated[float, Field(ge=0, le=1)] | None
    low: Annotated[float, Field(ge=0, le=1)] | None = None
    high: Annotated[float, Field(ge=0, le=1)] | None = None
    expected: int = 0
    evaluated: int = 0
    failed: int = 0
    fingerprint: str = ""
    protocol: dict[str, str] = Field(default_factory=dict)
    chance: float | None = None
    unit: str = "videos"


class _File(BaseModel):
    """What is read of a card: enough to compare with it."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["report card"]
    format: int
    name: str
    scores: list[_Score]


def write(path: Path, card: Card) -> None:
    """Write the card to ``path``, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    write_text(path, as_json(card))


def as_json(card: Card) -> str:
    """Return the card as JSON; equal cards give equal text."""
    return json.dumps(_plain(card), indent=1, allow_nan=False) + "\n"


def is_card(folder: Path) -> bool:
    """Whether the folder holds a report card, and so may be replaced by another one."""
    try:
        told = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("kind") == "report card"


def read_rival(path: Path) -> Rival:
    """Return an earlier card to compare with, from its ``card.json`` or the folder around it.

    Raises:
        CheckpointError: if it is not there, or is no card.
    """
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        names = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        raise CheckpointError(f"{file}: no such file{nearest(file.name, names)}")
    try:
        told = _File.model_validate_json(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise CheckpointError(
            f"{file}: expected the {NAME} that `vidssl report-card` writes; {what}"
        ) from error
    if told.format > FORMAT:
        raise CheckpointError(
            f"{file}: expected a card of format {FORMAT} or less, found {told.format}; "
            "a newer vidssl wrote it"
        )
    scores = [Score(**score.model_dump()) for score in told.scores]
    return Rival(told.name, scores, f"from {path}")


def _plain(card: Card) -> dict[str, Any]:
    names = [video.name for video in card.videos]
    return {
        "kind": "report card",
        "format": FORMAT,
        "name": card.name,
        "lead": card.lead,
        "facts": dict(card.facts),
        "classes": list(card.classes),
        "scores": [_score(score) for score in card.scores],
        "motion": None
        if card.motion is None
        else {
            "variants": [_score(score) for score in card.motion.variants],
            "per_class": None
            if card.motion.per_class is None
            else [_number(value) for value in card.motion.per_class.tolist()],
        },
        "confusion": None if card.confusion is None else card.confusion.tolist(),
        "mistakes": [
            {
                "video": names[n],
                "class": _class(card, card.videos[n].label),
                "taken_for": _class(card, card.videos[n].predicted),
                "probability": _number(card.videos[n].confidence),
                "probability_of_class": _number(card.videos[n].truth),
            }
            for n in card.mistakes
        ],
        "neighbours": {
            names[near.video]: [[names[n], _number(cosine)] for n, cosine in near.nearest]
            for near in card.neighbours
        },
        "map": None
        if card.map is None
        else {
            "videos": [names[n] for n in card.map.videos],
            **{
                projection.method: np.round(projection.xy, 4).tolist()
                for projection in card.map.projections
            },
        },
        "costs": dict(card.costs),
        "compared_with": [
            {"name": rival.name, "note": rival.note, "scores": [_score(s) for s in rival.scores]}
            for rival in card.rivals
        ],
        "failures": [{"video": name, "reason": reason} for name, reason in card.failures],
        "notes": list(card.notes),
        "commands": list(card.commands),
    }


def _score(score: Score) -> dict[str, Any]:
    return {
        "key": score.key,
        "title": score.title,
        "meaning": score.meaning,
        "value": _number(score.value),
        "low": _number(score.low),
        "high": _number(score.high),
        "chance": _number(score.chance),
        "expected": score.expected,
        "evaluated": score.evaluated,
        "failed": score.failed,
        "unit": score.unit,
        "fingerprint": score.fingerprint,
        "protocol": dict(score.protocol),
    }


def _class(card: Card, label: int) -> str | None:
    return None if label == UNKNOWN else card.classes[label]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
