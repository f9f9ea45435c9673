"""``vidssl ava validate``: whether annotations, boxes, labels and videos are sound and fit."""

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from vidssl.ava.explain import explain_zero
from vidssl.ava.labels import LabelMap, read_labels
from vidssl.ava.mean_ap import mean_ap
from vidssl.ava.origins import SLACK_S, Stated, parse_origin, summary, told
from vidssl.ava.soundness import (
    ANNOTATIONS,
    EXCLUDED,
    PEOPLE,
    PREDICTIONS,
    Coverage,
    Finding,
    Findings,
    Table,
    by_video,
    check_annotations,
    check_coverage,
    check_excluded,
    check_names,
    check_times,
    names_told,
    read_table,
    refused,
    spacing_s,
)
from vidssl.data.keyframes import locate
from vidssl.errors import AnnotationError, SourceError
from vidssl.jobs.index import open_index, set_aside
from vidssl.progress import Progress, silent
from vidssl.video.index import ClipIndex, read_tables
from vidssl.video.storage import video_id


@dataclass(frozen=True)
class Files:
    """The files of a data set in AVA layout."""

    annotations: Path
    labels: Path
    boxes: Path | None = None
    predictions: Path | None = None
    excluded: Path | None = None


@dataclass(frozen=True)
class Report:
    """What was found. The data are sound if there are no problems; warnings may be meant so.

    ``counts`` are numbers by name: rows, key_frames, videos, people, actions and so on; only those
    that the given files allow. ``summary`` says them in words.
    """

    problems: list[Finding]
    warnings: list[Finding]
    counts: dict[str, float]
    time_origins: list[dict[str, object]] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return what scripts get."""
        return {"sound": not self.problems, **asdict(self)}


def run(
    files: Files, videos: str | None, *, time_origin: str = "auto", progress: Progress = silent
) -> Report:
    """Look at all files, and at the videos of the SOURCE if there is one.

    Raises:
        AnnotationError: if ``time_origin`` cannot be understood.
    """
    stated = parse_origin(time_origin)
    findings = Findings()
    counts: dict[str, float] = {}
    labels = _labels(files.labels, findings)
    tables = _tables(files, labels, findings)
    truth = tables.get(ANNOTATIONS)
    report = Report(findings.problems, findings.warnings, counts)
    if truth is None or labels is None or not len(truth):
        return report
    check_annotations(truth, labels, findings)
    _count(truth, labels, counts, report.summary)
    annotated = set(truth.video.tolist())
    for kind in (PEOPLE, PREDICTIONS, EXCLUDED):
        if (table := tables.get(kind)) is not None and len(table):
            names, meets = table.video.tolist(), kind != EXCLUDED
            check_names(names, annotated, table.path, findings, must_meet=meets)
    for kind in (PEOPLE, PREDICTIONS):
        if (table := tables.get(kind)) is not None and len(table):
            found = check_coverage(truth, table, findings)
            _count_coverage(kind, found, counts, report.summary)
    if (excluded := tables.get(EXCLUDED)) is not None:
        check_excluded(truth, excluded, findings)
        counts["excluded"] = len(excluded)
    if (predicted := tables.get(PREDICTIONS)) is not None and len(predicted):
        _check_predictions(truth, predicted, labels, findings)
    if videos is not None:
        origins = _check_videos(truth, videos, stated, progress, findings, counts)
        report.time_origins.extend(origins)
        report.summary.extend([told(origins)] if origins else [])
    return report


def _labels(path: Path, findings: Findings) -> LabelMap | None:
    try:
        return read_labels(path)
    except AnnotationError as error:
        refused(path, error, findings)
        return None


def _tables(files: Files, labels: LabelMap | None, findings: Findings) -> dict[str, Table | None]:
    """Return the tables of the files that were given, by kind."""
    paths = {
        ANNOTATIONS: files.annotations,
        PEOPLE: files.boxes,
        PREDICTIONS: files.predictions,
        EXCLUDED: files.excluded,
    }
    return {
        kind: read_table(path, kind, labels, findings)
        for kind, path in paths.items()
        if path is not None
    }


def _count(truth: Table, labels: LabelMap, counts: dict[str, float], summary: list[str]) -> None:
    boxed = truth.boxed
    frames = {*zip(truth.video.tolist(), truth.timestamp.round(6).tolist(), strict=True)}
    places = np.column_stack([boxed.timestamp, boxed.box]).tolist()
    people = {
        (v, *place) for v, place in zip(boxed.video.tolist(), map(tuple, places), strict=True)
    }
    counts["rows"] = len(truth)
    counts["videos"] = len(set(truth.video.tolist()))
    counts["key_frames"] = len(frames)
    counts["people"] = len(people)
    counts["classes"] = len(labels.ids)
    counts["classes_used"] = len(set(boxed.action.tolist()) & set(labels.ids))
    if (apart_s := spacing_s(truth)) is not None:
        counts["spacing_s"] = apart_s
    apart = f", {apart_s:g} s apart" if apart_s is not None else ""
    summary.append(
        f"{len(truth)} rows: {len(people)} people in {len(frames)} key frames{apart} of "
        f"{counts['videos']:.0f} videos, {counts['classes_used']:.0f} of {len(labels.ids)} classes"
    )


def _count_coverage(
    kind: str, found: Coverage, counts: dict[str, float], summary: list[str]
) -> None:
    counts[f"{kind}_key_frames"] = found.with_boxes
    counts[f"{kind}_share_of_key_frames"] = found.with_boxes / max(found.key_frames, 1)
    counts[f"{kind}_people_met"] = found.met
    counts[f"{kind}_recall"] = found.met / max(found.people, 1)
    summary.append(
        f"{kind}: in {found.with_boxes} of {found.key_frames} key frames "
        f"({counts[f'{kind}_share_of_key_frames']:.1%}), meeting {found.met} of {found.people} "
        f"people at IoU 0.5 ({counts[f'{kind}_recall']:.1%})"
    )


def _check_predictions(
    truth: Table, predicted: Table, labels: LabelMap, findings: Findings
) -> None:
    """Tell why a score of 0 is to be expected, if it is."""
    annotations, predictions = truth.as_annotations(), predicted.as_predictions()
    if mean_ap(annotations, predictions, labels).mean_ap > 0:
        return
    for reason in explain_zero(annotations, predictions, labels):
        findings.problem(predicted.path, f"would score 0: {reason}")


def _check_videos(
    truth: Table,
    source: str,
    stated: Stated,
    progress: Progress,
    findings: Findings,
    counts: dict[str, float],
) -> list[dict[str, object]]:
    """Hold the key frames against their videos; return the time origins found."""
    times_s = {video: truth.timestamp[rows] for video, rows in by_video(truth.video).items()}
    annotated = list(times_s)
    with tempfile.TemporaryDirectory() as folder:
        try:
            index = open_index(source, Path(folder) / "index.parquet", progress)
        except SourceError as error:
            findings.problem(Path(source), str(error).removeprefix(f"{source}: "))
            return []
        reasons = {video_id(path): why for path, why in set_aside(index).items()}
        there = _ids(index)
        try:
            files, origins = locate(times_s, index, reasons, stated)
        except AnnotationError as error:
            findings.problem(truth.path, str(error))
            return []
    if absent := [video for video in annotated if video not in files]:
        broken = [f"{video} ({reasons[video]})" for video in absent if video in reasons]
        lost = int(np.isin(truth.video, absent).sum())
        what = f"{len(absent)} of {len(annotated)} annotated videos are not there ({lost} rows)"
        names = names_told([v for v in absent if v not in reasons], there)
        findings.warning(truth.path, f"{what}: {', '.join([names, *broken]).strip(', ')}")
    lengths_s = {video: file.footage.length_s for video, file in files.items()}
    seconds = {video: origin.seconds for video, origin in origins.items()}
    counts["videos_there"] = len(files)
    counts["key_frames_outside"] = check_times(truth, lengths_s, seconds, SLACK_S, findings)
    check_names(sorted(there), set(annotated), Path(source), findings, "given videos")
    return summary(origins)


def _ids(index: ClipIndex) -> set[str]:
    """Return the ids of an index's videos."""
    return {
        video_id(path)
        for part in read_tables(index.path, ["path"])
        for path in part["path"].to_pylist()
    }
