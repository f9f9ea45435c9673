"""The list of runs, from folders written by hand as training writes them."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from vidssl.errors import CheckpointError
from vidssl.jobs.runs import KEYS, Key, RunRow, run
from vidssl.train.folder import RunFolder

Cli = Callable[..., Result]
Refused = Callable[..., str]
FIRST = Path(__file__).parents[1] / "train" / "formats" / "first"
RECIPE = {
    "task": "pretrain",
    "method": {"name": "moco"},
    "backbone": {"name": "slow"},
    "optim": {"lr": 0.1, "steps": 20, "batch": 4},
}


def lines(path: Path, entries: list[Any]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def entry(step: int, **more: Any) -> dict[str, Any]:
    """A logged step of 4 clips, trained on at 8 clips a second."""
    speed = {"clips_per_s": 8.0, "data_wait": 0.0}
    return {"step": step, "loss": 3 - step / 10, "samples_seen": 4 * (step + 1), **speed, **more}


def make(
    path: Path,
    *ends: str,
    steps: int = 10,
    saved: int | None = None,
    recipe: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """Write the folder of a run with some steps done, checkpoint and events as asked."""
    path.mkdir(parents=True)
    identity = {"format": 1, "command": "pretrain", "videos": "/data", "recipe": recipe or RECIPE}
    (path / "run.json").write_text(json.dumps({**identity, **more}))
    lines(path / "log.jsonl", [entry(step) for step in range(steps)])
    told = [{"event": end, "time": 1.7e9 + n} for n, end in enumerate(("start", *ends))]
    lines(path / "events.jsonl", told)
    if saved is not None:
        checkpoint = path / "checkpoints" / f"step-{saved:09d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
    return path


def weights(path: Path, steps: int) -> None:
    (path / "encoder.json").write_text(json.dumps({"trained_by": {"steps": steps}}))


def only(folder: Path) -> RunRow:
    (row,) = run(folder).runs
    return row


# --- one run


def test_a_row_says_what_a_run_is_and_how_far(tmp_path: Path) -> None:
    make(tmp_path / "a" / "b", "interrupted")
    row = only(tmp_path)
    assert (row.name, row.command, row.method, row.backbone) == ("a/b", "pretrain", "moco", "slow")
    assert (row.state, row.steps, row.total_steps) == ("stopped", 10, 20)
    assert row.loss == pytest.approx(2.1)  # 3 - 9 / 10
    assert row.samples_seen == 40
    assert row.hours == pytest.approx(40 / 8 / 3600)
    assert (row.last_event, row.last_event_time) == ("interrupted", 1.7e9 + 1)
    assert row.problems == []


@pytest.mark.parametrize(
    ("ends", "saved", "written", "state"),
    [
        (("finished",), 20, 20, "finished"),
        (("failed",), 5, None, "failed"),
        (("interrupted",), 10, None, "stopped"),
        (("failed", "start", "interrupted"), 10, None, "stopped"),
        # Killed, or of the version before there were such events:
        ((), 20, 20, "finished"),
        ((), 20, 10, "stopped"),  # went on after its weights were written
        ((), 10, None, "stopped"),  # no logged step is lost
        ((), 5, None, "failed"),
        ((), None, None, "failed"),
        (("interrupted", "start"), 5, None, "failed"),
    ],
)
def test_the_state_is_that_of_the_last_end(
    ends: tuple[str, ...], saved: int | None, written: int | None, state: str, tmp_path: Path
) -> None:
    make(tmp_path / "a", *ends, saved=saved)
    if written is not None:
        weights(tmp_path / "a", written)
    assert only(tmp_path).state == state


def test_a_run_is_running_while_a_process_works_in_it(tmp_path: Path) -> None:
    identity = {"command": "pretrain", "recipe": RECIPE}
    with RunFolder(tmp_path / "a", identity, "") as folder:
        folder.keep()
        assert only(tmp_path).state == "running"
    assert only(tmp_path).state == "finished"


def test_the_length_is_known_from_the_recipe_the_index_or_the_weights(
    tmp_path: Path, index: Path
) -> None:
    def total(name: str, optim: dict[str, Any], **more: Any) -> int | None:
        path = make(tmp_path / name / "run", recipe={**RECIPE, "optim": optim}, **more)
        shutil.copy(index, path / "index.parquet")
        before = only(tmp_path / name).total_steps
        weights(path, 7)
        assert only(tmp_path / name).total_steps in {before, 7}
        return before

    assert total("steps", {"steps": 12, "batch": 2}) == 12
    assert total("epochs", {"epochs": 5, "batch": 2, "steps": None}) == 10  # of 4 videos
    assert total("detector", {"epochs": 5, "batch": 2}, command="finetune") is None
    told = {"event": "start", "time": 0, "step": 0, "steps": 31}
    lines(tmp_path / "detector" / "run" / "events.jsonl", [told])
    assert only(tmp_path / "detector").total_steps == 31


def test_the_best_scores_are_shown_the_most_telling_first(tmp_path: Path) -> None:
    make(tmp_path / "a")
    log = [entry(0, knn_video=0.5, knn_class=0.2), entry(1, knn_video=0.9), entry(2, knn_video=0.7)]
    lines(tmp_path / "a" / "log.jsonl", log)
    assert only(tmp_path).score == ("knn_class", 0.2)
    assert only(tmp_path).scores == {"knn_class": 0.2, "knn_video": 0.9}
    for name, value in (("eval-val", 0.25), ("eval-more", 0.5), ("eval-none", None)):
        (tmp_path / "a" / name).mkdir()
        (tmp_path / "a" / name / "score.json").write_text(json.dumps({"mean_ap": value}))
    assert only(tmp_path).score == ("eval-more", 0.5)
    assert list(only(tmp_path).scores) == ["eval-more", "eval-val", "knn_class", "knn_video"]


def test_a_run_of_the_first_version_is_listed(tmp_path: Path) -> None:
    shutil.copytree(FIRST, tmp_path / "first")
    row = only(tmp_path)
    assert (row.state, row.steps, row.total_steps) == ("finished", 3, 3)
    assert row.scores == {"knn_video": 0.625}


def test_a_real_run_is_listed(cli: Cli, pretrained: Path) -> None:
    (row,) = json.loads(cli("runs", pretrained, "--json", "-").stdout)["runs"]
    assert (row["name"], row["state"], row["steps"]) == (pretrained.name, "finished", 3)
    assert row["hours"] > 0
    assert row["last_event"] == "finished"


# --- damage


HOSTILE_NUMBERS = '{"step": 1, "loss": ' + "9" * 400 + ', "knn_video": NaN}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.jsonl", "7\nnull\n[1]\n{}\n" + HOSTILE_NUMBERS),
        ("log.jsonl", '{"step": ' + "9" * 5000 + "}\n" + "[" * 100_000 + "\n"),
        ("events.jsonl", '7\n{"time": "soon"}\n{"event": [], "time": 1e999}\n'),
        ("run.json", '{"command": [], "recipe": 7}'),
        ("run.json", '{"recipe": {"optim": {"epochs": 1e9, "batch": 0}, "method": []}}'),
        ("encoder.json", '{"trained_by": []}'),
        ("encoder.json", "not json"),
        ("index.parquet", "not an index"),
    ],
)
def test_nonsense_in_a_file_does_not_hide_the_run(
    name: str, content: str, cli: Cli, tmp_path: Path
) -> None:
    epochs = {**RECIPE, "optim": {"epochs": 2, "batch": 2}}
    make(tmp_path / "good")
    make(tmp_path / "odd", recipe=epochs)
    (tmp_path / "odd" / name).write_text(content)
    result = cli("runs", tmp_path)
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines()[1:3]]
    assert names == ["good", "odd"]
    cli("runs", tmp_path, "--diff", "--json", "-")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"format": 2}', "format 2 was written by a newer vidssl"),
        (None, "not a run: expected the run.json"),
    ],
)
def test_a_damaged_folder_is_listed_with_what_is_wrong(
    content: str | None, words: str, cli: Cli, tmp_path: Path
) -> None:
    make(tmp_path / "good", "finished")
    make(tmp_path / "bad")
    (tmp_path / "bad" / "run.json").unlink()
    if content is not None:
        (tmp_path / "bad" / "run.json").write_text(content)
    bad, good = run(tmp_path).runs
    assert (bad.name, bad.state, good.state) == ("bad", "damaged", "finished")
    assert words in bad.problems[0]
    result = cli("runs", tmp_path)
    assert result.exit_code == 0
    assert "bad: " in result.stdout
    assert words in result.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed_is_listed(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "log.jsonl").chmod(0)
    assert only(tmp_path).state == "damaged"


# --- which


def test_runs_are_found_wherever_they_lie_but_not_in_parts_of_one(tmp_path: Path) -> None:
    for name in ("b", "a/deep/er", "b/detector"):
        make(tmp_path / name)
    for part in ("checkpoints", "eval-val", "rolled-back", ".hidden", "tensorboard"):
        make(tmp_path / "b" / part / "x")
    (tmp_path / "around").symlink_to(tmp_path)
    assert [row.name for row in run(tmp_path).runs] == ["a/deep/er", "b", "b/detector"]
    (row,) = run(tmp_path / "a" / "deep" / "er").runs
    assert row.name == "er"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("empty", "no runs below it"),
        ("emty", "no such folder; did you mean 'empty'?"),
        ("file", "is a file; expected a folder with runs"),
    ],
)
def test_where_there_are_no_runs_one_message_says_so(
    target: str, words: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    told = refused("runs", target)
    assert told.startswith(f"error: {target}: {words}")
    assert len(told.splitlines()) == 1


def test_runs_are_picked_by_name(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make(tmp_path / name)
    assert [row.name for row in run(tmp_path, ["c/"]).runs] == ["c"]
    with pytest.raises(CheckpointError, match="no run 'bb' below it; did you mean 'b'"):
        run(tmp_path, ["a", "bb"])


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("name", "abc"),
        ("steps", "bac"),
        ("loss", "bac"),
        ("score", "cab"),
        ("seen", "bac"),
        ("hours", "bac"),
        ("last", "cab"),
        ("state", "bca"),
    ],
)
def test_runs_are_sorted_by_what_is_asked_for(key: Key, order: str, tmp_path: Path) -> None:
    assert key in KEYS
    make(tmp_path / "a", "failed", steps=3)
    make(tmp_path / "b", steps=9, saved=20)
    weights(tmp_path / "b", 20) if key == "state" else None
    make(tmp_path / "c", "x", "interrupted", steps=0)
    lines(tmp_path / "b" / "events.jsonl", [])
    (tmp_path / "c" / "eval-x").mkdir()
    (tmp_path / "c" / "eval-x" / "score.json").write_text('{"mean_ap": 0.5}')
    lines(tmp_path / "a" / "log.jsonl", [entry(step, knn_video=0.1) for step in range(3)])
    assert "".join(row.name for row in run(tmp_path, sort=key).runs) == order


# --- several


def test_what_differs_is_told_by_dotted_key(tmp_path: Path) -> None:
    make(tmp_path / "a")
    other = {**RECIPE, "optim": {"lr": 0.2, "steps": 20, "batch": 4, "warmup": 0.1}}
    make(tmp_path / "b", recipe=other, videos="/more")
    found = run(tmp_path, ["a", "b"]).differences
    assert found is not None
    assert {one.key: one.values for one in found} == {
        "videos": {"a": "/data", "b": "/more"},
        "optim.lr": {"a": 0.1, "b": 0.2},
        "optim.warmup": {"b": 0.1},
    }
    assert run(tmp_path).differences is None
    assert run(tmp_path, diff=True).differences == found


def test_a_section_in_place_of_a_value_is_a_difference(tmp_path: Path) -> None:
    make(tmp_path / "a", recipe={**RECIPE, "head": None, "empty": {}})
    make(tmp_path / "b", recipe={**RECIPE, "head": {"width": 8}, "empty": {}})
    found = run(tmp_path, diff=True).differences
    assert found is not None
    assert {one.key: one.values for one in found} == {
        "head": {"a": None},
        "head.width": {"b": 8},
    }


def test_one_run_cannot_be_compared(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match="two runs are needed to compare, found a"):
        run(tmp_path, diff=True)


def test_the_comparison_is_printed_with_the_numbers_side_by_side(cli: Cli, tmp_path: Path) -> None:
    make(tmp_path / "a", "finished")
    make(tmp_path / "b", "failed", steps=5, recipe={**RECIPE, "seed": 7})
    told = cli("runs", tmp_path, "a", "b").stdout
    rows = {line.split()[0]: line.split()[1:] for line in told.partition("\n\n")[2].splitlines()}
    assert rows["seed"] == ["(absent)", "7"]
    assert rows["state"] == ["finished", "failed"]
    assert rows["steps"] == ["10/20", "5/20"]
    assert rows["loss"] == ["2.1", "2.6"]
    assert "optim.lr" not in rows
    make(tmp_path / "same", "finished")
    assert "recipes and data are the same" in cli("runs", tmp_path, "a", "same").stdout


# --- output


def test_elsewhere_than_on_a_terminal_there_are_plain_columns(cli: Cli, tmp_path: Path) -> None:
    make(tmp_path / "a", "finished")
    make(tmp_path / ("long" * 30), "failed")
    shown = cli("runs", tmp_path).stdout.splitlines()
    assert len(shown) == 3  # however long, a run is one line
    assert shown[0].split()[:6] == ["name", "what", "state", "steps", "loss", "score"]
    assert (
        len({line.index(word) for line, word in zip(shown[1:], ("fin", "fai"), strict=True)}) == 1
    )


@pytest.mark.alone
def test_a_narrow_terminal_shows_whole_names_and_fewer_columns(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a-run-with-quite-a-name", "finished")
    monkeypatch.setenv("FORCE_COLOR", "1")

    def heads(columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        first, second, *more = re.sub(
            "\x1b\\[[0-9;]*m", "", cli("runs", tmp_path).stdout
        ).splitlines()
        assert second.split()[0] == "a-run-with-quite-a-name"
        assert not more
        return first.split()

    assert heads(150)[-2:] == ["last", "event"]
    assert heads(80) == ["name", "what", "state", "steps", "loss", "score"]
    assert heads(60) == ["name", "state", "steps", "loss", "score"]


def test_a_name_is_text_whatever_it_says(cli: Cli, tmp_path: Path) -> None:
    name = "[red]a\x1b[31m\n\u202eb"
    make(tmp_path / name, recipe={**RECIPE, "method": {"name": "[bold]\x07"}})
    make(tmp_path / "plain")
    for arguments in ((), ("--diff",)):
        told = cli("runs", tmp_path, *arguments).stdout
        assert "[red]a\\x1b[31m" in told
        assert "[bold]\\x07" in told
        assert not {"\x1b", "\x07", "\u202e"} & set(told)


def test_machines_get_all_of_it_as_json(cli: Cli, tmp_path: Path) -> None:
    make(tmp_path / "a", "finished")
    make(tmp_path / "b", recipe={**RECIPE, "seed": float("nan")})
    result = cli("runs", tmp_path, "--diff", "--sort", "loss", "--json", "-")
    told = json.loads(result.stdout, parse_constant=pytest.fail)
    assert [row["name"] for row in told["runs"]] == ["a", "b"]
    assert told["differences"] == [{"key": "seed", "values": {"b": "nan"}}]
    cli("runs", tmp_path, "--json", tmp_path / "rows.json")
    assert len(json.loads((tmp_path / "rows.json").read_text())["runs"]) == 2
