"""Checkpoints that are whole or absent.

A checkpoint is a folder, written under another name, synced, listed with sizes and SHA-256 in a
manifest, renamed, and only then named by the ``latest`` pointer. A damaged newest one is passed
over for the one before.
"""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from vidssl.errors import CheckpointError, OutputError
from vidssl.files import sha256, sync, write_text

STATE = "state.pt"
MANIFEST = "manifest.json"
KEEP = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state`` as the checkpoint of ``step`` below ``folder``, and drop old ones.

    Raises:
        OutputError: if the disk refuses; earlier checkpoints stay as they were.
    """
    final = folder / f"step-{step:09d}"
    aside = folder / f".{final.name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(*folder.glob(".step-*.part"))
        aside.mkdir()
        _write(state, aside / STATE)
        sync(aside / STATE)
        facts = {"bytes": (aside / STATE).stat().st_size, "sha256": sha256(aside / STATE)}
        manifest = {"step": step, "files": {STATE: facts}}
        write_text(aside / MANIFEST, json.dumps(manifest, indent=1))
        _remove(*([final] if final.exists() else []))
        aside.rename(final)
        sync(folder)
        write_text(folder / "latest", final.name + "\n")
    except OSError as error:
        _remove(aside)
        raise OutputError(f"{final}: cannot be written: {error.strerror or error}") from error
    _remove(*checkpoints(folder)[:-KEEP])
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
                # Tensors and plain containers only: a checkpoint cannot run code.
                state = torch.load(path / STATE, map_location="cpu", weights_only=True)
                return state, passed_over
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                damage = f"not the state of a training ({str(error).splitlines()[0]})"
        passed_over.append(f"{path}: {damage}")
    if passed_over:
        raise CheckpointError("no checkpoint is whole: " + "; ".join(passed_over))
    return None, []


def verify(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        facts = manifest["files"][STATE]
        size = (path / STATE).stat().st_size
        if size != facts["bytes"]:
            return f"{STATE} has {size} bytes, {facts['bytes']} were written"
        if sha256(path / STATE) != facts["sha256"]:
            return f"the content of {STATE} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
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
