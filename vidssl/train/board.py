"""A run's log and events as TensorBoard reads them, beside the files that are always written.

Every number of a logged step is a scalar of the same name and step; an event is a text under
``events/KIND``. TensorBoard is an extra, and imported only here and only when it is asked for.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidssl.errors import RecipeError

FOLDER = "tensorboard"
FLUSH_S = 15  # at most this much is lost where the process is killed
Event = Mapping[str, Any]


def require_tensorboard() -> None:
    """Refuse to begin what TensorBoard shall show where it is not installed.

    Raises:
        RecipeError: with what to install.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise RecipeError(
            "--tensorboard: TensorBoard is not installed: pip install 'vidssl[tensorboard]'"
        )


class Board:
    """Writes below a run's folder what the folder is told; see ``RunFolder.follow``.

    Files are begun with the first rewind or logged step, so that a refused command leaves none;
    events before that wait. Steps that are logged once more, after a stop, take the place of the
    former ones.
    """

    def __init__(self, run: Path) -> None:
        """Write nothing yet.

        Raises:
            RecipeError: if TensorBoard is not installed.
        """
        require_tensorboard()
        self.folder = run / FOLDER
        self.step = 0
        self._writer: Any = None
        self._waiting: list[Event] = []

    def log(self, entry: Mapping[str, Any]) -> None:
        """Write the numbers of a logged step."""
        self._begin(entry["step"])
        self.step = entry["step"]
        for name, value in entry.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, self.step)

    def event(self, event: Event) -> None:
        """Write an event, at its own step or else that of the last logged one."""
        if self._writer is None:
            self._waiting.append(event)
            return
        step = event.get("step")
        details = {key: value for key, value in event.items() if key not in {"event", "time"}}
        self._writer.add_text(
            f"events/{event['event']}",
            _preformatted(details),
            step if isinstance(step, int) else self.step,
            walltime=event["time"],
        )

    def rewind(self, step: int) -> None:
        """Have TensorBoard forget what was written of ``step`` and later ones."""
        self._end()
        self._begin(step)
        self.step = max(0, step - 1)

    def close(self) -> None:
        """Write what is left."""
        self._end()

    def _begin(self, step: int) -> None:
        if self._writer is not None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=step, flush_secs=FLUSH_S)
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self.event(event)

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _preformatted(details: Mapping[str, Any]) -> str:
    """Return the details as Markdown that shows them as they are."""
    return "\n".join(f"    {line}" for line in json.dumps(details, indent=1).splitlines())
