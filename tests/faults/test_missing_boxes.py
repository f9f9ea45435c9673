"""Key frames of which a detector of people says nothing: counted, told, never filled in."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Cli = Callable[..., Result]


@pytest.fixture
def few_boxes(playground: Path, tmp_path: Path) -> tuple[Path, set[tuple[str, str]]]:
    """The validation boxes without those of every third key frame; which key frames have some."""
    lines = (playground / "val_person_detections.csv").read_text().splitlines()
    keys = sorted({tuple(line.split(",")[:2]) for line in lines})
    gone = {*keys[::3]}
    kept = [line for line in lines if tuple(line.split(",")[:2]) not in gone]
    assert 0 < len(kept) < len(lines)
    (tmp_path / "few.csv").write_text("\n".join(kept) + "\n")
    sure = {(line.split(",")[0], line.split(",")[1]) for line in kept if _score(line) >= 0.5}
    return tmp_path / "few.csv", sure


def _score(line: str) -> float:
    return float(line.rsplit(",", 1)[1])


def test_a_score_counts_them_and_no_box_is_made_up(
    cli: Cli,
    detector: Path,
    playground: Path,
    index: Path,
    few_boxes: tuple[Path, set[tuple[str, str]]],
    tmp_path: Path,
) -> None:
    boxes, sure = few_boxes
    run = Path(shutil.copytree(detector, tmp_path / "run"))
    truth = (
        *("--annotations", playground / "val.csv"),
        *("--labels", playground / "action_list.pbtxt"),
    )
    result = cli(
        *("eval-ava", "--checkpoint", run, "--videos", index, "--boxes", boxes),
        *(*truth, "--json", "-"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    with Path(told["predictions"]).open() as file:
        rows = list(csv.reader(file))
    given = {tuple(line.split(",")[2:6]) for line in boxes.read_text().splitlines()}
    wanted = {tuple(f"{float(v):.4f}" for v in box) for box in given}
    found = {tuple(f"{float(v):.4f}" for v in row[2:6]) for row in rows if row[2:]}
    assert found <= wanted  # every predicted box is one of the file's, none the whole frame
    assert {(row[0], row[1]) for row in rows if row[2:]} == sure

    annotated = {tuple(row.split(",")[:2]) for row in (playground / "val.csv").read_text().split()}
    assert told["expected"] == told["evaluated"] == len(annotated)
    assert told["unpeopled"] == len(annotated - sure) > 0
    shown = cli("eval-ava", "--checkpoint", run, "--videos", index, "--boxes", boxes, *truth)
    assert f"0 failed; nobody was detected in {told['unpeopled']}\n" in shown.stdout


def test_a_bank_holds_rows_of_the_others_alone(
    cli: Cli,
    detector: Path,
    tiny: dict[str, Path],
    index: Path,
    few_boxes: tuple[Path, set[tuple[str, str]]],
    tmp_path: Path,
) -> None:
    boxes, sure = few_boxes
    result = cli(
        *("extract-features", tiny["extract"], "--encoder", detector, "--videos", index),
        *("--boxes", boxes, "--out", tmp_path / "bank", "--json", "-"),
    )
    told = json.loads(result.stdout)
    lines = boxes.read_text().splitlines()
    assert told["rows"] == sum(_score(line) >= 0.5 for line in lines)
    assert told["keyframes"] == len(sure)
