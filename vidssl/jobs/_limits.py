"""What a container or a batch system grants this process, as its control group says."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60  # version 1 writes a number near 2**63 where there is no limit


@dataclass(frozen=True)
class Limits:
    """Processor time in cores and memory in bytes; None where there is no limit."""

    cores: float | None
    memory_bytes: int | None


def limits(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> Limits:
    """Return the tightest limits of this process's control group and those around it.

    Both versions of control groups are read; where there are none there is no limit.
    """
    cores = [quota for folder in _folders(mount, membership) if (quota := _cores(folder))]
    memory = [size for folder in _folders(mount, membership) if (size := _memory(folder))]
    return Limits(min(cores, default=None), min(memory, default=None))


def usable_cores() -> int:
    """Return the cores that this process may run on, quota aside."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folders(mount: Path, membership: Path) -> Iterator[Path]:
    """Give the folders of this process's groups, each with all that lie around it."""
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        # Version 2 has one tree and names no controller; version 1 has a tree for each.
        root = mount / controllers if controllers else mount
        folder = root / group.lstrip("/")
        for around in (folder, *folder.parents):
            yield around
            if around == root:
                break


def _cores(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _memory(folder: Path) -> int | None:
    text = (_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")).strip()
    return int(text) if text.isdecimal() and int(text) < UNLIMITED else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
