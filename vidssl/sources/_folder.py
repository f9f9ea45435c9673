"""The videos below a folder, by their suffix; nothing is opened."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vidssl.errors import SourceError
from vidssl.sources._listing import Files, Listing
from vidssl.video.storage import Location, below, file_name, is_address, shown

SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mpe"),
        *(".ts", ".m2ts", ".mts", ".flv", ".wmv", ".asf", ".ogv", ".3gp"),
    ]
)


def whole_folder(folder: Location) -> Listing:
    """Return every video below a folder.

    Raises:
        SourceError: if there is none.
    """
    files = find(folder)
    return Listing.plain("folder", files.paths, files.unusable)


def scan_folder(folder: Location) -> list[Location]:
    """Return every video file below ``folder``, by its suffix, sorted by path.

    Raises:
        SourceError: if there is none.
    """
    return list(find(folder).paths)


def find(folder: Location) -> Files:
    """Return the videos below a folder of this machine or a store, to be looked up by name.

    Links to folders are followed, but no folder is entered twice, nor one that holds this one.
    What is neither file nor folder (a pipe, a socket) is left alone whatever its name. Files whose
    names are not UTF-8 cannot stand in an index, and are told of as unusable.

    Raises:
        SourceError: if there is none.
    """
    unusable: list[str] = []
    if is_address(folder):
        videos = [one for one in below(folder) if is_video(file_name(one))]
    else:
        videos = _local(os.path.abspath(folder), unusable)
    if not videos:
        suffixes = " ".join(sorted(SUFFIXES))
        told = "".join(f"\n  {one}" for one in unusable[:8])
        raise SourceError(
            f"{shown(folder)}: holds no video file (looked for {suffixes}; "
            f"for archives name shards:{shown(folder)}){told}"
        )
    return Files(folder, videos, unusable)


def is_video(name: str) -> bool:
    """Return whether a file's name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _local(root: str, unusable: list[str]) -> list[str]:
    links: list[str] = []
    entered = _above(root)
    videos = list(_walk(root, entered, links, unusable))
    if not links:
        return videos
    while links:  # after all true folders, so that a file is known by its true path
        found: list[str] = []
        for link in sorted(links, key=_by_part):
            videos.extend(_walk(link, entered, found, unusable))
        links = found
    return sorted(videos, key=_by_part)


def _above(root: str) -> set[tuple[int, int]]:
    """Return the folders that hold a folder, by device and number: a link to one goes astray."""
    found: set[tuple[int, int]] = set()
    for above in Path(root).resolve().parents:
        with suppress(OSError):
            about = above.stat()
            found.add((about.st_dev, about.st_ino))
    return found


def _by_part(path: str) -> list[str]:
    return path.split("/")


def _walk(
    top: str, entered: set[tuple[int, int]], links: list[str], unusable: list[str]
) -> Iterator[str]:
    """Give the videos below a folder in the order of their paths' parts."""
    waiting: list[tuple[str, bool]] = [(top, True)]
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield path
            continue
        try:
            about = os.stat(path)
            if (about.st_dev, about.st_ino) in entered:
                continue
            entered.add((about.st_dev, about.st_ino))
            with os.scandir(path) as entries:
                found = sorted(_wanted(entries, links, unusable), reverse=True)
        except OSError as error:
            unusable.append(f"{shown(path)}: {error.strerror}")
            continue
        waiting.extend(found)


def _wanted(
    entries: Iterator["os.DirEntry[str]"], links: list[str], unusable: list[str]
) -> Iterator[tuple[str, bool]]:
    """Give (path, whether it is a folder) of what may matter; links to folders join ``links``."""
    for entry in entries:
        video = is_video(entry.name)
        try:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path, True
            elif entry.is_symlink() and entry.is_dir():
                links.append(entry.path)
            elif video and entry.is_file():
                if _is_text(entry.path):
                    yield entry.path, False
                else:
                    unusable.append(f"{shown(entry.path)}: the name is not UTF-8")
            elif video and entry.is_symlink():
                unusable.append(f"{shown(entry.path)}: a link to no file")
            elif video:
                unusable.append(f"{shown(entry.path)}: not a file")
        except OSError as error:  # such as a link to itself
            if video:
                unusable.append(f"{shown(entry.path)}: {error.strerror}")


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
