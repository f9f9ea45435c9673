"""Errors that a person can cause: what, where, expected, found, and the nearest right thing.

The command line turns a ``VidsslError`` into one red message and exit code 2. Anything else that
escapes is a bug and stays a traceback.
"""

import difflib
from collections.abc import Iterable, Sequence


class VidsslError(Exception):
    """Wrong input from a person; the message is all that the person sees."""


class RecipeError(VidsslError):
    """A recipe that cannot be read, or whose values do not make sense."""


class SourceError(VidsslError):
    """A path, folder or list that gives no usable videos."""


class VideoError(VidsslError):
    """One video that cannot be decoded.

    ``reason`` is the short name of the kind of failure, as it stands in the index: ``missing``,
    ``empty``, ``unreadable``, ``no_video``, ``no_frames``, ``unsupported`` by the chosen decoder,
    ``too_short`` for the clip.
    """

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        """Keep ``reason`` when the error crosses from a worker process."""
        return (VideoError, (str(self), self.reason))


class AnnotationError(VidsslError):
    """Annotations, boxes, labels or predictions that cannot be used as they are."""


class CheckpointError(VidsslError):
    """A run, checkpoint or encoder that is absent, damaged or does not fit."""


class BankError(VidsslError):
    """A feature bank that is absent, damaged, or made by another encoder."""


class OutputError(VidsslError):
    """An output path that cannot be written without losing something else."""


class ExportError(VidsslError):
    """A model that cannot be exported, or whose exported form does not compute the same."""


class LaunchError(VidsslError):
    """Processes that cannot be started as asked, or that do not find one another."""


class RankLostError(Exception):
    """Another process of this training has died or hangs: nobody's wrong input, and no bug here.

    The same command goes on from the last checkpoint.
    """


class Interrupted(BaseException):
    """The work was asked to stop and left files that the next run continues from.

    Not an ``Exception``, so that no handler for failures swallows it on its way out.
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest choice, or nothing if none is close."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def listed(title: str, problems: Sequence[str], limit: int = 20) -> str:
    """Return ``title``, then an indented line a problem, and a count of those past ``limit``."""
    lines = [f"{title}:", *(f"  {problem}" for problem in problems[:limit])]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(lines)
