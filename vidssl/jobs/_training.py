"""What every training has in common: its length, its batches, and what failed on the way."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from vidssl.data.loader import Cost, Loader, LoaderConfig
from vidssl.data.order import StepBatches
from vidssl.data.samples import Failed, Samples
from vidssl.errors import CheckpointError, RecipeError
from vidssl.nn.distributed import rank, world_size
from vidssl.recipe import Detection, Pretrain
from vidssl.train import checkpoint
from vidssl.train.folder import RunFolder
from vidssl.train.loop import Plan, Trainer, device_of
from vidssl.video.storage import shown


@dataclass(frozen=True)
class Seen:
    """How many samples weights were trained on, so that trainings can be compared by their cost.

    A sample is a video's clip (all its views together) or a key frame; repeats count.
    ``samples_seen`` is the run's own, ``samples_seen_before`` what the weights that it began from
    had seen in all: 0 for fresh ones, None where their card does not say.
    """

    samples_seen: int
    samples_seen_before: int | None

    @property
    def in_all(self) -> int | None:
        """The sum of both, or None where one is not known."""
        if self.samples_seen_before is None:
            return None
        return self.samples_seen + self.samples_seen_before


def seen_by(card: Mapping[str, Any]) -> int | None:
    """Return how many samples the weights of a card have seen in all; None if it does not say."""
    trained_by = card.get("trained_by")
    if not isinstance(trained_by, Mapping):
        return None
    counts = [trained_by.get(name) for name in ("samples_seen", "samples_seen_before")]
    known = [count for count in counts if type(count) is int and count >= 0]
    return sum(known) if len(known) == len(counts) else None


class Failing(Protocol):
    """A sample that tells of the videos that failed before it: pairs of path and error."""

    @property
    def failed(self) -> Failed:
        """What failed."""


Sample = TypeVar("Sample", bound=Failing)
Batches = Callable[[int, int], Iterable[list[Sample]]]


def trainer(module: nn.Module, plan: Pretrain | Detection, samples: int, data: str = "") -> Trainer:
    """Return the training of ``module`` on ``samples`` samples at step 0; ``data`` hashes them.

    Raises:
        RecipeError: if the processes cannot share a batch equally.
    """
    if plan.optim.batch % world_size():
        raise RecipeError(
            f"optim.batch: {plan.optim.batch} cannot be shared by {world_size()} processes"
        )
    steps = plan.optim.total_steps(samples)
    length = Plan(
        plan.optim, steps, plan.seed, plan.log_every, plan.save_every, plan.precision, data
    )
    return Trainer(module, length, device_of(plan.device))


def batches(
    dataset: Samples[Any, Sample], batch: int, config: LoaderConfig, cost: Cost | None = None
) -> Batches[Sample]:
    """Return what gives this process's share of the batches of some steps."""

    def between(first: int, last: int) -> Iterable[list[Sample]]:
        shares = StepBatches(batch, first, last, rank(), world_size())
        return Loader(dataset, shares, config, cost)

    return between


def require_checkpoint(out: Path) -> None:
    """Refuse to resume what was never begun.

    Raises:
        CheckpointError: if there is no checkpoint.
    """
    if not checkpoint.checkpoints(out / "checkpoints"):
        raise CheckpointError(f"{out}: holds no checkpoint to go on from; leave out --resume")


def noting_failures(folder: RunFolder) -> Callable[[Sequence[Failing]], None]:
    """Return what records each video that failed while training, once."""
    told: set[str] = set()

    def note(samples: Sequence[Failing]) -> None:
        for path, error in (failure for sample in samples for failure in sample.failed):
            if path not in told:
                told.add(path)
                folder.event("video set aside", path=shown(path), error=error)

    return note
