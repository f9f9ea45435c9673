"""One command as a job of Slurm, written and submitted by submitit.

Each machine of the job runs one task: the same elastic launcher that ``--gpus`` starts, which meets
those of the other machines. One task a GPU would need no launcher, but then nothing would start the
processes again when one dies, and ``--max-restarts`` would work on one machine alone.

Shortly before the time limit Slurm sends SIGUSR1; the training saves a checkpoint, and the job goes
back into the queue and on from there. So it does where preemption sends that signal
(``PreemptParameters=send_user_signal``) or requeues the job itself.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidssl.errors import LaunchError, RecipeError

from . import _common
from ._launch import ALONE, Machines, run

if TYPE_CHECKING:
    from vidssl.recipe import Detection, Extract, Pretrain, Recognition

LEAST_MINUTES = 5
SIGNAL_S = 120
"""Seconds before the time limit at which the training is told to save; Slurm may be early."""
REQUEUED_S = 300.0
PORTS = range(20_000, 30_000)
TIME = re.compile(r"(?:(?P<d>\d+)-)?(?P<h>\d+):(?P<m>[0-5]\d):(?P<s>[0-5]\d)")


@dataclass(frozen=True)
class Job:
    """What to ask of Slurm; ``options`` are sbatch's own, ``cpus`` those of each machine."""

    name: str
    nodes: int
    gpus: int
    cpus: int
    minutes: int
    partition: str | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of submitit's executor."""
        found = {
            "job_name": self.name,
            "nodes": self.nodes,
            "ntasks_per_node": 1,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "partition": self.partition,
            "time": self.minutes,
            # Since Slurm 22.05 srun does not take the cores of a task from the job's own options.
            "srun_args": [f"--cpus-per-task={self.cpus}", "--kill-on-bad-exit=1"],
            "additional_parameters": {
                "signal": f"USR1@{SIGNAL_S}",
                "requeue": True,
                **self.options,
            },
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Task:
    """What each machine of the job runs: the command, as one process a GPU."""

    package: str
    arguments: list[str]
    processes: int
    device: str
    restarts: int

    def __call__(self) -> None:
        """Run it; back in the queue if Slurm asked it to stop.

        Raises:
            SystemExit: with the exit code of the processes, unless it is 0.
        """
        from submitit import JobEnvironment

        here = JobEnvironment()
        command = (self.package, self.arguments, self.processes, self.device)
        with _common.user_errors():
            machines = _machines(here.raw_job_id, here.hostnames)
            ended = run(*command, self.restarts, machines)
        if ended.code == 0:
            return
        for number in (signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)  # which the launcher made errors of
        if ended.code == _common.INTERRUPTED and ended.signal in {None, signal.SIGUSR1}:
            if here.node == 0:
                subprocess.run(["scontrol", "requeue", here.raw_job_id], check=True)
            time.sleep(REQUEUED_S)  # Slurm ends what is left of the job
        raise SystemExit(ended.code)


@dataclass(frozen=True)
class Request:
    """What was said of Slurm on the command line."""

    wanted: bool
    nodes: int
    partition: str | None
    time: str | None
    options: list[str] | None

    def is_due(self) -> bool:
        """Whether this process is to submit a job, and not one of the job's.

        Raises:
            LaunchError: if something is said of a job that is not wanted, or its time is not.
        """
        said = {
            "--nodes": self.nodes > 1,
            "--partition": self.partition is not None,
            "--time": self.time is not None,
            "--slurm-option": bool(self.options),
        }
        if not self.wanted and any(said.values()):
            named = " and ".join(name for name, is_said in said.items() if is_said)
            raise LaunchError(
                f"{named}: only with --slurm, which submits a job (without Slurm, start torchrun "
                "on each machine)"
            )
        if self.wanted and self.time is None:
            raise LaunchError(
                "--slurm: give --time, the job's limit, in minutes or as HH:MM:SS; at its end the "
                "job saves, goes back into the queue and on from there"
            )
        return self.wanted and "TORCHELASTIC_RUN_ID" not in os.environ


def submit_command(
    request: Request,
    processes: tuple[int, int],
    plan: "Pretrain | Detection | Extract | Recognition",
    out: Path,
    *,
    dry_run: bool,
    json_to: str | None,
) -> None:
    """Submit this command as a job, or print its file; ``processes`` are a machine's, and restarts.

    Raises:
        RecipeError: without submitit.
        LaunchError: if the request makes no sense, or Slurm refuses the job.
    """
    count, restarts = processes
    job = Job(
        name=f"vidssl-{out.name}",
        nodes=request.nodes,
        gpus=0 if plan.device == "cpu" else count,
        cpus=count * (1 + plan.loader.workers),
        minutes=minutes_of(request.time or ""),
        partition=request.partition,
        options=options_of(request.options or ()),
    )
    folder = folder_of(out)
    if dry_run:
        file = text(job, folder)
        if json_to is None:
            sys.stdout.write(file)
        else:
            _common.write_json({"sbatch": file}, json_to)
        return
    task = Task(__package__ or "", sys.argv[1:], count, plan.device, restarts)
    number = submit(job, task, folder)
    if json_to is not None:
        _common.write_json({"job": number, "folder": str(folder), "run": str(out)}, json_to)
    if json_to != "-":
        _common.say(f"job {number} is submitted; what it says is in {folder}, the run in {out}")


def options_of(given: Iterable[str]) -> dict[str, str | bool]:
    """Return sbatch's options by name, from ``KEY=VALUE`` or ``KEY``.

    Raises:
        LaunchError: if one has no name.
    """
    found: dict[str, str | bool] = {}
    for text in given:
        name, equals, value = text.removeprefix("--").partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name.replace("_", "-")) or "\n" in value:
            raise LaunchError(
                f"--slurm-option {text!r}: expected an option of sbatch, as account=NAME or "
                "exclusive"
            )
        found[name.replace("-", "_")] = value if equals else True
    return found


def minutes_of(given: str) -> int:
    """Return a time limit in minutes, from minutes, ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises:
        LaunchError: if it is something else.
    """
    minutes = 0
    if given.isdecimal():
        minutes = int(given)
    elif (found := TIME.fullmatch(given)) is not None:
        d, h, m, s = (int(found[part] or 0) for part in "dhms")
        minutes = -(-(((d * 24 + h) * 60 + m) * 60 + s) // 60)
    if minutes >= LEAST_MINUTES:
        return minutes
    if minutes:
        raise LaunchError(
            f"--time {given!r}: expected {LEAST_MINUTES} minutes or more, found {minutes}: the job "
            f"saves {SIGNAL_S} s before its end, and would do little else"
        )
    raise LaunchError(f"--time {given!r}: expected minutes, HH:MM:SS or D-HH:MM:SS")


def folder_of(out: Path) -> Path:
    """Return where a run's job has its files: beside the run, whose folder is its own."""
    return Path(os.path.abspath(out)).with_name(f"{out.name}.slurm")


def text(job: Job, folder: Path) -> str:
    """Return the file that :func:`submit` would give to sbatch.

    Raises:
        RecipeError: without submitit.
    """
    _require_submitit()
    from submitit.slurm.slurm import _make_sbatch_string  # no public way does without Slurm

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit"
    made: str = _make_sbatch_string(
        command=f"{command} {shlex.quote(str(folder))}", folder=folder, **job.parameters()
    )
    return made


def submit(job: Job, task: Task, folder: Path) -> str:
    """Submit the job, with its files in ``folder``, which all machines must see; return its id.

    Raises:
        RecipeError: without submitit.
        LaunchError: if there is no Slurm here, or it refuses the job.
    """
    _require_submitit()
    import submitit
    from submitit.core.utils import FailedJobError

    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError as error:
        raise LaunchError(
            "--slurm: no srun here; expected a machine from which jobs are submitted "
            "(--dry-run shows the file for sbatch)"
        ) from error
    executor.update_parameters(**job.parameters())
    try:
        return str(executor.submit(task).job_id)
    except (FailedJobError, subprocess.CalledProcessError) as error:
        cause = error.__cause__ or error.__context__ or error
        told = getattr(cause, "stderr", None) or getattr(cause, "output", None) or str(error)
        words = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
        raise LaunchError(f"--slurm: sbatch refuses the job: {words.strip()}") from error


def _require_submitit() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise RecipeError("--slurm: needs submitit; pip install 'vidssl[slurm]'") from error


def _machines(job: str, names: Sequence[str]) -> Machines:
    if len(names) == 1:
        return ALONE
    port = PORTS[int(re.sub(r"\D", "", job)) % len(PORTS)]
    attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
    this = os.environ.get("SLURMD_NODENAME", names[0])
    return Machines(len(names), f"{names[0]}:{port}", f"{job}-{attempt}", this)
