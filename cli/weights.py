"""``vidssl weights``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.weights import Conversion, Inspection

app = typer.Typer(
    help="Weights that others published: PySlowFast, pytorchvideo, torchvision, MoCo, Caffe2.",
    no_args_is_help=True,
)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A checkpoint from anywhere; nothing in it runs.")
]
Momentum = Annotated[
    bool,
    typer.Option("--momentum-encoder", help="Take the momentum encoder instead of the trained."),
]
SHOWN = 5


@app.command()
def inspect(file: File, momentum: Momentum = False, json_to: _common.JsonTo = None) -> None:
    """Say what is in a checkpoint, and which known backbone it fits.

    It is opened in a process of its own that can build arrays and nothing else.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import weights

    with _common.user_errors():
        with _common.progress() as progress:
            found = weights.inspect(file, momentum=momentum, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(found), json_to)
    if json_to != "-":
        _say_inspection(found)


@app.command()
def convert(
    file: File,
    to: Annotated[Path, typer.Option("--to", metavar="OUT", help="The .safetensors to write.")],
    model: Annotated[
        str | None, typer.Option(help="The backbone, as `vidssl models` names it.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Take this recipe's backbone: its name, or a YAML file.")
    ] = None,
    min_match: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the backbone's tensors to be there. Unless it is said, 0.95, and none "
            "of another shape.",
        ),
    ] = None,
    momentum: Momentum = False,
    classifier: Annotated[
        bool, typer.Option("--classifier", help="Write classifier.safetensors beside OUT as well.")
    ] = False,
    json_to: _common.JsonTo = None,
) -> None:
    """Make an encoder of a checkpoint, for `--encoder` of the other commands.

    Without `--model` or `--recipe` it becomes the known backbone that it fits best. If too little
    fits, nothing is written. FILE may be an encoder of vidssl, for a backbone with further blocks.
    """
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import weights

    with _common.user_errors():
        _common.check_json(json_to, to)
        with _common.progress() as progress:
            made = weights.convert(
                file,
                to,
                model=model,
                recipe=recipe,
                least=min_match,
                momentum=momentum,
                classifier=classifier,
                progress=progress,
            )
        if json_to is not None:
            _common.write_json(asdict(made), json_to)
    if json_to != "-":
        _say_conversion(made)


def _say_inspection(found: "Inspection") -> None:
    types = ", ".join(f"{count} {name}" for name, count in found.dtypes.items())
    _common.say(f"{found.path}: {found.format or 'of no known format'}, layout {found.layout}")
    _common.say(f"tensors: {found.tensors} ({types}), {found.values:,} values")
    if found.reason:
        _common.say(f"reason: {found.reason}")
    clip = found.geometry
    if clip.frames:
        _common.say(f"trained on: {clip.frames} x {clip.stride} frames at {clip.crop_px} pixels")
    if found.classes:
        _common.say(f"classifier: {found.classes} classes")
    for fit in found.fits:
        _common.say(f"fits {fit.model}: {fit.share:.1%} ({_counts(fit.counts)})")
    for reason, count in found.ignored.items():
        _common.say(f"left aside: {count} {reason}")
    if found.unbuilt:
        _common.say(f"asked for and not given: {', '.join(found.unbuilt)}")


def _say_conversion(made: "Conversion") -> None:
    lists = ("missing", "unexpected", "reshaped", "wrong_shape")
    counts = {"matched": made.matched} | {name: len(getattr(made, name)) for name in lists}
    _common.say(f"{made.source}: {made.format}, {made.share:.1%} of {made.model}")
    _common.say(_counts(counts))
    for name in lists:
        names = getattr(made, name)
        if names:
            more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            _common.say(f"{name.replace('_', ' ')}: {', '.join(names[:SHOWN])}{more}")
    for reason, count in made.ignored.items():
        _common.say(f"left aside: {count} {reason}")
    for remark in made.remarks:
        _common.say(f"note: {remark}")
    for path in (made.encoder, made.classifier):
        if path:
            _common.say(f"wrote {path}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
