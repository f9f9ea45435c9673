"""``vidssl eval-ava``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.eval_ava import EvalResult


def eval_ava(
    annotations: Annotated[Path, typer.Option(help="The truth, csv in AVA layout.")],
    labels: Annotated[Path, typer.Option(help="Label map of the classes to score.")],
    predictions: Annotated[Path | None, typer.Option(help="Predictions to score, csv.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Run whose detector predicts.")] = None,
    videos: Annotated[str | None, typer.Option(help="Videos for the detector.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="People for the detector, csv.")] = None,
    bank: Annotated[Path | None, typer.Option(help="Feature bank for the detector.")] = None,
    empty_bank: Annotated[
        bool, typer.Option("--empty-bank", help="Keep the bank's features from the detector.")
    ] = False,
    excluded: Annotated[Path | None, typer.Option(help="Key frames to leave out, csv.")] = None,
    protocol: Annotated[
        Literal["activitynet", "slowfast"], typer.Option(help="Whose rules to score by.")
    ] = "activitynet",
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of a person's box.")
    ] = None,
    time_origin: _common.TimeOrigin = "auto",
    max_failed: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of key frames that may fail; more exits with 3."),
    ] = 0.01,
    json_to: _common.JsonTo = None,
) -> None:
    """Score action predictions, given as a file or made by a trained detector.

    Give --predictions, or --checkpoint with --videos and --boxes (and --bank for a detector that
    reads one). A detector's predictions are written below its run first, and that file is scored.
    """
    from vidssl.jobs import eval_ava as job

    with _common.user_errors():
        truth = job.Truth(annotations, labels, excluded, protocol)
        request = job.Request(checkpoint, videos, boxes, bank, empty_bank, min_score, time_origin)
        with _common.progress() as progress:
            result = job.run(truth, predictions, request, progress=progress)
        if json_to is not None:
            _common.write_json(vars(result), json_to)
    if json_to != "-":
        _show(result)
    if result.failed > max_failed * result.expected:
        _common.too_many_failed(result.failed, result.expected, "key frames", max_failed)


def _show(result: "EvalResult") -> None:
    table = Table()
    for title in ("id", "class", "truth", "AP"):
        table.add_column(title, justify="left" if title == "class" else "right")
    for label, name in result.names.items():
        ap = result.ap[label]
        shown = "-" if ap is None else f"{ap:.4f}"
        table.add_row(str(label), _common.printable(name), str(result.positives[label]), shown)
    _common.out.print(table)
    mean = "not defined" if result.mean_ap is None else f"{result.mean_ap:.6f}"
    _common.say(f"mAP@0.5 {mean} ({result.protocol['protocol']} protocol)")
    _common.say(
        f"key frames: {result.expected} expected, {result.evaluated} evaluated, "
        f"{result.failed} failed"
    )
    _common.say("protocol: " + ", ".join(f"{k} {v}" for k, v in result.protocol.items()))
    _common.say_origins(result.time_origins)
    for note in result.notes:
        _common.say(f"note: {note}")
    for video, reason in result.unusable_videos.items():
        _common.say(f"failed: {video}: {reason}")
