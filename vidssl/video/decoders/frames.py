"""Reading a folder of numbered pictures, JPEG or PNG, as the video that they were taken from.

Frame n of a series is on the screen from ``(n - 1) / rate`` on, or from ``n / rate`` where there is
a number 0. The rate is 30, that of AVA's frames, unless a file ``fps.txt`` in the folder, or in the
one above, holds another number. Where numbers are missing, the frame before stays; the same goes
for a picture that cannot be decoded.

Names are those of the published extractions, ``VIDEO/VIDEO_000001.jpg`` (AVA's own and PySlowFast)
and ``VIDEO/img_00001.jpg`` (mmaction2; its ``flow_x_00001.jpg`` beside are left alone), or any one
prefix with a number of any width.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from vidssl.errors import VideoError
from vidssl.video import reader as contract
from vidssl.video.reader import EPSILON_S, Clip
from vidssl.video.storage import Location, shown

VERSION = f"frames-pillow-{PIL.__version__}"
FPS = 30.0
RATE_FILE = "fps.txt"
KEPT_FOLDERS = 1024  # whose names are remembered: listing one of 27,030 frames takes 0.15 s

_NAME = re.compile(r"((?:.*\D)?)(\d{1,9})(\.(?:jpg|jpeg|png))", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Series:
    """The numbered pictures of a folder: how they are called, and which there are.

    ``runs`` ``(K, 2)`` are the first and last number of each stretch without a gap.
    """

    prefix: str
    digits: int
    suffix: str
    runs: NDArray[np.int64]

    @property
    def base(self) -> int:
        """The number of the frame at time 0."""
        return min(1, int(self.runs[0, 0]))

    @property
    def length(self) -> int:
        """How many frames there are from time 0 to the last, missing ones included."""
        return int(self.runs[-1, 1]) - self.base + 1

    @property
    def present(self) -> int:
        """How many pictures there are."""
        return int((self.runs[:, 1] - self.runs[:, 0] + 1).sum())

    @property
    def first_missing(self) -> int | None:
        """The first number that is missing; None if none is."""
        if self.runs[0, 0] > self.base:
            return self.base
        return int(self.runs[0, 1]) + 1 if len(self.runs) > 1 else None

    def name(self, number: int) -> str:
        """Return the name of a picture."""
        return f"{self.prefix}{number:0{self.digits}d}{self.suffix}"

    def shown(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pictures that stand for numbers: the last up to each, else the first."""
        run = np.maximum(np.searchsorted(self.runs[:, 0], numbers, side="right") - 1, 0)
        return np.clip(numbers, self.runs[run, 0], self.runs[run, 1])

    def before(self, number: int) -> int | None:
        """Return the picture before one; None if it is the first."""
        if number <= self.runs[0, 0]:
            return None
        return int(self.shown(np.array([number - 1]))[0])


class Reader(contract.Reader):
    """One folder of frames."""

    def __init__(self, location: Location, *, threads: int = 1) -> None:
        """Look at the names in ``location``.

        Raises:
            VideoError: if it is no folder, or holds no series of numbered pictures, or several.
        """
        super().__init__(location)
        self.series = series_of(location)
        self.fps = _rate(location)
        self._bad: set[int] = set()
        self._size: tuple[int, int] | None = None

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    @property
    def errors(self) -> int:
        """Pictures that could not be decoded so far; the ones before them stood for them."""
        return len(self._bad)

    def frames_at(self, times_s: NDArray[np.float64], short_side_px: int | None = None) -> Clip:
        """Return the frames on the screen at ``times_s``, in the order asked.

        A frame wanted twice is decoded once. All frames get the size of the first.

        Raises:
            VideoError: if not a single frame can be decoded.
            ValueError: if no time is given.
        """
        self._require_right_use(times_s)
        base = self.series.base
        numbers = np.floor((times_s + EPSILON_S) * self.fps).astype(np.int64) + base
        pictures: dict[int, tuple[int, NDArray[np.uint8]]] = {}
        for number in self.series.shown(numbers).tolist():
            if number not in pictures:
                pictures[number] = self._picture(number, short_side_px)
        wanted = [pictures[number] for number in self.series.shown(numbers).tolist()]
        times = (np.array([number for number, _ in wanted]) - base) / self.fps
        return Clip(np.stack([picture for _, picture in wanted]), times)

    def facts(self) -> dict[str, object]:
        """Return what an index says of the folder; only the first and last frame are decoded,
        unless they are broken.

        Raises:
            VideoError: if not a single frame can be decoded.
        """
        series = self.series
        first, last = int(series.runs[0, 0]), int(series.runs[-1, 1])
        number, picture = self._picture(first, None)
        told = [] if number == first else [f"the first frame that can be decoded is {number}"]
        if (gap := series.first_missing) is not None:
            missing = series.length - series.present
            told.append(
                f"{missing:,} of {series.length:,} frames are missing (the first: {gap}); "
                "for each the one before it is shown"
            )
        if last != first and self._decoded(last, None) is None:
            told.append(f"the last frame, {series.name(last)}, cannot be decoded")
        return {
            "codec": "png" if series.suffix.lower() == ".png" else "jpeg",
            "height": picture.shape[0],
            "width": picture.shape[1],
            "fps": self.fps,
            "duration_s": series.length / self.fps,
            "frames": series.present,
            "decoder": VERSION,
            "error": f"{shown(self.location)}: {'; '.join(told)}" if told else "",
        }

    def _picture(self, number: int, short_side_px: int | None) -> tuple[int, NDArray[np.uint8]]:
        """Return a frame, or the nearest before it, else after it, that can be decoded."""
        for one in chain(self._back(number), self._on(number)):
            if one not in self._bad:
                picture = self._decoded(one, short_side_px)
                if picture is not None:
                    return one, picture
                self._bad.add(one)
        raise VideoError(f"{shown(self.location)}: no frame can be decoded", "no_frames")

    def _back(self, number: int) -> Iterator[int]:
        at: int | None = number
        while at is not None:
            yield at
            at = self.series.before(at)

    def _on(self, number: int) -> Iterator[int]:
        for first, last in self.series.runs.tolist():
            yield from range(max(first, number + 1), last + 1)

    def _decoded(self, number: int, short_side_px: int | None) -> NDArray[np.uint8] | None:
        """Return a picture of the size of the first, perhaps shrunk; None if it is broken."""
        try:
            with Image.open(self._path(number), formats=("JPEG", "PNG")) as image:
                if self._size is None:
                    self._size = self._first_size() or image.size
                size = _shrunk(self._size, short_side_px)
                if size != image.size:
                    image.draft("RGB", size)  # a JPEG is halved as it is read, once or more
                rgb = image.convert("RGB")
                if rgb.size != size:
                    rgb = rgb.resize(size, Image.Resampling.BOX)
                return np.asarray(rgb)
        # Pillow says SyntaxError of a broken PNG.
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None

    def _first_size(self) -> tuple[int, int] | None:
        with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            first = self._path(int(self.series.runs[0, 0]))
            with Image.open(first, formats=("JPEG", "PNG")) as image:
                return image.size
        return None

    def _path(self, number: int) -> str:
        return os.path.join(self.location, self.series.name(number))


def series_of(folder: Location) -> Series:
    """Return the numbered pictures of a folder.

    Raises:
        VideoError: if it is no folder, or holds no series of numbered pictures, or several.
    """
    try:
        return _series(folder, os.stat(folder).st_mtime_ns)
    except FileNotFoundError:
        raise VideoError(f"{shown(folder)}: no such folder", "missing") from None
    except NotADirectoryError:
        raise VideoError(f"{shown(folder)}: not a folder", "missing") from None
    except OSError as error:
        what = error.strerror or type(error).__name__
        raise VideoError(f"{shown(folder)}: cannot be read ({what})", "unreadable") from error


@lru_cache(maxsize=KEPT_FOLDERS)
def _series(folder: Location, mtime_ns: int) -> Series:
    numbers: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for name in os.listdir(folder):
        found = _NAME.fullmatch(name)
        if found:
            number = int(found[2]), len(found[2])
            numbers.setdefault((found[1], found[3]), []).append(number)
    if not numbers:
        raise VideoError(f"{shown(folder)}: holds no numbered pictures", "no_frames")
    prefix, suffix = _chosen(folder, {key: len(found) for key, found in numbers.items()})
    pairs = numbers[prefix, suffix]
    digits = min(width for _, width in pairs)
    # A number written in another width than the rest is of some other series.
    fitting = [n for n, width in pairs if width == max(digits, len(str(n)))]
    present = np.unique(np.array(fitting, np.int64))
    edges = np.flatnonzero(np.diff(present) > 1)
    firsts = present[np.concatenate([[0], edges + 1])]
    lasts = present[np.concatenate([edges, [len(present) - 1]])]
    return Series(prefix, digits, suffix, np.stack([firsts, lasts], axis=1))


def _chosen(folder: Location, counts: dict[tuple[str, str], int]) -> tuple[str, str]:
    """Return prefix and suffix of the series to read."""
    own = os.path.basename(os.path.normpath(folder)) + "_"
    for wanted in (own, "img_"):
        of_that = {key: count for key, count in counts.items() if key[0] == wanted}
        if of_that:
            return Counter(of_that).most_common(1)[0][0]
    rest = {key: count for key, count in counts.items() if not key[0].startswith("flow_")}
    if len(rest) != 1:
        names = ", ".join(sorted(f"{shown(p)}N{s}" for p, s in (rest or counts)))
        raise VideoError(
            f"{shown(folder)}: holds several series of pictures ({names}); "
            f"expected one, or {shown(own)}N, or img_N",
            "unreadable",
        )
    return next(iter(rest))


def _rate(folder: Location) -> float:
    """Return the frames per second that ``RATE_FILE`` states, in the folder or the one above.

    Raises:
        VideoError: if it does not hold a positive number.
    """
    for place in (folder, os.path.dirname(os.path.abspath(folder))):
        path = os.path.join(place, RATE_FILE)
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(100).strip()
        except OSError:
            continue
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < 1e6:
            words = f"{shown(path)}: expected the frames per second, found {shown(text)!r}"
            raise VideoError(words, "unreadable")
        return rate
    return FPS


def _shrunk(size: tuple[int, int], short_side_px: int | None) -> tuple[int, int]:
    width, height = size
    short = min(size)
    if short_side_px is None or short <= short_side_px:
        return size
    return max(1, round(width * short_side_px / short)), max(
        1, round(height * short_side_px / short)
    )
