"""TensorBoard's files, read back by TensorBoard itself."""

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from vidssl.errors import RecipeError
from vidssl.train.board import Board
from vidssl.train.folder import RunFolder, read_log

Cli = Callable[..., Result]

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(run: Path) -> "Callable[[str], list[tuple[int, float]]]":
    found = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0})
    found.Reload()

    def of(name: str) -> list[tuple[int, float]]:
        if name not in found.Tags()["scalars"]:
            return []
        return [(event.step, event.value) for event in found.Scalars(name)]

    return of


def texts(run: Path, tag: str) -> list[tuple[int, float, str]]:
    """Give step, time and text of each text under ``tag``."""
    found = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0})
    found.Reload()
    return [
        (event.step, event.wall_time, event.tensor_proto.string_val[0].decode())
        for event in found.Tensors(f"{tag}/text_summary")
    ]


def train(run: Path, first: int, last: int, *, offset: float = 0.0) -> None:
    """Log some steps as a training does that goes on at ``first``."""
    with RunFolder(run, {"command": "pretrain"}, "") as folder:
        folder.follow(Board(run))
        folder.event("start", step=first)
        folder.rewind(first)
        folder.keep()
        for step in range(first, last):
            folder.log({"step": step, "loss": step / 8 + offset, "samples_seen": 2 * step})


def test_what_is_logged_is_read_back_by_name_and_step(tmp_path: Path) -> None:
    train(tmp_path / "run", 0, 3)
    of = read(tmp_path / "run")
    assert of("loss") == [(0, 0.0), (1, 0.125), (2, 0.25)]
    assert of("samples_seen") == [(0, 0.0), (1, 2.0), (2, 4.0)]
    assert of("step") == []


def test_a_run_that_goes_on_has_each_step_once_and_in_order(tmp_path: Path) -> None:
    train(tmp_path / "run", 0, 6)
    train(tmp_path / "run", 4, 8, offset=1.0)  # steps 4 and 5 were not saved
    steps = [(step, step / 8 + (step >= 4)) for step in range(8)]
    assert read(tmp_path / "run")("loss") == steps
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2


def test_events_are_texts_at_their_steps(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {"command": "pretrain"}, "") as folder:
        folder.follow(Board(tmp_path / "run"))
        folder.event("source", told="4 of *4* videos")  # before anything is logged
        folder.rewind(0)
        folder.keep()
        folder.log({"step": 7, "loss": 1.0})
        folder.event("video set aside", path="<b>\n# x")
        folder.event("alarm", step=5, words="collapse")
    ((step, _, text),) = texts(tmp_path / "run", "events/source")
    assert step == 0
    assert text == '    {\n     "told": "4 of *4* videos"\n    }'
    ((step, when, text),) = texts(tmp_path / "run", "events/video set aside")
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    assert (step, when) == (7, json.loads(lines[1])["time"])
    assert all(line.startswith("    ") for line in text.splitlines())  # shown as it is
    assert [step for step, _, _ in texts(tmp_path / "run", "events/alarm")] == [5]
    assert len(texts(tmp_path / "run", "events/finished")) == 1


def test_what_is_no_number_is_left_out_and_nan_is_kept(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {"command": "pretrain"}, "") as folder:
        folder.follow(Board(tmp_path / "run"))
        folder.keep()
        folder.log({"step": 0, "loss": math.nan, "words": "many", "none": None})
    of = read(tmp_path / "run")
    ((step, value),) = of("loss")
    assert step == 0
    assert math.isnan(value)
    assert of("words") == of("none") == []


def refuse(run: Path) -> None:
    with RunFolder(run, {}, "") as folder:
        folder.follow(Board(run))
        folder.event("source")
        raise KeyError("wrong input")


def test_a_refused_command_leaves_nothing_for_tensorboard(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        refuse(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_shows_all_of_its_log(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    command = ("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / "run")
    assert cli(*command, "--tensorboard").exit_code == 0
    log, of = read_log(tmp_path / "run"), read(tmp_path / "run")
    assert len(log) == 3
    for name in {key for entry in log for key in entry} - {"step"}:
        expected = [(entry["step"], entry[name]) for entry in log if name in entry]
        assert [step for step, _ in of(name)] == [step for step, _ in expected]
        values = [value for _, value in expected]
        assert [value for _, value in of(name)] == pytest.approx(values)  # kept in float32
    assert len(texts(tmp_path / "run", "events/start")) == 1


def test_without_tensorboard_a_command_is_refused_with_what_to_install(
    refused: Callable[..., str],
    tiny: dict[str, Path],
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec
    absent = {"tensorboard"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *at: None if name in absent else real(name, *at)
    )
    told = refused("pretrain", tiny["pretrain"], "--videos", index, "--out", "r", "--tensorboard")
    assert "pip install 'vidssl[tensorboard]'" in told
    with pytest.raises(RecipeError, match=r"--tensorboard: TensorBoard is not installed"):
        Board(Path("r"))
