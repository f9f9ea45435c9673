"""What is said about waiting for data, and the workers and threads that are chosen."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from vidssl.data.loader import Cost, LoaderConfig
from vidssl.jobs._pace import adviser, chosen
from vidssl.train import loop

Cli = Callable[..., Result]


@pytest.mark.parametrize(
    ("share", "cpu_s", "cores", "expected"),
    [
        # 2 workers keep up 1 - 0.75 of the time: 2 / 0.25 = 8 would; one core is the training's.
        (0.75, 9.0, 16, "waiting for data 75% of the time: decode-bound; 6 more workers or a smal"),
        (0.75, 9.0, 4, "waiting for data 75% of the time: decode-bound; 1 more worker or a small"),
        (0.75, 9.0, 3, "waiting for data 75% of the time: decode-bound; a smaller copy with more"),
        (0.20, 1.0, 16, "waiting for data 20% of the time: bound by the storage; 1 more worker or"),
        (1.00, 9.0, 4, "waiting for data 100% of the time: decode-bound; 1 more worker or a small"),
    ],
)
def test_the_advice_fits_what_the_time_is_spent_on(
    share: float, cpu_s: float, cores: int, expected: str
) -> None:
    advise = adviser(LoaderConfig(workers=2), Cost(samples=10, read_s=10.0, cpu_s=cpu_s), cores)
    assert advise(share).startswith(expected)


def test_no_advice_while_the_data_keep_up_and_ever_rarer_else() -> None:
    waiting = loop._Waiting()
    assert waiting.note(100.0, 90.0) is None  # the workers were starting
    # Steps of 10 s, half of them waiting: told after 30 s, then after 60 more, then 120.
    told = [step for step in range(1, 30) if waiting.note(10.0, 5.0) == 0.5]
    assert told == [3, 9, 21]
    busy = loop._Waiting()
    assert [busy.note(10.0, 0.5) for _ in range(30)] == [None] * 30


def test_the_smallest_of_the_best_settings_is_chosen() -> None:
    # A step of 8 samples takes 1 s whatever the threads, so 8 samples/s; a worker reads 4 a second.
    found = chosen(0.25, {1: 1.0, 2: 1.0, 4: 1.0}, batch=8, cores=8, gpu=False)
    assert (found.workers, found.threads) == (2, 1)
    assert found.clips_per_s == pytest.approx(8.0)
    # Reading is slow: 7 workers and one thread give 7 / 2 = 3.5 samples/s of the 8 possible.
    found = chosen(2.0, {1: 1.0, 2: 0.6}, batch=8, cores=8, gpu=False)
    assert (found.workers, found.threads) == (7, 1)
    # Beside a GPU one core is the training's.
    found = chosen(2.0, {1: 0.1}, batch=8, cores=8, gpu=True)
    assert (found.workers, found.threads) == (7, 1)
    assert chosen(2.0, {1: 0.1}, batch=8, cores=1, gpu=False).workers == 1


def test_autotune_says_what_it_took_and_changes_nothing_else(
    cli: Cli, tiny: dict[str, Path], index: Path, pretrained: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "run"
    result = cli("pretrain", tiny["pretrain"], "--videos", index, "--out", out, "--autotune")
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert "autotune: " in result.stderr
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    (tuned,) = [event for event in events if event["event"] == "autotune"]
    assert tuned["workers"] >= 1
    assert f"{tuned['workers']} workers, {tuned['threads']} threads" in result.stderr
    # The same clips, so the same first loss as without it; later ones differ by threads' rounding.
    losses = [
        [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (out, pretrained)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_waiting_is_told_of_in_the_run_and_on_the_terminal(
    cli: Cli,
    tiny: dict[str, Path],
    index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without workers every step waits for its whole batch.
    monkeypatch.setattr(loop, "FIRST_ADVICE_S", 0.0)
    out = tmp_path / "run"
    result = cli("pretrain", tiny["pretrain"], "--videos", index, "--out", out)
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    told = [event for event in events if event["event"] == "waiting for data"]
    assert told
    assert told[0]["advice"] in result.stderr
    assert "of the time" in told[0]["advice"]


def test_autotune_serves_the_detector_too(
    cli: Cli,
    tiny: dict[str, Path],
    training_data: list[object],
    pretrained: Path,
    detector: Path,
    tmp_path: Path,
) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "run"
    result = cli(
        *("finetune", tiny["detection"], "--encoder", pretrained, *training_data),
        *("--out", out, "--autotune"),
    )
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert "autotune: " in result.stderr
    first = [json.loads((run / "log.jsonl").read_text().splitlines()[0]) for run in (out, detector)]
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-4)
