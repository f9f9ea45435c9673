"""``vidssl report``, ``sample`` and ``doctor``: what they print, write and end with."""

import importlib
import json
import shlex
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from vidssl.jobs import doctor
from vidssl.jobs.doctor import Check
from vidssl.video.write import write_video

Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    package = entry.module.rpartition(".")[0]

    def run(command: str, *arguments: str) -> Result:
        app = typer.Typer()
        app.command()(getattr(importlib.import_module(f"{package}.{command}"), command))
        return CliRunner().invoke(app, [*arguments])

    return run


def test_a_command_that_a_page_repeats_leaves_secrets_of_addresses_out() -> None:
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    common = importlib.import_module(f"{entry.module.rpartition('.')[0]}._common")
    app = typer.Typer()

    @app.command("look")
    def look(
        ctx: typer.Context, what: str, on: Annotated[list[str], typer.Option()], fast: bool = False
    ) -> None:
        typer.echo(common.command(ctx))

    secret = ("https://me:pass@host/list.csv?sig=key", "s3://bucket/a", "a folder")
    options = [word for one in secret for word in ("--on", one)]
    found = CliRunner().invoke(app, ["run", *options, "--fast"]).stdout
    assert shlex.split(found) == [
        *("vidssl", "look", "run", "--on", "https://...@host/list.csv?..."),
        *("--on", "s3://bucket/a", "--on", "a folder", "--fast"),
    ]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"command": "pretrain", "recipe": {}}')
    log = {"step": 0, "loss": 1.5, "clips_per_s": 8.0, "data_wait": 0.5}
    (folder / "log.jsonl").write_text(json.dumps(log) + "\n")
    return folder


def test_report_says_where_the_page_is_and_whether_data_keeps_up(
    invoke: Invoke, run_folder: Path
) -> None:
    result = invoke("report", str(run_folder))
    assert result.exit_code == 0
    page = run_folder / "report.html"
    assert result.stdout.startswith(f"{page}: 1 steps. Training waits for data: 50 %")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_report_gives_its_numbers_to_machines(invoke: Invoke, run_folder: Path) -> None:
    found = json.loads(invoke("report", str(run_folder), "--json", "-").stdout)
    assert (found["steps"], found["loss"], found["clips_per_s"]) == (1, 1.5, 8.0)
    assert found["path"] == str(run_folder / "report.html")


def test_report_refuses_a_folder_that_is_no_run(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("report", str(tmp_path))
    assert result.exit_code == 2
    assert "not a run: expected the run.json" in result.stderr


def test_sample_draws_a_sheet_and_tells_of_broken_videos(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    grey = [np.full((32, 48, 3), 5 * n, np.uint8) for n in range(30)]
    write_video(tmp_path / "videos" / "good.mp4", grey, 25)
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"x")
    sheet = tmp_path / "sheet.png"
    small = ["--set", "augment.crop_px=32", "--set", "backbone.width=8"]
    options = ["--recipe", "moco_small", "--out", str(sheet), *small]
    result = invoke("sample", str(tmp_path / "videos"), *options)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first == f"{sheet}: 2 views of 1 videos"
    assert second.startswith(f"set aside: {tmp_path / 'videos' / 'bad.mp4'}")
    assert sheet.read_bytes().startswith(b"\x89PNG")
    listed = json.loads(invoke("sample", str(tmp_path / "videos"), *options, "--json", "-").stdout)
    assert [view["view"] for view in listed["views"]] == [0, 1]


def test_sample_wants_annotations_for_a_detection_recipe(invoke: Invoke, tmp_path: Path) -> None:
    for recipe in ("small", "playground_bank"):
        out = tmp_path / "s.png"
        result = invoke("sample", str(tmp_path), "--recipe", recipe, "--out", str(out))
        assert result.exit_code == 2
        assert f"{recipe}: a detection recipe; give --annotations with it" in result.stderr
        assert not out.exists()
    out = tmp_path / "s.png"
    result = invoke("sample", str(tmp_path), "--recipe", "nothing_like_it", "--out", str(out))
    assert result.exit_code == 2
    assert "nothing_like_it" in result.stderr


def checks(*statuses: str) -> list[Check]:
    mends = {"ok": "", "warn": "do this", "fail": "do that"}
    return [Check(f"part {s}", s, f"found {s}", mends[s]) for s in statuses]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statuses", "code"), [(("ok",), 0), (("ok", "warn"), 0), (("warn", "fail", "ok"), 2)]
)
def test_doctor_ends_with_2_only_if_something_fails(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, statuses: tuple[str, ...], code: int
) -> None:
    monkeypatch.setattr(doctor, "run", lambda progress: checks(*statuses))
    result = invoke("doctor")
    assert result.exit_code == code
    lines = [line.split() for line in result.stdout.splitlines()]
    for status in statuses:
        assert [status, "part", status, "found", status] in lines
    assert (["mend:", "do", "that"] in lines) == ("fail" in statuses)


def test_doctor_gives_its_checks_to_machines(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "run", lambda progress: checks("ok", "fail"))
    result = invoke("doctor", "--json", "-")
    assert result.exit_code == 2
    assert json.loads(result.stdout)[1] == {
        "name": "part fail", "status": "fail", "finding": "found fail", "mend": "do that"
    }  # fmt: skip
