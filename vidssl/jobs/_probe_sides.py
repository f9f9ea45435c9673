"""The videos of a probe: labels in columns that both sources share, and the films they are from.

Array suffixes: E expected videos, K classes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import SourceError, listed, nearest
from vidssl.jobs._probe_features import Frozen
from vidssl.jobs._probe_result import SplitAccount, fingerprint
from vidssl.jobs._tested import Item, Tested
from vidssl.video.storage import shown

UCF_GROUP = re.compile(r"(.*_g\d+)_c\d+$")
"""Clips of UCF101 that were cut from one film."""

Labels = NDArray[np.int64] | NDArray[np.bool_]
"""One class each, ``(E,)``, or which of several, ``(E, K)``."""


@dataclass(frozen=True)
class Classes:
    """The classes of both sides, in columns."""

    names: tuple[str, ...]
    column: tuple[Mapping[int, int], Mapping[int, int]]
    """Of a class's number in the training source, and in the test source."""
    has_many: bool

    @classmethod
    def of(cls, train: Tested, test: Tested | None) -> "Classes":
        """Match the classes by name where sources have names, else by number.

        Raises:
            SourceError: if they do not fit.
        """
        sides = [train] if test is None else [train, test]
        has_many = any(one.has_many for one in sides)
        if test is not None and bool(train.classes) != bool(test.classes):
            named, bare = (train, test) if train.classes else (test, train)
            raise SourceError(
                f"{named.source} names its classes, {bare.source} only numbers them: expected both "
                "alike, as which number is which name is not known"
            )
        if not train.classes:
            most = max(label for one in sides for item in one.items for label in item.labels)
            same = {number: number for number in range(most + 1)}
            return cls(tuple(map(str, same)), (same, same), has_many)
        names = list(dict.fromkeys(name for _, name in sorted(train.classes.items())))
        if test is not None:
            strange = [name for name in test.classes.values() if name not in names]
            if len(strange) == len(test.classes):
                told = [f"{name!r}{nearest(name, names)}" for name in strange]
                title = f"{test.source}: none of its classes is one of {train.source}"
                raise SourceError(listed(title, told, 8))
            names += list(dict.fromkeys(strange))
        place = {name: number for number, name in enumerate(names)}
        columns = [{n: place[name] for n, name in one.classes.items()} for one in sides]
        return cls(tuple(names), (columns[0], columns[-1]), has_many)


@dataclass(frozen=True)
class Side:
    """A source's videos: what is expected, and the features of those that could be read.

    ``rows`` are the places of the latter among the former. ``labels`` and ``group`` are of all
    expected; labels ``(E,)``, or ``(E, K)`` of booleans.
    """

    found: Tested
    frozen: Frozen
    labels: Labels
    group: NDArray[np.int64]
    has_groups: bool
    rows: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        found: Tested,
        frozen: Frozen,
        classes: Classes,
        is_train: bool,
        pattern: re.Pattern[str] | None,
    ) -> "Side":
        """Put features and labels together.

        Raises:
            SourceError: if no video could be read, or a video to train on tells nothing apart.
        """
        if not frozen.ids:
            told = [f"{shown(one)}: {why}" for one, why in frozen.failures.items()]
            raise SourceError(listed(f"{found.source}: no video can be read", told, 8))
        column = classes.column[0 if is_train else 1]
        labels: Labels
        if classes.has_many:
            labels = np.zeros((len(found.items), len(classes.names)), np.bool_)
            for place, item in enumerate(found.items):
                labels[place, [column[label] for label in item.labels]] = True
        else:
            labels = np.array([column[item.labels[0]] for item in found.items], np.int64)
        place_of = {item.id: place for place, item in enumerate(found.items)}
        rows = np.array([place_of[one] for one in frozen.ids], np.int64)
        if is_train and not classes.has_many and len(np.unique(labels[rows])) < 2:
            raise SourceError(
                f"{found.source}: the videos that can be read are of a single class; expected two "
                "or more to tell apart"
            )
        films = [_film(item, found.source, pattern) for item in found.items]
        _, group = np.unique(np.array(films), return_inverse=True)
        has_groups = len(set(films)) < len(films)
        return cls(found, frozen, labels, group.reshape(-1), has_groups, rows)

    @property
    def expected(self) -> int:
        return len(self.found.items)

    @property
    def failed(self) -> int:
        return self.expected - len(self.rows)

    def spread(self, values_M: NDArray[Any]) -> NDArray[Any]:
        """Return values of what could be read for all that is expected; 0 elsewhere."""
        whole = np.zeros((self.expected, *values_M.shape[1:]), values_M.dtype)
        whole[self.rows] = values_M
        return whole

    def told(self) -> str:
        """Return a short hash of the labels and groups."""
        return fingerprint({"labels": self.labels.tolist(), "group": self.group.tolist()})

    def account(self) -> SplitAccount:
        found, frozen = self.found, self.frozen
        return SplitAccount(
            source=found.source,
            expected=self.expected,
            evaluated=len(self.rows),
            failed=self.failed,
            failures=dict(frozen.failures),
            account=found.account,
            published=found.published,
            data=frozen.data,
            features=frozen.folder,
            decoded=frozen.decoded,
        )


def _film(item: Item, source: str, pattern: re.Pattern[str] | None) -> str:
    """Return what names the film that an item is from: clips of one are no independent draws."""
    if pattern is not None:
        found = pattern.search(item.id)
        return f"group {found[1]}" if found and found[1] else f"item {item.id}"
    if source == "ucf101" and (named := UCF_GROUP.match(item.id)):
        return f"group {named[1]}"
    return f"path {item.path}" if item.path is not None else f"item {item.id}"
