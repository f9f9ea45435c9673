"""A training through kills, full disks, vanished folders and signals: nothing is lost unawares.

Damaged checkpoints, locks and changed recipes are in ``tests/train`` and ``tests/jobs``, processes
that fail one another in ``test_ranks``.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import Result

from vidssl.errors import CheckpointError, Interrupted, OutputError, RecipeError
from vidssl.nn.step import StepOutput
from vidssl.progress import silent
from vidssl.train.checkpoint import checkpoints, load_latest, save, verify
from vidssl.train.folder import RunFolder, read_events, read_log
from vidssl.train.loop import fit
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer

Cli = Callable[..., Result]
VIDSSL = Path(sys.executable).with_name("vidssl")
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


# --- checkpoints

KILLS = """
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from vidssl.train.checkpoint import load_latest, save

torch.set_num_threads(1)
folder = Path(sys.argv[1])
state = {"module": {"w": torch.zeros(500_000)}}
random.seed(0)
begun = os.memfd_create("begun")
found = []
first = 3
started = time.monotonic()
for step in (1, 2):
    save(folder, step, {"step": step, "module": {"w": torch.full((500_000,), float(step))}})
one_s = (time.monotonic() - started) / 2
for kill in range(20):
    child = os.fork()
    if child == 0:
        step = first
        while True:
            os.pwrite(begun, step.to_bytes(8, "little"), 0)
            state["module"]["w"].fill_(step)
            save(folder, step, {"step": step, **state})
            os.pwrite(begun, step.to_bytes(8, "little"), 8)
            step += 1
    while int.from_bytes(os.pread(begun, 8, 0), "little") < first:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 4 * one_s))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    began, saved = (int.from_bytes(os.pread(begun, 8, at), "little") for at in (0, 8))
    loaded, passed_over = load_latest(folder)
    step = loaded["step"] if loaded else 0
    whole = loaded is None or bool((loaded["module"]["w"] == step).all())
    found.append([began, saved, step, whole, passed_over])
    first = began + 1
print(json.dumps(found))
"""


def test_a_kill_at_any_moment_of_saving_loses_at_most_the_checkpoint_in_hand(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLS, tmp_path / "checkpoints"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert len(kills) == 20
    for began, saved, newest, whole, passed_over in kills:
        assert saved <= newest <= began
        assert whole
        assert passed_over == []
    assert kills[-1][0] > 30  # many were begun
    assert any(saved < began for began, saved, *_ in kills)  # and some were cut short


def test_the_step_decides_which_is_newest_and_no_clock_or_name(tmp_path: Path) -> None:
    for step in (9, 10, 1_000_000_000):
        save(tmp_path, step, {"step": step})
        future = time.time() + (1e6 if step == 9 else -1e6 * step / 10)
        os.utime(tmp_path / f"step-{step:09d}", (max(future, 0), max(future, 0)))
    assert [int(path.name[5:]) for path in checkpoints(tmp_path)] == [10, 1_000_000_000]
    state, _ = load_latest(tmp_path)
    assert state == {"step": 1_000_000_000}


def test_the_only_good_checkpoint_is_never_deleted(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path, step, {"step": step})
    (tmp_path / "step-000000020" / "state.pt").write_bytes(b"spoilt")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        for step in (30, 40):
            with pytest.raises(OutputError, match="File too large"):
                save(tmp_path, step, {"step": step, "module": {"w": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    state, _ = load_latest(tmp_path)
    assert state == {"step": 10}


def test_a_planted_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "latest").symlink_to(precious)
    save(folder, 1, {"step": 1})
    assert precious.read_text() == "mine"
    assert (folder / "latest").read_text() == "step-000000001\n"
    assert not (folder / "latest").is_symlink()


# --- the loop


class Net(nn.Module):
    """A little of everything that a state holds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, batch: Tensor) -> StepOutput:
        return StepOutput(self.net(batch).square().mean())

    def after_step(self, progress: float) -> None:
        pass


def training(steps: int = 10, **plan: Any) -> Trainer:
    config = OptimConfig(lr=0.1, batch=8, steps=steps)
    return Trainer(Net(), Plan(config, steps, 0, **plan), torch.device("cpu"))


def feed(first: int, last: int) -> Iterator[Tensor]:
    for step in range(first, last):
        yield torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def unchanged(raw: Tensor, step: int) -> Tensor:
    return raw


def vanish(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))


def replace(run: Path) -> None:
    vanish(run)
    run.write_text("a file in its place")


@pytest.mark.parametrize("harm", [vanish, replace])
def test_a_folder_that_vanishes_or_is_replaced_ends_the_run_with_its_name(
    harm: Callable[[Path], None], tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def harmed(first: int, last: int) -> Iterator[Tensor]:
        for step, batch in enumerate(feed(first, last)):
            if step == 5:
                harm(run)
            yield batch

    with (
        pytest.raises(OutputError, match=r"run/.*: cannot be written: "),
        RunFolder(run, {}, "") as folder,
    ):
        fit(training(save_every=2), harmed, unchanged, folder, silent)
    # What was taken away is not made anew, half and without its recipe.
    assert not (run / "checkpoints").is_dir()


def test_a_disk_that_fills_up_ends_the_run_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def filling(first: int, last: int) -> Iterator[Tensor]:
        for step, batch in enumerate(feed(first, last)):
            if step == 5:
                give_up = time.monotonic() + 60
                while checkpoints(run / "checkpoints")[-1].name != "step-000000004":
                    assert time.monotonic() < give_up
                    time.sleep(0.01)
                time.sleep(0.1)  # the pointer to it follows
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
            yield batch

    try:
        with (
            pytest.raises(OutputError, match="cannot be written: File too large"),
            RunFolder(run, {}, "") as folder,
        ):
            fit(training(save_every=2, log_every=100), filling, unchanged, folder, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    state, passed_over = load_latest(run / "checkpoints")
    assert state is not None
    assert (state["step"], passed_over) == (4, [])
    with RunFolder(run, {}, "") as folder:  # with room again, the same call goes on
        fit(training(save_every=2), feed, unchanged, folder, silent)
    starts = [event["step"] for event in read_events(run) if event["event"] == "start"]
    assert starts == [0, 4]


def test_a_batch_systems_warning_is_answered_with_a_checkpoint_and_a_second_one_waits(
    tmp_path: Path,
) -> None:
    def warned(first: int, last: int) -> Iterator[Tensor]:
        for step, batch in enumerate(feed(first, last)):
            if step == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with (
        pytest.raises(Interrupted, match="stopped at step 4 of 10"),
        RunFolder(tmp_path / "run", {}, "") as folder,
    ):
        fit(training(), warned, unchanged, folder, silent)
    (newest,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert newest.name == "step-000000004"
    assert verify(newest) is None


def test_a_lack_of_memory_is_told_with_the_peak_and_the_way_out(tmp_path: Path) -> None:
    def greedy(raw: Tensor, step: int) -> Tensor:
        return torch.empty(2**58)

    with pytest.raises(RecipeError) as caught, RunFolder(tmp_path / "run", {}, "") as folder:
        fit(training(), feed, greedy, folder, silent)
    words = str(caught.value)
    assert words.startswith("out of memory in step 0: this process had ")
    assert "GiB at its peak, with optim.batch 8 in 1 parts a process" in words
    assert "raise optim.accumulate" in words
    assert checkpoints(tmp_path / "run" / "checkpoints") == []


def test_another_fault_of_the_runtime_is_left_as_it_is(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        RunFolder(tmp_path / "run", {}, "") as folder,
    ):
        fit(training(), lambda a, b: [torch.zeros(8, 5)], unchanged, folder, silent)


def test_a_checkpoint_of_the_first_format_is_gone_on_from(tmp_path: Path) -> None:
    """Before checkpoints said their format, they had no more than these keys."""
    with RunFolder(tmp_path / "whole", {}, "") as folder:
        whole = training(save_every=4)
        fit(whole, feed, unchanged, folder, silent)
    trained = training()
    for batch in feed(0, 4):
        trained.train_step(batch)
    old = {key: trained.state()[key] for key in ("step", "steps", "data", "module", "optimizer")}
    (tmp_path / "run").mkdir()
    path = save(tmp_path / "run" / "checkpoints", 4, old)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest.pop("version") == 1
    (path / "manifest.json").write_text(json.dumps(manifest))
    state, passed_over = load_latest(tmp_path / "run" / "checkpoints")
    assert passed_over == []
    assert state is not None
    again = training()
    again.restore(state)
    for batch in feed(4, 10):
        again.train_step(batch)
    for name, weight in whole.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], weight), name


def test_a_checkpoint_of_a_later_format_or_another_network_is_refused(tmp_path: Path) -> None:
    state = training().state()
    with pytest.raises(CheckpointError, match="format 2, this vidssl writes 1"):
        training().restore({**state, "version": 2})
    del state["module"]["net.0.bias"]
    with pytest.raises(CheckpointError, match=r"the checkpoint: does not fit .*\n  missing: net"):
        training().restore(state)


# --- whole commands


def test_a_hundred_steps_are_sixty_a_kill_and_forty(
    tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    """Weights, momenta, queue, schedule and order: equal to the last bit, on other workers too."""

    def command(out: Path, workers: int) -> list[str]:
        words = [
            *("pretrain", tiny["pretrain"], "--videos", index, "--out", out, "--steps", 100),
            *("--set", "optim.batch=2"),
            *("--set", "save_every=20", "--set", "log_every=1", "--set", "monitor.videos=0"),
            *("--set", f"loader.workers={workers}"),
        ]
        return [str(VIDSSL), *map(str, words)]

    def run(words: list[str]) -> None:
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run(command(tmp_path / "whole", 2))
    with subprocess.Popen(
        command(tmp_path / "parts", 1), env=ENVIRONMENT, stderr=subprocess.DEVNULL
    ) as process:
        give_up = time.monotonic() + 120
        while len(read_log(tmp_path / "parts")) < 63 and time.monotonic() < give_up:
            time.sleep(0.005)
        process.kill()
    assert 60 <= len(read_log(tmp_path / "parts")) < 100
    run(command(tmp_path / "parts", 0))
    starts = [e["step"] for e in read_events(tmp_path / "parts") if e["event"] == "start"]
    assert starts in ([0, 60], [0, 80])
    timing = {"clips_per_s", "data_wait", "memory_gb"}
    logs = [
        [{k: v for k, v in row.items() if k not in timing} for row in read_log(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert [row["step"] for row in logs[0]] == list(range(100))
    assert logs[0] == logs[1]
    states = [load_latest(tmp_path / name / "checkpoints")[0] for name in ("whole", "parts")]
    tensors = [dict(named(state)) for state in states]
    assert tensors[0].keys() == tensors[1].keys()
    assert any("queue" in name for name in tensors[0])
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name


def named(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    for key, part in value.items() if isinstance(value, dict) else ():
        yield from named(part, f"{name}.{key}")


def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_written(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    result = cli(
        *("pretrain", tiny["pretrain"], "--videos", index, "--out", tmp_path / "run"),
        *("--set", "optim.batch=4", "--set", "optim.accumulate=3"),
    )
    assert result.exit_code == 2
    assert "batch 4 has no 3 equal parts" in result.stderr
    assert not (tmp_path / "run").exists()


FULL = """
import resource
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from vidssl.errors import OutputError
from vidssl.nn.distributed import joined, rank
from vidssl.nn.step import StepOutput
from vidssl.progress import silent
from vidssl.train.folder import RunFolder
from vidssl.train.loop import fit
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer

torch.set_num_threads(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)

    def forward(self, batch):
        return StepOutput(self.net(batch).square().mean())

    def after_step(self, progress):
        pass


def feed(first, last):
    for step in range(first, last):
        if step == 5 and rank() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, -1))
        yield torch.randn(4, 4)


with joined():
    config = OptimConfig(lr=0.1, batch=8, steps=50)
    plan = Plan(config, 50, 0, log_every=1000, save_every=2)
    trained = Trainer(Net(), plan, torch.device("cpu"))
    with RunFolder(Path(sys.argv[1]), {}, "") as folder:
        try:
            fit(trained, feed, lambda raw, step: raw, folder, silent)
        except OutputError as error:
            print(trained.step, error)
"""


def test_a_full_disk_of_the_first_process_ends_all_in_the_same_step(
    in_two_processes: Callable[..., list[str]], tmp_path: Path
) -> None:
    first, second = in_two_processes(FULL, tmp_path / "run")
    assert "step-000000006: cannot be written: File too large" in first
    assert f"{tmp_path / 'run'}: the first process cannot write its checkpoint" in second
    assert first.split()[0] == second.split()[0]
    state, passed_over = load_latest(tmp_path / "run" / "checkpoints")
    assert state is not None
    assert (state["step"], passed_over) == (4, [])


def test_a_log_that_cannot_be_written_ends_the_run_with_its_name(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def blocked(first: int, last: int) -> Iterator[Tensor]:
        for step, batch in enumerate(feed(first, last)):
            if step == 3:
                (run / "log.jsonl").unlink()
                (run / "log.jsonl").mkdir()
            yield batch

    told = pytest.raises(OutputError, match=r"log\.jsonl: cannot be written: Is a directory")
    with told, RunFolder(run, {}, "") as folder:
        fit(training(log_every=1), blocked, unchanged, folder, silent)
