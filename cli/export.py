"""``vidssl export``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.export import ExportResult


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Folder of a run, or a .safetensors file with its card."
        ),
    ],
    format_: Annotated[
        Literal["torch-export", "onnx"],
        typer.Option("--format", help="PyTorch's own archive (.pt2), or ONNX (.onnx)."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to; beside the weights unless it is said."),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="PX|HEIGHTxWIDTH",
            help="Size of the clips, fixed in the file; the checkpoint's own unless it is said.",
        ),
    ] = None,
    json_to: _common.JsonTo = None,
) -> None:
    """Write an encoder, classifier or detector as one file that runs without vidssl.

    Any number of clips goes in, and for a detector any number of boxes. The file is opened again
    and compared with the network on random clips; it stays only if every output agrees to 1e-4.
    FILE.json beside it says what goes in and what comes out. ONNX needs `pip install
    'vidssl[onnx]'`.
    """
    size_px = _size(crop)
    # Imported here because it pulls in torch: `vidssl --help` must not wait for it.
    from vidssl.jobs import export as job

    with _common.user_errors():
        if out is not None:
            for made in (out, out.with_name(f"{out.name}.json")):
                _common.check_json(json_to, made)
        with _common.progress() as progress:
            result = job.run(checkpoint, format_, out, size_px=size_px, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _show(result)


def _size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) in pixels."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise typer.BadParameter(
            f"expected pixels such as 256, or height and width such as 256x320, found {text!r}",
            param_hint="--crop",
        )
    return int(sides[0]), int(sides[-1])


def _show(result: "ExportResult") -> None:
    _common.say(f"{result.path}: {result.kind}, {result.format}, {result.bytes / 1e6:.1f} MB")
    for title, ports in (("in", result.inputs), ("out", result.outputs)):
        for port in ports:
            shape = ", ".join(map(str, port["shape"]))
            _common.say(f"  {title}: {port['name']} ({shape}) {port['dtype']}")
    clips = [str(comparison.clips) for comparison in result.parity]
    boxes = [str(comparison.boxes) for comparison in result.parity]
    numbers = f"{', '.join(clips)} clips"
    if result.parity[0].boxes is not None:
        numbers += f" with {', '.join(boxes)} boxes"
    told = ", ".join(f"{name} {value:.1e}" for name, value in result.largest.items())
    _common.say(f"largest difference from the network, {numbers}: {told} (limit {result.limit:g})")
    _common.say(f"{result.card}: how to make the inputs, and what the outputs mean")
