"""What is wrong with the file of another tool, and JSON whose parts know their place in it."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vidssl.ava.rows import read_text, shortened
from vidssl.errors import AnnotationError, listed

MAX_BYTES = 2**30
"""A larger file would not fit into the memory of a usual machine once it is parsed."""
DIGITS = 15
LARGEST = 1e15
"""No time, place or count of a video is further from 0; what is overflows somewhere later."""
SURROGATES = re.compile("[\ud800-\udfff]")


class Faults:
    """The mistakes of one file, each with its element, raised together."""

    def __init__(self, path: Path) -> None:
        """Start with nothing wrong with the file at ``path``."""
        self.path = path
        self._found: list[str] = []

    def add(self, where: str, reason: str, expected: str, found: object) -> None:
        """Note one mistake at the element ``where``."""
        shown = shortened(str(found))
        text = f"{self.path.name}: {where}: {reason}: expected {expected}, found {shown}"
        self._found.append("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))

    def check(self) -> None:
        """Do nothing if the file is sound.

        Raises:
            AnnotationError: with every mistake, in the order of the file.
        """
        if self._found:
            count = f"{len(self._found)} problem{'s' * (len(self._found) > 1)}"
            raise AnnotationError(listed(f"{self.path} has {count}", self._found))


@dataclass(frozen=True)
class Node:
    """A value of a JSON file; ``where`` is the way to it, as ``annotations[3].bbox``.

    What is asked of it and is not there is noted, and something neutral takes its place.
    """

    value: Any
    where: str
    faults: Faults

    @property
    def is_absent(self) -> bool:
        """Whether there is no such value, or it is null."""
        return self.value is None

    def __getitem__(self, key: str) -> "Node":
        """Return the part ``key`` of an object, absent where there is none."""
        where = f"{self.where}.{key}" if self.where else key
        held = self.value.get(key) if isinstance(self.value, dict) else None
        return Node(held, where, self.faults)

    def first(self, *keys: str) -> "Node":
        """Return the first of several parts that is there; an absent one if none is."""
        return next((self[key] for key in keys if not self[key].is_absent), self[keys[0]])

    def parts(self) -> Iterator["Node"]:
        """Give the entries of a list."""
        if isinstance(self.value, list):
            for number, held in enumerate(self.value):
                yield Node(held, f"{self.where}[{number}]", self.faults)
        elif not self.is_absent:
            self.wrong("a list")

    def entries(self) -> Iterator[tuple[str, "Node"]]:
        """Give the names and values of an object."""
        if isinstance(self.value, dict):
            for key, held in self.value.items():
                yield key, Node(held, f"{self.where}[{key!r}]", self.faults)
        elif not self.is_absent and self.value != []:  # what some write for an empty one
            self.wrong("an object")

    def number(self, expected: str = "a number", least: float = -math.inf) -> float:
        """Return a number that can be meant; NaN, and a fault, where there is none."""
        if _is_usable(self.value) and self.value >= least:
            return float(self.value)
        self.wrong(expected)
        return math.nan

    def numbers(self, count: int, expected: str) -> list[float]:
        """Return so many numbers; NaN, and one fault, where there are others."""
        held = self.value
        if isinstance(held, list) and len(held) == count and all(map(_is_usable, held)):
            return [float(value) for value in held]
        self.wrong(expected)
        return [math.nan] * count

    def text(self, expected: str = "a text") -> str:
        """Return a text; an empty one, and a fault, where there is none."""
        held = self.value
        if isinstance(held, str) and held.strip() and not SURROGATES.search(held):
            return held
        self.wrong(expected)
        return ""

    def wrong(self, expected: str, reason: str = "") -> None:
        """Note that the value is not what is expected."""
        reason = reason or ("missing" if self.is_absent else "not understood")
        found = "nothing" if self.is_absent else json.dumps(self.value)
        self.faults.add(self.where or "the file", reason, expected, found)


def require_size(path: Path) -> None:
    """Refuse a file that is too large to be read whole.

    Raises:
        AnnotationError: if it is.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise AnnotationError(
            f"{path}: too large: expected at most {MAX_BYTES:,} bytes, found "
            f"{path.stat().st_size:,} bytes; export fewer videos at a time"
        )


def read_json(path: Path) -> Node:
    """Return the content of a JSON file.

    Raises:
        AnnotationError: if it is absent, too large, no UTF-8 or no JSON.
    """
    require_size(path)
    text = read_text(path)
    try:
        content = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = f"{path.name}:{error.lineno}:{error.colno}"
        found = (
            shortened(repr(text[error.pos : error.pos + 30])) if text.strip() else "an empty file"
        )
        raise AnnotationError(f"{where}: not JSON: {error.msg}, found {found}") from None
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise AnnotationError(f"{path.name}: not JSON: {shortened(reason)}") from None
    return Node(content, "", Faults(path))


def _is_usable(held: object) -> bool:
    """Return whether a value is a number that is not too large; NaN is not."""
    if isinstance(held, bool) or not isinstance(held, (int, float)):
        return False
    return -LARGEST <= held <= LARGEST  # compared as it is: 10**400 is no float


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"expected plain numbers, found {constant}")
