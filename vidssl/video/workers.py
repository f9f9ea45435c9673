"""Disposable processes that read videos: a decoder that hangs or aborts costs one task.

Workers come from a fork server, so that no decoder, lock or thread crosses a fork. Each holds at
most one task beside the one it works on. What it returns comes back through memory that both
processes map, not through a copy, and that it fills again once the result is gone. A thread of this
process hands out the tasks and watches the clock: a worker that says nothing for ``deadline_s`` is
killed, one that dies is noticed at once, and either is replaced. Failures are data: they come out
in place of the result.
"""

import contextlib
import functools
import mmap
import multiprocessing
import os
import pickle
import resource
import signal
import tempfile
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, reduction, resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np

from vidssl.errors import VideoError

Task = TypeVar("Task")
Result = TypeVar("Result")

START_S = 300.0
"""How long a worker may take to import what it needs; a busy machine takes minutes."""
STARTS = 3
"""Workers in a row that may die before they are ready: more are a fault of the installation."""
DEPTH = 2
"""Tasks that a worker holds: the one that it works on, and the next."""
BEAT_S = 0.5
SMALL_TASK = 32_768  # bytes that a pipe takes in though nobody reads
SAFE_PATH = "PYTHONSAFEPATH"
KEPT_BLOCKS = 64  # that a worker has ready to fill again
ALIGNED = 64  # bytes, as processors like arrays to begin


@dataclass(frozen=True)
class Limits:
    """What one task may cost: seconds without a sign of life, and GiB of a worker's own memory."""

    deadline_s: float = 60.0
    memory_gb: float | None = 4.0


@dataclass(frozen=True)
class Failure:
    """A task that gave no result.

    ``reason`` is ``timeout``, ``crashed``, ``memory`` or that of a ``VideoError``; ``message`` says
    it in words.
    """

    reason: str
    message: str


class WorkerError(RuntimeError):
    """An error in a worker that no input should cause; the message is its traceback."""


class Workers(Generic[Task, Result]):
    """``count`` processes that apply ``function``, which must be importable by name or pickle.

    ``function`` raises ``VideoError`` for a video that it cannot use. ``start`` is called once in
    each process before its first task.
    """

    def __init__(
        self,
        function: Callable[[Task], Result],
        count: int,
        limits: Limits | None = None,
        start: Callable[[], None] | None = None,
        *,
        modules: Iterable[str] = (),
    ) -> None:
        """Take what to do; processes start with the first run.

        ``modules`` are imported once, before all processes part, so that a new one is there in a
        moment; only if this is the first use of workers (see :func:`preload`).
        """
        if count < 1:
            raise ValueError(f"expected at least 1 worker, got {count}")
        self.limits = limits or Limits()
        self._spawn = functools.partial(_Worker, function, start, self.limits)
        self._workers: list[_Worker] = []
        self._count = count
        self._pid = os.getpid()
        self._running: _Run[Task, Result] | None = None
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*modules, __name__])

    def __enter__(self) -> Self:
        """Return the workers themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every process."""
        self.close()

    def close(self) -> None:
        """End every process, whatever it does, and the run that they are in.

        In a process that was forked from the one that made them, nothing: they are not its own.
        """
        if os.getpid() != self._pid:
            return
        if self._running is not None:
            self._running.end()
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that are alive."""
        return [worker.pid for worker in self._workers]

    def run(
        self,
        tasks: Iterable[Task],
        *,
        ahead: int,
        instead: Callable[[Task, Failure], Task | None] = lambda task, failure: None,
    ) -> Iterator[Result | Failure]:
        """Give the result of each task in the order of the tasks, or why it has none.

        At most ``ahead`` tasks are handed out or done beyond those already given. ``tasks`` is read
        by another thread. ``instead`` names a task that takes the place of a failed one. A run that
        is still going on ends with the next.

        Raises:
            WorkerError: if ``function`` raises something else than ``VideoError``, or the run was
                ended by another or by :meth:`close`.
        """
        if self._running is not None:
            self._running.end()
        _allow_many_files()
        if not self._workers:
            with _signals_held_back():
                forkserver.ensure_running()
                self._workers = [self._spawn(self._context) for _ in range(self._count)]
        self._running = run = _Run(self, iter(tasks), max(ahead, 1), instead)
        try:
            while (item := run.take()) is not _END:
                yield item
        finally:
            run.end()

    def replace(self, worker: "_Worker") -> "_Worker":
        """Kill a worker, and return the one that takes its place."""
        worker.kill()
        with _signals_held_back():
            forkserver.ensure_running()
            fresh = self._spawn(self._context)
        fresh.failed_starts = worker.failed_starts + 1 if not worker.ready else 0
        self._workers[self._workers.index(worker)] = fresh
        return fresh

    def each(self) -> list["_Worker"]:
        """Return the workers."""
        return list(self._workers)


def preload(modules: Iterable[str]) -> None:
    """Have modules imported in the process that all workers part from, beside what goes on here.

    It starts once: a program that will need several kinds of workers names the modules of all of
    them first.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([*modules, __name__])
    _allow_many_files()
    with _signals_held_back():
        forkserver.ensure_running()


def beat() -> None:
    """Say from within a task that it is making progress, so that its deadline starts anew."""
    if _say_alive is not None:
        _say_alive()


_END: Any = object()
_say_alive: Callable[[], None] | None = None  # set once, in a worker


@dataclass
class _Ticket(Generic[Task]):
    """A task with its place in the order."""

    place: int
    task: Task


class _Run(Generic[Task, Result]):
    """One pass through some tasks, watched over by a thread of its own."""

    def __init__(
        self,
        workers: Workers[Task, Result],
        tasks: Iterator[Task],
        ahead: int,
        instead: Callable[[Task, Failure], Task | None],
    ) -> None:
        self.workers, self.tasks, self.ahead, self.instead = workers, tasks, ahead, instead
        self.waiting: deque[_Ticket[Task]] = deque()  # to be handed out before new ones
        self.issued = 0
        self.given = 0
        self.exhausted = False
        self.done: dict[int, Result | Failure] = {}
        self.error: BaseException | None = None
        self.ended = False
        self.changed = threading.Condition()
        self.wake_r, self.wake_w = os.pipe()
        os.set_blocking(self.wake_w, False)
        self.thread = threading.Thread(target=self.watch, name="vidssl workers", daemon=True)
        self.thread.start()

    def take(self) -> Result | Failure:
        """Return the next result in order, or the end."""
        with self.changed:
            while True:
                if self.given in self.done:
                    item = self.done.pop(self.given)
                    self.given += 1
                    break
                if self.error is not None:
                    raise self.error
                if self.ended:
                    raise WorkerError("the workers were given something else to do, or closed")
                if self.exhausted and self.given == self.issued:
                    return _END  # type: ignore[no-any-return]
                self.changed.wait()
        self._wake()
        return item

    def end(self) -> None:
        """Stop watching and release what the two threads woke each other with; once is enough."""
        if self.ended:
            return
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        if self.thread is not threading.current_thread():  # where a generator may be collected
            with contextlib.suppress(BlockingIOError):
                os.write(self.wake_w, b".")
            self.thread.join()
        os.close(self.wake_r)
        os.close(self.wake_w)

    def _wake(self) -> None:
        with self.changed:
            if not self.ended:
                with contextlib.suppress(BlockingIOError):  # full: it will wake all the same
                    os.write(self.wake_w, b".")

    def watch(self) -> None:
        """Hand out tasks, collect results and replace workers, until all is done or stopped."""
        try:
            while not self.ended and not self._finished():
                self._hand_out()
                self._listen()
                self._end_the_late()
        except BaseException as error:
            self._tell(error=error)
        finally:
            # What a worker still does belongs to this run: the next one needs a free worker.
            for worker in self.workers.each():
                if worker.tickets:
                    self.workers.replace(worker)

    def _finished(self) -> bool:
        with self.changed:
            return self.exhausted and self.given == self.issued

    def _hand_out(self) -> None:
        for depth in range(DEPTH):  # the idle ones first
            for worker in self.workers.each():
                if not worker.ready or len(worker.tickets) > depth:
                    continue
                ticket = self._next()
                if ticket is None:
                    return
                if not worker.hand(ticket):
                    self.waiting.appendleft(ticket)

    def _next(self) -> _Ticket[Task] | None:
        if self.waiting:
            return self.waiting.popleft()
        if self.exhausted or self.issued - self.given >= self.ahead:
            return None
        try:
            ticket = _Ticket(self.issued, next(self.tasks))
        except StopIteration:
            self._tell(exhausted=True)
            return None
        self.issued += 1
        return ticket

    def _listen(self) -> None:
        workers = {worker.pipe: worker for worker in self.workers.each()}
        now = time.monotonic()
        soonest = min(worker.due(self.workers.limits.deadline_s) for worker in workers.values())
        wait_s = min(max(0.0, soonest - now), 60.0)
        for ready in connection.wait([*workers, self.wake_r], wait_s):
            if ready == self.wake_r:
                os.read(self.wake_r, 4096)
            else:
                self._hear(workers[ready])  # type: ignore[index]

    def _hear(self, worker: "_Worker") -> None:
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker, "crashed", worker.last_words())
            return
        kind, content = worker.understand(message)
        worker.since = time.monotonic()
        if kind == "ready":
            worker.ready = True
        elif kind == "bug":
            raise WorkerError(content)
        elif kind == "failure":
            self._fail(worker.tickets.popleft(), content)
        elif kind == "result":
            self._tell(worker.tickets.popleft(), content)

    def _end_the_late(self) -> None:
        limit_s = self.workers.limits.deadline_s
        for worker in self.workers.each():
            if time.monotonic() < worker.due(limit_s):
                continue
            if worker.pipe.poll():  # it has spoken in the meantime
                continue
            if worker.ready:
                self._bury(worker, "timeout", f"gave no answer within {limit_s:g} s")
            else:
                self._bury(worker, "crashed", f"did not start within {START_S:g} s")

    def _bury(self, worker: "_Worker", reason: str, words: str) -> None:
        tickets = worker.tickets
        fresh = self.workers.replace(worker)
        if fresh.failed_starts >= STARTS:
            raise WorkerError(f"{STARTS} processes in a row {words} before they could begin")
        if tickets:
            first = tickets.popleft()
            self.waiting.extendleft(reversed(tickets))
            self._fail(first, Failure(reason, f"the process that read it {words}"))

    def _fail(self, ticket: _Ticket[Task], failure: Failure) -> None:
        other = self.instead(ticket.task, failure)
        if other is None:
            self._tell(ticket, failure)
        else:
            self.waiting.appendleft(_Ticket(ticket.place, other))

    def _tell(
        self,
        ticket: _Ticket[Task] | None = None,
        result: Any = None,
        *,
        error: BaseException | None = None,
        exhausted: bool = False,
    ) -> None:
        with self.changed:
            if ticket is not None:
                self.done[ticket.place] = result
            self.error = error or self.error
            self.exhausted = exhausted or self.exhausted
            self.changed.notify_all()


@dataclass
class _Worker:
    """One process and what it has been handed."""

    function: Callable[[Any], Any]
    start: Callable[[], None] | None
    limits: Limits
    context: multiprocessing.context.ForkServerContext
    tickets: deque[_Ticket[Any]] = field(default_factory=deque)
    ready: bool = False
    since: float = field(default_factory=time.monotonic)
    """When it last began something or gave a sign of life."""
    failed_starts: int = 0
    blocks: dict[int, mmap.mmap] = field(default_factory=dict)
    returned: deque[int] = field(default_factory=deque)
    """Blocks whose results are gone, for the process to fill again."""

    def __post_init__(self) -> None:
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(
            target=_work,
            args=(theirs, self.function, self.start, self.limits.memory_gb),
            daemon=True,
        )
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def hand(self, ticket: _Ticket[Any]) -> bool:
        """Give the process a task; not a large one while it works: it would not take it in."""
        task = pickle.dumps(ticket.task)
        if self.tickets and len(task) > SMALL_TASK:
            return False
        if not self.tickets:
            self.since = time.monotonic()
        self.tickets.append(ticket)
        returned = [self.returned.popleft() for _ in range(len(self.returned))]
        with contextlib.suppress(OSError):  # it is dead: its end of the pipe tells so next
            self.pipe.send_bytes(pickle.dumps((returned, task)))
        return True

    def due(self, deadline_s: float) -> float:
        if not self.ready:
            return self.since + START_S
        return self.since + deadline_s if self.tickets else float("inf")

    def understand(self, message: bytes) -> tuple[str, Any]:
        kind, place, content = pickle.loads(message)
        if place is None:
            return kind, pickle.loads(content)
        if place.size:
            descriptor = reduction.recv_handle(self.pipe)
            try:
                self.blocks[place.block] = mmap.mmap(descriptor, place.size)
            finally:
                os.close(descriptor)
        for block in place.dropped:
            del self.blocks[block]
        # Whatever is made of the block keeps this array, which gives it back when it goes.
        lease = np.frombuffer(self.blocks[place.block], np.uint8)
        weakref.finalize(lease, self.returned.append, place.block).atexit = False
        return kind, pickle.loads(content, buffers=[lease.data[a:b] for a, b in place.edges])

    def last_words(self) -> str:
        self.process.join(5.0)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
            return f"was ended by {name}"
        return f"ended with status {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()
        self.blocks.clear()


# --- in the worker


def _work(
    pipe: "connection.Connection[Any, Any]",
    function: Callable[[Any], Any],
    start: Callable[[], None] | None,
    memory_gb: float | None,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _allow_many_files()
    _let_say_alive(pipe)
    if start is not None:
        start()
    _limit_memory(memory_gb)
    blocks = _Blocks()
    _send(pipe, "ready", None)
    while True:
        try:
            returned, task = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        blocks.take_back(returned)
        try:
            answer = _packed("result", function(pickle.loads(task)), blocks)
        except VideoError as error:
            _send(pipe, "failure", Failure(error.reason, str(error)))
        except MemoryError:
            words = f"it needs more than the {memory_gb:g} GiB that a worker may have"
            _send(pipe, "failure", Failure("memory", words))
        except Exception:  # told in the parent, where it is raised again
            _send(pipe, "bug", traceback.format_exc())
        else:
            answer.send(pipe)


def _let_say_alive(pipe: "connection.Connection[Any, Any]") -> None:
    global _say_alive
    last = 0.0

    def say() -> None:
        nonlocal last
        if time.monotonic() - last > BEAT_S:
            last = time.monotonic()
            _send(pipe, "beat", None)

    _say_alive = say


class _Blocks:
    """Shared memory that this process fills and its parent gives back: fresh pages are slow."""

    def __init__(self) -> None:
        self._all: dict[int, mmap.mmap] = {}
        self._free: list[int] = []
        self._made = 0

    def take_back(self, blocks: Iterable[int]) -> None:
        """Note that the parent holds these no longer."""
        self._free.extend(blocks)

    def take(self, size: int) -> tuple[int, mmap.mmap, int | None, list[int]]:
        """Return a block of at least ``size``, its descriptor if it is new, and those dropped."""
        fitting = [block for block in self._free if len(self._all[block]) >= size]
        if fitting:
            chosen = fitting[0]
            self._free.remove(chosen)
            return chosen, self._all[chosen], None, self._drop(self._free[KEPT_BLOCKS:])
        dropped = self._drop(self._free)
        self._made += 1
        descriptor = _shared_memory(size)
        self._all[self._made] = mmap.mmap(descriptor, size)
        return self._made, self._all[self._made], descriptor, dropped

    def _drop(self, blocks: list[int]) -> list[int]:
        self._free = [block for block in self._free if block not in blocks]
        for block in blocks:
            self._all.pop(block).close()
        return blocks


@dataclass(frozen=True)
class _Place:
    """Where in shared memory the arrays of a result lie; ``size`` is that of a new block."""

    block: int
    edges: list[tuple[int, int]]
    size: int = 0
    dropped: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Answer:
    """A message that is ready to go, with the descriptor of a new block if there is one."""

    message: bytes
    descriptor: int | None = None

    def send(self, pipe: "connection.Connection[Any, Any]") -> None:
        pipe.send_bytes(self.message)
        if self.descriptor is not None:
            reduction.send_handle(pipe, self.descriptor, os.getppid())
            os.close(self.descriptor)


def _send(pipe: "connection.Connection[Any, Any]", kind: str, content: Any) -> None:
    _packed(kind, content).send(pipe)


def _packed(kind: str, content: Any, blocks: _Blocks | None = None) -> _Answer:
    """Return a message; with ``blocks``, arrays in it lie in memory that the parent maps."""
    buffers: list[pickle.PickleBuffer] = []
    collect = buffers.append if blocks is not None else None
    packed = pickle.dumps(content, protocol=5, buffer_callback=collect)
    raws = [buffer.raw() for buffer in buffers]
    if blocks is None or not raws:
        return _Answer(pickle.dumps((kind, None, packed)))
    edges: list[tuple[int, int]] = []
    end = 0
    for raw in raws:
        start = -(-end // ALIGNED) * ALIGNED
        end = start + raw.nbytes
        edges.append((start, end))
    block, shared, descriptor, dropped = blocks.take(max(end, 1))
    for raw, (start, stop) in zip(raws, edges, strict=True):
        shared[start:stop] = raw
    size = len(shared) if descriptor is not None else 0
    return _Answer(pickle.dumps((kind, _Place(block, edges, size, dropped), packed)), descriptor)


def _shared_memory(size: int) -> int:
    """Return a descriptor of memory without a name: it is gone with the last who maps it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vidssl", os.MFD_CLOEXEC)
    else:
        descriptor, name = tempfile.mkstemp(prefix="vidssl-")
        os.unlink(name)
    os.ftruncate(descriptor, size)
    return descriptor


def _allow_many_files() -> None:
    """Raise the limit of open files: each block of shared memory is one, here and there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _limit_memory(memory_gb: float | None) -> None:
    """Let the process take this much beyond what it has; a decoder is then refused more."""
    status = Path("/proc/self/status")
    if memory_gb is None or not status.exists():
        return
    (used,) = (line for line in status.read_text().splitlines() if line.startswith("VmData:"))
    limit = int(used.split()[1]) * 1024 + int(memory_gb * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _end_with_parent() -> None:
    """End at once when the parent does, even in the middle of a decoder that never returns."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold signals to stop back here, and in the processes that are started meanwhile.

    Ctrl-C, SIGTERM, and SIGUSR1, which a batch system sends to all processes of a job at once.
    What is started does not look for modules in the working folder, which may be a data set's.
    """
    path = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    resource_tracker.ensure_running()  # its start would let the signals through again
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if path is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = path
