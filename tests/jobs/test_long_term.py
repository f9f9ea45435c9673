"""``vidssl long-term``: three stages from one recipe, each resumed, none done twice."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from vidssl.errors import RecipeError
from vidssl.recipe import LongTerm, load
from vidssl.train.folder import read_events

(ENTRY,) = entry_points(group="console_scripts", name="vidssl")
PACKAGE = ENTRY.module.partition(".")[0]
Cli = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def recipe(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipes of the three stages as one."""
    parts = {"first": "detection", "extract": "extract", "second": "detection_bank"}
    lines = ["task: long_term"]
    for part, name in parts.items():
        lines += [f"{part}:", *(f"  {line}" for line in tiny[name].read_text().splitlines())]
    path = tmp_path_factory.mktemp("long_term") / "tiny.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_bank_seen_otherwise_than_the_first_detector_sees_is_refused(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="frames does not fit first"):
        load(LongTerm, recipe, ["first.backbone.sees=changes"])


Arguments = Callable[..., list[object]]


@pytest.fixture(scope="module")
def arguments(
    recipe: Path, pretrained: Path, training_data: list[object], playground: Path
) -> Arguments:
    def make(out: object, *more: object) -> list[object]:
        boxes = [playground / f"{split}_person_detections.csv" for split in ("train", "val")]
        return [
            *("long-term", recipe, "--encoder", pretrained, *training_data),
            *("--boxes", boxes[0], "--boxes", boxes[1], "--out", out, *more),
        ]

    return make


@pytest.fixture(scope="module")
def done(cli: Cli, arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three stages finished; not to be written to."""
    out = tmp_path_factory.mktemp("long_term") / "out"
    saved = [f"{name}.save_every=1" for name in ("first", "second")]
    result = cli(*arguments(out, *(word for change in saved for word in ("--set", change))))
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "out"))


def told_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def starts(run: Path) -> int:
    return sum(event["event"] == "start" for event in read_events(run))


def content(folder: Path, *names: str) -> list[bytes]:
    files = [path for name in names for path in sorted(folder.glob(name))]
    assert files
    return [path.read_bytes() for path in files]


def test_the_stages_are_those_of_the_three_commands(
    done: Path, detector: Path, bank: Path, cli: Cli, playground: Path, index: Path
) -> None:
    # The same recipes, encoder and data as the session's detector and bank.
    weights = "detector.safetensors"
    assert (done / "first" / weights).read_bytes() == (detector / weights).read_bytes()
    assert content(done / "bank", "*.npy") == content(bank, "*.npy")
    card = json.loads((done / "second" / "detector.json").read_text())
    first = json.loads((done / "first" / "encoder.json").read_text())
    assert card["bank"]["encoder"] == first["hash"]
    score = cli(
        *("eval-ava", "--checkpoint", done / "second", "--bank", done / "bank", "--videos", index),
        *("--boxes", playground / "val_person_detections.csv"),
        *("--annotations", playground / "val.csv", "--labels", playground / "action_list.pbtxt"),
    )
    assert score.exit_code == 0, score.output
    shutil.rmtree(done / "second" / "eval-val")


def test_the_second_begins_where_the_first_began_or_ended(
    cli: Cli, arguments: Arguments, done: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = json.loads((done / "second" / "run.json").read_text())
    assert run["encoder"] == str(pretrained)
    out = tmp_path / "out"
    changes = ("second_begins=first", "second.init=detector", "second.freeze=backbone")
    words = [word for change in changes for word in ("--set", change)]
    result = cli(*arguments(out, *words))
    assert result.exit_code == 0, result.output
    run = json.loads((out / "second" / "run.json").read_text())
    assert run["encoder"] == str(out / "first")
    encoders = [content(out / part, "encoder.safetensors") for part in ("first", "second")]
    assert encoders[0] == encoders[1]  # frozen


def test_what_is_finished_is_verified_and_not_done_again(
    cli: Cli, arguments: Arguments, copy: Path, done: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.safetensors")}
    told = told_of(cli(*arguments(copy, "--json", "-")))
    assert told["done_now"] == []
    assert told["second"]["steps"] == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [starts(copy / part) for part in ("first", "second")] == [1, 1]
    assert "as it was" in cli(*arguments(copy)).stdout


def test_a_stage_that_is_gone_or_damaged_is_made_again_and_no_other(
    cli: Cli, arguments: Arguments, copy: Path, done: Path
) -> None:
    shard = next(iter(sorted((copy / "bank").glob("*.npy"))))
    shard.write_bytes(shard.read_bytes()[:-2] + b"xx")
    told = told_of(cli(*arguments(copy, "--json", "-")))
    assert told["done_now"] == ["bank"]
    assert content(copy / "bank", "*") == content(done / "bank", "*")
    (copy / "first" / "detector.safetensors").unlink()
    shutil.rmtree(copy / "second")
    told = told_of(cli(*arguments(copy, "--json", "-")))
    assert told["done_now"] == ["first", "second"]
    for part in ("first", "second"):
        assert content(copy / part, "*.safetensors") == content(done / part, "*.safetensors")


def test_weights_that_cannot_be_made_again_are_told_of(
    cli: Cli, arguments: Arguments, copy: Path
) -> None:
    stages = json.loads((copy / "stages.json").read_text())
    stages["first"]["hash"] = "0123456789abcdef"
    (copy / "stages.json").write_text(json.dumps(stages))
    result = cli(*arguments(copy))
    assert result.exit_code == 2
    assert "detector 0123456789abcdef was damaged or lost" in result.stderr


@pytest.mark.parametrize("killed_in", ["bank", "second"])
def test_killed_in_any_stage_and_run_again_it_has_the_same_bytes(
    arguments: Arguments, cli: Cli, copy: Path, done: Path, killed_in: str
) -> None:
    # Made as it was before that stage, so that a kill falls into it.
    stages = json.loads((copy / "stages.json").read_text())
    later = ["first", "bank", "second"][["first", "bank", "second"].index(killed_in) :]
    for name in later:
        shutil.rmtree(copy / name)
        del stages[name]
    (copy / "stages.json").write_text(json.dumps(stages))
    command = [sys.executable, "-m", PACKAGE, *map(str, arguments(copy))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 100
    mark = "bank.json" if killed_in == "bank" else "run.json"
    while not (copy / killed_in / mark).exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    told = told_of(cli(*arguments(copy, "--json", "-")))
    assert set(told["done_now"]) == set(later)
    for part in ("first", "second"):
        assert content(copy / part, "*.safetensors") == content(done / part, "*.safetensors")
    assert content(copy / "bank", "*") == content(done / "bank", "*")


def test_a_bank_that_lacks_too_much_ends_it_before_the_second(
    cli: Cli, arguments: Arguments, playground_copy: Path, copy: Path, tmp_path: Path
) -> None:
    boxes = tmp_path / "more.csv"
    given = (playground_copy / "val_person_detections.csv").read_text().splitlines()
    boxes.write_text("\n".join([*given, *(line.replace("val_000", "lost") for line in given)]))
    out = tmp_path / "short"
    more = ("--boxes", boxes)
    result = cli(*arguments(out, *more, "--json", tmp_path / "told.json"))
    assert result.exit_code == 3
    assert "key frames failed, more than 1.00%" in result.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["second"] is None
    assert not (out / "second").exists()
    told = told_of(cli(*arguments(out, *more, "--max-failed", "0.9", "--json", "-")))
    assert told["done_now"] == ["second"]


def test_what_failed_in_the_bank_is_tried_again_once_its_cause_is_gone(
    cli: Cli, arguments: Arguments, playground_copy: Path, done: Path, tmp_path: Path
) -> None:
    videos, out = playground_copy / "videos", tmp_path / "out"
    (videos / "val_000.mp4").rename(tmp_path / "aside.mp4")  # trained on are the others
    command = arguments(out, "--videos", videos)
    assert cli(*command).exit_code == 3
    (tmp_path / "aside.mp4").rename(videos / "val_000.mp4")
    result = cli(*command)
    assert result.exit_code == 3  # not of itself
    assert "set aside: val_000: no such video" in result.stdout
    assert "give the same command with --retry, or allow for more with" in result.stderr
    shards = [out / "bank" / f"shard-{number:05d}.npy" for number in range(3)]
    before = [shard.stat().st_mtime_ns for shard in shards]
    told = told_of(cli(*command, "--retry", "--json", "-"))
    assert told["done_now"] == ["bank", "second"]
    assert told["failures"][0] == 0
    assert [shard.stat().st_mtime_ns for shard in shards] == before
    assert starts(out / "first") == 1
    # All is as if nothing had been amiss.
    assert content(out / "bank", "*.npy", "*.parquet") == content(
        done / "bank", "*.npy", "*.parquet"
    )
    assert content(out / "second", "*.safetensors") == content(done / "second", "*.safetensors")
    assert told_of(cli(*command, "--retry", "--json", "-"))["done_now"] == []


def test_a_bank_that_is_read_already_is_not_changed(
    cli: Cli, arguments: Arguments, copy: Path
) -> None:
    stages = json.loads((copy / "stages.json").read_text())
    rows = stages["second"]["bank"]
    stages["bank"]["failures"] = [3, 900, "key frames"]
    stages["second"]["bank"] = "0123456789abcdef"
    (copy / "stages.json").write_text(json.dumps(stages))
    result = cli(*arguments(copy, "--retry"))
    assert result.exit_code == 2
    assert "of which 3 of 900 key frames failed; remove" in result.stderr
    result = cli(*arguments(copy))
    assert result.exit_code == 2
    assert "was trained on rows of a bank with the hash 0123456789abcdef" in result.stderr
    assert f"the bank there now has {rows}; remove" in result.stderr
    shutil.rmtree(copy / "second")
    assert told_of(cli(*arguments(copy, "--json", "-")))["done_now"] == ["second"]


def test_a_job_of_slurm_has_cores_for_the_stage_with_the_most_workers(
    cli: Cli, recipe: Path, tmp_path: Path
) -> None:
    result = cli(
        *("long-term", recipe, "--encoder", "random", "--videos", "v", "--annotations", "a.csv"),
        *("--labels", "l.csv", "--out", tmp_path / "out", "--slurm", "--gpus", 2, "--time", 90),
        *("--dry-run", "--set", "extract.loader.workers=3", "--set", "first.device=cpu"),
    )
    assert result.exit_code == 0, result.output
    assert "#SBATCH --cpus-per-task=8\n" in result.stdout  # 2 processes, each with 3 workers
    assert "--gpus" not in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_forecast_does_a_little_of_each_stage_and_writes_nothing(
    cli: Cli, arguments: Arguments, done: Path, tmp_path: Path
) -> None:
    told = told_of(cli(*arguments(tmp_path / "out", "--dry-run")))
    assert not list(tmp_path.iterdir())
    record = json.loads((done / "stages.json").read_text())
    made = record["bank"]["result"]
    assert (told["bank"]["rows"], told["bank"]["keyframes"]) == (made["rows"], made["keyframes"])
    assert told["bank"]["disk_gb"] == pytest.approx(made["rows"] * made["dim"] * 2 / 2**30)
    for name in ("first", "second"):
        assert told[name]["steps"] == 2
        assert told[name]["samples"] == record[name]["result"]["keyframes"]
    more = told["second"]["trained_parameters"] - told["first"]["trained_parameters"]
    assert more > 0  # the operator
    parts = [told[name]["hours"] for name in ("first", "bank", "second")]
    assert told["hours"] == pytest.approx(sum(parts))


def test_both_trainings_do_steps_again(
    cli: Cli, refused: Refused, arguments: Arguments, done: Path, tmp_path: Path
) -> None:
    assert "none: holds no training" in refused(*arguments("none"), "--resume-prove", 1)
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    result = cli(*arguments(done), "--resume-prove", 1, "--json", tmp_path / "told.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [lines[0], lines[2]] == [f"{done / name}:" for name in ("first", "second")]
    assert result.stdout.count("all equal") == 2
    told = json.loads((tmp_path / "told.json").read_text())
    found = {name: (proof["first"], proof["differences"]) for name, proof in told.items()}
    assert found == {"first": (1, []), "second": (1, [])}
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


def test_two_processes_do_all_three(arguments: Arguments, done: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", PACKAGE, *map(str, arguments(tmp_path / "out"))]
    ended = subprocess.run([*command, "--gpus", "2"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    stages = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert list(stages) == ["first", "bank", "second"]


# --- what is refused, before anything is trained


@pytest.fixture
def refused_with(refused: Refused, arguments: Arguments) -> Refused:
    return lambda *more: refused(*arguments("out", *more))


def test_a_mistake_of_a_later_stage_is_told_of_first(refused_with: Refused, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("v,0001,0.1,0.1,0.5,0.5,,2\n")
    assert "b.csv:1: score outside [0, 1]" in refused_with("--boxes", "b.csv")
    told = refused_with("--set", "extract.features=clip")
    assert "features (clip) are not of people: leave --boxes" in told
    told = refused_with("--set", "second.backbone.width=16")
    assert "backbone.width: 8 in the encoder, 16 in the recipe" in told
    told = refused_with("--set", "second.init=detector")
    assert "no detector.safetensors" in told
    told = refused_with("--encoder", "random", "--set", "second.freeze=backbone")
    assert "random has nothing for init: detector or freeze: backbone to keep" in told


def test_what_would_leave_the_second_training_nothing_to_read_is_told_of_first(
    refused: Refused, refused_with: Refused, arguments: Arguments
) -> None:
    words = arguments("out")
    words[words.index("--boxes") : words.index("--boxes") + 2] = []  # those of training
    assert "nobody is in the 3 videos of" in refused(*words)
    told = refused_with("--set", "extract.layers=[trunk.res9]")
    assert "layers: the backbone has no 'trunk.res9'" in told
    operator = "second.head.operator={name: fbo_nl, likeness: 12}"
    told = refused_with("--set", operator, "--set", "extract.layers=[slow.stem]")
    assert "operator.likeness compares a feature with the bank's rows" in told
    assert not Path("out").exists()


def test_videos_of_others_are_refused_without_a_trace(
    refused_with: Refused, playground_copy: Path, tmp_path: Path
) -> None:
    for path in (playground_copy / "videos").iterdir():
        path.rename(path.with_stem(f"clip_{path.stem}"))
    told = refused_with("--videos", playground_copy / "videos")
    assert "none of the 3 annotated videos" in told


def test_the_folder_of_another_recipe_is_refused_with_what_differs(
    refused_with: Refused, copy: Path
) -> None:
    told = refused_with("--set", "second.head.operator.layers=2")
    assert "out: belongs to another run" in told
    assert "recipe.second.head.operator.layers: 1 there, 2 asked" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("first.head.operator={name: fbo_avg}", "first.head.operator: there is no bank yet"),
        ("second.head.operator=null", "second.head.operator: missing; it reads the bank"),
        ("extract.backbone.width=16", "extract.backbone.width: 16 does not fit first.backbone's 8"),
        ("extract.short_sid_px=1", "extract.short_sid_px: unknown key; did you mean 'short_side"),
        ("second.optim.lr=-1", "second.optim.lr: "),
        ("second_begins=third", "second_begins: should be 'encoder' or 'first', found"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    refused_with: Refused, change: str, message: str
) -> None:
    assert message in refused_with("--set", change)


def test_the_published_recipe_is_the_papers() -> None:
    from vidssl.recipe import find

    plan = load(LongTerm, find(LongTerm, "i3d_nl_r50_ava"))
    assert plan.first.backbone == plan.extract.backbone == plan.second.backbone
    assert plan.first.optim == plan.second.optim
    operator: Any = plan.second.head.operator
    rows = (operator.window.before_s + operator.window.after_s) * operator.window.per_step
    assert (rows, operator.masked, operator.form) == (300, False, "pre")
