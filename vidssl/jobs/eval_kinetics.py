"""``vidssl eval-kinetics``: how well a classifier recognises the videos of a list.

The scores of every video are written first, to ``OUT/scores.parquet``, and that file is scored, so
that every number can be had again from it, and ensembles need no second run.

Array suffixes: N videos, K classes.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, PositiveInt, ValidationError

from vidssl import __version__
from vidssl.errors import AnnotationError, CheckpointError, RecipeError
from vidssl.files import sha256, write_text
from vidssl.jobs._tested import expected_of, labelled, matched, source_of
from vidssl.progress import Progress, silent
from vidssl.recognition import metrics, pairs, resampling
from vidssl.recognition import scores as files
from vidssl.recognition.protocol import (
    NOT_SAID,
    Activation,
    Gathering,
    Precision,
    Protocol,
    Sampling,
    differences,
    parse_views,
)
from vidssl.recognition.scores import Scores
from vidssl.video.sampling import Indexing

if TYPE_CHECKING:
    from vidssl.backbones import BackboneConfig
    from vidssl.jobs._classifier import TrainedClassifier

TOP = (1, 5)
SIDE_PX = 256


@dataclass(frozen=True)
class Overrides:
    """What a person says of the protocol; what is None is the classifier's own, or the usual."""

    views: str | None = None
    frames: int | None = None
    stride: int | None = None
    sampling: Sampling | None = None
    indexing: Indexing | None = None
    reach_end: bool = False
    short_side_px: int | None = None
    crop_px: int | None = None
    train_crop_px: int | None = None
    pooled: bool = False
    activation: Activation | None = None
    over_views: Gathering | None = None
    precision: Precision = "fp32"


class TestCard(BaseModel):
    """What a classifier's card says of its test; what is not there is None."""

    frames: PositiveInt | None = None
    stride: PositiveInt | None = None
    segments: bool = False
    indexing: Indexing | None = None
    short_side_px: PositiveInt | None = None
    crop_px: PositiveInt | None = None
    train_crop_px: PositiveInt | None = None
    decode_short_side_px: PositiveInt | None = None
    activation: Activation | None = None


@dataclass(frozen=True)
class Request:
    """A classifier, the videos that it is to recognise, and how the work is done.

    ``bank`` is the folder of a feature bank for a classifier that reads one, whose rows it does not
    get if the bank is emptied. ``out`` is a folder for the scores, None: one below the run.
    ``index`` was made of the same source before. ``retry`` reads failed videos again.
    """

    run: Path
    videos: str
    how: Overrides = field(default_factory=Overrides)
    out: Path | None = None
    index: Path | None = None
    bank: Path | None = None
    empty_bank: bool = False
    clips_at_once: int = 10
    workers: int = 2
    device: str = "auto"
    retry: bool = False


@dataclass(frozen=True)
class Telling:
    """What is told of scores beyond their means; ``top`` are the k of top-k."""

    top: tuple[int, ...] = TOP
    confusion: bool = False
    quick: bool = False
    """Without intervals."""


@dataclass(frozen=True)
class ClassScore:
    """One class: ``videos`` expected, of which ``evaluated`` have scores; what does not exist is
    None. Of videos with one label ``top`` holds top-k, of those with several ``ap`` is known."""

    number: int
    name: str
    videos: int
    evaluated: int
    top: dict[str, float | None] = field(default_factory=dict)
    ap: float | None = None


@dataclass(frozen=True)
class Means:
    """The scores over a set of videos: top-k and mean class accuracy, or mean average precision."""

    top: dict[str, float] = field(default_factory=dict)
    class_accuracy: float | None = None
    mean_ap: float | None = None


@dataclass(frozen=True)
class EvalResult:
    """A score with its denominators.

    ``over_expected`` counts videos that failed as wrong, and is the score; ``over_evaluated``
    leaves them out. ``intervals`` are of the former, by the name of the mean. ``confusion`` has
    (true class, best class, videos). ``parts`` are the protocols of scores that were joined.
    """

    over_expected: Means
    over_evaluated: Means
    intervals: dict[str, resampling.Interval]
    expected: int
    evaluated: int
    failed: int
    failures: dict[str, str]
    published: dict[str, Any] | None
    protocol: dict[str, Any]
    parts: list[dict[str, Any]]
    classes: list[ClassScore]
    scores: list[Path]
    notes: list[str]
    confusion: list[tuple[int, int, int]] | None = None


def run(
    request: Request, telling: Telling | None = None, *, progress: Progress = silent
) -> EvalResult:
    """Let a classifier score every video of a list, and score that.

    Processes that torchrun started share the videos; all return the same result.

    Raises:
        CheckpointError: if the run holds no classifier, or one for other classes.
        BankError: if the bank is missing, not wanted, another one, or lacks videos.
        SourceError: if there are no videos, no labels, or several parts of a set in one list.
        RecipeError: if the protocol is none, or the network cannot take such clips.
        OutputError: if the folder holds other scores, or cannot be written.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    # Imported here because they pull in torch, which scores from a file need not wait for.
    from vidssl.data.loader import LoaderConfig
    from vidssl.jobs import _banks as banks
    from vidssl.jobs import _recognition_scores as work
    from vidssl.jobs._classifier import load_classifier
    from vidssl.nn.distributed import joined
    from vidssl.recognition.scores import About
    from vidssl.train.trainer import device_of
    from vidssl.video.reader import decoder_version
    from vidssl.video.workers import preload

    if request.workers or request.index is None:
        preload(["vidssl.data.clips", work.__name__])

    trained = load_classifier(request.run)
    memory = banks.memory_of(
        *(trained.operator, trained.card.get("bank") or {}, request.bank),
        f"the classifier of {request.run}",
        is_emptied=request.empty_bank,
    )
    source = source_of(request.videos, trained.card.get("target"))
    num_classes = trained.classifier.classifier.out_features
    found, names = matched(expected_of(source), num_classes, trained.labels, str(request.run))
    if memory is not None:
        banks.require_videos(memory.bank, [item.path for item in found.items if item.path])
    protocol, notes = protocol_of(trained, request.how, found.has_many)
    about = About(
        num_classes,
        names,
        found.has_many,
        {
            **protocol.fingerprint(),
            **(memory.described() if memory else {}),
            "decoder": decoder_version(),
            "source": found.source,
            "videos": len(found.items),
            "data": found.fingerprint(),
            "classifier": trained.card["hash"],
            "code": __version__,
        },
    )
    out = request.out or _folder(request.run, about.protocol)
    todo = work.Work(
        found.items,
        source,
        protocol,
        about,
        out,
        index=request.index,
        clips_at_once=request.clips_at_once,
        memory=memory,
        loader=LoaderConfig(workers=request.workers),
    )
    device = device_of(request.device)
    with joined():
        scores = work.predicted(todo, trained.classifier, device, request.retry, progress)
    result = score(scores, telling or Telling(), [out / work.SCORES])
    notes = [*found.notes, *notes, *result.notes]
    return replace(result, published=found.published, notes=notes)


def rescore(
    paths: Sequence[Path],
    weights: Sequence[float] | None = None,
    videos: str | None = None,
    telling: Telling | None = None,
) -> EvalResult:
    """Score files of scores: one as it is, several as their weighted mean.

    With ``videos`` that source says which videos are expected, and their labels.

    Raises:
        AnnotationError: if a file is wrong, or the files are of other videos or classes.
        SourceError, CheckpointError: if the source is wrong, or has other classes.
    """
    parts = [files.read(path) for path in paths]
    notes: list[str] = []
    published = None
    if videos is not None:
        found = expected_of(source_of(videos))
        relabelled = []
        for part, path in zip(parts, paths, strict=True):
            own, _ = matched(found, part.about.num_classes, part.about.classes, str(path))
            again, more = labelled(part, own, path.name)
            relabelled.append(again)
            notes += [note for note in [*own.notes, *more] if note not in notes]
            published = own.published
        parts = relabelled
    whole = parts[0]
    if len(parts) > 1:
        names = [str(path) for path in paths]
        whole = files.joined(parts, names, [1.0] * len(parts) if weights is None else weights)
    elif weights is not None:
        raise AnnotationError("--weights are for several --scores, found one")
    result = score(whole, telling or Telling(), list(paths))
    return replace(result, published=published, notes=[*notes, *result.notes])


def actions(
    verb: Path, noun: Path, prior: Path | None, telling: Telling | None = None
) -> EvalResult:
    """Score pairs of a verb and a noun, from the scores of both: EPIC-KITCHENS.

    Raises:
        AnnotationError: if a file is wrong, or the two are of other videos.
    """
    telling = telling or Telling()
    verbs, nouns = files.read(verb), files.read(noun)
    if verbs.about.has_many or nouns.about.has_many:
        raise AnnotationError(f"{verb}, {noun}: expected one verb and one noun a segment")
    order = files.order_of(verbs, nouns, str(verb), str(noun))
    size = verbs.about.num_classes, nouns.about.num_classes
    weights = None if prior is None else pairs.prior_of(prior, *size)
    pair_N2 = np.stack([verbs.label(), nouns.label()[order]], axis=1)
    reasons = {**{nouns.ids[n]: nouns.reasons[n] for n in order.tolist() if nouns.reasons[n]}}
    reasons = {**reasons, **verbs.failed}
    ok_N = np.array([one not in reasons for one in verbs.ids], dtype=np.bool_)
    hits = np.zeros((len(ok_N), len(telling.top)))
    hits[ok_N] = pairs.action_hits(
        verbs.scores[ok_N], nouns.scores[order][ok_N], pair_N2[ok_N], weights, telling.top
    )
    top = {str(k): hits[:, column] for column, k in enumerate(telling.top)}
    said = "none" if prior is None else f"{prior.name} {sha256(prior)[:16]}"
    return EvalResult(
        over_expected=Means(_means(top)),
        over_evaluated=Means(_means({k: values[ok_N] for k, values in top.items()})),
        intervals={} if telling.quick else _intervals(top),
        expected=len(ok_N),
        evaluated=int(ok_N.sum()),
        failed=int((~ok_N).sum()),
        failures=reasons,
        published=None,
        protocol={
            "action": f"verb x noun of {size[0]} x {size[1]} pairs",
            "prior": said,
            **_common(verbs.about.protocol, nouns.about.protocol),
        },
        parts=[verbs.about.protocol, nouns.about.protocol],
        classes=[],
        scores=[verb, noun],
        notes=[] if prior else ["without a prior of pairs from the training list (--prior)"],
    )


def protocol_of(
    trained: "TrainedClassifier", how: Overrides, has_many: bool
) -> tuple[Protocol, list[str]]:
    """Return how a classifier is tested, and what is to be told of it.

    What a person says counts first, then what the classifier's card says of its test, then the
    usual: 10x3 views of the backbone's clip at 256 pixels.

    Raises:
        RecipeError: if that is no protocol, or the network cannot take such clips.
    """
    from vidssl.jobs._geometry import differences as other_clips
    from vidssl.jobs._geometry import stated
    from vidssl.recognition.views import pools_its_map

    card, backbone, notes = _test_of(trained), trained.backbone, list[str]()
    sampling = how.sampling or ("segments" if card.segments else "uniform")
    clips, crops = parse_views(how.views or ("1x1" if sampling == "segments" else "10x3"))
    fixed_px = getattr(backbone, "crop_px", None)
    crop_px = how.crop_px or card.crop_px or fixed_px or SIDE_PX
    short_px = how.short_side_px or card.short_side_px or max(SIDE_PX, crop_px)
    try:
        backbone.require_side(crop_px, "--crop")
    except ValueError as error:
        raise RecipeError(str(error)) from None
    trained_on = stated(trained.card)
    published: Indexing = "linspace" if trained.card.get("published") else "stride"
    train_px = how.train_crop_px or card.train_crop_px or trained_on.crop_px
    window = None
    if trained.operator is not None:
        notes.append("the whole map is averaged, with which the bank is asked")
    elif not how.pooled and pools_its_map(trained.classifier.encoder):
        if train_px is None:
            notes.append(
                "the crop of the training is not known, so that the whole map is averaged; "
                "--train-crop has windows of that size tested one by one"
            )
        elif train_px < crop_px:
            window = math.ceil(train_px / trained.classifier.encoder.spatial_stride)
    activation = how.activation or card.activation or ("sigmoid" if has_many else "softmax")
    gathering: Gathering = "max" if activation == "sigmoid" else "mean"
    notes += other_clips(replace(trained_on, frames=None, stride=None), backbone)
    protocol = Protocol(
        clips=clips,
        crops=crops,
        frames=_frames(backbone, how.frames or card.frames or backbone.frames),
        stride=how.stride or card.stride or backbone.stride,
        sampling=sampling,
        indexing=how.indexing or card.indexing or published,
        reach_end=how.reach_end,
        short_side_px=short_px,
        crop_px=crop_px,
        decode_short_side_px=how.short_side_px or card.decode_short_side_px or short_px,
        window=window,
        activation=activation,
        gathering=how.over_views or gathering,
        precision=how.precision,
    )
    return protocol, notes


def _frames(backbone: "BackboneConfig", frames: int) -> int:
    """Return ``frames``.

    Raises:
        RecipeError: if the network cannot take clips of so many.
    """
    try:
        other = type(backbone).model_validate({**backbone.model_dump(), "frames": frames})
    except ValidationError as error:
        raise RecipeError(f"--frames {frames}: {error.errors()[0]['msg']}") from None
    if other.geometry_free() != backbone.geometry_free():
        raise RecipeError(
            f"--frames {frames}: this {backbone.name} takes clips of {backbone.frames} frames alone"
        )
    return frames


def _test_of(trained: "TrainedClassifier") -> TestCard:
    """Return what the card says of the test.

    Raises:
        CheckpointError: if it says what it cannot mean.
    """
    told = trained.card.get("test") or {}
    try:
        return TestCard.model_validate(told)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CheckpointError(
            f"the classifier's card has a test.{where} that is none: {error.errors()[0]['msg']}"
        ) from None


# --- from scores to a result


def score(scores: Scores, telling: Telling, paths: list[Path]) -> EvalResult:
    """Return what the scores of a list's videos are worth."""
    ok_N = scores.is_ok
    many = scores.about.has_many
    kinds = _score_many(scores, telling) if many else _score_one(scores, telling)
    return EvalResult(
        over_expected=kinds.over_expected,
        over_evaluated=kinds.over_evaluated,
        intervals=kinds.intervals,
        expected=len(ok_N),
        evaluated=int(ok_N.sum()),
        failed=int((~ok_N).sum()),
        failures=scores.failed,
        published=None,
        protocol=dict(scores.about.protocol),
        parts=list(scores.about.parts),
        classes=kinds.classes,
        scores=paths,
        notes=kinds.notes,
        confusion=kinds.confusion,
    )


@dataclass(frozen=True)
class _Kind:
    over_expected: Means
    over_evaluated: Means
    intervals: dict[str, resampling.Interval]
    classes: list[ClassScore]
    notes: list[str]
    confusion: list[tuple[int, int, int]] | None = None


def _score_one(scores: Scores, telling: Telling) -> _Kind:
    """Score videos of one label each; one that failed is wrong, however many are asked for."""
    ok_N, label_N, size = scores.is_ok, scores.label(), scores.about.num_classes
    top: dict[str, NDArray[np.float64]] = {}
    notes = []
    for k in sorted(set(telling.top)):
        if k > 1 and k >= size:
            notes.append(f"top-{k} of {size} classes is always right, and left out")
            continue
        top[str(k)] = np.zeros(len(ok_N))
        top[str(k)][ok_N] = metrics.top_k(scores.scores[ok_N], label_N[ok_N], k)
    best = top.get("1")
    if best is None:
        best = np.zeros(len(ok_N))
        best[ok_N] = metrics.top_k(scores.scores[ok_N], label_N[ok_N], 1)
    intervals = {} if telling.quick else _intervals(top)
    among = None if telling.quick else resampling.of_class_mean(best, label_N)
    if among is not None:
        intervals["class_accuracy"] = among
    if np.any((scores.scores[ok_N] == scores.scores[ok_N][:, :1]).all(axis=1)) and size > 1:
        notes.append("some videos score all classes alike, which counts as chance")
    by_class = {k: metrics.by_class(values, label_N, size) for k, values in top.items()}
    counts = np.bincount(label_N, minlength=size), np.bincount(label_N[ok_N], minlength=size)
    classes = [
        ClassScore(
            k,
            _name(scores, k),
            int(counts[0][k]),
            int(counts[1][k]),
            {name: number(float(values[k])) for name, values in by_class.items()},
        )
        for k in range(size)
    ]
    return _Kind(
        Means(_means(top), number(metrics.mean_of(metrics.by_class(best, label_N, size)))),
        Means(
            _means({k: values[ok_N] for k, values in top.items()}),
            number(metrics.mean_of(metrics.by_class(best[ok_N], label_N[ok_N], size))),
        ),
        intervals,
        classes,
        notes,
        metrics.confusion(scores.scores[ok_N], label_N[ok_N]) if telling.confusion else None,
    )


def _score_many(scores: Scores, telling: Telling) -> _Kind:
    """Score videos of several labels; what is true of one that failed is never found."""
    if telling.confusion:
        raise AnnotationError("--confusion: videos with several labels have no one true class")
    ok_N, truth_NK = scores.is_ok, scores.truth()
    expected_K = truth_NK.sum(axis=0)
    ap_K = metrics.class_precisions(scores.scores[ok_N], truth_NK[ok_N], expected_K)
    evaluated_K = metrics.class_precisions(scores.scores[ok_N], truth_NK[ok_N])
    found = None
    if not telling.quick:
        found = resampling.of_mean_precision(scores.scores, truth_NK, ok_N)
    seen_K = truth_NK[ok_N].sum(axis=0)
    classes = [
        ClassScore(
            k, _name(scores, k), int(expected_K[k]), int(seen_K[k]), ap=number(float(ap_K[k]))
        )
        for k in range(scores.about.num_classes)
    ]
    return _Kind(
        Means(mean_ap=number(metrics.mean_of(ap_K))),
        Means(mean_ap=number(metrics.mean_of(evaluated_K))),
        {"mean_ap": found} if found else {},
        classes,
        [],
    )


def number(value: float) -> float | None:
    """Return a number, or None for one that does not exist."""
    return None if math.isnan(value) else value


def _means(top: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    return {k: float(values.mean()) for k, values in top.items() if len(values)}


def _intervals(top: Mapping[str, NDArray[np.float64]]) -> dict[str, resampling.Interval]:
    found = {f"top{k}": resampling.of_mean(values) for k, values in top.items()}
    return {name: one for name, one in found.items() if one is not None}


def _name(scores: Scores, k: int) -> str:
    return scores.about.classes[k] if scores.about.classes else str(k)


def _common(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if two.get(key) == value}


def _folder(run: Path, protocol: Mapping[str, Any]) -> Path:
    """Return a folder below the run that no other protocol, list or network would have."""
    told = json.dumps(protocol, sort_keys=True).encode()
    base = run if run.is_dir() else run.parent
    name = f"eval-{protocol['source']}-{protocol['views']}"
    return base / f"{name}-{hashlib.sha256(told).hexdigest()[:8]}"


# --- what is written, and compared


def plain(result: EvalResult) -> dict[str, Any]:
    """Return a result as dictionaries and lists; ``top1`` and the like stand at the top too."""
    told = asdict(result)
    means = result.over_expected
    head: dict[str, Any] = {f"top{k}": value for k, value in means.top.items()}
    head |= {"class_accuracy": means.class_accuracy, "mean_ap": means.mean_ap}
    told["scores"] = [str(path) for path in result.scores]
    return {**{key: value for key, value in head.items() if value is not None}, **told}


def as_json(result: EvalResult) -> str:
    """Return a result as JSON."""
    return json.dumps(plain(result), indent=1) + "\n"


def write_classes(result: EvalResult, path: Path) -> None:
    """Write a csv row for each class; what is not known is an empty cell.

    Raises:
        OutputError: if the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    tops = list(result.classes[0].top) if result.classes else []
    ends = [f"top{k}" for k in tops] or ["ap"]
    writer.writerow(["id", "name", "videos", "evaluated", *ends])
    for one in result.classes:
        values = [one.top[k] for k in tops] or [one.ap]
        writer.writerow([one.number, one.name, one.videos, one.evaluated, *values])
    write_text(path, text.getvalue())


@dataclass(frozen=True)
class Earlier:
    """A score told before, as JSON: its file's name, its means by name and its fingerprint."""

    name: str
    means: dict[str, float]
    protocol: dict[str, Any]


def read_earlier(path: Path) -> Earlier:
    """Return the score that ``--json`` wrote.

    Raises:
        AnnotationError: if the file is absent or holds none.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        means = {key: float(told[key]) for key in told if _is_mean(key) and told[key] is not None}
        return Earlier(path.name, means, dict(told["protocol"]))
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AnnotationError(
            f"{path}: expected what eval-kinetics --json wrote, found no score"
        ) from None


def compared(result: EvalResult, earlier: Earlier) -> list[str]:
    """Return the settings in which two scores differ, a line for each; none: they compare."""
    return differences(earlier.protocol, json.loads(json.dumps(result.protocol)))


def not_said(result: EvalResult) -> list[str]:
    """Return the settings that nobody said."""
    return [key for key, value in result.protocol.items() if value == NOT_SAID]


def _is_mean(key: str) -> bool:
    return key in {"class_accuracy", "mean_ap"} or (key[:3] == "top" and key[3:].isdecimal())
