"""What all drawings share: colours, style, and the way to PNG bytes.

White cards that read the same on a light and on a dark page. The colours are Okabe and Ito's,
which the colour-blind can tell apart (https://jfly.uni-koeln.de/color/).
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN, PURPLE = "#0072B2", "#E69F00", "#9A9A9A", "#009E73", "#CC79A7"
SERIES = (BLUE, ORANGE, GREY, GREEN, PURPLE)
INK, SOFT, LINE = "#1d2229", "#5b626d", "#e3e5e8"
DPI = 144
STYLE: dict[Any, Any] = {  # matplotlib types its keys as one long list of literals
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


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this module's style; letters that the font lacks become boxes without a word."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG at ``DPI`` dots an inch."""
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, equal pictures are equal files.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
