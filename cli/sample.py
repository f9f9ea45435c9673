"""``vidssl sample``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _common


def sample(
    source: Annotated[str, typer.Argument(help="Folder, video, list, index, or NAME:PATH.")],
    recipe: Annotated[
        str,
        typer.Option("--recipe", "-r", help="A recipe's name, or a YAML file."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="PNG to write.")],
    count: Annotated[int, typer.Option(min=1, help="Videos to draw, evenly spaced.")] = 4,
    annotations: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="AVA csv: draw a detection recipe's training clips."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Label map, for the names of actions.")
    ] = None,
    boxes: Annotated[
        list[Path] | None,
        typer.Option(help="Boxes of people, csv, as pretraining is given them; may be repeated."),
    ] = None,
    time_origin: Annotated[
        str,
        typer.Option(metavar="auto|SECONDS|CSV", help="From where annotated times count."),
    ] = "auto",
    overrides: _common.Overrides = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Draw what a method will see: the clips of a few videos, cropped and coloured.

    Each video has its time line with the sampled windows, and a strip for each view: its first
    frame as decoded, with the crop, then frames as the method sees them. The same recipe and seed
    draw the same sheet. With annotations RECIPE is one of detection, and people are drawn as well.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.errors import RecipeError
    from vidssl.jobs._people import BoxFiles
    from vidssl.jobs.sample import run, run_detection
    from vidssl.recipe import Detection, Pretrain, bundled, find, load

    with _common.user_errors():
        _common.check_json(json_to, out)
        if annotations is None and labels is not None:
            raise RecipeError("--labels names the actions of --annotations; give both")
        if annotations is not None and boxes:
            raise RecipeError("--boxes is for a pretraining recipe, --annotations for detection")
        if annotations is None and recipe in bundled(Detection).keys() - bundled(Pretrain).keys():
            raise RecipeError(f"{recipe}: a detection recipe; give --annotations with it")
        with _common.progress() as progress:
            if annotations is None:
                plan = load(Pretrain, find(Pretrain, recipe), overrides or ())
                files = BoxFiles(tuple(boxes or ()), time_origin)
                result = run(source, plan, out, boxes=files, count=count, progress=progress)
            else:
                result = run_detection(
                    source,
                    load(Detection, find(Detection, recipe), overrides or ()),
                    annotations,
                    out,
                    labels=labels,
                    time_origin=time_origin,
                    count=count,
                    progress=progress,
                )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to == "-":
        return
    videos = len({view.video for view in result.views})
    _common.say(f"{result.path}: {len(result.views)} views of {videos} videos")
    _common.say_origins(result.time_origins)
    for reason in result.set_aside.values():
        _common.say(f"set aside: {reason}")
