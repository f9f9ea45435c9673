"""Which rows of a bank a moment sees: so many seconds before and after, so many boxes a second.

Wu et al., CVPR 2019, https://arxiv.org/abs/1812.05038, and the authors' code: 60 steps of one
second, from t - 30 to t + 29, with up to 5 boxes each, drawn at random without replacement, at test
time too. Differences: ``top`` takes the boxes of highest score instead; the draw comes from a seed;
and a step takes what lies within half a second of it, so that times need not be whole.

Array suffixes: Q = (before_s + after_s) * per_step rows of a window, D features.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from vidssl.section import Section

Pick = Literal["random", "top"]


class WindowConfig(Section):
    """The extent of a window: steps of one second over ``[t - before_s, t + after_s - 1]``."""

    before_s: NonNegativeInt = 30
    after_s: PositiveInt = 30
    """Counts the present second: 1 looks at the past and the present only."""
    per_step: PositiveInt = 5
    """The most boxes taken from one second."""
    pick: Pick = "random"
    """Which boxes, where a second has more: drawn at random, or those of highest score."""


@dataclass(frozen=True)
class Window:
    """What one moment sees; row ``per_step * step + k``, steps in time order.

    ``features`` is ``(Q, D)``; ``offset_s`` ``(Q,)`` is the row's time less the moment's; ``mask``
    ``(Q,)`` is true where there is a row. A row that is not there is zero in all three.
    """

    features: NDArray[np.float16]
    offset_s: NDArray[np.float32]
    mask: NDArray[np.bool_]


def choose(
    step: NDArray[np.int64], priority: NDArray[np.floating], per_step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the rows taken, and the row of the window where each goes.

    In each step, the ``per_step`` rows of lowest ``priority``, lowest first; ties go in input
    order. ``step`` and ``priority`` are ``(n,)``.
    """
    order = np.lexsort((priority, step))
    ordered = step[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    taken = rank < per_step
    return order[taken], (ordered * per_step + rank)[taken]
