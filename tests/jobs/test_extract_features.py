"""``vidssl extract-features`` from the user's side: the bank, and everything that does not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

Cli = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture
def arguments(
    tiny: dict[str, Path], detector: Path, index: Path, playground: Path
) -> Callable[..., list[object]]:
    """What makes the session's bank, with some arguments changed."""

    def make(**changed: object) -> list[object]:
        boxes = [playground / f"{split}_person_detections.csv" for split in ("train", "val")]
        return [
            *("extract-features", tiny["extract"], "--encoder", changed.get("encoder", detector)),
            *("--videos", changed.get("videos", index), "--boxes", changed.get("boxes", boxes[0])),
            *("--boxes", boxes[1], "--out", changed.get("out", "bank")),
        ]

    return make


Arguments = Callable[..., list[object]]


def test_a_bank_holds_what_scripts_rely_on(bank: Path, detector: Path, playground: Path) -> None:
    manifest = json.loads((bank / "bank.json").read_text())
    card = json.loads((detector / "encoder.json").read_text())
    assert manifest["complete"] is True
    assert (manifest["dtype"], manifest["dim"]) == ("float16", card["features"])
    assert manifest["encoder_hash"] == card["hash"]
    assert manifest["identity"].keys() >= {"recipe", "boxes", "videos", "decoder"}
    names = [f"shard-{i:05d}.{suffix}" for i in range(4) for suffix in ("json", "npy", "parquet")]
    assert sorted(path.name for path in bank.iterdir()) == ["bank.json", *sorted(names)]

    wanted = 0
    for split in ("train", "val"):
        lines = (playground / f"{split}_person_detections.csv").read_text().splitlines()
        wanted += sum(float(line.rsplit(",", 1)[1]) >= 0.5 for line in lines)
    rows = 0
    for shard in range(4):
        features = np.load(bank / f"shard-{shard:05d}.npy")
        table = pq.read_table(bank / f"shard-{shard:05d}.parquet")
        assert set(table.column_names) >= {"video", "second", "x1", "y2", "score", "row"}
        assert features.shape == (len(table), manifest["dim"])
        assert np.isfinite(features).all()
        rows += len(table)
    assert rows == wanted


def test_json_alone_goes_to_stdout_and_progress_to_stderr(
    cli: Cli, arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    result = cli(*arguments(out=tmp_path / "bank"), "--json", "-")
    told = json.loads(result.stdout)
    assert told["videos"] == 4
    assert told["rows"] > told["keyframes"] > 40  # 4 videos of 14 s, nearly every second
    assert told["failed_keyframes"] == 0
    assert told["unusable_videos"] == {}
    assert "extracting features:" in result.stderr
    for path in bank.iterdir():  # and what is made again has the same bytes
        assert (tmp_path / "bank" / path.name).read_bytes() == path.read_bytes()


def test_a_finished_bank_asked_again_stays_as_it_is(
    cli: Cli, arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bank, tmp_path / "bank"))
    result = cli(*arguments(out=copy))
    assert result.exit_code == 0
    assert "extracting" not in result.stderr
    assert "0 failed" in result.stdout


def test_a_damaged_shard_is_made_again(
    cli: Cli, arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bank, tmp_path / "bank"))
    content = (copy / "shard-00002.npy").read_bytes()
    (copy / "shard-00002.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert cli(*arguments(out=copy)).exit_code == 0
    for path in bank.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes()


def test_a_broken_video_is_set_aside_and_its_key_frames_counted(
    cli: Cli, arguments: Arguments, playground_copy: Path, tmp_path: Path
) -> None:
    (playground_copy / "videos" / "train_001.mp4").write_text("not a video")
    result = cli(*arguments(videos=playground_copy / "videos", out=tmp_path / "bank"))
    assert result.exit_code == 0
    assert "from 3 videos" in result.stdout
    assert "set aside: train_001: " in result.stdout
    failed = int(result.stdout.split(" key frames, ")[1].split(" failed")[0])
    assert failed >= 10


def test_a_video_that_goes_bad_after_the_index_is_named_and_counted(
    cli: Cli, arguments: Arguments, playground_copy: Path, tmp_path: Path
) -> None:
    cli("index", playground_copy / "videos", "--out", tmp_path / "i.parquet")
    (playground_copy / "videos" / "train_001.mp4").write_text("damaged since")
    result = cli(*arguments(videos=tmp_path / "i.parquet", out=tmp_path / "bank"), "--json", "-")
    told = json.loads(result.stdout)
    assert told["failed_keyframes"] >= 10
    assert told["unusable_videos"].keys() == {"train_001"}


# --- what is refused


def test_an_encoder_of_another_shape_is_refused_with_every_difference(
    refused: Refused, arguments: Arguments
) -> None:
    told = refused(*arguments(), "--set", "backbone.width=16")
    assert "does not fit the recipe:" in told
    assert "backbone.width: 8 in the encoder, 16 in the recipe" in told


def test_an_encoder_that_is_missing_or_damaged_is_refused(
    refused: Refused, arguments: Arguments, pretrained: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(pretrained, tmp_path / "ssl"))
    assert "sls: no such file; did you mean 'ssl'?" in refused(*arguments(encoder="sls"))
    weights = copy / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "is not what encoder.json describes" in refused(*arguments(encoder="ssl"))


def test_missing_videos_and_boxes_are_answered_with_the_nearest(
    refused: Refused, arguments: Arguments, playground: Path
) -> None:
    told = refused(*arguments(videos=playground / "vidoes"))
    assert "vidoes: no such file or folder; did you mean 'videos'?" in told
    told = refused(*arguments(boxes=playground / "train_person_detection.csv"))
    assert "no such file; did you mean 'train_person_detections.csv'?" in told


def test_boxes_with_mistakes_are_refused_with_all_of_them(
    refused: Refused, arguments: Arguments, tmp_path: Path
) -> None:
    (tmp_path / "b.csv").write_text("v,0001,0.1,0.1,0.5,0.5,,2\nv,0001,0.1,0.1,5,0.5,,0.9\n")
    told = refused(*arguments(boxes="b.csv"))
    assert "b.csv has 2 problems:" in told
    assert "b.csv:1: score outside [0, 1]" in told
    assert "b.csv:2: box outside [0, 1]" in told


def test_a_score_that_no_box_has_is_refused(refused: Refused, arguments: Arguments) -> None:
    told = refused(*arguments(), "--set", "min_score=1.0")
    assert "no box has a score of at least 1.0" in told


def test_boxes_of_other_videos_are_refused(
    refused: Refused, arguments: Arguments, playground_copy: Path
) -> None:
    for path in (playground_copy / "videos").iterdir():
        path.rename(path.with_stem(f"clip_{path.stem}"))
    told = refused(*arguments(videos=playground_copy / "videos"))
    assert "none of the 4 annotated videos (train_000, train_001, train_002, ...)" in told


def test_the_folder_of_another_bank_is_refused_with_what_differs(
    refused: Refused, arguments: Arguments, bank: Path, pretrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(bank, tmp_path / "bank")
    told = refused(*arguments(encoder=pretrained))
    assert "bank holds another bank (remove it, or write to another folder):" in told
    assert "encoder_hash: found" in told
    told = refused(*arguments(), "--set", "roi_resolution=5")
    assert "identity.recipe.roi_resolution: found 7, expected 5" in told


def test_a_folder_with_other_files_and_a_file_are_refused(
    refused: Refused, arguments: Arguments, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    told = refused(*arguments(out="other"))
    assert "other holds files that are not this bank's:" in told
    assert "thesis.tex" in told
    assert "is a file" in refused(*arguments(out="other/thesis.tex"))


def test_the_folder_of_a_run_is_no_place_for_a_bank(
    refused: Refused, arguments: Arguments, detector: Path, tmp_path: Path
) -> None:
    shutil.copytree(detector, tmp_path / "run")
    assert "run holds files that are not this bank's" in refused(*arguments(out="run"))
