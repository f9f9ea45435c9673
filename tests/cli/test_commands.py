"""The command line's surface: its names and options, its help, and what it prints where."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import pytest
import typer
from typer.testing import Result

Cli = Callable[..., Result]

BENCH = {"--videos", "--samples", "--rounds", "--json"}
JSON, RECIPE = {"--json"}, {"--set", "--json"}
TRAIN = RECIPE | {"--out", "--videos", "--steps", "--gpus", "--resume", "--dry-run", "--autotune"}
TRAIN |= {"--tensorboard", "--resume-prove", "--max-restarts"}
TRAIN |= {"--slurm", "--nodes", "--partition", "--time", "--slurm-option"}
COMMANDS: dict[str, tuple[list[str], set[str]]] = {
    # Scripts rely on these names; removing or renaming one breaks them.
    "doctor": ([], JSON),
    "demo": ([], JSON | {"--out"}),
    "playground": ([], {"--out", "--videos", "--seconds", "--seed"}),
    "index": (
        ["source"],
        JSON | {"--out", "--workers", "--cut-files", "--retry", "--deadline", "--memory"},
    ),
    "transcode": (
        ["source"],
        JSON
        | {"--out", "--short-side", "--gop", "--crf", "--keep-audio", "--workers", "--estimate"},
    ),
    "sample": (
        ["source"],
        RECIPE
        | {"--recipe", "--out", "--count", "--annotations", "--labels"}
        | {"--boxes", "--time-origin"},
    ),
    "pretrain": (["recipe"], TRAIN | {"--boxes", "--time-origin"}),
    "finetune": (
        ["recipe"],
        TRAIN
        | {"--encoder", "--annotations", "--labels", "--boxes", "--excluded", "--bank"}
        | {"--time-origin"},
    ),
    "propose": (
        [],
        JSON
        | {"--out", "--videos", "--detector", "--model", "--times", "--every", "--min-score"}
        | {"--class", "--short-side", "--workers", "--time-origin", "--max-failed", "--track"}
        | {"--iou", "--peak-score", "--min-length", "--gap"},
    ),
    "extract-features": (
        ["recipe"],
        RECIPE
        | {"--encoder", "--videos", "--boxes", "--out", "--time-origin", "--gpus", "--part"}
        | {"--max-failed", "--retry"},
    ),
    "long-term": (
        ["recipe"],
        RECIPE
        | {"--encoder", "--videos", "--annotations", "--labels", "--boxes", "--train-boxes"}
        | {"--excluded", "--time-origin", "--out", "--steps", "--gpus", "--max-restarts"}
        | {"--max-failed", "--retry", "--slurm", "--nodes", "--partition", "--time"}
        | {"--slurm-option", "--resume-prove", "--dry-run"},
    ),
    "detect": (
        ["video"],
        JSON
        | {"--checkpoint", "--out", "--boxes", "--detector", "--model", "--class", "--short-side"}
        | {"--every", "--min-score", "--iou", "--bank", "--threshold", "--top"}
        | {"--scales", "--flip", "--clips"},
    ),
    "eval-ava": (
        [],
        JSON
        | {"--annotations", "--labels", "--predictions", "--checkpoint", "--videos", "--boxes"}
        | {"--bank", "--empty-bank", "--excluded", "--protocol", "--min-score", "--max-failed"}
        | {"--time-origin", "--quick", "--csv", "--bars", "--compare"}
        | {"--scales", "--flip", "--clips"},
    ),
    "eval-kinetics": (
        [],
        JSON
        | {"--checkpoint", "--videos", "--scores", "--weights", "--verb", "--noun", "--prior"}
        | {"--out", "--views", "--frames", "--stride", "--sampling", "--indexing", "--reach-end"}
        | {"--short-side", "--crop", "--train-crop", "--pooled"}
        | {"--activation", "--over-views", "--precision", "--index", "--batch", "--workers"}
        | {"--device", "--gpus", "--retry", "--max-failed", "--top", "--confusion", "--quick"}
        | {"--csv", "--compare", "--bank", "--empty-bank"},
    ),
    "eval-tubes": ([], JSON | {"--annotations", "--predictions", "--inclusive", "--area"}),
    "probe": (
        [],
        JSON
        | {"--encoder", "--train", "--test", "--probes", "--k", "--temperature", "--views"}
        | {"--short-side", "--crop", "--centre", "--time", "--motion", "--random", "--group"}
        | {"--cache", "--precision", "--batch", "--workers", "--gpus", "--retry"}
        | {"--max-failed", "--csv"},
    ),
    "export": (["checkpoint"], JSON | {"--format", "--out", "--crop"}),
    "report": (["run"], JSON),
    "report-card": (
        ["encoder"],
        JSON
        | {"--on", "--test", "--out", "--compare", "--baseline", "--probes", "--motion", "--name"}
        | {"--k", "--temperature", "--views", "--centre", "--group", "--short-side", "--crop"}
        | {"--cache", "--workers", "--precision", "--batch", "--gpus", "--retry", "--max-failed"}
        | {"--boxes-on", "--boxes-train", "--boxes-test", "--boxes-labels"},
    ),
    "runs": (["folder", "names"], JSON | {"--sort", "--diff"}),
    "models": ([], JSON),
    "recipes": (["name"], JSON),
    "ava validate": (
        [],
        JSON
        | {"--annotations", "--labels", "--boxes", "--predictions", "--excluded", "--videos"}
        | {"--time-origin"},
    ),
    "ava import": (
        ["name", "source"],
        JSON
        | {"--out", "--labels", "--every", "--videos", "--fps", "--size", "--attribute"}
        | {"--first-frame"},
    ),
    "bank info": (["bank"], JSON),
    "bank verify": (["bank"], JSON),
    "bank merge": (["parts"], JSON | {"--out"}),
    "bank export": (["bank"], JSON | {"--out"}),
    "weights inspect": (["file"], JSON | {"--momentum-encoder"}),
    "weights convert": (
        ["file"],
        JSON | {"--to", "--model", "--recipe", "--min-match", "--momentum-encoder", "--classifier"},
    ),
    "bench decode": ([], BENCH),
    "bench loader": ([], BENCH),
    "bench step": (
        [],
        JSON | {"--model", "--clips", "--crop", "--rounds", "--compile", "--engine"},
    ),
    "bench eval": ([], JSON | {"--rows", "--rounds"}),
    "bench bank": ([], JSON | {"--videos", "--seconds", "--bank", "--rounds"}),
}


def commands() -> dict[str, typer.core.TyperCommand]:
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    group = typer.main.get_command(entry.load())
    assert isinstance(group, typer.core.TyperGroup)
    found: dict[str, typer.core.TyperCommand] = {}
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found |= {f"{name} {part}": one for part, one in command.commands.items()}  # type: ignore[misc]
        else:
            found[name] = command  # type: ignore[assignment]
    return found


def test_every_command_is_there_in_its_order() -> None:
    assert list(commands()) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_arguments_and_options(name: str) -> None:
    arguments, options = COMMANDS[name]
    found = commands()[name].params
    assert [p.name for p in found if p.param_type_name == "argument"] == arguments
    named = {
        opt
        for p in found
        if p.param_type_name == "option"
        for opt in p.opts
        if opt.startswith("--")
    }
    assert named - {"--help"} == options


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_explains_itself(name: str) -> None:
    command = commands()[name]
    assert len(command.help or "") > 20
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


def test_help_does_not_wait_for_torch() -> None:
    # One process for all of them: what one imports stays, so the first with torch fails the rest.
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    asked = [["--help"], *([*name.split(), "--help"] for name in commands())]
    program = f"""
import sys
from typer.testing import CliRunner
from {entry.module} import {entry.attr} as app
for arguments in {asked!r}:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, arguments
    assert "Usage" in result.output, arguments
    slow = {{"torch", "torchvision", "numpy", "pyarrow", "av", "matplotlib"}} & set(sys.modules)
    assert not slow, (arguments, slow)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_or_option_ends_with_2(cli: Cli) -> None:
    assert cli("pretrian").exit_code == 2
    assert cli("index", "--ouput", "x").exit_code == 2
    result = cli("eval-ava", "--annotations", "a", "--labels", "b", "--protocol", "mine")
    assert result.exit_code == 2
    assert "activitynet" in result.stderr


def test_a_message_keeps_brackets_and_shows_control_characters(cli: Cli) -> None:
    result = cli("index", "no[bold]where\x1b[31m", "--out", "i.parquet")
    assert result.exit_code == 2
    assert "no[bold]where\\x1b[31m: no such file or folder" in result.stderr
    assert "\x1b" not in result.stderr
