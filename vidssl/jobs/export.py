"""``vidssl export``: a checkpoint as one file that runs without vidssl, proven to compute the same.

The file is written aside, opened again and run beside the network that it was made from, on random
clips of several numbers; it gets its name only if all outputs agree. ``FILE.json`` beside it says
what must go in and what comes out.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vidssl import __version__
from vidssl.errors import ExportError, OutputError
from vidssl.files import replacing, sha256, write_text
from vidssl.jobs._formats import FORMATS, Run, trace
from vidssl.jobs._graphs import Graph, Port, Size, open_graph
from vidssl.progress import Progress, silent

LIMIT = 1e-4
"""The largest |exported - eager| / max(1, |eager|) that is let pass."""

NUMBERS = ((1, 5), (2, 1), (2, 0), (3, 5))
"""Clips and boxes of each comparison; without boxes going in, each number of clips once."""

FormatName = Literal["torch-export", "onnx"]


@dataclass(frozen=True)
class Comparison:
    """What one run of the exported file gave beside the network itself.

    ``differences`` holds by output the largest |exported - eager| / max(1, |eager|), 0 where there
    is nothing to compare; ``boxes`` is None where none go in.
    """

    clips: int
    boxes: int | None
    differences: dict[str, float]


@dataclass(frozen=True)
class ExportResult:
    """The exported file, its card, and how far it is from the network; ``largest`` is by output."""

    path: Path
    card: Path
    kind: str
    format: str
    bytes: int
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    limit: float
    largest: dict[str, float]
    parity: list[Comparison]


def run(
    checkpoint: Path,
    format_name: FormatName,
    out: Path | None = None,
    *,
    size_px: Size | None = None,
    limit: float = LIMIT,
    progress: Progress = silent,
) -> ExportResult:
    """Export what ``checkpoint`` computes to ``out``, by default beside its weights.

    ``size_px`` is the height and width of the clips; None takes what the checkpoint says.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
        RecipeError: if this version does not know its backbone or recipe.
        ExportError: if a package is missing, the size of clips is not known or does not suit the
            network, or an output is off by more than ``limit``; then no file is left.
        OutputError: if ``out`` is something else than an earlier export, or has the wrong suffix.
    """
    written_as = FORMATS[format_name]
    written_as.require()
    graph = open_graph(checkpoint, size_px)
    path = out or _beside(checkpoint, graph.kind, written_as.suffix)
    card = path.with_name(f"{path.name}.json")
    _require_place(path, card, written_as.suffix, format_name)
    progress("exporting, tracing", 0, 3)
    program = trace(graph)
    progress("exporting, writing", 1, 3)
    with replacing(path) as aside:
        written_as.write(graph, program, aside)
        progress("exporting, comparing", 2, 3)
        parity = compare(graph, written_as.open(aside))
        require_same(parity, limit, str(path))
        result = ExportResult(
            path=path,
            card=card,
            kind=graph.kind,
            format=format_name,
            bytes=aside.stat().st_size,
            inputs=[_described(port) for port in graph.inputs],
            outputs=[_described(port) for port in graph.outputs],
            limit=limit,
            largest=largest(parity),
            parity=parity,
        )
        versions = {"vidssl": __version__, **written_as.versions()}
        described = _card(graph, result, sha256(aside), versions)
        # Before the file has its name: if this fails, there is no file without its card.
        write_text(card, json.dumps(described, indent=1) + "\n")
    progress("exporting, comparing", 3, 3)
    return result


@torch.no_grad()
def compare(graph: Graph, exported: Run, seed: int = 0) -> list[Comparison]:
    """Return how far the exported form is from the graph's module, on the same random inputs."""
    generator = torch.Generator().manual_seed(seed)
    numbers = NUMBERS if graph.has_boxes else sorted({(clips, 0) for clips, _ in NUMBERS})
    found = []
    for clips, boxes in numbers:
        inputs = graph.draw(clips, boxes, generator)
        pairs = zip(graph.outputs, graph.module(*inputs), exported(inputs), strict=True)
        differences = {port.name: difference(eager, other) for port, eager, other in pairs}
        found.append(Comparison(clips, boxes if graph.has_boxes else None, differences))
    return found


def difference(eager: Tensor, exported: Tensor) -> float:
    """Return the largest |exported - eager| / max(1, |eager|); 0 if empty.

    Infinite where the shapes differ or either has a value that is not finite.
    """
    if eager.shape != exported.shape:
        return float("inf")
    if not eager.numel():
        return 0.0
    off = (exported.double() - eager.double()).abs() / eager.double().abs().clamp(min=1)
    return float(off.nan_to_num(nan=torch.inf).max())


def largest(parity: Iterable[Comparison]) -> dict[str, float]:
    """Return the largest difference of each output over all comparisons."""
    found: dict[str, float] = {}
    for comparison in parity:
        for name, value in comparison.differences.items():
            found[name] = max(value, found.get(name, 0.0))
    return found


def require_same(parity: Iterable[Comparison], limit: float, where: str) -> None:
    """Refuse what does not compute the same.

    Raises:
        ExportError: if an output is off by more than ``limit``.
    """
    off = {name: value for name, value in largest(parity).items() if not value <= limit}
    if off:
        told = ", ".join(f"{name} by {value:.1e}" for name, value in off.items())
        raise ExportError(
            f"{where}: the exported model does not compute the same: {told}, "
            f"more than {limit:.0e}; nothing was written"
        )


def _beside(checkpoint: Path, kind: str, suffix: str) -> Path:
    if checkpoint.is_dir():
        return checkpoint / f"{kind}{suffix}"
    return checkpoint.with_suffix(suffix)


def _require_place(path: Path, card: Path, suffix: str, format_name: str) -> None:
    """Raise OutputError unless ``path`` is free, or an earlier export, and ends as it should."""
    if path.suffix != suffix:
        raise OutputError(
            f"{path}: expected a name that ends in {suffix} for --format {format_name}, "
            f"found {path.suffix or 'no suffix'!r}"
        )
    if card.is_dir():
        raise OutputError(f"{card}: is a folder; expected a name for the export's card")
    if os.path.lexists(path) and not (path.is_file() and card.is_file()):
        raise OutputError(
            f"{path}: exists, and is no earlier export (there is no {card.name}); choose another "
            "name or remove it"
        )


def _described(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "shape": list(port.shape),
        "dtype": str(port.dtype).removeprefix("torch."),
        "meaning": port.meaning,
    }


def _card(
    graph: Graph, result: ExportResult, content: str, versions: dict[str, str | int]
) -> dict[str, Any]:
    """Return what FILE.json says of a file of the hash ``content``.

    A word in a shape is a size that is free.
    """
    return {
        "kind": result.kind,
        "format": result.format,
        "sha256": content,
        "weights": graph.source,
        "backbone": graph.backbone,
        "inputs": result.inputs,
        "preprocessing": graph.preprocessing,
        "outputs": result.outputs,
        "labels": graph.labels,
        "parity": {
            "measure": "largest |exported - eager| / max(1, |eager|)",
            "limit": result.limit,
            "comparisons": [asdict(comparison) for comparison in result.parity],
        },
        "versions": versions,
    }
