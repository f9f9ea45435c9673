"""What two scores must share to be compared, and in what they differ."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidssl.ava.groups import is_ava
from vidssl.ava.labels import AVA_ACTIONS, LabelMap

NOT_SAID = "not said"
COMPARED = frozenset({"detector", "bank", "bank_emptied", "ignored_images"})
"""What is no setting but what the scores are there to compare, or comes out of it."""
VERSION = re.compile(r"ava_(?:train|val|test|trainval)_v(\d+\.\d+)", re.IGNORECASE)


def dataset(labels: LabelMap, annotations: Path) -> str:
    """Return whose annotations these are, by the list of actions and the name of the file.

    The lists of AVA v2.1 and v2.2 are one, so that only the name of the annotations tells.
    """
    if not is_ava(labels):
        return "own"
    found = VERSION.search(annotations.name)
    version = f"v{found[1]} by the file's name" if found else "version not said"
    return f"AVA, {version}, {len(labels.ids)} of {AVA_ACTIONS} actions"


def differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting in which two fingerprints differ; none: they compare."""
    keys = [key for key in dict.fromkeys([*one, *two]) if key not in COMPARED]
    return [
        f"{key}: {one.get(key, NOT_SAID)} and {two.get(key, NOT_SAID)}"
        for key in keys
        if one.get(key, NOT_SAID) != two.get(key, NOT_SAID)
    ]
