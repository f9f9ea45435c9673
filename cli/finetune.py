"""``vidssl finetune``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vidssl.progress import Progress

from . import _common, _slurm

if TYPE_CHECKING:
    from vidssl.jobs._forecast import Forecast
    from vidssl.jobs.finetune import DetectionData
    from vidssl.recipe import Detection, Recognition
    from vidssl.train.prove import Proof


def finetune(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name, or a YAML file.")],
    encoder: Annotated[
        str, typer.Option(help="A run, an encoder.safetensors, or `random` for fresh weights.")
    ],
    videos: Annotated[str, typer.Option(help="Folder, list, index, or NAME:PATH of the videos.")],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the run.")],
    annotations: Annotated[
        Path | None, typer.Option(help="Who does what, csv in AVA layout; a detector needs it.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label map (pbtxt or csv); a detector needs it.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Detector boxes to train on beside the true ones, csv.")
    ] = None,
    excluded: Annotated[
        Path | None, typer.Option(help="Key frames to leave out, csv of video and second.")
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Feature bank, for a recipe whose head reads one.")
    ] = None,
    time_origin: _common.TimeOrigin = "auto",
    overrides: _common.Overrides = None,
    steps: _common.Steps = None,
    gpus: _common.Gpus = 1,
    max_restarts: _common.MaxRestarts = 0,
    slurm: _common.Slurm = False,
    nodes: _common.Nodes = 1,
    partition: _common.Partition = None,
    time: _common.TimeLimit = None,
    slurm_options: _common.SlurmOptions = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Insist that there is a run to go on with.")
    ] = False,
    resume_prove: _common.ResumeProve = None,
    autotune: _common.Autotune = False,
    tensorboard: _common.TensorBoard = False,
    dry_run: _common.DryRun = False,
    json_to: _common.JsonTo = None,
) -> None:
    """Train an action detector on annotated key frames, or a classifier on labelled videos.

    The recipe says which. A classifier takes its classes from the videos' source: class folders
    (kinetics:FOLDER), a csv with columns path and label, or a published list.

    OUT receives detector.safetensors or classifier.safetensors, and encoder.safetensors, with their
    cards, checkpoints, logs, report.html and the resolved recipe. The same command on the same
    folder goes on where it was stopped.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs.finetune import DetectionData
    from vidssl.recipe import Detection, Recognition, find_any, load_any

    kinds = (Detection, Recognition)
    with _common.user_errors():
        plan = load_any(kinds, find_any(kinds, recipe), _common.length(overrides, steps))
        given = {"--annotations": annotations, "--labels": labels, "--boxes": boxes}
        given |= {"--excluded": excluded}
        task: _Detection | _Recognition
        if isinstance(plan, Recognition):
            counted = {"--time-origin": None if time_origin == "auto" else time_origin}
            _refuse(recipe, {**given, **counted})
            task = _Recognition(plan, encoder, videos, out, bank)
        else:
            assert isinstance(plan, Detection)
            if annotations is None or labels is None:
                _missing(recipe, given)
            data = DetectionData(videos, annotations, labels, boxes, excluded, bank, time_origin)
            task = _Detection(plan, encoder, data, out)
        request = _slurm.Request(slurm, nodes, partition, time, slurm_options)
        if request.is_due():
            processes = gpus, max_restarts
            _slurm.submit_command(request, processes, plan, out, dry_run=dry_run, json_to=json_to)
            return
        if dry_run:
            found = task.forecast(gpus)
            _common.write_json(asdict(found), json_to or "-")
            _common.warn(found.warnings)
            return
        if resume_prove is not None:
            _common.start_processes(gpus, plan.device)
            with _common.progress() as progress:
                proof = task.prove(resume_prove, progress)
            _common.say_proof(proof, json_to)
            return
        _common.start_processes(gpus, plan.device, max_restarts)
        with _common.progress() as progress:
            task.run(_Manner(resume, autotune, tensorboard), progress, json_to)


@dataclass(frozen=True)
class _Manner:
    """How a training is to go."""

    resume: bool
    autotune: bool
    tensorboard: bool


@dataclass(frozen=True)
class _Detection:
    """The training of a detector."""

    plan: "Detection"
    encoder: str
    data: "DetectionData"
    out: Path

    def forecast(self, processes: int) -> "Forecast":
        """Return what it will need."""
        from vidssl.jobs import finetune as job

        return job.forecast(self.plan, self.encoder, self.data, self.out, processes=processes)

    def prove(self, steps: int, progress: Progress) -> "Proof":
        """Do steps again."""
        from vidssl.jobs import finetune as job

        return job.prove(self.plan, self.encoder, self.data, self.out, steps, progress=progress)

    def run(self, how: _Manner, progress: Progress, json_to: str | None) -> None:
        """Train, and tell the result."""
        from vidssl.jobs import finetune as job

        result = job.run(
            *(self.plan, self.encoder, self.data, self.out),
            resume=how.resume,
            autotune=how.autotune,
            tensorboard=how.tensorboard,
            progress=progress,
        )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
        if json_to == "-":
            return
        _common.say(
            f"{self.out / 'detector.safetensors'}: {result.steps} steps on {result.people} people "
            f"in {result.keyframes} key frames, last loss {result.loss:.3f}"
        )
        _common.say_origins(result.time_origins)
        for video, reason in result.unusable_videos.items():
            _common.say(f"set aside: {video}: {reason}")


@dataclass(frozen=True)
class _Recognition:
    """The training of a classifier."""

    plan: "Recognition"
    encoder: str
    videos: str
    out: Path
    bank: Path | None

    def forecast(self, processes: int) -> "Forecast":
        """Return what it will need."""
        from vidssl.jobs import recognise as job

        return job.forecast(
            *(self.plan, self.encoder, self.videos, self.out), bank=self.bank, processes=processes
        )

    def prove(self, steps: int, progress: Progress) -> "Proof":
        """Do steps again."""
        from vidssl.jobs import recognise as job

        return job.prove(
            *(self.plan, self.encoder, self.videos, self.out, steps),
            bank=self.bank,
            progress=progress,
        )

    def run(self, how: _Manner, progress: Progress, json_to: str | None) -> None:
        """Train, and tell the result."""
        from vidssl.jobs import recognise as job

        result = job.run(
            *(self.plan, self.encoder, self.videos, self.out),
            bank=self.bank,
            resume=how.resume,
            autotune=how.autotune,
            tensorboard=how.tensorboard,
            progress=progress,
        )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
        if json_to == "-":
            return
        of = "" if result.samples == result.samples_usable else f" of {result.samples_usable:,}"
        _common.say(
            f"{self.out / 'classifier.safetensors'}: {result.steps} steps on {result.samples:,}"
            f"{of} samples of {result.classes} classes, last loss {result.loss:.3f}"
        )
        if result.videos_missing:
            _common.say(f"{result.videos_missing:,} videos of the list are missing")
        for why, count in result.lost_rows.items():
            _common.say(f"not trained on: {count:,} rows: {why}")
        for video, reason in result.unusable_videos.items():
            _common.say(f"set aside: {video}: {reason}")


def _refuse(recipe: str, given: Mapping[str, object]) -> None:
    """Refuse options that a classifier's training does not read.

    Raises:
        RecipeError: with all of them.
    """
    from vidssl.errors import RecipeError

    if idle := [option for option, value in given.items() if value is not None]:
        raise RecipeError(
            f"{', '.join(idle)}: for a detection recipe; {recipe} is a recognition recipe, whose "
            "classes are those of --videos"
        )


def _missing(recipe: str, given: Mapping[str, object]) -> NoReturn:
    """Refuse to train a detector without annotations.

    Raises:
        RecipeError: with what is missing.
    """
    from vidssl.errors import RecipeError

    absent = [option for option in ("--annotations", "--labels") if given[option] is None]
    raise RecipeError(
        f"missing {' and '.join(absent)}: {recipe} is a detection recipe, which is trained on "
        "annotated people"
    )
