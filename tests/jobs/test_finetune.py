"""``vidssl finetune`` from the user's side: its files, and everything that does not fit."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import Result

from vidssl.errors import OutputError
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter
from vidssl.jobs._banks import identity_of, same_bank
from vidssl.train.folder import Terms, claim, read_events, read_log

Cli = Callable[..., Result]
Refused = Callable[..., str]


# --- the run


def test_a_run_holds_what_scripts_rely_on(detector: Path) -> None:
    names = {path.name for path in detector.iterdir()}
    assert names >= {
        *("recipe.yaml", "log.jsonl", "events.jsonl", "checkpoints", "report.html"),
        *("detector.safetensors", "detector.json", "encoder.safetensors", "encoder.json"),
    }
    card = json.loads((detector / "detector.json").read_text())
    assert card["classes"]["1"] == "shake"
    assert card["bank"] is None
    recipe = yaml.safe_load((detector / "recipe.yaml").read_text())
    assert {"version": 1, **card["recipe"]} == recipe
    assert [entry["step"] for entry in read_log(detector)] == [0, 1]
    assert all(entry["loss"] > 0 for entry in read_log(detector))


def test_the_first_loss_is_that_of_guessing(detector: Path) -> None:
    # Fresh heads answer 0.5 to everything: the cross-entropy is ln 2 = 0.693.
    assert read_log(detector)[0]["loss"] == pytest.approx(0.693, abs=0.02)


def test_json_alone_goes_to_stdout_and_progress_to_stderr(
    cli: Cli, tiny: dict[str, Path], training_data: list[object], tmp_path: Path
) -> None:
    result = cli(
        *("finetune", tiny["detection"], "--encoder", "random", *training_data),
        *("--out", tmp_path / "run", "--steps", 1, "--json", "-"),
    )
    told = json.loads(result.stdout)
    assert (told["steps"], told["samples_seen"], told["samples_seen_in_all"]) == (1, 2, 2)
    assert told["keyframes"] > 10
    assert told["people"] >= told["keyframes"]
    assert told["lost_keyframes"] == 0
    assert told["unusable_videos"] == {}
    assert "training, loss" in result.stderr


def test_what_the_encoder_has_seen_is_counted_on(
    cli: Cli, tiny: dict[str, Path], training_data: list[object], detector: Path, tmp_path: Path
) -> None:
    def seen(encoder: Path, out: str, *more: object) -> list[int | None]:
        """Train one step on 2 key frames; return the run's count, the one before, and both."""
        result = cli(
            *("finetune", tiny["detection"], "--encoder", encoder, *training_data),
            *("--out", tmp_path / out, "--steps", 1, "--json", "-", *more),
        )
        told = json.loads(result.stdout)
        trained_by = json.loads((tmp_path / out / "encoder.json").read_text())["trained_by"]
        assert trained_by["samples_seen"] == told["samples_seen"]
        return [
            told["samples_seen"],
            trained_by["samples_seen_before"],
            told["samples_seen_in_all"],
        ]

    # 3 steps of pretraining on 2 videos, then 2 on 2 key frames.
    for name in ("encoder.json", "detector.json"):
        card = json.loads((detector / name).read_text())
        assert card["trained_by"] == {
            **{"task": "detection", "steps": 2},
            **{"samples_seen": 4, "samples_seen_before": 6},
        }
    assert seen(detector, "encoder") == [2, 10, 12]
    assert seen(detector, "detector", "--set", "init=detector") == [2, 10, 12]

    older = tmp_path / "older"
    shutil.copytree(detector, older)
    card = json.loads((older / "encoder.json").read_text())
    del card["trained_by"]["samples_seen_before"]
    (older / "encoder.json").write_text(json.dumps(card))
    assert seen(older, "unknown") == [2, None, None]


def test_a_dry_run_tells_what_to_expect_and_writes_nothing(
    cli: Cli,
    tiny: dict[str, Path],
    training_data: list[object],
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(
        *("finetune", tiny["detection"], "--encoder", pretrained, *training_data),
        *("--out", "run", "--dry-run"),
    )
    assert result.exit_code == 0
    assert not list(tmp_path.iterdir())
    told = json.loads(result.stdout)
    assert told["recipe"]["task"] == "detection"
    assert told["steps"] == 2
    for quantity in ("samples", "memory_gb", "hours", "load_s", "step_s", "loss"):
        assert told[quantity] > 0


def test_detected_boxes_that_agree_with_a_true_one_are_trained_on_too(
    cli: Cli, tiny: dict[str, Path], training_data: list[object], playground: Path, tmp_path: Path
) -> None:
    def people(out: str, *more: object) -> int:
        command = ("finetune", tiny["detection"], "--encoder", "random", *training_data)
        result = cli(*command, "--out", tmp_path / out, "--steps", 1, "--json", "-", *more)
        return int(json.loads(result.stdout)["people"])

    boxes = ("--boxes", playground / "train_person_detections.csv", "--set", "boxes.train_iou=0.5")
    assert people("more", *boxes) > people("true")


def test_a_broken_video_is_set_aside_and_its_key_frames_counted(
    cli: Cli, tiny: dict[str, Path], playground_copy: Path, tmp_path: Path
) -> None:
    (playground_copy / "videos" / "train_001.mp4").write_text("not a video")
    (playground_copy / "videos" / "train_002.mp4").unlink()
    result = cli(
        *("finetune", tiny["detection"], "--encoder", "random"),
        *("--videos", playground_copy / "videos", "--annotations", playground_copy / "train.csv"),
        *("--labels", playground_copy / "action_list.pbtxt", "--out", tmp_path / "run"),
    )
    assert result.exit_code == 0
    aside = [line for line in result.stdout.splitlines() if line.startswith("set aside")]
    assert len(aside) == 2
    assert "train_001" in aside[0]
    assert "set aside: train_002: no such video" in aside[1]
    (event,) = [e for e in read_events(tmp_path / "run") if e["event"] == "videos set aside"]
    assert event["videos"].keys() == {"train_001", "train_002"}
    assert event["keyframes"] > 0


# --- videos and annotations that do not belong together


@pytest.fixture
def finetune(
    refused: Refused, tiny: dict[str, Path], pretrained: Path, playground_copy: Path
) -> Refused:
    """Finetune on the copied playground's folder of videos, which must be refused."""

    def run(*more: object, videos: object = playground_copy / "videos") -> str:
        return refused(
            *("finetune", tiny["detection"], "--encoder", pretrained, "--videos", videos),
            *("--annotations", playground_copy / "train.csv"),
            *("--labels", playground_copy / "action_list.pbtxt", "--out", "run", *more),
        )

    return run


def test_missing_videos_are_answered_with_the_nearest(
    finetune: Refused, playground_copy: Path
) -> None:
    told = finetune(videos=playground_copy / "vidoes")
    assert "vidoes: no such file or folder; did you mean 'videos'?" in told


def test_a_folder_without_videos_is_refused(finetune: Refused, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "none: holds no video file" in finetune(videos="none")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_videos_of_which_none_can_be_decoded_are_refused(
    finetune: Refused, playground_copy: Path, more: tuple[str, ...]
) -> None:
    for path in (playground_copy / "videos").iterdir():
        path.write_text("not a video")
    assert "videos can be decoded:" in finetune(*more)


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_videos_of_other_names_than_the_annotated_are_refused(
    finetune: Refused, playground_copy: Path, more: tuple[str, ...]
) -> None:
    for path in (playground_copy / "videos").iterdir():
        path.rename(path.with_stem(f"clip_{path.stem}"))
    told = finetune(*more)
    assert "none of the 3 annotated videos (train_000, train_001, train_002, ...)" in told
    assert "(clip_train_000, clip_train_001" in told
    assert "ids are file names without their suffix" in told


def test_two_files_of_one_id_are_refused(finetune: Refused, playground_copy: Path) -> None:
    videos = playground_copy / "videos"
    (videos / "again").mkdir()
    shutil.copy(videos / "train_000.mp4", videos / "again" / "train_000.mp4")
    told = finetune()
    assert "several files have the id of one video:" in told
    assert f"train_000: {videos / 'again' / 'train_000.mp4'} and " in told


def test_times_that_count_from_elsewhere_are_refused(
    finetune: Refused, playground_copy: Path
) -> None:
    path = playground_copy / "train.csv"
    path.write_text(path.read_text().replace(",00", ",09"))  # AVA's clock: 2 becomes 902
    told = finetune()
    assert "from where do the key frames' times count? Say it with --time-origin" in told
    assert "it holds 0 counted from 0, 13 from 900" in told
    told = finetune("--time-origin", 0)
    assert "key frames lie behind the end of their video (is the time origin another?):" in told
    assert "train_000 at 902 s: the video ends at 14.00 s" in told


def test_a_key_frame_behind_the_end_of_its_video_is_set_aside(
    cli: Cli, tiny: dict[str, Path], playground_copy: Path, index: Path, tmp_path: Path
) -> None:
    path = playground_copy / "train.csv"
    path.write_text(path.read_text() + "train_000,0902,0.1,0.1,0.5,0.5,1,0\n")
    result = cli(
        *("finetune", tiny["detection"], "--encoder", "random", "--videos", index),
        *("--annotations", path, "--labels", playground_copy / "action_list.pbtxt"),
        *("--out", tmp_path / "run", "--steps", 1, "--json", "-"),
    )
    told = json.loads(result.stdout)
    assert told["lost_keyframes"] == 1
    assert told["unusable_videos"] == {"train_000": "train_000 at 902 s: the video ends at 14.00 s"}


def test_annotations_of_which_all_are_excluded_are_refused(
    finetune: Refused, playground_copy: Path
) -> None:
    rows = (playground_copy / "train.csv").read_text().splitlines()
    all_frames = sorted({",".join(row.split(",")[:2]) for row in rows})
    (playground_copy / "none.csv").write_text("\n".join(all_frames) + "\n")
    told = finetune("--excluded", playground_copy / "none.csv")
    assert "train.csv: no key frame with people is left to train on" in told


# --- encoders that do not fit


@pytest.fixture
def started(
    refused: Refused, tiny: dict[str, Path], training_data: list[object]
) -> Callable[..., str]:
    """Finetune from the given encoder, which must be refused."""

    def run(encoder: object, *more: object, recipe: str = "detection") -> str:
        return refused(
            *("finetune", tiny[recipe], "--encoder", encoder, *training_data),
            *("--out", "run", *more),
        )

    return run


def test_an_encoder_of_another_shape_is_refused_with_every_difference(
    started: Refused, pretrained: Path
) -> None:
    told = started(pretrained, "--set", "backbone.width=16", "--set", "backbone.alpha=4")
    assert f"{pretrained}: does not fit the recipe:" in told
    assert "backbone.width: 8 in the encoder, 16 in the recipe" in told
    told = started(pretrained, "--set", "backbone={name: slow, width: 8, depths: [1, 1, 1, 1]}")
    assert "backbone.name: slowfast in the encoder, slow in the recipe" in told


def test_a_missing_encoder_is_answered_with_the_nearest(
    started: Refused, pretrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(pretrained, tmp_path / "ssl-run")
    assert "ssl-rnu: no such file; did you mean 'ssl-run'?" in started("ssl-rnu")
    assert "no/where: no such file or folder; expected a run" in started("no/where")
    (tmp_path / "ssl-run" / "encoder.safetensors").unlink()
    assert "ssl-run: holds no encoder.safetensors; expected the folder of a fin" in started(
        "ssl-run"
    )


def test_a_damaged_encoder_is_refused(started: Refused, pretrained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(pretrained, tmp_path / "ssl"))
    weights = run / "encoder.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    assert "is not what encoder.json describes" in started("ssl")
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "is not what encoder.json describes" in started("ssl/encoder.safetensors")
    weights.write_bytes(content)
    for card in ("", "[]", '{"format_version": 99}'):
        (run / "encoder.json").write_text(card)
        assert "encoder.json: expected" in started("ssl")
    (run / "encoder.json").unlink()
    assert "encoder.json: expected the card of the weights beside it" in started("ssl")


def test_a_file_that_holds_no_weights_is_refused(started: Refused, playground: Path) -> None:
    assert "train.json: expected the card" in started(playground / "train.csv")


def test_a_detector_of_other_classes_is_no_start_for_a_head(
    refused: Refused, tiny: dict[str, Path], playground_copy: Path, index: Path, detector: Path
) -> None:
    labels = playground_copy / "action_list.pbtxt"
    labels.write_text(labels.read_text().replace('"shake"', '"quake"'))
    told = refused(
        *("finetune", tiny["detection"], "--encoder", detector, "--videos", index),
        *("--annotations", playground_copy / "train.csv", "--labels", labels, "--out", "run"),
        *("--set", "init=detector"),
    )
    assert "classes that are not the 9 of the label map; init: encoder starts" in told


# --- banks


def test_a_bank_without_an_operator_is_refused(
    started: Refused, pretrained: Path, bank: Path
) -> None:
    told = started(pretrained, "--bank", bank)
    assert f"{bank}: the recipe's head has no operator to read a bank with" in told


def test_an_operator_without_a_bank_is_refused(started: Refused, pretrained: Path) -> None:
    told = started(pretrained, recipe="detection_bank")
    assert "the recipe's head reads a feature bank: give one with --bank" in told


def test_a_folder_that_is_no_bank_is_refused(started: Refused, pretrained: Path) -> None:
    told = started(pretrained, "--bank", pretrained, recipe="detection_bank")
    assert f"{pretrained}: not a feature bank (it holds no bank.json)" in told


def test_a_bank_of_other_videos_is_refused(
    cli: Cli,
    started: Refused,
    tiny: dict[str, Path],
    pretrained: Path,
    playground: Path,
    index: Path,
) -> None:
    result = cli(
        *("extract-features", tiny["extract"], "--encoder", pretrained, "--videos", index),
        *("--boxes", playground / "val_person_detections.csv", "--out", "of_val"),
    )
    assert result.exit_code == 0, result.output
    told = started(pretrained, "--bank", "of_val", recipe="detection_bank")
    assert re.search(r"of_val: holds nothing of the \d+ videos \(train_000", told), told
    assert not Path("run").exists()


def test_a_damaged_bank_is_refused(
    started: Refused, pretrained: Path, bank: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bank, tmp_path / "bank"))
    table = copy / "shard-00000.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    told = started(pretrained, "--bank", "bank", recipe="detection_bank")
    assert "shard-00000.parquet" in told
    table.unlink()
    assert "shard-00000.parquet" in started(pretrained, "--bank", "bank", recipe="detection_bank")


def test_an_unfinished_bank_is_refused(
    started: Refused, pretrained: Path, bank: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bank, tmp_path / "bank"))
    manifest = json.loads((copy / "bank.json").read_text())
    (copy / "bank.json").write_text(json.dumps({**manifest, "complete": False}))
    told = started(pretrained, "--bank", "bank", recipe="detection_bank")
    assert "bank: the bank is not complete (4 of 4 shards)" in told


@pytest.fixture
def made_anew(bank: Path, tmp_path: Path) -> Callable[[], None]:
    """Put a bank of the same encoder at the same path, as if of larger pictures."""

    def make() -> None:
        copy = tmp_path / "bank"
        shutil.rmtree(copy)
        there = Bank.open(bank)
        recipe = {**there.identity.details["recipe"], "short_side_px": 64}
        identity = BankIdentity(there.encoder_hash, {**there.identity.details, "recipe": recipe})
        plan = [[video] for video in there.videos]
        writer = BankWriter(copy, dim=there.dim, identity=identity, plan=plan)
        for shard, (table, features) in enumerate(there.shards()):
            sides = [table[name].to_numpy() for name in ("x1", "y1", "x2", "y2")]
            boxes = np.stack(sides, axis=1)
            second, score = table["second"].to_numpy(), table["score"].to_numpy()
            videos = table["video"].to_pylist()
            writer.write_shard(shard, BankRows(videos, second, boxes, score, features * 2))
        writer.close()

    return make


def test_a_bank_made_anew_at_the_same_path_is_another_run_s(
    cli: Cli,
    refused: Refused,
    tiny: dict[str, Path],
    training_data: list[object],
    detector: Path,
    bank: Path,
    tmp_path: Path,
    made_anew: Callable[[], None],
) -> None:
    shutil.copytree(bank, tmp_path / "bank")
    command = (
        *("finetune", tiny["detection_bank"], "--encoder", detector, *training_data),
        *("--bank", tmp_path / "bank", "--out", tmp_path / "run"),
    )
    assert cli(*command).exit_code == 0
    assert cli(*command).exit_code == 0  # the same run, which is finished
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    assert identity["bank_content"]["rows"] == len(Bank.open(bank))
    made_anew()
    told = refused(*command)
    assert "run: belongs to another run" in told
    here, there = (Bank.open(folder).content_hash for folder in (tmp_path / "bank", bank))
    assert f'bank_content.sha256: "{there}" there, "{here}" asked' in told
    assert "bank_content.made_by.recipe.short_side_px: 48 there, 64 asked" in told
    assert "run: belongs to another run" in refused(*command, "--resume-prove", 1)
    # A run of before, which did not keep what it read, is gone on with, and keeps it from then on.
    del identity["bank_content"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(identity))
    assert cli(*command).exit_code == 0
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    assert identity["bank_content"]["sha256"] == here


def test_equal_rows_are_the_same_bank_whatever_is_said_of_their_making(
    bank: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bank, tmp_path / "bank"))
    about = json.loads((copy / "bank.json").read_text())
    about["identity"]["decoder"] = "pyav-99.0"
    (copy / "bank.json").write_text(json.dumps(about))
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps(identity_of(Bank.open(bank))))
    other = Bank.open(copy)
    assert claim(run, identity_of(other), same_bank(Terms(), other)) == []
    with pytest.raises(OutputError, match=r"made_by\.decoder"):
        claim(run, identity_of(other))


# --- folders that are somebody else's


def test_the_folder_of_another_run_is_refused_with_what_differs(
    started: Refused, detector: Path, pretrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(detector, tmp_path / "run")
    told = started("random", "--set", "head.dropout=0.1")
    assert "run: belongs to another run; choose another folder, or its values:" in told
    assert "recipe.head.dropout: 0.5 there, 0.1 asked" in told
    assert f'encoder: "{pretrained}" there, "random" asked' in told


def test_a_folder_with_other_files_and_a_file_are_refused(
    started: Refused, pretrained: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    assert "run: holds other files and no run.json" in started(pretrained)


def test_resuming_what_never_began_is_refused(started: Refused, pretrained: Path) -> None:
    assert "run: holds no checkpoint to go on from" in started(pretrained, "--resume")
