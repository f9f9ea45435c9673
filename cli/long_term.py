"""``vidssl long-term``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.long_term import LongTermResult


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
    max_failed: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the bank's key frames that may fail; more ends before the second "
            "training, with 3.",
        ),
    ] = 0.01,
    json_to: _common.JsonTo = None,
) -> None:
    """Train a detector, write its feature bank, and train a second detector that reads the bank.

    OUT receives first, bank and second, each what `vidssl finetune`, `extract-features` and
    `finetune --bank` leave. The same command on the same folder checks what is finished and goes on
    with what is not. Boxes of all splits belong into the bank: with those of validation too,
    `vidssl eval-ava --checkpoint OUT/second --bank OUT/bank` can score it.
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
        _common.start_processes(gpus, plan.first.device, max_restarts)
        with _common.progress() as progress:
            result = job.run(plan, encoder, data, out, max_failed=max_failed, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _show(result)
    if result.second is None:
        failed, expected, what = result.failures
        _common.too_many_failed(failed, expected, what, max_failed)


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
