"""One command as several processes, under PyTorch's elastic launcher, on one machine or many."""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidssl.errors import LaunchError, RecipeError

from . import _common

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

KILLED = 1
FINAL = {
    *(_common.WRONG_INPUT, _common.TOO_MANY_FAILED),
    *(_common.INTERRUPTED, _common.STOPPED),
}
"""Exit codes after which the same command would end in the same way, or was not to go on."""
STOP_WAIT_S = 120
"""What processes that are asked to stop have for their step and a checkpoint."""


@dataclass(frozen=True)
class Machines:
    """The machines that run one command together, of which this is one.

    ``endpoint`` is where their launchers meet, ``HOST:PORT`` of the first, ``job`` names what they
    meet for, and ``this`` is this machine's name for the others.
    """

    count: int
    endpoint: str
    job: str
    this: str


ALONE = Machines(1, "localhost:0", "", "localhost")


@dataclass(frozen=True)
class Ended:
    """How the processes ended: the exit code of all, and the signal that the launcher was sent."""

    code: int
    signal: int | None = None
    words: str = ""


def launch(package: str, arguments: list[str], count: int, device: str, restarts: int = 0) -> int:
    """Run ``python -m package arguments`` as ``count`` processes here; return their exit code.

    The first process has this one's terminal. What the others print is kept from it, and shown only
    if one of them fails and the first cannot tell of it. When one dies, all start again from the
    last checkpoint, ``restarts`` times at most; not where that would be of no use.

    Raises:
        RecipeError: if there are GPUs, but not as many.
    """
    return run(package, arguments, count, device, restarts).code


def run(
    package: str,
    arguments: list[str],
    count: int,
    device: str,
    restarts: int,
    machines: Machines = ALONE,
) -> Ended:
    """Run the command as ``count`` processes on each of the machines, of which this is one.

    Of many machines PyTorch's launchers start all again together, whatever it was that failed.

    Raises:
        RecipeError: if there are GPUs, but not as many.
        LaunchError: if the machines do not meet.
    """
    if machines.count > 1:
        return _once(package, arguments, count, device, machines, restarts)
    for attempt in range(restarts + 1):
        ended = _once(package, arguments, count, device, machines, 0)
        if ended.code in {0, *FINAL}:
            break
        words = ended.words or "a process failed"
        if attempt < restarts:
            _tell(
                f"{words}; all start again from the last checkpoint ({attempt + 1} of {restarts})"
            )
        elif ended.words:
            _tell(f"error: {words}; the same command goes on from the last checkpoint")
    return ended


def _once(
    package: str,
    arguments: list[str],
    count: int,
    device: str,
    machines: Machines,
    restarts: int,
) -> Ended:
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus = torch.cuda.device_count()
    if 0 < gpus < count and device != "cpu":
        raise RecipeError(f"--gpus {count}: this machine has {gpus} (device=cpu does without)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // count)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOP_WAIT_S))
    # The processes tell of their failures themselves, and this one does nothing else.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=machines.count,
            max_nodes=machines.count,
            nproc_per_node=count,
            run_id=machines.job or str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint=machines.endpoint,
            local_addr=machines.this,
            max_restarts=restarts,
            logs_specs=DefaultLogsSpecs(folder, {rank: Std.ALL for rank in range(1, count)}),
            signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        )
        try:
            elastic_launch(config, sys.executable)("-m", package, *arguments)
        except ChildFailedError as error:
            return _failed(error.failures, error.get_first_failure()[0], Path(folder))
        except SignalException as error:
            _kill_the_rest()
            return Ended(_common.INTERRUPTED, error.sigval)
        except RendezvousError as error:
            raise LaunchError(
                f"{machines.this}: the machines of job {machines.job} do not meet at "
                f"{machines.endpoint}: {error}; expected {machines.count} of them, which reach the "
                "first by that name and port"
            ) from error
    return Ended(0)


def _kill_the_rest() -> None:
    """End what is still there of the processes, if a person would not wait for them."""
    from vidssl.jobs._memory import descendants

    for process in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _failed(failures: "Mapping[int, ProcessFailure]", first: int, logs: Path) -> Ended:
    """Return how processes failed, having shown what the first rank cannot tell itself."""
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    words, code = "", codes[first]
    if code < 0:  # the others were asked to stop then, and say that they were
        words, code = f"rank {first} was ended by {_signal(code)}", KILLED
    else:
        code = next((end for end in codes.values() if end in FINAL), code)
    if codes.get(0, -1) > 0:
        return Ended(KILLED if words else code, words=words)
    for path in logs.glob(f"*/*/{failures[first].local_rank}/stderr.log"):
        sys.stderr.write(path.read_text(encoding="utf-8", errors="replace"))
    return Ended(code, words=words)


def _tell(words: str) -> None:
    _common.err.print(words, markup=False)


def _signal(code: int) -> str:
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name} (memory, or by hand)" if -code == signal.SIGKILL else name
