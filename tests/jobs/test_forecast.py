"""What a training is said to need, and how it is measured."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from vidssl.jobs import _forecast
from vidssl.jobs._forecast import Hours, tensor_bytes
from vidssl.jobs._memory import children_bytes, descendants, granted_bytes, watching_children

Cli = Callable[..., Result]
Usage = namedtuple("Usage", "total used free")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="read from Linux' /proc")


@pytest.fixture
def dry(cli: Cli, tiny: dict[str, Path], playground: Path, tmp_path: Path) -> Callable[..., Any]:
    """Forecast a pretraining on the playground."""

    def run(*more: object) -> dict[str, Any]:
        out = tmp_path / "not" / "there" / "yet"
        command = ("pretrain", tiny["pretrain"], "--videos", playground / "videos", "--out", out)
        result = cli(*command, "--dry-run", *more)
        assert result.exit_code == 0, result.output
        assert not list(tmp_path.iterdir())
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    return run


def test_the_length_has_a_spread(dry: Callable[..., Any]) -> None:
    told = dry("--steps", 2000)
    assert told["step_low_s"] <= told["step_s"] <= told["step_high_s"]
    assert told["hours_low"] <= told["hours"] <= told["hours_high"]
    # Without workers reading comes on top of the steps.
    assert told["hours"] == pytest.approx(2000 * (told["step_s"] + told["load_s"]) / 3600)


def test_a_training_of_one_step_is_forecast_from_it(dry: Callable[..., Any]) -> None:
    told = dry("--steps", 1)
    assert told["steps"] == 1
    assert told["step_s"] == told["first_step_s"] == told["step_low_s"] == told["step_high_s"]


def test_the_disk_is_that_of_a_real_run(
    dry: Callable[..., Any], pretrained: Path, index: Path
) -> None:
    (newest,) = [path for path in pretrained.glob("checkpoints/*/state.pt")][-1:]
    told = dry()
    # What is not a tensor, such as names and torch's archive, is a few per cent of a tiny state.
    assert told["checkpoint_gb"] == pytest.approx(newest.stat().st_size / 2**30, rel=0.15)
    encoder = (pretrained / "encoder.safetensors").stat().st_size
    expected = 3 * told["checkpoint_gb"] * 2**30 + encoder + 2**20  # the last for the report
    assert told["disk_gb"] * 2**30 == pytest.approx(expected, rel=0.02)
    assert told["disk_free_gb"] == pytest.approx(
        shutil.disk_usage(pretrained).free / 2**30, rel=0.2
    )


@LINUX
def test_the_memory_counts_the_workers_and_copies_of_the_state(dry: Callable[..., Any]) -> None:
    alone, beside = dry(), dry("--set", "loader.workers=1")
    assert alone["workers_gb"] == 0
    assert alone["host_gb"] == pytest.approx(
        alone["memory_gb"] + 2 * alone["checkpoint_gb"], rel=1e-3
    )
    assert beside["workers_gb"] > 0.05  # it has imported torch
    assert beside["host_gb"] == pytest.approx(
        beside["memory_gb"] + 2 * beside["checkpoint_gb"] + beside["workers_gb"], rel=1e-3
    )


def test_processes_share_a_batch_and_need_memory_each(
    dry: Callable[..., Any], refused: Callable[..., str], tiny: dict[str, Path], playground: Path
) -> None:
    told = dry("--gpus", 2, "--set", "optim.batch=4")
    assert told["processes"] == 2
    each_gb = told["memory_gb"] + 2 * told["checkpoint_gb"]
    assert told["host_gb"] == pytest.approx(2 * each_gb, rel=1e-3)
    command = ("pretrain", tiny["pretrain"], "--videos", playground / "videos", "--out", "run")
    assert "2 cannot be shared by 4 processes" in refused(*command, "--gpus", 4, "--dry-run")


def test_what_does_not_fit_is_told_beside_the_result(
    cli: Cli,
    tiny: dict[str, Path],
    playground: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A disk cannot be filled for a test; one with 1 MiB left is pretended.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 2**20))
    monkeypatch.setattr(_forecast, "granted_bytes", lambda: 2**20)
    command = ("pretrain", tiny["pretrain"], "--videos", playground / "videos")
    result = cli(*command, "--out", tmp_path / "run", "--dry-run")
    assert result.exit_code == 0
    disk, memory = json.loads(result.stdout)["warnings"]
    assert disk.startswith(f"{tmp_path / 'run'}: the run needs about 0.01 GiB, 0.00 GiB are free")
    assert "GiB of memory, this machine grants 0.0 GiB: fewer loader.workers" in memory
    assert f"warning: {disk}" in result.stderr
    assert f"warning: {memory}" in result.stderr


# --- the arithmetic


def test_reading_goes_on_beside_the_steps_shared_by_the_workers() -> None:
    gpu = Hours(steps=3600, load_s=6.0, workers=4, on_cpu=False)  # a batch every 1.5 s
    assert gpu.at(1.0) == pytest.approx(1.5)
    assert gpu.at(2.0) == pytest.approx(2.0)
    assert gpu.at_most(2.0) == pytest.approx(2.0)
    cpu = Hours(steps=3600, load_s=6.0, workers=4, on_cpu=True)
    assert cpu.at(2.0) == pytest.approx(2.0)
    assert cpu.at_most(2.0) == pytest.approx(3.5)  # no core to spare: 2 + 1.5
    alone = Hours(steps=3600, load_s=6.0, workers=0, on_cpu=False)
    assert alone.at(2.0) == alone.at_most(2.0) == pytest.approx(8.0)


def test_the_size_of_a_state_is_that_of_its_tensors() -> None:
    state = {
        "module": {"weight": torch.zeros(3, 5), "half": torch.zeros(4, dtype=torch.bfloat16)},
        "optimizer": {"state": {0: {"step": torch.zeros(()), "seen": [torch.zeros(2)]}}, "lr": 1},
        "step": 7,
    }
    assert tensor_bytes(state) == 4 * 15 + 2 * 4 + 4 + 4 * 2


# --- memory of others


def test_processes_below_one_are_found_whatever_their_names(tmp_path: Path) -> None:
    for pid, parent, name in ((10, 1, "a"), (11, 10, "b) S 1 ("), (12, 11, "c d"), (13, 1, "e")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 10 10 0 -1\n")
    (tmp_path / "14").mkdir()  # ended while it was looked at
    (tmp_path / "self").mkdir()
    assert descendants(10, tmp_path) == [11, 12]
    assert descendants(13, tmp_path) == []
    assert children_bytes(tmp_path / "no such folder") == 0


TAKE = "import time; held = b'x' * (64 << 20); time.sleep(1)"


@LINUX
def test_the_most_that_others_take_at_once_is_seen() -> None:
    before = children_bytes()
    with watching_children() as peak:
        subprocess.run([sys.executable, "-c", TAKE], check=True, capture_output=True)
    assert 64 << 20 < peak.bytes - before < 256 << 20
    assert children_bytes() < peak.bytes


@LINUX
def test_this_machine_grants_some_memory_and_no_more_than_it_has() -> None:
    granted = granted_bytes()
    assert granted is not None
    (total,) = [
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    ]
    assert 0 < granted <= total
