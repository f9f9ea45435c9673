"""Collectives that are the identity in one process.

Tensor suffixes: B clips of this process, G clips of all processes in order of rank.
"""

import ctypes
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vidssl.errors import RankLostError, RecipeError
from vidssl.nn.meeting import Place, meet, meeting_limit

CPU = torch.device("cpu")
PR_SET_PDEATHSIG = 1  # of Linux's prctl
PATIENCE = timedelta(hours=12)
"""How long processes wait for one another: the first may index a large folder for the others."""
WAITING_S = 0.1
CONNECTING = timedelta(minutes=5)
"""How long they may take to connect each with each, once they have met."""


def rank() -> int:
    """Return this process's number, 0 where there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def gather(local_B: Tensor) -> Tensor:
    """Return the rows of every process, ``(G, ...)``, without gradient."""
    if world_size() == 1:
        return local_B
    parts = [torch.empty_like(local_B) for _ in range(world_size())]
    dist.all_gather(parts, local_B.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def exchange(local_B: Tensor, order_G: Tensor) -> Tensor:
    """Return this process's rows of ``gather(local_B)[order_G]``, without gradient.

    Each row is sent to the one process that it goes to. All have equally many rows, and the same
    ``order_G``: a permutation, on the CPU.
    """
    if world_size() == 1:
        return local_B[order_G.to(local_B.device)]
    count = len(local_B)
    to = order_G.view(world_size(), count)  # whose rows they become
    owners = to // count  # whose they are
    sent = [to[there][owners[there] == rank()] - rank() * count for there in range(len(to))]
    came = [int((owners[rank()] == there).sum()) for there in range(len(to))]
    rows = local_B[torch.cat(sent).to(local_B.device)].contiguous()
    received = torch.empty_like(rows)
    dist.all_to_all_single(received, rows, came, [len(part) for part in sent])
    # What came is in order of the sender; what one sender sent is in order already.
    return received[owners[rank()].argsort(stable=True).argsort().to(rows.device)]


class _Sum(torch.autograd.Function):
    """The sum over processes; each one's gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = local.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def sum_with_grad(local: Tensor, ranks: int | None = None) -> Tensor:
    """Return the sum of every process's tensor, all of one shape, with gradient to all of them.

    With ``ranks``, of the processes of this one's group: the first so many, the next, and so on.

    Raises:
        RecipeError: if the processes cannot be parted into such groups.
    """
    if world_size() == 1 or ranks == 1:
        return local
    group = None if ranks is None else _group(dist.group.WORLD, ranks)
    total: Tensor = _Sum.apply(local, group)
    return total


@lru_cache
def _group(world: Any, ranks: int) -> Any:
    """Return this process's group of so many; all processes ask for it in the same order."""
    if world_size() % ranks:
        raise RecipeError(f"norm.ranks: {world_size()} processes have no groups of {ranks}")
    own, _ = dist.new_subgroups(ranks)
    return own


class _Gather(torch.autograd.Function):
    """The rows of all processes; each one's gradient is the sum of what all have made of them."""

    @staticmethod
    def forward(ctx: Any, local_B: Tensor) -> Tensor:
        return gather(local_B)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return local_rows(total)


def gather_with_grad(local_B: Tensor) -> Tensor:
    """Return the rows of every process, ``(G, ...)``, with gradient to all of them.

    A loss that is a mean over a process's own rows then has, averaged over processes as DDP does,
    the gradient of the mean over all rows.
    """
    if world_size() == 1:
        return local_B
    rows: Tensor = _Gather.apply(local_B)
    return rows


def own_rows(local_B: Tensor) -> Tensor:
    """Return where this process's rows stand among those that :func:`gather` puts together."""
    return rank() * len(local_B) + torch.arange(len(local_B), device=local_B.device)


def on_any(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up on any process: what one of them must do, all do together."""
    if world_size() == 1:
        return flag
    raised = torch.tensor(float(flag), device=device)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return bool(raised)


def local_rows(all_G: Tensor) -> Tensor:
    """Return this process's share of rows that :func:`gather` put together."""
    return all_G.chunk(world_size())[rank()]


@contextmanager
def joined(device: torch.device = CPU) -> Iterator[None]:
    """Join the processes that torchrun started, for as long as the block runs.

    NCCL between GPUs, of which ``device`` is this process's own, gloo between CPUs; nothing happens
    in a process that was started alone. A process whose launcher dies is asked to stop. Within
    another such block they wait for each other: what all have looked at before, none has changed.

    Raises:
        LaunchError: if the processes do not meet within a minute, or cannot.
        RankLostError: if one has ended before the others came here.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _stop_with_parent()
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    if dist.is_initialized():
        wait_for_all()
        yield
        return
    place = Place.of_this_process()
    store = meet(place, meeting_limit())
    gpu = device.type == "cuda"
    try:
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.count,
            timeout=CONNECTING,
            device_id=device if gpu else None,
        )
    except RuntimeError as error:
        raise place.failed(
            f"they met, but do not connect: {error}",
            "see what the others say; each must reach each by the network between them",
        ) from error
    try:
        store.set_timeout(PATIENCE)
        _wait_longer(PATIENCE)
        yield
    finally:
        dist.destroy_process_group()


def _wait_longer(timeout: timedelta) -> None:
    """Set how long the collectives of all processes may take."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(timeout)
    else:  # before PyTorch 2.12 or so, under a name of its own
        dist.distributed_c10d._set_pg_timeout(timeout)


def _stop_with_parent() -> None:
    """Let the system send SIGTERM when the process that started this one ends, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def wait_for_all(meanwhile: Callable[[], object] | None = None) -> None:
    """Wait until all processes have come here; Ctrl-C is heard, and ``meanwhile`` done, till then.

    Raises:
        RankLostError: if one of them has ended before it came here.
    """
    if world_size() == 1:
        return
    try:
        work = dist.barrier(async_op=True)
        while not work.is_completed():
            time.sleep(WAITING_S)
            if meanwhile is not None:
                meanwhile()
        work.wait()
    except RuntimeError as error:
        raise RankLostError("another process has ended before its share was done") from error


class Tally:
    """A count that every process adds to whenever it likes; all make it at the same time."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._count = 0
        self._store: Any = None
        if world_size() > 1:
            named = gather_texts({"tally": uuid.uuid4().hex} if rank() == 0 else {})
            self._store, self._name = dist.distributed_c10d._get_default_store(), named["tally"]

    def add(self, more: int) -> int:
        """Add to the count; return what it is now, of all processes.

        Raises:
            RankLostError: if the process that keeps the count has ended.
        """
        if self._store is not None:
            try:
                return int(self._store.add(self._name, more))
            except RuntimeError as error:
                raise RankLostError("the process that counts for all has ended") from error
        self._count += more
        return self._count


def gather_texts(own: Mapping[str, str]) -> dict[str, str]:
    """Return the texts by key of all processes; of one key the last process's counts."""
    if world_size() == 1:
        return dict(own)
    parts: list[dict[str, str]] = [{} for _ in range(world_size())]
    dist.all_gather_object(parts, dict(own))
    return {key: text for part in parts for key, text in part.items()}


@contextmanager
def first_here() -> Iterator[None]:
    """Run the block on rank 0 before the other ranks run it: for what one writes and all read."""
    if rank() != 0:
        dist.barrier()
    yield
    if rank() == 0 and world_size() > 1:
        dist.barrier()
