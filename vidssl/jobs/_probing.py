"""The probes of one request on frozen features, and the scores that come of them.

Array suffixes: N training videos that could be read, M test videos that could be read, E test
videos that are expected, L tokens, F features, K classes.
"""

import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from vidssl.jobs._probe_encoder import Looked
from vidssl.jobs._probe_result import (
    ClassResult,
    Motion,
    ProbedVideo,
    ProbeResult,
    ProbeScore,
    fingerprint,
)
from vidssl.jobs._probe_sides import Classes, Labels, Side
from vidssl.probe import attentive, few_shot, intervals, linear, neighbours
from vidssl.probe.motion import TIMES, Share, Time, needs_time
from vidssl.probe.neighbours import LeaveOut
from vidssl.progress import Progress
from vidssl.recognition import metrics, resampling
from vidssl.video.reader import Decoder

Probe = Literal["knn", "linear", "retrieval", "few-shot", "attentive"]
PROBES: tuple[Probe, ...] = get_args(Probe)
CLASSIFIERS: tuple[Probe, ...] = ("knn", "linear", "attentive")
SHOTS = (1, 5)


@dataclass(frozen=True)
class Request:
    """What is to be probed, and how.

    Without ``test`` the source is probed against itself. ``retry`` reads videos again that failed
    before. ``random`` draws the encoder's weights anew, by that seed. ``time`` is how clips are
    shown; ``motion`` compares all ways. ``cache`` is the folder that keeps features, None:
    ``probe`` beside the encoder. ``group`` is a regular expression of video names, whose first
    group names the film that a clip is from. Sizes that are None are those the encoder was trained
    on, as far as that is known.
    """

    encoder: Path
    train: str
    test: str | None = None
    probes: tuple[Probe, ...] = ("knn", "linear", "retrieval")
    k: int = 20
    temperature: float = 0.07
    centre: bool = True
    shots: tuple[int, ...] = SHOTS
    views: str = "3x1"
    time: Time = "normal"
    motion: bool = False
    random: int | None = None
    cache: Path | None = None
    group: str | None = None
    short_side_px: int | None = None
    crop_px: int | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    decoder: Decoder = "auto"
    workers: int | None = None
    clips_at_once: int = 16
    device: str = "auto"
    retry: bool = False


@dataclass
class _Answers:
    """A classifier's answer: ``(M, K)`` of each video that could be read, and how it came about."""

    scores: NDArray[np.float64]
    facts: dict[str, Any] = field(default_factory=dict)


class Probing:
    """All probes of one request on the same features."""

    def __init__(
        self,
        request: Request,
        classes: Classes,
        gallery: Side,
        queries: Side | None,
        about: dict[str, Any],
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.request, self.classes, self.gallery = request, classes, gallery
        self.queries = gallery if queries is None else queries
        self.alone = queries is None
        self.about, self.device, self.progress = about, device, progress
        self.notes = self._notes()
        self.train_labels: Labels = gallery.labels[gallery.rows]
        self.test_labels: Labels = self.queries.labels[self.queries.rows]
        own = gallery.group[gallery.rows]
        self.group = own if gallery.has_groups else None
        self.leave_out = LeaveOut.group(own) if self.alone else None

    def result(self, looked: Looked, notes: Sequence[str], started: float) -> ProbeResult:
        """Run what was asked for, and put it together."""
        request, queries = self.request, self.queries
        scores: list[ProbeScore] = []
        answers: dict[str, _Answers] = {}
        for number, probe in enumerate(request.probes, 1):
            self.progress(f"probing, {probe}", number, len(request.probes))
            if probe in CLASSIFIERS:
                answers[probe] = self._answers(probe, request.time)
                scores += self._scored(probe, request.time, answers[probe])
            elif not self.classes.has_many:
                scores += self._retrieval() if probe == "retrieval" else self._few_shot()
        motion, shares = self._motion() if request.motion else (None, ())
        probabilities = {
            probe: queries.spread(one.scores).astype(np.float32) for probe, one in answers.items()
        }
        reasons = queries.frozen.failures
        return ProbeResult(
            encoder=looked.name,
            encoder_hash=looked.hash,
            backbone=looked.backbone.model_dump(mode="json"),
            dim=looked.encoder.features,
            time=request.time,
            classes=self.classes.names,
            several_classes=self.classes.has_many,
            train=self.gallery.account(),
            test=None if self.alone else queries.account(),
            videos=tuple(
                ProbedVideo(item.id, item.path, self._columns(place), reasons.get(item.id, ""))
                for place, item in enumerate(queries.found.items)
            ),
            scores=tuple(scores),
            predictions={
                probe: tuple(self._predicted(values).tolist())
                for probe, values in probabilities.items()
            },
            by_class=self._by_class(answers, shares),
            motion=motion,
            notes=tuple(dict.fromkeys(notes)),
            seconds=clock.monotonic() - started,
            probabilities=probabilities,
            train_features=self.gallery.frozen.features[request.time],
            train_labels=self.train_labels,
            test_features=queries.frozen.features[request.time],
            test_rows=queries.rows,
        )

    def _notes(self) -> list[str]:
        notes = []
        request, queries = self.request, self.queries
        if self.classes.has_many and {"retrieval", "few-shot"} & {*request.probes}:
            notes.append("videos have several classes: no retrieval, no few shots")
        if self.alone:
            if "few-shot" in request.probes:
                notes.append("few shots: of one source, a fifth is tested on the rest")
            return notes
        here = {item.path for item in self.gallery.found.items if item.path}
        if both := sum(item.path in here for item in queries.found.items):
            notes.append(f"{both} test videos are training videos too: their scores are no test")
        seen = self._seen(self.gallery.labels)
        if strange := (self._seen(queries.labels) & ~seen).sum():
            notes.append(f"{strange} classes of the test videos have no training video")
        return notes

    def _seen(self, labels: Labels) -> NDArray[np.bool_]:
        """Return which classes any of the labels is, ``(K,)``."""
        if labels.ndim == 2:
            return np.asarray(labels.any(axis=0))
        return np.bincount(labels, minlength=len(self.classes.names)) > 0

    def _columns(self, place: int) -> tuple[int, ...]:
        own = self.queries.labels[place]
        return tuple(np.flatnonzero(own).tolist()) if self.classes.has_many else (int(own),)

    def _predicted(self, scores_EK: NDArray[np.float32]) -> NDArray[np.int64]:
        best_E = scores_EK.argmax(axis=1)
        return np.where(scores_EK.any(axis=1), best_E, -1)

    # a classifier's answers

    def _answers(self, probe: Probe, time: Time) -> _Answers:
        train_NF = self.gallery.frozen.features[time]
        test_MF = self.queries.frozen.features[time]
        if probe == "knn":
            return self._knn(train_NF, test_MF)
        if probe == "attentive":
            return self._attentive()
        return self._linear(train_NF, test_MF)

    def _knn(self, train_NF: NDArray[np.float32], test_MF: NDArray[np.float32]) -> _Answers:
        return _Answers(
            neighbours.knn_scores(
                *(train_NF, self.train_labels, test_MF),
                k=self.request.k,
                temperature=self.request.temperature,
                classes=len(self.classes.names),
                leave_out=self.leave_out,
            )
        )

    def _linear(self, train_NF: NDArray[np.float32], test_MF: NDArray[np.float32]) -> _Answers:
        classes = len(self.classes.names)
        labels = self.train_labels
        if not self.alone:
            fit = (
                linear.fit_linear_multilabel(train_NF, _many(labels), test_MF, group_N=self.group)
                if self.classes.has_many
                else linear.fit_linear(
                    *(train_NF, _one(labels), test_MF), classes=classes, group_N=self.group
                )
            )
            return _Answers(fit.probabilities, _told([fit]))
        if not self.classes.has_many:
            found = linear.cross_validated(
                train_NF, _one(labels), classes=classes, group_N=self.group
            )
            return _Answers(found[0], _told(found[1]))
        scores_NK = np.zeros((len(train_NF), classes))
        fits = []
        for fold in self._folds():
            rest, told_NK = ~fold, _many(labels)[~fold]
            if not (told_NK.any(axis=0) & ~told_NK.all(axis=0)).any():
                continue
            group = None if self.group is None else self.group[rest]
            fit = linear.fit_linear_multilabel(
                train_NF[rest], told_NK, train_NF[fold], group_N=group
            )
            scores_NK[fold] = fit.probabilities
            fits.append(fit)
        return _Answers(scores_NK, _told(fits))

    def _attentive(self) -> _Answers:
        train, test = self.gallery.frozen.tokens, self.queries.frozen.tokens
        assert train is not None
        assert test is not None
        classes, labels = len(self.classes.names), self.train_labels
        folds = self._folds() if self.alone else [np.zeros(len(train), np.bool_)]
        scores_MK = np.zeros((len(test), classes))
        facts: dict[str, Any] = {}
        for fold in folds:
            asked = fold if self.alone else np.ones(len(test), np.bool_)
            if fold.all():
                continue
            found = attentive.fit_attentive(
                *(train.of(np.flatnonzero(~fold)), labels[~fold], test.of(np.flatnonzero(asked))),
                classes=classes,
                device=self.device,
            )
            scores_MK[asked] = found.probabilities
            facts = {"loss": found.loss, "parameters": found.parameters, "steps": found.steps}
        return _Answers(scores_MK, {**facts, "tokens": train.shape[1]})

    def _folds(self) -> list[NDArray[np.bool_]]:
        labels = self.train_labels
        of_one = np.zeros(len(labels), np.int64) if labels.ndim == 2 else _one(labels)
        fold = linear.split(of_one, self.group, linear.FOLDS)
        return [fold == number for number in np.unique(fold)]

    # from answers to scores

    def _scored(self, probe: Probe, time: Time, answers: _Answers) -> list[ProbeScore]:
        if self.classes.has_many:
            return [self._mean_ap(probe, time, answers)]
        right = {k: self._right(answers, k) for k in (1, 5) if k < len(self.classes.names)}
        present = int(self._seen(self.train_labels).sum())
        return [
            self._score(
                *(probe, f"top{k}", values_E),
                settings=self._settings(probe, time),
                chance=min(1.0, k / present),
                facts=answers.facts,
            )
            for k, values_E in right.items()
        ]

    def _right(self, answers: _Answers, k: int = 1) -> NDArray[np.float64]:
        """Return how right each expected video is, ``(E,)``: 0 for those that failed."""
        return self.queries.spread(metrics.top_k(answers.scores, _one(self.test_labels), k))

    def _mean_ap(self, probe: Probe, time: Time, answers: _Answers) -> ProbeScore:
        queries = self.queries
        scores_EK = queries.spread(answers.scores).astype(np.float32)
        truth_EK = _many(queries.labels)
        is_ok = np.zeros(queries.expected, np.bool_)
        is_ok[queries.rows] = True
        there = queries.rows
        all_K = metrics.class_precisions(scores_EK[there], truth_EK[there], truth_EK.sum(axis=0))
        seen_K = metrics.class_precisions(scores_EK[there], truth_EK[there])
        found = resampling.of_mean_precision(scores_EK, truth_EK, is_ok)
        return self._made(
            *(probe, "mean_ap"),
            value=metrics.mean_of(all_K),
            over_evaluated=metrics.mean_of(seen_K),
            span=(found.low, found.high) if found else (np.nan, np.nan),
            interval="bootstrap over videos",
            units=queries.expected,
            settings=self._settings(probe, time),
            chance=np.nan,
            facts=answers.facts,
        )

    def _retrieval(self) -> list[ProbeScore]:
        time, queries = self.request.time, self.queries
        place_M = neighbours.first_right(
            self.gallery.frozen.features[time],
            _one(self.train_labels),
            queries.frozen.features[time],
            _one(self.test_labels),
            centre=self.request.centre,
            leave_out=self.leave_out,
        )
        return [
            self._score(
                *("retrieval", f"R@{k}", queries.spread((place_M > 0) & (place_M <= k))),
                settings=self._settings("retrieval", time),
                chance=np.nan,
            )
            for k in neighbours.RANKS
        ]

    def _few_shot(self) -> list[ProbeScore]:
        time, queries = self.request.time, self.queries
        train_NF, labels_N = self.gallery.frozen.features[time], _one(self.train_labels)
        test_MF, wanted_M, failed = queries.frozen.features[time], _one(self.test_labels), 0
        if self.alone:  # a fifth against the rest; failed videos belong to no fold
            fold = self._folds()[0]
            test_MF, wanted_M = train_NF[fold], labels_N[fold]
            train_NF, labels_N = train_NF[~fold], labels_N[~fold]
        else:
            failed = queries.failed
        if not len(labels_N) or not len(wanted_M):
            return []
        made = []
        for shots in self.request.shots:
            found = few_shot.few_shot(
                *(train_NF, labels_N, test_MF, wanted_M),
                shots=shots,
                classes=len(self.classes.names),
                failed=failed,
            )
            expected = len(wanted_M) + failed
            made.append(
                self._made(
                    *("few-shot", f"top1@{shots}"),
                    value=found.mean,
                    over_evaluated=found.mean * expected / len(wanted_M),
                    span=(found.low, found.high),
                    interval=f"{len(found.accuracies)} draws of training videos",
                    units=len(found.accuracies),
                    settings=self._settings("few-shot", time),
                    chance=1 / max(1, int(self._seen(self.train_labels).sum())),
                    facts={"short": found.short, "absent": found.absent},
                    counts=(expected, len(wanted_M)),
                )
            )
        return made

    def _motion(self) -> tuple[Motion, tuple[Share, ...]]:
        """Return one probe on all ways of showing clips, and the share of each class."""
        probe: Probe = "linear" if self.request.probes == ("linear",) else "knn"
        answers: dict[Time, _Answers] = {}
        times = [time for time in TIMES if time in self.gallery.frozen.features]
        for number, time in enumerate(times, 1):
            self.progress(f"probing damaged clips, {time}", number, len(times))
            answers[time] = self._answers(probe, time)
        scores = {time: self._scored(probe, time, one)[0] for time, one in answers.items()}
        drop = {t: scores["normal"].value - score.value for t, score in scores.items()}
        if self.classes.has_many:
            return Motion(probe, scores, drop, None), ()
        queries = self.queries
        share, by_class = needs_time(
            self._right(answers["normal"]),
            self._right(answers["static"]),
            label_M=_one(queries.labels),
            classes=len(self.classes.names),
            group_M=queries.group,
        )
        return Motion(probe, scores, drop, share), by_class

    def _by_class(
        self, answers: Mapping[str, _Answers], shares: Sequence[Share]
    ) -> tuple[ClassResult, ...]:
        queries, classes = self.queries, len(self.classes.names)
        right: dict[str, NDArray[np.float64]] = {}
        for probe, one in answers.items():
            if self.classes.has_many:
                truth = _many(queries.labels)
                right[probe] = metrics.class_precisions(
                    one.scores.astype(np.float32), truth[queries.rows], truth.sum(axis=0)
                )
            else:
                right[probe] = metrics.by_class(self._right(one), _one(queries.labels), classes)

        def count(labels: Labels) -> NDArray[np.int64]:
            counted: NDArray[np.int64] = (
                labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
            )
            return counted

        train_K, expected_K = count(self.train_labels), count(queries.labels)
        evaluated_K = count(self.test_labels)
        return tuple(
            ClassResult(
                number=number,
                name=name,
                train=int(train_K[number]),
                expected=int(expected_K[number]),
                evaluated=int(evaluated_K[number]),
                right={probe: float(values[number]) for probe, values in right.items()},
                needs_time=shares[number] if shares else None,
            )
            for number, name in enumerate(self.classes.names)
        )

    def _settings(self, probe: Probe, time: Time) -> dict[str, Any]:
        """Return what decides a probe's score, beside what decides the features."""
        request = self.request
        by_probe: dict[Probe, dict[str, Any]] = {
            "knn": {"k": request.k, "temperature": request.temperature},
            "linear": {
                "classifier": "logistic regression, L2, standardised",
                "C": f"of {len(linear.STRENGTHS)}, by {linear.HELD_OUT:.0%} held out",
            },
            "retrieval": {"centring": "own mean subtracted" if request.centre else "none"},
            "few-shot": {"classifier": "nearest mean by cosine", "draws": few_shot.DRAWS},
            "attentive": vars(attentive.AttentiveConfig()),
        }
        return {"probe": probe, "frame_order": time, **by_probe[probe]}

    def _score(
        self,
        probe: Probe,
        metric: str,
        right_E: NDArray[Any],
        *,
        settings: dict[str, Any],
        chance: float,
        facts: dict[str, Any] | None = None,
    ) -> ProbeScore:
        queries = self.queries
        group = queries.group if queries.has_groups else None
        found = intervals.mean_interval(right_E, group_M=group)
        return self._made(
            *(probe, metric),
            value=found.value,
            over_evaluated=float(right_E[queries.rows].mean()),
            span=(found.low, found.high),
            interval=f"bootstrap over {'groups' if group is not None else 'videos'}",
            units=found.units,
            settings=settings,
            chance=chance,
            facts=facts,
        )

    def _made(
        self,
        probe: Probe,
        metric: str,
        *,
        value: float,
        over_evaluated: float,
        span: tuple[float, float],
        interval: str,
        units: int,
        settings: dict[str, Any],
        chance: float,
        facts: dict[str, Any] | None = None,
        counts: tuple[int, int] | None = None,
    ) -> ProbeScore:
        expected, evaluated = counts or (self.queries.expected, len(self.queries.rows))
        protocol = {**settings, "metric": metric, **self.about}
        return ProbeScore(
            probe=probe,
            metric=metric,
            value=value,
            over_evaluated=over_evaluated,
            low=span[0],
            high=span[1],
            interval=interval,
            units=units,
            expected=expected,
            evaluated=evaluated,
            failed=expected - evaluated,
            chance=chance,
            protocol=protocol,
            fingerprint=fingerprint(protocol),
            facts=dict(facts or {}),
        )


def _one(labels: Labels) -> NDArray[np.int64]:
    assert labels.ndim == 1
    return labels.astype(np.int64)


def _many(labels: Labels) -> NDArray[np.bool_]:
    assert labels.ndim == 2
    return labels.astype(np.bool_)


def _told(fits: Sequence[linear.Linear]) -> dict[str, Any]:
    """Return how classifiers came about, for a person."""
    return {
        "C": [fit.strength for fit in fits],
        "held_out": [fit.held_out for fit in fits],
        "iterations": [fit.iterations for fit in fits],
        "converged": all(fit.converged for fit in fits),
    }
