"""The loop: stopped in any way and continued, it equals never having stopped, bit by bit."""

import json
import os
import runpy
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

from vidssl.errors import CheckpointError, Interrupted
from vidssl.nn.step import StepOutput
from vidssl.progress import silent
from vidssl.train.checkpoint import checkpoints, load_latest, save
from vidssl.train.folder import RunFolder, read_events, read_log
from vidssl.train.loop import Hooks, fit
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer, device_of, half_type

# A network with everything that a resume can forget: momenta, running statistics, random numbers,
# a buffer that after_step moves, and a schedule over the whole length.
SCRIPT = """
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from vidssl.errors import Interrupted
from vidssl.nn.step import StepOutput
from vidssl.progress import silent
from vidssl.train.folder import RunFolder
from vidssl.train.loop import Hooks, fit
from vidssl.train.trainer import Plan, Trainer
from vidssl.train.optim import OptimConfig

folder, optimizer, delay_s, save_every = sys.argv[1:5]
torch.set_num_threads(1)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
        )
        self.register_buffer("average", torch.zeros(()))

    def forward(self, batch):
        inputs, targets = batch
        outputs = self.net(inputs + 0.1 * torch.randn_like(inputs))
        return StepOutput(F.mse_loss(outputs, targets), {"spread": outputs.detach().std()})

    def after_step(self, progress):
        self.average.mul_(0.9).add_(0.1 * self.net[0].weight.detach().mean() + progress)


def batches(first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        yield [torch.randn(8, 6, generator=generator), torch.randn(8, 2, generator=generator)]


def prepare(raw, step):
    time.sleep(float(delay_s))
    return raw


options = {"lr": 0.05, "batch": 8, "steps": 60, "warmup": 0.2, "clip_grad_norm": 1.0}
config = OptimConfig(optimizer=optimizer, **options)
plan = Plan(config, 60, seed=5, log_every=4, save_every=int(save_every))
trainer = Trainer(Toy(), plan, torch.device("cpu"))
try:
    with RunFolder(Path(folder), {"command": "toy"}, "toy: true") as run:
        fit(trainer, batches, prepare, run, silent)
except Interrupted as stop:
    print(stop, file=sys.stderr)
    sys.exit(75)
"""
TIMING = {"clips_per_s", "data_wait", "memory_gb"}


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., None]:
    """Run the script to its end within this process."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def run(folder: Path, optimizer: str = "sgd", delay_s: float = 0, save_every: int = 10) -> None:
        before = sys.argv
        sys.argv = [str(script), str(folder), optimizer, str(delay_s), str(save_every)]
        try:
            runpy.run_path(str(script))
        finally:
            sys.argv = before

    return run


def stop_after(rows: int, number: int, folder: Path, *arguments: str) -> int:
    """Start the script in a process of its own and send a signal when so many rows are logged."""
    process = subprocess.Popen(
        [sys.executable, str(folder.parent / "train.py"), str(folder), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = time.monotonic() + 60
    while len(read_log(folder)) < rows and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if process.returncode == 75:
        assert "stopped at step" in err
    return process.returncode


def same_end(one: Path, two: Path) -> None:
    """Compare the last checkpoints to the last bit, and the logs but for their timing."""
    states = [load_latest(folder / "checkpoints")[0] for folder in (one, two)]
    assert states[0] is not None
    assert states[1] is not None
    assert states[0]["step"] == states[1]["step"] == 60
    flat = [dict(_tensors(state)) for state in states]
    assert flat[0].keys() == flat[1].keys()
    assert len(flat[0]) > 10
    for name, tensor in flat[0].items():
        assert torch.equal(tensor, flat[1][name]), name
    logs = [
        [{k: v for k, v in row.items() if k not in TIMING} for row in read_log(folder)]
        for folder in (one, two)
    ]
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [0, *range(3, 60, 4)]
    # Batches of 8; after a restart the count goes on.
    assert [row["samples_seen"] for row in logs[0]] == [8, *range(32, 481, 32)]


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}")


@pytest.mark.parametrize(
    ("number", "optimizer"),
    [(signal.SIGINT, "sgd"), (signal.SIGTERM, "adamw"), (signal.SIGTERM, "lars")],
)
def test_a_training_that_was_asked_to_stop_continues_as_if_it_never_had(
    number: int, optimizer: str, train: Callable[..., None], tmp_path: Path
) -> None:
    train(tmp_path / "whole", optimizer)
    assert stop_after(6, number, tmp_path / "parts", optimizer, "0.02", "1000") == 75
    (checkpoint,) = checkpoints(tmp_path / "parts" / "checkpoints")
    assert 20 <= int(checkpoint.name[5:]) < 60
    train(tmp_path / "parts", optimizer)
    same_end(tmp_path / "whole", tmp_path / "parts")
    starts = [e["step"] for e in read_events(tmp_path / "parts") if e["event"] == "start"]
    assert starts == [0, int(checkpoint.name[5:])]


def test_a_training_that_was_killed_continues_from_its_last_checkpoint(
    train: Callable[..., None], tmp_path: Path
) -> None:
    train(tmp_path / "whole")
    # Checkpoints at 10 and 20; rows 0, 3, 7, ... 23 are logged by step 24.
    code = stop_after(7, signal.SIGKILL, tmp_path / "parts", "sgd", "0.02", "10")
    assert code == -signal.SIGKILL
    steps = [int(path.name[5:]) for path in checkpoints(tmp_path / "parts" / "checkpoints")]
    assert 20 in steps
    assert len(read_log(tmp_path / "parts")) >= 7  # more than the checkpoint knows of
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 27, "lo')  # what a crash in the midst of a line leaves
    train(tmp_path / "parts")
    same_end(tmp_path / "whole", tmp_path / "parts")


def test_a_damaged_last_checkpoint_costs_steps_but_changes_nothing(
    train: Callable[..., None], tmp_path: Path
) -> None:
    train(tmp_path / "whole")
    train(tmp_path / "parts")
    newest = checkpoints(tmp_path / "parts" / "checkpoints")[-1]
    (newest / "state.pt").write_bytes(b"")
    train(tmp_path / "parts")
    same_end(tmp_path / "whole", tmp_path / "parts")
    events = read_events(tmp_path / "parts")
    (reason,) = [e["reason"] for e in events if e["event"] == "checkpoint passed over"]
    assert reason.startswith(f"{newest}: state.pt has 0 bytes")
    assert [e["step"] for e in events if e["event"] == "start"] == [0, 50]


def test_a_finished_training_is_left_as_it_is(train: Callable[..., None], tmp_path: Path) -> None:
    train(tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    train(tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


class Slope(nn.Module):
    """One weight, whose loss is the weight times the batch: its gradient is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.progress: list[float] = []

    def forward(self, batch: float) -> StepOutput:
        return StepOutput((self.weight * batch).sum(), {"weight": self.weight.detach().sum()})

    def after_step(self, progress: float) -> None:
        self.progress.append(progress)


def trainer(steps: int = 4, **options: Any) -> tuple[Trainer, Slope]:
    module = Slope()
    config = OptimConfig(
        **{"lr": 0.5, "batch": 1, "steps": steps, "momentum": 0.0, "weight_decay": 0.0, **options}
    )
    return Trainer(module, Plan(config, steps, seed=0), torch.device("cpu")), module


def test_a_step_moves_by_the_rate_of_its_place_in_the_schedule() -> None:
    # Cosine from 0.5 over 4 steps: at 0 it is 0.5, at 1/4 0.5 (1 + cos 45 degrees) / 2 = 0.42678.
    trained, module = trainer()
    first = trained.train_step(2.0)
    assert first == {"loss": 2.0, "lr": 0.5, "grad_norm": 2.0, "weight": 1.0}
    assert module.weight.item() == pytest.approx(1 - 0.5 * 2)
    second = trained.train_step(3.0)
    assert second["lr"] == pytest.approx(0.42678, abs=1e-5)
    assert module.weight.item() == pytest.approx(-0.42678 * 3, abs=1e-4)
    assert module.progress == [0.25, 0.5]  # what is done, after each step


def test_long_gradients_are_cut_and_told_of_in_full() -> None:
    trained, module = trainer(clip_grad_norm=0.1)
    assert trained.train_step(2.0)["grad_norm"] == pytest.approx(2.0)
    assert module.weight.item() == pytest.approx(1 - 0.5 * 0.1)


def test_every_step_gets_its_batch_and_its_number_and_is_noticed_first(tmp_path: Path) -> None:
    trained, _ = trainer(steps=3)
    seen: list[Any] = []

    def prepare(raw: float, step: int) -> float:
        seen.append(("prepare", raw, step))
        return raw

    told: list[tuple[str, int, int]] = []
    with RunFolder(tmp_path / "run", {}, "") as folder:
        fit(
            trained,
            lambda first, last: [float(n) for n in range(first, last)],
            prepare,
            folder,
            lambda what, done, total: told.append((what, done, total)),
            Hooks(notice=lambda raw: seen.append(("notice", raw))),
        )
    assert seen == [x for n in range(3) for x in (("notice", float(n)), ("prepare", float(n), n))]
    assert [(done, total) for _, done, total in told] == [(1, 3), (2, 3), (3, 3)]
    assert all(what.startswith("training, loss ") for what, _, _ in told)


def test_signals_mean_again_what_they_meant_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trained, _ = trainer(steps=5)

    def feed(first: int, last: int) -> Iterator[float]:
        for n in range(first, last):
            if n == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield 1.0

    with (
        RunFolder(tmp_path / "run", {}, "") as folder,
        pytest.raises(Interrupted, match="stopped at step 3 of 5"),
    ):
        fit(trained, feed, lambda raw, step: raw, folder, silent)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_who_is_asked_to_stop_in_the_last_step_stops_with_all_saved(tmp_path: Path) -> None:
    def feed(first: int, last: int) -> Iterator[int]:
        for step in range(first, last):
            if step == last - 1:
                os.kill(os.getpid(), signal.SIGHUP)
            yield step

    trained, _ = trainer(steps=3)
    with (
        pytest.raises(Interrupted, match="stopped at step 3 of 3"),
        RunFolder(tmp_path / "run", {}, "") as folder,
    ):
        fit(trained, feed, lambda raw, step: 1.0, folder, silent)
    (newest,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert newest.name == "step-000000003"


@pytest.mark.parametrize("launched", [False, True])
def test_a_second_ctrl_c_that_a_launcher_passes_on_as_sigterm_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: bool
) -> None:
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "here")
    else:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)

    def feed(first: int, last: int) -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        yield from range(first, last)

    with (
        pytest.raises(KeyboardInterrupt if launched else Interrupted),
        RunFolder(tmp_path / "run", {}, "") as folder,
    ):
        fit(trainer(steps=3)[0], feed, lambda raw, step: 1.0, folder, silent)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    trained, _ = trainer(steps=5)

    def feed(first: int, last: int) -> Iterator[float]:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        yield 1.0

    with RunFolder(tmp_path / "run", {}, "") as folder, pytest.raises(KeyboardInterrupt):
        fit(trained, feed, lambda raw, step: raw, folder, silent)


class Steep(Slope):
    """A loss that is finite where its gradient is not: the root of a weight that is 0."""

    def forward(self, batch: float) -> StepOutput:
        return StepOutput((self.weight - 1).abs().sqrt().sum() + 0 * self.weight.sum())


def test_a_gradient_that_is_not_finite_stops_before_it_does_harm() -> None:
    config = OptimConfig(lr=0.1, batch=1, steps=5)
    trained = Trainer(Steep(), Plan(config, 5, seed=0), torch.device("cpu"))
    with pytest.raises(CheckpointError, match=r"the gradient norm became (nan|inf) at step 0"):
        trained.train_step(1.0)
    assert [p.item() for p in trained.module.parameters()] == [1.0]


class Draws(Slope):
    """Tells what the step would draw at random."""

    def forward(self, batch: float) -> StepOutput:
        return StepOutput((self.weight * batch).sum(), {"draw": torch.rand(())})


def test_each_step_draws_anew_and_the_same_again_in_another_run() -> None:
    def draws(seed: int) -> list[float]:
        config = OptimConfig(lr=0.1, batch=1, steps=5)
        trained = Trainer(Draws(), Plan(config, 5, seed=seed), torch.device("cpu"))
        return [float(trained.train_step(1.0)["draw"]) for _ in range(5)]

    first = draws(0)
    assert draws(0) == first
    assert len({*first, *draws(1)}) == 10


def test_half_precision_is_for_those_who_ask_or_have_a_gpu_made_for_it() -> None:
    assert half_type("auto", torch.device("cpu")) is None
    assert half_type("fp32", torch.device("cpu")) is None
    assert half_type("bf16", torch.device("cpu")) == torch.bfloat16
    assert half_type("fp16", torch.device("cpu")) == torch.float16
    assert device_of("cpu") == torch.device("cpu")


RANKS = """
import json
import sys
from pathlib import Path

import torch
from torch import nn

from vidssl.nn.distributed import joined, rank
from vidssl.nn.step import StepOutput
from vidssl.progress import silent
from vidssl.train.folder import RunFolder
from vidssl.train.loop import fit
from vidssl.train.trainer import Plan, Trainer
from vidssl.train.optim import OptimConfig

torch.set_num_threads(1)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, batch):
        return StepOutput(self.net(batch).square().mean())

    def after_step(self, progress):
        pass


def training():
    torch.manual_seed(0)
    config = OptimConfig(lr=0.1, batch=8, steps=6)
    return Trainer(Toy(), Plan(config, 6, seed=0, log_every=1, save_every=3), torch.device("cpu"))


def feed(step, share):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))[share]


def weights(trained):
    return torch.cat([p.detach().flatten() for p in trained.module.parameters()]).tolist()


alone = training()
for step in range(6):
    alone.train_step(feed(step, slice(None)))
with joined():
    share = slice(rank(), None, 2)
    trained = training()
    batches = lambda first, last: [feed(step, share) for step in range(first, last)]
    with RunFolder(Path(sys.argv[1]), {"command": "toy"}, "") as folder:
        fit(trained, batches, lambda raw, step: raw, folder, silent)
    print(json.dumps({"weights": weights(trained), "alone": weights(alone)}))
"""


def test_two_processes_train_one_network_on_the_batch_of_both(
    in_two_processes: Callable[..., list[str]], tmp_path: Path
) -> None:
    said = [json.loads(out) for out in in_two_processes(RANKS, tmp_path / "run")]
    assert said[0]["weights"] == said[1]["weights"]
    assert said[0]["weights"] == pytest.approx(said[0]["alone"], abs=1e-6)
    # The first alone writes.
    log = read_log(tmp_path / "run")
    assert [row["step"] for row in log] == list(range(6))
    assert [row["samples_seen"] for row in log] == [8, 16, 24, 32, 40, 48]  # of both processes
    names = [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["step-000000003", "step-000000006"]


APART = """
import sys
from pathlib import Path

from vidssl.errors import CheckpointError
from vidssl.nn.distributed import rank

code = Path(sys.argv[2]).read_text().split("alone = training()")[0]
exec(code)
with joined():
    trained = training()
    with RunFolder(Path(f"{sys.argv[1]}-{rank()}"), {}, "") as folder:
        try:
            fit(trained, lambda a, b: [], lambda raw, step: raw, folder, silent)
        except CheckpointError as error:
            print(error)
"""


def test_processes_that_see_other_checkpoints_do_not_train_together(
    in_two_processes: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "code.py").write_text(RANKS)
    (tmp_path / "run-0").mkdir()
    (tmp_path / "run-1").mkdir()
    save(tmp_path / "run-1" / "checkpoints", 3, {"step": 3})
    said = in_two_processes(APART, tmp_path / "run", tmp_path / "code.py")
    for out in said:
        assert "do not see the same checkpoints (rank 0 step 0, rank 1 step 3)" in out
