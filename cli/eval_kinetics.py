"""``vidssl eval-kinetics``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.eval_kinetics import Earlier, EvalResult, Means

TITLES = {"class_accuracy": "class accuracy", "mean_ap": "mAP"}
PROTOCOL, WORK = "Protocol", "How it is done"
ALWAYS = {"--top", "--quick", "--compare", "--json", "--max-failed"}
OF_USE = {
    "--scores": ("scores",),
    "--weights": ("scores",),
    "--verb": ("verb",),
    "--noun": ("verb",),
    "--prior": ("verb",),
    "--videos": ("checkpoint", "scores"),
    "--confusion": ("checkpoint", "scores"),
    "--csv": ("checkpoint", "scores"),
}
"""Which ways to score an option is of use for; one that is not here, and not always, is the
classifier's alone."""


def eval_kinetics(
    ctx: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Run of a classifier, or a classifier.safetensors.")
    ] = None,
    videos: Annotated[
        str | None,
        typer.Option(help="Labelled videos: csv, class folders, or NAME:PATH as ucf101:PATH."),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Feature bank, for a classifier that reads one.")
    ] = None,
    empty_bank: Annotated[
        bool, typer.Option("--empty-bank", help="Keep the bank's features from the classifier.")
    ] = False,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="Score these saved scores instead; again for an ensemble."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,...", help="Of the scores of an ensemble.")
    ] = None,
    verb: Annotated[Path | None, typer.Option(help="Scores of verbs, for actions.")] = None,
    noun: Annotated[Path | None, typer.Option(help="Scores of nouns, for actions.")] = None,
    prior: Annotated[
        Path | None, typer.Option(help="Training list with verb_class and noun_class, csv.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", file_okay=False, help="Folder of the scores; below the run."),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(
            metavar="CLIPSxCROPS",
            help="10x3, or 1x1 for frames from equal parts.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Of a clip.", rich_help_panel=PROTOCOL)
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="From frame to frame, at 30 a second.", rich_help_panel=PROTOCOL),
    ] = None,
    sampling: Annotated[
        Literal["uniform", "segments"] | None,
        typer.Option(
            help="Clips at equal distances, or one frame from each of equal parts.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    indexing: Annotated[
        Literal["stride", "linspace"] | None,
        typer.Option(
            help="Frames exactly a stride apart, or as PySlowFast picks them.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    reach_end: Annotated[
        bool,
        typer.Option(
            "--reach-end", help="Let the last clip end with the video.", rich_help_panel=PROTOCOL
        ),
    ] = False,
    short_side: Annotated[
        int | None, typer.Option(min=1, help="Of the pictures, pixels.", rich_help_panel=PROTOCOL)
    ] = None,
    crop: Annotated[
        int | None, typer.Option(min=1, help="Side of a crop, pixels.", rich_help_panel=PROTOCOL)
    ] = None,
    train_crop: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side of the training's crops, if it is not known: larger pictures are tested in "
            "windows of that size.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled/--fully-convolutional",
            help="Average the whole map, not windows one by one.",
            rich_help_panel=PROTOCOL,
        ),
    ] = False,
    activation: Annotated[
        Literal["softmax", "sigmoid"] | None,
        typer.Option(
            help="Of the logits; sigmoid for videos of several classes.", rich_help_panel=PROTOCOL
        ),
    ] = None,
    over_views: Annotated[
        Literal["mean", "max"] | None,
        typer.Option(help="mean; max with sigmoid.", rich_help_panel=PROTOCOL),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option(help="That the network computes in.", rich_help_panel=PROTOCOL),
    ] = "fp32",
    index: Annotated[
        Path | None,
        typer.Option(help="What `vidssl index` made of the videos before.", rich_help_panel=WORK),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Views in one forward pass.", rich_help_panel=WORK)
    ] = 10,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that decode.", rich_help_panel=WORK)
    ] = 2,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Where the network runs.", rich_help_panel=WORK),
    ] = "auto",
    gpus: _common.Gpus = 1,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Read videos again that failed.", rich_help_panel=WORK),
    ] = False,
    max_failed: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of videos that may fail; more exits with 3."),
    ] = 0.01,
    top: Annotated[str, typer.Option(metavar="K,K,...", help="Which top-k.")] = "1,5",
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Put the confused classes into the JSON.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Without intervals.")] = False,
    csv_to: Annotated[
        Path | None, typer.Option("--csv", help="Write a row for each class, csv.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Show a score beside it that --json wrote before.")
    ] = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Score how well a classifier recognises labelled videos: top-k, or mAP for several labels.

    Give --checkpoint and --videos. OUT receives scores.parquet with the scores of every video; the
    same command goes on where it was stopped. Videos that fail count as wrong. Or give --scores,
    one or several, and perhaps --videos whose labels are to count; or --verb and --noun.
    """
    from vidssl.jobs import eval_kinetics as job

    with _common.user_errors():
        asked = {"checkpoint": checkpoint, "scores": scores, "verb": verb or noun}
        _require_one(ctx, asked, videos, both=verb is not None and noun is not None)
        telling = job.Telling(_numbers(top), confusion, quick)
        earlier = job.read_earlier(compare) if compare is not None else None
        if checkpoint is not None:
            _common.start_processes(gpus, device)
            how = job.Overrides(
                *(views, frames, stride, sampling, indexing, reach_end, short_side, crop),
                *(train_crop, pooled, activation, over_views, precision),
            )
            assert videos is not None
            request = job.Request(
                *(checkpoint, videos, how, out, index, bank, empty_bank),
                clips_at_once=batch,
                workers=workers,
                device=device,
                retry=retry,
            )
            with _common.progress() as progress:
                result = job.run(request, telling, progress=progress)
        elif scores:
            result = job.rescore(scores, _weights(weights), videos, telling)
        else:
            assert verb is not None
            assert noun is not None
            result = job.actions(verb, noun, prior, telling)
        if json_to is not None:
            _common.write_json(job.plain(result), json_to)
        if csv_to is not None and _common.is_first():
            job.write_classes(result, csv_to)
    if json_to != "-":
        _show(result)
        if earlier is not None:
            _compare(result, earlier, job.compared(result, earlier))
    if result.failed > max_failed * result.expected:
        _common.too_many_failed(result.failed, result.expected, "videos", max_failed)


def _require_one(
    ctx: typer.Context, asked: Mapping[str, object], videos: str | None, *, both: bool
) -> None:
    """Refuse anything but one of the three ways to score, with what each needs."""
    from vidssl.errors import AnnotationError

    ways = [name for name, value in asked.items() if value]
    if len(ways) != 1:
        raise AnnotationError(
            "give either --checkpoint with --videos, or --scores, or --verb with --noun"
            f"{'; found ' + ', '.join(f'--{name}' for name in ways) if ways else ''}"
        )
    (way,) = ways
    if way == "verb" and not both:
        raise AnnotationError("--verb and --noun go together: the scores of both make actions")
    if way == "checkpoint" and videos is None:
        raise AnnotationError("--checkpoint needs --videos to recognise")
    idle = [one for one in _common.given(ctx) if not _is_of_use(one, way)]
    if idle:
        raise AnnotationError(f"{', '.join(idle)}: of no use with --{way}; leave it out")


def _is_of_use(option: str, way: str) -> bool:
    """Whether an option does anything in one of the three ways to score."""
    if option in OF_USE:
        return way in OF_USE[option]
    return way == "checkpoint" or option in ALWAYS


def _numbers(text: str) -> tuple[int, ...]:
    from vidssl.errors import AnnotationError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) < 10**6 for part in parts):
        raise AnnotationError(f"--top: expected numbers from 1 as 1,5, found {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _weights(text: str | None) -> list[float] | None:
    from vidssl.errors import AnnotationError

    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise AnnotationError(f"--weights: expected numbers as 1,0.5, found {text!r}") from None


def _show(result: "EvalResult") -> None:
    _show_means(result)
    if result.intervals:
        one = next(iter(result.intervals.values()))
        _common.say(
            f"intervals: {one.level:.0%}, bootstrap over {one.videos} videos, {one.draws} draws, "
            f"seed {one.seed}"
        )
    _common.say(
        f"videos: {result.expected} expected, {result.evaluated} evaluated, {result.failed} failed"
        " (counted as wrong)"
    )
    if result.published:
        _common.say(f"{result.published['list']}: {result.published['videos']} videos")
    _common.say("protocol: " + ", ".join(f"{k} {v}" for k, v in result.protocol.items()))
    for part in result.parts:
        _common.say("of these: " + ", ".join(f"{k} {v}" for k, v in part.items()))
    _common.say(f"scores: {', '.join(map(str, result.scores))}")
    for note in result.notes:
        _common.say(f"note: {note}")
    for number, (video, reason) in enumerate(result.failures.items()):
        if number == _common.SHOWN:
            _common.say(f"... and {len(result.failures) - number} more, in the scores")
            break
        _common.say(f"failed: {video}: {reason}")


def _show_means(result: "EvalResult") -> None:
    if not _common.is_first():
        return
    table = Table()
    for title in ("score", "all expected", "interval", "evaluated only"):
        table.add_column(title, justify="left" if title == "score" else "right")
    seen = _means(result.over_evaluated)
    for name, value in _means(result.over_expected).items():
        found = result.intervals.get(name)
        span = f"{_share(found.low)} to {_share(found.high)}" if found else "-"
        table.add_row(
            TITLES.get(name, name.replace("top", "top-")),
            _share(value),
            span,
            _share(seen.get(name)),
        )
    _common.out.print(table)


def _means(means: "Means") -> dict[str, float]:
    """Return the means that there are, by the names that the JSON has for them."""
    found: dict[str, float | None] = {f"top{k}": value for k, value in means.top.items()}
    found |= {"class_accuracy": means.class_accuracy, "mean_ap": means.mean_ap}
    return {name: value for name, value in found.items() if value is not None}


def _compare(result: "EvalResult", earlier: "Earlier", differ: list[str]) -> None:
    now = _means(result.over_expected)
    for name, before in earlier.means.items():
        _common.say(f"{name}: {_share(now.get(name))}, in {earlier.name} {_share(before)}")
    if not differ:
        _common.say("both were scored alike")
        return
    _common.say("NOT COMPARABLE, scored differently (before and now):")
    for line in differ:
        _common.say(f"  {line}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
