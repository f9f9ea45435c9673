"""From what a person names on the command line to a list of videos and what is known of them.

A SOURCE is

- a folder, of this machine or a store (``s3://BUCKET/FOLDER``): every video file below it;
- one video, by its path or address;
- a list, by its path or address: txt (one path a line), csv, tsv or Parquet with a column ``path``,
  an index (``vidssl/sources/listing.py`` has the columns that are understood besides);
- ``NAME:PATH[,OPTION=VALUE...]``: a data set in the layout in which it is published, or shards.
  ``NAME`` is a file ``vidssl/sources/NAME.py``, whose first lines tell its layout and options.

Options follow the path, apart by commas; a value runs up to the next ``,OPTION=``. A path that
holds such a text itself is taken whole where it exists. ``PATH`` is the folder of the videos, or
the list itself, beside which the videos lie::

    kinetics:/data/k400,list=kinetics-400_val.csv
    ucf101:/data/ucf,split=1,part=train
    shards:s3://bucket/train-{000000..000012}.tar

A folder that holds the usual files needs no options. What a list names outside of the folder that
it was given (by ``..``, or an absolute path elsewhere) is refused; ``outside=allow`` lets it.
"""

import importlib
import os
import pkgutil
from pathlib import Path

from vidssl.errors import SourceError, VideoError, nearest
from vidssl.sources._folder import is_video, scan_folder, whole_folder
from vidssl.sources._listing import ENTRIES, Ledger, Listing
from vidssl.sources._place import Place, missing, parse
from vidssl.video.storage import Location, file_name, is_address, member_of, protocol, shown

__all__ = ["ENTRIES", "Ledger", "Listing", "read", "scan", "scan_folder"]

LISTS = {".csv", ".txt", ".tsv", ".parquet"}


def scan(source: str) -> list[Location]:
    """Return the videos that ``source`` names, in a fixed order, without opening them.

    Their paths are absolute: what is written down of them holds in any working folder.

    Raises:
        SourceError: if there is nothing of that name, or no video in it.
    """
    return read(source).videos


def read(source: str) -> Listing:
    """Return the videos that ``source`` names, their labels, and the account of what is missing.

    Raises:
        SourceError: if there is nothing of that name, no video in it, or a list has mistakes.
    """
    name, colon, rest = source.partition(":")
    named = colon and name.isidentifier() and not is_address(source) and not os.path.exists(source)
    try:
        return _named(name, rest) if named else _plain(source)
    except VideoError as error:  # of the store or file that a list lies in
        raise SourceError(str(error)) from None


def _plain(source: Location) -> Listing:
    if is_address(source):
        protocol(source)
    elif os.path.isdir(source):
        return whole_folder(source)
    if member_of(source) is not None:
        return _one(source)
    suffix = Path(file_name(source)).suffix.lower()
    if not is_address(source) and not os.path.exists(source):
        raise SourceError(missing(source))
    if suffix in LISTS:
        from vidssl.sources import listing

        return listing.read(Place("listing", source, {}))
    if suffix in {".tar", ".tgz"} or ".tar." in file_name(source).lower():
        raise SourceError(f"{shown(source)}: an archive; name it as shards:{shown(source)}")
    if is_address(source) and not is_video(file_name(source)):
        return whole_folder(source)
    return _one(source)


def _one(source: Location) -> Listing:
    video = source if is_address(source) else os.path.abspath(source)
    try:
        video.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{shown(video)}: the name is not UTF-8; rename the file") from None
    return Listing.plain("video", [video])


def _named(name: str, rest: str) -> Listing:
    known = [module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"]
    if name not in known:
        choices = ", ".join(known)
        hint = nearest(name, known)
        raise SourceError(f"no source {name!r} in vidssl.sources{hint} (choices: {choices})")
    module = importlib.import_module(f"vidssl.sources.{name}")
    listing: Listing = module.read(parse(name, rest, module.OPTIONS))
    return listing
