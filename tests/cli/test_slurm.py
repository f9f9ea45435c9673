"""Jobs of Slurm: the file for sbatch anywhere, and real jobs where there is a Slurm."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import Result

from vidssl.errors import LaunchError
from vidssl.train.folder import read_events, read_log

Cli = Callable[..., Result]
VIDSSL = Path(sys.executable).with_name("vidssl")


@pytest.fixture(scope="module")
def slurm() -> ModuleType:
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    return importlib.import_module(entry.module.rpartition(".")[0] + "._slurm")


def test_the_file_for_sbatch_is_shown_and_nothing_written(
    cli: Cli, tiny: dict[str, Path], tmp_path: Path
) -> None:
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", "videos", "--out", tmp_path / "run"),
        *("--slurm", "--nodes", 2, "--gpus", 4, "--time", "1-02:30:01", "--partition", "long"),
        *("--slurm-option", "account=me", "--slurm-option", "exclusive"),
        *("--slurm-option", "cpus-per-task=40", "--set", "loader.workers=7", "--dry-run"),
    )
    assert result.exit_code == 0, result.output
    folder = tmp_path / "run.slurm"
    lines = result.stdout.splitlines()
    assert lines[0] == "#!/bin/bash"
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {
        *("nodes=2", "ntasks-per-node=1", "gpus-per-node=4", "partition=long"),
        *("time=1591", "signal=USR1@120", "requeue", "open-mode=append"),  # 24 + 2.5 hours, and 1 s
        *("account=me", "exclusive", "cpus-per-task=40", "job-name=vidssl-run"),
    }
    assert len([line for line in asked if line.startswith("cpus-per-task")]) == 1
    command = next(line for line in lines if line.startswith("srun"))
    assert "--kill-on-bad-exit=1" in command
    assert command.endswith(f"{sys.executable} -u -m submitit.core._submit {folder}")
    assert not list(tmp_path.iterdir())


def test_without_gpus_none_are_asked_for_and_cores_are_for_all_processes(
    cli: Cli, tiny: dict[str, Path], tmp_path: Path
) -> None:
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", "videos", "--out", tmp_path / "run"),
        *("--slurm", "--gpus", 2, "--time", 90, "--dry-run", "--json", "-"),
        *("--set", "device=cpu", "--set", "loader.workers=3"),
    )
    text = json.loads(result.stdout)["sbatch"]
    assert "--gpus" not in text
    assert "--cpus-per-task=8\n" in text  # of the job: 2 processes, each with 3 workers
    assert "--cpus-per-task=8 " in text  # and of its step
    assert "--time=90\n" in text


WRONG: list[tuple[tuple[object, ...], str]] = [
    (("--slurm",), "--slurm: give --time, the job's limit"),
    (("--nodes", 2), "--nodes: only with --slurm"),
    (("--time", 9, "--partition", "x"), "--partition and --time: only with --slurm"),
    (("--slurm-option", "a=b"), "--slurm-option: only with --slurm"),
    (("--slurm", "--time", "3h"), "--time '3h': expected minutes, HH:MM:SS or D-HH:MM:SS"),
    (("--slurm", "--time", "00:00:00"), "expected minutes"),
    (("--slurm", "--time", "2"), "expected 5 minutes or more, found 2: the job saves 120 s before"),
    (("--slurm", "--time", 9, "--slurm-option", "=x"), "expected an option of sbatch"),
    (("--slurm", "--time", 9, "--slurm-option", "a=x\n#SBATCH --b"), "an option of sbatch"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_makes_no_sense_is_refused(
    refused: Callable[..., str],
    tiny: dict[str, Path],
    options: tuple[object, ...],
    message: str,
) -> None:
    told = refused("pretrain", tiny["pretrain"], "--videos", "v", "--out", "run", *options)
    assert message in told


def test_without_submitit_it_is_named(
    refused: Callable[..., str], tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    command = ("pretrain", tiny["pretrain"], "--videos", "v", "--out", "run", "--slurm")
    for more in ((), ("--dry-run",)):
        told = refused(*command, "--time", 9, *more)
        assert "needs submitit; pip install 'vidssl[slurm]'" in told


def test_where_there_is_no_slurm_that_is_told(
    refused: Callable[..., str], tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    command = ("pretrain", tiny["pretrain"], "--videos", "v", "--out", "run", "--slurm")
    assert "no srun here" in refused(*command, "--time", 9)


@pytest.mark.parametrize(
    ("given", "minutes"), [("5", 5), ("00:04:01", 5), ("01:00:00", 60), ("2-00:00:00", 2880)]
)
def test_a_limit_is_in_minutes_rounded_up(slurm: ModuleType, given: str, minutes: int) -> None:
    assert slurm.minutes_of(given) == minutes


def test_the_machines_of_a_job_meet_at_the_first(
    slurm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "b7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    machines = slurm._machines("123456", ["b6", "b7"])
    # 123456 % 10000 ports from 20000 on; another attempt is another meeting.
    assert (machines.count, machines.endpoint) == (2, "b6:23456")
    assert (machines.job, machines.this) == ("123456-3", "b7")
    assert slurm._machines("123456", ["b7"]).count == 1
    with pytest.raises(LaunchError):
        slurm.options_of(["Account"])


# --- real jobs


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm that takes jobs."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm here; tools/slurm/one_node.sh starts one")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def ask(*command: str) -> str:
    """Return what a command of Slurm says."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.2)


def submitted(*arguments: object) -> tuple[str, Path]:
    """Submit a command as a person does; return the job's number and its folder."""
    command = [str(VIDSSL), *map(str, arguments), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return told["job"], Path(told["folder"])


@pytest.mark.slurm
@pytest.mark.usefixtures("queue")
def test_a_job_that_is_signalled_goes_back_into_the_queue_and_on_as_if_it_had_not(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    def command(out: Path) -> tuple[object, ...]:
        return (
            *("pretrain", tiny["pretrain"], "--videos", index, "--out", out, "--steps", 20),
            *("--set", "optim.batch=4", "--set", "device=cpu"),
            *("--slurm", "--gpus", 2, "--time", 10),
        )

    straight, signalled = tmp_path / "straight", tmp_path / "signalled"
    shown = cli(*command(straight), "--dry-run").stdout
    job, folder = submitted(*command(straight))
    assert (folder / f"{job}_submission.sh").read_text() == shown
    wait_for(lambda: not ask("squeue", "-h", "-j", job))
    logs = "".join(path.read_text() for path in folder.glob("*.err"))
    assert (straight / "encoder.safetensors").is_file(), logs

    job, folder = submitted(*command(signalled))
    wait_for(lambda: len(read_log(signalled)) >= 3)
    ask("scancel", "--signal=USR1", job)  # as Slurm does before the limit, to every process
    wait_for(lambda: "PENDING" in ask("scontrol", "show", "job", job))
    assert [event["event"] for event in read_events(signalled)][-1] == "interrupted"
    # Slurm would wait two minutes; at once is too early: the first start's credential is revoked.
    ask("scontrol", "update", f"jobid={job}", "StartTime=now+10")
    wait_for(lambda: not ask("squeue", "-h", "-j", job))
    logs = "".join(path.read_text() for path in folder.glob("*.err"))
    assert (signalled / "encoder.safetensors").is_file(), logs
    assert "Traceback" not in logs
    starts = [event["step"] for event in read_events(signalled) if event["event"] == "start"]
    assert starts[0] == 0
    assert 3 <= starts[1] < 20
    logged = [[(e["step"], e["loss"]) for e in read_log(run)] for run in (straight, signalled)]
    assert logged[0] == logged[1]
    assert [step for step, _ in logged[0]] == list(range(20))


@pytest.mark.slurm
@pytest.mark.usefixtures("queue")
def test_what_sbatch_refuses_is_told_in_its_words(
    cli: Cli, tiny: dict[str, Path], tmp_path: Path
) -> None:
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", "v", "--out", tmp_path / "run", "--slurm"),
        *("--time", 9, "--partition", "nowhere", "--set", "device=cpu"),
    )
    assert result.exit_code == 2
    assert "sbatch refuses the job" in result.stderr
    assert "invalid partition" in result.stderr


@pytest.mark.slurm
@pytest.mark.usefixtures("queue")
def test_a_job_with_wrong_input_ends_and_is_not_queued_again(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    job, folder = submitted(
        *("pretrain", tiny["pretrain"], "--videos", tmp_path / "no", "--out", tmp_path / "run"),
        *("--set", "device=cpu", "--slurm", "--gpus", 1, "--time", 9, "--max-restarts", 2),
    )
    wait_for(lambda: not ask("squeue", "-h", "-j", job))
    assert "ExitCode=2:0" in ask("scontrol", "show", "job", job)
    told = (folder / f"{job}_0_log.err").read_text()
    assert told.count("\nerror:") + told.startswith("error:") == 1, told
    assert os.fspath(tmp_path / "no") in told
