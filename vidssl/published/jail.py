"""Opening a checkpoint from anywhere: its tensors come out, and nothing in it runs.

A pickle, which torch's files are as well, can call whatever it likes when it is loaded. Here it is
loaded by ``prisoner.py``, a process of its own that can build tensors and nothing else; what comes
back is safetensors and JSON. A ``.safetensors`` file holds no code and is read directly.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidssl.errors import CheckpointError, nearest
from vidssl.published import prisoner

BASE_S = 120
BYTES_PER_S = 20_000_000
"""A file may take two minutes, and a second more for each of so many bytes."""
OWN_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""All that the process is given: what Python itself may need to start."""


@dataclass(frozen=True)
class Contents:
    """What is in a file.

    ``tensors`` are named by the keys on the way to them, joined by dots; ``facts`` are the numbers
    and texts beside them, named likewise. ``layout`` is ``torch``, ``torch (before 1.6)``,
    ``pickle`` or ``safetensors``. ``unbuilt`` names the classes and functions that the file asked
    for and did not get.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    layout: str = "safetensors"
    unbuilt: tuple[str, ...] = ()


def open_checkpoint(path: Path) -> Contents:
    """Return what is in a file, whoever wrote it.

    Raises:
        CheckpointError: if there is no such file, it is no checkpoint, is damaged, has a tensor
            whose name cannot be printed, or needs more time or memory than a file of its size may.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: is a folder; expected a file of weights")
        if not path.is_file():
            raise CheckpointError(f"{path}: {_absent(path)}")
        is_safetensors = _is_safetensors(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    contents = _read_safetensors(path) if is_safetensors else _read_by_prisoner(path)
    for name in (*contents.tensors, *contents.unbuilt):
        if not name.isprintable():  # it could pass for a line of ours, or steer the terminal
            raise CheckpointError(f"{path}: holds the name {name!r:.80}, which cannot be printed")
    return contents


def _absent(path: Path) -> str:
    if os.path.lexists(path):  # a pipe, a device, a link to nothing
        return "is no file; expected a file of weights"
    near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"no such file{nearest(path.name, near)}"


def _read_by_prisoner(path: Path) -> Contents:
    with tempfile.TemporaryDirectory() as folder:
        seconds = BASE_S + path.stat().st_size // BYTES_PER_S
        _imprison(path, Path(folder), seconds)
        return _read_answer(path, Path(folder))


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a header, and the header with a brace."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length <= path.stat().st_size


def _read_safetensors(path: Path) -> Contents:
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = dict(file.metadata() or {})
        return Contents(safetensors.torch.load_file(str(path)), facts)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error


def _imprison(path: Path, folder: Path, seconds: int) -> None:
    """Have the prisoner write its answer into ``folder``."""
    python = [sys.executable, "-I", "-W", "ignore"]  # a warning would open the source it is about
    command = [*python, prisoner.__file__, str(path.resolve()), str(folder), str(seconds)]
    environment = {key: os.environ[key] for key in OWN_ENVIRONMENT if key in os.environ}
    # numpy's threads would each reserve memory that counts against the limit.
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(f"{path}: could not be read within {seconds} s") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code:
        said = (folder / "stderr").read_bytes()[-300:].decode("utf-8", "replace")
        raise CheckpointError(f"{path}: {_end(code, said, seconds)}")


def _end(code: int, said: str, seconds: int) -> str:
    """Say why the prisoner ended without an answer."""
    if code == prisoner.STOPPED:
        return f"tried what no file of weights needs ({said}) and was stopped; do not trust it"
    if code in {-signal.SIGXCPU, -signal.SIGKILL}:
        return f"could not be read: stopped after more than {seconds} s, or for its memory"
    if code == -signal.SIGXFSZ:
        return "too big: its tensors take far more than the file"
    if code < 0:
        return f"not a checkpoint: reading it ended by signal {-code}"
    return f"could not be read: {said.strip().splitlines()[-1] if said.strip() else code}"


def _read_answer(path: Path, folder: Path) -> Contents:
    try:
        answer = json.loads((folder / "out.json").read_text(encoding="utf-8"))
        if "error" in answer:
            why = "".join(c if c.isprintable() else "?" for c in answer["error"])
            raise CheckpointError(f"{path}: {why}")
        tensors = safetensors.torch.load_file(str(folder / "out.safetensors"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: could not be read: {error}") from error
    return Contents(tensors, answer["facts"], answer["layout"], tuple(answer["unbuilt"]))
