"""Plots and sheets of pictures, as PNG bytes; equal input gives equal bytes.

White cards that read the same on a light and on a dark page. The colours are Okabe and Ito's,
which the colour-blind can tell apart (https://jfly.uni-koeln.de/color/); where two kinds of box
must be told apart the line's style differs as well.

Array suffixes: T frames, H and W pixels, N boxes.
"""

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vidssl.boxes import Boxes

BLUE, ORANGE, GREY, GREEN, PURPLE = "#0072B2", "#E69F00", "#9A9A9A", "#009E73", "#CC79A7"
SERIES = (BLUE, ORANGE, GREY, GREEN, PURPLE)
INK, SOFT, LINE = "#1d2229", "#5b626d", "#e3e5e8"
DPI = 144
SMOOTH_FROM = 40
"""Curves with fewer points than this are shown as they are, without a running mean."""

DASHES = (0.0, (4.0, 3.0))

_STYLE: dict[Any, Any] = {  # matplotlib types its keys as one long list of literals
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a class name is a dollar
    "axes.facecolor": "white",
    "axes.edgecolor": "#a6acb5",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "grid.color": LINE,
    "figure.facecolor": "white",
    "legend.frameon": False,
    "savefig.bbox": "standard",
}


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet: uint8 frames ``(T, H, W, 3)`` under a title.

    ``boxes`` has one ``(N, 4)`` array of normalised boxes for each frame, or nothing at all.
    """

    title: str
    frames: Sequence[NDArray[np.uint8]]
    boxes: Sequence[Boxes] = ()


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


def curves(log: Sequence[Mapping[str, Any]], names: Sequence[str] = (), columns: int = 3) -> bytes:
    """Return each scalar of a run's log over its steps, a small plot for each.

    ``log`` holds the logged steps, each with ``step``. Without ``names`` all that ``scalars``
    finds are drawn. Values that are absent or not finite leave a gap. From ``SMOOTH_FROM`` points
    on a running mean is drawn over the values.

    Raises:
        ValueError: if there is nothing to draw.
    """
    names = list(names) or scalars(log)
    if not names:
        raise ValueError("curves: expected a log with at least one number, got none")
    columns = min(columns, len(names))
    rows = math.ceil(len(names) / columns)
    with _styled():
        figure = Figure(figsize=(3.3 * columns, 2.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            _curve(axes, log, name)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        return _png(figure)


def scalars(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of a log's numbers: loss and learning rate first, then in their order."""
    found = dict.fromkeys(
        name for entry in log for name, value in entry.items() if _is_number(value)
    )
    found.pop("step", None)
    first = [name for name in ("loss", "lr") if name in found]
    return first + [name for name in found if name not in first]


def average_precision_bars(
    names: Mapping[int, str],
    series: Mapping[str, Mapping[int, float | None]],
    groups: Mapping[str, Sequence[int]] | None = None,
) -> bytes:
    """Return the average precision of every class as bars, those of several series together.

    ``names`` and each of ``series`` are by class id; a value is in [0, 1]. NaN, None and absent
    values, which classes without ground truth have, show as a dash. ``groups`` gives the class ids
    under each heading, in the order to draw; without it the order is that of ``names``.

    Raises:
        ValueError: if there is no series or no class.
    """
    groups = groups if groups is not None else {"": list(names)}
    rows = sum(len(ids) for ids in groups.values())
    if not series or not rows:
        raise ValueError(f"expected series and classes, got {len(series)} and {rows}")
    thickness = 0.8 / len(series)
    per_class = max(0.3, 0.15 * len(series) + 0.12)
    height = per_class * (rows + sum(1.0 for title in groups if title)) + 0.8
    with _styled():
        figure = Figure(figsize=(7.5, height), layout="constrained")
        axes = figure.subplots()
        places = list(_places(groups))
        for number, values in enumerate(series.values()):
            offset = (number - (len(series) - 1) / 2) * thickness
            _bars(axes, places, values, offset, thickness, SERIES[number % len(SERIES)])
        _class_axis(axes, places, names, groups)
        _series_legend(figure, list(series))
        return _png(figure)


def contact_sheet(rows: Sequence[SheetRow], columns: int = 8) -> bytes:
    """Return clips as rows of frames, at most ``columns`` of each, evenly spaced.

    Raises:
        ValueError: if there is no row, or a row without a frame.
    """
    if not rows or not all(len(row.frames) for row in rows):
        raise ValueError("a contact sheet needs at least one row, and a frame in each")
    shown = [spread(len(row.frames), columns) for row in rows]
    wide = max(len(which) for which in shown)
    cell, gap, title = 1.25, 0.05, 0.26  # inches
    heights = [max(cell * f.shape[0] / f.shape[1] for f in row.frames) for row in rows]
    width, height = wide * (cell + gap) + gap, sum(heights) + (title + gap) * len(rows) + gap
    with _styled():
        figure = Figure(figsize=(width, height))
        top = height
        for row, which, tall in zip(rows, shown, heights, strict=True):
            figure.text(gap / width, (top - title / 2) / height, printable(row.title), va="center")
            top -= title + tall
            for column, index in enumerate(which):
                left = gap + column * (cell + gap)
                place = (left / width, top / height, cell / width, tall / height)
                _sheet_cell(figure, place, row, index)
            top -= gap
        return _png(figure)


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
    with _styled():
        figure = Figure(figsize=(width, height))
        _box_legend(figure, gap / width, 1 - legend / 2 / height)
        top = height - legend
        for row, picture, text in zip(rows, tall, under, strict=True):
            for column, index in enumerate(row):
                left = (gap + column * (wide + gap)) / width
                item, place = items[index], (top - head) / height
                figure.text(left, place + 0.07 / height, printable(item.title), weight="bold")
                high = wide * _shape_ratio(item.frame)
                rectangle = (left, (top - head - high) / height, wide / width, high / height)
                _marked(figure.add_axes(rectangle), item)
                for number, (line_text, colour) in enumerate(texts[index]):
                    y = (top - head - picture - 0.14 - line * (number + 0.5)) / height
                    figure.text(left, y, line_text, color=colour, size=8, va="center")
            top -= head + picture + text + gap
        return _png(figure)


def spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` positions of ``count``, evenly spaced, first and last included."""
    return sorted({round(p) for p in np.linspace(0, count - 1, min(count, most))})


def printable(text: str, limit: int = 90) -> str:
    """Return text on one line: control characters escaped, the middle of a long one left out."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    half = (limit - 1) // 2
    return line if len(line) <= limit else f"{line[:half]}…{line[-half:]}"


# --- curves


def _curve(axes: Axes, log: Sequence[Mapping[str, Any]], name: str) -> None:
    points = [(e["step"], e[name]) for e in log if _is_number(e.get(name)) and "step" in e]
    steps = np.array([step for step, _ in points], dtype=np.float64)
    values = np.array([value for _, value in points], dtype=np.float64)
    axes.set_title(printable(name, 40))
    axes.set_xlabel("step")
    axes.grid(axis="y")
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", useOffset=False)
    values[~np.isfinite(values)] = np.nan
    _at_least(axes, values)
    if len(values) < SMOOTH_FROM:
        axes.plot(steps, values, color=BLUE, linewidth=1.4, marker=".", markersize=4)
        return
    axes.plot(steps, values, color=BLUE, linewidth=0.7, alpha=0.35)
    axes.plot(steps, running_mean(values, max(3, len(values) // 20)), color=BLUE, linewidth=1.6)


def _at_least(axes: Axes, values: NDArray[np.float64]) -> None:
    """Keep the axis of a constant from showing the last bits of it."""
    if np.isfinite(values).any():
        low, high = np.nanmin(values), np.nanmax(values)
        least = max(1e-3 * abs(low), 1e-9)
        if high - low < least:
            axes.set_ylim((low + high) / 2 - least, (low + high) / 2 + least)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the mean of the ``window`` values around each, ``(T,)``; NaN count for nothing.

    An even window takes one more; at both ends there are fewer.
    """
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    places = np.arange(len(values))
    low = np.maximum(places - window // 2, 0)
    high = np.minimum(places + window // 2 + 1, len(values))
    number = counts[high] - counts[low]
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(number > 0, (sums[high] - sums[low]) / number, np.nan)
    return mean


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- bars


def _places(groups: Mapping[str, Sequence[int]]) -> Iterator[tuple[int, float]]:
    """Give each class id with its height on the axis; a heading takes the height of a class."""
    y = 0.0
    for title, ids in groups.items():
        y += 1.0 if title else 0.0
        for class_id in ids:
            yield class_id, y
            y += 1.0


def _bars(
    axes: Axes,
    places: Sequence[tuple[int, float]],
    values: Mapping[int, float | None],
    offset: float,
    thickness: float,
    colour: str,
) -> None:
    for class_id, y in places:
        value = values.get(class_id)
        known = value is not None and math.isfinite(value)
        length = float(value) if known and value is not None else 0.0
        axes.barh(y + offset, length, height=thickness * 0.92, color=colour)
        label = f"{length:.2f}" if known else "–"
        axes.annotate(
            label,
            (length, y + offset),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            size=7,
            color=SOFT,
        )


def _class_axis(
    axes: Axes,
    places: Sequence[tuple[int, float]],
    names: Mapping[int, str],
    groups: Mapping[str, Sequence[int]],
) -> None:
    labels = [_two_lines(names.get(class_id, str(class_id))) for class_id, _ in places]
    axes.set_yticks([y for _, y in places], labels)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0.0, 1.08)
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xlabel("average precision")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    first = {ids[0]: title for title, ids in groups.items() if title and ids}
    heights = dict(places)
    for class_id, title in first.items():
        axes.text(0.0, heights[class_id] - 0.8, printable(title), weight="bold", va="center")
    axes.set_ylim(max(y for _, y in places) + 0.6, -0.6)


def _two_lines(name: str) -> str:
    return "\n".join(textwrap.wrap(printable(name), 32, max_lines=2, placeholder=" …"))


def _series_legend(figure: Figure, labels: Sequence[str]) -> None:
    patches = [Patch(color=SERIES[n % len(SERIES)]) for n in range(len(labels))]
    figure.legend(
        patches, [printable(t, 40) for t in labels], loc="outside upper left", ncols=len(labels)
    )


# --- pictures


def _sheet_cell(
    figure: Figure, place: tuple[float, float, float, float], row: SheetRow, index: int
) -> None:
    axes = figure.add_axes(place)
    frame = row.frames[index]
    _show(axes, frame)
    for box in row.boxes[index] if len(row.boxes) else ():
        _outline(axes, frame, box, ORANGE, "-")


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


TRUE, PREDICTED = "#56B4E9", ORANGE  # on pictures, where the darker blue is lost
_TRUE_TEXT, _PREDICTED_TEXT = "#0b5c8c", "#8a5a00"  # the same hues, dark enough to read on white


def _marked(axes: Axes, item: MarkedFrame) -> None:
    _show(axes, item.frame)
    # Predictions first: where both lie together the solid line must not hide the dashes.
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


# --- matplotlib


@contextmanager
def _styled() -> Iterator[None]:
    """Draw in this module's style; letters that the font lacks become boxes without a word."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, equal pictures are equal files.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
