"""``vidssl extract-features``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.extract_features import ExtractResult


def extract_features(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name, or a YAML file.")],
    encoder: Annotated[Path, typer.Option(help="A run, or an encoder.safetensors.")],
    videos: Annotated[str, typer.Option(help="Folder, list, index, or NAME:PATH of the videos.")],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the bank.")],
    boxes: Annotated[
        list[Path] | None,
        typer.Option(help="Detector boxes, csv, for features of people; again for further files."),
    ] = None,
    time_origin: _common.TimeOrigin = "auto",
    overrides: _common.Overrides = None,
    gpus: _common.Gpus = 1,
    part: Annotated[
        str,
        typer.Option(
            help="Write the K-th of N parts, to be put together by `vidssl bank merge`.",
            metavar="K/N",
        ),
    ] = "1/1",
    max_failed: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of key frames that may fail; more exits with 3."),
    ] = 0.01,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Read again what failed, and add videos that are there now."),
    ] = False,
    json_to: _common.JsonTo = None,
) -> None:
    """Write a long-term feature bank: what every detected person looked like, second by second.

    Or what whole clips or the cells of a grid looked like, if the recipe says so. OUT receives
    bank.json and float16 shards with a Parquet table of their rows. The same command on the same
    folder writes what is missing. Several processes share the shards: --gpus N on one machine,
    torchrun on several that share a disk; --part where they share none. The bank is written
    whatever fails; --max-failed decides the exit code (of clips and grids by videos, as nobody
    knows how many key frames a video has that cannot be read), --retry reads again what failed.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs.extract_features import run
    from vidssl.recipe import Extract, find, load

    with _common.user_errors():
        plan = load(Extract, find(Extract, recipe), overrides or ())
        _common.start_processes(gpus, plan.device)
        with _common.progress() as progress:
            result = run(
                *(plan, encoder, videos, boxes or (), out),
                time_origin=time_origin,
                part=part,
                retry=retry,
                progress=progress,
            )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _show(result, out, part)
    failed, expected, what = result.failures
    if failed > max_failed * expected:
        _common.too_many_failed(failed, expected, what, max_failed)


def _show(result: "ExtractResult", out: Path, part: str) -> None:
    _common.say(
        f"{out}: {result.rows} features of {result.dim} numbers from {result.videos} videos "
        f"({result.expected_keyframes} key frames, {result.failed_keyframes} failed)"
    )
    if not result.complete:
        _common.say(
            f"part {part}: {result.finished} of {result.shards} shards; `vidssl bank merge` puts "
            "the parts together"
        )
    _common.say_origins(result.time_origins)
    for video, reason in result.unusable_videos.items():
        _common.say(f"set aside: {video}: {reason}")
