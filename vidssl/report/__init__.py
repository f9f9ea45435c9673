"""Reports: plots as PNG, and a web page in a single file that holds them.

``figures`` draws with matplotlib, ``marks`` into the frames of a video. ``page`` puts text, tables,
figures and commands into one HTML file that needs no network and no other file, ``player`` is a
page about one video that plays it. ``card`` is the report card of an encoder, ``card_page`` its
page, whose plots plotly draws. None knows what a run is: the jobs read files and hand over plain
values.
"""

from vidssl.report.page import (
    Block,
    Code,
    Commands,
    Facts,
    Figure,
    Figures,
    Page,
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
    "Figures",
    "Page",
    "Section",
    "Table",
    "Text",
    "render",
    "write",
]
