"""The whole path on a small playground: command after command, every file of the contract."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import Result

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def path(
    cli: Cli, playground: Path, tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with what index, pretrain, finetune, extract-features and finetune made."""
    out = tmp_path_factory.mktemp("path")

    def do(name: str, *arguments: object) -> None:
        result = cli(name, *arguments, "--json", out / f"{name}-{len(list(out.iterdir()))}.json")
        assert result.exit_code == 0, result.output

    videos = ("--videos", playground / "videos")
    truth = (
        *("--annotations", playground / "train.csv"),
        *("--labels", playground / "action_list.pbtxt"),
    )
    boxes = [playground / f"{split}_person_detections.csv" for split in ("train", "val")]
    do("index", playground / "videos", "--out", out / "index.parquet")
    do("pretrain", tiny["pretrain"], *videos, "--out", out / "ssl")
    first = ("--encoder", out / "ssl", *videos, *truth)
    do("finetune", tiny["detection"], *first, "--boxes", boxes[0], "--out", out / "plain")
    do(
        *("extract-features", tiny["extract"], "--encoder", out / "plain", *videos),
        *("--boxes", boxes[0], "--boxes", boxes[1], "--out", out / "bank"),
    )
    do(
        *("finetune", tiny["detection_bank"], "--encoder", out / "plain", *videos, *truth),
        *("--bank", out / "bank", "--out", out / "long", "--set", "init=detector"),
    )
    return out


@pytest.fixture(scope="module")
def evaluate(cli: Cli, playground: Path) -> Callable[..., dict[str, object]]:
    """Evaluate on the playground's validation; return the result's JSON."""

    def run(*arguments: object) -> dict[str, object]:
        result = cli(
            *("eval-ava", "--annotations", playground / "val.csv", *arguments),
            *("--labels", playground / "action_list.pbtxt", "--json", "-"),
        )
        assert result.exit_code == 0, result.output
        told: dict[str, object] = json.loads(result.stdout)
        return told

    return run


Evaluate = Callable[..., dict[str, object]]


def test_every_file_of_the_contract_is_there(path: Path) -> None:
    common = ("recipe.yaml", "run.json", "log.jsonl", "events.jsonl", "checkpoints/latest")
    weights = ("encoder.safetensors", "encoder.json", "report.html", "index.parquet")
    for run in ("ssl", "plain", "long"):
        for name in (*common, *weights):
            assert (path / run / name).is_file(), f"{run}/{name}"
    for run in ("plain", "long"):
        assert (path / run / "detector.safetensors").is_file()
        assert (path / run / "detector.json").is_file()
    assert not list(path.rglob("*.part"))
    assert not list(path.rglob(".lock"))


def test_each_step_knows_what_it_was_made_from(path: Path) -> None:
    cards = {
        name: json.loads((path / name).read_text())
        for name in (
            "ssl/encoder.json",
            "plain/encoder.json",
            "long/detector.json",
            "bank/bank.json",
        )
    }
    assert cards["bank/bank.json"]["encoder_hash"] == cards["plain/encoder.json"]["hash"]
    assert cards["long/detector.json"]["bank"]["encoder"] == cards["plain/encoder.json"]["hash"]
    assert cards["ssl/encoder.json"]["hash"] != cards["plain/encoder.json"]["hash"]
    assert cards["ssl/encoder.json"]["trained_by"]["method"] == "moco"
    identity = json.loads((path / "plain" / "run.json").read_text())
    assert identity["encoder_hash"] == cards["ssl/encoder.json"]["hash"]


def test_a_runs_own_index_is_the_one_that_the_command_writes(path: Path) -> None:
    apart, own = (pq.read_table(path / p) for p in ("index.parquet", "ssl/index.parquet"))
    assert own.equals(apart)


def test_scores_with_and_without_the_banks_rows_are_kept_apart(
    path: Path, playground: Path, evaluate: Evaluate
) -> None:
    request = (
        *("--checkpoint", path / "long", "--videos", playground / "videos"),
        *("--boxes", playground / "val_person_detections.csv", "--bank", path / "bank"),
    )
    told, emptied = evaluate(*request), evaluate(*request, "--empty-bank")
    for result, folder in ((told, "eval-val"), (emptied, "eval-val-empty-bank")):
        predictions = path / "long" / folder / "predictions.csv"
        assert result["predictions"] == str(predictions)
        assert json.loads((path / "long" / folder / "score.json").read_text()) == result
        assert evaluate("--predictions", predictions)["mean_ap"] == result["mean_ap"]
        assert result.keys() >= {"mean_ap", "ap", "protocol", "expected", "evaluated", "failed"}
    with_rows, without = (
        (path / "long" / folder / "predictions.csv").read_text()
        for folder in ("eval-val", "eval-val-empty-bank")
    )
    assert with_rows != without
    assert evaluate(*request)["mean_ap"] == told["mean_ap"]  # and asked again, the same


def test_the_detector_without_a_bank_is_scored_too(
    path: Path, playground: Path, evaluate: Evaluate
) -> None:
    told = evaluate(
        *("--checkpoint", path / "plain", "--videos", path / "index.parquet"),
        *("--boxes", playground / "val_person_detections.csv"),
        *("--excluded", playground / "val_excluded_timestamps.csv"),
    )
    assert told["failed"] == 0
    assert told["notes"] == []
