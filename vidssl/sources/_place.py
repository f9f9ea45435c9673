"""``PATH[,OPTION=VALUE...]``: where a named source lies, and which part of it is wanted."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from vidssl.errors import SourceError, VideoError, nearest
from vidssl.video.storage import Location, below, file_name, is_address, shown

TOLD = 8
"""How many mistakes, or lists to choose from, a message shows."""
OUTSIDE = {"outside": "allow: take files outside of the folder that a list names"}


@dataclass(frozen=True)
class Place:
    """``path`` is the folder, list or archive; ``options`` are as the person wrote them."""

    source: str
    path: Location
    options: Mapping[str, str]

    def option(self, name: str, default: str = "") -> str:
        """Return the text of an option."""
        return self.options.get(name, default)

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        """Return an option's value, the first of ``choices`` where it is not given.

        Raises:
            SourceError: if it is none of them.
        """
        value = self.options.get(name, choices[0])
        if value not in choices:
            hint = nearest(value, choices)
            raise SourceError(
                f"{self.source}: expected {name}= one of {', '.join(choices)}, "
                f"found {shown(value)!r}{hint}"
            )
        return value

    @property
    def outside(self) -> bool:
        """Whether a list may name files outside of its folder."""
        return self.one_of("outside", ("refuse", "allow")) == "allow"

    @property
    def root(self) -> Location:
        """The folder of the videos: that of the list where ``path`` is one."""
        return folder_of(self.path) if self.is_list else self.path

    @property
    def is_list(self) -> bool:
        """Whether ``path`` is a file and not a folder."""
        if is_address(self.path):
            return bool(re.search(r"\.(csv|txt|tsv|json)$", self.path.split("?")[0].lower()))
        return os.path.isfile(self.path)

    def check(self) -> None:
        """Do nothing if ``path`` is there.

        Raises:
            SourceError: if it is not.
        """
        if not is_address(self.path) and not os.path.exists(self.path):
            raise SourceError(missing(self.path))

    def file(self, option: str) -> Location | None:
        """Return the file that an option names, from here or from the source's folder.

        Raises:
            SourceError: if it is not there.
        """
        value = self.option(option)
        if not value:
            return None
        value = value if is_address(value) else os.path.expanduser(value)
        inside = joined(self.root, value)
        if is_address(value) or os.path.exists(value):
            return value
        if is_address(inside) or os.path.exists(inside):
            return inside
        raise SourceError(f"{self.source}: {option}={missing(inside)}")

    def usual(self, folders: Sequence[str], patterns: Sequence[str]) -> list[Location]:
        """Return the files of ``folders`` below the root whose names match a pattern, sorted."""
        found: dict[Location, None] = {}
        for folder in folders:
            at = joined(self.root, folder) if folder else self.root
            for name in _names(at):
                if any(fnmatch(name.lower(), pattern) for pattern in patterns):
                    found[joined(at, name)] = None
        return list(found)

    def list_file(
        self, folders: Sequence[str], patterns: Sequence[str], *, avoid: str = "$^"
    ) -> Location | None:
        """Return the list: the path itself, the option ``list``, or the only one that lies where
        lists usually do; None if there is none.

        Names in which the regular expression ``avoid`` is found are no lists. Of several the option
        ``split`` chooses by name.

        Raises:
            SourceError: if several could be meant.
        """
        named = self.path if self.is_list else self.file("list")
        if named:
            return named  # which may have a column for the split
        found = [
            path
            for path in self.usual(folders, patterns)
            if not re.search(avoid, file_name(path).lower())
        ]
        wanted = self.option("split")
        if len(found) > 1 and wanted:
            found = [path for path in found if _tells(path, wanted)] or found
        if len(found) > 1:
            names = ", ".join(shown(file_name(path)) for path in found[:TOLD])
            raise SourceError(
                f"{shown(self.path)}: holds several lists ({names}); "
                "say which with list=NAME, or with split="
            )
        return found[0] if found else None

    def check_split(self, path: Location) -> None:
        """Do nothing if no split is asked for, or the name of the list at ``path`` tells of it.

        Raises:
            SourceError: if the list is of another split, as far as its name tells.
        """
        wanted = self.option("split")
        if wanted and not _tells(path, wanted):
            raise SourceError(
                f"{self.source}: split={shown(wanted)}, but the list is {shown(path)}; "
                "name the list of that split with list=FILE, or leave split out"
            )

    def needed_list(
        self, folders: Sequence[str], patterns: Sequence[str], *, avoid: str = "$^"
    ) -> Location:
        """Return the list as ``list_file`` does.

        Raises:
            SourceError: if there is none, or it is of another split.
        """
        found = self.list_file(folders, patterns, avoid=avoid)
        if found is None:
            raise SourceError(
                f"{shown(self.path)}: no list of {self.source} there "
                f"(looked for {', '.join(patterns)}); name it with list=FILE"
            )
        self.check_split(found)
        return found


def parse(source: str, rest: str, known: Mapping[str, str]) -> Place:
    """Return the place that ``rest`` of ``SOURCE:rest`` names.

    Raises:
        SourceError: if an option is not one of ``known`` (what it does, by name), or given twice.
    """
    path, options = rest, {}
    if not os.path.exists(rest):
        path, *parts = re.split(r",(?=[A-Za-z_]+=)", rest)
        for part in parts:
            name, _, value = part.partition("=")
            if name not in known:
                told = "".join(f"\n  {name}={text}" for name, text in known.items())
                hint = nearest(name, known)
                raise SourceError(f"{source}: no option {name!r}{hint}\nits options are:{told}")
            if name in options:
                raise SourceError(f"{source}: the option {name} is given twice")
            options[name] = value
    if not path:
        raise SourceError(f"{source}: expected a path: {source}:PATH")
    return Place(source, path if is_address(path) else os.path.expanduser(path), options)


def joined(folder: Location, name: str) -> Location:
    """Return what ``name`` means within ``folder``; an address or absolute path is itself."""
    if is_address(name):
        return name
    if is_address(folder):
        bare = folder.split("?")[0] if folder.startswith("http") else folder
        return f"{bare.rstrip('/')}/{name}"
    return os.path.join(folder, name)


def folder_of(path: Location) -> Location:
    """Return the folder of a file or address."""
    if is_address(path):
        bare = path.split("?")[0] if path.startswith("http") else path
        return bare.rpartition("/")[0]
    return os.path.dirname(path)


def beside(path: Location, pattern: str) -> Location | None:
    """Return the file in the folder of ``path`` whose name in small letters fits, or None."""
    found = Place("", folder_of(path) or ".", {}).usual([""], [pattern])
    return found[0] if found else None


def missing(path: str) -> str:
    """Return the message for a path that does not exist, with the nearest name that does."""
    whole = Path(path)
    folder = whole.parent
    if not folder.is_dir():
        return f"{shown(path)}: no such file or folder (nor is there a folder {shown(str(folder))})"
    hint = nearest(whole.name, (shown(p.name) for p in folder.iterdir()))
    return f"{shown(path)}: no such file or folder{hint}"


def _tells(path: Location, split: str) -> bool:
    """Return whether the name of a list tells of a split; ``validation`` and ``val`` are one."""
    short = "val" if split.startswith("val") else split
    return short.lower() in file_name(path).lower()


def _names(folder: Location) -> list[str]:
    if is_address(folder):
        try:
            return [file_name(name) for name in below(folder, depth=1)]
        except VideoError:
            return []  # a server without listings: the list must be named
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
