"""The scores of every video of a list, on disk: to be scored again, or joined with others.

A Parquet table with the columns ``id``, ``labels`` (list of int32, columns of the scores),
``scores`` (list of float32, null for a video that failed), ``status`` (``ok`` or ``failed``) and
``reason``. Its schema's metadata has, under ``vidssl``, JSON with the classes and the protocol.

Array suffixes: N videos, K classes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vidssl.errors import AnnotationError, listed
from vidssl.files import replacing

FORMAT_VERSION = 1
KEY = b"vidssl"
NOT_FINITE = "a score is not a finite number"


@dataclass(frozen=True)
class About:
    """What scores are of: ``classes`` names the K columns where names are known.

    ``has_many`` says that a video may have several labels. ``protocol`` is the fingerprint, or of
    joined scores what is common to all; ``parts`` are those of each that were joined.
    """

    num_classes: int
    classes: tuple[str, ...] | None
    has_many: bool
    protocol: dict[str, Any]
    parts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Scores:
    """``scores`` is ``(N, K)``; a row of a video that failed is 0, its ``reasons`` not empty."""

    ids: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    scores: NDArray[np.float32]
    reasons: tuple[str, ...]
    about: About = field(compare=False)

    def __post_init__(self) -> None:
        """Refuse columns of other lengths."""
        if not len(self.ids) == len(self.labels) == len(self.scores) == len(self.reasons):
            raise ValueError("expected as many ids, labels, scores and reasons")

    @cached_property
    def is_ok(self) -> NDArray[np.bool_]:
        """Which videos have scores, ``(N,)``."""
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)

    @property
    def failed(self) -> dict[str, str]:
        """Why videos have none, by id."""
        return {one: why for one, why in zip(self.ids, self.reasons, strict=True) if why}

    def label(self) -> NDArray[np.int64]:
        """Return the one label of each video, ``(N,)``."""
        return np.array([one for (one,) in self.labels], dtype=np.int64)

    def truth(self) -> NDArray[np.bool_]:
        """Return which classes each video has, ``(N, K)``."""
        truth = np.zeros((len(self.ids), self.about.num_classes), np.bool_)
        for row, labels in enumerate(self.labels):
            truth[row, list(labels)] = True
        return truth


def finite(scores_NK: NDArray[np.float32], reasons: Sequence[str]) -> tuple[str, ...]:
    """Return the reasons, with one more for each row that holds what is no finite number."""
    is_finite = [bool(np.isfinite(row).all()) for row in scores_NK]
    return tuple(
        why or ("" if ok else NOT_FINITE) for why, ok in zip(reasons, is_finite, strict=True)
    )


def write(scores: Scores, path: Path) -> None:
    """Write scores whole or not at all.

    Raises:
        OutputError: if the file cannot be written.
    """
    values = scores.scores.astype(np.float32).reshape(-1)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(values), scores.about.num_classes)
    ok = pa.array(scores.is_ok)
    table = pa.table(
        {
            "id": pa.array(scores.ids, pa.string()),
            "labels": pa.array(scores.labels, pa.list_(pa.int32())),
            "scores": pc.if_else(ok, rows.cast(pa.list_(pa.float32())), None),
            "status": pa.array(["ok" if one else "failed" for one in scores.is_ok.tolist()]),
            "reason": pa.array(scores.reasons, pa.string()),
        }
    )
    told = {
        "format_version": FORMAT_VERSION,
        "num_classes": scores.about.num_classes,
        "classes": scores.about.classes,
        "has_many": scores.about.has_many,
        "protocol": scores.about.protocol,
        "parts": scores.about.parts,
    }
    table = table.replace_schema_metadata({KEY: json.dumps(told).encode()})
    with replacing(path) as aside:
        pq.write_table(table, aside)


def read(path: Path) -> Scores:
    """Return scores that were written.

    Raises:
        AnnotationError: if there are none, or the file is damaged.
    """
    if not path.is_file():
        raise AnnotationError(f"{path}: no such file; expected scores that eval-kinetics wrote")
    try:
        table = pq.read_table(path)
        told = json.loads((table.schema.metadata or {})[KEY])
        if told["format_version"] != FORMAT_VERSION:
            found = told["format_version"]
            raise AnnotationError(
                f"{path}: expected format_version {FORMAT_VERSION}, found {found}"
            )
        about = About(
            int(told["num_classes"]),
            None if told["classes"] is None else tuple(told["classes"]),
            bool(told["has_many"]),
            dict(told["protocol"]),
            tuple(told["parts"]),
        )
        return _rows(path, table, about)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise AnnotationError(
            f"{path}: expected scores that eval-kinetics wrote, found another file ({error})"
        ) from None


def _rows(path: Path, table: pa.Table, about: About) -> Scores:
    reasons = [
        (why or "failed") if status != "ok" else ""
        for status, why in zip(
            table["status"].to_pylist(), table["reason"].to_pylist(), strict=True
        )
    ]
    lengths = table["scores"].combine_chunks().value_lengths().fill_null(0).to_numpy()
    wrong = [n for n, why in enumerate(reasons) if lengths[n] != (0 if why else about.num_classes)]
    labels = tuple(tuple(one) for one in table["labels"].to_pylist())
    wrong += [n for n, one in enumerate(labels) if any(not 0 <= k < about.num_classes for k in one)]
    if not about.has_many:
        wrong += [n for n, one in enumerate(labels) if len(one) != 1]
    if wrong:
        raise AnnotationError(
            f"{path}: row {wrong[0]} does not hold the {about.num_classes} scores that its head "
            "promises, or a label outside of them; the file is damaged"
        )
    values = np.zeros((len(table), about.num_classes), np.float32)
    ok = np.array([not why for why in reasons], dtype=np.bool_)
    flat = table["scores"].combine_chunks().flatten().to_numpy()
    values[ok] = flat.reshape(-1, about.num_classes)
    ids = tuple(table["id"].to_pylist())
    return Scores(ids, labels, np.where(ok[:, None], values, 0), finite(values, reasons), about)


def joined(parts: Sequence[Scores], names: Sequence[str], weights: Sequence[float]) -> Scores:
    """Return the weighted mean of several networks' scores of the same videos and classes.

    The mean is taken in double precision. A video that failed in one has failed. The weights count
    by their share; ``names`` tell the parts apart in messages.

    Raises:
        AnnotationError: if videos, labels or classes differ, or no weight is positive.
    """
    if len(weights) != len(parts) or not min(weights) >= 0 or not 0 < sum(weights) < np.inf:
        raise AnnotationError(
            f"--weights: expected {len(parts)} numbers from 0 on, one for each --scores and one of "
            f"them larger, found {', '.join(f'{weight:g}' for weight in weights)}"
        )
    first = parts[0]
    total = np.zeros(first.scores.shape, np.float64)
    reasons = [""] * len(first.ids)
    for part, name, weight in zip(parts, names, weights, strict=True):
        order = order_of(first, part, names[0], name)
        _require_same(first, part, order, names[0], name)
        total += part.scores[order].astype(np.float64) * (weight / sum(weights))
        for row, at in enumerate(order):
            reasons[row] = reasons[row] or part.reasons[at]
    protocols = [part.about.protocol for part in parts]
    common = {
        key: value
        for key, value in protocols[0].items()
        if all(one.get(key) == value for one in protocols)
    }
    share = [weight / sum(weights) for weight in weights]
    about = replace(
        first.about,
        protocol={**common, "ensemble": f"weighted mean of {len(parts)}"},
        parts=tuple({**one, "weight": w} for one, w in zip(protocols, share, strict=True)),
    )
    ok = np.array([not why for why in reasons], dtype=np.bool_)
    mean = np.where(ok[:, None], total, 0).astype(np.float32)
    return Scores(first.ids, first.labels, mean, tuple(reasons), about)


def order_of(one: Scores, two: Scores, name: str, other: str) -> NDArray[np.int64]:
    """Return where the videos of ``one`` stand in ``two``, ``(N,)``.

    Raises:
        AnnotationError: if the two are of other videos.
    """
    at = {key: number for number, key in enumerate(two.ids)}
    known = set(one.ids)
    lacking = [f"{key}: not in {other}" for key in one.ids if key not in at]
    lacking += [f"{key}: not in {name}" for key in two.ids if key not in known]
    if lacking:
        raise AnnotationError(listed(f"{other}: scores of other videos than {name}", lacking, 8))
    return np.array([at[key] for key in one.ids], dtype=np.int64)


def _require_same(
    one: Scores, two: Scores, order_N: NDArray[np.int64], name: str, other: str
) -> None:
    """Refuse to join scores of other classes, or of videos with other labels."""
    if (one.about.num_classes, one.about.classes) != (two.about.num_classes, two.about.classes):
        raise AnnotationError(
            f"{other}: has other classes than {name} ({two.about.num_classes} there, "
            f"{one.about.num_classes} here{_first_other(one.about.classes, two.about.classes)})"
        )
    differ = [
        f"{key}: {list(two.labels[n])} there, {list(labels)} here"
        for key, labels, n in zip(one.ids, one.labels, order_N.tolist(), strict=True)
        if set(labels) != set(two.labels[n])
    ]
    if differ:
        title = f"{other}: other labels than {name} (give --videos, whose labels count for all)"
        raise AnnotationError(listed(title, differ, 8))


def _first_other(one: tuple[str, ...] | None, two: tuple[str, ...] | None) -> str:
    if one is None or two is None:
        return "" if one == two else "; one of them without names"
    differ = (f"; {b!r} there, {a!r} here" for a, b in zip(one, two, strict=False) if a != b)
    return next(differ, "")
