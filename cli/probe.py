"""``vidssl probe``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs._probe_result import Motion, ProbeResult, ProbeScore, SplitAccount
    from vidssl.probe.motion import Share


def probe(
    encoder: Annotated[
        Path, typer.Option(help="A run of any kind, or the .safetensors file of one.")
    ],
    train: Annotated[str, typer.Option(help="Videos with labels, to learn from.")],
    test: Annotated[
        str | None,
        typer.Option(help="Videos with labels, to be judged by; without, TRAIN's by the others."),
    ] = None,
    probes: _common.Probes = "knn,linear,retrieval",
    k: _common.Neighbours = 20,
    temperature: _common.Temperature = 0.07,
    views: _common.Views = "3x1",
    short_side: _common.ShortSide = None,
    crop: _common.Crop = None,
    centre: _common.Centre = True,
    time: Annotated[
        Literal["normal", "shuffled", "reversed", "single", "static"],
        typer.Option(help="How the frames of a clip are shown."),
    ] = "normal",
    motion: Annotated[
        bool, typer.Option("--motion", help="Compare all ways of showing clips: is it motion?")
    ] = False,
    random: Annotated[
        int | None,
        typer.Option(min=0, metavar="SEED", help="Fresh weights instead: an untrained baseline."),
    ] = None,
    group: _common.Group = None,
    cache: _common.FeatureCache = None,
    precision: _common.FeaturePrecision = "fp32",
    batch: _common.ClipsAtOnce = 16,
    workers: _common.Decoders = None,
    gpus: _common.Gpus = 1,
    retry: _common.Retry = False,
    max_failed: Annotated[
        float, typer.Option(min=0, max=1, help="Share of videos that may fail; more exits with 3.")
    ] = 0.01,
    csv_to: Annotated[
        Path | None, typer.Option("--csv", help="Write a row for each class, csv.")
    ] = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Score the frozen features of an encoder: neighbours, a linear classifier, retrieval.

    Each video's features are computed once and kept, so that the next probe takes seconds. Several
    processes share the videos: --gpus N on one machine, torchrun on several that share a disk.
    Videos that cannot be read count as wrong; --retry reads those again that failed before. With
    --motion the same probe is scored on clips that are shuffled, reversed, or stand still: what is
    lost is the accuracy that needs time.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import probe as job
    from vidssl.jobs._probe_result import plain, write_classes

    with _common.user_errors():
        request = job.Request(
            *(encoder, train, test, job.chosen(probes)),
            k=k,
            temperature=temperature,
            centre=centre,
            views=views,
            time=time,
            motion=motion,
            random=random,
            cache=cache,
            group=group,
            short_side_px=short_side,
            crop_px=crop,
            precision=precision,
            workers=workers,
            clips_at_once=batch,
            retry=retry,
        )
        _common.start_processes(gpus, request.device)
        with _common.progress() as progress:
            result = job.run_together(request, progress=progress)
        if result is None:
            return
        if csv_to is not None:
            write_classes(result, csv_to)
        if json_to is not None:
            _common.write_json(plain(result), json_to)
    if json_to != "-":
        _show(result)
    sides = [result.train, *([result.test] if result.test else [])]
    for side in sides:
        if side.failed > max_failed * side.expected:
            _common.too_many_failed(
                side.failed, side.expected, f"videos of {side.source}", max_failed
            )


def _show(result: "ProbeResult") -> None:
    table = Table()
    for title in ("probe", "score", "value", "95 % interval", "if read", "chance", "protocol"):
        justify: Literal["left", "right"] = "left" if title in {"probe", "protocol"} else "right"
        table.add_column(title, justify=justify, no_wrap=True)
    for score in result.scores:
        table.add_row(*_cells(score))
    _common.out.print(table)
    if result.motion is not None:
        _show_motion(result.motion)
    _account("train", result.train)
    if result.test is not None:
        _account("test", result.test)
    _show_protocol(result.scores)
    _common.say(f"encoder: {result.encoder}, {result.encoder_hash}, {result.dim} features")
    for note in result.notes:
        _common.say(f"note: {note}")
    for side in (result.train, result.test):
        for name, reason in side.failures.items() if side else ():
            _common.say(f"failed: {name}: {reason}")


def _cells(score: "ProbeScore") -> list[str]:
    return [
        score.probe,
        score.metric,
        _number(score.value),
        _span(score.low, score.high),
        _number(score.over_evaluated),
        _number(score.chance),
        score.fingerprint[:8],
    ]


def _show_protocol(scores: "tuple[ProbeScore, ...]") -> None:
    """Tell what all scores have in common, then what is each probe's own."""
    if not scores:
        return
    first = scores[0].protocol
    common = {k for k in first if all(one.protocol.get(k) == first[k] for one in scores)}
    told = ", ".join(f"{key} {first[key]}" for key in first if key in common - {"probe", "metric"})
    _common.say(f"protocol: {told}")
    for name in dict.fromkeys(score.probe for score in scores):
        own = next(score.protocol for score in scores if score.probe == name)
        left = [key for key in own if key not in common | {"probe", "metric"}]
        if left:
            _common.say(f"{name}: " + ", ".join(f"{key} {own[key]}" for key in left))


def _show_motion(motion: "Motion") -> None:
    for time, score in motion.scores.items():
        lost = "" if time == "normal" else f", {motion.drop[time]:+.4f} lost"
        _common.say(
            f"{motion.probe} on {time} clips: {score.metric} {score.value:.4f} "
            f"({_span(score.low, score.high)}){lost}"
        )
    if motion.share is not None:
        _common.say(f"share of the accuracy that needs time: {_share(motion.share)}")


def _share(share: "Share") -> str:
    return f"{_number(share.value)} ({_span(share.low, share.high)})"


def _account(name: str, side: "SplitAccount") -> None:
    looked = f", {side.decoded} looked at now" if side.decoded else ", all from the cache"
    _common.say(
        f"{name}: {side.expected} videos expected, {side.evaluated} evaluated, "
        f"{side.failed} failed{looked}"
    )
    if side.published is not None:
        _common.say(f"{name}: {side.published['list']} has {side.published['videos']} videos")


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"


def _span(low: float, high: float) -> str:
    return "-" if low != low else f"{low:.4f} to {high:.4f}"
