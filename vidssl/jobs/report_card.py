"""``vidssl report-card``: one page that says how good an encoder is, and shows why.

The scores are those of ``vidssl probe``; the map, the neighbours, the mistakes and the confusion
are of the first source.

Array suffixes: N training videos that could be read, M test videos that could be read, K classes.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from vidssl.errors import CheckpointError, OutputError, RecipeError, nearest
from vidssl.files import replacing, replacing_folder
from vidssl.jobs import _card_boxes as boxes
from vidssl.jobs import _probe_encoder as encoders
from vidssl.jobs import probe
from vidssl.jobs._card_boxes import BoxTask
from vidssl.jobs._card_videos import Gathered
from vidssl.jobs._detector import require_alone
from vidssl.jobs._probe_result import ProbeResult, ProbeScore, fingerprint
from vidssl.jobs._run_files import read_run
from vidssl.jobs.models import multiply_adds
from vidssl.jobs.report import curves_of
from vidssl.nn.distributed import joined, rank
from vidssl.probe.intervals import mean_interval
from vidssl.progress import REMARK, Progress, silent
from vidssl.report import card_file, card_page
from vidssl.report.card import (
    Card,
    LearningCurve,
    Motion,
    Rival,
    Score,
)
from vidssl.train.trainer import device_of
from vidssl.video.storage import shown

Baseline = Literal["chance", "majority", "random"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
FOLDER, PAGE = "report-card", "index.html"
SPEED_BATCH, SPEED_S, SPEED_ROUNDS = 8, 2.0, 20
SEED = 0

WORDS: Mapping[str, tuple[str, str]] = {
    "knn.top1": (
        "kNN accuracy",
        "Share of videos for which the videos with the nearest features vote for the right class. "
        "Nothing is trained.",
    ),
    "linear.top1": (
        "Linear probe",
        "Share of videos that a linear classifier on the frozen features gets right.",
    ),
    "attentive.top1": (
        "Attentive probe",
        "Share of videos that one layer of attention on the frozen map gets right.",
    ),
    "retrieval.R@1": (
        "Retrieval, R@1",
        "Share of videos whose nearest other video is of the same class.",
    ),
    "knn.mean_ap": (
        "kNN, mean AP",
        "Mean over classes of the average precision of the neighbours' votes.",
    ),
    "linear.mean_ap": (
        "Linear probe, mean AP",
        "Mean over classes of the average precision of linear classifiers on the frozen features.",
    ),
}
SHOWN_TIMES = {
    "normal": "As they are.",
    "shuffled": "The frames of each clip in a random order.",
    "reversed": "The frames of each clip from last to first.",
    "single": "The middle frame of each clip alone.",
    "static": "The middle frame of each clip, as often as the clip has frames.",
}


@dataclass(frozen=True)
class Request:
    """Which encoder to look at, on which videos.

    ``on`` are sources with labels; ``test`` is empty, where each is judged by itself, or has a
    source for each of ``on``. ``out`` is the folder to write, None: ``report-card`` beside the
    encoder. ``compare`` are earlier cards. ``boxes`` are people to tell the actions of. ``probing``
    has the settings of the probes; its encoder and sources are not used. ``command`` is what was
    typed, if anything was, to repeat it.
    """

    encoder: Path
    on: tuple[str, ...]
    test: tuple[str, ...] = ()
    out: Path | None = None
    compare: tuple[Path, ...] = ()
    baselines: tuple[Baseline, ...] = ("majority",)
    motion: bool = True
    name: str | None = None
    boxes: BoxTask | None = None
    command: str = ""
    probing: probe.Request = field(default_factory=lambda: probe.Request(Path(), ""))


@dataclass(frozen=True)
class CardResult:
    """Where the card is, and what is in it; ``failed`` of ``expected`` test videos failed.

    ``counts`` says of all that was to be read how many failed of how many, and what they are:
    training videos and key frames too.
    """

    page: Path
    json: Path
    bytes: int
    name: str
    scores: tuple[Score, ...]
    rivals: tuple[Rival, ...]
    notes: tuple[str, ...]
    expected: int
    failed: int
    counts: tuple[tuple[int, int, str], ...]


def run(request: Request, *, progress: Progress = silent) -> CardResult:
    """Probe the encoder, and write ``index.html`` and ``card.json``.

    Raises:
        RecipeError: if the sources do not fit together, and as :func:`vidssl.jobs.probe.run`.
        CheckpointError: if there is no encoder, or an earlier card is none.
        OutputError: if the folder holds something else, or cannot be written.
        SourceError, BankError, Interrupted: as :func:`vidssl.jobs.probe.run`.
    """
    require_alone("report-card")
    result = run_together(request, progress=progress)
    assert result is not None
    return result


def run_together(request: Request, *, progress: Progress = silent) -> CardResult | None:
    """Do as :func:`run`, with the processes that torchrun started beside this one, if any.

    All of them read and encode a share of the videos; then the first does the rest, and the others
    return None.

    Raises:
        VidsslError, Interrupted: as :func:`run`; LaunchError if the processes do not meet.
    """
    if not request.on:
        raise RecipeError("expected at least one source of videos, found none")
    if request.test and len(request.test) != len(request.on):
        raise RecipeError(
            f"expected a --test for each of the {len(request.on)} --on, or none, found "
            f"{len(request.test)}"
        )
    out = request.out or _beside(request.encoder, FOLDER)
    _require_card(out)
    rivals = [card_file.read_rival(path) for path in request.compare]
    plans = _plans(request)
    if request.boxes is not None:
        boxes.require(request.boxes, plans[0])  # a mistake is told of before hours of work
    with joined():
        seen = _look(request, plans, progress)
        untrained = None
        if "random" in request.baselines:
            progress(
                "the same network is looked at untrained: as long again, if not kept", 0, REMARK
            )
            untrained = _look(request, [replace(plan, random=SEED) for plan in plans], progress)
        if rank() != 0:
            return None
    results = [probe.judged(one, progress=progress) for one in seen.videos]
    if "chance" in request.baselines:
        rivals.append(_chance(results))
    if "majority" in request.baselines:
        rivals += _majority(results)
    costs = []
    if untrained is not None:
        rival, spent_s = _random(untrained, progress)
        rivals.append(rival)
        costs.append(("the same of the random network took", f"{spent_s:.0f} s"))
    card = _card(request, plans, results, rivals, progress)
    if seen.people is not None:
        started = time.monotonic() - seen.people.seconds
        card = replace(card, scores=[*card.scores, boxes.scored(seen.people)])
        costs.insert(0, ("people in boxes took", f"{time.monotonic() - started:.0f} s"))
    _write(out, replace(card, costs=[*card.costs, *costs]))
    page = out / PAGE
    return CardResult(
        page=page,
        json=out / card_file.NAME,
        bytes=page.stat().st_size,
        name=card.name,
        scores=tuple(card.scores),
        rivals=tuple(card.rivals),
        notes=tuple(card.notes),
        expected=sum(result.expected for result in results),
        failed=sum(result.failed for result in results),
        counts=_counts(card, results),
    )


def baselines_of(names: Sequence[str] | None) -> tuple[Baseline, ...]:
    """Return the baselines that are named; the most frequent class where nothing is said.

    Raises:
        RecipeError: if there is none of a name.
    """
    for name in names or ():
        if name not in BASELINES:
            raise RecipeError(
                f"--baseline: expected one of {', '.join(BASELINES)}, found {name!r}"
                f"{nearest(name, BASELINES)}"
            )
    return ("majority",) if names is None else tuple(one for one in BASELINES if one in names)


def boxes_of(
    videos: str | None, train: Path | None, test: Path | None, labels: Path | None
) -> BoxTask | None:
    """Return what people are to be looked at; None where nothing is said.

    Raises:
        RecipeError: if only part of it is said.
    """
    if videos is None and train is None and test is None and labels is None:
        return None
    if videos is None or train is None or test is None or labels is None:
        raise RecipeError(
            "expected --boxes-on, --boxes-train, --boxes-test and --boxes-labels together, "
            "found some of them"
        )
    return BoxTask(videos, train, test, labels)


def plain(result: CardResult) -> dict[str, Any]:
    """Return the result as plain values for JSON."""
    return {
        "page": str(result.page),
        "card": str(result.json),
        "bytes": result.bytes,
        "name": result.name,
        "scores": [asdict(score) for score in result.scores],
        "compared_with": [rival.name for rival in result.rivals],
        "notes": list(result.notes),
        "expected": result.expected,
        "failed": result.failed,
        "counts": [
            {"what": what, "expected": expected, "failed": failed}
            for failed, expected, what in result.counts
        ],
    }


def _counts(card: Card, results: Sequence[ProbeResult]) -> tuple[tuple[int, int, str], ...]:
    """Return how many failed of how many, of what, for all that a score stands on."""
    learnt = [result.train for result in results if result.test is not None]
    return (
        (sum(one.failed for one in results), sum(one.expected for one in results), "videos"),
        (sum(s.failed for s in learnt), sum(s.expected for s in learnt), "training videos"),
        *((s.failed, s.expected, s.unit) for s in card.scores if s.unit != "videos"),
    )


def _beside(encoder: Path, name: str) -> Path:
    return (encoder if encoder.is_dir() else encoder.parent) / name


def _require_card(out: Path) -> None:
    """Refuse a place that holds something else than a card.

    Raises:
        OutputError: if it does.
    """
    if out.is_dir():
        if any(out.iterdir()) and not card_file.is_card(out):
            raise OutputError(
                f"{out}: holds something else than a report card; choose another name for --out"
            )
    elif out.exists() or out.is_symlink():
        raise OutputError(f"{out}: expected a folder, found a file; choose another --out")


def _write(out: Path, card: Card) -> None:
    """Write the page and the JSON; both are there before either takes its name."""
    page, told = card_page.render(card), card_file.as_json(card)
    if not out.exists():
        with replacing_folder(out) as aside:
            (aside / PAGE).write_text(page, encoding="utf-8")
            (aside / card_file.NAME).write_text(told, encoding="utf-8")
        return
    _require_card(out)  # much time has passed
    with replacing(out / card_file.NAME) as json_aside, replacing(out / PAGE) as page_aside:
        page_aside.write_text(page, encoding="utf-8")
        json_aside.write_text(told, encoding="utf-8")


def _plans(request: Request) -> list[probe.Request]:
    """Return what to probe: motion and its damaged clips of the first source alone."""
    tests: Sequence[str | None] = request.test or (None,) * len(request.on)
    return [
        replace(
            request.probing,
            encoder=request.encoder,
            train=on,
            test=test,
            motion=request.motion and number == 0,
        )
        for number, (on, test) in enumerate(zip(request.on, tests, strict=True))
    ]


# --- scores


def _scores(plans: Sequence[probe.Request], results: Sequence[ProbeResult]) -> list[Score]:
    """Return the scores of all sources, which name theirs where there are several."""
    found = []
    for number, (name, result) in enumerate(zip(_names(plans, results), results, strict=True)):
        where = f" on {name}" if len(results) > 1 else ""
        found += [_score(score, where) for score in result.scores]
        if number == 0 and result.motion is not None and result.motion.share is not None:
            found.append(_needs_time(result))
    return found


def _names(plans: Sequence[probe.Request], results: Sequence[ProbeResult]) -> list[str]:
    """Return what kind of source each is, or all of it where two are of one kind."""
    kinds = [(result.test or result.train).source for result in results]
    whole = [shown(plan.test or plan.train) for plan in plans]
    return kinds if len({*kinds}) == len(kinds) else whole


def _score(score: ProbeScore, where: str = "") -> Score:
    title, meaning = WORDS.get(score.key, _words(score))
    return Score(
        key=score.key,
        title=f"{title}{where}",
        meaning=meaning,
        value=_number(score.value),
        low=_number(score.low),
        high=_number(score.high),
        expected=score.expected,
        evaluated=score.evaluated,
        failed=score.failed,
        fingerprint=score.fingerprint,
        protocol={name: _said(value) for name, value in score.protocol.items()},
        chance=_number(score.chance),
        large=score.key in WORDS,
    )


def _words(score: ProbeScore) -> tuple[str, str]:
    name = {"knn": "kNN", "linear": "Linear probe"}.get(score.probe, score.probe.capitalize())
    kind, _, count = score.metric.partition("@")
    if score.probe == "few-shot":
        words = f"Share right with {count} labelled videos of each class; the mean of many draws."
        return f"Few-shot, {count} a class", words
    if kind == "R":
        return f"Retrieval, R@{count}", f"Share with one of their class among the {count} nearest."
    if score.metric == "top5":
        return f"{name}, top 5", "Share of videos with their class among the five most probable."
    return f"{name}, {score.metric}", ""


def _needs_time(result: ProbeResult) -> Score:
    motion = result.motion
    assert motion is not None
    assert motion.share is not None
    normal = motion.scores["normal"]
    protocol = {**normal.protocol, "metric": "(normal - static) / normal"}
    return Score(
        key="motion.share",
        title="Needs motion",
        meaning="Share of the accuracy that is lost when each clip is one frame, repeated. 0 %: it "
        "only looks at pictures.",
        value=_number(motion.share.value),
        low=_number(motion.share.low),
        high=_number(motion.share.high),
        expected=normal.expected,
        evaluated=normal.evaluated,
        failed=normal.failed,
        fingerprint=fingerprint(protocol),
        protocol={name: _said(value) for name, value in protocol.items()},
    )


def _chance(results: Sequence[ProbeResult]) -> Rival:
    """Return what guessing would score, of the scores for which that is known."""
    scores = [_score(score) for result in results for score in result.scores]
    guessed = [
        replace(score, value=score.chance, low=None, high=None)
        for score in scores
        if score.chance is not None
    ]
    return Rival("chance", guessed, "guesses one of the classes that were trained on.")


def _majority(results: Sequence[ProbeResult]) -> list[Rival]:
    """Return what always answering the most frequent training class would score."""
    scores = []
    for result in results:
        if result.several_classes:
            continue
        counts_K = [one.train for one in result.by_class]
        most = int(np.argmax(counts_K))
        right = [float(v.labels == (most,) and not v.reason) for v in result.videos]
        found = mean_interval(np.array(right))
        scores += [
            replace(_score(score), value=found.value, low=None, high=None)
            for score in result.scores
            if score.metric == "top1"
        ]
    note = "always answers the class with the most training videos."
    return [Rival("majority class", scores, note)] if scores else []


@dataclass(frozen=True)
class _Seen:
    """All that one network is to be scored on, in the cache."""

    videos: Sequence[probe.Seen]
    people: boxes.SeenBoxes | None

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.videos) + (self.people.seconds if self.people else 0)


def _look(request: Request, plans: Sequence[probe.Request], progress: Progress) -> _Seen:
    """Look at all videos and people, together with the other processes."""
    videos = [probe.look(plan, progress=progress) for plan in plans]
    if request.boxes is None:
        return _Seen(videos, None)
    return _Seen(videos, boxes.look(request.boxes, plans[0], progress=progress))


def _random(untrained: _Seen, progress: Progress) -> tuple[Rival, float]:
    """Return what the same network scores untrained, and the seconds that it took.

    All scores of the card are taken again, motion and boxes too, so that it costs as much again.
    """
    started = time.monotonic() - untrained.seconds
    results = [probe.judged(one, progress=progress) for one in untrained.videos]
    scores = _scores([one.request for one in untrained.videos], results)
    if untrained.people is not None:
        scores.append(boxes.scored(untrained.people))
    note = f"the same network, untrained (seed {SEED})."
    return Rival("random network", scores, note), time.monotonic() - started


# --- the card


def _card(
    request: Request,
    plans: Sequence[probe.Request],
    results: Sequence[ProbeResult],
    rivals: Sequence[Rival],
    progress: Progress,
) -> Card:
    looked = encoders.load(request.encoder, plans[0].random)
    first = results[0]
    gathered = Gathered(plans[0], first, looked, progress)
    failures = [
        (name, why)
        for result in results
        for side in (result.train, result.test)
        if side is not None
        for name, why in side.failures.items()
    ]
    return Card(
        name=request.name or request.encoder.resolve().name,
        lead=_lead(looked, _names(plans, results)),
        facts=_facts(request, looked, plans, results),
        classes=first.classes,
        scores=_scores(plans, results),
        videos=gathered.videos,
        strips=gathered.strips,
        map=gathered.map,
        neighbours=gathered.neighbours,
        confusion=gathered.confusion,
        mistakes=gathered.mistakes,
        judge={"linear": "linear probe", "knn": "kNN"}.get(gathered.probe or "", ""),
        motion=_motion(first),
        curves=_curves(request.encoder),
        costs=_costs(looked, first, plans[0]),
        rivals=rivals,
        failures=list(dict.fromkeys(failures)),
        notes=list(dict.fromkeys(note for result in results for note in result.notes)),
        commands=[request.command] if request.command else [],
    )


# --- words and numbers


def _motion(result: ProbeResult) -> Motion | None:
    found = result.motion
    if found is None:
        return None
    variants = [
        replace(_score(score), title=str(name), meaning=SHOWN_TIMES.get(name, ""))
        for name, score in found.scores.items()
    ]
    shares = [one.needs_time.value if one.needs_time else math.nan for one in result.by_class]
    title, _ = WORDS.get(f"{found.probe}.top1", (found.probe, ""))
    return Motion(variants, np.array(shares), f"The probe is {title}.")


def _curves(encoder: Path) -> list[LearningCurve]:
    """Return what the training logged, if the encoder lies in a run's folder."""
    try:
        return curves_of(read_run(encoder if encoder.is_dir() else encoder.parent).log)
    except CheckpointError:
        return []


def _lead(looked: encoders.Looked, names: Sequence[str]) -> str:
    trained = looked.card.get("trained_by")
    method = trained.get("method") if isinstance(trained, dict) else None
    steps = trained.get("steps") if isinstance(trained, dict) else None
    words = [f"{looked.backbone.name} encoder"]
    if isinstance(method, str):
        words.append(f"trained by {method}")
    if isinstance(steps, int):
        words.append(f"for {steps:,} steps")
    return f"{' '.join(words)}, looked at frozen on {' and '.join(dict.fromkeys(names))}."


def _facts(
    request: Request,
    looked: encoders.Looked,
    plans: Sequence[probe.Request],
    results: Sequence[ProbeResult],
) -> list[tuple[str, str]]:
    """Return what was looked at; of several sources each fact names its own."""
    facts = [
        ("encoder", str(request.encoder)),
        ("weights", looked.hash),
        ("made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
    ]
    for name, result in zip(_names(plans, results), results, strict=True):
        of = f", scores on {name}" if len(results) > 1 else ""
        for what, side in (("training", result.train), ("test", result.test)):
            title = f"{what} videos{of}"
            if side is None:
                facts.append((title, f"the same {result.expected}, each left out in its turn"))
                continue
            told = f"{side.source}: {side.evaluated} of {side.expected} could be read"
            if side.published:
                told += f"; {side.published['list']} has {side.published['videos']:,}"
            facts.append((title, told))
            if side.account:
                facts.append((f"{what} account{of}", side.account))
    return facts


def _costs(
    looked: encoders.Looked, result: ProbeResult, plan: probe.Request
) -> list[tuple[str, str]]:
    backbone, encoder = looked.backbone, looked.encoder
    side_px = plan.crop_px or looked.side_px
    with torch.device("meta"):
        count = multiply_adds(
            backbone.build().eval(), torch.empty(1, 3, backbone.frames, side_px, side_px)
        )
    device = device_of(plan.device)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return [
        ("parameters", _counted(parameters)),
        ("multiply-adds a clip", _counted(count)),
        ("clip", f"{backbone.frames} frames, {side_px} px"),
        ("feature", f"{encoder.features} numbers"),
        (
            f"clips per second, {_device_name(device)}, network alone",
            _speed(looked, side_px, device),
        ),
        ("probing took", f"{result.seconds:.0f} s"),
    ]


def _speed(looked: encoders.Looked, side_px: int, device: torch.device) -> str:
    """Return clips a second through the network in batches, without decoding, after a first."""
    clips = torch.zeros(SPEED_BATCH, 3, looked.backbone.frames, side_px, side_px, device=device)
    encoder = looked.encoder.to(device).eval()

    def once() -> None:
        encoder(clips)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.inference_mode():
        once()
        started, rounds = time.perf_counter(), 0
        while rounds == 0 or (rounds < SPEED_ROUNDS and time.perf_counter() - started < SPEED_S):
            once()
            rounds += 1
        spent_s = time.perf_counter() - started
    return f"{SPEED_BATCH * rounds / spent_s:.3g}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _counted(count: int) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {letter}"
    return str(count)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
