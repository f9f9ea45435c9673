"""``vidssl report-card``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.report_card import CardResult


def report_card(
    ctx: typer.Context,
    encoder: Annotated[
        Path, typer.Argument(metavar="ENCODER", help="Run, or encoder.safetensors, to look at.")
    ],
    on: Annotated[
        list[str],
        typer.Option(metavar="SOURCE", help="Labelled videos; the first has the map. Repeatable."),
    ],
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Videos to test on, one for each --on; without it each video of --on is left out "
            "in its turn.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; report-card beside the encoder otherwise.")
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(metavar="CARD.json", help="Earlier card to compare with. Repeatable."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="chance|majority|random",
            help="What else to compare with: guessing, the most frequent class (which is there "
            "unless others are named), the same network untrained, which takes as long again. "
            "Repeatable.",
        ),
    ] = None,
    probes: _common.Probes = "knn,linear,retrieval",
    motion: Annotated[
        bool, typer.Option("--motion/--no-motion", help="Probe clips of damaged time too.")
    ] = True,
    boxes_on: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Videos of annotated people.")
    ] = None,
    boxes_train: Annotated[
        Path | None, typer.Option(help="What people do, to learn from; csv in AVA layout.")
    ] = None,
    boxes_test: Annotated[
        Path | None, typer.Option(help="What people do, to be judged by; csv in AVA layout.")
    ] = None,
    boxes_labels: Annotated[Path | None, typer.Option(help="Label map of the actions.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the encoder on the page.")] = None,
    k: _common.Neighbours = 20,
    temperature: _common.Temperature = 0.07,
    views: _common.Views = "3x1",
    centre: _common.Centre = True,
    group: _common.Group = None,
    short_side: _common.ShortSide = None,
    crop: _common.Crop = None,
    cache: _common.FeatureCache = None,
    precision: _common.FeaturePrecision = "fp32",
    batch: _common.ClipsAtOnce = 16,
    workers: _common.Decoders = None,
    gpus: _common.Gpus = 1,
    retry: _common.Retry = False,
    max_failed: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of videos or key frames that may fail; else exits with 3."
        ),
    ] = 0.01,
    json_to: _common.JsonTo = None,
) -> None:
    """Write a page that says how good an encoder's frozen features are, and shows why.

    The page is one file that needs no network: scores with intervals, a map of the features whose
    points show their clips, nearest neighbours, confusion, mistakes, what needs motion, curves of
    the training, and cost. card.json beside it has the numbers, and is what --compare takes. With
    --gpus N, or under torchrun, several processes share the reading of videos.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import probe
    from vidssl.jobs import report_card as job

    with _common.user_errors():
        request = job.Request(
            *(encoder, tuple(on), tuple(test or ()), out, tuple(compare or ())),
            baselines=job.baselines_of(baseline),
            motion=motion,
            name=name,
            boxes=job.boxes_of(boxes_on, boxes_train, boxes_test, boxes_labels),
            command=_common.command(ctx),
            probing=probe.Request(
                *(encoder, ""),
                probes=probe.chosen(probes),
                k=k,
                temperature=temperature,
                views=views,
                centre=centre,
                group=group,
                short_side_px=short_side,
                crop_px=crop,
                cache=cache,
                workers=workers,
                precision=precision,
                clips_at_once=batch,
                retry=retry,
            ),
        )
        _common.start_processes(gpus, request.probing.device)
        with _common.progress() as progress:
            result = job.run_together(request, progress=progress)
        if result is None:
            return
        if json_to is not None:
            _common.write_json(job.plain(result), json_to)
    if json_to != "-":
        _show(result)
    for failed, expected, what in result.counts:
        if failed > max_failed * expected:
            _common.too_many_failed(failed, expected, what, max_failed)


def _show(result: "CardResult") -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("score", "value", "95 % interval"):
        table.add_column(title, justify="left" if title == "score" else "right")
    for score in result.scores:
        if score.large:
            table.add_row(score.title, _percent(score.value), _between(score.low, score.high))
    _common.out.print(table)
    for note in result.notes:
        _common.say(note)
    _common.say(f"{result.page} ({result.bytes / 1e6:.1f} MB)")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _between(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"
