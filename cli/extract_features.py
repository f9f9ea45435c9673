"""``vidssl extract-features``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _common


def extract_features(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name, or a YAML file.")],
    encoder: Annotated[Path, typer.Option(help="A run, or an encoder.safetensors.")],
    videos: Annotated[str, typer.Option(help="Folder, list, index, or NAME:PATH of the videos.")],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the bank.")],
    boxes: Annotated[
        list[Path], typer.Option(help="Detector boxes, csv; give it again for further files.")
    ],
    time_origin: _common.TimeOrigin = "auto",
    overrides: _common.Overrides = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Write a long-term feature bank: what every detected person looked like, second by second.

    OUT receives bank.json and float16 shards with a Parquet table of their rows. The same command
    on the same folder writes what is missing.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs.extract_features import run
    from vidssl.recipe import Extract, find, load

    with _common.user_errors():
        plan = load(Extract, find(Extract, recipe), overrides or ())
        with _common.progress() as progress:
            result = run(
                plan, encoder, videos, boxes, out, time_origin=time_origin, progress=progress
            )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to == "-":
        return
    _common.say(
        f"{out}: {result.rows} features of {result.dim} numbers from {result.videos} videos "
        f"({result.keyframes} key frames, {result.failed_keyframes} failed)"
    )
    _common.say_origins(result.time_origins)
    for video, reason in result.unusable_videos.items():
        _common.say(f"set aside: {video}: {reason}")
