"""``vidssl finetune``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _common, _slurm


def finetune(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name, or a YAML file.")],
    encoder: Annotated[
        str, typer.Option(help="A run, an encoder.safetensors, or `random` for fresh weights.")
    ],
    videos: Annotated[str, typer.Option(help="Folder, list, index, or NAME:PATH of the videos.")],
    annotations: Annotated[Path, typer.Option(help="Who does what, csv in AVA layout.")],
    labels: Annotated[Path, typer.Option(help="Label map (pbtxt or csv).")],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the run.")],
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
    """Train an action detector on annotated key frames.

    OUT receives detector.safetensors and encoder.safetensors with their cards, checkpoints, logs,
    report.html and the resolved recipe. The same command on the same folder goes on where it was
    stopped.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import finetune as job
    from vidssl.recipe import Detection, find, load

    with _common.user_errors():
        plan = load(Detection, find(Detection, recipe), _common.length(overrides, steps))
        data = job.DetectionData(videos, annotations, labels, boxes, excluded, bank, time_origin)
        request = _slurm.Request(slurm, nodes, partition, time, slurm_options)
        if request.is_due():
            processes = gpus, max_restarts
            _slurm.submit_command(request, processes, plan, out, dry_run=dry_run, json_to=json_to)
            return
        if dry_run:
            found = job.forecast(plan, encoder, data, out, processes=gpus)
            _common.write_json(asdict(found), json_to or "-")
            _common.warn(found.warnings)
            return
        if resume_prove is not None:
            _common.start_processes(gpus, plan.device)
            with _common.progress() as progress:
                proof = job.prove(plan, encoder, data, out, resume_prove, progress=progress)
            _common.say_proof(proof, json_to)
            return
        _common.start_processes(gpus, plan.device, max_restarts)
        with _common.progress() as progress:
            result = job.run(
                *(plan, encoder, data, out),
                resume=resume,
                autotune=autotune,
                tensorboard=tensorboard,
                progress=progress,
            )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to == "-":
        return
    _common.say(
        f"{out / 'detector.safetensors'}: {result.steps} steps on {result.people} people in "
        f"{result.keyframes} key frames, last loss {result.loss:.3f}"
    )
    _common.say_origins(result.time_origins)
    for video, reason in result.unusable_videos.items():
        _common.say(f"set aside: {video}: {reason}")
