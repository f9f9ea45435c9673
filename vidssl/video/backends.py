"""Which decoders load on this machine, why the others do not, and which of them ``auto`` means.

Each is imported in a process of its own: a decoder built for other FFmpeg libraries may crash or
hang as it loads, and that must take nothing else with it.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

AUTO = "pyav"
"""What ``decoder: auto`` means, for every file and on every machine.

PyAV loads everywhere, reads every container of the parity tests right, and steps over damage; the
others refuse some of them. Nor is it slower: two reads of 16 frames, every fourth, from a freshly
opened 10 s H.264 file of 340x256 take it 0.83 of torchcodec's time on one core (140 against 169 ms,
medians of 40 in turn), and 0.52 with the frames shrunk to 128, which it does as it converts them.
"""
MODULES = {"pyav": "av", "torchcodec": "torchcodec.decoders", "decord": "decord"}
CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")
"""What videos in the wild are made of."""

_ABSENT, _BROKEN = 3, 4
_ANSWER = "answer: "  # before it stands whatever the decoder prints as it loads
_NO_FFMPEG = "finds no FFmpeg libraries"  # since 0.17 torchcodec loads without them
_LOAD = f"""
import importlib, sys
package, module = sys.argv[1].partition(".")[0], sys.argv[1]
try:
    importlib.import_module(module)
except ModuleNotFoundError as error:
    print("{_ANSWER}" + str(error))
    sys.exit({_ABSENT} if error.name == package else {_BROKEN})
except BaseException as error:
    print(f"{_ANSWER}{{type(error).__name__}}: {{error}}")
    sys.exit({_BROKEN})
if getattr(sys.modules[package], "ffmpeg_major_version", 0) is None:
    print("{_ANSWER}" + "{_NO_FFMPEG}")
    sys.exit({_BROKEN})
print("{_ANSWER}" + getattr(sys.modules[package], "__version__", "of unknown version"))
"""
_FFMPEG = f"""
import av
print(av.ffmpeg_version_info)
print(" ".join(name for name in {CODECS!r} if name not in av.codecs_available))
"""


@dataclass(frozen=True)
class Backend:
    """A decoder: its version if it loads, else the reason.

    ``installed`` tells one that is broken from one that is not there.
    """

    version: str | None
    reason: str = ""
    installed: bool = True


@dataclass(frozen=True)
class Ffmpeg:
    """The FFmpeg that comes with PyAV, and which of ``CODECS`` it cannot decode."""

    version: str
    missing: list[str]


def available(timeout_s: float = 60.0) -> dict[str, Backend]:
    """Return every decoder by name; takes as long as the slowest of them needs to load."""
    with ThreadPoolExecutor(len(MODULES)) as pool:
        found = pool.map(lambda module: load(module, timeout_s), MODULES.values())
        return dict(zip(MODULES, found, strict=True))


def resolved(decoder: str) -> str:
    """Return the name of the decoder that a choice means."""
    return AUTO if decoder == "auto" else decoder


def ffmpeg_libraries(folder: Path | None = None) -> Path | None:
    """Lay out the FFmpeg in PyAV's wheel as torchcodec looks for it, and return the folder.

    torchcodec wants ``libavcodec.so.62``, the wheel holds ``libavcodec-5e6b81c2.so.62.28.102``: the
    folder, by default one in the user's cache, gets links under both names. A process that is
    started with it in ``LD_LIBRARY_PATH`` loads torchcodec without any other FFmpeg, and shares
    one copy with PyAV; in a running process it is too late, as the loader read the variable when
    it began. None where PyAV brings no libraries of its own.
    """
    package = importlib.util.find_spec("av")
    if package is None or package.origin is None:
        return None
    libraries = sorted(Path(package.origin).parent.with_name("av.libs").glob("*.so.*"))
    if not libraries:
        return None
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        place = hashlib.sha256(os.fsencode(libraries[0].parent)).hexdigest()[:8]
        folder = cache / "vidssl" / f"ffmpeg-of-av-{importlib.metadata.version('av')}-{place}"
    folder.mkdir(parents=True, exist_ok=True)
    for library in libraries:
        plain = re.sub(r"^(lib(?:av|sw)\w+)-\w+\.so\.(\d+).*", r"\1.so.\2", library.name)
        for name in {library.name, plain}:
            aside = folder / f"{name}.{os.getpid()}"
            aside.symlink_to(library)
            aside.replace(folder / name)
    return folder


def load(module: str, timeout_s: float, environment: Mapping[str, str] | None = None) -> Backend:
    """Import ``module`` in a process of its own, and return how that went.

    ``environment`` is added to that of this process.
    """
    try:
        process = _python(_LOAD, module, timeout_s=timeout_s, environment=environment)
    except subprocess.TimeoutExpired:
        return Backend(None, f"did not load within {timeout_s:g} s")
    _, _, said = process.stdout.rpartition(_ANSWER)
    answer = said.strip().partition("\n")[0]
    if process.returncode == 0 and answer:
        return Backend(answer)
    if process.returncode == _ABSENT:
        return Backend(None, "not installed", installed=False)
    if process.returncode < 0:
        return Backend(None, f"crashed as it was loaded (signal {-process.returncode})")
    return Backend(None, answer or f"ended with status {process.returncode}")


def ffmpeg(timeout_s: float = 60.0) -> Ffmpeg | None:
    """Return the FFmpeg of PyAV; None where PyAV does not load."""
    try:
        process = _python(_FFMPEG, timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        return None
    if process.returncode != 0:
        return None
    version, _, missing = process.stdout.partition("\n")
    return Ffmpeg(version, missing.split())


def _python(
    code: str, *arguments: str, timeout_s: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # -P: a file of the same name in the current folder is not the decoder.
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
