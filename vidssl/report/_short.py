"""Less of what is much: text on one short line, and some positions of many."""

import numpy as np


def spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` positions of ``count``, evenly spaced from the first to the last."""
    return sorted({round(p) for p in np.linspace(0, count - 1, min(count, most))})


def printable(text: str, limit: int = 90) -> str:
    """Return text on one line: control characters escaped, the middle of a long one left out."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    half = (limit - 1) // 2
    return line if len(line) <= limit else f"{line[:half]}…{line[-half:]}"
