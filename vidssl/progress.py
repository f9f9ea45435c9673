"""How long-running work tells of its progress: by calling back, never by printing."""

from typing import Protocol

REMARK = -1


class Progress(Protocol):
    """Called with what is being done, how much of it is done, and how much there is in all.

    ``total`` is 0 where it is not known, and ``REMARK`` where ``what`` is no work but something to
    say once. The same ``what`` comes again with a larger ``done``; a
    new ``what`` starts a new piece of work.
    """

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note."""


def silent(what: str, done: int, total: int) -> None:
    """Take no note."""
