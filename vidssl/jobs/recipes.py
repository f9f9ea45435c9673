"""``vidssl recipes``: the bundled recipes, as their first lines describe them.

Line 1 of a recipe is the command that runs it, line 2 says what to expect of it.
"""

from dataclasses import dataclass
from pathlib import Path

from vidssl.errors import RecipeError, nearest
from vidssl.recipe import (
    Detection,
    Extract,
    LongTerm,
    Pretrain,
    RecipeFile,
    Recognition,
    bundled,
)

KINDS: tuple[type[RecipeFile], ...] = (Pretrain, Detection, Recognition, Extract, LongTerm)


@dataclass(frozen=True)
class RecipeRow:
    """One bundled recipe; ``kind`` is its folder's name."""

    kind: str
    name: str
    command: str
    description: str
    path: Path


def run() -> list[RecipeRow]:
    """Return every bundled recipe, kind by kind."""
    return [
        RecipeRow(kind.folder, name, *_first_lines(path), path)
        for kind in KINDS
        for name, path in bundled(kind).items()
    ]


def find(name: str) -> RecipeRow:
    """Return the recipe called ``name``, or ``KIND/name`` where several kinds share a name.

    Raises:
        RecipeError: if there is none, or more than one.
    """
    rows = run()
    found = [row for row in rows if name in {row.name, f"{row.kind}/{row.name}"}]
    if len(found) == 1:
        return found[0]
    if found:
        full = ", ".join(f"{row.kind}/{row.name}" for row in found)
        raise RecipeError(f"{len(found)} recipes are called {name!r}; give one of {full}")
    names = sorted({row.name for row in rows})
    hint = nearest(name.rpartition("/")[2], names)
    raise RecipeError(f"no recipe {name!r}{hint} (choices: {', '.join(names)})")


def text(row: RecipeRow) -> str:
    """Return a recipe's file as it is."""
    return row.path.read_text(encoding="utf-8")


def _first_lines(path: Path) -> tuple[str, str]:
    """Return (command, description) from the comment that a recipe begins with."""
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("#").strip())
    return (comment[0] if comment else "", " ".join(comment[1:]))
