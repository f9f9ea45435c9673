"""Going back to a good state where loss, gradients or weights are no numbers any more.

A copy of the whole state lies in each process's memory, never older than a set number of steps and
never with a weight that is not finite. All processes go back to it in the same step, leave out the
steps since, which are written down with their clips, and go on with the next batch of the order.

What is left out depends on when the last copy was made: at multiples of that number of steps, at
checkpoints and where a run goes on. So a run that was stopped in between may leave out fewer steps
than one that never stopped.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from vidssl.errors import OutputError
from vidssl.files import write_text
from vidssl.nn.distributed import rank
from vidssl.train.folder import RunFolder
from vidssl.train.trainer import NotFiniteError, Trainer

Identify = Callable[[Any], list[dict[str, Any]]]
"""What names the clips of a raw batch."""


class Rollback:
    """The copy of one training's state, and what happened since it was made."""

    def __init__(self, trainer: Trainer, folder: RunFolder, identify: Identify) -> None:
        """Make the first copy."""
        self.trainer, self.folder, self.identify = trainer, folder, identify
        self.keep()

    def keep(self) -> None:
        """Make a copy of the state as it is now.

        Raises:
            NotFiniteError: if a weight of it is not finite; the copy before stays.
        """
        self.trainer.require_finite_weights()
        self._copy()

    def _copy(self) -> None:
        # Never changed once it is made: a thread may be writing it.
        self.state: dict[str, Any] = on_cpu(self.trainer.state())
        self.since: list[tuple[int, Any]] = []

    def note(self, raw: Any) -> None:
        """Remember the clips of the batch that the coming step is for."""
        self.since.append((self.trainer.step, self.identify(raw)))

    @property
    def is_due(self) -> bool:
        """Whether a copy is to be made now: the one there is old, or the training at its end."""
        plan, step = self.trainer.plan, self.trainer.step
        return step % plan.snapshot_every == 0 or step == plan.steps

    def go_back(self, fault: NotFiniteError) -> None:
        """Undo all steps since the copy; the next step is the one after those.

        Raises:
            NotFiniteError: the fault itself, if there were too many with too little between.
        """
        trainer, plan = self.trainer, self.trainer.plan
        first, last = self.state["step"], self.since[-1][0]
        in_a_row = self._in_a_row(first)
        if in_a_row > plan.rollbacks:
            again = f", {in_a_row} times in short order" if plan.rollbacks else ""
            raise NotFiniteError(f"{fault}{again}; the last checkpoint is older") from fault
        name = f"rolled-back/step-{last:09d}-rank-{rank()}.json"
        told = {"reason": str(fault), "first": first, "last": last}
        clips = [{"step": step, "clips": found} for step, found in self.since]
        self._make_folder((self.folder.path / name).parent)
        write_text(self.folder.path / name, json.dumps({**told, "steps": clips}, indent=1) + "\n")
        if rank() == 0:
            self.folder.event("rolled back", **told, clips=name)
        trainer.restore(self.state)
        trainer.skip(first, last)
        self._copy()

    def _in_a_row(self, first: int) -> int:
        """Return how many stretches were undone in short order, with the one from ``first`` on.

        The state tells: a run that is started again counts on.
        """
        count, begin = 1, first
        for undone_from, undone_to in reversed(self.trainer.skipped):
            if begin - undone_to > self.trainer.plan.save_every:
                break
            count, begin = count + 1, undone_from
        return count

    @staticmethod
    def _make_folder(path: Path) -> None:
        try:
            path.mkdir(exist_ok=True)  # a run's folder that has vanished is not made anew
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def on_cpu(value: Any) -> Any:
    """Return nested containers with a copy of every tensor in the CPU's memory."""
    if isinstance(value, Tensor):
        return value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, dict):
        return type(value)((key, on_cpu(part)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(on_cpu(part) for part in value)
    return value
