"""A report as one HTML file: pictures and plots inside it, nothing fetched from anywhere.

Whatever stands in a block may come from a hostile file: all of it is escaped, and the page's own
policy forbids requests and all scripts but plotly's and the page's, which it knows by their hashes.
A page without a plot carries no script at all.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Template

from vidssl.files import write_text
from vidssl.report._scripts import scripts
from vidssl.report._template import environment, writable
from vidssl.report.charts import Chart

NOTHING = "–"
"""What stands for an absent value, NaN included."""

Cell = str | int | float | None


@dataclass(frozen=True)
class Text:
    """One paragraph; line ends are kept."""

    text: str


@dataclass(frozen=True)
class Facts:
    """A few numbers worth large print, as (name, value)."""

    facts: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Table:
    """Rows as wide as the header. Columns of numbers stand right; None and NaN show as a dash.

    A header of empty names is not shown. Floats are shown with four digits; give a string to show
    one otherwise.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        """Refuse a row of another length."""
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                expected, found = len(self.header), len(row)
                raise ValueError(f"row {number}: expected {expected} cells, got {found}")

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers alone."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.header)
        return [bool(cells) and not any(isinstance(c, str) for c in cells) for cells in columns]


@dataclass(frozen=True)
class Figure:
    """A picture, PNG or SVG, with what it shows in words for those who cannot see it."""

    image: bytes
    alt: str
    caption: str = ""

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` address.

        Raises:
            ValueError: if the bytes are neither PNG nor SVG.
        """
        return f"data:{_media_type(self.image)};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True)
class Plots:
    """Plots that answer to the mouse, side by side, as many as there is room for."""

    charts: Sequence[Chart]
    small: bool = True
    """Whether three stand beside each other on a wide page, not two."""


@dataclass(frozen=True)
class Commands:
    """Lines to type into a shell."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text of a file, spaces kept; folded away behind ``summary`` if there is one."""

    text: str
    summary: str = ""


Block = Text | Facts | Table | Figure | Plots | Commands | Code


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report; ``lead`` is a sentence under the title."""

    title: str
    sections: Sequence[Section]
    lead: str = ""


def render(page: Page) -> str:
    """Return the page as HTML; equal pages give equal text.

    Raises:
        ValueError: if a figure is neither PNG nor SVG.
    """
    blocks = [block for section in page.sections for block in section.blocks]
    charts = [chart for block in blocks if isinstance(block, Plots) for chart in block.charts]
    numbers = {id(chart): number for number, chart in enumerate(charts)}
    html = _template().render(
        page=page,
        number_of=lambda chart: numbers[id(chart)],
        scripts=scripts(charts) if charts else None,
    )
    return writable(html)


def write(path: Path, page: Page) -> None:
    """Write the page to ``path``, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    write_text(path, render(page))


def shown(cell: Cell) -> str:
    """Return a cell's text."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return NOTHING
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _template() -> Template:
    templates = environment()
    templates.filters["shown"] = shown
    templates.filters["kind"] = lambda block: type(block).__name__
    return templates.get_template("page.html")


def _media_type(image: bytes) -> str:
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image.lstrip().startswith((b"<svg", b"<?xml")):
        return "image/svg+xml"
    raise ValueError(f"expected a PNG or SVG picture, got bytes that begin {image[:8]!r}")
