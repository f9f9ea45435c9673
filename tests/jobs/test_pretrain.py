"""``vidssl pretrain`` from the user's side: files, messages, and going on after a stop."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import Result

from vidssl.train.folder import read_events, read_log

Cli = Callable[..., Result]
Refused = Callable[..., str]


# --- the run


def test_a_run_holds_what_scripts_rely_on(pretrained: Path) -> None:
    names = {path.name for path in pretrained.iterdir()}
    assert names >= {
        *("recipe.yaml", "log.jsonl", "events.jsonl", "checkpoints"),
        *("encoder.safetensors", "encoder.json", "report.html"),
    }
    assert not [name for name in names if name.endswith(".part") or name == ".lock"]
    latest = (pretrained / "checkpoints" / "latest").read_text().strip()
    assert (pretrained / "checkpoints" / latest).is_dir()
    assert yaml.safe_load((pretrained / "recipe.yaml").read_text())["optim"]["steps"] == 3
    log = read_log(pretrained)
    assert [entry["step"] for entry in log] == [0, 1, 2]
    for entry in log:
        assert entry.keys() >= {"step", "loss", "lr", "clips_per_s", "data_wait", "top1"}
    assert [entry["samples_seen"] for entry in log] == [2, 4, 6]
    assert [event["event"] for event in read_events(pretrained)] == ["source", "start", "finished"]
    card = json.loads((pretrained / "encoder.json").read_text())
    assert (card["trained_by"]["steps"], card["trained_by"]["samples_seen"]) == (3, 6)
    assert card["trained_by"]["samples_seen_before"] == 0


def test_the_resolved_recipe_of_a_run_repeats_it(
    cli: Cli, pretrained: Path, index: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "again.yaml"
    shutil.copy(pretrained / "recipe.yaml", recipe)
    result = cli("pretrain", recipe, "--videos", index, "--out", tmp_path / "run", "--json", "-")
    card = json.loads((pretrained / "encoder.json").read_text())
    assert json.loads(result.stdout)["encoder_hash"] == card["hash"]


def test_json_alone_goes_to_stdout_and_progress_to_stderr(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / "run"),
        *("--steps", 1, "--json", "-"),
    )
    told = json.loads(result.stdout)
    assert (told["steps"], told["samples_seen"]) == (1, 2)
    assert (told["videos"], told["set_aside"]) == (4, 0)
    assert told["encoder"] == str(tmp_path / "run" / "encoder.safetensors")
    assert "training, loss" in result.stderr


def test_a_finished_run_asked_again_stays_as_it_is(
    cli: Cli, tiny: dict[str, Path], index: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(pretrained, tmp_path / "run"))
    result = cli("pretrain", tiny["pretrain"], "--videos", index, "--out", run, "--json", "-")
    assert json.loads(result.stdout)["steps"] == 3
    for name in ("encoder.safetensors", "encoder.json", "log.jsonl"):
        assert (run / name).read_bytes() == (pretrained / name).read_bytes()


def test_a_dry_run_tells_what_to_expect_and_writes_nothing(
    cli: Cli,
    tiny: dict[str, Path],
    playground: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", playground / "videos", "--out", "run"),
        *("--dry-run", "--set", "optim.epochs=5", "--set", "optim.steps=null"),
    )
    assert result.exit_code == 0
    assert not list(tmp_path.iterdir())
    told = json.loads(result.stdout)
    assert told["recipe"]["method"]["name"] == "moco"
    assert told["steps"] == 10  # 5 epochs of 4 videos in batches of 2
    assert told["samples"] == 4
    for quantity in ("memory_gb", "hours", "load_s", "step_s", "trained_parameters", "loss"):
        assert told[quantity] > 0
    assert told["device"]


def test_broken_videos_are_set_aside_named_and_counted(
    cli: Cli, tiny: dict[str, Path], playground_copy: Path, tmp_path: Path
) -> None:
    videos = playground_copy / "videos"
    whole = (videos / "train_000.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "text.mp4").write_text("not a video")
    run = tmp_path / "run"
    result = cli("pretrain", tiny["pretrain"], "--videos", videos, "--out", run)
    assert result.exit_code == 0
    assert "3 steps on 4 videos (2 set aside)" in result.stdout
    (event,) = [e for e in read_events(run) if e["event"] == "videos set aside"]
    assert (run / "index.parquet").is_file()
    told = {Path(path).name: reason for path, reason in event["videos"].items()}
    assert told.keys() == {"cut.mp4", "text.mp4"}
    assert all(told.values())


def test_a_video_that_goes_bad_after_the_index_is_set_aside(
    cli: Cli, tiny: dict[str, Path], playground_copy: Path, tmp_path: Path
) -> None:
    videos, index, run = playground_copy / "videos", tmp_path / "i.parquet", tmp_path / "run"
    cli("index", videos, "--out", index)
    (videos / "train_001.mp4").write_text("damaged since")
    result = cli("pretrain", tiny["pretrain"], "--videos", index, "--out", run)
    assert result.exit_code == 0
    (event,) = [e for e in read_events(run) if e["event"] == "video set aside"]
    assert Path(event["path"]).name == "train_001.mp4"
    assert "train_001.mp4" in event["error"]


# --- videos that are not there


@pytest.fixture
def pretrain(refused: Refused, tiny: dict[str, Path]) -> Refused:
    """Pretrain on the given videos, which must be refused."""

    def run(videos: object, *more: object) -> str:
        return refused("pretrain", tiny["pretrain"], "--videos", videos, "--out", "run", *more)

    return run


def test_missing_videos_are_answered_with_the_nearest(
    pretrain: Refused, playground_copy: Path
) -> None:
    told = pretrain(playground_copy / "vidoes")
    assert "vidoes: no such file or folder; did you mean 'videos'?" in told


def test_a_folder_without_videos_is_refused(pretrain: Refused, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "none: holds no video file (looked for" in pretrain("none")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_videos_of_which_none_can_be_decoded_are_refused(
    pretrain: Refused, tmp_path: Path, more: tuple[str, ...]
) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mkv"):
        (tmp_path / "videos" / name).write_text("not a video")
    told = pretrain(tmp_path / "videos", *more)
    assert "none of the 2 videos can be decoded:" in told
    assert "a.mp4" in told
    assert "b.mkv" in told


def test_a_table_that_is_no_list_of_videos_is_refused(pretrain: Refused, tmp_path: Path) -> None:
    (tmp_path / "i.parquet").write_text("not a table")
    assert "i.parquet: not a Parquet table with a column named path" in pretrain("i.parquet")


# --- folders that are somebody else's


def test_the_folder_of_another_run_is_refused_with_the_key_that_differs(
    refused: Refused, tiny: dict[str, Path], index: Path, pretrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(pretrained, tmp_path / "run")
    command = ("pretrain", tiny["pretrain"], "--videos", index, "--out", "run")
    told = refused(*command, "--set", "method.temperature=0.5", "--set", "seed=7")
    assert "run: belongs to another run; choose another folder, or its values:" in told
    assert "recipe.method.temperature: 0.2 there, 0.5 asked" in told
    assert "recipe.seed: 0 there, 7 asked" in told
    assert len(told.strip().splitlines()) == 3


def test_the_run_of_another_command_is_refused(
    refused: Refused, tiny: dict[str, Path], index: Path, detector: Path, tmp_path: Path
) -> None:
    shutil.copytree(detector, tmp_path / "run")
    told = refused("pretrain", tiny["pretrain"], "--videos", index, "--out", "run")
    assert 'command: "finetune" there, "pretrain" asked' in told


def test_a_folder_with_other_files_is_refused(
    refused: Refused, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    told = refused("pretrain", tiny["pretrain"], "--videos", index, "--out", "run")
    assert "run: holds other files and no run.json; choose an empty folder" in told


def test_an_output_that_is_a_file_is_refused(
    refused: Refused, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("mine")
    command = ("pretrain", tiny["pretrain"], "--videos", index, "--out")
    assert "is a file" in refused(*command, "run")


def test_an_output_below_a_file_is_refused(
    refused: Refused, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    told = refused("pretrain", tiny["pretrain"], "--videos", index, "--out", "file/run")
    assert "file/run: cannot be written" in told


def test_a_refused_run_leaves_no_folder_above_its_own(
    refused: Refused, tiny: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_text("not a video")
    told = refused("pretrain", tiny["pretrain"], "--videos", "a.mp4", "--out", "new/run")
    assert "none of the 1 videos can be decoded" in told


def test_a_damaged_run_file_is_told_of(
    refused: Refused, tiny: dict[str, Path], index: Path, pretrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(pretrained, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"command": "pre')
    told = refused("pretrain", tiny["pretrain"], "--videos", index, "--out", "run")
    assert "run.json" in told


def test_resuming_what_never_began_is_refused(
    refused: Refused, tiny: dict[str, Path], index: Path
) -> None:
    told = refused("pretrain", tiny["pretrain"], "--videos", index, "--out", "run", "--resume")
    assert "run: holds no checkpoint to go on from; leave out --resume" in told


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    cli: Cli, tiny: dict[str, Path], index: Path, pretrained: Path, tmp_path: Path
) -> None:
    command = ("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / "run")
    every = ("--set", "save_every=1")
    assert cli(*command, *every).exit_code == 0
    newest = tmp_path / "run" / "checkpoints" / "step-000000003" / "state.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255
    newest.write_bytes(content)
    assert cli(*command, *every).exit_code == 0
    (event,) = [e for e in read_events(tmp_path / "run") if "passed over" in e["event"]]
    assert "the content of state.pt has changed since it was written" in event["reason"]
    again, once = (
        json.loads((f / "encoder.json").read_text()) for f in (tmp_path / "run", pretrained)
    )
    assert again["hash"] == once["hash"]
    assert [entry["step"] for entry in read_log(tmp_path / "run")] == [0, 1, 2]


def test_a_loss_that_is_no_number_stops_the_run_with_advice(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / "run"),
        *("--set", "optim.lr=1e30", "--steps", 12, "--set", "loader.workers=0"),
    )
    assert result.exit_code == 2
    assert "the loss became nan at step" in result.stderr
    assert "4 times in short order; the last checkpoint is older" in result.stderr
    undone = [e for e in read_events(tmp_path / "run") if e["event"] == "rolled back"]
    assert [(e["first"], e["last"]) for e in undone] == [(0, 1), (2, 3), (4, 5)]
    clips = json.loads((tmp_path / "run" / undone[0]["clips"]).read_text())["steps"]
    assert [step["step"] for step in clips] == [0, 1]
    assert {Path(clip["video"]).suffix for step in clips for clip in step["clips"]} == {".mp4"}
    assert (
        "a lower optim.lr, optim.clip_grad_norm or precision: fp32 usually helps" in result.stderr
    )


def test_a_batch_larger_than_the_set_is_told_of_or_filled_from_further_epochs(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / "run"),
        *("--set", "optim.batch=6", "--steps", 1, "--json", "-"),
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)["steps"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("method={name: const_cl}", "needs an encoder with a global and a local branch"),
        ("sampling.starts=interval", "interval is for methods of 2 views, this one has 3"),
        ("augment.views=[{}, {}, {}, {}]", "method moco has 3 views, found 4"),
    ],
)
def test_parts_that_do_not_fit_are_told_of_before_any_video_is_looked_at(
    refused: Refused, tiny: dict[str, Path], tmp_path: Path, change: str, words: str
) -> None:
    run, absent = tmp_path / "run", tmp_path / "no_such_folder"
    told = refused(
        *("pretrain", tiny["pretrain"], "--videos", absent, "--out", run),
        *("--set", "method.clips=3", "--set", change),
    )
    assert words in told
    assert not run.exists()


def test_clips_that_a_method_cannot_use_are_told_of_before_any_video_is_looked_at(
    refused: Refused, tiny: dict[str, Path], tmp_path: Path
) -> None:
    run, absent = tmp_path / "run", tmp_path / "no_such_folder"
    told = refused(
        *("pretrain", tiny["pretrain"], "--videos", absent, "--out", run),
        *("--set", "method={name: ctp}", "--set", "augment.crop_px=32"),
    )
    assert "map of 32 x 32 pixels is 1 x 1 cells, too few to follow a patch" in told
    assert not run.exists()


# --- watching


def test_fixed_clips_are_looked_at_now_and_then(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    cli(
        *("pretrain", tiny["pretrain"], "--videos", index, "--out", run, "--steps", 5),
        *("--set", "monitor.every=2", "--set", "log_every=3"),
    )
    log = {entry["step"]: entry for entry in read_log(run)}
    assert [step for step, entry in log.items() if "knn_video" in entry] == [0, 1, 3, 4]
    assert all(0 <= log[s]["knn_video"] <= 1 and "loss" in log[s] for s in (0, 1, 3, 4))
    assert sorted(log) == [0, 1, 2, 3, 4]


def test_watching_changes_nothing_of_the_training(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    hashes = set()
    for videos in (0, 8):
        result = cli(
            *("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / str(videos)),
            *("--set", "monitor.every=1", "--set", f"monitor.videos={videos}", "--json", "-"),
        )
        hashes.add(json.loads(result.stdout)["encoder_hash"])
    assert len(hashes) == 1


def test_a_collapse_raises_an_alarm_that_the_report_shows(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # So high a rate makes every clip's feature the same within a step or two.
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", index, "--out", run, "--steps", 8),
        *("--set", "optim.lr=300", "--set", "optim.clip_grad_norm=1", "--set", "optim.batch=8"),
        *("--set", "method.queue=16", "--set", "log_every=1"),
    )
    alarms = [event for event in read_events(run) if event["event"] == "alarm"]
    assert [alarm["alarm"] for alarm in alarms] == ["collapse"]
    assert "all clips look the same" in alarms[0]["words"]
    assert "all clips look the same" in result.stderr
    assert "all clips look the same" in (run / "report.html").read_text()


# --- regions that are people

BACKBONE = (
    "backbone={name: r3d, width: 8, depths: [1, 1, 1, 1], frames: 4, stride: 4, "
    "local_branch: true, form: detection, maps_from: %s}"
)
REGIONS = "method={name: const_cl, hidden: 16, dim: 8, regions: 3, local_weight: 1.0, boxes: %s}"


def of_people(tiny: dict[str, Path], boxes: str = "table", maps: str = "global") -> list[object]:
    """Pretrain ConST-CL for two steps."""
    settings = (BACKBONE % maps, REGIONS % boxes, "optim.steps=2", "sampling.starts=interval")
    return ["pretrain", tiny["pretrain"], *(w for one in settings for w in ("--set", one))]


@pytest.fixture
def people(playground: Path) -> Path:
    """Boxes of three of the four videos."""
    return playground / "train_person_detections.csv"


def test_boxes_of_people_are_the_same_whoever_augments(
    cli: Cli, tiny: dict[str, Path], index: Path, people: Path, tmp_path: Path
) -> None:
    told = {}
    for where in ("workers", "device"):
        result = cli(
            *of_people(tiny),
            *("--videos", index, "--boxes", people, "--out", tmp_path / where, "--json", "-"),
            *("--set", f"loader.augment={where}"),
        )
        assert result.exit_code == 0, result.output
        told[where] = json.loads(result.stdout)["encoder_hash"]
    assert told["workers"] == told["device"]
    (event,) = [e for e in read_events(tmp_path / "device") if e["event"] == "people"]
    assert (event["videos"], event["absent_videos"]) == (3, 0)
    assert event["time_origins"] == "time origin 0 s in 3 videos (key frames before 900 s)"
    log = read_log(tmp_path / "device")
    assert all(entry["local_loss"] > 0 for entry in log)
    assert f"--boxes {people} --out" in (tmp_path / "device" / "report.html").read_text()


def test_other_boxes_make_another_run(
    cli: Cli, tiny: dict[str, Path], index: Path, people: Path, tmp_path: Path
) -> None:
    run = ("--videos", index, "--out", tmp_path / "run")
    assert cli(*of_people(tiny), *run, "--boxes", people).exit_code == 0
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("".join(people.read_text().splitlines(keepends=True)[:20]))
    result = cli(*of_people(tiny), *run, "--boxes", fewer)
    assert result.exit_code == 2
    assert "run: belongs to another run" in result.stderr
    assert "boxes" in result.stderr


def test_a_recipe_of_people_without_boxes_is_refused(
    refused: Refused, tiny: dict[str, Path], index: Path
) -> None:
    run = ("--videos", index, "--out", "run")
    told = refused(*of_people(tiny), *run)
    assert "method: const_cl takes people from a file: give it with --boxes" in told
    assert "give it with --boxes" in refused(*of_people(tiny), *run, "--dry-run")


def test_boxes_for_a_recipe_that_takes_none_are_refused(
    refused: Refused, tiny: dict[str, Path], index: Path, people: Path
) -> None:
    run = ("--videos", index, "--out", "run")
    for recipe in (of_people(tiny, "random"), ["pretrain", tiny["pretrain"]]):
        told = refused(*recipe, *run, "--boxes", people)
        assert "--boxes: method" in told
        assert "{name: const_cl, boxes: table}" in told
        told = refused(*recipe, *run, "--time-origin", "900")
        assert "--time-origin is that of --boxes, of which there are none" in told


def test_boxes_that_fit_no_video_or_are_none_are_refused(
    refused: Refused, tiny: dict[str, Path], index: Path, people: Path, tmp_path: Path
) -> None:
    run = (*of_people(tiny), "--videos", index, "--out", "run", "--boxes")
    other = tmp_path / "other.csv"
    other.write_text(people.read_text().replace("train_", "film_"))
    assert "none of the 3 annotated videos" in refused(*run, other)
    assert "none of the 3 annotated videos" in refused(*run, other, "--dry-run")
    other.write_text("train_000,1,0.1,0.1,0.2\n")
    assert "other.csv:1" in refused(*run, other)
    assert "nowhere.csv" in refused(*run, "nowhere.csv")


def test_a_dry_run_takes_videos_that_have_boxes(
    cli: Cli, tiny: dict[str, Path], playground: Path, tmp_path: Path
) -> None:
    boxes = tmp_path / "one.csv"
    rows = (playground / "train_person_detections.csv").read_text().splitlines(keepends=True)
    boxes.write_text("".join(row for row in rows if row.startswith("train_002")))
    result = cli(
        *of_people(tiny),
        *("--videos", playground / "videos", "--boxes", boxes),
        *("--out", "run", "--dry-run"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["loss"] > 0


def test_the_end_that_a_detector_takes_over_is_recorded_and_can_be_chosen(
    cli: Cli,
    tiny: dict[str, Path],
    index: Path,
    training_data: list[object],
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    assert cli(*of_people(tiny, "grid"), "--videos", index, "--out", out).exit_code == 0
    card = json.loads((out / "encoder.json").read_text())
    assert card["backbone"]["local_branch"] is True
    assert card["backbone"]["maps_from"] == "global"
    weights = load_file(out / "encoder.safetensors")
    for maps in ("global", "local"):
        there = tmp_path / maps
        result = cli(
            *("finetune", tiny["detection"], "--encoder", out, *training_data, "--out", there),
            *("--set", BACKBONE % maps),
        )
        assert result.exit_code == 0, result.output
        card = json.loads((there / "encoder.json").read_text())
        assert card["backbone"]["maps_from"] == maps
        trained = load_file(there / "encoder.safetensors")
        changed = {key for key, value in trained.items() if not value.equal(weights[key])}
        ends = {key for key in changed if key.startswith(("local.", "trunk.res5."))}
        assert all(key.startswith("local." if maps == "local" else "trunk.res5.") for key in ends)
        assert ends
    one_ended = cli(
        *("finetune", tiny["detection"], "--encoder", out, *training_data),
        *("--out", tmp_path / "one", "--set", (BACKBONE % "global").replace("true", "false")),
    )
    assert one_ended.exit_code == 2
    assert "backbone.local_branch: True in the encoder, False in the recipe" in one_ended.stderr


# --- going on


def test_a_run_proves_that_it_resumes_and_changes_nothing_by_it(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ("pretrain", tiny["pretrain"], "--videos", index, "--out", run, "--steps", 4)
    every = ("--set", "save_every=2", "--set", "log_every=1", "--set", "loader.workers=0")
    assert cli(*command, *every).exit_code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = cli(*command, *every, "--resume-prove", 9, "--json", "-")
    assert result.exit_code == 0, result.stderr
    proof = json.loads(result.stdout)
    assert (proof["first"], proof["last"], proof["logged"]) == (2, 4, 2)
    assert proof["checkpoints"] == [4]
    assert proof["differences"] == []
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    # What the run is said to have done is compared, not believed.
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    rows[3]["loss"] += 1e-6
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = cli(*command, *every, "--resume-prove", 2)
    assert result.exit_code == 3
    assert "1 differences" in result.stdout
    assert "step 3: loss" in result.stderr


def test_there_is_nothing_to_prove_before_a_run_or_with_one_checkpoint_at_its_end(
    cli: Cli, tiny: dict[str, Path], index: Path, pretrained: Path, tmp_path: Path
) -> None:
    command = ("pretrain", tiny["pretrain"], "--videos", index)
    result = cli(*command, "--out", tmp_path / "none", "--resume-prove", 1)
    assert result.exit_code == 2
    assert "holds no checkpoint to go on from" in result.stderr
    assert not (tmp_path / "none").exists()
    result = cli(*command, "--out", pretrained, "--resume-prove", 1)
    assert result.exit_code == 2
    assert "holds no checkpoint with steps left to do again" in result.stderr


def test_what_is_harmless_to_change_is_told_and_what_is_not_is_refused(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ("pretrain", tiny["pretrain"], "--videos", index, "--out", run)
    assert cli(*command).exit_code == 0
    changes = ("log_every=7", "loader.prefetch=2", "optim.accumulate=2", "monitor.videos=0")
    result = cli(*command, *(word for change in changes for word in ("--set", change)))
    assert result.exit_code == 0, result.stderr
    (told,) = [e for e in read_events(run) if e["event"] == "recipe changed"]
    assert len(told["changes"]) == 4
    assert "recipe.optim.accumulate: 1 there, 2 asked" in told["changes"]
    result = cli(*command, "--set", "optim.lr=0.5", "--set", "log_every=3")
    assert result.exit_code == 2
    assert "recipe.optim.lr: " in result.stderr
    assert "log_every" not in result.stderr


def test_averaged_weights_are_what_is_saved_and_precise_statistics_come_last(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    found = {}
    for name, changes in {
        "plain": [],
        "averaged": ["optim.ema=0.9"],
        "precise": ["optim.precise_bn=2"],
    }.items():
        run = tmp_path / name
        command = ("pretrain", tiny["pretrain"], "--videos", index, "--out", run)
        result = cli(*command, *(word for change in changes for word in ("--set", change)))
        assert result.exit_code == 0, result.stderr
        found[name] = load_file(run / "encoder.safetensors")
    names = found["plain"].keys()
    weight = next(name for name in names if name.endswith("stem.conv.weight"))
    mean = next(name for name in names if name.endswith("stem.norm.running_mean"))
    assert not torch.equal(found["averaged"][weight], found["plain"][weight])
    assert torch.equal(found["precise"][weight], found["plain"][weight])
    assert not torch.equal(found["precise"][mean], found["plain"][mean])


def test_a_rate_for_another_batch_is_scaled_and_told(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ("pretrain", tiny["pretrain"], "--videos", index, "--out", run)
    changes = ("optim.lr=0.08", "optim.lr_batch=16", "optim.batch=4", "optim.schedule=constant")
    result = cli(*command, *(word for change in changes for word in ("--set", change)))
    assert result.exit_code == 0, result.stderr
    words = "optim.lr 0.08 is for a batch of 16: with 4 the rate is 0.02"
    assert words in result.stderr
    assert [e["words"] for e in read_events(run) if e["event"] == "learning rate scaled"] == [words]
    assert {entry["lr"] for entry in read_log(run)} == {0.02}
