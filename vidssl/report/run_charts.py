"""What plotly is told to draw about a training: its numbers over the steps, and its scores.

A long training is thinned for the page: of each bin of neighbouring steps the lowest and the
highest value are kept, so that no spike is lost, and with them where a value was not finite. The
running mean is taken over all values before.

Array suffixes: T logged steps.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidssl.report._short import printable, spread
from vidssl.report.card import LearningCurve
from vidssl.report.charts import NAMES_DOWN, Chart, plain, unique

SMOOTH_FROM = 40
"""Curves with fewer points than this are shown as they are, without a running mean."""
MOST_POINTS = 2000
"""Points of a curve; a line of more looks the same."""
LEAST_POINTS = 100
PAGE_POINTS = 50_000
"""Points of all curves of a page, which keeps it small however much is logged."""
MOST_MARKS = 40
LARGEST = 1e250
"""What is further from zero counts as not finite: plotly's axes overflow."""
SERIES = ("@blue", "#e69f00", "@soft", "#2ca87f", "#a275c9")
"""Colours that the colour-blind tell apart, on light and on dark."""


@dataclass(frozen=True)
class Mark:
    """Something that happened after a step: a line through every curve, whose head tells it."""

    kind: Literal["alarm", "undone", "resumed"]
    step: int
    words: str


HEADS: Mapping[str, tuple[str, str]] = {
    "alarm": ("triangle-down", "@bad"),
    "undone": ("x", "@bad"),
    "resumed": ("circle", "@soft"),
}
"""By the kind of a mark plotly's symbol for its head, and the colour."""


# --- curves


def scalars(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of a log's numbers: loss and learning rate first, then in their order."""
    found = dict.fromkeys(
        name for entry in log for name, value in entry.items() if _is_number(value)
    )
    found.pop("step", None)
    first = [name for name in ("loss", "lr") if name in found]
    return first + [name for name in found if name not in first]


def curve_of(log: Sequence[Mapping[str, Any]], name: str, meaning: str = "") -> LearningCurve:
    """Return one number of a run's log; steps at which it was not logged are left out.

    ``log`` holds the logged steps, each with ``step``. What no float holds counts as not finite.
    """
    points = [
        (entry["step"], _as_float(entry[name]))
        for entry in log
        if _is_number(entry.get(name)) and type(entry.get("step")) is int
    ]
    points = [(step, value) for step, value in points if abs(step) < 2**53]
    return LearningCurve(
        name, [step for step, _ in points], [value for _, value in points], meaning
    )


def curves(series: Sequence[LearningCurve], marks: Sequence[Mark] = ()) -> list[Chart]:
    """Return a plot for each number; values that are not finite leave a gap.

    From ``SMOOTH_FROM`` points on a running mean is drawn over the values. Of more than
    ``MOST_MARKS`` marks as many are drawn, from the first to the last.
    """
    share = PAGE_POINTS // max(1, len(series))
    most = max(LEAST_POINTS, min(MOST_POINTS, share))
    heads = _heads([marks[n] for n in spread(len(marks), MOST_MARKS)]) if marks else None
    return [_curve(one, most, heads) for one in series]


def thinned(values_T: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Return the places of at most ``most`` values, in order: all of them if they are that few.

    Otherwise the first and the last, and of each of equally long bins the lowest, the highest and
    the first that is not finite.

    Raises:
        ValueError: if ``most`` is below 5.
    """
    if most < 5:
        raise ValueError(f"thinned: expected room for 5 values or more, got {most}")
    count = len(values_T)
    if count <= most:
        return np.arange(count)
    finite_T = np.isfinite(values_T)
    kept = {0, count - 1}
    edges = np.linspace(0, count, (most - 2) // 3 + 1).round().astype(int).tolist()
    for low, high in pairwise(edges):
        finite = finite_T[low:high]
        if finite.any():
            part = values_T[low:high]
            kept.add(low + int(np.where(finite, part, np.inf).argmin()))
            kept.add(low + int(np.where(finite, part, -np.inf).argmax()))
        if not finite.all():
            kept.add(low + int(finite.argmin()))
    return np.array(sorted(kept))


def running_mean(
    values_T: NDArray[np.float64], window: int, places: Sequence[int]
) -> NDArray[np.float64]:
    """Return the mean of the ``window`` values around each of the places, as many as these.

    Values that are not finite count for nothing. An even window takes one more; at both ends there
    are fewer. Every mean is taken anew, so that a value of 1e20 does not spoil those after it.
    """
    half = window // 2
    finite_T = np.isfinite(values_T)
    means = np.full(len(places), np.nan)
    for number, place in enumerate(places):
        around = slice(max(0, place - half), place + half + 1)
        known = values_T[around][finite_T[around]]
        if len(known):
            means[number] = known.mean()
    return means


def _curve(one: LearningCurve, most: int, heads: tuple[Any, Any] | None) -> Chart:
    values_T = np.array(one.values, dtype=np.float64)
    values_T[~(np.abs(values_T) <= LARGEST)] = np.nan
    places = thinned(values_T, most).tolist()
    steps = [one.steps[n] for n in places]
    data = [_line(steps, values_T[places])]
    if len(values_T) >= SMOOTH_FROM:
        window = max(3, len(values_T) // 20) | 1
        data[0] |= {"mode": "lines", "opacity": 0.4, "line": {"color": "@blue", "width": 1}}
        mean = _line(steps, running_mean(values_T, window, places), f"mean of {window}: ")
        data.append(mean | {"mode": "lines"})
    layout: dict[str, Any] = {
        "margin": {"l": 10, "r": 12, "t": 12, "b": 28},
        "hovermode": "x unified",
        "dragmode": "zoom",
        "uirevision": "kept",  # in other colours it stays zoomed
        "paper_bgcolor": "@card",  # the edge of the line under the mouse
        "plot_bgcolor": "@card",
        "xaxis": {
            "showgrid": False,
            "nticks": 5,
            "hoverformat": ",d",
            "unifiedhovertitle": {"text": "step %{x}"},
            "spikecolor": "@soft",
            "spikedash": "solid",
            "spikethickness": 1,
        },
        "yaxis": {"automargin": True, "nticks": 5, **_at_least(values_T)},
    }
    if heads:
        data.append(heads[0])
        layout["shapes"] = heads[1]
        layout["yaxis2"] = {
            "overlaying": "y",
            "range": [0, 1],
            "visible": False,
            "fixedrange": True,
        }
    title = printable(one.name)
    note = [one.meaning] if one.meaning else []
    if len(places) < len(values_T):
        note.append(
            f"{len(values_T):,} values, thinned: the lowest and highest of each "
            f"{math.ceil(3 * len(values_T) / (most - 2))}."
        )
    return Chart(title, f"{title}: {_said(one.steps, values_T)}", data, layout, 210, " ".join(note))


def _line(steps: Sequence[int], values_T: NDArray[np.float64], named: str = "") -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(steps),
        "y": [float(f"{v:.6g}") if math.isfinite(v) else None for v in values_T.tolist()],
        "line": {"color": "@blue", "width": 1.8},
        "marker": {"size": 4},
        "hovertemplate": f"{named}%{{y:.5~g}}<extra></extra>",
    }


def _at_least(values_T: NDArray[np.float64]) -> dict[str, Any]:
    """Keep the axis of a constant from showing the last bits of it."""
    if not np.isfinite(values_T).any():
        return {}
    low, high = float(np.nanmin(values_T)), float(np.nanmax(values_T))
    least = max(1e-3 * abs(low), 1e-9)
    if high - low >= least:
        return {}
    middle = (low + high) / 2
    return {"range": [middle - least, middle + least]}


def _said(steps: Sequence[int], values_T: NDArray[np.float64]) -> str:
    finite = np.flatnonzero(np.isfinite(values_T)).tolist()
    if not finite:
        return "never a finite number"
    first, last = finite[0], finite[-1]
    before, after = values_T[first], values_T[last]
    return f"{before:.4g} at step {steps[first]}, {after:.4g} at step {steps[last]}"


def _heads(marks: Sequence[Mark]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the heads of marks, on an axis of their own from 0 to 1, and their lines."""
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [mark.step for mark in marks],
        "y": [1] * len(marks),
        "yaxis": "y2",
        "cliponaxis": False,
        "text": [_wrapped(mark.words) for mark in marks],
        "marker": {
            "size": 9,
            "symbol": [HEADS[mark.kind][0] for mark in marks],
            "color": [HEADS[mark.kind][1] for mark in marks],
        },
        "hovertemplate": "%{text}<extra></extra>",
    }
    lines = [
        {
            "type": "line",
            "layer": "below",
            "x0": mark.step,
            "x1": mark.step,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": HEADS[mark.kind][1], "width": 1, "dash": "dot"},
        }
        for mark in marks
    ]
    return trace, lines


def _wrapped(words: str) -> str:
    lines = textwrap.wrap(printable(words, 200), 34) or [""]
    return "<br>".join(plain(line, 40) for line in lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.nan


# --- scores


def average_precision(
    title: str, names: Mapping[int, str], series: Mapping[str, Mapping[int, float | None]]
) -> Chart:
    """Return the average precision of every class as bars, those of several series together.

    ``names`` and each of ``series`` are by class id; a value is in [0, 1]. NaN, None and absent
    values, which classes without ground truth have, show as a dash.

    Raises:
        ValueError: if there is no series or no class.
    """
    if not series or not names:
        raise ValueError(f"expected series and classes, got {len(series)} and {len(names)}")
    classes = unique([plain(name, 30) for name in names.values()])
    data = []
    for number, (label, values) in enumerate(series.items()):
        found = [_known(values.get(class_id)) for class_id in names]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": plain(label, 40),
                "y": classes,
                "x": [round(value or 0.0, 6) for value in found],
                "text": ["–" if value is None else f"{value:.2f}" for value in found],
                "textposition": "outside",
                "textangle": 0,
                "cliponaxis": False,
                "marker": {"color": SERIES[number % len(SERIES)]},
                "hovertemplate": f"%{{y}}: %{{text}}<extra>{plain(label, 40)}</extra>",
            }
        )
    layout: dict[str, Any] = {
        "margin": {"l": 10, "r": 30, "t": 30 if len(series) > 1 else 8, "b": 30},
        "xaxis": {"range": [0, 1.02], "nticks": 6},
        "yaxis": NAMES_DOWN,
        "showlegend": len(series) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "bargap": 0.25,
    }
    alt = f"Average precision of {len(names)} classes"
    height = 80 + max(22, 14 * len(series) + 6) * len(names)
    return Chart(title, alt, data, layout, height)


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
