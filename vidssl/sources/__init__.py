"""From what a person names on the command line to a list of videos.

A SOURCE is a folder, one video, a list (csv, txt or Parquet with a ``path`` column), an index, or
``NAME:PATH`` for a source of its own file, ``vidssl/sources/NAME.py``, with a ``scan`` function.
"""

import importlib
import pkgutil
from pathlib import Path

from vidssl.errors import SourceError, nearest
from vidssl.video.storage import Location

SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".mpe",
        ".ts",
        ".m2ts",
        ".mts",
        ".flv",
        ".wmv",
        ".asf",
        ".ogv",
        ".3gp",
    ]
)


def scan(source: str) -> list[Location]:
    """Return the videos that ``source`` names, in a fixed order, without opening them.

    Their paths are absolute: what is written down of them holds in any working folder.

    Raises:
        SourceError: if there is nothing of that name, or no video in it.
    """
    return [str(path.absolute()) for path in _scan(source)]


def _scan(source: str) -> list[Path]:
    name, colon, rest = source.partition(":")
    if colon and name.isidentifier() and not Path(source).exists():
        return _named(name, Path(rest))
    path = Path(source)
    if path.is_dir():
        return scan_folder(path)
    if not path.exists():
        raise SourceError(missing(path))
    if path.suffix.lower() in {".csv", ".txt", ".tsv", ".parquet"}:
        from vidssl.sources.listing import scan as scan_list

        return scan_list(path)
    return [path]


def missing(path: Path) -> str:
    """Return the message for a path that does not exist, with the nearest name that does."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: no such file or folder (nor is there a folder {folder})"
    return f"{path}: no such file or folder{nearest(path.name, (p.name for p in folder.iterdir()))}"


def scan_folder(folder: Path) -> list[Path]:
    """Return every video file below ``folder``, by its suffix, sorted by path.

    Raises:
        SourceError: if there is none.
    """
    videos = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not videos:
        suffixes = " ".join(sorted(SUFFIXES))
        raise SourceError(f"{folder}: holds no video file (looked for {suffixes})")
    return videos


def _named(name: str, path: Path) -> list[Path]:
    known = [module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"]
    if name not in known:
        choices = ", ".join(known)
        hint = nearest(name, known)
        raise SourceError(f"no source {name!r} in vidssl.sources{hint} (choices: {choices})")
    videos: list[Path] = importlib.import_module(f"vidssl.sources.{name}").scan(path)
    return videos
