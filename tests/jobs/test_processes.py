"""The command as processes of its own: stopped and continued, side by side, several at once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import Result

from vidssl.train.folder import read_events, read_log

Cli = Callable[..., Result]
VIDSSL = Path(sys.executable).with_name("vidssl")
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


class Started:
    """A command in a session of its own, as a terminal starts it."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [VIDSSL, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        self.said = self.told = ""

    def until(self, word: str) -> None:
        """Wait for a line of progress."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.told += line
            if word in line:
                return
        raise AssertionError(f"ended before it told of {word!r}: {self.told}")

    def hold(self) -> None:
        """Let it stand still."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def interrupt(self) -> None:
        """Press Ctrl-C: every process of the terminal's group gets the signal."""
        os.killpg(self.process.pid, signal.SIGINT)
        os.killpg(self.process.pid, signal.SIGCONT)

    def end(self) -> int:
        """Return the exit code; nothing that it started may be left."""
        self.said, rest = self.process.communicate(timeout=120)
        self.told += rest
        give_up = time.monotonic() + 10
        while left := self.family():
            assert time.monotonic() < give_up, f"left behind: {left}"
            time.sleep(0.05)
        return self.process.returncode

    def family(self) -> list[str]:
        """Return the processes of this session."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (OSError, ValueError):  # it has ended meanwhile
                continue
        return found


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    """Start commands; those that a failed test leaves are ended."""
    begun: list[Started] = []

    def run(*arguments: object) -> Started:
        begun.append(Started(*arguments))
        return begun[-1]

    yield run
    for command in begun:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.communicate()


Start = Callable[..., Started]


@pytest.fixture
def many(playground: Path, tmp_path: Path) -> Path:
    """Enough videos that their index takes a while."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(6):
        for path in (playground / "videos").iterdir():
            shutil.copy(path, folder / f"{number}-{path.name}")
    return folder


def stopped_by_ctrl_c(command: Started, word: str) -> None:
    """Interrupt at the first sight of ``word``; the message, and only that, must follow."""
    command.until(word)
    command.interrupt()
    assert command.end() == 75, command.told
    assert "the same command goes on from there" in command.told
    assert "Traceback" not in command.told


def test_a_stopped_training_continues_to_the_very_same_encoder(
    start: Start, cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    def command(out: str) -> list[object]:
        return [
            *("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / out),
            *("--steps", 16),
        ]

    first = start(*command("stopped"))
    first.until("training, loss")
    first.hold()
    second = cli(*command("stopped"))
    assert second.exit_code == 2
    assert "stopped: another process is working in this folder" in second.stderr
    first.interrupt()
    assert first.end() == 75, first.told
    assert "stopped at step" in first.told
    assert "Traceback" not in first.told
    assert 0 < len(read_log(tmp_path / "stopped")) < 16
    assert not (tmp_path / "stopped" / "encoder.safetensors").exists()

    results = [cli(*command(out), "--json", "-") for out in ("stopped", "never-stopped")]
    continued, straight = (json.loads(result.stdout) for result in results)
    assert continued["encoder_hash"] == straight["encoder_hash"]
    starts = [e["step"] for e in read_events(tmp_path / "stopped") if e["event"] == "start"]
    assert starts[0] == 0
    assert starts[1] > 0
    losses = [[e["loss"] for e in read_log(tmp_path / out)] for out in ("stopped", "never-stopped")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 16


def test_a_stopped_extraction_continues_to_the_very_same_bytes(
    start: Start,
    cli: Cli,
    tiny: dict[str, Path],
    detector: Path,
    index: Path,
    playground: Path,
    bank: Path,
    tmp_path: Path,
) -> None:
    boxes = [playground / f"{split}_person_detections.csv" for split in ("train", "val")]
    command = (
        *("extract-features", tiny["extract"], "--encoder", detector, "--videos", index),
        *("--boxes", boxes[0], "--boxes", boxes[1], "--out", tmp_path / "bank"),
    )
    # With a worker, which must neither complain nor stay; it does not decide what is in a bank.
    stopped_by_ctrl_c(start(*command, "--set", "loader.workers=1"), "extracting features")
    assert not json.loads((tmp_path / "bank" / "bank.json").read_text())["complete"]
    assert cli(*command).exit_code == 0
    names = sorted(path.name for path in bank.iterdir())
    assert sorted(path.name for path in (tmp_path / "bank").iterdir()) == names
    for name in names:
        assert (tmp_path / "bank" / name).read_bytes() == (bank / name).read_bytes(), name


def test_a_stopped_index_continues_to_the_very_same_rows(
    start: Start, cli: Cli, many: Path, tmp_path: Path
) -> None:
    stopped, straight = tmp_path / "stopped.parquet", tmp_path / "straight.parquet"
    stopped_by_ctrl_c(start("index", many, "--out", stopped), "indexing videos")
    again = cli("index", many, "--out", stopped)
    assert again.exit_code == 0
    assert "24 of 24 videos usable" in again.stdout
    assert cli("index", many, "--out", straight).exit_code == 0
    assert stopped.read_bytes() == straight.read_bytes()


def test_a_training_stopped_while_it_indexes_continues(
    start: Start, cli: Cli, tiny: dict[str, Path], many: Path, tmp_path: Path
) -> None:
    command = ("pretrain", tiny["pretrain"], "--videos", many, "--out", tmp_path / "run")
    stopped_by_ctrl_c(start(*command), "indexing videos")
    result = cli(*command)
    assert result.exit_code == 0, result.output
    assert "3 steps on 24 videos" in result.stdout


# --- several processes


def test_two_processes_pretrain_together_and_log_once(
    start: Start, cli: Cli, tiny: dict[str, Path], playground: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    both = start(
        *("pretrain", tiny["pretrain"], "--videos", playground / "videos", "--out", run),
        *("--gpus", 2, "--set", "optim.batch=4", "--json", tmp_path / "result.json"),
    )
    assert both.end() == 0, both.told
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["encoder_hash"] == json.loads((run / "encoder.json").read_text())["hash"]
    assert [entry["step"] for entry in read_log(run)] == [0, 1, 2]
    assert [event["event"] for event in read_events(run)] == ["source", "start", "finished"]
    assert both.told.count("training, loss") == 2  # the first step and the last, of one process
    assert (run / "report.html").is_file()


def test_two_processes_finetune_together_and_say_so_once(
    start: Start,
    tiny: dict[str, Path],
    training_data: list[object],
    pretrained: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    both = start(
        *("finetune", tiny["detection"], "--encoder", pretrained, *training_data),
        *("--out", run, "--gpus", 2),
    )
    assert both.end() == 0, both.told
    assert both.said.count("detector.safetensors: 2 steps") == 1
    assert [entry["step"] for entry in read_log(run)] == [0, 1]
    assert (run / "detector.safetensors").is_file()


def test_two_processes_are_stopped_together_and_one_can_continue(
    start: Start, cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    command = (
        *("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / "run"),
        *("--steps", 12, "--set", "optim.batch=4"),
    )
    stopped_by_ctrl_c(start(*command, "--gpus", 2), "training, loss")
    again = cli(*command)
    assert again.exit_code == 0, again.output
    assert [entry["step"] for entry in read_log(tmp_path / "run")] == list(range(12))


def test_several_processes_end_with_one_message_and_one_code(tmp_path: Path) -> None:
    # Stand-ins that do not import torch: each rank waits, prints its line, and ends as it is told.
    (tmp_path / "standin.py").write_text("""\
import os, sys, time
wait_s, code = sys.argv[1 + int(os.environ["RANK"])].split(":")
time.sleep(float(wait_s))
print("said by", os.environ["RANK"])
print("told by", os.environ["RANK"], file=sys.stderr)
sys.exit(int(code))
""")
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    package = entry.module.rpartition(".")[0]
    cases = [["0:0", "0:0"], ["0:2", "9:2"], ["9:0", "0:2"], ["0:75", "0:1"]]
    program = f"""
import sys
from {package}._launch import launch
for number, ends in enumerate({cases!r}):
    print("case", number, flush=True)
    print("case", number, file=sys.stderr, flush=True)
    print("code", launch("standin", ends, 2, "auto"), flush=True)
"""
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    told = " ".join(done.stderr.split())
    # All well; refused by the first; by the second, which the first did not know; by both.
    assert said == (
        "case 0 said by 0 code 0 case 1 said by 0 code 2 case 2 code 2 case 3 said by 0 code 75"
    )
    assert told == "case 0 told by 0 case 1 told by 0 case 2 told by 1 case 3 told by 0"
