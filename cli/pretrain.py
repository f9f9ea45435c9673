"""``vidssl pretrain``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _common, _slurm


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name, or a YAML file.")],
    videos: Annotated[
        str, typer.Option(help="Folder, video, list, index, or NAME:PATH to train on.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the run.")],
    boxes: Annotated[
        list[Path] | None,
        typer.Option(
            help="Boxes of people, csv, for a method that asks for them; "
            "give it again for further files."
        ),
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
    """Pretrain a video backbone without labels.

    OUT receives encoder.safetensors with its card encoder.json, checkpoints, log.jsonl,
    events.jsonl, the index of the videos, report.html and the resolved recipe. The same command on
    the same folder goes on where it was stopped.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import pretrain as job
    from vidssl.jobs._people import BoxFiles
    from vidssl.recipe import Pretrain, find, load

    with _common.user_errors():
        plan = load(Pretrain, find(Pretrain, recipe), _common.length(overrides, steps))
        files = BoxFiles(tuple(boxes or ()), time_origin)
        request = _slurm.Request(slurm, nodes, partition, time, slurm_options)
        if request.is_due():
            processes = gpus, max_restarts
            _slurm.submit_command(request, processes, plan, out, dry_run=dry_run, json_to=json_to)
            return
        if dry_run:
            found = job.forecast(plan, videos, out, files, processes=gpus)
            _common.write_json(asdict(found), json_to or "-")
            _common.warn(found.warnings)
            return
        if resume_prove is not None:
            _common.start_processes(gpus, plan.device)
            with _common.progress() as progress:
                proof = job.prove(plan, videos, out, resume_prove, boxes=files, progress=progress)
            _common.say_proof(proof, json_to)
            return
        _common.start_processes(gpus, plan.device, max_restarts)
        with _common.progress() as progress:
            result = job.run(
                *(plan, videos, out),
                boxes=files,
                resume=resume,
                autotune=autotune,
                tensorboard=tensorboard,
                progress=progress,
            )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _common.say(
            f"{result.encoder}: {result.steps} steps on {result.videos} videos "
            f"({result.set_aside} set aside), last loss {result.loss:.3f}"
        )
