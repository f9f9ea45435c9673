"""The loader: PyTorch's own, with disposable workers that start without a fork.

A decoder that was opened before a fork hangs or fails after it, so workers come from a fork server
and open what they read themselves.
"""

import signal
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

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


def loader(
    dataset: Dataset[Sample], batches: Iterable[Sequence[int]], config: LoaderConfig
) -> DataLoader[list[Sample]]:
    """Return a loader that gives a list of samples for each list of positions in ``batches``."""
    options: dict[str, Any] = {}
    if config.workers:
        options = {
            "multiprocessing_context": "forkserver",
            "prefetch_factor": config.prefetch,
            "num_workers": config.workers,
            "worker_init_fn": _leave_stopping_to_the_parent,
        }
    return DataLoader(dataset, batch_sampler=batches, collate_fn=_as_list, **options)  # type: ignore[arg-type]


def _leave_stopping_to_the_parent(worker: int) -> None:
    """Let Ctrl-C reach the training alone, which saves and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_list(samples: list[Sample]) -> list[Sample]:
    """Keep samples apart: clips of different videos differ in size until they are augmented."""
    return samples
