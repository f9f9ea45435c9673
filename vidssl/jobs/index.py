"""``vidssl index``: look at every video once, and write down what it really holds.

Videos are decoded in disposable processes, whose rows are on the disk at once (``_journal``); the
index itself is written whole, in the order of the source, when every video has a row. Until then
there is none: a part of the videos is not taken for all of them.
"""

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vidssl.errors import Interrupted, OutputError, SourceError, VideoError, listed
from vidssl.files import replacing
from vidssl.jobs import _journal
from vidssl.jobs._limits import usable_cores
from vidssl.jobs._stopping import ignore_termination, terminated_like_ctrl_c
from vidssl.progress import Progress, silent
from vidssl.sources import read
from vidssl.video import index as rows_of
from vidssl.video.index import (
    ClipIndex,
    Rows,
    account_of,
    has_map,
    is_index,
    read_tables,
    write_tables,
)
from vidssl.video.probe import VideoFacts, inert, probe
from vidssl.video.storage import Location, shown, stat
from vidssl.video.workers import Failure, Limits, Workers, preload

CutFiles = Literal["use", "set-aside"]
"""What becomes of a file that ends before its container says: used as far as it goes, or not."""
LISTED = 1000
"""How many set-aside videos a result lists; the index and its quarantine table have all."""
AHEAD = 100_000
"""Videos that may be done while an earlier one, a long film, is still being decoded."""
STAT_THREADS, STAT_EACH = 16, 512
NOT_LOOKED_AT = -2
QUARANTINE = ("path", "bytes", "status", "decoder", "error", "time")


@dataclass(frozen=True)
class IndexResult:
    """``counts`` gives the videos of each status; ``set_aside`` the first that are not ``ok``.

    ``cut_off`` counts the usable videos that end before their container says. ``account`` tells of
    what the source promises, and what of it is missing or cannot be decoded.
    """

    path: Path
    videos: int
    counts: dict[str, int]
    cut_off: int
    frames: int
    hours: float
    set_aside: list[VideoFacts]
    quarantine: Path | None = None
    account: dict[str, Any] | None = None


class _Videos:
    """Every video of a source by its path; ``unnameable`` are those whose names are not UTF-8."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.unnameable: dict[int, Location] = {}
        listing = read(source)
        self.ledger = listing.ledger
        names = []
        for number, location in enumerate(listing.videos):
            try:
                location.encode()
                names.append(location)
            except UnicodeEncodeError:
                names.append(shown(location))
                self.unnameable[number] = location
        self.paths = pa.array(names, pa.large_string())
        self._bytes = np.full(len(names), NOT_LOOKED_AT, np.int64)
        self._mtime = np.zeros(len(names))

    def __len__(self) -> int:
        return len(self.paths)

    def files(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return size and time of change of some files, asked for once; -1 where there is none."""
        new = numbers[self._bytes[numbers] == NOT_LOOKED_AT]
        with ThreadPoolExecutor(STAT_THREADS) as threads:  # a network disk answers slowly
            for _ in threads.map(self._stat, np.array_split(new, len(new) // STAT_EACH + 1)):
                pass
        return self._bytes[numbers], self._mtime[numbers]

    def _stat(self, numbers: NDArray[np.int64]) -> None:
        for number, path in zip(numbers, self.paths.take(numbers).to_pylist(), strict=True):
            try:
                found = stat(path)
            except VideoError:
                self._bytes[number] = -1
            else:
                self._bytes[number], self._mtime[number] = found.bytes, found.mtime


def run(
    source: str,
    out: Path,
    *,
    workers: int | None = None,
    progress: Progress = silent,
    cut_files: CutFiles = "use",
    retry: bool = False,
    limits: Limits | None = None,
    quarantine: Path | None = None,
    look: Callable[[Location], VideoFacts] = probe,
) -> IndexResult:
    """Index ``source`` into ``out``; rows of an earlier index there are kept for unchanged files.

    ``retry`` keeps those of usable videos only. ``limits`` are those of one video: seconds without
    a further frame, memory. ``quarantine`` names a csv file for the videos that are set aside;
    without any it is removed. ``look`` finds a video's row, in another process.

    Raises:
        SourceError: if there is no video, or not one that can be decoded.
        OutputError: if a file cannot be written, or is something else.
        Interrupted: on Ctrl-C or SIGTERM; the next run takes up the rows so far.
    """
    if out.exists() and not (out.is_file() and is_index(out)):
        raise SourceError(f"{out}: exists and is not an index; choose another name for --out")
    _check_quarantine(quarantine)
    videos = _Videos(source)
    if not _is_up_to_date(out, videos, cut_files, retry):
        with _journal.Journal(out) as journal, terminated_like_ctrl_c():
            maker = _Maker(videos, out, journal, progress)
            try:
                maker.find(retry, _Look(journal.folder, look), workers, limits or Limits())
                maker.write(cut_files)
            except KeyboardInterrupt:
                raise Interrupted(f"indexed {maker.done} of {len(videos)} videos") from None
            except SourceError:
                journal.discard()  # a refused command leaves nothing behind
                raise
            journal.discard()
    if quarantine is not None:
        write_quarantine(out, quarantine)
    return replace(summary(out, quarantine), account=account_of(out))


def summary(path: Path, quarantine: Path | None = None) -> IndexResult:
    """Return the counts of an index's rows."""
    counts: dict[str, int] = {}
    videos = frames = cut_off = 0
    seconds = 0.0
    for part in read_tables(path, ["status", "frames", "duration_s", "cut_off"]):
        videos += len(part)
        for one in part["status"].value_counts().to_pylist():
            counts[one["values"]] = counts.get(one["values"], 0) + one["counts"]
        good = part.filter(pc.equal(part["status"], "ok"))
        frames += pc.sum(good["frames"]).as_py() or 0
        seconds += pc.sum(good["duration_s"]).as_py() or 0.0
        cut_off += pc.sum(good["cut_off"]).as_py() or 0
    aside = islice(rows_of.set_aside(path), LISTED) if len(counts) > 1 else ()
    return IndexResult(
        path=path,
        videos=videos,
        counts=dict(sorted(counts.items())),
        cut_off=cut_off,
        frames=frames,
        hours=seconds / 3600,
        set_aside=[replace(row, path=shown(row.path)) for row in aside],
        quarantine=quarantine if quarantine is not None and quarantine.exists() else None,
    )


def write_quarantine(index: Path, target: Path) -> None:
    """Write the videos that an index sets aside as csv; remove the file if there are none.

    The time is when a video first stood there for its reason.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        if next(rows_of.set_aside(index), None) is None:
            target.unlink(missing_ok=True)
            return
        there = _quarantined(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    if all(old[:-1] == new for old, new in zip_longest(there, _lines(index), fillvalue=("",))):
        return  # it may lie where nothing can be written
    since = {row[:3]: row[-1] for row in there}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with replacing(target) as path, path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(QUARANTINE)
        for line in _lines(index):
            writer.writerow([*line, since.get(line[:3], now)])


def _lines(index: Path) -> Iterator[tuple[str, ...]]:
    """Give the lines of a quarantine table, without the time."""
    for row in rows_of.set_aside(index):
        yield (shown(row.path), str(row.bytes), row.status, row.decoder, inert(row.error))


def _quarantined(path: Path) -> list[tuple[str, ...]]:
    """Return the lines of a quarantine table."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = islice(csv.reader(file), 1, None)
        return [tuple(row) for row in rows if len(row) == len(QUARANTINE)]


def open_index(
    source: str, cache: Path, progress: Progress = silent, *, retry: bool = False
) -> ClipIndex:
    """Return the index that ``source`` is, or the one made of it and kept at ``cache``.

    ``retry`` looks again at the videos that the latter set aside.

    Raises:
        SourceError: if there is no video, or not one that can be decoded.
    """
    path = Path(source)
    if path.suffix == ".parquet" and path.is_file() and is_index(path):
        return ClipIndex(path)
    run(source, cache, progress=progress, retry=retry)
    return ClipIndex(cache)


def account(index: ClipIndex) -> dict[str, Any] | None:
    """Return what is expected, present, missing and undecodable of an index's source, in numbers.

    The index itself has the names.
    """
    found = account_of(index.path)
    if found is None:
        return None
    return {k: v["count"] if isinstance(v, dict) else v for k, v in found.items()}


def set_aside(index: ClipIndex) -> dict[str, str]:
    """Return why videos of an index cannot be used, by their paths."""
    if not index.set_aside:
        return {}
    return {row.path: row.error for row in rows_of.set_aside(index.path)}


# --- what there is


def _is_up_to_date(out: Path, videos: _Videos, cut_files: CutFiles, retry: bool) -> bool:
    """Whether the index at ``out`` is what a run would write."""
    if not out.exists() or not has_map(out) or _journal.folder_of(out).exists():
        return False
    rows = Rows([out])
    numbers = _still_true(videos, rows, retry)
    if not np.array_equal(numbers, np.arange(len(rows))) or len(videos.unnameable):
        return False
    part = rows.columns(["status", "cut_off"])
    if not part["status"].equals(_labelled(part, cut_files)["status"]):
        return False
    return _account(videos, part["status"]) == account_of(out)


def _account(videos: _Videos, status: pa.ChunkedArray) -> dict[str, object]:
    """Return what an index tells of its source, given the status of each video."""
    aside = pc.invert(pc.is_in(status, value_set=pa.array(["ok", "missing"])))
    undecodable = videos.paths.filter(aside.combine_chunks()).to_pylist()
    absent = videos.paths.filter(pc.equal(status, "missing").combine_chunks()).to_pylist()
    ledger = videos.ledger.indexed(undecodable, absent)
    told = {"source": shown(videos.source), "told": ledger.sentence()}
    return told | ledger.as_json()


def _still_true(videos: _Videos, rows: Rows, retry: bool) -> NDArray[np.int64]:
    """Return the number of each video's row; -1 if it has none, or the file has changed since."""
    there = rows.columns(["path", "bytes", "mtime", "status"])
    numbers = _latest(videos.paths, there["path"])
    if len(there) == 0:
        return numbers
    status = there["status"].take(np.maximum(numbers, 0))
    is_kept = pc.equal(status, "ok") if retry else pc.not_equal(status, "bad_name")
    numbers[~is_kept.to_numpy()] = -1
    known = np.flatnonzero(numbers >= 0)
    sizes, times = videos.files(known)
    at = numbers[known]
    same = (there["bytes"].to_numpy()[at] == sizes) & (there["mtime"].to_numpy()[at] == times)
    numbers[known[~same]] = -1
    return numbers


def _latest(paths: pa.LargeStringArray, known: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return where each path stands last among the known ones; -1 if it does not."""
    if len(known) == 0:
        return np.full(len(paths), -1, np.int64)
    backwards = known.cast(pa.large_string()).take(np.arange(len(known))[::-1])
    found = pc.index_in(paths, value_set=backwards.combine_chunks())  # where it stands first
    row = len(known) - 1 - found.fill_null(0).to_numpy().astype(np.int64)
    return np.where(found.is_valid().to_numpy(zero_copy_only=False), row, -1)


# --- what is found


class _Look:
    """What a worker does with a video: find its row, and write that down."""

    def __init__(self, folder: Path, look: Callable[[Location], VideoFacts]) -> None:
        self._notes = _journal.Notes(folder)
        self._look = look

    def __call__(self, location: Location) -> str:
        """Return why the row could not be written down, if so."""
        row = self._look(location)
        try:
            self._notes.add(row)
        except OSError as error:
            return error.strerror or type(error).__name__
        return ""


class _Maker:
    """The making of one index, from what is already known of its videos."""

    def __init__(
        self, videos: _Videos, out: Path, journal: _journal.Journal, progress: Progress
    ) -> None:
        self.videos, self.out, self.journal, self.progress = videos, out, journal, progress
        self.files = [out] if out.exists() else []
        self.numbers = np.full(len(videos), -1, np.int64)
        self.done = 0

    def find(self, retry: bool, look: _Look, workers: int | None, limits: Limits) -> None:
        """Find a row for every video."""
        before = self.journal.files()
        self.files += before
        rows = Rows(self.files)
        self.numbers = _still_true(self.videos, rows, retry)
        todo = np.flatnonzero(self.numbers < 0)
        self.done = len(self.videos) - len(todo)
        if len(todo) == 0:
            return
        self._probe(todo, look, workers or usable_cores(), limits)
        new = self.journal.files()[len(before) :]
        paths = Rows(new).columns(["path"])["path"]
        self.numbers[todo] = _latest(self.videos.paths.take(todo), paths) + len(rows)
        assert (self.numbers[todo] >= len(rows)).all(), "a video was looked at and has no row"
        self.files += new

    def _probe(self, todo: NDArray[np.int64], look: _Look, count: int, limits: Limits) -> None:
        with closing(_journal.Notes(self.journal.folder)) as notes:
            for number, location in self.videos.unnameable.items():
                self._note(notes, _unnameable(self.videos.paths[number].as_py(), location))
                self._tell()
            good = todo[np.isin(todo, list(self.videos.unnameable), invert=True)]
            if len(good) == 0:
                return

            def note_failure(location: Location, failure: Failure) -> None:
                self._note(notes, _failed(location, failure))

            tasks = (self.videos.paths[int(number)].as_py() for number in good)
            with Workers(
                look, min(count, len(good)), limits, ignore_termination, modules=[__name__]
            ) as pool:
                preload([__name__])
                for item in pool.run(tasks, ahead=AHEAD, instead=note_failure):
                    if isinstance(item, str) and item:
                        raise OutputError(f"{self.out}: cannot be written: {item}")
                    self._tell()

    def _note(self, notes: _journal.Notes, row: VideoFacts) -> None:
        try:
            notes.add(row)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written: {error.strerror}") from error

    def _tell(self) -> None:
        self.done += 1
        self.progress("indexing videos", self.done, len(self.videos))

    def write(self, cut_files: CutFiles) -> None:
        """Write the index.

        Raises:
            SourceError: if no video can be used.
        """
        rows = Rows(self.files)
        status = _labelled(rows.columns(["status", "cut_off"]), cut_files)["status"]
        status = status.take(self.numbers)
        if not pc.any(pc.equal(status, "ok")).as_py():
            counts = {one["values"]: one["counts"] for one in status.value_counts().to_pylist()}
            some = next(rows.take(self.numbers[:8]))["error"].to_pylist()
            errors = [*some, *[""] * (len(status) - len(some))]
            title = f"{shown(self.videos.source)}: none of the {len(status)} videos can be decoded"
            told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            raise SourceError(listed(title, [told, *errors], limit=9))
        parts = (_labelled(part, cut_files) for part in rows.take(self.numbers))
        write_tables(self.out, parts, _account(self.videos, status))


def _labelled(part: pa.Table, cut_files: CutFiles) -> pa.Table:
    """Return rows in which the files that were cut are used, or not."""
    before, after = ("truncated", "ok") if cut_files == "use" else ("ok", "truncated")
    change = pc.and_(part["cut_off"], pc.equal(part["status"], before))
    status = pc.if_else(change, after, part["status"])
    return part.set_column(part.column_names.index("status"), "status", status)


def _unnameable(name: str, location: Location) -> VideoFacts:
    error = f"{name}: the name is not valid UTF-8; rename the file to use it"
    return _with_identity(VideoFacts(name, "bad_name", error), location)


def _failed(location: Location, failure: Failure) -> VideoFacts:
    error = f"{shown(location)}: {inert(failure.message)}"
    return _with_identity(VideoFacts(location, failure.reason, error), location)


def _with_identity(row: VideoFacts, location: Location) -> VideoFacts:
    with suppress(VideoError):
        return replace(row, **vars(stat(location)))
    return row


def _check_quarantine(path: Path | None) -> None:
    if path is None or not path.exists():
        return
    first = b""
    if path.is_file():
        try:
            with path.open("rb") as file:
                first = file.readline(1000)
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    if first.decode("utf-8", "replace").strip() != ",".join(QUARANTINE):
        raise OutputError(f"{path}: exists and is not a quarantine table; move it away")
