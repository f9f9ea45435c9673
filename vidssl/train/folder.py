"""The folder of a run: who owns it, and the two logs that it keeps.

``log.jsonl`` has one object a logged step, ``events.jsonl`` one an event (starts, set-aside videos,
alarms). ``run.json`` says what the run is; another run is refused.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from vidssl.errors import Interrupted, OutputError, listed
from vidssl.files import write_text
from vidssl.nn.distributed import rank
from vidssl.video.storage import shown

IDENTITY = "run.json"
FORMAT = 1
"""Of ``run.json``, which says it, and of the two logs. A folder that says none is of the first."""
LOOK_S = 0.1  # ample for another process to see that a folder is not in use
LEFT_BEHIND = {"index.parquet", ".index.parquet.parts", ".lock"}
"""What an earlier command may have left where no work was begun. An index holds for any run: each
row is compared with its file."""


@dataclass(frozen=True)
class Terms:
    """On which a run is gone on with.

    ``harmless`` are the dotted keys of the identity that do not make it another run, each with all
    below it. ``renewed`` gives the identity that an earlier version wrote the keys that it lacks.
    """

    harmless: Collection[str] = ()
    renewed: Callable[[dict[str, Any]], dict[str, Any]] = dict


STRICT = Terms()


class Follower(Protocol):
    """Told of all that a run's folder is told of; see the methods of :class:`RunFolder`."""

    def log(self, entry: Mapping[str, Any]) -> None:
        """Take a logged step."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Take an event as it is written down."""

    def rewind(self, step: int) -> None:
        """Forget logged steps from ``step`` on."""

    def close(self) -> None:
        """Nothing follows."""


class RunFolder:
    """One run's folder, locked while it is open.

    Left before :meth:`keep` was called, because something was wrong with the input, it takes back
    what it wrote: a refused command leaves no trace.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        recipe_yaml: str,
        terms: Terms = STRICT,
    ) -> None:
        """Take ``path`` for the run that ``identity`` describes, or go on with it.

        Of several processes the first alone locks and writes.

        Raises:
            OutputError: if the folder belongs to another run, holds something else, or is in use.
        """
        self.path = path
        self._writes = rank() == 0
        self._lock: int | None = None
        self._kept = (path / IDENTITY).is_file()
        self._begun = False
        self._followers: list[Follower] = []
        if not self._writes:
            return
        wanted = without_secrets(json.loads(json.dumps(identity)))
        changed = claim(path, wanted, terms)
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        self._lock = _lock(path)
        write_text(path / IDENTITY, json.dumps({"format": FORMAT, **wanted}, indent=1) + "\n")
        write_text(path / "recipe.yaml", recipe_yaml)
        _end_last_line(path / "events.jsonl")
        if changed:
            self.event("recipe changed", changes=changed)

    def __enter__(self) -> Self:
        """Return the folder itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Note how the work ended, if it began, and let others have the folder."""
        if self._lock is None:
            return
        with suppress(OSError, OutputError):  # a full disk, which is what most likely failed before
            if self._begun:
                self.event(_end(error), **({"words": str(error)} if str(error or "") else {}))
            for follower in self._followers:
                follower.close()
        with suppress(OSError):  # a folder that has gone; what failed before is what is told
            if not self._kept:
                for name in (IDENTITY, "recipe.yaml", "events.jsonl"):
                    (self.path / name).unlink(missing_ok=True)
            (self.path / ".lock").unlink(missing_ok=True)  # before another can lock it
        os.close(self._lock)
        if not self._kept:
            with suppress(OSError):  # one that is not empty stays
                for folder in self._made:
                    folder.rmdir()

    def keep(self) -> None:
        """From here on there is work in the folder that must not be lost."""
        self._kept = self._begun = True

    def follow(self, follower: Follower) -> None:
        """Tell ``follower`` all that comes; of several processes the first alone does."""
        if self._writes:
            self._followers.append(follower)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add one logged step; of several processes the first alone logs.

        Raises:
            OutputError: if the disk refuses, here as for an event.
        """
        if self._writes:
            _append(self.path / "log.jsonl", entry)
        for follower in self._followers:
            follower.log(entry)

    def event(self, kind: str, **details: Any) -> None:
        """Add one event with the time at which it happened."""
        event = {"event": kind, "time": time.time(), **details}
        _append(self.path / "events.jsonl", event)
        for follower in self._followers:
            follower.event(event)

    def rewind(self, step: int) -> None:
        """Forget logged steps from ``step`` on: a continued run logs them again."""
        if not self._writes:
            return
        kept = [entry for entry in read_log(self.path) if entry["step"] < step]
        write_text(self.path / "log.jsonl", "".join(json.dumps(e) + "\n" for e in kept))
        for follower in self._followers:
            follower.rewind(step)


def claim(path: Path, identity: Mapping[str, Any], terms: Terms = STRICT) -> list[str]:
    """Check that ``path`` is absent, empty but for an index, or the folder of the same run.

    Returned is a line for each harmless difference.

    Raises:
        OutputError: if the folder is taken, with what else differs.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: is a file; expected a folder for the run, or a new name")
    if not path.is_dir() or {entry.name for entry in path.iterdir()} <= LEFT_BEHIND:
        return []
    if not (path / IDENTITY).is_file():
        raise OutputError(f"{path}: holds other files and no {IDENTITY}; choose an empty folder")
    try:
        there = json.loads((path / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path / IDENTITY}: damaged ({error}); choose another folder") from error
    if newer := of_newer_format(there):
        raise OutputError(f"{path / IDENTITY}: {newer}")
    here = without_secrets(json.loads(json.dumps(identity)))
    if isinstance(there, dict):
        there.pop("format", None)
    there = terms.renewed(without_secrets(there)) if isinstance(there, dict) else there
    differences = _differences(there, here)
    accepted = {key: words for key, words in differences.items() if _is_below(key, terms.harmless)}
    if len(accepted) < len(differences):
        title = f"{path}: belongs to another run; choose another folder, or its values"
        refused = [words for key, words in differences.items() if key not in accepted]
        raise OutputError(listed(title, refused))
    return list(accepted.values())


def of_newer_format(identity: Any) -> str:
    """Return what is wrong with what ``run.json`` holds if this version cannot know it, or ""."""
    found = identity.get("format", FORMAT) if isinstance(identity, dict) else FORMAT
    if found == FORMAT:
        return ""
    return (
        f"format {json.dumps(found)} was written by a newer vidssl; this one reads format {FORMAT}"
    )


def without_secrets(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what describes a run, with the secrets in its ``videos`` hidden.

    Beside a text of which something is hidden stands its hash, ``videos_sha256``, so that runs on
    different videos still differ. What is hidden already stays as it is.
    """
    found = {
        key: without_secrets(value) if isinstance(value, dict) else value
        for key, value in identity.items()
    }
    videos = found.get("videos")
    if isinstance(videos, str) and shown(videos) != videos:
        found["videos"] = shown(videos)
        found["videos_sha256"] = hashlib.sha256(
            videos.encode("utf-8", "surrogatepass")
        ).hexdigest()[:16]
    return found


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the logged steps of a run's folder; a line cut short by a crash is left out."""
    return _read_lines(path / "log.jsonl")


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a run's folder."""
    return _read_lines(path / "events.jsonl")


def is_in_use(path: Path) -> bool:
    """Whether a process is working in a run's folder; on a network, as far as its locks reach."""
    try:
        handle = os.open(path / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _lock(path: Path) -> int:
    """Return the folder's lock, held by this process alone for as long as it is open."""
    waited = False
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if waited:
                raise OutputError(f"{path}: another process is working in this folder") from error
            waited = True
            time.sleep(LOOK_S)
            continue
        if _is_at(handle, path / ".lock"):
            return handle
        os.close(handle)  # whoever held it has removed it since it was opened


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _end(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    return "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _end_last_line(path: Path) -> None:
    """End a line that a crash cut short, so that what follows it does not belong to it."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entries.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return entries


def _is_below(key: str, places: Collection[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _differences(there: Any, here: Any, at: str = "") -> dict[str, str]:
    """Return what differs in words, by its dotted key."""
    if isinstance(there, dict) and isinstance(here, dict):
        found: dict[str, str] = {}
        for key in sorted(there.keys() | here.keys()):
            found |= _differences(there.get(key), here.get(key), f"{at}.{key}" if at else key)
        return found
    if there == here:
        return {}
    return {at: f"{at}: {json.dumps(there)} there, {json.dumps(here)} asked"}
