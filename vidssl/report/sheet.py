"""The sheet of samples: for each video its time line, where views were taken, what became of them.

One colour is one view, on the time line as in the pictures; the colours are Okabe and Ito's. Each
video is drawn by itself and the parts are stacked, so a sheet may be of any length.

Array suffixes: T frames, H and W pixels, N boxes.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from vidssl.boxes import Boxes
from vidssl.report._drawing import DPI, INK, SOFT, styled
from vidssl.report._short import printable, spread

VIEW_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
PERSON = "#F0E442"
KEY = "#9aa1ab"
COLUMNS = 8
"""Pictures of a view after its source frame."""
CELL, GAP, MARGIN = 0.95, 0.055, 0.25  # inches
SOURCE, SOURCE_TALL = 1.66, 1.1
EDGE = 0.1  # the coloured bar before a view, with its gap
PICTURES = MARGIN + EDGE + SOURCE + 0.14
"""Where the column of the pictures that the method sees begins."""
WIDTH = PICTURES + COLUMNS * (CELL + GAP) - GAP + MARGIN
LETTER = 0.0074  # inches that a letter takes, for each point of its size
HEAD, FACTS, LANE, AXIS = 0.27, 0.21, 0.13, 0.3
TITLE, TIMES, AFTER, TEXT = 0.24, 0.17, 0.1, 0.17
SMALL = 7.5
MOST_LINES = 4
LEAST = 0.03  # inches of a picture that is next to nothing


@dataclass(frozen=True)
class SheetView:
    """A view of a video.

    ``source`` is a frame as decoded, ``crop`` the normalised part ``(4,)`` of it that is kept;
    ``frames`` are what the method sees, at ``times_s``. ``people`` are boxes ``(N, 4)`` in the
    source frame, ``carried`` the same in frame number ``marked``, and ``said`` what each does.
    ``boxes`` are those of the method's own task in each of ``frames``.
    """

    title: str
    told: str
    source: NDArray[np.uint8]
    source_s: float
    crop: Boxes
    frames: Sequence[NDArray[np.uint8]]
    times_s: Sequence[float]
    people: Boxes | None = None
    carried: Boxes | None = None
    marked: int = -1
    said: Sequence[str] = ()
    boxes: Sequence[Boxes] | None = None


@dataclass(frozen=True)
class SheetBlock:
    """A video: its name, what is known of it in words, its length, its key frames, its views."""

    name: str
    facts: str
    duration_s: float
    keyframes_s: Sequence[float]
    views: Sequence[SheetView]


def sample_sheet(title: str, subtitle: str, blocks: Sequence[SheetBlock]) -> bytes:
    """Return the sheet as a PNG.

    Raises:
        ValueError: if there is no video, or one without a view.
    """
    if not blocks or not all(block.views for block in blocks):
        raise ValueError("a sheet of samples needs at least one video, and a view of each")
    with styled():
        parts = [_heading(title, subtitle, blocks), *(_block(block) for block in blocks)]
    sheet = Image.fromarray(np.concatenate(parts))
    buffer = io.BytesIO()
    sheet.save(buffer, format="png", dpi=(DPI, DPI))
    return buffer.getvalue()


class _Paper:
    """A strip of the sheet, laid out in inches from its top left corner."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """Write a line from ``x`` on; the middle of one that does not fit is left out."""
        line = self.figure.text(x / WIDTH, 1 - y / self.height, words, va="center", **style)
        renderer = self.canvas.get_renderer()  # type: ignore[no-untyped-call]
        room_px = (WIDTH - MARGIN - x) * DPI
        while (wide_px := line.get_window_extent(renderer).width) > room_px:
            kept = min(len(line.get_text()) - 1, int(len(line.get_text()) * room_px / wide_px))
            line.set_text(printable(line.get_text(), max(kept, 3)))

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        return self.figure.add_axes(
            (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        )

    def pixels(self) -> NDArray[np.uint8]:
        self.canvas.draw()  # type: ignore[no-untyped-call]
        return np.array(self.canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]


# --- parts


def _heading(title: str, subtitle: str, blocks: Sequence[SheetBlock]) -> NDArray[np.uint8]:
    paper = _Paper(0.95)
    paper.text(MARGIN, 0.27, printable(title, 80), size=14, weight="bold")
    paper.text(MARGIN, 0.53, printable(subtitle, 125), size=9, color=SOFT)
    axes = paper.axes(MARGIN, 0.68, WIDTH - 2 * MARGIN, 0.16)
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH - 2 * MARGIN)
    axes.set_ylim(0, 1)
    x = 0.0
    views = max((block.views for block in blocks), key=len)
    for number, view in enumerate(views[: len(VIEW_COLOURS)]):
        colour = VIEW_COLOURS[number]
        axes.add_patch(Rectangle((x, 0.1), 0.32, 0.8, color=colour, alpha=0.32, linewidth=0))
        axes.vlines([x + 0.04, x + 0.16, x + 0.28], 0.1, 0.9, color=colour, linewidth=1.2)
        x = _named(axes, x + 0.4, f"{view.title}, and its frames")
    axes.vlines([x + 0.02], 0, 1, color=KEY, linewidth=0.9)
    x = _named(axes, x + 0.1, "key frame of the file")
    signs = {
        "person as annotated": any(view.people is not None for view in views),
        "box of the method's task": any(view.boxes is not None for view in views),
    }
    for words in (words for words, is_there in signs.items() if is_there):
        axes.add_patch(
            Rectangle((x, 0.1), 0.2, 0.8, facecolor=PERSON, edgecolor="black", linewidth=0.8)
        )
        x = _named(axes, x + 0.28, words)
    return paper.pixels()


def _named(axes: Axes, x: float, words: str) -> float:
    """Write what a sign of the legend means; return where the next sign may stand."""
    axes.text(x, 0.45, words, size=8, color=SOFT, va="center")
    return x + LETTER * 8 * len(words) + 0.3


def _block(block: SheetBlock) -> NDArray[np.uint8]:
    facts = textwrap.wrap(printable(block.facts, 300), 168, break_long_words=True)
    lanes = LANE * len(block.views) + 0.12
    strips = [_height(view) for view in block.views]
    start = 0.16 + HEAD
    top = start + FACTS * len(facts) + 0.06
    paper = _Paper(top + lanes + AXIS + sum(strips) + AFTER * len(strips) + 0.08)
    rule = paper.axes(MARGIN, 0.02, WIDTH - 2 * MARGIN, 0.01)
    rule.set_axis_off()
    rule.axhline(0.5, color="#c4c9d0", linewidth=1)
    paper.text(MARGIN, 0.16 + HEAD / 2, printable(block.name, 80), size=11.5, weight="bold")
    for number, line in enumerate(facts):
        paper.text(MARGIN, start + FACTS * (number + 0.5), line, size=8.5, color=SOFT)
    inset = 0.16  # for the half of the last time's letters
    _time_line(paper.axes(MARGIN + inset, top, WIDTH - 2 * (MARGIN + inset), lanes), block)
    top += lanes + AXIS
    for number, (view, height) in enumerate(zip(block.views, strips, strict=True)):
        _strip(paper, top, height, view, VIEW_COLOURS[number % len(VIEW_COLOURS)])
        top += height + AFTER
    return paper.pixels()


def _time_line(axes: Axes, block: SheetBlock) -> None:
    """Draw the whole video: key frames as faint ticks, each view as a bar with its frames."""
    count, length_s = len(block.views), max(block.duration_s, 1e-3)
    pad_s = 0.004 * length_s
    axes.set_xlim(-pad_s, length_s + pad_s)
    axes.set_ylim(count + 0.3, -0.55)
    axes.set_facecolor("#f5f6f8")
    axes.axvspan(0, length_s, color="#f5f6f8", linewidth=0)
    axes.vlines(list(block.keyframes_s), -0.55, count + 0.3, color=KEY, linewidth=0.7, alpha=0.55)
    least_s = 0.006 * length_s  # so that a moment of a long film can be seen
    for number, view in enumerate(block.views):
        colour = VIEW_COLOURS[number % len(VIEW_COLOURS)]
        first, last = float(min(view.times_s)), float(max(view.times_s))
        first, last = max(0.0, min(first, length_s)), max(0.0, min(last, length_s))
        middle, half = (first + last) / 2, max(last - first, least_s) / 2
        axes.add_patch(
            Rectangle(
                (middle - half, number - 0.28), 2 * half, 0.72, facecolor=colour, alpha=0.32,
                linewidth=0,
            )
        )  # fmt: skip
        axes.vlines(list(view.times_s), number - 0.28, number + 0.44, color=colour, linewidth=1.2)
    for side in ("left", "top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value, length_s)))
    axes.tick_params(axis="x", length=2.5, pad=2, width=0.7, labelsize=SMALL)


def _clock(seconds: float, length_s: float) -> str:
    """Return a time as seconds, or of a long video as minutes and hours."""
    seconds = abs(seconds)
    if length_s < 120:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if length_s >= 3600 else f"{minutes}:{rest:02}"


def _strip(paper: _Paper, top: float, height: float, view: SheetView, colour: str) -> None:
    """Draw a view: the source with its crop, then the frames as the method sees them."""
    edge = paper.axes(MARGIN, top + 0.04, 0.045, height - 0.04)
    edge.set_axis_off()
    edge.add_patch(Rectangle((0, 0), 1, 1, color=colour))
    left = MARGIN + EDGE
    paper.text(left, top + TITLE / 2, printable(view.title, 20), weight="bold", color=colour)
    told = printable(view.told, 150)
    paper.text(left + 0.09 * len(view.title) + 0.1, top + TITLE / 2, told, size=8.5, color=SOFT)
    top += TITLE
    wide, high = _fitted(view.source, SOURCE, SOURCE_TALL)
    axes = paper.axes(left, top, wide, high)
    _picture(axes, view.source)
    _crop(axes, view.source, view.crop, colour)
    _people(axes, view.source, view.people)
    paper.text(
        left, top + high + TIMES / 2, f"as decoded, {view.source_s:.2f} s", size=SMALL, color=SOFT
    )
    for column, index in enumerate(_columns(view)):
        x = PICTURES + column * (CELL + GAP)
        wide, high = _fitted(view.frames[index], CELL, SOURCE_TALL)
        axes = paper.axes(x, top, wide, high)
        _picture(axes, view.frames[index])
        style = {"color": SOFT}
        if index == view.marked:
            _people(axes, view.frames[index], view.carried)
            style = {"color": INK, "weight": "bold"}
        if view.boxes is not None:
            _people(axes, view.frames[index], view.boxes[index])
        time = f"{view.times_s[index]:.2f} s"
        paper.text(x, top + high + TIMES / 2, time, size=SMALL, **style)
    top += _fitted(view.frames[0], CELL, SOURCE_TALL)[1] + TIMES
    for number, line in enumerate(_lines(view)):
        paper.text(PICTURES, top + TEXT * (number + 0.5), line, size=8.5)


def _height(view: SheetView) -> float:
    """Return the height of a view's strip in inches."""
    seen = _fitted(view.frames[0], CELL, SOURCE_TALL)[1] + TEXT * len(_lines(view))
    return TITLE + TIMES + max(seen, _fitted(view.source, SOURCE, SOURCE_TALL)[1])


def _columns(view: SheetView) -> list[int]:
    """Return which frames are shown: evenly spaced, the one with the people among them."""
    chosen = spread(len(view.frames), COLUMNS)
    if 0 <= view.marked < len(view.frames) and view.marked not in chosen:
        nearest = min(range(len(chosen)), key=lambda n: abs(chosen[n] - view.marked))
        chosen[nearest] = view.marked
    return chosen


def _fitted(frame: NDArray[np.uint8], width: float, height: float) -> tuple[float, float]:
    """Return the size in inches of a picture that fits, its shape kept."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    return max(frame.shape[1] * scale, LEAST), max(frame.shape[0] * scale, LEAST)


def _lines(view: SheetView) -> list[str]:
    """Return what is said of people, in lines; of a crowd the first are told."""
    said = [f"{number + 1}  {printable(words, 60)}" for number, words in enumerate(view.said)]
    lines = textwrap.wrap("     ".join(said), 134, break_long_words=True)
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "…"]


# --- pictures


def _picture(axes: Axes, frame: NDArray[np.uint8]) -> None:
    height, width = frame.shape[:2]
    axes.imshow(frame, extent=(0, width, height, 0), interpolation="antialiased", aspect="auto")
    axes.set_axis_off()


def _crop(axes: Axes, frame: NDArray[np.uint8], crop: Boxes, colour: str) -> None:
    """Frame the part that is kept, and let the rest fade."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = (
        float(v) for v in np.asarray(crop).reshape(4) * [width, height, width, height]
    )
    around = [(0, 0), (width, 0), (width, height), (0, height), (0, 0)]
    hole = [(x1, y1), (x1, y2), (x2, y2), (x2, y1), (x1, y1)]
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY]
    fade = Outline(around + hole, codes * 2)
    axes.add_patch(PathPatch(fade, facecolor="white", alpha=0.55, linewidth=0))
    inset = 0.009 * max(width, height)  # or half the line would lie outside of the picture
    place = (x1 + inset, y1 + inset)
    size = (max(x2 - x1 - 2 * inset, inset), max(y2 - y1 - 2 * inset, inset))
    for line, wide in (("white", 3.4), (colour, 2.2)):
        axes.add_patch(
            Rectangle(place, *size, fill=False, edgecolor=line, linewidth=wide, joinstyle="miter")
        )


def _people(axes: Axes, frame: NDArray[np.uint8], boxes: Boxes | None) -> None:
    """Draw numbered boxes; those that have nothing left inside of the picture are not drawn."""
    for number, (x1, y1, x2, y2) in enumerate(boxes if boxes is not None else ()):
        if x2 > x1 and y2 > y1:
            _person(axes, frame, np.array([x1, y1, x2, y2]), str(number + 1))


def _person(axes: Axes, frame: NDArray[np.uint8], box: Boxes, tag: str) -> None:
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box) * [width, height, width, height])
    for line, wide in (("black", 2.4), (PERSON, 1.3)):
        axes.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=line, linewidth=wide)
        )
    axes.annotate(
        tag,
        (min(max(x1, 0.0), width), min(max(y1, 0.0), height)),
        xytext=(1.5, -1.5),
        textcoords="offset points",
        ha="left",
        va="top",
        size=6.5,
        weight="bold",
        color="black",
        bbox={"boxstyle": "square,pad=0.12", "facecolor": PERSON, "edgecolor": "none"},
        annotation_clip=True,
    )
