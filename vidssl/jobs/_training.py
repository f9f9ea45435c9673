"""What every training has in common: its length, its batches, and what failed on the way."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from vidssl import __version__
from vidssl.backbones import Encoder
from vidssl.data.loader import Cost, Loader, LoaderConfig
from vidssl.data.order import StepBatches
from vidssl.data.samples import Failed, Samples
from vidssl.errors import CheckpointError, Interrupted, RecipeError
from vidssl.jobs._stopping import terminated_like_ctrl_c
from vidssl.nn.distributed import gather_texts, rank, world_size
from vidssl.nn.norms import require_groups
from vidssl.progress import REMARK, Progress
from vidssl.recipe import Detection, Pretrain, Recognition, validate
from vidssl.train import checkpoint, precise
from vidssl.train.folder import RunFolder, Terms
from vidssl.train.optim import OptimConfig
from vidssl.train.prove import Proof, prove
from vidssl.train.trainer import Plan, Trainer, device_of
from vidssl.video.reader import decoder_version
from vidssl.video.storage import shown

HARMLESS = (
    "loader",
    "log_every",
    "save_every",
    "monitor",
    "faults",
    "device",
    "precision",
    "compile",
    "optim.accumulate",
    "optim.precise_bn",
    "backbone.activation_checkpointing",
)
"""Keys of a recipe that may change while a run goes on."""


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


def trainer(
    module: nn.Module, plan: Pretrain | Detection | Recognition, samples: int, data: str = ""
) -> Trainer:
    """Return the training of ``module`` on ``samples`` samples at step 0; ``data`` hashes them.

    Raises:
        RecipeError: if the processes cannot share a batch equally.
    """
    optim = plan.optim
    require_shares(optim, world_size())
    require_groups(module, world_size())
    length = Plan(
        optim,
        steps=optim.total_steps(samples),
        seed=plan.seed,
        log_every=plan.log_every,
        save_every=plan.save_every,
        precision=plan.precision,
        data=data,
        compile=plan.compile,
        snapshot_every=plan.faults.snapshot_every,
        rollbacks=plan.faults.rollbacks,
        card={
            "recipe": plan.model_dump(mode="json"),
            "code": __version__,
            "decoder": decoder_version(plan.decoder),
            "processes": world_size(),
        },
    )
    return Trainer(module, length, device_of(plan.device))


def require_shares(optim: OptimConfig, processes: int) -> None:
    """Refuse a batch that so many processes cannot share equally.

    Raises:
        RecipeError: if they cannot.
    """
    if optim.batch % (processes * optim.accumulate):
        parts = f" in {optim.accumulate} parts each" if optim.accumulate > 1 else ""
        raise RecipeError(
            f"optim.batch: {optim.batch} cannot be shared by {processes} processes{parts}"
        )


def terms(kind: type[Pretrain] | type[Detection] | type[Recognition]) -> Terms:
    """Return on which terms a run of a recipe is gone on with.

    What only decides how fast, how closely watched or how exactly computed a training is may
    change; its order, its data and its optimisation may not.
    """

    def renewed(identity: dict[str, Any]) -> dict[str, Any]:
        """Return the identity with the recipe's new keys at their defaults."""
        recipe = identity.get("recipe")
        if not isinstance(recipe, dict):
            return identity
        with suppress(RecipeError):  # keys that are no more differ, and are told of
            return {**identity, "recipe": validate(kind, recipe, "").model_dump(mode="json")}
        return identity

    return Terms(tuple(f"recipe.{key}" for key in HARMLESS), renewed)


def tell_rate(optim: OptimConfig, folder: RunFolder, progress: Progress) -> None:
    """Say to what the learning rate was scaled, if it was."""
    if optim.lr_batch in {None, optim.batch} or rank() != 0:
        return
    words = (
        f"optim.lr {optim.lr:g} is for a batch of {optim.lr_batch}: with {optim.batch} the rate is "
        f"{optim.peak_lr:g}"
    )
    folder.event("learning rate scaled", words=words)
    progress(words, 0, REMARK)


def take_statistics(
    trained: Trainer,
    encoder: Encoder,
    between: Batches[Sample],
    prepare: Callable[[Sequence[Sample], int], Any],
    views: Callable[[Any], Sequence[Tensor]],
) -> None:
    """Take BatchNorm's statistics anew from the batches after the training's, if it says so.

    Raises:
        Interrupted: if it was asked to stop; the last step's checkpoint is there.
    """
    last, count = trained.plan.steps, trained.plan.optim.precise_bn
    if not count:
        return
    batches = between(last, last + count)
    clips = (views(prepare(raw, last + n)) for n, raw in enumerate(batches))
    try:
        with terminated_like_ctrl_c(), trained.autocast():
            precise.take_statistics(encoder, clips, count)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped after step {last}, before BatchNorm's statistics") from None


def batches(
    dataset: Samples[Any, Sample], batch: int, config: LoaderConfig, cost: Cost | None = None
) -> Batches[Sample]:
    """Return what gives this process's share of the batches of some steps."""

    def between(first: int, last: int) -> Iterable[list[Sample]]:
        shares = StepBatches(batch, first, last, rank(), world_size())
        return Loader(dataset, shares, config, cost)

    return between


def proof_of_resume(
    trained: Trainer,
    between: Batches[Sample],
    prepare: Callable[[Sequence[Sample], int], Any],
    identify: Callable[[Sequence[Sample]], list[dict[str, Any]]],
    out: Path,
    steps: int,
    progress: Progress,
) -> Proof:
    """Do some steps of the run in ``out`` again, and tell of each.

    Raises:
        CheckpointError: if there is no whole checkpoint with steps after it.
    """

    def told(first: int, last: int) -> Iterable[list[Sample]]:
        for step, batch in enumerate(between(first, last), start=first + 1):
            yield batch
            progress(f"steps {first} to {last - 1} once more", step - first, last - first)

    found = prove(trained, told, prepare, identify, out, steps)
    elsewhere = enumerate(found.differences) if rank() else ()
    more = gather_texts({f"{rank()}-{n}": f"rank {rank()}: {words}" for n, words in elsewhere})
    return replace(found, differences=[*found.differences, *more.values()])


def as_indexed(videos: str, out: Path) -> str:
    """Return the index that the run in ``out`` made of its videos, or they if they are an index.

    Raises:
        CheckpointError: if there is neither.
    """
    index = out / "index.parquet"
    if index.is_file():
        return str(index)
    if Path(videos).suffix == ".parquet" and Path(videos).is_file():
        return videos
    raise CheckpointError(f"{index}: no such file: the run's videos are not known any more")


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
