"""Folders of extracted frames, each the video that its numbered pictures were taken from.

Every folder at or below ``PATH`` that holds a JPEG or PNG whose name ends in a number is one video,
called as the folder is: ``PATH/VIDEO/VIDEO_000001.jpg``, as AVA and PySlowFast have it, or
``PATH/VIDEO/img_00001.jpg``, as mmaction2 does. Frames are 30 a second unless ``PATH/fps.txt``, or
that of a video's own folder, says otherwise. ``vidssl.video.decoders.frames`` reads them.

    frames:PATH
"""

import os
from collections.abc import Iterator

from vidssl.errors import SourceError
from vidssl.sources._listing import Listing
from vidssl.sources._place import Place
from vidssl.video.storage import is_address, is_picture, shown

OPTIONS: dict[str, str] = {}


def read(place: Place) -> Listing:
    """Return the folders of frames, sorted by path.

    Raises:
        SourceError: if there is none.
    """
    place.check()
    if is_address(place.path) or not os.path.isdir(place.path):
        raise SourceError(f"{shown(place.path)}: expected a folder of this machine")
    unusable: list[str] = []
    found = list(_below(os.path.abspath(place.path), unusable))
    if not found:
        raise SourceError(
            f"{shown(place.path)}: no folder there holds frames "
            "(looked for .jpg, .jpeg and .png whose names end in a number)"
        )
    return Listing.plain("frames", found, unusable)


def _below(root: str, unusable: list[str]) -> Iterator[str]:
    """Give the folders that hold frames; what lies below them is not looked at."""
    entered: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            about = os.stat(folder)
            if (about.st_dev, about.st_ino) in entered:
                continue
            entered.add((about.st_dev, about.st_ino))
            has_frames, folders = _looked_into(folder)
            folder.encode()
        except UnicodeEncodeError:
            unusable.append(f"{shown(folder)}: the name is not UTF-8")
        except OSError as error:
            unusable.append(f"{shown(folder)}: {error.strerror}")
        else:
            if has_frames:
                yield folder
            else:
                waiting += sorted(folders, reverse=True)


def _looked_into(folder: str) -> tuple[bool, list[str]]:
    """Return whether a folder holds a frame, and its folders; nothing is read past a frame."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_picture(entry.name):
                return True, []
            if entry.is_dir():
                folders.append(entry.path)
    return False, folders
