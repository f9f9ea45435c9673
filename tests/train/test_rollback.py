"""Numbers that are no numbers: all processes go back together, and tell which clips they left out.

Every loss here is a weight times the batch, so a step moves the weight by half the batch.
"""

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vidssl.errors import CheckpointError, Interrupted, OutputError
from vidssl.progress import silent
from vidssl.train.checkpoint import checkpoints, load_latest
from vidssl.train.folder import RunFolder, read_events, read_log
from vidssl.train.loop import Hooks, fit
from vidssl.train.prove import prove
from vidssl.train.trainer import NotFiniteError

Slopes = Callable[..., tuple[Any, Any]]
NAMED: Hooks[float] = Hooks(identify=lambda raw: [{"batch": str(raw)}])


def trained(folder: Path, pair: tuple[Any, Any], feed: list[float]) -> float:
    """Train on the batches and return the weight."""
    trainer, module = pair
    with RunFolder(folder, {}, "") as run:
        fit(trainer, lambda a, b: feed[a:b], lambda raw, step: raw, run, silent, NAMED)
    return float(module.weight.item())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_steps_since_the_copy_are_undone_and_left_out(
    bad: float, precision: str, slope: Slopes, tmp_path: Path
) -> None:
    # Copies before steps 0, 2 and 4: the bad step 3 takes step 2 with it.
    pair = slope(6, snapshot_every=2, precision=precision)
    weight = trained(tmp_path / "run", pair, [1.0, 2.0, 4.0, bad, 8.0, 16.0])
    assert weight == pytest.approx(1 - 0.5 * (1 + 2 + 8 + 16))
    trainer, module = pair
    assert module.seen.item() == 1 + 2 + 8 + 16  # buffers go back too
    assert trainer.skipped == [(2, 3)]
    assert trainer.step == 6
    assert trainer.samples_seen == 4
    (told,) = [e for e in read_events(tmp_path / "run") if e["event"] == "rolled back"]
    assert (told["first"], told["last"]) == (2, 3)
    assert re.match(r"the loss became (nan|-?inf) at step 3 \(", told["reason"])
    dumped = json.loads((tmp_path / "run" / told["clips"]).read_text())
    assert dumped["steps"] == [
        {"step": 2, "clips": [{"batch": "4.0"}]},
        {"step": 3, "clips": [{"batch": str(bad)}]},
    ]
    assert [row["step"] for row in read_log(tmp_path / "run")] == [0, 1, 2, 4, 5]
    state, _ = load_latest(tmp_path / "run" / "checkpoints")
    assert state is not None
    assert state["skipped"] == [[2, 3]]


def test_a_bad_last_step_still_ends_the_training_with_a_checkpoint(
    slope: Slopes, tmp_path: Path
) -> None:
    weight = trained(tmp_path / "run", slope(3, snapshot_every=1), [1.0, 2.0, math.nan])
    assert weight == -0.5
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == [
        "step-000000003"
    ]


def test_a_weight_that_is_no_number_is_found_before_it_is_copied_or_saved(
    slope: Slopes, tmp_path: Path
) -> None:
    pair = slope(6, snapshot_every=3)
    trainer, module = pair

    def spoil(raw: float, step: int) -> float:
        if step == 4:
            module.seen.fill_(math.nan)  # where no loss shows it
        return raw

    with RunFolder(tmp_path / "run", {}, "") as run:
        fit(trainer, lambda a, b: [1.0] * (b - a), spoil, run, silent)
    assert trainer.skipped == [(3, 5)]
    assert module.seen.item() == 3.0
    (told,) = [e for e in read_events(tmp_path / "run") if e["event"] == "rolled back"]
    assert told["reason"].startswith("seen is not finite after step 5")


def test_it_gives_up_after_so_many_in_short_order(slope: Slopes, tmp_path: Path) -> None:
    pair = slope(8, snapshot_every=1, rollbacks=2)
    with pytest.raises(CheckpointError, match=r"step 4 \(.*optim\.lr.*\), 3 times in short order"):
        trained(tmp_path / "run", pair, [1.0, math.nan, math.nan, 1.0, math.nan, 1.0, 1.0, 1.0])
    assert pair[0].skipped == [(1, 1), (2, 2)]
    assert pair[1].weight.item() == 0.0  # two good steps


def test_a_run_that_is_started_again_counts_on(slope: Slopes, tmp_path: Path) -> None:
    feed = [1.0, math.nan, 1.0, math.nan, 1.0, math.nan, 1.0, 1.0]

    def until(stop: int) -> None:
        pair = slope(8, snapshot_every=1, rollbacks=2, save_every=100)

        def stopping(first: int, last: int) -> Iterator[float]:
            for step in range(first, last):
                if step == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield feed[step]

        with RunFolder(tmp_path / "run", {}, "") as run:
            fit(pair[0], stopping, lambda raw, step: raw, run, silent)

    with pytest.raises(Interrupted):
        until(4)
    with pytest.raises(CheckpointError, match="3 times in short order"):
        until(100)


def test_a_folder_that_has_vanished_is_told_as_such(slope: Slopes, tmp_path: Path) -> None:
    pair = slope(6, snapshot_every=2)
    run = tmp_path / "run"

    def vanishing(first: int, last: int) -> Iterator[float]:
        for step in range(first, last):
            if step == 3:
                run.rename(tmp_path / "elsewhere")
            yield math.nan if step == 3 else 1.0

    with (
        pytest.raises(OutputError, match=r"run/rolled-back: cannot be written: No such file"),
        RunFolder(run, {}, "") as folder,
    ):
        fit(pair[0], vanishing, lambda raw, step: raw, folder, silent)
    assert not run.exists()


def test_faults_far_apart_are_not_counted_together(slope: Slopes, tmp_path: Path) -> None:
    feed = [1.0] * 20
    feed[3] = feed[9] = feed[15] = math.nan
    pair = slope(20, snapshot_every=1, rollbacks=1, save_every=4)
    assert trained(tmp_path / "run", pair, feed) == 1 - 0.5 * 17


def test_without_rollbacks_the_first_fault_ends_it_before_it_does_harm(
    slope: Slopes, tmp_path: Path
) -> None:
    pair = slope(6, rollbacks=0)
    with pytest.raises(CheckpointError, match=r"the loss became nan at step 3 .*optim\.lr"):
        trained(tmp_path / "run", pair, [1.0, 1.0, 1.0, math.nan, 1.0, 1.0])
    assert pair[1].weight.item() == -0.5


def test_a_run_that_goes_on_after_a_fault_equals_one_that_never_stopped(
    slope: Slopes, tmp_path: Path
) -> None:
    feed = [1.0, 2.0, math.nan, 4.0, 8.0, 16.0]
    whole = trained(tmp_path / "whole", slope(6, snapshot_every=2, save_every=2), feed)
    trainer, _ = slope(6, snapshot_every=2, save_every=2)

    def stopping(first: int, last: int) -> Iterator[float]:
        for step in range(first, last):
            if step == 4:
                raise Interrupted("pulled the plug")
            yield feed[step]

    with RunFolder(tmp_path / "parts", {}, "") as run, pytest.raises(Interrupted):
        fit(trainer, stopping, lambda raw, step: raw, run, silent)
    again = slope(6, snapshot_every=2, save_every=2)
    assert trained(tmp_path / "parts", again, feed) == whole == 1 - 0.5 * (1 + 2 + 4 + 8 + 16)
    assert again[0].skipped == [(2, 2)]


def test_a_gradient_that_overflows_in_half_precision_lowers_the_scale_instead(
    slope: Slopes, tmp_path: Path
) -> None:
    trainer, module = slope(4, precision="fp16")
    assert trainer.scaler.get_scale() == 65536
    scalars = trainer.train_step(float(torch.finfo(torch.float32).max) / 1000)
    assert module.weight.item() == 1.0  # its scaled gradient was too large: no step was made
    assert scalars["loss_scale"] == 32768
    assert trainer.step == 1
    trainer.train_step(1.0)
    assert module.weight.item() == 0.5


RANKS = """
import json
import math
import sys
from pathlib import Path

import torch
from torch import nn

from vidssl.nn.distributed import joined, rank
from vidssl.nn.step import StepOutput
from vidssl.progress import silent
from vidssl.train.folder import RunFolder
from vidssl.train.loop import Hooks, fit
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer

torch.set_num_threads(1)
fault = sys.argv[2]


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.register_buffer("spoilt", torch.zeros(()))

    def forward(self, batch):
        if fault == "gradient" and not math.isfinite(batch):
            return StepOutput((self.weight - self.weight.detach()).abs().sqrt().sum())
        if fault == "weight" and not math.isfinite(batch):
            self.spoilt.fill_(math.nan)
            batch = 1.0
        return StepOutput((self.weight * batch).sum())

    def after_step(self, progress):
        pass


with joined():
    config = OptimConfig(
        lr=0.5, batch=2, steps=6, momentum=0, weight_decay=0, schedule="constant"
    )
    trained = Trainer(Slope(), Plan(config, 6, seed=0, snapshot_every=2), torch.device("cpu"))
    feed = [1.0] * 6
    if rank() == 1:
        feed[3] = math.nan
    hooks = Hooks(identify=lambda raw: [{"batch": str(raw)}])
    with RunFolder(Path(sys.argv[1]), {}, "") as folder:
        fit(trained, lambda a, b: feed[a:b], lambda raw, step: raw, folder, silent, hooks)
    weight = trained.module.weight.item()
    print(json.dumps([weight, trained.module.spoilt.item(), trained.skipped]))
"""


@pytest.mark.parametrize("fault", ["loss", "gradient", "weight"])
def test_a_fault_of_one_process_is_answered_alike_by_all(
    fault: str, in_two_processes: Callable[..., list[str]], tmp_path: Path
) -> None:
    said = [json.loads(out) for out in in_two_processes(RANKS, tmp_path / "run", fault)]
    assert said == [[1 - 0.5 * 4, 0.0, [[2, 3]]]] * 2
    events = [e for e in read_events(tmp_path / "run") if e["event"] == "rolled back"]
    assert len(events) == 1
    clips = {
        path.name: json.loads(path.read_text())["steps"][1]["clips"]
        for path in (tmp_path / "run" / "rolled-back").iterdir()
    }
    assert clips == {
        "step-000000003-rank-0.json": [{"batch": "1.0"}],
        "step-000000003-rank-1.json": [{"batch": "nan"}],
    }


def test_the_trainer_alone_names_the_fault_and_leaves_the_weights(slope: Slopes) -> None:
    trainer, module = slope()
    with pytest.raises(NotFiniteError, match="the loss became nan at step 0"):
        trainer.train_step(math.nan)
    assert module.weight.item() == 1.0


def test_a_proof_of_resume_ends_before_what_was_undone(slope: Slopes, tmp_path: Path) -> None:
    feed = [1.0, 2.0, 4.0, 8.0, math.nan, 16.0, 32.0, 64.0]
    run = tmp_path / "run"
    options = {"snapshot_every": 1, "save_every": 2}
    trainer, _ = slope(8, **options)

    def stopping(first: int, last: int) -> Iterator[float]:
        for step in range(first, last):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield feed[step]

    with RunFolder(run, {}, "") as folder, pytest.raises(Interrupted):
        fit(trainer, stopping, lambda raw, step: raw, folder, silent)
    kept = shutil.copytree(run / "checkpoints", tmp_path / "kept")
    assert trained(run, slope(8, **options), feed) == 1 - 0.5 * (1 + 2 + 4 + 8 + 16 + 32 + 64)
    shutil.rmtree(run / "checkpoints")
    kept.rename(run / "checkpoints")  # of steps 2 and 4: what a run that keeps more would have
    proof = prove(
        slope(8, **options)[0],
        lambda a, b: feed[a:b],
        lambda raw, step: raw,
        lambda raw: [{"batch": str(raw)}],
        run,
        6,
    )
    assert (proof.first, proof.last, proof.differences) == (2, 4, [])
    shutil.rmtree(run / "checkpoints" / "step-000000002")
    with pytest.raises(CheckpointError, match="the step after it was undone"):
        prove(slope(8)[0], lambda a, b: feed[a:b], lambda r, s: r, lambda r: [], run, 6)


def test_a_proof_needs_as_many_processes_as_trained(slope: Slopes, tmp_path: Path) -> None:
    trainer, _ = slope(4, save_every=2, card={"processes": 2})
    with RunFolder(tmp_path / "run", {}, "") as folder:
        fit(trainer, lambda a, b: [1.0] * (b - a), lambda raw, step: raw, folder, silent)
    with pytest.raises(
        CheckpointError, match=r"2 processes trained together, here are 1: .*--gpus 2"
    ):
        prove(slope(4)[0], lambda a, b: [1.0], lambda r, s: r, lambda r: [], tmp_path / "run", 2)
