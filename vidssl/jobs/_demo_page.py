"""The page of the demonstration: what went in, what came out, and how to repeat it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidssl.ava.annotations import (
    KeyFrame,
    Predictions,
    group_keyframes,
    read_annotations,
    read_excluded,
    read_predictions,
)
from vidssl.ava.labels import LabelMap
from vidssl.jobs import sample
from vidssl.recipe import Pretrain, find, load
from vidssl.report import figures, page, run_charts
from vidssl.report.figures import MarkedBox, MarkedFrame
from vidssl.report.page import Block, Cell, Commands, Facts, Figure, Plots, Section, Table, Text
from vidssl.train.folder import read_log
from vidssl.video.reader import open_reader

KEYFRAMES = 6
LABELS_SHOWN = 3
HEALTH = ("loss", "positive_similarity", "negative_similarity", "feature_std", "top1")
DETECTION = ("loss", "positive_score", "negative_score")


@dataclass(frozen=True)
class Scores:
    """APs by series (with the bank, without, ...): of each class, and the mean of each group."""

    groups: Mapping[str, Sequence[int]]
    ap: Mapping[str, Mapping[int, float | None]]
    means: Mapping[str, Mapping[str, float]]


def write(out: Path, labels: LabelMap, scores: Scores, seconds: Mapping[str, float]) -> None:
    """Write ``out/report.html`` from the files of the steps and what they scored."""
    sheet = out / "sampled_clips.png"
    plan = load(Pretrain, find(Pretrain, "moco_playground"))
    sample.run(str(out / "index.parquet"), plan, sheet, count=4)
    sections = [
        _scores(labels, scores),
        Section(
            "What the method saw",
            [Figure(sheet.read_bytes(), "clips as sampled and augmented", "Two clips of a video")],
        ),
        Section(
            "How training went",
            [
                *_curves(out / "pretrain", HEALTH, "Pretraining"),
                *_curves(out / "detector", DETECTION, "Detector"),
                *_curves(out / "detector_bank", DETECTION, "Detector with the bank"),
            ],
        ),
        Section("Key frames", [_keyframes(out, labels)]),
        Section("Each step by hand", [Commands(commands(out))]),
        Section(
            "Time",
            [Table(["step", "seconds"], [[name, value] for name, value in seconds.items()])],
        ),
    ]
    lead = "From unlabelled videos to a scored action detector with a long-term feature bank."
    page.write(out / "report.html", page.Page("vidssl demo", sections, lead))


def commands(out: Path) -> list[str]:
    """Return the commands that repeat each step, with the demonstration's own files."""
    data, index = out / "playground", out / "index.parquet"
    truth = f"--annotations {data}/val.csv --labels {data}/action_list.pbtxt"
    truth += f" --excluded {data}/val_excluded_timestamps.csv --protocol slowfast"
    people = f"--videos {index} --boxes {data}/val_person_detections.csv"
    train = f"--videos {index} --annotations {data}/train.csv --labels {data}/action_list.pbtxt"
    train += f" --excluded {data}/train_excluded_timestamps.csv"
    boxes = " ".join(f"--boxes {data}/{s}_person_detections.csv" for s in ("train", "val"))
    return [
        f"vidssl playground --out {data}",
        f"vidssl index {data}/videos --out {index}",
        f"vidssl pretrain moco_playground --videos {index} --out {out}/pretrain",
        f"vidssl finetune playground --encoder {out}/pretrain {train} --out {out}/detector",
        f"vidssl extract-features playground --encoder {out}/detector --videos {index} {boxes}"
        f" --out {out}/bank",
        f"vidssl finetune playground_bank --encoder {out}/detector --bank {out}/bank {train}"
        f" --out {out}/detector_bank",
        f"vidssl eval-ava {truth} --checkpoint {out}/detector {people}",
        f"vidssl eval-ava {truth} --checkpoint {out}/detector_bank {people} --bank {out}/bank",
    ]


def _scores(labels: LabelMap, scores: Scores) -> Section:
    rows: list[list[Cell]] = [
        [group, *(means[group] for means in scores.means.values())] for group in scores.groups
    ]
    facts: list[tuple[str, Cell]] = [
        (f"{group}, {name}", means[group])
        for group in ("person movement", "long memory")
        for name, means in scores.means.items()
        if group in means
    ]
    return Section(
        "Average precision",
        [
            Facts(facts),
            Text("On the validation videos, with detected people:"),
            Plots(
                [
                    run_charts.average_precision(
                        group, {label: labels.names[label] for label in ids}, scores.ap
                    )
                    for group, ids in scores.groups.items()
                ],
                small=False,
            ),
            Table(["mean of", *scores.means], rows),
            Text(
                "Chance keeps the boxes and deals the scores out anew. The clock scores a box by "
                "the second of the video alone: nobody can have returned in the first seconds, nor "
                "be met again in the last. The two long-memory labels (has returned; will be met "
                "again) cannot be seen in a clip, only in the seconds around it. With the bank "
                "emptied, the same detector still reads who was there when, but not what they "
                "looked like: what is left of its gain is timing, and what is lost is recognition."
            ),
        ],
    )


def _curves(run: Path, names: Sequence[str], title: str) -> list[Block]:
    log = read_log(run)
    return [
        Text(f"{title}:"),
        Plots(run_charts.curves([run_charts.curve_of(log, name) for name in names])),
    ]


def _keyframes(out: Path, labels: LabelMap) -> Figure:
    """Return key frames of the validation videos with true and predicted people."""
    data = out / "playground"
    frames = group_keyframes(
        read_annotations(data / "val.csv", labels),
        labels.size,
        read_excluded(data / "val_excluded_timestamps.csv"),
    )
    crowded = [frame for frame in frames if len(frame.boxes) > 1] or frames
    chosen = [crowded[i] for i in figures.spread(len(crowded), KEYFRAMES)]
    found = read_predictions(out / "detector_bank" / "eval-val" / "predictions.csv", labels)
    items = [_marked(frame, found, labels, data) for frame in chosen]
    return Figure(
        figures.keyframe_grid(items),
        "key frames with true and predicted boxes",
        "Solid: true. Dashed: predicted, with the highest scores.",
    )


def _marked(keyframe: KeyFrame, found: Predictions, labels: LabelMap, data: Path) -> MarkedFrame:
    with open_reader(str(data / "videos" / f"{keyframe.video}.mp4")) as reader:
        picture = reader.frames_at(np.array([keyframe.timestamp])).frames[0]
    true = [
        MarkedBox(box, [labels.names[int(i) + 1] for i in np.flatnonzero(row)])
        for box, row in zip(keyframe.boxes, keyframe.labels, strict=True)
    ]
    mine = (found.video == keyframe.video) & (found.timestamp == keyframe.timestamp)
    boxes = np.unique(found.box[mine], axis=0)
    predicted = [_predicted(box, found, mine, labels) for box in boxes]
    title = f"{keyframe.video}, {keyframe.timestamp:g} s"
    return MarkedFrame(title, picture, true, predicted)


def _predicted(
    box: np.ndarray[tuple[int], np.dtype[np.float64]],
    found: Predictions,
    mine: np.ndarray[tuple[int], np.dtype[np.bool_]],
    labels: LabelMap,
) -> MarkedBox:
    rows = np.flatnonzero(mine & (found.box == box).all(axis=1))
    best = rows[np.argsort(-found.score[rows], kind="stable")[:LABELS_SHOWN]]
    names = [labels.names[int(action)] for action in found.action[best]]
    return MarkedBox(box, names, found.score[best].tolist())
