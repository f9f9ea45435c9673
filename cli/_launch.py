"""One command as several processes on this machine, under PyTorch's elastic launcher."""

import logging
import os
import sys
import tempfile
import uuid
from pathlib import Path

from vidssl.errors import RecipeError

KILLED, INTERRUPTED = 1, 75


def launch(package: str, arguments: list[str], count: int, device: str) -> int:
    """Run ``python -m package arguments`` as ``count`` processes; return the exit code of all.

    The first process has this one's terminal. What the others print is kept from it, and shown only
    if one of them fails and the first cannot tell of it.

    Raises:
        RecipeError: if there are GPUs, but not as many.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus = torch.cuda.device_count()
    if 0 < gpus < count and device != "cpu":
        raise RecipeError(f"--gpus {count}: this machine has {gpus} (device=cpu does without)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // count)))
    # The processes tell of their failures themselves, and this one does nothing else.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder, {rank: Std.ALL for rank in range(1, count)}),
        )
        try:
            elastic_launch(config, sys.executable)("-m", package, *arguments)
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            if codes.get(0, -1) > 0:
                return codes[0]
            rank, failure = error.get_first_failure()
            for path in Path(folder).glob(f"*/*/{rank}/stderr.log"):
                sys.stderr.write(path.read_text(encoding="utf-8", errors="replace"))
            return failure.exitcode if failure.exitcode > 0 else KILLED
        except SignalException:
            return INTERRUPTED
    return 0
