"""A plot as plotly is told to draw it, and names that it shows as they are.

A text that begins with ``@`` is the name of one of the page's colours, which differ in the light
and in the dark; the page puts them in. Whatever comes from data goes through ``plain``, because
plotly reads markup in its texts.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vidssl.report._short import printable

NAMES_DOWN = {
    "automargin": True,
    "autorange": "reversed",
    "showgrid": False,
    "dtick": 1,
    "type": "category",
}
"""The axis of lying bars: each name is shown, the first on top."""


@dataclass(frozen=True)
class Chart:
    """One plot: plotly's traces and layout, how high it is, and in words what it shows."""

    title: str
    alt: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height_px: int = 240
    note: str = ""


def plain(text: str, limit: int = 32) -> str:
    """Return text on one line that plotly shows as it is, and that names no colour of the page.

    >>> plain("@blue <b>")
    '&#64;blue &lt;b&gt;'
    """
    escaped = html.escape(printable(text, limit), quote=False)
    return f"&#64;{escaped[1:]}" if escaped.startswith("@") else escaped


def unique(names: Sequence[str]) -> list[str]:
    """Return names of which no two are equal, which plotly would draw as one.

    >>> unique(["run", "run", "run (2)"])
    ['run', 'run (3)', 'run (2)']
    """
    taken, seen = {*names}, set[str]()
    found = []
    for name in names:
        told, number = name, 1
        while told in seen or (number > 1 and told in taken):
            number += 1
            told = f"{name} ({number})"
        seen.add(told)
        found.append(told)
    return found
