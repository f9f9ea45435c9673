"""``vidssl long-term``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common, _slurm

if TYPE_CHECKING:
    from vidssl.jobs.long_term import LongTermResult
    from vidssl.recipe import Detection, Extract, LongTerm
    from vidssl.train.prove import Proof


def long_term(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name, or a YAML file.")],
    encoder: Annotated[
        str, typer.Option(help="A run, an encoder.safetensors, or `random` for fresh weights.")
    ],
    videos: Annotated[str, typer.Option(help="Folder, list, index, or NAME:PATH of the videos.")],
    annotations: Annotated[Path, typer.Option(help="Who does what, csv in AVA layout.")],
    labels: Annotated[Path, typer.Option(help="Label map (pbtxt or csv).")],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of it all.")],
    boxes: Annotated[
        list[Path] | None,
        typer.Option(help="Detector boxes of whom the bank is, csv; again for every split."),
    ] = None,
    train_boxes: Annotated[
        Path | None, typer.Option(help="Detector boxes to train on beside the true ones, csv.")
    ] = None,
    excluded: Annotated[
        Path | None, typer.Option(help="Key frames to leave out, csv of video and second.")
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
    resume_prove: _common.ResumeProve = None,
    dry_run: _common.DryRun = False,
    max_failed: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the bank's key frames that may fail; more ends before the second "
            "training, with 3.",
        ),
    ] = 0.01,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry",
            help="Read again what failed in the bank, and add videos that are there now.",
        ),
    ] = False,
    json_to: _common.JsonTo = None,
) -> None:
    """Train a detector, write its feature bank, and train a second detector that reads the bank.

    OUT receives first, bank and second, each what `vidssl finetune`, `extract-features` and
    `finetune --bank` leave. The same command on the same folder checks what is finished and goes on
    with what is not; with --retry also with what of the bank failed. Boxes of all splits belong
    into the bank: with those of validation too, `vidssl eval-ava --checkpoint OUT/second --bank
    OUT/bank` can score it.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import long_term as job
    from vidssl.recipe import LongTerm, find, load

    with _common.user_errors():
        shorter = [
            word
            for part in ("first", "second")
            for word in ([] if steps is None else [f"{part}.optim.steps={steps}"])
            + ([] if steps is None else [f"{part}.optim.epochs=null"])
        ]
        plan = load(LongTerm, find(LongTerm, recipe), [*(overrides or ()), *shorter])
        data = job.LongTermData(
            *(videos, annotations, labels, tuple(boxes or ())),
            train_boxes=train_boxes,
            excluded=excluded,
            time_origin=time_origin,
        )
        request = _slurm.Request(slurm, nodes, partition, time, slurm_options)
        if request.is_due():
            widest = _widest(plan)
            _slurm.submit_command(
                *(request, (gpus, max_restarts), widest, out), dry_run=dry_run, json_to=json_to
            )
            return
        if dry_run:
            from vidssl.jobs._long_term_forecast import forecast

            found = forecast(plan, encoder, data, out, processes=gpus)
            _common.write_json(asdict(found), json_to or "-")
            _common.warn(found.warnings)
            return
        if resume_prove is not None:
            _common.start_processes(gpus, plan.first.device)
            with _common.progress() as progress:
                proofs = job.prove(plan, encoder, data, out, resume_prove, progress=progress)
            _say_proofs(proofs, out, json_to)
            return
        _common.start_processes(gpus, plan.first.device, max_restarts)
        with _common.progress() as progress:
            result = job.run(
                *(plan, encoder, data, out),
                max_failed=max_failed,
                retry=retry,
                progress=progress,
            )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _show(result)
    if result.second is None:
        failed, expected, what = result.failures
        told = "mend what is set aside and give the same command with --retry"
        _common.warn([f"no second training: {told}, or allow for more with --max-failed"])
        _common.too_many_failed(failed, expected, what, max_failed)


def _widest(plan: "LongTerm") -> "Detection | Extract":
    """Return the stage with the most workers, on the device that all processes are started for."""
    stages: list[Detection | Extract] = [plan.first, plan.extract, plan.second]
    widest = max(stages, key=lambda stage: stage.loader.workers)
    return widest.model_copy(update={"device": plan.first.device})


def _say_proofs(proofs: "dict[str, Proof]", out: Path, json_to: str | None) -> None:
    """Tell of each training whether steps done again were the same; those that were come first."""
    if json_to is not None:
        _common.write_json({name: asdict(proof) for name, proof in proofs.items()}, json_to)
    for name, proof in sorted(proofs.items(), key=lambda one: bool(one[1].differences)):
        if json_to != "-":
            _common.say(f"{out / name}:")
            _common.say_proof(proof, None)
        elif proof.differences:
            raise typer.Exit(_common.DIFFERS)


def _show(result: "LongTermResult") -> None:
    for name, told in (("first", result.first), ("bank", result.bank), ("second", result.second)):
        if told is None:
            continue
        how = "" if name in result.done_now else ", as it was"
        if name == "bank":
            _common.say(
                f"{result.out / name}: {told['rows']} features of {told['dim']} numbers from "
                f"{told['videos']} videos ({told['expected_keyframes']} key frames, "
                f"{told['failed_keyframes']} failed){how}"
            )
        else:
            _common.say(
                f"{result.out / name}: {told['steps']} steps on {told['people']} people in "
                f"{told['keyframes']} key frames, last loss {told['loss']:.3f}{how}"
            )
    for video, reason in (result.first["unusable_videos"] | result.bank["unusable_videos"]).items():
        _common.say(f"set aside: {video}: {reason}")
