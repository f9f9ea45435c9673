"""Reports: pictures, plots, and a web page in a single file that holds them.

``page`` puts text, tables, pictures, plots and commands into one HTML file that needs no network
and no other file; ``player`` is a page about one video that plays it; ``card`` is the report card
of an encoder, ``card_page`` its page. ``charts`` is what plotly is told to draw on them:
``run_charts`` about a training, ``card_charts`` about an encoder. ``figures`` draws PNG with
matplotlib, ``marks`` into the frames of a video. None knows what a run is: the jobs read files and
hand over plain values.
"""

from vidssl.report.page import (
    Block,
    Code,
    Commands,
    Facts,
    Figure,
    Page,
    Plots,
    Section,
    Table,
    Text,
    render,
    write,
)

__all__ = [
    "Block",
    "Code",
    "Commands",
    "Facts",
    "Figure",
    "Page",
    "Plots",
    "Section",
    "Table",
    "Text",
    "render",
    "write",
]
