"""``vidssl recipes``: every bundled recipe is listed with what it says of itself."""

import importlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from vidssl.errors import RecipeError
from vidssl.jobs import recipes as job
from vidssl.recipe import Detection, Extract, LongTerm, Pretrain, Recognition, bundled, load

Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    module = importlib.import_module(f"{entry.module.rpartition('.')[0]}.recipes")
    app = typer.Typer()
    app.command()(module.recipes)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments])

    return run


def rows() -> Sequence[job.RecipeRow]:
    found = job.run()
    assert len(found) >= 4, "the search for bundled recipes found too few of them"
    return found


def test_every_bundled_recipe_is_listed_once() -> None:
    expected = [
        (kind.folder, name)
        for kind in (Pretrain, Detection, Recognition, Extract, LongTerm)
        for name in bundled(kind)
    ]
    assert [(row.kind, row.name) for row in rows()] == expected


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.kind}/{row.name}")
def test_a_recipe_begins_with_its_command_and_what_to_expect(row: job.RecipeRow) -> None:
    commands = {
        "pretrain": "vidssl pretrain", "detection": "vidssl finetune",
        "recognition": "vidssl finetune", "extract": "vidssl extract-features",
        "long_term": "vidssl long-term",
    }  # fmt: skip
    assert row.command.startswith(f"{commands[row.kind]} {row.name} ")
    assert len(row.description) > 20


def test_the_list_shows_names_descriptions_and_commands(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    for row in rows():
        assert {f"{row.kind}:", row.name, row.description, row.command} <= set(lines)


def test_a_named_recipe_is_printed_so_that_it_loads(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("moco_small")
    assert result.exit_code == 0
    (tmp_path / "mine.yaml").write_text(result.stdout)
    original = bundled(Pretrain)["moco_small"]
    assert (tmp_path / "mine.yaml").read_bytes() == original.read_bytes()
    assert load(Pretrain, tmp_path / "mine.yaml") == load(Pretrain, original)


def test_a_name_that_two_kinds_share_needs_its_kind(invoke: Invoke) -> None:
    assert {"playground"} <= bundled(Detection).keys() & bundled(Extract).keys()
    result = invoke("playground")
    assert result.exit_code == 2
    assert "give one of detection/playground, extract/playground" in result.stderr
    assert job.find("extract/playground").path == bundled(Extract)["playground"]


def test_a_wrong_name_is_answered_with_the_nearest(invoke: Invoke) -> None:
    result = invoke("moco_smal")
    assert result.exit_code == 2
    assert not result.stdout
    assert "no recipe 'moco_smal'; did you mean 'moco_small'?" in result.stderr
    with pytest.raises(RecipeError, match=r"choices: .*moco_small"):
        job.find("moco_smal")


def test_json_gives_all_of_it_to_machines(invoke: Invoke, tmp_path: Path) -> None:
    listed = json.loads(invoke("--json", "-").stdout)
    assert [row["name"] for row in listed] == [row.name for row in rows()]
    assert invoke("moco_small", "--json", str(tmp_path / "r.json")).exit_code == 0
    (row,) = json.loads((tmp_path / "r.json").read_text())
    assert row["kind"] == "pretrain"
    assert row["text"] == bundled(Pretrain)["moco_small"].read_text(encoding="utf-8")


def test_a_recipe_without_a_comment_is_listed_without_words(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("task: pretrain\n# too late\n")
    assert job._first_lines(tmp_path / "bare.yaml") == ("", "")
