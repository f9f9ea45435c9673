"""Who holds the others up: every process tells its step, and looks round when it stands still.

A process of several waits for the others in every step. If one of them dies, is stopped or hangs,
the others would wait for hours without a word. So each has two threads: one tells its step, where
it stands and that it is alive, over a connection of its own to the store at which the processes
met; the other looks at the clock. When the own step has not moved for long, it says which process
is behind and ends this one, even where the main thread hangs in a collective.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import FrameType

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from vidssl.errors import RankLostError
from vidssl.nn.distributed import rank, world_size
from vidssl.nn.meeting import seconds_of

PATIENCE_S = 600.0
"""How long a step may take, with all that stands between two of them and is not ``paused``."""
VARIABLE = "VIDSSL_RANK_TIMEOUT_S"
LOST = 1
"""The exit code of a process that ends because of another."""
BEAT_S, SILENT_S = 2.0, 20.0
"""Seconds between two signs of life, and those without one after which a process is gone."""
ERROR_GRACE_S = 5.0
"""How long a process goes on after another has ended with an error: it may have the same one."""
OTHERS_WAIT_S = 2.0
REPORT_S = 5.0
STORE_S = 10.0
LOOK_S = 0.1

WAITING = ("torch/distributed/", "torch/nn/parallel/distributed.py", "vidssl/nn/distributed.py")
"""Where a process stands that waits for others; of these the backward pass is the other."""


@dataclass(frozen=True)
class Beat:
    """What one process tells; ``count`` rises as long as it is alive."""

    rank: int
    step: int
    count: int
    host: str
    pid: int
    at: str = ""
    waits: bool = False
    paused: str = ""
    left: str = ""
    done: bool = False


class Watch:
    """Where this process stands in its training."""

    def __init__(self) -> None:
        """Stand at step 0."""
        self.step = 0
        self.moved = time.monotonic()
        self._paused: list[str] = []

    def beat(self, step: int) -> None:
        """Tell that this step is reached; costs the loop nothing."""
        self.step = step
        self.moved = time.monotonic()

    @contextmanager
    def paused(self, why: str) -> Iterator[None]:
        """Let this process take as long as it takes for the block, and the others wait for it."""
        self._paused.append(why)
        try:
            yield
        finally:
            self.moved = time.monotonic()
            self._paused.pop()

    @property
    def pause(self) -> str:
        """Why this process takes its time; empty if it does not."""
        return self._paused[-1] if self._paused else ""

    def stands_s(self) -> float:
        """Return for how long this process has stood still, 0 if it may."""
        return 0.0 if self._paused else time.monotonic() - self.moved


@contextmanager
def watching(
    report: Callable[[str], None], stopped: Callable[[], object] = lambda: False
) -> Iterator[Watch]:
    """Watch over the processes while the block runs; in a process alone, do nothing.

    ``report`` is given the message before this process ends because of another. ``stopped`` tells
    whether this one was asked to stop: a launcher does that to the others when one is gone.

    Raises:
        RankLostError: in place of a collective's error, if another process is gone.
        LaunchError: if the environment's time-out is no time.
    """
    watch, patience_s = Watch(), patience()
    if world_size() == 1 or "MASTER_ADDR" not in os.environ:
        yield watch
        return
    guard = _Guard(watch, patience_s, report)
    try:
        yield watch
    except RuntimeError as error:
        guard.leave(f"{type(error).__name__}: {error}")
        if _is_of_collective(error) and (words := guard.wait_for_verdict(stopped)):
            report(words)
            raise RankLostError(words) from error
        raise
    except Exception as error:
        guard.leave(f"{type(error).__name__}: {error}")
        raise
    finally:
        guard.end()


def patience() -> float:
    """Return the seconds that a step may take.

    Raises:
        LaunchError: if the environment's are none.
    """
    return seconds_of(VARIABLE, PATIENCE_S)


class _Guard:
    """The two threads, and what they know of the others."""

    def __init__(self, watch: Watch, patience_s: float, report: Callable[[str], None]) -> None:
        self.watch, self.patience_s, self.report = watch, patience_s, report
        self.rank, self.count = rank(), world_size()
        self.beat_s = min(BEAT_S, patience_s / 20)
        self.silent_s = min(SILENT_S, patience_s / 4)
        self.told = 0
        self.left, self.looking = "", False
        self.beats: dict[int, Beat] = {}
        self.changed: dict[int, float] = {}
        self.answered = time.monotonic()  # when the store last did
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self._talk = threading.Thread(target=self._tell_and_ask, daemon=True)
        self._talk.start()
        threading.Thread(target=self._judge, daemon=True).start()

    def leave(self, why: str) -> None:
        """Let the others know that this process ends with an error."""
        self.left, self.looking = why.partition("\n")[0][:300], True

    def end(self) -> None:
        """Stop watching; what is left to tell is told first, if the store takes it."""
        self._ended.set()
        # Python must not end while the store is asked, which would abort the process.
        self._talk.join(3 * STORE_S)

    def wait_for_verdict(self, stopped: Callable[[], object]) -> str:
        """Return who is gone, as soon as that is known; empty if all others are there.

        Where this process is asked to stop meanwhile, somebody else knows.
        """
        until = time.monotonic() + self.silent_s + 4 * self.beat_s + ERROR_GRACE_S
        while time.monotonic() < until:
            if gone := self._gone() or self._finished():
                return self._words(gone)
            if stopped():
                lost = "lost another process in it, and was asked to stop"
                return f"rank {self.rank} got no further than step {self.watch.step}: {lost}"
            time.sleep(min(self.beat_s, LOOK_S))
        return ""

    # --- the thread that tells and asks

    def _tell_and_ask(self) -> None:
        number, told_last = 0, False
        while not told_last:
            try:
                store = _connection()
                # Trainings of one process, one after the other, do not read each other's beats.
                number = number or store.add(f"watches of {self.rank}", 1)
                told_last = self._talk_to(PrefixStore(str(number), store))
            except (OSError, RuntimeError):  # gone or too slow: its silence is what counts
                if self._ended.wait(self.beat_s):
                    return

    def _talk_to(self, store: Store) -> bool:
        """Tell and ask until the last word is told."""
        last = False
        while True:
            self.told += 1
            store.set(str(self.rank), json.dumps(asdict(self._own(self.told, done=last))))
            if last:
                return True
            if len(self.beats) < self.count:  # once, to know who they are
                self._ask(store)
            if self.looking or self.watch.stands_s() > self.patience_s / 4:
                self._ask(store)
            else:
                self.changed.clear()  # silence counts from when one listens
            self.answered = time.monotonic()
            last = self._ended.wait(self.beat_s)

    def _own(self, count: int, *, done: bool) -> Beat:
        at, waits = _place(sys._current_frames().get(self._main))
        return Beat(
            *(self.rank, self.watch.step, count, socket.gethostname(), os.getpid()),
            at=at,
            waits=waits,
            paused=self.watch.pause,
            left=self.left,
            done=done and not self.left,
        )

    def _ask(self, store: Store) -> None:
        now = time.monotonic()
        for other in range(self.count):
            known = self.beats.get(other)
            beat = None
            if store.check([str(other)]):
                beat = Beat(**json.loads(store.get(str(other))))
                self.beats[other] = beat
            if other not in self.changed or beat != known:
                self.changed[other] = now

    # --- the thread that looks at the clock

    def _judge(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(self.beat_s):
            slept_s, looked = time.monotonic() - looked, time.monotonic()
            if slept_s > self.beat_s + self.silent_s:  # this process was itself stopped meanwhile
                self.watch.moved = self.answered = looked
                self.changed.clear()
            stands_s = self.watch.stands_s()
            if self.left or stands_s < min(self.patience_s, ERROR_GRACE_S):
                continue
            erred = [beat for beat in list(self.beats.values()) if beat.left]
            if stands_s > self.patience_s and not self._waits_for_pause():
                self._end_process(self._gone() or self._behind())
            elif erred and stands_s > self.patience_s / 4:
                self._end_process(erred)

    def _waits_for_pause(self) -> bool:
        """Whether another process is alive and takes its time for a reason."""
        gone = {beat.rank for beat in self._gone()}
        return any(beat.paused and beat.rank not in gone for beat in list(self.beats.values()))

    def _gone(self) -> list[Beat]:
        """Return the processes that have ended with an error, or give no sign of life."""
        now = time.monotonic()
        if self.rank != 0 and now - self.answered > self.silent_s:  # rank 0 has the store
            return [self.beats.get(0, Beat(0, self.watch.step, 0, _server(), 0))]
        changed, beats_now = self.changed.copy(), self.beats.copy()  # the other thread goes on
        others = [other for other in changed if other != self.rank]
        silent = {other for other in others if now - changed[other] > self.silent_s}
        beats = [beats_now.get(other, Beat(other, 0, 0, "?", 0)) for other in others]
        return [beat for beat in beats if beat.left or (beat.rank in silent and not beat.done)]

    def _behind(self) -> list[Beat]:
        """Return the processes at the lowest step, of them rather those that wait for nobody."""
        there = [beat for beat in list(self.beats.values()) if not beat.done]
        lowest = [beat for beat in there if beat.step == min(b.step for b in there)]
        return [beat for beat in lowest if not beat.waits] or self._finished() or lowest

    def _finished(self) -> list[Beat]:
        """Return the processes that have ended without an error, which others may wait for."""
        return [beat for beat in list(self.beats.values()) if beat.done]

    def _words(self, blamed: Sequence[Beat]) -> str:
        stands = f"rank {self.rank} stands still at step {self.watch.step}"
        found = "; ".join(self._word(beat) for beat in blamed)
        return f"{stands}: {found}" if found else f"{stands}, and knows nothing of the others"

    def _word(self, beat: Beat) -> str:
        process = f", process {beat.pid}" if beat.pid else ""
        who = f"rank {beat.rank} (host {beat.host}{process}) "
        if beat.left:
            return f"{who}ended at step {beat.step} with {beat.left}"
        if beat.done:
            return f"{who}ended at step {beat.step} already"
        if beat.rank != self.rank and beat in self._gone():
            silent = "is dead, stopped or cut off: it gave its last sign of life"
            return f"{who}{silent} at step {beat.step}"
        waits = "all wait for one another, it" if beat.waits else "it"
        return f"{who}does not get on: {waits} stands at step {beat.step} in {beat.at}"

    def _end_process(self, blamed: Sequence[Beat]) -> None:
        words = self._words(blamed)
        speakers = set(range(self.count)) - {beat.rank for beat in blamed}
        if speakers and self.rank != min(speakers):
            time.sleep(OTHERS_WAIT_S)  # one message is enough, where a launcher ends them all
        aside = threading.Thread(target=self.report, args=(words,), daemon=True)
        aside.start()
        aside.join(REPORT_S)  # a disk that hangs may be the reason for all this
        advice = f"the same command goes on from the last checkpoint ({VARIABLE}: "
        told = f"error: {words}; {advice}{self.patience_s:g})\n"
        with suppress(OSError):
            os.write(2, told.encode(errors="replace"))
        os._exit(LOST)


def _connection() -> Store:
    """Return a connection to the store of the process group, for nobody but this watch.

    Raises:
        OSError: if nobody listens there.
        RuntimeError: if the store does not answer.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # A client of the store tries a dead one again for all of its time, out of Python's reach.
    socket.create_connection((host, port), timeout=STORE_S).close()
    store = TCPStore(
        host,
        port,
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=STORE_S),
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"vidssl/watch/{attempt}", store)


def _server() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """Return where a thread stands, and whether it waits for other processes there."""
    if frame is None:
        return "?", False
    at = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
    waits = False
    caller: FrameType | None = frame
    while caller is not None:
        path = caller.f_code.co_filename.replace(os.sep, "/")
        waits |= any(part in path for part in WAITING) or "torch/autograd/" in path
        caller = caller.f_back
    return at, waits


def _is_of_collective(error: RuntimeError) -> bool:
    """Whether it says that another process does not answer; gloo has no class for that."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "connection closed" in text
