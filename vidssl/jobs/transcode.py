"""``vidssl transcode``: a smaller copy of a data set that is quick to seek in.

Copies are made in disposable processes. Each is written aside in ``DIR/.transcode``, noted there
with the size and time of its original, and then renamed, so that a file in its place is whole;
``DIR/transcode.parquet`` has a row for every video in the end. What the gain will be is measured
on a few videos before the rest is copied.
"""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidssl.errors import Interrupted, OutputError, SourceError, VideoError, listed
from vidssl.files import replacing, sync
from vidssl.jobs._limits import usable_cores
from vidssl.jobs._stopping import ignore_termination, terminated_like_ctrl_c
from vidssl.progress import Progress, silent
from vidssl.sources import scan
from vidssl.video.probe import inert
from vidssl.video.reader import decoder_version, open_reader
from vidssl.video.sampling import clip_times, random_starts
from vidssl.video.storage import Location, Stat, bare_path, is_address, member_of, shown, stat
from vidssl.video.transcode import Copied, Copying, transcode
from vidssl.video.workers import Failure, Limits, Workers, beat

MANIFEST, WORK = "transcode.parquet", ".transcode"
MEASURED = 3
"""Videos, spread over the source, on which the gain is measured."""
READS = 12
"""Times that each of them is read, in turn from the original and from the copy."""
VIEWS, FRAMES, STRIDE = 2, 8, 8
AHEAD = 100_000
STAT_THREADS = 16


@dataclass(frozen=True)
class Row:
    """A video in the manifest; the names are its columns.

    ``target`` is below the folder of the copies. ``status`` is ``ok`` or the short name of the
    reason why there is no copy, which ``error`` gives in words. ``settings`` are those of the copy.
    """

    path: str
    target: str
    status: str
    error: str = ""
    source_bytes: int = 0
    source_mtime: float = 0.0
    bytes: int = 0
    frames: int = 0
    width: int = 0
    height: int = 0
    duration_s: float = 0.0
    sound: str = ""
    settings: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One of the videos that were copied and read to know the gain; milliseconds of one read."""

    path: str
    bytes_before: int
    bytes_after: int
    seconds: float
    read_ms_before: float
    read_ms_after: float


@dataclass(frozen=True)
class Estimate:
    """What the copies gain and cost, measured on a few videos and scaled up by their bytes.

    A read is what pretraining does of a video: it opens it and decodes two clips of 8 frames, each
    from 64 frames at a random place, shrunk to the short side of the copies. ``times_faster`` is
    the ratio of the medians; both files were in memory. ``bytes_after`` and ``seconds`` are those
    expected of the videos that are yet to be copied, ``bytes_before`` what those have now.
    """

    measured: list[Measured]
    read_ms_before: float
    read_ms_after: float
    times_faster: float
    decoder: str
    videos: int
    bytes_before: int
    bytes_after: int
    seconds: float
    free_bytes: int


@dataclass(frozen=True)
class TranscodeResult:
    """``copied`` videos were copied now, ``kept`` had a copy that is still true.

    ``counts`` gives the videos of each status; bytes are those of all that have a copy; ``renamed``
    copies bear another name than their original, which another video has.
    """

    folder: Path
    videos: int
    copied: int
    kept: int
    counts: dict[str, int]
    bytes_before: int
    bytes_after: int
    frames: int
    seconds: float
    renamed: int
    failed: list[Row] = field(default_factory=list)
    estimate: Estimate | None = None


@dataclass(frozen=True)
class _Task:
    """A video to copy to ``folder / target``; without ``notes`` nothing is written down."""

    path: Location
    folder: Path
    target: str
    copying: Copying
    notes: Path | None


def estimate(
    source: str,
    out: Path,
    copying: Copying | None = None,
    *,
    workers: int | None = None,
    progress: Progress = silent,
    limits: Limits | None = None,
) -> Estimate:
    """Return what copies of ``source`` in ``out`` would gain and cost; nothing is kept.

    Raises:
        SourceError: if there is no video, none of those tried can be copied, or the folder of the
            copies is not apart from that of the videos.
        OutputError: if what is in ``out`` was not made by this command.
    """
    maker = _Maker(source, out, copying or Copying(), workers, limits, progress)
    with terminated_like_ctrl_c(), tempfile.TemporaryDirectory(prefix="vidssl-") as folder:
        todo = maker.todo() or list(maker.targets)
        rows = maker.copy(_chosen(todo), Path(folder), None)
        found = maker.estimate(todo, rows, Path(folder))
    if found is None:
        errors = [row.error for row in rows]
        raise SourceError(
            listed(f"{shown(source)}: none of {len(rows)} videos can be copied", errors)
        )
    return found


def run(
    source: str,
    out: Path,
    copying: Copying | None = None,
    *,
    workers: int | None = None,
    progress: Progress = silent,
    limits: Limits | None = None,
    tell: Callable[[Estimate], None] = lambda estimate: None,
) -> TranscodeResult:
    """Copy every video of ``source`` that has no true copy in ``out``.

    ``tell`` is called with the measured gain before most is copied. ``limits`` are those of one
    video: seconds without a further frame, memory.

    Raises:
        SourceError: if there is no video, none can be copied, or ``out`` is not apart from them.
        OutputError: if ``out`` cannot be written, or holds other files in place of the copies.
        Interrupted: on Ctrl-C or SIGTERM; the next run takes up from there.
    """
    begun = time.monotonic()
    maker = _Maker(source, out, copying or Copying(), workers, limits, progress)
    found = None
    with terminated_like_ctrl_c(), _working(out) as folder:
        try:
            maker.recall()
            todo = maker.todo()
            kept = len(maker.targets) - len(todo)
            if todo:
                rows = maker.copy(_chosen(todo), out, folder)
                found = maker.estimate(todo, rows, out)
                if found is not None:
                    tell(found)
                tried = {row.path for row in rows}
                maker.copy([path for path in todo if path not in tried], out, folder)
        except KeyboardInterrupt:
            words = f"transcoded {maker.done} of {len(maker.targets)} videos"
            raise Interrupted(words) from None
        finally:
            maker.write_down()
    rows = [maker.rows[path] for path in maker.targets]
    good = [row for row in rows if row.status == "ok"]
    if not good:
        title = f"{shown(source)}: none of the {len(rows)} videos can be copied"
        raise SourceError(listed(title, [row.error for row in rows], limit=8))
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    return TranscodeResult(
        folder=out,
        videos=len(rows),
        copied=len(good) - kept,
        kept=kept,
        counts=dict(sorted(counts.items())),
        bytes_before=sum(row.source_bytes for row in good),
        bytes_after=sum(row.bytes for row in good),
        frames=sum(row.frames for row in good),
        seconds=time.monotonic() - begun,
        renamed=maker.renamed,
        failed=[replace(row, path=shown(row.path)) for row in rows if row.status != "ok"],
        estimate=found,
    )


class _Maker:
    """The making of the copies, from what is known of earlier ones."""

    def __init__(
        self,
        source: str,
        out: Path,
        copying: Copying,
        workers: int | None,
        limits: Limits | None,
        progress: Progress,
    ) -> None:
        videos = list(dict.fromkeys(scan(source)))
        _check_apart(source, videos, out)
        self.out, self.copying, self.progress = out, copying, progress
        self.workers, self.limits = workers or usable_cores(), limits or Limits()
        self.targets, self.renamed = targets(source, videos)
        self.settings = " ".join(f"{name}={value}" for name, value in asdict(copying).items())
        self.rows: dict[str, Row] = {}
        self.done = 0
        self.recall()
        self._refuse_others()

    def recall(self) -> None:
        """Take up what earlier runs wrote down."""
        self.rows = {row.path: row for row in (*_manifest(self.out), *_notes(self.out / WORK))}

    def todo(self) -> list[Location]:
        """Return the videos that have no copy, or one of another state or other settings."""
        known = [path for path in self.targets if self._has_copy(path)]
        with ThreadPoolExecutor(STAT_THREADS) as threads:  # a network disk answers slowly
            now = dict(zip(known, threads.map(_stat, known), strict=True))
        true = {path for path in known if now[path] == self._original(path)}
        self.done = len(true)
        return [path for path in self.targets if path not in true]

    def _has_copy(self, path: Location) -> bool:
        row = self.rows.get(path)
        if row is None or row.status != "ok" or row.settings != self.settings:
            return False
        if row.target != self.targets[path]:
            return False
        try:
            return (self.out / row.target).stat().st_size == row.bytes
        except OSError:
            return False

    def _original(self, path: Location) -> Stat:
        row = self.rows[path]
        return Stat(row.source_bytes, row.source_mtime)

    def _refuse_others(self) -> None:
        ours = {row.target for row in self.rows.values()}
        there = [t for t in self.targets.values() if t not in ours and (self.out / t).exists()]
        if there:
            title = f"{self.out}: holds files that this command did not make; choose another --out"
            raise OutputError(listed(title, [shown(one) for one in there], limit=8))

    def copy(self, paths: Sequence[Location], to: Path, work: Path | None) -> list[Row]:
        """Copy videos to a folder, and return their rows.

        Raises:
            OutputError: if a copy cannot be written.
        """
        if not paths:
            return []
        tasks = [_Task(path, to, self.targets[path], self.copying, work) for path in paths]
        total, rows = len(self.targets) if work else len(paths), []
        count = min(self.workers, len(paths))
        with Workers(_copy, count, self.limits, ignore_termination, modules=[__name__]) as pool:
            for task, item in zip(tasks, pool.run(tasks, ahead=AHEAD), strict=True):
                if isinstance(item, str):
                    raise OutputError(self._stopped(item))
                row = self._failed(task, item) if isinstance(item, Failure) else item
                rows.append(row)
                if work is not None:
                    self.rows[row.path] = row
                    self.done += 1
                done = self.done if work is not None else len(rows)
                self.progress("copying videos", done, total)
        return rows

    def _stopped(self, words: str) -> str:
        if not self.done:
            return words
        return f"{words}; {self.done} of {len(self.targets)} videos are done and stay"

    def _failed(self, task: _Task, failure: Failure) -> Row:
        words = inert(failure.message)
        if not words.startswith(shown(task.path)):
            words = f"{shown(task.path)}: {words}"
        return Row(task.path, task.target, failure.reason, words, settings=self.settings)

    def estimate(
        self, todo: Sequence[Location], rows: Sequence[Row], folder: Path
    ) -> Estimate | None:
        """Read the originals and their copies in turn, and scale up; None without any copy."""
        good = [row for row in rows if row.status == "ok"]
        tasks = [(row, folder, self.copying.short_side_px) for row in good]
        if not tasks:
            return None
        before, after, measured = [], [], []
        with Workers(_time_reads, 1, self.limits, ignore_termination) as pool:
            for row, item in zip(good, pool.run(tasks, ahead=1), strict=True):
                if isinstance(item, Failure):
                    continue
                before += item[0]
                after += item[1]
                ms = [1e3 * float(np.median(one)) for one in item]
                about = (shown(row.path), row.source_bytes, row.bytes, row.seconds)
                measured.append(Measured(*about, *ms))
                self.progress("measuring the gain", len(measured), len(tasks))
        if not measured:
            return None
        with ThreadPoolExecutor(STAT_THREADS) as threads:
            total = sum(one.bytes for one in threads.map(_stat, todo) if one is not None)
        share = total / sum(one.bytes_before for one in measured)
        slow, quick = float(np.median(before)), float(np.median(after))
        return Estimate(
            measured=measured,
            read_ms_before=1e3 * slow,
            read_ms_after=1e3 * quick,
            times_faster=slow / quick,
            decoder=decoder_version("auto"),
            videos=len(todo),
            bytes_before=total,
            bytes_after=round(share * sum(one.bytes_after for one in measured)),
            seconds=share * sum(one.seconds for one in measured) / min(self.workers, len(todo)),
            free_bytes=_free_bytes(self.out),
        )

    def write_down(self) -> None:
        """Write the manifest, if there is any copy and it does not say so already."""
        for row in _notes(self.out / WORK):  # whose workers did not live to say so, too
            self.rows[row.path] = row
        rows = list(self.rows.values())
        if any(row.status == "ok" for row in rows) and rows != _manifest(self.out):
            _write_manifest(self.out / MANIFEST, rows)


# --- names


def targets(source: str, videos: Sequence[Location]) -> tuple[dict[Location, str], int]:
    """Return the name of each copy below the folder of the copies, and how many are renamed.

    The folders of the source are kept, the suffix becomes ``.mp4``. Where two videos would have
    one name, that which has it already keeps it, and the others keep their suffix before ``.mp4``.

    Raises:
        SourceError: if two would have one name all the same.
    """
    parts = [_parts(location) for location in videos]
    root = _root(source)
    if not root or any(one[: len(root)] != root for one in parts):
        root = _common([one[:-1] for one in parts])
    names = [PurePosixPath(*one[len(root) :]) for one in parts]
    counts: dict[PurePosixPath, int] = {}
    for name in names:
        plain = name.with_suffix(".mp4")
        counts[plain] = counts.get(plain, 0) + 1
    chosen: dict[Location, str] = {}
    renamed = 0
    for location, name in zip(videos, names, strict=True):
        plain = name.with_suffix(".mp4")
        keeps = counts[plain] == 1 or name == plain
        renamed += not keeps
        chosen[location] = str(plain if keeps else name.with_name(f"{name.name}.mp4"))
    twice = _shared(chosen)
    if twice:
        title = f"{shown(source)}: several videos would have one name as copies"
        raise SourceError(listed(title, twice))
    return chosen, renamed


def _shared(chosen: dict[Location, str]) -> list[str]:
    by_name: dict[str, list[Location]] = {}
    for location, name in chosen.items():
        by_name.setdefault(name, []).append(location)
    return [
        f"{shown(name)}: {', '.join(map(shown, some))}"
        for name, some in by_name.items()
        if len(some) > 1
    ]


def _parts(location: Location) -> tuple[str, ...]:
    """Return the folders and the name of a video."""
    member = member_of(location)
    if member is not None:
        *folders, tar = _parts(member.tar)
        return (*folders, tar.removesuffix(".tar"), *_clean(PurePosixPath(member.name).parts))
    if is_address(location):
        path = bare_path(location)
        path = unquote(path) if location.lower().startswith("http") else path
        return _clean(PurePosixPath(path).parts) or ("video",)
    return _clean(Path(os.path.abspath(location)).parts)


def _clean(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in parts if part not in {"/", ".", "..", ""})


def _root(source: str) -> tuple[str, ...]:
    """Return the parts of the folder that a source names, or of the folder of its list."""
    folder = _folder(source)
    if folder is not None:
        return _parts(str(folder))
    if is_address(source) or not os.path.isfile(source):
        return ()
    return _parts(source)[:-1]


def _folder(source: str) -> Path | None:
    """Return the folder of this machine that a source is, or that it names."""
    _, _, named = source.partition(":")
    for path in (source, named, named.partition(",")[0]):
        if path and os.path.isdir(path):
            return Path(os.path.abspath(path))
    return None


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shared = paths[0]
    for path in paths:
        same = (one == other for one, other in zip(shared, path, strict=False))
        shared = shared[: next((n for n, is_same in enumerate(same) if not is_same), len(path))]
    return shared


def _check_apart(source: str, videos: Sequence[Location], out: Path) -> None:
    """Refuse to write copies among the videos.

    Raises:
        SourceError: if the folder of the copies is that of the videos, or within it.
    """
    place = Path(os.path.realpath(out))
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; expected a folder for the copies")
    folder = _folder(source)
    if folder is not None and place.is_relative_to(os.path.realpath(folder)):
        words = "the copies would be taken for further videos"
        raise SourceError(f"{out}: lies in the folder of the videos, {folder}: {words}")
    for video in videos:
        if not is_address(video) and Path(os.path.realpath(video)).is_relative_to(place):
            words = "choose a folder for the copies that holds none of the videos"
            raise SourceError(f"{shown(video)}: lies in {out}; {words}")


# --- what is written down


@contextmanager
def _working(out: Path) -> Iterator[Path]:
    """Give the folder in which copies are made, locked; what is half-written in the end goes.

    Raises:
        OutputError: if it cannot be written, or another process works there.
    """
    folder = out / WORK
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise OutputError(f"{out}: another process makes copies there; wait for its end") from None
    try:
        _remove_parts(folder)
        yield folder
    finally:
        _remove_parts(folder)
        if (out / MANIFEST).exists() and _notes_are_in(out):
            shutil.rmtree(folder, ignore_errors=True)
        elif not list(_notes(folder)):
            shutil.rmtree(folder, ignore_errors=True)
            for one in made[1:]:
                with suppress(OSError):
                    one.rmdir()  # a refused command leaves nothing behind
        os.close(lock)


def _remove_parts(folder: Path) -> None:
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)


def _notes_are_in(out: Path) -> bool:
    known = {row.path: row for row in _manifest(out)}
    # A video has two notes if its worker was killed between the first of them and the renaming.
    noted = {row.path: row for row in _notes(out / WORK)}
    return all(known.get(path) == row for path, row in noted.items())


def _notes(folder: Path) -> Iterator[Row]:
    """Give the rows of copies that a run noted; of a video several times noted the last is true."""
    for file in sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime):
        for line in file.read_bytes().splitlines():
            with suppress(ValueError, TypeError):  # a line that a crash cut short
                yield Row(**json.loads(line))


def _manifest(out: Path) -> list[Row]:
    path = out / MANIFEST
    if not path.exists():
        return []
    try:
        table = pq.read_table(path)
        return [Row(**row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, TypeError):
        raise OutputError(f"{path}: is not what `vidssl transcode` writes; move it away") from None


def _write_manifest(path: Path, rows: Sequence[Row]) -> None:
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(one.name, kinds[one.type]) for one in fields(Row)])  # type: ignore[index]
    table = pa.Table.from_pylist([vars(row) for row in rows], schema=schema)
    with replacing(path) as aside:
        pq.write_table(table, aside)


def _stat(location: Location) -> Stat | None:
    try:
        return stat(location)
    except VideoError:
        return None


def _free_bytes(out: Path) -> int:
    there = next(one for one in (out.absolute(), *out.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def _chosen(paths: Sequence[Location]) -> list[Location]:
    """Return the videos that are measured: at equal distances, not the first and the last."""
    count = min(MEASURED, len(paths))
    return [paths[int((n + 0.5) * len(paths) / count)] for n in range(count)]


# --- in the workers


def _copy(task: _Task) -> Row | str:
    """Copy a video and return its row, or why the copy cannot be written.

    Raises:
        VideoError: if the video cannot be copied.
    """
    begun = time.perf_counter()
    target = task.folder / task.target
    aside = (task.notes or task.folder) / f"{os.getpid()}.part"
    try:
        made = transcode(task.path, aside, task.copying)
        row = _row(task, made, time.perf_counter() - begun)
        if task.notes is not None:
            _note(task.notes, row)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.replace(target)
        sync(target.parent)
    except OutputError as error:
        # The name of the file aside says nothing to a person.
        return str(error).replace(str(aside), str(target))
    except OSError as error:
        return f"{target}: cannot be written: {error.strerror}"
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return row


def _row(task: _Task, made: Copied, seconds: float) -> Row:
    return Row(
        path=task.path,
        target=task.target,
        status="ok",
        source_bytes=made.source.bytes,
        source_mtime=made.source.mtime,
        bytes=made.bytes,
        frames=made.frames,
        width=made.width,
        height=made.height,
        duration_s=made.duration_s,
        sound=made.sound,
        settings=" ".join(f"{name}={value}" for name, value in asdict(task.copying).items()),
        seconds=seconds,
    )


def _note(folder: Path, row: Row) -> None:
    """Write a row down before its copy gets its name: a copy without a row is nobody's."""
    with (folder / f"{os.getpid()}.jsonl").open("ab") as file:
        file.write(b"\n" + json.dumps(vars(row)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _time_reads(task: tuple[Row, Path, int]) -> tuple[list[float], list[float]]:
    """Return the seconds that reads of the original and of the copy took."""
    row, folder, short_side_px = task
    rng = np.random.default_rng(0)
    files = (row.path, str(folder / row.target))
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(READS + 1):
        starts_s = random_starts(rng, row.duration_s, FRAMES, STRIDE, VIEWS)
        times_s = np.concatenate([clip_times(start_s, FRAMES, STRIDE) for start_s in starts_s])
        for file, seconds in zip(files, took, strict=True):
            begun = time.perf_counter()
            with open_reader(file) as reader:
                reader.frames_at(times_s, short_side_px)
            if number:  # the first brings both into memory
                seconds.append(time.perf_counter() - begun)
            beat()
    return took
