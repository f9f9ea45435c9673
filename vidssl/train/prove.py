"""Proof that a run resumes exactly: some of its steps done again, and compared."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidssl.errors import CheckpointError
from vidssl.nn.distributed import rank, world_size
from vidssl.train import checkpoint
from vidssl.train.folder import read_events, read_log
from vidssl.train.rollback import on_cpu
from vidssl.train.trainer import Trainer

Raw = TypeVar("Raw")


@dataclass(frozen=True)
class Proof:
    """Steps ``first`` to ``last - 1``, done twice from a checkpoint; well if nothing differs.

    ``logged`` of them the run itself had logged before, with their losses. ``checkpoints`` are the
    later ones that the steps went past, whose whole state was compared.
    """

    checkpoint: Path
    first: int
    last: int
    logged: int
    checkpoints: list[int] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def prove(
    trainer: Trainer,
    batches: Callable[[int, int], Iterable[Raw]],
    prepare: Callable[[Raw, int], Any],
    identify: Callable[[Raw], list[dict[str, Any]]],
    folder: Path,
    steps: int,
) -> Proof:
    """Do ``steps`` steps twice from the oldest checkpoint of a run, and compare all that there is.

    The two with each other: clips, losses, learning rates and the whole state. And with what the
    run did at the time: the losses in its log, and its later checkpoints. It ends before a step
    that the run undid. Nothing is written.

    Raises:
        CheckpointError: if there is no whole checkpoint with steps after it.
    """
    paths = [p for p in checkpoint.checkpoints(folder / "checkpoints") if not checkpoint.verify(p)]
    states = {path: checkpoint.read(path) for path in paths}
    begun = [path for path in paths if states[path]["step"] < trainer.plan.steps]
    if not begun:
        raise CheckpointError(f"{folder}: holds no checkpoint with steps left to do again")
    start = begun[0]
    first = states[start]["step"]
    processes = states[start].get("card", {}).get("processes", world_size())
    if processes != world_size():
        raise CheckpointError(
            f"{folder}: {processes} processes trained together, here are {world_size()}: only as "
            f"many do the same steps again (--gpus {processes} on one machine)"
        )
    last = min([first + steps, trainer.plan.steps, *_undone_from(folder, first)])
    if last == first:
        raise CheckpointError(f"{start}: the step after it was undone; there is none to do again")
    later = {states[path]["step"]: states[path] for path in paths if path != start}
    runs = [
        _replay(trainer, batches, prepare, identify, states[start], last, set(later))
        for _ in range(2)
    ]
    differences = [
        f"step {step}: {name} {one[name]} the first time, {two[name]} the second"
        for step, one, two in zip(range(first, last), runs[0].steps, runs[1].steps, strict=True)
        for name in one
        if one[name] != two[name]
    ]
    differences += _different(runs[0].states[last], runs[1].states[last], f"after step {last - 1}")
    logged = {row["step"]: row for row in read_log(folder) if first <= row["step"] < last}
    differences += [
        f"step {step}: loss {row['loss']} in the run's log, {again} now"
        for step, row in logged.items()
        if row["loss"] != (again := runs[0].steps[step - first]["loss"])
    ]
    passed = sorted(step for step in later if step <= last)
    # The first process's state was saved: running statistics of batches are each process's own.
    for step in passed if rank() == 0 else ():
        differences += _different(later[step], runs[0].states[step], f"checkpoint {step}")
    return Proof(start, first, last, len(logged), passed, differences)


def _undone_from(folder: Path, first: int) -> list[int]:
    """Return the first steps of all stretches that the run undid, from ``first`` on."""
    undone = [event for event in read_events(folder) if event["event"] == "rolled back"]
    return [max(first, event["first"]) for event in undone if event["last"] >= first]


@dataclass
class _Replay:
    steps: list[dict[str, Any]] = field(default_factory=list)
    states: dict[int, dict[str, Any]] = field(default_factory=dict)


def _replay(
    trainer: Trainer,
    batches: Callable[[int, int], Iterable[Raw]],
    prepare: Callable[[Raw, int], Any],
    identify: Callable[[Raw], list[dict[str, Any]]],
    state: Mapping[str, Any],
    last: int,
    kept: set[int],
) -> _Replay:
    trainer.restore(state)
    done = _Replay()
    for raw in batches(trainer.step, last):
        scalars = trainer.train_step(prepare(raw, trainer.step))
        done.steps.append({"clips": identify(raw), "loss": scalars["loss"], "lr": scalars["lr"]})
        if trainer.step in kept or trainer.step == last:
            done.states[trainer.step] = on_cpu(trainer.state())
    return done


def _different(one: Any, two: Any, at: str) -> list[str]:
    """Return the places where two states differ; what they say of themselves does not count."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        same = one.shape == two.shape and torch.equal(one, two)
    elif isinstance(one, dict) and isinstance(two, dict):
        keys = [*one, *(key for key in two if key not in one)]
        return [
            found
            for key in keys
            if key != "card"
            for found in _different(one.get(key), two.get(key), f"{at}, {key}")
        ]
    else:
        same = one == two
    return [] if same else [f"{at}: differs"]
