"""``vidssl runs``: how far the runs below a folder are, and in what they differ."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vidssl.errors import CheckpointError, SourceError, nearest
from vidssl.jobs._run_files import (
    RunFiles,
    is_finite,
    last_number,
    read_run,
    samples_seen,
    speed_of,
    steps_done,
    steps_of_weights,
)
from vidssl.train.checkpoint import checkpoints
from vidssl.train.folder import IDENTITY, is_in_use
from vidssl.video.index import ClipIndex

State = Literal["running", "finished", "stopped", "failed", "damaged"]
Key = Literal["name", "state", "steps", "loss", "score", "seen", "hours", "last"]
KEYS: tuple[Key, ...] = get_args(Key)
ENDS: dict[str, State] = {"finished": "finished", "interrupted": "stopped", "failed": "failed"}
WATCHED = ("knn_class", "knn_video")
"""Scores of the log, that which says more first."""


@dataclass(frozen=True)
class RunRow:
    """One run; None stands for what its files do not tell.

    ``name`` is its path below the folder that was asked for, ``method`` that of a pretraining.
    ``scores`` has the best that was logged of each watched score, and the mean average precision of
    each evaluation; ``score`` is the most telling of them, as its name and value. ``samples_seen``
    are the run's own, and ``hours`` the time that training them took, breaks left out, by the
    logged speed. ``problems`` says what cannot be read.
    """

    name: str
    path: Path
    state: State
    command: str = ""
    method: str = ""
    backbone: str = ""
    steps: int = 0
    total_steps: int | None = None
    loss: float | None = None
    score: tuple[str, float] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    samples_seen: int | None = None
    clips_per_s: float | None = None
    hours: float | None = None
    last_event: str = ""
    last_event_time: float | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """A value, by its dotted key, that is not the same in all runs; a run without it is left out.

    Keys of the recipe are written as in the recipe; others, such as ``videos``, as in run.json.
    """

    key: str
    values: dict[str, Any]


@dataclass(frozen=True)
class RunsResult:
    """The runs, and where some were compared, in what their recipes and data differ."""

    folder: Path
    runs: list[RunRow]
    differences: list[Difference] | None


def run(
    folder: Path, names: Sequence[str] = (), *, diff: bool = False, sort: Key = "name"
) -> RunsResult:
    """Return the runs below ``folder``, or those of ``names`` alone.

    With ``diff``, or two names and more, they are compared.

    Raises:
        CheckpointError: if there is no run, none of a name, or too few to compare.
    """
    found = [(_row(folder, path), path) for path in _folders(folder)]
    if not found:
        raise CheckpointError(
            f"{folder}: no runs below it: expected folders with the {IDENTITY} that "
            "`vidssl pretrain` and `vidssl finetune` write"
        )
    rows = _named(folder, [row for row, _ in found], names)
    differences = None
    if diff or len(names) > 1:
        whole = [row for row in rows if row.state != "damaged"]
        if len(whole) < 2:
            seen = ", ".join(row.name for row in whole) or "none"
            raise CheckpointError(f"{folder}: two runs are needed to compare, found {seen}")
        differences = _differences({row.name: _values(row.path) for row in whole})
    return RunsResult(folder, _sorted(rows, sort), differences)


# --- finding them


def _folders(top: Path) -> Iterator[Path]:
    """Give every folder below ``top``, itself included, that is or was a run.

    Raises:
        CheckpointError: if ``top`` is no folder that can be read.
    """
    if not top.is_dir():
        if top.exists():
            raise CheckpointError(f"{top}: is a file; expected a folder with runs")
        around = [path.name for path in top.parent.iterdir()] if top.parent.is_dir() else []
        raise CheckpointError(f"{top}: no such folder{nearest(top.name, around)}")
    for path, folders, files in os.walk(top):
        if {IDENTITY, "log.jsonl"} & {*files, *folders}:
            yield Path(path)
        folders[:] = sorted(name for name in folders if not _is_part_of_a_run(name))


def _is_part_of_a_run(name: str) -> bool:
    return name in {"checkpoints", "tensorboard", "rolled-back"} or name.startswith((".", "eval-"))


def _named(folder: Path, rows: list[RunRow], names: Sequence[str]) -> list[RunRow]:
    if not names:
        return rows
    by_name = {row.name: row for row in rows}
    wanted = list(dict.fromkeys(Path(name).as_posix() for name in names))
    absent = [name for name in wanted if name not in by_name]
    if absent:
        hint = nearest(absent[0], by_name)
        raise CheckpointError(f"{folder}: no run {absent[0]!r} below it{hint}")
    return [by_name[name] for name in wanted]


# --- one of them


def _row(top: Path, path: Path) -> RunRow:
    name = path.relative_to(top).as_posix() if path != top else path.resolve().name
    try:
        files = read_run(path)
        return _read_row(name, files)
    except (CheckpointError, OSError) as error:
        return RunRow(name, path, "damaged", problems=[str(error)])


def _read_row(name: str, files: RunFiles) -> RunRow:
    scores = _scores(files)
    speed, seen = speed_of(files.log), samples_seen(files.log)
    last = files.events[-1] if files.events else {}
    total = _total_steps(files)
    return RunRow(
        name=name,
        path=files.folder,
        state=_state(files, total),
        command=_text(files.identity, "command"),
        method=_text(files.identity, "recipe", "method", "name"),
        backbone=_text(files.identity, "recipe", "backbone", "name"),
        steps=steps_done(files),
        total_steps=total,
        loss=last_number(files.log, "loss"),
        score=next(iter(scores.items()), None),
        scores=scores,
        samples_seen=seen,
        clips_per_s=speed.clips_per_s if speed else None,
        hours=seen / speed.clips_per_s / 3600 if speed and seen is not None else None,
        last_event=_text(last, "event"),
        last_event_time=float(last["time"]) if is_finite(last.get("time")) else None,
        problems=files.unread,
    )


def _state(files: RunFiles, total: int | None) -> State:
    """Return how the run stands.

    Where no event says how it ended, it was killed, or is of the version before such events: it is
    finished if its weights are those of the last step, and stopped if no logged step was lost.
    """
    if is_in_use(files.folder):
        return "running"
    told = [_text(event, "event") for event in files.events]
    ends = [name for name in told if name == "start" or name in ENDS]
    if ends and ends[-1] != "start":
        return ENDS[ends[-1]]
    done, written = steps_done(files), steps_of_weights(files)
    if written is not None and written >= (total or done):
        return "finished"
    saved = [path.name.removeprefix("step-") for path in checkpoints(files.folder / "checkpoints")]
    kept = max((int(step) for step in saved if step.isdecimal()), default=0)
    return "stopped" if kept and kept >= done else "failed"


def _total_steps(files: RunFiles) -> int | None:
    """Return the steps of the whole training, as far as events, recipe and index tell."""
    starts = [event for event in files.events if event.get("event") == "start"]
    if starts and type(starts[-1].get("steps")) is int:
        return int(starts[-1]["steps"])
    optim = _at(files.identity, "recipe", "optim")
    if not isinstance(optim, dict):
        return None
    if type(optim.get("steps")) is int:
        return int(optim["steps"])
    epochs, batch = optim.get("epochs"), optim.get("batch")
    index = files.folder / "index.parquet"
    of_videos = _text(files.identity, "command") == "pretrain" and index.is_file()
    if not (is_finite(epochs) and is_finite(batch) and batch and of_videos):
        return steps_of_weights(files)
    try:
        return max(1, round(epochs * len(ClipIndex(index)) / batch))
    except SourceError:
        return None


def _scores(files: RunFiles) -> dict[str, float]:
    """Return the scores there are, the most telling first: the best of each."""
    found = {name: score.get("mean_ap") for name, score in files.scores.items()}
    evaluated = {name: float(value) for name, value in found.items() if is_finite(value)}
    best = dict(sorted(evaluated.items(), key=lambda item: -item[1]))
    for name in WATCHED:
        values = [float(entry[name]) for entry in files.log if is_finite(entry.get(name))]
        if values:
            best[name] = max(values)
    return best


def _at(value: Any, *keys: str) -> Any:
    """Return what lies at ``keys`` in nested mappings, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: Any, *keys: str) -> str:
    found = _at(value, *keys)
    return found if isinstance(found, str) else ""


# --- several of them


def _values(path: Path) -> dict[str, Any]:
    """Return what a run was asked for, by dotted key."""
    identity = dict(read_run(path).identity)
    identity.pop("format", None)
    recipe = identity.pop("recipe", {})
    return {**_flat(identity), **_flat(recipe if isinstance(recipe, dict) else {"recipe": recipe})}


def _flat(values: dict[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{at}.{name}" if at else name
        found |= _flat(value, key) if isinstance(value, dict) and value else {key: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON can have it: a number that is none as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _differences(runs: dict[str, dict[str, Any]]) -> list[Difference]:
    keys = list(dict.fromkeys(key for values in runs.values() for key in values))
    found = [
        Difference(key, {name: values[key] for name, values in runs.items() if key in values})
        for key in keys
    ]
    return [one for one in found if len(one.values) < len(runs) or _differ(one.values)]


def _differ(values: dict[str, Any]) -> bool:
    first, *others = values.values()
    return any(other != first for other in others)


def _sorted(rows: list[RunRow], key: Key) -> list[RunRow]:
    """Return the rows by ``key``: the best, most or newest first, and those without one last."""
    quantity: dict[Key, Callable[[RunRow], float | None]] = {
        "steps": lambda row: -row.steps,
        "loss": lambda row: row.loss,
        "score": lambda row: -row.score[1] if row.score else None,
        "seen": lambda row: None if row.samples_seen is None else -row.samples_seen,
        "hours": lambda row: None if row.hours is None else -row.hours,
        "last": lambda row: None if row.last_event_time is None else -row.last_event_time,
    }
    if key == "state":
        return sorted(rows, key=lambda row: get_args(State).index(row.state))
    if key == "name":
        return rows
    of = quantity[key]

    def order(row: RunRow) -> tuple[bool, float]:
        value = of(row)
        return value is None, value or 0.0

    return sorted(rows, key=order)
