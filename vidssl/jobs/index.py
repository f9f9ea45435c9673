"""``vidssl index``: look at every video once, and write down what it really holds."""

import multiprocessing
import signal
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

from vidssl.errors import Interrupted, SourceError, VideoError, listed
from vidssl.jobs._limits import usable_cores
from vidssl.progress import Progress, silent
from vidssl.sources import scan
from vidssl.video.index import ClipIndex, is_index, read_rows, reusable, write_index
from vidssl.video.probe import VideoFacts, probe
from vidssl.video.storage import Location, stat


@dataclass(frozen=True)
class IndexResult:
    """``counts`` gives the videos of each status; ``set_aside`` those that are not ``ok``."""

    path: Path
    videos: int
    counts: dict[str, int]
    frames: int
    hours: float
    set_aside: list[VideoFacts]


def run(
    source: str, out: Path, *, workers: int | None = None, progress: Progress = silent
) -> IndexResult:
    """Index ``source`` into ``out``; rows of an earlier index there are kept for unchanged files.

    Raises:
        SourceError: if there is no video, or not one that can be decoded.
        OutputError: if ``out`` cannot be written.
        Interrupted: on Ctrl-C, after the rows so far have been written.
    """
    videos = scan(source)
    if out.exists() and not is_index(out):
        raise SourceError(f"{out}: exists and is not an index; choose another name for --out")
    known = reusable(read_rows(out)) if out.exists() else {}
    rows = {path: row for path in videos if (row := known.get(_identity(path))) is not None}
    todo = [path for path in videos if path not in rows]
    workers = workers or usable_cores()
    try:
        with closing(_probe_all(todo, workers)) as found:  # which ends its processes
            for path, row in found:
                rows[path] = row
                progress("indexing videos", len(rows), len(videos))
    except KeyboardInterrupt:
        write_index(out, [rows[path] for path in videos if path in rows])
        raise Interrupted(f"indexed {len(rows)} of {len(videos)} videos") from None
    ordered = [rows[path] for path in videos]
    if not any(row.status == "ok" for row in ordered):
        title = f"{source}: none of the {len(ordered)} videos can be decoded"
        raise SourceError(listed(title, [row.error for row in ordered], limit=8))
    write_index(out, ordered)
    return summary(out, ordered)


def summary(path: Path, rows: Sequence[VideoFacts]) -> IndexResult:
    """Return the counts of an index's rows."""
    good = [row for row in rows if row.status == "ok"]
    return IndexResult(
        path=path,
        videos=len(rows),
        counts=dict(Counter(row.status for row in rows)),
        frames=sum(row.frames for row in good),
        hours=sum(row.duration_s for row in good) / 3600,
        set_aside=[row for row in rows if row.status != "ok"],
    )


def open_index(source: str, cache: Path, progress: Progress = silent) -> ClipIndex:
    """Return the index that ``source`` is, or the one made of it and kept at ``cache``.

    Raises:
        SourceError: if there is no video, or not one that can be decoded.
    """
    path = Path(source)
    if path.suffix == ".parquet" and path.is_file() and is_index(path):
        return ClipIndex(path)
    run(source, cache, progress=progress)
    return ClipIndex(cache)


def set_aside(index: ClipIndex) -> dict[str, str]:
    """Return why videos of an index cannot be used, by their paths."""
    rows = read_rows(index.path) if index.set_aside else []
    return {row.path: row.error for row in rows if row.status != "ok"}


def _identity(path: Location) -> tuple[str, int, float]:
    try:
        found = stat(path)
    except VideoError:
        return (path, -1, 0.0)
    return (path, found.bytes, found.mtime)


def _probe_all(
    paths: Sequence[Location], workers: int
) -> Generator[tuple[Location, VideoFacts], None, None]:
    """Give each video's row as it is ready; a video that kills its process gets a row too."""
    left = list(paths)
    try:
        for path, row in _probe_together(left, workers):
            left.remove(path)
            yield path, row
    except BrokenProcessPool:
        # One of those still waiting brought the pool down: each gets a process of its own.
        for path in left:
            try:
                yield from _probe_together([path], 1)
            except BrokenProcessPool:
                error = f"{path}: the decoder crashed its process"
                yield path, VideoFacts(path, status="crashed", error=error)


def _probe_together(
    paths: Sequence[Location], workers: int
) -> Iterator[tuple[Location, VideoFacts]]:
    if not paths:
        return
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    resource_tracker.ensure_running()  # its start would let SIGINT through again
    with ProcessPoolExecutor(min(workers, len(paths)), mp_context=context) as pool:
        with _ctrl_c_held_back():  # and so for good in the workers, which are started here
            jobs: dict[Future[VideoFacts], Location] = {
                pool.submit(probe, path): path for path in paths
            }
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()).difference(others):
                worker.terminate()  # a long video would hold up the end
            raise


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Deliver SIGINT after the block; a process started in it is never delivered one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
