"""Checkpoints that are whole or absent.

A checkpoint is a folder, written under another name, synced, listed with sizes and SHA-256 in a
manifest, renamed, and only then named by the ``latest`` pointer. A damaged newest one is passed
over for the one before.
"""

import json
import os
import pickle
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from vidssl.errors import CheckpointError, OutputError
from vidssl.files import sha256, sync, write_text

STATE = "state.pt"
MANIFEST = "manifest.json"
KEEP = 2
FORMAT = 1
"""Of the folder; a manifest without a version is of this format too."""


class Saver:
    """Writes the checkpoints of one training beside it, one at a time."""

    def __init__(self, folder: Path) -> None:
        """Write below ``folder``."""
        self.folder = folder
        self._writing: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        """Return the saver itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is being written, unless a person wants to stop at once.

        What is half written then is no checkpoint, and the next one removes it.
        """
        if kind is not KeyboardInterrupt:
            self.fails()

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be written, as far as is known yet."""
        return self._error is not None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Begin to write ``state``, which must not change any more, once the one before is written.

        If that one cannot be written, this one is not tried.
        """
        if not self.fails():
            # A daemon: Python would wait for any other thread before it ends.
            self._writing = threading.Thread(
                target=self._write, args=(step, state), name="checkpoint", daemon=True
            )
            self._writing.start()

    def fails(self) -> bool:
        """Wait for what is being written; whether it cannot be."""
        if self._writing is not None:
            self._writing.join()
        return self._error is not None

    def close(self) -> None:
        """Wait for what is being written.

        Raises:
            OutputError: if it cannot be.
        """
        if self.fails():
            assert self._error is not None
            raise self._error

    def _write(self, step: int, state: dict[str, Any]) -> None:
        try:
            save(self.folder, step, state)
        except BaseException as error:
            self._error = error


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state`` as the checkpoint of ``step`` below ``folder``, and drop old ones.

    Raises:
        OutputError: if the disk refuses; earlier checkpoints stay as they were.
    """
    final = folder / f"step-{step:09d}"
    aside = folder / f".{final.name}.{os.getpid()}.part"
    try:
        folder.mkdir(exist_ok=True)  # a run's folder that has vanished is not made anew
        _remove(*folder.glob(".step-*.part"))
        aside.mkdir()
        _write(state, aside / STATE)
        sync(aside / STATE)
        facts = {"bytes": (aside / STATE).stat().st_size, "sha256": sha256(aside / STATE)}
        manifest = {"version": FORMAT, "step": step, "files": {STATE: facts}}
        write_text(aside / MANIFEST, json.dumps(manifest, indent=1))
        _remove(*([final] if final.exists() else []))
        aside.rename(final)
        sync(folder)
        write_text(folder / "latest", final.name + "\n")
    except OSError as error:
        _remove(aside)
        raise OutputError(f"{final}: cannot be written: {error.strerror or error}") from error
    # Later ones are of a training that this one went back behind, as they were damaged.
    older = [path for path in checkpoints(folder) if path <= final]
    _remove(*(path for path in checkpoints(folder) if path > final), *older[:-KEEP])
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints below ``folder``, oldest first, by step."""
    return sorted(p for p in folder.glob("step-*") if (p / MANIFEST).is_file())


def load_latest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return (newest state that is whole, or None if there is none; what was passed over and why).

    Raises:
        CheckpointError: if there are checkpoints, but every one is damaged.
    """
    passed_over: list[str] = []
    for path in reversed(checkpoints(folder)):
        damage = verify(path)
        if damage is None:
            try:
                return read(path), passed_over
            except CheckpointError as error:
                damage = str(error)
        passed_over.append(f"{path}: {damage}")
    if passed_over:
        raise CheckpointError("no checkpoint is whole: " + "; ".join(passed_over))
    return None, []


def read(path: Path) -> dict[str, Any]:
    """Return the state in one checkpoint that is whole.

    Raises:
        CheckpointError: if it is not the state of a training.
    """
    try:
        # Tensors and plain containers only: a checkpoint cannot run code.
        state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(f"not the state of a training ({why})") from error
    return state


def verify(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = manifest.get("version", FORMAT)
        if version != FORMAT:
            return f"has format {version}, this vidssl reads {FORMAT}"
        facts = manifest["files"][STATE]
        size = (path / STATE).stat().st_size
        if size != facts["bytes"]:
            return f"{STATE} has {size} bytes, {facts['bytes']} were written"
        if sha256(path / STATE) != facts["sha256"]:
            return f"the content of {STATE} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"unreadable ({error})"
    return None


def _write(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # On a full disk, torch fails once more as it closes its archive.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
