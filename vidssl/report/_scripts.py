"""What a page with plots carries: plotly's bundle once, the page's own script, and its data.

The page's policy knows both scripts by their hashes and lets no other run.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidssl.report._template import text_of
from vidssl.report.charts import Chart


@dataclass(frozen=True)
class Scripts:
    """Texts that stand in script elements as they are, and the hashes of those that run."""

    data: str
    plotly: str
    own: str
    digests: Sequence[str]


def scripts(
    charts: Sequence[Chart], files: Sequence[str] = (), data: Mapping[str, Any] | None = None
) -> Scripts:
    """Return what a page with these plots needs; ``files`` are scripts besides that of plots.

    ``data`` is what they read, beside the plots.
    """
    drawn = [{"data": chart.data, "layout": chart.layout} for chart in charts]
    plotly = bundle()
    own = "\n".join(text_of(name).strip() for name in ("plots.js", *files)) + "\n"
    return Scripts(
        as_json({**(data or {}), "charts": drawn}), plotly, own, [_digest(plotly), _digest(own)]
    )


def bundle() -> str:
    """Return plotly's own script, which needs no network."""
    from plotly.offline import get_plotlyjs  # slow to import, and many pages have no plot

    script = get_plotlyjs().strip()
    # Neither is in any bundle there was; either would end the element, or hide its end.
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("plotly's bundle cannot stand in a page")
    return f"{script}\n"


def as_json(value: Any) -> str:
    """Return JSON that may stand in a script element, whatever its texts hold."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
