"""How much memory this process and those that it started take; the latter on Linux alone."""

import os
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vidssl.jobs._limits import limits

PROC = Path("/proc")
EVERY_S = 0.1
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass
class Peak:
    """The most that was seen at once, in bytes; 0 where nothing could be seen."""

    bytes: int = 0

    def look(self) -> None:
        """Look now, so that what lives for a moment only is seen too."""
        self.bytes = max(self.bytes, children_bytes())


@contextmanager
def watching_children() -> Iterator[Peak]:
    """Give the peak of all processes below this one, looked at ten times a second until the end.

    Memory that several share, as workers do what they were forked with, counts once: each has its
    part of it (``Pss`` in Linux' words).
    """
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            peak.look()

    thread = threading.Thread(target=watch, name="vidssl memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def children_bytes(proc: Path = PROC) -> int:
    """Return what all processes below this one take now."""
    return sum(_pss_bytes(proc / str(pid)) for pid in descendants(os.getpid(), proc))


def descendants(of: int, proc: Path = PROC) -> list[int]:
    """Return the processes that ``of`` started, and those that they did; none without ``proc``."""
    parents: dict[int, int] = {}
    for folder in proc.glob("[0-9]*"):
        # The name, in brackets, may hold anything; what follows the last one is state and parent.
        after = _read(folder / "stat").rpartition(")")[2].split()
        if len(after) > 1:
            parents[int(folder.name)] = int(after[1])
    below = {of}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(below - {of})


def process_peak_bytes() -> int:
    """Return the most that this process alone has had of the machine's memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def granted_bytes(proc: Path = PROC) -> int | None:
    """Return the memory that there is for this process and all that share its limit, if known."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(proc / "meminfo"), re.MULTILINE)
    known = [limits().memory_bytes, int(found[1]) * 1024 if found else None]
    return min((size for size in known if size is not None), default=None)


def _pss_bytes(process: Path) -> int:
    found = _PSS.search(_read(process / "smaps_rollup"))
    return int(found[1]) * 1024 if found else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended, or is another's
        return ""
