"""``vidssl eval-ava``: mean average precision of predictions, or of a trained detector.

A detector writes its predictions first, and that file is scored, so that every number can be had
again from it.
"""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidssl.ava import bootstrap, budget, proposals
from vidssl.ava.annotations import (
    Annotations,
    Predictions,
    keyframes,
    read_annotations,
    read_excluded,
    read_predictions,
)
from vidssl.ava.explain import explain_classes
from vidssl.ava.fingerprint import NOT_SAID, dataset, differences
from vidssl.ava.groups import group_means, groups
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.mean_ap import (
    Protocol,
    Score,
    explain_zero,
    mean_of,
    over_thresholds,
    right,
    score_of,
)
from vidssl.ava.sides import Sides, meet
from vidssl.errors import AnnotationError, OutputError
from vidssl.files import replacing, sha256, write_text
from vidssl.progress import Progress, silent


@dataclass(frozen=True)
class Truth:
    """What predictions are scored against: files in AVA layout.

    With ``quick`` the score comes without what explains it.
    """

    annotations: Path
    labels: Path
    excluded: Path | None = None
    protocol: Protocol = "activitynet"
    quick: bool = False


@dataclass(frozen=True)
class Request:
    """What lets a detector predict, as a person names it; all absent to score a file.

    ``empty_bank`` keeps the bank's features from the detector, but not who was there when: what is
    lost is what the features gave. ``scales``, short sides in pixels with commas between them,
    ``flip`` and ``clips`` are the views over which scores are averaged
    (``vidssl.detection.views``).
    """

    run: Path | None = None
    videos: str | None = None
    boxes: Path | None = None
    bank: Path | None = None
    empty_bank: bool = False
    min_score: float | None = None
    time_origin: str = "auto"
    """From where the boxes' times count: ``auto``, seconds, or a csv file of video and seconds."""
    scales: str | None = None
    flip: bool = False
    clips: int = 1

    def require_nothing(self) -> None:
        """Refuse what is said to a detector where a file is scored as it is.

        Raises:
            AnnotationError: with every such option.
        """
        nothing = Request()
        given = [
            f"--{name.replace('_', '-')}"
            for name, value in vars(self).items()
            if value != getattr(nothing, name)
        ]
        if given:
            raise AnnotationError(
                f"--predictions are scored as they are: leave out {', '.join(given)}, which a "
                "detector is told (--checkpoint)"
            )


@dataclass(frozen=True)
class Unread:
    """Key frames that could not be read, as (video, second), and why by video."""

    keyframes: frozenset[tuple[str, float]] = frozenset()
    videos: dict[str, str] | None = None


@dataclass(frozen=True)
class Detail:
    """What explains a score.

    ``groups`` are means by group of actions, empty where the label map names none. ``interval`` is
    a bootstrap over videos, absent with fewer than two. ``ceiling`` is the score of a classifier
    without mistakes on the boxes of the predictions, ``ap_ceiling`` the same by class.
    ``over_thresholds`` holds the score at each IoU of COCO, ``coco`` their mean. ``errors`` says
    what each kind of error costs, most first.
    """

    groups: dict[str, float | None]
    interval: bootstrap.Interval | None
    ceiling: float | None
    ap_ceiling: dict[int, float | None]
    coco: float | None
    over_thresholds: dict[str, float | None]
    errors: list[budget.Error]


@dataclass(frozen=True)
class EvalResult:
    """A score with its denominators.

    ``ap`` and ``positives`` are by class id; an AP is None for a class without ground truth.
    ``expected`` counts key frames of the ground truth, ``evaluated`` those with predictions,
    ``failed`` those whose video could not be read. ``time_origins`` gives each origin with its
    number of videos and the evidence; nothing where a file is scored. ``groups`` holds the ids of
    each group of actions.
    """

    mean_ap: float | None
    ap: dict[int, float | None]
    names: dict[int, str]
    positives: dict[int, int]
    protocol: dict[str, Any]
    expected: int
    evaluated: int
    failed: int
    unusable_videos: dict[str, str]
    predictions: Path
    notes: list[str]
    groups: dict[str, list[int]] = field(default_factory=dict)
    time_origins: list[dict[str, object]] = field(default_factory=list)
    detail: Detail | None = None
    unpeopled: int = 0
    """Of the evaluated key frames, those with none of the boxes that a detector was given."""


def run(
    truth: Truth, predictions: Path | None, request: Request, *, progress: Progress = silent
) -> EvalResult:
    """Score a prediction file, or let a detector predict and score that.

    Raises:
        AnnotationError: if neither or both are asked for, or a file is wrong.
        CheckpointError, BankError: if the detector or its bank do not fit.
    """
    if (predictions is None) == (request.run is None):
        raise AnnotationError(
            "give either --predictions, or --checkpoint with --videos and --boxes"
        )
    if predictions is not None:
        request.require_nothing()
        return score_file(truth, predictions)
    if request.videos is None or request.boxes is None:
        missing = " and ".join(f"--{n}" for n in ("videos", "boxes") if not getattr(request, n))
        raise AnnotationError(f"--checkpoint {request.run} needs {missing} to predict on")
    # Imported here because they pull in torch, which a file to score need not wait for.
    from vidssl.jobs._ava_detector import score_detector
    from vidssl.video.workers import preload

    preload(["vidssl.data.keyframes"])
    return score_detector(truth, request, progress)


def score_file(truth: Truth, predictions: Path, unread: Unread | None = None) -> EvalResult:
    """Score a prediction file.

    Raises:
        AnnotationError: if any file is wrong, with every problem of it.
    """
    labels = read_labels(truth.labels)
    annotations = read_annotations(truth.annotations, labels)
    excluded = read_excluded(truth.excluded) if truth.excluded else frozenset()
    found = read_predictions(predictions, labels)
    sides = meet(annotations, found, labels, protocol=truth.protocol, excluded=excluded)
    score = score_of(sides, labels)
    notes = explain_zero(annotations, found, labels) if not score.mean_ap > 0 else []
    notes = notes or explain_classes(sides, found, score.ap, labels)
    kept = excluded.intersection(keyframes(annotations)) if not score.excluded else ()
    if kept:
        notes.append(
            f"{len(kept)} excluded key frames are in {truth.annotations.name} and were scored: the "
            f"{truth.protocol} protocol leaves exclusions to whoever makes the files"
        )
    counted = set(keyframes(annotations))
    if truth.protocol == "slowfast":
        counted -= excluded
    unread = unread or Unread()
    failed = len({(video, round(second, 6)) for video, second in counted} & unread.keyframes)
    detail = None if truth.quick else _detail(sides, annotations, found, score, labels)
    return _result(score, labels, truth, predictions, unread, failed, notes, detail)


def as_json(result: EvalResult) -> str:
    """Return a result as JSON."""
    return json.dumps(plain(result), indent=1, default=str) + "\n"


def plain(result: EvalResult) -> dict[str, Any]:
    """Return a result as dictionaries and lists, without a NaN, which JSON does not have."""
    told = _without_nan(asdict(result))
    assert isinstance(told, dict)
    return told


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value


def write_classes(result: EvalResult, path: Path) -> None:
    """Write a csv row for each class; what is not known is an empty cell.

    Raises:
        OutputError: if the file cannot be written.
    """
    detail = result.detail
    within = detail.interval.ap if detail and detail.interval else {}
    group = {label: name for name, ids in result.groups.items() for label in ids}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "name", "group", "truth", "ap", "low", "high", "ceiling"])
    for label, name in result.names.items():
        low, high = within.get(label, (math.nan, math.nan))
        most = detail.ap_ceiling[label] if detail else None
        values = (result.ap[label], _number(low), _number(high), most)
        writer.writerow([label, name, group.get(label, ""), result.positives[label], *values])
    write_text(path, text.getvalue())


def draw_classes(result: EvalResult, path: Path) -> None:
    """Draw the average precision of every class as bars, by group, to a PNG.

    Raises:
        OutputError: if the file cannot be written.
    """
    from vidssl.report.figures import average_precision_bars

    grouped = {label for ids in result.groups.values() for label in ids}
    rest = [label for label in result.names if label not in grouped]
    headed = {**result.groups, **({"other": rest} if rest else {})} if grouped else None
    picture = average_precision_bars(result.names, {"AP": result.ap}, headed)
    with replacing(path) as aside:
        aside.write_bytes(picture)


def require_png(path: Path) -> None:
    """Refuse to draw to a file of another kind.

    Raises:
        OutputError: if the name does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: expected a name ending in .png for the bars")


@dataclass(frozen=True)
class Earlier:
    """A score told before, as JSON: its file's name, its means and its fingerprint."""

    name: str
    mean_ap: float | None
    ap: dict[int, float | None]
    protocol: dict[str, Any]


def read_earlier(path: Path) -> Earlier:
    """Return the score that ``--json`` wrote.

    Raises:
        AnnotationError: if the file is absent or holds none.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        ap = {int(label): _score(value) for label, value in told["ap"].items()}
        return Earlier(path.name, _score(told["mean_ap"]), ap, dict(told["protocol"]))
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AnnotationError(
            f"{path}: expected what eval-ava --json wrote, found no score"
        ) from None


def compared(result: EvalResult, earlier: Earlier) -> list[str]:
    """Return the settings in which two scores differ, a line for each; none: they compare."""
    return differences(earlier.protocol, _without_nan(result.protocol))


def _score(value: Any) -> float | None:
    return None if value is None else float(value)


def _detail(
    sides: Sides, annotations: Annotations, found: Predictions, score: Score, labels: LabelMap
) -> Detail:
    most = proposals.ceiling(sides, found.box, labels.ids)
    thresholds = over_thresholds(sides, labels)
    return Detail(
        groups={n: _number(v) for n, v in group_means(groups(labels), score.ap).items()},
        interval=bootstrap.interval(sides, right(sides), labels.ids),
        ceiling=_number(mean_of(most, labels.size)),
        ap_ceiling={label: _number(value) for label, value in most.items()},
        coco=_number(math.fsum(thresholds.values()) / len(thresholds)),
        over_thresholds={f"{at:.2f}": _number(value) for at, value in thresholds.items()},
        errors=budget.budget(sides, annotations.box, found.box, labels),
    )


def _result(
    score: Score,
    labels: LabelMap,
    truth: Truth,
    predictions: Path,
    unread: Unread,
    failed: int,
    notes: list[str],
    detail: Detail | None,
) -> EvalResult:
    return EvalResult(
        mean_ap=_number(score.mean_ap),
        ap={label: _number(ap) for label, ap in score.ap.items()},
        names=dict(labels.names),
        positives=score.positives,
        protocol={
            **score.fingerprint,
            "dataset": dataset(labels, truth.annotations),
            "annotations": sha256(truth.annotations)[:16],
            "labels": sha256(truth.labels)[:16],
            "key_frames": "those of the annotations",
            "boxes": "those of the predictions",
            "min_score": NOT_SAID,
            "views": NOT_SAID,
            "excluded_keyframes": score.excluded,
            "excluded_file": sha256(truth.excluded)[:16] if truth.excluded else "none",
            "ignored_images": score.ignored_images,
        },
        expected=score.expected,
        evaluated=score.evaluated,
        failed=failed,
        unusable_videos=unread.videos or {},
        predictions=predictions,
        notes=notes,
        groups=groups(labels),
        detail=detail,
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
