"""Grids of key frames, as PNG bytes; equal input gives equal bytes.

Where true and predicted boxes must be told apart, the line's style differs as well as the colour.

Array suffixes: T frames, H and W pixels, N boxes.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vidssl.boxes import Boxes
from vidssl.report._drawing import ORANGE, png, styled
from vidssl.report._short import printable

DASHES = (0.0, (4.0, 3.0))
TRUE, PREDICTED = "#56B4E9", ORANGE  # on pictures, where the darker blue is lost
_TRUE_TEXT, _PREDICTED_TEXT = "#0b5c8c", "#8a5a00"  # the same hues, dark enough to read on white


@dataclass(frozen=True)
class MarkedBox:
    """A normalised box ``(4,)`` and what was said of it; ``scores`` go with ``labels`` if given."""

    box: Boxes
    labels: Sequence[str]
    scores: Sequence[float] = ()


@dataclass(frozen=True)
class MarkedFrame:
    """A key frame ``(H, W, 3)``, uint8, with the true boxes and the predicted ones."""

    title: str
    frame: NDArray[np.uint8]
    true: Sequence[MarkedBox] = ()
    predicted: Sequence[MarkedBox] = ()


def keyframe_grid(items: Sequence[MarkedFrame], columns: int = 3) -> bytes:
    """Return key frames with true boxes (solid, numbered) and predicted ones (dashed, lettered).

    What was said of each box stands under its frame.

    Raises:
        ValueError: if there is no frame.
    """
    if not items:
        raise ValueError("a grid of key frames needs at least one")
    columns = min(columns, len(items))
    texts = [_captions(item) for item in items]
    rows = [range(n, min(n + columns, len(items))) for n in range(0, len(items), columns)]
    wide, gap, line = 3.4, 0.15, 0.165  # inches
    tall = [max(wide * _shape_ratio(items[i].frame) for i in row) for row in rows]
    under = [line * max(len(texts[i]) for i in row) + 0.1 for row in rows]
    head, legend = 0.3, 0.35
    width = columns * (wide + gap) + gap
    height = legend + sum(tall) + sum(under) + (head + gap) * len(rows)
    with styled():
        figure = Figure(figsize=(width, height))
        _box_legend(figure, gap / width, 1 - legend / 2 / height)
        top = height - legend
        for row, picture, text in zip(rows, tall, under, strict=True):
            for column, index in enumerate(row):
                left = (gap + column * (wide + gap)) / width
                item, place = items[index], (top - head) / height
                figure.text(left, place + 0.07 / height, printable(item.title, 44), weight="bold")
                high = wide * _shape_ratio(item.frame)
                rectangle = (left, (top - head - high) / height, wide / width, high / height)
                _marked(figure.add_axes(rectangle), item)
                for number, (line_text, colour) in enumerate(texts[index]):
                    y = (top - head - picture - 0.14 - line * (number + 0.5)) / height
                    figure.text(left, y, line_text, color=colour, size=8, va="center")
            top -= head + picture + text + gap
        return png(figure)


def _show(axes: Axes, frame: NDArray[np.uint8]) -> None:
    """Fill the axes with a frame, one unit a pixel."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"expected a uint8 frame (H, W, 3), got {frame.dtype} {frame.shape}")
    height, width = frame.shape[:2]
    # Edges at 0 and the size, rather than half a pixel off, so that normalised boxes just scale.
    axes.imshow(frame, extent=(0, width, height, 0), interpolation="antialiased", aspect="equal")
    axes.set_axis_off()


def _outline(axes: Axes, frame: NDArray[np.uint8], box: Boxes, colour: str, style: Any) -> None:
    """Draw a box with a dark rim, so that it shows on any background."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    for line_colour, line_width, line_style in (("black", 2.6, "-"), (colour, 1.5, style)):
        axes.add_patch(
            Rectangle(
                (x1 * width, y1 * height),
                (x2 - x1) * width,
                (y2 - y1) * height,
                fill=False,
                edgecolor=line_colour,
                linewidth=line_width,
                linestyle=line_style,
                alpha=0.55 if line_colour == "black" else 1.0,
            )
        )


def _marked(axes: Axes, item: MarkedFrame) -> None:
    _show(axes, item.frame)
    # Predictions on top: where both lie together the solid line must not hide the dashes.
    for number, marked in enumerate(item.true):
        _outline(axes, item.frame, marked.box, TRUE, "-")
        _tag(axes, item.frame, marked.box, str(number + 1), TRUE, last=False)
    for number, marked in enumerate(item.predicted):
        _outline(axes, item.frame, marked.box, PREDICTED, DASHES)
        _tag(axes, item.frame, marked.box, _letter(number), PREDICTED, last=True)


def _tag(
    axes: Axes, frame: NDArray[np.uint8], box: Boxes, text: str, colour: str, *, last: bool
) -> None:
    """Write a box's number into its upper left corner, or with ``last`` its lower right one."""
    height, width = frame.shape[:2]
    x, y = (box[2], box[3]) if last else (box[0], box[1])
    axes.annotate(
        text,
        (min(max(float(x), 0.0), 1.0) * width, min(max(float(y), 0.0), 1.0) * height),
        xytext=(-1.5, 1.5) if last else (1.5, -1.5),
        textcoords="offset points",
        ha="right" if last else "left",
        va="bottom" if last else "top",
        size=7.5,
        weight="bold",
        color="black",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": "none"},
    )


def _captions(item: MarkedFrame) -> list[tuple[str, str]]:
    """Return the lines under a frame with their colours."""
    lines: list[tuple[str, str]] = []
    for boxes, tag, colour in (
        (item.true, lambda n: str(n + 1), _TRUE_TEXT),
        (item.predicted, _letter, _PREDICTED_TEXT),
    ):
        for number, marked in enumerate(boxes):
            said = [printable(label) for label in marked.labels] or ["no label"]
            if marked.scores:
                said = [f"{t} {s:.2f}" for t, s in zip(said, marked.scores, strict=True)]
            wrapped = textwrap.wrap(
                f"{tag(number)}  {', '.join(said)}", 50, subsequent_indent="    "
            )
            lines += [(line, colour) for line in wrapped]
    return lines


def _letter(number: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _box_legend(figure: Figure, x: float, y: float) -> None:
    handles = [
        Line2D([], [], color=TRUE, linewidth=2),
        Line2D([], [], color=PREDICTED, linewidth=2, linestyle=DASHES),
    ]
    figure.legend(
        handles,
        ["true: 1, 2, ...", "predicted: a, b, ..."],
        loc="center left",
        bbox_to_anchor=(x, y),
        ncols=2,
        borderaxespad=0.0,
        borderpad=0.0,
    )


def _shape_ratio(frame: NDArray[np.uint8]) -> float:
    return float(frame.shape[0] / frame.shape[1])
