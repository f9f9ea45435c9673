"""Ranks that die, stand still, or never find one another, in processes as a person starts them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from vidssl.train.folder import read_events, read_log
from vidssl.train.watch import VARIABLE

VIDSSL = str(Path(sys.executable).with_name("vidssl"))
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
(ENTRY,) = entry_points(group="console_scripts", name="vidssl")
PACKAGE = ENTRY.module.rpartition(".")[0]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
STEPS = 40


class Processes:
    """A command, and whatever it starts, found by a word of their environment."""

    def __init__(self, *command: object, **environment: str) -> None:
        self.mark = f"VIDSSL_TEST={os.getpid()}-{time.monotonic_ns()}"
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [*map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **environment, name: value},
        )

    def pids(self, word: str = "") -> list[int]:
        """Return those of its processes that have ``word`` in their environment."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "environ").read_bytes().decode().split("\0")
                alive = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
            except OSError:  # it has ended meanwhile
                continue
            if alive and self.mark in words and (not word or word in words):
                found.append(int(entry.name))
        return sorted(found)

    def rank(self, number: int) -> int:
        """Return the process of a rank; those that it starts have the word too, but are younger."""
        return self.pids(f"RANK={number}")[0]

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Return exit code and stderr; nothing may be left."""
        _, told = self.process.communicate(timeout=seconds)
        until(lambda: not self.pids(), 20)
        return self.process.returncode, told


def until(what: Callable[[], object], seconds: float = 90) -> None:
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def start() -> Iterator[Callable[..., Processes]]:
    """Start commands; whatever a failed test leaves is ended."""
    begun: list[Processes] = []

    def run(*command: object, **environment: str) -> Processes:
        begun.append(Processes(*command, **environment))
        return begun[-1]

    yield run
    for command in begun:
        for pid in command.pids():
            os.kill(pid, signal.SIGKILL)
        command.process.communicate()


Start = Callable[..., Processes]


@pytest.fixture
def command(tiny: dict[str, Path], index: Path) -> Callable[[Path], list[object]]:
    """A pretraining that saves every other step, with a worker."""

    def words(out: Path) -> list[object]:
        return [
            *("pretrain", tiny["pretrain"], "--videos", index, "--out", out, "--steps", STEPS),
            *("--set", "optim.batch=4", "--set", "save_every=2", "--set", "loader.workers=1"),
        ]

    return words


@pytest.fixture(scope="module")
def straight(tiny: dict[str, Path], index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happens to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    done = subprocess.run(
        [
            *(VIDSSL, "pretrain", tiny["pretrain"], "--videos", index, "--out", out),
            *("--steps", str(STEPS), "--set", "optim.batch=4", "--set", "save_every=2"),
            *("--gpus", "2"),
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def losses(run: Path) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in read_log(run)]


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["gpus", "torchrun"])
def test_a_killed_rank_costs_a_restart_and_nothing_else(
    start: Start,
    command: Callable[[Path], list[object]],
    straight: Path,
    tmp_path: Path,
    starter: str,
) -> None:
    run = tmp_path / "run"
    if starter == "gpus":
        both = start(VIDSSL, *command(run), "--gpus", 2, "--max-restarts", 1)
    else:
        torchrun = (TORCHRUN, "--nproc-per-node", 2, "--max-restarts", 1, "--master-port", free())
        both = start(*torchrun, "-m", PACKAGE, *command(run))
    until(
        lambda: len(read_log(run)) >= 4
    )  # and so the checkpoint of step 2 is there, or on its way
    os.kill(both.rank(1), signal.SIGKILL)
    code, told = both.end()
    assert code == 0, told
    starts = [event["step"] for event in read_events(run) if event["event"] == "start"]
    assert len(starts) == 2
    assert 2 <= starts[1] < STEPS
    (lost,) = [event["words"] for event in read_events(run) if event["event"] == "rank lost"]
    assert lost.startswith("rank 0 got no further than step ")  # told by the launcher, at once
    assert losses(run) == losses(straight)
    assert [step for step, _ in losses(straight)] == list(range(STEPS))
    if starter == "gpus":
        assert "rank 1 was ended by SIGKILL" in told
        assert "all start again from the last checkpoint (1 of 1)" in told


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--gpus", 2), ("--gpus", 1, "--max-restarts", 1)])
def test_processes_whose_launcher_is_killed_save_and_end(
    start: Start,
    command: Callable[[Path], list[object]],
    tmp_path: Path,
    how: tuple[object, ...],
) -> None:
    run = tmp_path / "run"
    both = start(VIDSSL, *command(run), *how)
    until(lambda: read_log(run))
    both.process.kill()
    until(lambda: not both.pids(), 30)
    assert [event["event"] for event in read_events(run)][-1] == "interrupted"
    assert 0 < len(read_log(run)) < STEPS


@pytest.mark.slow
def test_two_processes_prove_their_resume_and_one_does_not(
    command: Callable[[Path], list[object]], straight: Path
) -> None:
    def said(*more: object) -> "subprocess.CompletedProcess[str]":
        words = [*command(straight), "--resume-prove", 3, *more]
        return subprocess.run(
            [VIDSSL, *map(str, words)], env=ENVIRONMENT, capture_output=True, text=True
        )

    before = {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    proof = said("--gpus", 2)
    assert proof.returncode == 0, proof.stderr
    assert ": all equal" in proof.stdout
    alone = said()
    assert alone.returncode == 2
    assert "2 processes trained together, here are 1" in alone.stderr
    assert {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()} == before


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_address_that_leads_nowhere_is_told_in_seconds(
    start: Start, command: Callable[[Path], list[object]], tmp_path: Path
) -> None:
    begun = time.monotonic()
    nowhere = {"WORLD_SIZE": "2", "MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": "29500"}
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = {**nowhere, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(other.getsockname()[1])}
        ranks = [
            start(VIDSSL, *command(tmp_path / "run"), RANK="1", **nowhere),
            start(VIDSSL, *command(tmp_path / "run"), RANK="0", **taken),
        ]
        said = [rank.end() for rank in ranks]
    assert time.monotonic() - begun < 120  # with what the commands take to start
    assert [code for code, _ in said] == [2, 2], said
    unknown, busy = (" ".join(told.split()) for _, told in said)
    assert unknown.startswith("error: rank 1 of 2 cannot meet the others at no-such-host.invalid:")
    assert "is not known here" in unknown
    assert busy.startswith("error: rank 0 of 2 cannot meet the others at 127.0.0.1:")
    assert "is taken by another program" in busy
    assert not (tmp_path / "run").exists()


# --- a rank that only stands still

STILL = """\
import os, sys, time
import torch, torch.distributed as dist
from vidssl.nn.distributed import joined, rank
from vidssl.train.watch import watching

def report(words):
    with open(sys.argv[1], "a") as file:
        file.write(words + "\\n")

with joined(), watching(report) as watch:
    for step in range(1, 10_000):
        if rank() == 1 and step == 3:
            open(sys.argv[1], "a").close()
            time.sleep(600 if sys.argv[2] == "asleep" else 0)
        dist.all_reduce(torch.ones(3))
        time.sleep(0.05)
        watch.beat(step)
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["asleep", "stopped"])
@pytest.mark.parametrize("starter", ["gpus", "torchrun"])
def test_a_rank_that_stands_still_is_named_and_all_end(
    start: Start, tmp_path: Path, fault: str, starter: str
) -> None:
    (tmp_path / "still.py").write_text(STILL)
    report = tmp_path / "report"
    if starter == "gpus":
        program = (
            f"import sys; from {PACKAGE}._launch import launch; "
            f"sys.exit(launch('still', sys.argv[1:], 2, 'cpu'))"
        )
        words: list[object] = [sys.executable, "-c", program]
    else:
        words = [TORCHRUN, "--nproc-per-node", 2, "--master-port", free(), "-m", "still"]
    both = start(*words, report, fault, **{VARIABLE: "3", "PYTHONPATH": str(tmp_path)})
    until(report.exists)
    begun = time.monotonic()
    if fault == "stopped":
        os.kill(held := both.rank(1), signal.SIGSTOP)
    until(report.read_text, 20)
    assert time.monotonic() - begun < 15
    if fault == "stopped":
        os.kill(held, signal.SIGKILL)  # the launcher does it as well, after half a minute
    code, told = both.end(60)
    assert code == 1
    named = " ".join(told.split())
    assert "error: rank 0 stands still at step" in named
    assert ": rank 1 (host " in named
