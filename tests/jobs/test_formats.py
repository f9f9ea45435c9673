"""A run's folder as the first version wrote it, which no later one may refuse or misread.

The folder is a pretraining of three steps, made before its files said a format.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from vidssl.jobs import report
from vidssl.recipe import Pretrain, load
from vidssl.train.folder import read_log

Cli = Callable[..., Result]
FIRST = Path(__file__).parents[1] / "train" / "formats" / "first"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIRST, tmp_path / "run"))


def test_the_folder_says_no_format_yet() -> None:
    assert "format" not in json.loads((FIRST / "run.json").read_text())
    assert not (FIRST / "recipe.yaml").read_text().startswith("version")


def test_its_recipe_is_read_as_what_it_was(first: Path) -> None:
    recipe = load(Pretrain, first / "recipe.yaml")
    assert (recipe.version, recipe.optim.steps, recipe.method.name) == (1, 3, "moco")


def test_it_is_reported_on(first: Path) -> None:
    result = report.run(first)
    assert (result.command, result.finished, result.steps) == ("pretrain", True, 3)
    assert result.loss == pytest.approx(2.4262, abs=1e-4)  # the last line of its log
    assert result.samples_seen == 6


def test_its_training_goes_on_under_the_same_command(
    cli: Cli, first: Path, playground: Path
) -> None:
    videos = playground / "videos"
    identity = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps({**identity, "videos": str(videos)}))
    result = cli("pretrain", first / "recipe.yaml", "--videos", videos, "--out", first)
    assert result.exit_code == 0, result.output
    assert json.loads((first / "run.json").read_text())["format"] == 1
    # It has no checkpoint here, so that its three steps are done once more.
    assert [entry["step"] for entry in read_log(first)] == [0, 1, 2]
