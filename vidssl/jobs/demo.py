"""``vidssl demo``: the main job end to end on videos that it renders itself.

Every step is the command of that name with a bundled recipe, and leaves its ordinary files; a
demonstration that was stopped goes on where it stood.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from vidssl.ava.annotations import (
    Predictions,
    read_annotations,
    read_excluded,
    read_predictions,
)
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.mean_ap import mean_ap
from vidssl.errors import OutputError
from vidssl.jobs import (
    _demo_page,
    eval_ava,
    extract_features,
    finetune,
    index,
    playground,
    pretrain,
)
from vidssl.progress import Progress, silent
from vidssl.recipe import Detection, Extract, Pretrain, find, load

CHANCE_DRAWS = 5
CLOCK_REACH_S = 2
MOTIONS = 4
"""The playground's first labels, of which each person has one."""
SEED = 0

Step = TypeVar("Step")


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found; APs are means over the classes of a group, by group's name."""

    report: Path
    seconds: float
    seconds_by_step: dict[str, float]
    chance: dict[str, float]
    clock: dict[str, float]
    without_bank: dict[str, float]
    with_bank: dict[str, float]
    bank_emptied: dict[str, float]


def run(
    out: Path,
    *,
    videos: int = 40,
    seconds: float = 45,
    steps: int | None = None,
    progress: Progress = silent,
) -> DemoResult:
    """Do the whole job in ``out`` and write its report.

    ``steps`` shortens each training to so many, for a trial; it then starts no loader processes.

    Raises:
        OutputError: if ``out`` holds something else.
        Interrupted: on Ctrl-C; the same call goes on from there.
    """
    started = time.monotonic()
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; expected a folder for the demonstration")
    if out.is_dir() and any(out.iterdir()) and not (out / "playground").is_dir():
        raise OutputError(f"{out}: holds other files; choose an empty folder")
    doing = _Steps(out, videos, seconds, steps, progress)
    scores = doing.run_all()
    predictions = out / "detector" / "eval-val" / "predictions.csv"
    chance = _chance(doing.truth(), predictions)
    labels = read_labels(doing.labels)
    groups = groups_of(labels)
    clock = _clock(doing.truth(), doing.data / "train.csv", predictions)
    series: dict[str, Mapping[int, float | None]] = {"chance": chance, "clock": clock}
    series |= {name: result.ap for name, result in scores.items()}
    means = {name: group_means(ap, groups) for name, ap in series.items()}
    _demo_page.write(out, labels, _demo_page.Scores(groups, series, means), doing.seconds)
    return DemoResult(
        report=out / "report.html",
        seconds=time.monotonic() - started,
        seconds_by_step=doing.seconds,
        chance=means["chance"],
        clock=means["clock"],
        without_bank=means["without bank"],
        with_bank=means["with bank"],
        bank_emptied=means["bank emptied"],
    )


class _Steps:
    """The commands in order, each timed."""

    def __init__(
        self, out: Path, videos: int, seconds: float, steps: int | None, progress: Progress
    ) -> None:
        self.out, self.progress = out, progress
        self.short = [] if steps is None else [f"optim.steps={steps}", "log_every=1"]
        self.alone = [] if steps is None else ["loader.workers=0"]
        self.videos, self.length_s = videos, seconds
        self.data = out / "playground"
        self.index = out / "index.parquet"
        self.labels = self.data / "action_list.pbtxt"
        self.seconds: dict[str, float] = {}

    def run_all(self) -> dict[str, eval_ava.EvalResult]:
        """Run every step; return the three scores by name."""
        out, data = self.out, self.data
        self._timed(
            "render",
            lambda tell: playground.run(
                data, videos=self.videos, seconds=self.length_s, seed=SEED, progress=tell
            ),
        )
        self._timed(
            "index", lambda tell: index.run(str(data / "videos"), self.index, progress=tell)
        )
        self._pretrain()
        self._finetune("detector", "playground", out / "pretrain", None)
        self._extract()
        self._finetune("detector_bank", "playground_bank", out / "detector", out / "bank")
        return {
            "without bank": self._evaluate("detector", None),
            "with bank": self._evaluate("detector_bank", out / "bank"),
            "bank emptied": self._evaluate("detector_bank", out / "bank", empty=True),
        }

    def _pretrain(self) -> None:
        plan = load(Pretrain, find(Pretrain, "moco_playground"), self.short + self.alone)
        self._timed(
            "pretrain",
            lambda tell: pretrain.run(plan, str(self.index), self.out / "pretrain", progress=tell),
        )

    def _finetune(self, name: str, recipe: str, encoder: Path, bank: Path | None) -> None:
        plan = load(Detection, find(Detection, recipe), self.short + self.alone)
        what = finetune.DetectionData(
            videos=str(self.index),
            annotations=self.data / "train.csv",
            labels=self.labels,
            excluded=self.data / "train_excluded_timestamps.csv",
            bank=bank,
        )
        self._timed(
            f"finetune {name}",
            lambda tell: finetune.run(plan, str(encoder), what, self.out / name, progress=tell),
        )

    def _extract(self) -> None:
        plan = load(Extract, find(Extract, "playground"), self.alone)
        boxes = [self.data / f"{split}_person_detections.csv" for split in ("train", "val")]
        self._timed(
            "extract",
            lambda tell: extract_features.run(
                plan,
                self.out / "detector",
                str(self.index),
                boxes,
                self.out / "bank",
                progress=tell,
            ),
        )

    def truth(self) -> eval_ava.Truth:
        """Return what the detectors are scored against."""
        return eval_ava.Truth(
            self.data / "val.csv",
            self.labels,
            self.data / "val_excluded_timestamps.csv",
            "slowfast",
        )

    def _evaluate(
        self, name: str, bank: Path | None, *, empty: bool = False
    ) -> eval_ava.EvalResult:
        request = eval_ava.Request(
            self.out / name,
            str(self.index),
            self.data / "val_person_detections.csv",
            bank,
            empty,
        )
        suffix = ", bank emptied" if empty else ""
        return self._timed(
            f"evaluate {name}{suffix}",
            lambda tell: eval_ava.run(self.truth(), None, request, progress=tell),
        )

    def _timed(self, name: str, step: Callable[[Progress], Step]) -> Step:
        def tell(what: str, done: int, total: int) -> None:
            self.progress(f"{name}: {what}", done, total)

        start = time.monotonic()
        result = step(tell)
        self.seconds[name] = round(time.monotonic() - start, 1)
        return result


def groups_of(labels: LabelMap) -> dict[str, list[int]]:
    """Return the class ids of each group of a label map, by the group's name in words."""
    groups: dict[str, list[int]] = {}
    for label in labels.ids:
        words = labels.groups[label].lower().replace("_", " ") or "all"
        groups.setdefault(words, []).append(label)
    return groups


def group_means(
    ap: Mapping[int, float | None], groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Return the mean AP of each group, classes without ground truth left out."""
    means = {}
    for name, ids in groups.items():
        known = [
            value for label in ids if (value := ap.get(label)) is not None and not math.isnan(value)
        ]
        means[name] = sum(known) / len(known) if known else math.nan
    return means


def _chance(truth: eval_ava.Truth, predictions: Path) -> dict[int, float]:
    """Return each class's AP for the same boxes with scores that know nothing.

    The scores of a class are dealt out anew among the boxes; the mean of several deals.
    """
    found = read_predictions(predictions, read_labels(truth.labels))
    rng = np.random.default_rng(SEED)
    draws = []
    for _ in range(CHANCE_DRAWS):
        score = found.score.copy()
        for label in np.unique(found.action):
            rows = np.flatnonzero(found.action == label)
            score[rows] = rng.permutation(score[rows])
        draws.append(_ap(truth, replace(found, score=score)))
    return {label: float(np.mean([draw[label] for draw in draws])) for label in draws[0]}


def _clock(truth: eval_ava.Truth, train: Path, predictions: Path) -> dict[int, float]:
    """Return each class's AP for the same boxes scored by the second of the video alone.

    A class's score at a second is its share of the training boxes of that second and the two on
    either side: what the edges of a feature bank give away without any memory.
    """
    labels = read_labels(truth.labels)
    seen = read_annotations(train, labels)
    found = read_predictions(predictions, labels)
    people = seen.action <= MOTIONS  # every box has exactly one motion, so these rows count boxes
    score = np.zeros(len(found.score))
    for second in np.unique(found.timestamp):
        near = np.abs(seen.timestamp - second) <= CLOCK_REACH_S
        boxes = max(1, int((near & people).sum()))
        rows = np.flatnonzero(found.timestamp == second)
        counts = np.bincount(seen.action[near], minlength=labels.size + 1)
        score[rows] = counts[found.action[rows]] / boxes
    return _ap(truth, replace(found, score=score))


def _ap(truth: eval_ava.Truth, found: Predictions) -> dict[int, float]:
    labels = read_labels(truth.labels)
    excluded = read_excluded(truth.excluded) if truth.excluded else frozenset()
    annotations = read_annotations(truth.annotations, labels)
    score = mean_ap(annotations, found, labels, protocol=truth.protocol, excluded=excluded)
    return score.ap
