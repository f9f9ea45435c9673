"""The loader: samples read beside the training, in disposable processes with a deadline.

Samples arrive in the order of their positions through memory that both processes map. A video that
hangs, crashes or starves its process costs one clip: the next of the order takes its place, as if
it could not have been decoded.
"""

import copyreg
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from vidssl.data.samples import Failed, Samples
from vidssl.section import Section
from vidssl.video.storage import shown
from vidssl.video.workers import DEPTH, Failure, Limits, Workers, preload

Sample = TypeVar("Sample")


class LoaderConfig(Section):
    """How samples are read beside the training."""

    workers: NonNegativeInt = 2
    """Processes that decode; 0 decodes in the training process, between its steps, and waits for
    ever for a decoder that hangs."""
    prefetch: PositiveInt = 4
    """Batches that are kept ready."""
    augment: Literal["auto", "workers", "device"] = "auto"
    """Where clips are augmented: on the training's device, or in the workers, so that they arrive
    ready; ``auto`` takes the workers where the training runs on the CPU."""
    deadline_s: PositiveFloat = 60.0
    """A sample that takes longer is given up, and its process ended."""
    memory_gb: PositiveFloat | None = 4.0
    """How much a worker may take for one sample, in GiB; null sets no limit."""

    def preload(self, module: str) -> None:
        """Begin to import what the workers will read with, beside what comes before them."""
        if self.workers:
            preload([module])


@dataclass
class Cost:
    """What reading has taken so far: samples, and the seconds and processor seconds of workers."""

    samples: int = 0
    read_s: float = 0.0
    cpu_s: float = 0.0


class Loader(Generic[Sample]):
    """Gives a list of samples for each list of positions in ``batches``.

    Samples are kept apart: clips of different videos differ in size until they are augmented.
    """

    def __init__(
        self,
        samples: Samples[Any, Sample],
        batches: Iterable[Sequence[int]],
        config: LoaderConfig,
        cost: Cost | None = None,
    ) -> None:
        """Take what to read; ``cost`` is added up as samples arrive from workers."""
        self.samples, self.batches, self.config = samples, batches, config
        self.cost = cost or Cost()

    def __iter__(self) -> Iterator[list[Sample]]:
        """Start the workers, if there are any, and give their batches in order.

        Raises:
            VideoError: if too many videos fail in a row.
        """
        if self.config.workers:
            return self._beside()
        return ([self.samples[position] for position in batch] for batch in self.batches if batch)

    def _beside(self) -> Iterator[list[Sample]]:
        limits = Limits(self.config.deadline_s, self.config.memory_gb)
        read = partial(_read, self.samples.read)
        sizes: deque[int] = deque()
        given = iter(self.batches)
        first = next(given, ())
        batches = chain([first], given)
        ahead = max(self.config.prefetch * len(first), DEPTH * self.config.workers)
        modules = {type(self.samples).__module__, type(self.samples.read).__module__}
        with Workers(read, self.config.workers, limits, start_reading, modules=modules) as workers:
            # The batches are read ahead of the samples by the thread that hands them out.
            tickets = self._tickets(batches, sizes)
            run = workers.run(tickets, ahead=ahead, instead=self._instead)
            batch: list[Sample] = []
            for answer in run:
                batch.append(self._sample(answer))
                if len(batch) == sizes[0]:
                    sizes.popleft()
                    yield batch
                    batch = []

    def _tickets(
        self, batches: Iterable[Sequence[int]], sizes: "deque[int]"
    ) -> Iterator["_Ticket"]:
        for batch in batches:
            if not batch:
                continue
            sizes.append(len(batch))
            for position in batch:
                plan = self.samples.plan(position)
                yield _Ticket(position, plan)

    def _instead(self, ticket: "_Ticket", failure: Failure) -> "_Ticket":
        """Return the ticket of what takes a failed one's place, or of the loss."""
        failed = (*ticket.failed, (ticket.plan.location, _words(ticket, failure)))
        plan = self.samples.plan(ticket.position, len(failed))
        return _Ticket(ticket.position, plan or ticket.plan, failed, lost=plan is None)

    def _sample(self, answer: Any) -> Sample:
        ticket, sample, read_s, cpu_s = answer
        self.cost.samples += 1
        self.cost.read_s += read_s
        self.cost.cpu_s += cpu_s
        if ticket.lost:
            return self.samples.lost(ticket.plan, ticket.failed)
        return self.samples.tell(sample, ticket.failed) if ticket.failed else sample


@dataclass(frozen=True)
class _Ticket:
    """What a worker is asked for, and what was tried before at this position."""

    position: int
    plan: Any
    failed: Failed = ()
    lost: bool = False


def start_reading() -> None:
    """Make this process one that reads: one thread, and tensors that travel like arrays."""
    torch.set_num_threads(1)
    copyreg.pickle(Tensor, _as_array)


def _read(read: Any, ticket: _Ticket) -> tuple[_Ticket, Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    sample = None if ticket.lost else read(ticket.plan)
    return ticket, sample, time.perf_counter() - wall, time.process_time() - cpu


def _words(ticket: _Ticket, failure: Failure) -> str:
    if failure.reason in {"timeout", "crashed", "memory"}:
        return f"{shown(ticket.plan.location)}: {failure.message}"
    return failure.message


def _as_array(tensor: Tensor) -> tuple[Any, ...]:
    return torch.from_numpy, (tensor.numpy(),)
