"""The loader: PyTorch's own, with disposable workers that start without a fork.

A decoder that was opened before a fork hangs or fails after it, so workers come from a fork server
and open what they read themselves.
"""

import resource
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Generic, TypeVar

from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import DataLoader, Dataset

from vidssl.section import Section

Sample = TypeVar("Sample")


class LoaderConfig(Section):
    """How samples are read beside the training."""

    workers: NonNegativeInt = 2
    """Processes that decode; 0 decodes in the training process, between its steps."""
    prefetch: PositiveInt = 4
    """Batches that each worker keeps ready."""


class Loader(Generic[Sample]):
    """Gives a list of samples for each list of positions in ``batches``."""

    def __init__(
        self, dataset: Dataset[Sample], batches: Iterable[Sequence[int]], config: LoaderConfig
    ) -> None:
        options: dict[str, Any] = {}
        if config.workers:
            options = {
                "multiprocessing_context": "forkserver",
                "prefetch_factor": config.prefetch,
                "num_workers": config.workers,
                "worker_init_fn": _leave_stopping_to_the_parent,
            }
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=_as_list,
            **options,
        )

    def __iter__(self) -> Iterator[list[Sample]]:
        """Start the workers, if there are any, and give their batches in order."""
        _allow_many_files()
        with _ctrl_c_held_back():
            return iter(self._loader)


def _leave_stopping_to_the_parent(worker: int) -> None:
    """Let Ctrl-C reach the training alone, which saves and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Hold Ctrl-C back here, and in the processes that are started meanwhile for good."""
    resource_tracker.ensure_running()  # starting it would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _allow_many_files() -> None:
    """Raise the limit of open files: each tensor on its way from a worker is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _as_list(samples: list[Sample]) -> list[Sample]:
    """Keep samples apart: clips of different videos differ in size until they are augmented."""
    return samples
