"""``vidssl doctor``: whether this machine has what the other commands need, and the mend if not.

Nothing here fails because something optional is absent, and nothing it looks at can take it down:
what may crash is tried in a process of its own.
"""

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vidssl import __version__
from vidssl.jobs._limits import limits, usable_cores
from vidssl.progress import Progress, silent
from vidssl.video import backends

Status = Literal["ok", "warn", "fail"]
GB = 1 << 30

LEAST_PYTHON = (3, 11)
LEAST_SHARED_GB = 1.0
LEAST_DISK_GB = 5.0
LEAST_MEMORY_GB = 4.0
LEAST_FILES = 1024

HAVE_THEIR_OWN = {"av", "decord"}
"""Packages with a check of their own, which really loads them."""

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Check:
    """One thing looked at, and what to do about it.

    ``fail`` is for what other commands cannot do without, ``warn`` for what makes them worse.
    """

    name: str
    status: Status
    finding: str
    mend: str = ""


def run(progress: Progress = silent) -> list[Check]:
    """Return every check; takes some seconds, because torch and the decoders are really loaded."""
    checks: list[Check] = []
    parts: tuple[Callable[[], Iterator[Check]], ...] = (
        _python,
        _packages,
        _torch,
        _decoders,
        _machine,
    )
    for number, part in enumerate(parts):
        progress("looking", number, len(parts))
        checks += part()
    progress("looking", len(parts), len(parts))
    return checks


# --- software


def _python() -> Iterator[Check]:
    version = platform.python_version()
    if sys.version_info[:2] < LEAST_PYTHON:
        needed = ".".join(map(str, LEAST_PYTHON))
        yield Check("Python", "fail", version, f"install Python {needed} or newer")
    else:
        yield Check("Python", "ok", f"{version}, {sys.executable}")


def _packages() -> Iterator[Check]:
    """Check what the package itself says that it needs."""
    try:
        needed = importlib.metadata.requires("vidssl") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("vidssl", "warn", "not installed, run from its folder", "pip install -e .")
        return
    yield Check("vidssl", "ok", __version__)
    for requirement in needed:
        optional = "extra ==" in requirement
        if not optional and _name(requirement) not in HAVE_THEIR_OWN:
            yield package(requirement)


def package(requirement: str) -> Check:
    """Check one requirement, such as ``numpy>=2``; markers are not looked at."""
    name = _name(requirement)
    least = re.search(r">=\s*([\d.]+)", requirement)
    mend = f"pip install --upgrade '{requirement}'"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", mend)
    if least and _numbers(found) < _numbers(least[1]):
        return Check(name, "fail", f"{found}, expected at least {least[1]}", mend)
    return Check(name, "ok", found)


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, trailing zeros left out."""
    numbers = [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version)[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _torch() -> Iterator[Check]:
    try:
        import torch
        from torchvision.ops import nms

        # A torchvision built for another torch imports, and fails at its first own operator.
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, OSError, RuntimeError) as error:
        finding = f"torch with torchvision does not: {_first_line(error)}"
        mend = "install both at once: pip install --upgrade torch torchvision"
        yield Check("torch works", "fail", finding, mend)
        return
    yield Check("torch works", "ok", f"with {torch.get_num_threads()} threads")
    yield from _gpus(torch)
    yield _collectives(torch)


def _gpus(torch: Any) -> Iterator[Check]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        yield _no_gpu(torch, [_first_line(warning.message) for warning in told])
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        name, size = properties.name, properties.total_memory / GB
        finding = f"{name}, {size:.0f} GiB, CUDA {torch.version.cuda}"
        try:
            torch.ones(1, device=f"cuda:{index}").add(1).item()
        except RuntimeError as error:
            mend = "install a torch built for this GPU and driver: https://pytorch.org/get-started"
            yield Check(f"GPU {index}", "fail", f"{finding}: {_first_line(error)}", mend)
        else:
            yield Check(f"GPU {index}", "ok", finding)


def _no_gpu(torch: Any, told: list[str]) -> Check:
    if told:
        finding, mend = f"none usable: {told[0]}", "update the NVIDIA driver, or fit torch to it"
    elif torch.version.cuda is None:
        finding = "none usable: this torch is built without CUDA"
        mend = "with a GPU, install a CUDA build: https://pytorch.org/get-started"
    else:
        finding = f"none found (torch is built for CUDA {torch.version.cuda})"
        mend = "none needed for the small recipes; the published settings need GPUs"
    return Check("GPU", "warn", finding, mend)


def _collectives(torch: Any) -> Check:
    distributed = torch.distributed
    if not distributed.is_available():
        return Check("processes", "warn", "torch without distributed", "use one process only")
    found = ["gloo"] if distributed.is_gloo_available() else []
    if distributed.is_nccl_available():
        found.append(f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")
    if not found:
        return Check("processes", "warn", "neither gloo nor NCCL", "use one process only")
    return Check("processes", "ok", ", ".join(found))


def _decoders() -> Iterator[Check]:
    found = backends.available()
    yield _pyav(found["pyav"])
    yield _torchcodec(found["torchcodec"])
    yield _optional("decord", found["decord"])
    auto = {"pyav": "PyAV"}.get(backends.AUTO, backends.AUTO)
    yield Check("decoder: auto", "ok", f"{auto}, which reads every container and steps over damage")


def _pyav(backend: backends.Backend) -> Check:
    mend = "pip install --upgrade --force-reinstall av"
    if backend.version is None:
        return Check("PyAV", "fail", backend.reason, mend)
    library = backends.ffmpeg()
    if library is None:
        return Check("PyAV", "fail", f"{backend.version}, whose FFmpeg gives no answer", mend)
    finding = f"{backend.version} with FFmpeg {library.version}"
    if library.missing:
        lacking = f"{finding}, which cannot decode {', '.join(library.missing)}"
        return Check("PyAV", "warn", lacking, f"the wheels of PyAV can: {mend}")
    return Check("PyAV", "ok", f"{finding}, decodes {', '.join(backends.CODECS)}")


def _torchcodec(backend: backends.Backend) -> Check:
    check = _optional("torchcodec", backend)
    if check.status == "ok":
        return check
    ways = "install FFmpeg (apt-get install ffmpeg, or conda install ffmpeg)"
    folder = backends.ffmpeg_libraries()
    if folder is not None:
        with_it = {"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
        if backends.load(backends.MODULES["torchcodec"], 60, with_it).version is not None:
            ways += f", or start with LD_LIBRARY_PATH={folder}, which is PyAV's"
    mend = f"nothing to do unless you want it: PyAV decodes; else {ways}"
    return Check("torchcodec", "warn", check.finding, mend)


def _optional(name: str, backend: backends.Backend) -> Check:
    if backend.version is not None:
        return Check(name, "ok", f"{backend.version} (optional)")
    if not backend.installed:
        return Check(name, "ok", "not installed (optional)")
    mend = f"nothing to do unless you want it: PyAV decodes; or pip install --upgrade {name}"
    return Check(name, "warn", f"does not load: {_first_line(backend.reason)}", mend)


# --- machine


def _machine() -> Iterator[Check]:
    granted = limits()
    yield cores(os.cpu_count() or 1, usable_cores(), granted.cores)
    yield memory(_memory_bytes(), granted.memory_bytes)
    yield shared_memory(SHARED_MEMORY)
    yield disk(Path.cwd())
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def cores(there: int, usable: int, quota: float | None) -> Check:
    """Check the cores of the machine, those of this process, and the quota on their time."""
    finding = f"{usable} of {there} usable"
    if quota is not None and quota < usable:
        most = max(1, int(quota))
        return Check(
            "cores",
            "warn",
            f"{finding}, but the time of {quota:g} is granted",
            f"set loader.workers to at most {most}, and OMP_NUM_THREADS={most}",
        )
    return Check("cores", "ok", finding)


def memory(there: int, limit: int | None) -> Check:
    """Check the machine's memory and the limit on it, both in bytes."""
    size = min(there, limit) if limit is not None else there
    finding = f"{there / GB:.1f} GiB"
    if size < there:
        finding += f", of which {size / GB:.1f} GiB are granted"
    if size < LEAST_MEMORY_GB * GB:
        mend = f"small recipes want {LEAST_MEMORY_GB:g} GiB: lower optim.batch and loader.workers"
        return Check("memory", "warn", finding, mend)
    return Check("memory", "ok", finding)


def shared_memory(folder: Path) -> Check:
    """Check the shared memory through which the processes of several GPUs talk."""
    if not folder.is_dir():
        return Check("shared memory", "ok", f"no {folder} on this system")
    usage = shutil.disk_usage(folder)
    finding = f"{usage.free / GB:.1f} of {usage.total / GB:.1f} GiB free"
    if usage.free < LEAST_SHARED_GB * GB:
        mend = "for several GPUs start the container with --shm-size=8g or --ipc=host"
        return Check("shared memory", "warn", finding, mend)
    return Check("shared memory", "ok", finding)


def disk(folder: Path) -> Check:
    """Check that there is room in a folder, and that it can be written to."""
    usage = shutil.disk_usage(folder)
    finding = f"{usage.free / GB:.1f} GiB free in {folder}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        return Check("disk", "warn", f"{folder}: {why}", "give --out a folder elsewhere")
    if usage.free < LEAST_DISK_GB * GB:
        mend = "checkpoints and banks need room: make some, or give --out a folder elsewhere"
        return Check("disk", "warn", finding, mend)
    return Check("disk", "ok", finding)


def open_files(most: int) -> Check:
    """Check how many files a process may have open, of which each worker needs some."""
    if most == resource.RLIM_INFINITY:
        return Check("open files", "ok", "unlimited")
    if most < LEAST_FILES:
        return Check("open files", "warn", f"at most {most}", f"ulimit -n {LEAST_FILES}")
    return Check("open files", "ok", f"at most {most}")


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _first_line(what: object) -> str:
    lines = str(what).strip().splitlines()
    return lines[0].strip() if lines else type(what).__name__
