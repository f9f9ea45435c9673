"""``vidssl sample``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _common


def sample(
    source: Annotated[str, typer.Argument(help="Folder, video, list, index, or NAME:PATH.")],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A pretraining recipe's name, or a YAML file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="PNG to write.")],
    count: Annotated[int, typer.Option(min=1, help="Videos to draw, evenly spaced.")] = 4,
    overrides: _common.Overrides = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Draw what a method will see: the clips of a few videos, cropped and coloured.

    Each view is a row: its first frame as decoded, with the crop, then frames as the method sees
    them. The same recipe and seed draw the same sheet.
    """
    # Imported here because they pull in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs.sample import run
    from vidssl.recipe import Pretrain, find, load

    with _common.user_errors():
        plan = load(Pretrain, find(Pretrain, recipe), overrides or ())
        with _common.progress() as progress:
            result = run(source, plan, out, count=count, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to == "-":
        return
    videos = len({view.video for view in result.views})
    _common.say(f"{result.path}: {len(result.views)} views of {videos} videos")
    for reason in result.set_aside.values():
        _common.say(f"set aside: {reason}")
