"""What plotly is told to draw on a report card, as plain values for its JavaScript.

Array suffixes: K classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.report.card import Card, Motion, Score, comparable
from vidssl.report.charts import NAMES_DOWN, Chart, plain, unique

MOST_CLASSES = 40
"""Rows and columns of a confusion matrix that can still be read."""
MOST_BARS = 30
ROW_PX = 26


# --- comparison


def comparisons(card: Card) -> list[Chart]:
    """Return a plot for each large score that somebody else has under the same protocol."""
    charts = []
    for score in card.scores:
        if not score.large:
            continue
        rows = [(card.name, score)]
        for rival in card.rivals:
            rows += [
                (rival.name, other)
                for other in rival.scores
                if other.value is not None and comparable(score, other)
            ]
        if score.value is not None and len(rows) > 1:
            charts.append(_dots(score, rows))
    return charts


def _dots(score: Score, rows: Sequence[tuple[str, Score]]) -> Chart:
    names = unique([plain(name, 24) for name, _ in rows])
    values = [100 * (one.value or 0.0) for _, one in rows]
    up = [100 * ((one.high if one.high is not None else one.value) or 0) for _, one in rows]
    down = [100 * ((one.low if one.low is not None else one.value) or 0) for _, one in rows]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": values,
        "y": names,
        "marker": {"size": 10, "color": ["@blue"] + ["@soft"] * (len(rows) - 1)},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [a - b for a, b in zip(up, values, strict=True)],
            "arrayminus": [b - a for a, b in zip(down, values, strict=True)],
            "color": "@soft",
            "thickness": 1.5,
            "width": 5,
        },
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    layout: dict[str, Any] = {
        "margin": {"l": 10, "r": 20, "t": 8, "b": 34},
        "xaxis": {"range": [0, 102], "ticksuffix": " %", "nticks": 6},
        "yaxis": {
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
            "type": "category",
        },
    }
    note = ""
    if score.chance is not None:
        layout["shapes"] = [_chance_line(score.chance)]
        note = f"The dotted line is chance: {100 * score.chance:.1f} %."
    said = ", ".join(f"{n} {v:.1f} %" for n, v in zip(names, values, strict=True))
    return Chart(score.title, f"{score.title}: {said}", [trace], layout, 60 + 30 * len(rows), note)


def _chance_line(chance: float) -> dict[str, Any]:
    return {
        "type": "line",
        "x0": 100 * chance,
        "x1": 100 * chance,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "@bad", "width": 1.5, "dash": "dot"},
    }


# --- confusion


def confusion(counts_KK: NDArray[np.int64], classes: Sequence[str]) -> Chart | None:
    """Return the confusion matrix as a heat map, each row of it as shares; None if it is empty.

    Of more than ``MOST_CLASSES`` classes those with the most mistakes are shown.
    """
    wrong = counts_KK.sum(1) + counts_KK.sum(0) - 2 * np.diag(counts_KK)
    shown = np.flatnonzero(counts_KK.sum(1) + counts_KK.sum(0))
    if not len(shown):
        return None
    note = "A row is a true class, a column what its videos were taken for."
    if len(shown) > MOST_CLASSES:
        note += f" The {MOST_CLASSES} of {len(shown)} classes with the most mistakes."
        worst = shown[np.argsort(-wrong[shown], kind="stable")[:MOST_CLASSES]]
        shown = np.sort(worst)
    rows = counts_KK.sum(1, keepdims=True)
    share = np.divide(counts_KK, rows, out=np.zeros(counts_KK.shape), where=rows > 0)
    names = unique([plain(classes[k], 22) for k in shown.tolist()])
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": np.round(100 * share[np.ix_(shown, shown)], 2).tolist(),
        "customdata": counts_KK[np.ix_(shown, shown)].tolist(),
        "zmin": 0,
        "zmax": 100,
        "xgap": 1,
        "ygap": 1,
        "colorscale": [[0, "@tint"], [1, "@blue"]],
        "colorbar": {"ticksuffix": " %", "thickness": 10, "outlinewidth": 0, "len": 0.6},
        "hovertemplate": "%{y}<br>taken for %{x}<br>%{customdata} videos, %{z:.0f} % of the "
        "class<extra></extra>",
    }
    layout: dict[str, Any] = {
        "margin": {"l": 10, "r": 10, "t": 8, "b": 10},
        "xaxis": {
            "automargin": True,
            "showgrid": False,
            "tickangle": -45,
            "dtick": 1,
            "type": "category",
        },
        "yaxis": {
            "automargin": True,
            "showgrid": False,
            "autorange": "reversed",
            "dtick": 1,
            "type": "category",
        },
    }
    right = int(np.trace(counts_KK))
    alt = f"Confusion matrix: {right} of {int(counts_KK.sum())} videos on the diagonal"
    height = min(900, 220 + max(ROW_PX, 14) * len(names) * (1 if len(names) < 12 else 0.7))
    return Chart("Confusion matrix", alt, [trace], layout, int(height), note)


def confused_pairs(
    counts_KK: NDArray[np.int64], classes: Sequence[str], most: int = 12
) -> list[tuple[str, str, int, float]]:
    """Return (true class, taken for, videos, share of the class), the most frequent first."""
    off = counts_KK.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(classes)) for place in order]
    return [
        (classes[i], classes[j], int(off[i, j]), float(off[i, j] / counts_KK[i].sum()))
        for i, j in pairs
        if off[i, j] > 0
    ]


# --- motion


def motion(found: Motion, classes: Sequence[str]) -> list[Chart]:
    """Return the accuracies on damaged time, and each class's share that needs time."""
    known = [score for score in found.variants if score.value is not None]
    charts = []
    if known:
        values = [100 * (score.value or 0.0) for score in known]
        trace = {
            "type": "bar",
            "x": [plain(score.title, 24) for score in known],
            "y": values,
            "marker": {"color": ["@blue"] + ["@soft"] * (len(known) - 1)},
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [_reach(score.high, score.value) for score in known],
                "arrayminus": [_reach(score.value, score.low) for score in known],
                "color": "@ink",
                "thickness": 1.2,
                "width": 4,
            },
            "hovertemplate": "%{x}: %{y:.1f} %<extra></extra>",
        }
        said = ", ".join(f"{s.title} {v:.1f} %" for s, v in zip(known, values, strict=True))
        layout = {
            "margin": {"l": 46, "r": 10, "t": 8, "b": 30},
            "yaxis": {"range": [0, 105], "ticksuffix": " %"},
            "xaxis": {"showgrid": False, "automargin": True, "type": "category"},
            "bargap": 0.45,
        }
        charts.append(Chart("Accuracy when time is damaged", said, [trace], layout, 280))
    if found.per_class is not None and np.isfinite(found.per_class).any():
        charts.append(_needs_time(found.per_class, classes))
    return charts


def _needs_time(share_K: NDArray[np.float64], classes: Sequence[str]) -> Chart:
    order = [int(k) for k in np.argsort(-share_K, kind="stable") if math.isfinite(share_K[k])]
    note = ""
    if len(order) > MOST_BARS:
        half = MOST_BARS // 2
        note = f"The {half} classes that need time most and the {half} that need it least."
        order = [*order[:half], *order[-half:]]
    values = [100 * float(share_K[k]) for k in order]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": unique([plain(classes[k], 28) for k in order]),
        "marker": {"color": "@blue"},
        "hovertemplate": "%{y}: %{x:.0f} %<extra></extra>",
    }
    layout = {
        "margin": {"l": 10, "r": 20, "t": 8, "b": 34},
        "xaxis": {"ticksuffix": " %", "range": [min(0, *values), 102]},
        "yaxis": NAMES_DOWN,
    }
    alt = f"Share of accuracy that needs time, {len(order)} classes"
    height = 70 + 24 * len(order)
    return Chart(
        "Share of each class's accuracy that needs time", alt, [trace], layout, height, note
    )


def _reach(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else 100 * (high - low)
