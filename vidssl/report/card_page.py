"""The page of a report card: one HTML file with its plots, clips and scripts, offline for ever.

plotly's bundle is inside it once. The page's policy lets its two scripts run, which it knows by
their hashes, and forbids every request. Whatever a video or a class is called is escaped, in the
page, in its data, and in what plotly reads.

Plots are drawn and clips are unpacked when they come near the window, so that a page of thousands
of videos opens at once.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidssl.files import write_text
from vidssl.report import card_charts, run_charts
from vidssl.report._scripts import bundle, scripts
from vidssl.report._template import environment, writable
from vidssl.report.card import UNKNOWN, Card, CardVideo, Score, comparable, differences
from vidssl.report.card_strips import within
from vidssl.report.charts import Chart

PAGE_BYTES = 15_000_000
"""A page with clips stays below this, whatever the number of videos."""
OVERHEAD_BYTES = 250_000
FAILURES_SHOWN = 50
STRIPS = "@@strips@@"


@dataclass(frozen=True)
class Compared:
    """A row of the comparison: a score of a rival beside the card's own."""

    rival: str
    title: str
    own: Score
    other: Score
    differs: str
    """In what the protocols differ; empty where the two may be compared."""

    @property
    def ahead(self) -> float | None:
        """By how much the card's own score is higher, where that may be said."""
        if self.differs or self.own.value is None or self.other.value is None:
            return None
        return self.own.value - self.other.value


def room_for_strips(videos: int) -> int:
    """Return about how many bytes the clips of a page of so many videos may take as they are.

    They stand in the page in base64, four characters for three bytes, with lines of up to 400
    characters for each video elsewhere. The page leaves out what does not fit in the end.
    """
    return (PAGE_BYTES - len(bundle()) - OVERHEAD_BYTES - 400 * videos) * 3 // 4


def write(path: Path, card: Card) -> None:
    """Write the page to ``path``, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    write_text(path, render(card))


def render(card: Card) -> str:
    """Return the page as HTML; equal cards give equal text."""
    charts: list[Chart] = []

    def placed(chart: Chart) -> tuple[int, Chart]:
        charts.append(chart)
        return len(charts) - 1, chart

    confusion = None
    if card.confusion is not None:
        confusion = card_charts.confusion(card.confusion, card.classes)
    plots = {
        "comparisons": [placed(chart) for chart in card_charts.comparisons(card)],
        "confusion": [placed(confusion)] if confusion else [],
        "motion": [placed(chart) for chart in _motion(card)],
        "curves": [placed(chart) for chart in run_charts.curves(card.curves)],
    }
    templates = environment()
    templates.filters |= {"percent": percent, "signed": _signed, "points": _points}
    html = templates.get_template("card.html").render(
        card=card,
        plots=plots,
        compared=compared(card),
        pairs=[]
        if card.confusion is None
        else card_charts.confused_pairs(card.confusion, card.classes),
        protocols=_protocols([*card.scores, *_variants(card)]),
        failures=card.failures[:FAILURES_SHOWN],
        class_of=lambda k: "not known" if k == UNKNOWN else card.classes[k],
        said=lambda video: _said(card, card.videos[video]),
        strips=STRIPS,
        scripts=scripts(charts, ["card.js"], _data(card)),
    )
    html = writable(html)
    before, _, after = html.rpartition(STRIPS)
    room = (PAGE_BYTES - len(before.encode()) - len(after.encode()) - 8 * len(card.videos)) * 3 // 4
    return f"{before}{_strips(card, room)}{after}"


def compared(card: Card) -> list[Compared]:
    """Return each score of each rival beside the card's own of the same kind."""
    by_key = {score.key: score for score in reversed(card.scores)}
    by_print = {score.fingerprint: score for score in card.scores if score.fingerprint}
    rows = []
    for rival in card.rivals:
        for other in rival.scores:
            score = by_print.get(other.fingerprint) or by_key.get(other.key)
            if score is None:
                continue
            differs = "" if comparable(score, other) else "; ".join(differences(score, other))
            if not comparable(score, other) and not differs:
                differs = f"fingerprint: {score.fingerprint[:12]}, {other.fingerprint[:12]}"
            rows.append(Compared(rival.name, score.title, score, other, differs))
    return rows


def percent(value: float | None) -> str:
    """Return a share as people read it; a dash where it is absent or not a number.

    >>> percent(0.1234)
    '12.3 %'
    """
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


# --- words


def _signed(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:+.1f}"


def _points(value: float | None) -> str:
    """Return a share as a place on a scale of percent, for the style sheet."""
    inside = min(1.0, max(0.0, value)) if value is not None and math.isfinite(value) else 0.0
    return f"{100 * inside:.2f}"


def _said(card: Card, video: CardVideo) -> str:
    """Return what is known of a video, in one line."""
    words = [] if video.label == UNKNOWN else [card.classes[video.label]]
    if video.predicted != UNKNOWN and video.predicted != video.label:
        sure = "" if video.confidence is None else f", {percent(video.confidence)}"
        words.append(f"taken for {card.classes[video.predicted]}{sure}")
    elif video.predicted != UNKNOWN:
        words.append("right")
    return "; ".join(words)


def _protocols(scores: Sequence[Score]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return (fingerprint, the scores that it stands for, its values) of each protocol."""
    found: dict[str, tuple[list[str], Mapping[str, str]]] = {}
    for score in scores:
        if score.fingerprint:
            titles, _ = found.setdefault(score.fingerprint, ([], score.protocol))
            titles.append(score.title)
    return [
        (fingerprint, ", ".join(dict.fromkeys(titles)), list(protocol.items()))
        for fingerprint, (titles, protocol) in found.items()
    ]


def _variants(card: Card) -> Sequence[Score]:
    return card.motion.variants if card.motion else ()


def _motion(card: Card) -> list[Chart]:
    return card_charts.motion(card.motion, card.classes) if card.motion else []


# --- data


def _data(card: Card) -> dict[str, Any]:
    return {
        "classes": list(card.classes),
        "videos": {
            "name": [video.name for video in card.videos],
            "label": [video.label for video in card.videos],
            "predicted": [video.predicted for video in card.videos],
            "confidence": [_rounded(video.confidence) for video in card.videos],
            "truth": [_rounded(video.truth) for video in card.videos],
        },
        "map": None
        if card.map is None
        else {
            "videos": list(card.map.videos),
            "projections": [
                {
                    "method": projection.method,
                    "note": projection.note,
                    "x": [_rounded(x) for x in projection.xy[:, 0].tolist()],
                    "y": [_rounded(y) for y in projection.xy[:, 1].tolist()],
                }
                for projection in card.map.projections
            ],
        },
        "near": {
            near.video: [[video, _rounded(cosine, 3)] for video, cosine in near.nearest]
            for near in card.neighbours
        },
    }


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _strips(card: Card, room: int) -> str:
    """Return a line for each video: the frames of its picture, and the picture in base64."""
    first = [*card.mistakes, *(near.video for near in card.neighbours[:50])]
    kept = within(card.strips, room, first)
    lines = []
    for video in range(len(card.videos)):
        strip = kept.get(video)
        lines.append(f"{strip.frames} {base64.b64encode(strip.image).decode()}" if strip else "")
    return "\n".join(lines)
