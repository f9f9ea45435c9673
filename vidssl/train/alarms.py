"""Signs in the logged scalars that a self-supervised training goes wrong, put into words.

The scalars are those of ``vidssl.nn.health``. A sign must show in ``PATIENCE`` logged steps one
after the other before it is told, and is told again only after it had gone. Steps that do not log
what a sign is read from neither make nor break it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PATIENCE = 3
SMALL_SPREAD = 0.1
"""Of ``feature_std``, which is 1 for features spread evenly and 0 where all clips have one."""
FLAT_RANK = 1.5
"""Of ``effective_rank``: below it the features lie, but for traces, on one line."""
SAME, AT_ONCE = 0.99, 0.999


@dataclass(frozen=True)
class Alarm:
    """``name`` for machines; ``words`` say what was seen, and what likely causes it."""

    name: str
    words: str


@dataclass
class Alarms:
    """Watches one training; ``causes`` are what makes its method collapse, in words."""

    causes: str
    _seen: dict[str, int] = field(default_factory=dict)

    def note(self, scalars: Mapping[str, float]) -> list[Alarm]:
        """Return what is to be told of a further logged step."""
        told = []
        for name, (needed, sign) in _SIGNS.items():
            if not needed <= scalars.keys():
                continue
            found = sign(scalars, self.causes)
            self._seen[name] = self._seen.get(name, 0) + 1 if found else 0
            if found and self._seen[name] == PATIENCE:
                told.append(Alarm(name, found))
        return told


def _collapse(scalars: Mapping[str, float], causes: str) -> str:
    spread = scalars.get("feature_std", math.inf)
    if spread >= SMALL_SPREAD:
        return ""
    return (
        f"the features collapse: their deviation is {spread:.3f} of 1, all clips look the same. "
        f"Likely: {causes}"
    )


def _line(scalars: Mapping[str, float], causes: str) -> str:
    rank = scalars["effective_rank"]
    if rank >= FLAT_RANK or _collapse(scalars, causes):
        return ""
    return (
        f"the features collapse onto a line: their effective rank is {rank:.2f}. "
        f"Likely: {causes}; or videos that hardly differ"
    )


def _too_easy(scalars: Mapping[str, float], causes: str) -> str:
    alike, first = scalars["positive_similarity"], scalars["top1"]
    if alike < SAME or first < AT_ONCE or _collapse(scalars, causes):
        return ""
    return (
        f"the task is too easy: partners have a similarity of {alike:.3f} and always find each "
        "other. Likely: augmentation too weak, clips of one moment, or norms whose statistics "
        "tell which clips belong together (MoCo's key_groups, norm: sync)"
    )


def _no_gradient(scalars: Mapping[str, float], causes: str) -> str:
    if scalars["grad_norm"] > 0:
        return ""
    return f"nothing is learnt: the gradient is exactly 0. Likely: {causes}"


_SIGNS: Mapping[str, tuple[set[str], Callable[[Mapping[str, float], str], str]]] = {
    "collapse": ({"feature_std"}, _collapse),
    "line": ({"effective_rank"}, _line),
    "too easy": ({"positive_similarity", "top1"}, _too_easy),
    "no gradient": ({"grad_norm"}, _no_gradient),
}
"""Of each sign, the scalars that it is read from, and what puts it into words."""
