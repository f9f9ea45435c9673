"""Which decoders load on this machine, and why the others do not.

Each is imported in a process of its own: a decoder built for other FFmpeg libraries may crash or
hang as it loads, and that must take nothing else with it.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

MODULES = {"pyav": "av", "torchcodec": "torchcodec.decoders", "decord": "decord"}
CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")
"""What videos in the wild are made of."""

_ABSENT, _BROKEN = 3, 4
_ANSWER = "answer: "  # before it stands whatever the decoder prints as it loads
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


def load(module: str, timeout_s: float) -> Backend:
    """Import ``module`` in a process of its own, and return how that went."""
    try:
        process = _python(_LOAD, module, timeout_s=timeout_s)
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


def _python(code: str, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    # -P: a file of the same name in the current folder is not the decoder.
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
