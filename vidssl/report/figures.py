"""Bars of scores, as PNG bytes; equal input gives equal bytes.

The grid of key frames is here as well.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vidssl.report._drawing import SERIES, SOFT, png, styled
from vidssl.report._short import printable, spread
from vidssl.report.pictures import (
    MarkedBox,
    MarkedFrame,
    keyframe_grid,
)

__all__ = [
    "MarkedBox",
    "MarkedFrame",
    "average_precision_bars",
    "keyframe_grid",
    "spread",
]


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
