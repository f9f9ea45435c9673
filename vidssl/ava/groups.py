"""Groups of actions, over which a score is also averaged."""

import math
from collections.abc import Mapping

from vidssl.ava.labels import LabelMap

AVA_GROUPS = {"pose": range(1, 15), "object": range(15, 64), "person": range(64, 81)}
"""AVA's three, by id: poses, manipulation of objects, interaction with persons."""
AVA_NAMES = {
    1: "bend/bow (at the waist)",
    12: "stand",
    17: "carry/hold (an object)",
    59: "touch (an object)",
    64: "fight/hit (a person)",
    80: "watch (a person)",
}
"""By these a list of actions is known to be AVA's; they are in all its versions and in its 60."""


def is_ava(labels: LabelMap) -> bool:
    """Return whether this is AVA's list of actions, or the part of it that is scored."""
    return labels.size == max(AVA_NAMES) and all(
        labels.names.get(label) == name for label, name in AVA_NAMES.items()
    )


def groups(labels: LabelMap) -> dict[str, list[int]]:
    """Return the ids of each group: AVA's three, or those the map names; empty if it names none."""
    if is_ava(labels):
        return {
            name: [label for label in labels.ids if label in ids]
            for name, ids in AVA_GROUPS.items()
        }
    named: dict[str, list[int]] = {}
    for label in labels.ids:
        if group := labels.groups.get(label, ""):
            named.setdefault(group, []).append(label)
    return named


def group_means(groups: Mapping[str, list[int]], ap: Mapping[int, float]) -> dict[str, float]:
    """Return the mean average precision of each group's classes with ground truth, else NaN."""
    means = {}
    for name, ids in groups.items():
        known = [ap[label] for label in ids if not math.isnan(ap[label])]
        means[name] = math.fsum(known) / len(known) if known else math.nan
    return means
