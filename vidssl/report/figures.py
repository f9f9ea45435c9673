"""Plots, as PNG bytes; equal input gives equal bytes. The grid of key frames is here as well.

Array suffixes: T points.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vidssl.report._drawing import (
    BLUE,
    SERIES,
    SOFT,
    png,
    printable,
    spread,
    styled,
)
from vidssl.report.pictures import (
    MarkedBox,
    MarkedFrame,
    keyframe_grid,
)

__all__ = [
    "MarkedBox",
    "MarkedFrame",
    "average_precision_bars",
    "curves",
    "keyframe_grid",
    "running_mean",
    "scalars",
    "spread",
]

SMOOTH_FROM = 40
"""Curves with fewer points than this are shown as they are, without a running mean."""


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
    with styled():
        figure = Figure(figsize=(3.3 * columns, 2.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            _curve(axes, log, name)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        return png(figure)


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
    with styled():
        figure = Figure(figsize=(7.5, height), layout="constrained")
        axes = figure.subplots()
        places = list(_places(groups))
        for number, values in enumerate(series.values()):
            offset = (number - (len(series) - 1) / 2) * thickness
            _bars(axes, places, values, offset, thickness, SERIES[number % len(SERIES)])
        _class_axis(axes, places, names, groups)
        _series_legend(figure, list(series))
        return png(figure)


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
