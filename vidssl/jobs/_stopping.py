"""Ctrl-C and SIGTERM: when they take effect, and in which of the processes."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Piece = TypeVar("Piece")


def stoppable(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Give ``pieces``; Ctrl-C ends them after the one in hand, a second one at once.

    A worker that is interrupted while it hands a piece over would complain of it.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():  # whoever owns that decides
        yield from pieces
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        for piece in pieces:
            yield piece
            if caught:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_termination() -> None:
    """Leave it to the parent in a worker: a batch system sends the signal to all processes."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM, and what else asks a process to stop, do what Ctrl-C does.

    Libraries in C may make an error of their own of what the signal raises in their midst: after
    one, any error is the end that was asked for.
    """
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # whoever owns that decides
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    except Exception as error:
        if caught:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
