"""``vidssl report``: one web page about a run, from the files in its folder."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidssl import report
from vidssl.errors import CheckpointError, SourceError
from vidssl.jobs._event_words import history, in_words
from vidssl.jobs._run_files import (
    RunFiles,
    Speed,
    is_finite,
    last_number,
    read_run,
    samples_seen,
    speed_of,
    steps_done,
)
from vidssl.report import card_file, card_page, run_charts
from vidssl.report.card import LearningCurve
from vidssl.report.page import Block, Cell, Section
from vidssl.report.run_charts import Mark
from vidssl.video.index import ClipIndex

KEEPS_UP, NEARLY = 0.05, 0.2
EVENTS_SHOWN = 100
CURVES_SHOWN = 200

MARKED = {
    "alarm": "a triangle is an alarm",
    "undone": "a cross steps that were undone",
    "resumed": "a dot where training went on after a stop",
}
MEANINGS = {
    "loss": "What training minimises.",
    "lr": "The learning rate.",
    "grad_norm": "The gradient's length before clipping.",
    "clips_per_s": "Clips trained on in a second.",
    "data_wait": "Share of the step spent waiting for data.",
    "memory_gb": "Largest memory of the main process so far, in GiB.",
    "feature_std": "1 for features spread evenly, 0 where all have become one.",
    "positive_similarity": "Cosine of two clips of one video.",
    "negative_similarity": "Cosine of clips of different videos.",
    "top1": "Share of clips whose own partner is the nearest.",
    "effective_rank": "In how many directions the features spread; 1 is a line.",
    "queue_age": "How many steps ago the queue's keys were made, on average.",
    "consistency": "CO2's term: how differently two views see their negatives.",
    "global_loss": "ConST-CL's term over whole clips.",
    "local_loss": "ConST-CL's term over regions, before its weight.",
    "fine": "TeG's term over moments, before its weight.",
    "persistent": "TeG's term over whole clips, before its weight.",
    "time_similarity_near": "Cosine of neighbouring steps of a clip.",
    "time_similarity_far": "Cosine of a clip's first and last step; 1 tells no moments apart.",
    "centre": "Catch-the-Patch's term over where patches are.",
    "size": "Catch-the-Patch's term over how large patches are.",
    "centre_error": "How far off patches are in the last frame; 1 for a guess that none moves.",
    "knn_video": "Share of fixed clips whose nearest neighbour is of the same video.",
    "knn_class": "Share of fixed clips that clips of other videos give the right class.",
}


@dataclass(frozen=True)
class ReportResult:
    """Where the page is, and the numbers at its top; None where the run has logged nothing yet.

    ``steps`` counts those done and ``samples_seen`` what they trained on, without what an encoder
    had seen before; ``data_wait`` is a share of time, and ``verdict`` says it in words. ``scores``
    has the mean average precision of each evaluation.
    """

    path: Path
    command: str
    finished: bool
    steps: int
    samples_seen: int | None
    loss: float | None
    clips_per_s: float | None
    data_wait: float | None
    verdict: str
    scores: dict[str, float | None]


def run(folder: Path) -> ReportResult:
    """Write ``folder``/report.html, and return what stands at its top.

    Raises:
        CheckpointError: if the folder is not that of a run.
        OutputError: if the page cannot be written.
    """
    files = read_run(folder)
    path = folder / "report.html"
    speed = speed_of(files.log)
    steps = steps_done(files)
    result = ReportResult(
        path=path,
        command=str(files.identity.get("command", "")),
        finished=bool(files.cards),
        steps=steps,
        samples_seen=samples_seen(files.log),
        loss=last_number(files.log, "loss"),
        clips_per_s=speed.clips_per_s if speed else None,
        data_wait=speed.data_wait if speed else None,
        verdict=_verdict(speed),
        scores={name: _ap(score.get("mean_ap")) for name, score in files.scores.items()},
    )
    report.write(path, _page(files, result))
    return result


# --- numbers


def _verdict(speed: Speed | None) -> str:
    if speed is None:
        return "No step has been logged yet, so there is nothing to say about its speed."
    share = f"{100 * speed.data_wait:.0f} % of the logged steps' time was spent waiting for data"
    if speed.data_wait < KEEPS_UP:
        return f"The data keeps up: {share}."
    if speed.data_wait < NEARLY:
        return f"The data nearly keeps up: {share}."
    return (
        f"Training waits for data: {share}. More loader.workers (up to the cores there are) or a "
        "smaller decode_short_side_px makes it faster; a faster GPU does not."
    )


# --- the page


def _page(files: RunFiles, result: ReportResult) -> report.Page:
    sections = [_summary(files, result), _curves(files)]
    if files.scores:
        sections.append(_scores(files.scores))
    if card := _card(files.folder):
        sections.append(card)
    if files.events:
        sections.append(_events(files.events, _batch(files)))
    if files.cards:
        sections.append(_weights(files.cards))
    sections.append(_repeat(files))
    return report.Page(files.folder.resolve().name, sections, _lead(files, result))


def _lead(files: RunFiles, result: ReportResult) -> str:
    recipe = files.identity.get("recipe") or {}
    what = {"pretrain": "Self-supervised pretraining", "finetune": "Training of a detector"}
    names = [
        f"{key} {recipe[key]['name']}"
        for key in ("method", "backbone")
        if isinstance(recipe.get(key), dict) and "name" in recipe[key]
    ]
    state = "finished" if result.finished else "not finished"
    return f"{', '.join([what.get(result.command, result.command), *names])}; {state}."


def _summary(files: RunFiles, result: ReportResult) -> Section:
    facts: list[tuple[str, Cell]] = [
        ("steps done", f"{result.steps:,}"),
        ("samples seen", None if result.samples_seen is None else f"{result.samples_seen:,}"),
        ("last loss", result.loss),
        ("clips per second", result.clips_per_s),
        ("waiting for data", None if result.data_wait is None else f"{result.data_wait:.0%}"),
        *(
            (f"mean AP, {name}", None if value is None else f"{value:.3f}")
            for name, value in result.scores.items()
        ),
    ]
    blocks: list[Block] = [report.Facts(facts), report.Text(result.verdict)]
    blocks += [report.Text(words) for words in _alarms(files.events)]
    if rough := history(files.events, _batch(files)):
        blocks.append(report.Text(rough))
    blocks += [report.Text(problem) for problem in files.unread]
    return Section("Summary", [*blocks, report.Table(("", ""), _particulars(files))])


def _batch(files: RunFiles) -> int | None:
    """Return the clips of a step, if the recipe tells."""
    recipe = files.identity.get("recipe")
    optim = recipe.get("optim") if isinstance(recipe, dict) else None
    batch = optim.get("batch") if isinstance(optim, dict) else None
    return batch if type(batch) is int else None


def _alarms(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the alarms of a training, each in a sentence."""
    return [
        f"Alarm at step {event.get('step')}: {event.get('words')}."
        for event in events
        if event.get("event") == "alarm"
    ]


def _particulars(files: RunFiles) -> list[tuple[Cell, ...]]:
    """Return rows of what, on which data, and when."""
    rows: list[tuple[Cell, ...]] = [("folder", str(files.folder.resolve()))]
    for key in ("videos", "videos_sha256", "encoder", "encoder_hash", "bank_encoder", "data"):
        rows += _flat(key, files.identity.get(key))
    index = files.folder / "index.parquet"
    if index.is_file():
        rows.append(("usable videos", _videos(index)))
    times = [event["time"] for event in files.events if is_finite(event.get("time"))]
    if times:
        rows.append(("first started", _utc(min(times))))
    log = files.folder / "log.jsonl"
    if log.is_file():
        rows.append(("last step logged", _utc(log.stat().st_mtime)))
    return rows


def _videos(path: Path) -> str:
    try:
        index = ClipIndex(path)
    except SourceError as error:
        return str(error)
    hours = float(index.duration_s[index.positions].sum()) / 3600
    return f"{len(index)}, {hours:.2f} hours ({index.set_aside} set aside)"


def curves_of(log: Sequence[Mapping[str, Any]]) -> list[LearningCurve]:
    """Return every number of a run's log over its steps, with its meaning where it is known."""
    # A straight line tells nothing that the summary does not.
    names = [name for name in run_charts.scalars(log) if name != "samples_seen"]
    return [run_charts.curve_of(log, name, MEANINGS.get(name, "")) for name in names]


def _curves(files: RunFiles) -> Section:
    found = curves_of(files.log)
    if not found:
        return Section("Curves", [report.Text("The run has no logged step yet.")])
    marks = _marks(files.events, _batch(files))
    told = (
        "Point at a curve, or touch it, to read it. With a mouse, drag over a part to see it "
        "larger, and double-click to see all of it again."
    )
    if marks:
        kinds = dict.fromkeys(mark.kind for mark in marks)
        heads = ", ".join(MARKED[kind] for kind in MARKED if kind in kinds)
        told += f" A dotted line marks what happened, its head tells: {heads}."
    if len(marks) > run_charts.MOST_MARKS:
        told += f" {run_charts.MOST_MARKS} of {len(marks)} are drawn."
    plots = report.Plots(run_charts.curves(found[:CURVES_SHOWN], marks))
    blocks: list[Block] = [report.Text(told), plots]
    if len(found) > CURVES_SHOWN:
        blocks.append(
            report.Text(f"The first {CURVES_SHOWN} of {len(found)} numbers; all are in log.jsonl.")
        )
    return Section("Curves", blocks)


def _marks(events: Sequence[Mapping[str, Any]], batch: int | None) -> list[Mark]:
    """Return what belongs to a step of the curves: alarms, steps undone, and going on again."""
    marks = []
    started = False
    for event in events:
        kind, words = event.get("event"), in_words(event, batch)
        step = event.get("last" if kind == "rolled back" else "step")
        again, started = started, started or kind == "start"
        if type(step) is not int or abs(step) >= 2**53:
            continue
        if kind == "alarm":
            marks.append(Mark("alarm", step, f"alarm at {words}"))
        elif kind == "rolled back":
            marks.append(Mark("undone", step, words))
        elif kind == "start" and again:
            marks.append(Mark("resumed", step, words))
    return marks


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> Section:
    named = {
        name: {i: _ap(value) for i, value in _by_id(score.get("ap")).items()}
        for name, score in scores.items()
    }
    classes: dict[int, str] = {}
    for score in scores.values():
        classes.update({i: str(text) for i, text in _by_id(score.get("names")).items()})
    classes |= {i: str(i) for ap in named.values() for i in ap if i not in classes}
    header = ("evaluation", "mean AP", "expected", "evaluated", "failed")
    rows = [
        (name, *(_cell(score.get(key)) for key in ("mean_ap", *header[2:])))
        for name, score in scores.items()
    ]
    blocks: list[Block] = [
        report.Table(header, rows),
        report.Text(
            "Expected, evaluated and failed count key frames. A class without ground truth has no "
            "average precision and is not in the mean."
        ),
    ]
    if classes:
        bars = run_charts.average_precision("Average precision", classes, named)
        blocks.append(report.Plots([bars], small=False))
        blocks.append(_class_table(classes, named))
    notes = [f"{name}: {n}" for name, score in scores.items() for n in score.get("notes") or ()]
    return Section("Scores", [*blocks, *map(report.Text, notes), *_protocols(scores)])


def _class_table(
    classes: Mapping[int, str], named: Mapping[str, Mapping[int, float | None]]
) -> report.Table:
    rows = [(i, text, *(ap.get(i) for ap in named.values())) for i, text in sorted(classes.items())]
    return report.Table(("id", "class", *named), rows)


def _protocols(scores: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Return what each score was taken with, and a warning where the settings differ."""
    settings = {name: dict(_flat("", score.get("protocol"))) for name, score in scores.items()}
    keys = list(dict.fromkeys(key for values in settings.values() for key in values))
    if not keys:
        return []
    rows = [(key, *(str(values.get(key, "")) for values in settings.values())) for key in keys]
    differing = [row[0] for row in rows if len(set(row[1:])) > 1]
    blocks: list[Block] = []
    if differing:
        blocks.append(report.Text(f"The evaluations differ in: {', '.join(differing)}."))
    return [*blocks, report.Table(("protocol", *settings), rows)]


def _card(folder: Path) -> Section | None:
    """Return the scores of the report card that lies in the run, if one does."""
    path = folder / "report-card"
    if not card_file.is_card(path):
        return None
    try:
        found = card_file.read_rival(path)
    except CheckpointError as error:
        return Section("Report card", [report.Text(str(error))])
    rows = [
        (
            score.title,
            card_page.percent(score.value),
            f"{card_page.percent(score.low)} to {card_page.percent(score.high)}",
            *(score.expected, score.evaluated, score.failed),
            score.fingerprint[:12],
        )
        for score in found.scores
    ]
    header = ("score", "value", "95 % interval", "expected", "evaluated", "failed", "protocol")
    told = (
        "Of the frozen encoder, by vidssl report-card; its own page, with the map and the clips, "
        f"is {path / 'index.html'}. Expected, evaluated and failed count videos."
    )
    return Section("Report card", [report.Table(header, rows), report.Text(told)])


def _ap(value: Any) -> float | None:
    return float(value) if is_finite(value) else None


def _by_id(values: Any) -> dict[int, Any]:
    """Return what JSON keeps by class id, where ids are text."""
    if not isinstance(values, dict):
        return {}
    return {int(key): value for key, value in values.items() if str(key).isdecimal()}


def _events(events: Sequence[Mapping[str, Any]], batch: int | None) -> Section:
    shown = [*events[: EVENTS_SHOWN // 2], *events[EVENTS_SHOWN // 2 :][-EVENTS_SHOWN // 2 :]]
    rows = [
        (
            _utc(event["time"]) if is_finite(event.get("time")) else None,
            str(event.get("event", "")),
            in_words(event, batch),
        )
        for event in shown
    ]
    blocks: list[Block] = [report.Table(("time", "event", "details"), rows)]
    if len(shown) < len(events):
        more = f"The first and the last of {len(events)} events; all are in events.jsonl."
        blocks.append(report.Text(more))
    return Section("Events", blocks)


def _weights(cards: Mapping[str, Mapping[str, Any]]) -> Section:
    rows = [
        (f"{name}.safetensors", *row)
        for name, card in cards.items()
        for key, value in card.items()
        for row in _flat(key, _counted(value))
    ]
    return Section("Weights", [report.Table(("file", "key", "value"), rows)])


def _repeat(files: RunFiles) -> Section:
    blocks: list[Block] = [report.Commands(_commands(files))]
    if files.recipe:
        blocks.append(report.Code(files.recipe, "recipe.yaml, every value of it"))
    return Section("Repeat", blocks)


def _commands(files: RunFiles) -> list[str]:
    folder, identity = files.folder, files.identity
    words = ["vidssl", str(identity.get("command", "pretrain")), str(folder / "recipe.yaml")]
    for key in ("encoder", "videos"):
        if isinstance(identity.get(key), str):
            words += [f"--{key}", identity[key]]
    data = identity.get("data")
    for key, value in data.items() if isinstance(data, dict) else ():
        if value is not None and key != "videos_sha256":
            words += [f"--{key.replace('_', '-')}", str(value)]
    words += _boxes(files)
    again = shlex.join([*words, "--out", f"{folder}-again"])
    return [again, shlex.join(["vidssl", "report", str(folder)])]


def _boxes(files: RunFiles) -> list[str]:
    """Return the options that give a pretraining its boxes, whose files an event names."""
    events = [event for event in files.events if event.get("event") == "people"]
    paths = events[-1].get("files") if events else None
    if not isinstance(paths, list):
        return []
    words = [word for path in paths for word in ("--boxes", str(path))]
    origin = files.identity.get("time_origin", "auto")
    return words if origin == "auto" else [*words, "--time-origin", str(origin)]


# --- values as text


def _counted(value: Any) -> Any:
    """Return a long mapping, such as that of all classes, as the number of its entries."""
    return f"{len(value)} entries" if isinstance(value, dict) and len(value) > 20 else value


def _flat(key: str, value: Any) -> list[tuple[str, str]]:
    """Return (dotted key, text) of each value in a nested mapping; absent ones are left out."""
    if isinstance(value, dict):
        return [
            row for name, v in value.items() for row in _flat(f"{key}.{name}" if key else name, v)
        ]
    return [] if value is None else [(key, _said(value))]


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(value: Any) -> Cell:
    return value if isinstance(value, (str, int, float)) or value is None else _said(value)


def _utc(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
