"""AVA-Kinetics: rows as in AVA, with 7 columns and fractions of a second, on Kinetics videos.

Videos are called ``ID`` or, as in Kinetics, ``ID_SSSSSS_EEEEEE``. An entry's time is one of the
original video, before it was cut.

    ava_kinetics:PATH[,list=FILE][,split=train|val]
"""

import re

from vidssl.sources._listing import Files, Listing
from vidssl.sources._place import Place
from vidssl.sources.ava import OPTIONS, read_rows

__all__ = ["OPTIONS", "read"]


def read(place: Place) -> Listing:
    """Return the videos and actions of a list.

    Raises:
        SourceError: if there is no list, it has mistakes, or none of its videos is there.
    """
    return read_rows("ava_kinetics", place, ["kinetics_*_v1.0.csv", "ava_kinetics*.csv"], _by_id)


def _by_id(files: Files) -> None:
    for stem in list(files.stems()):
        if re.fullmatch(r".+_\d{6}_\d{6}", stem):
            files.alias(stem, stem[:-14])
