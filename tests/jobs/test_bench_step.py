"""Steps against pytorchvideo's: the arithmetic, both sides' sizes, and the real thing once."""

import json
from collections.abc import Callable

import pytest
import torch
from typer.testing import Result

from vidssl.backbones import slow, slowfast
from vidssl.backbones._peer import peer
from vidssl.jobs import bench_engine
from vidssl.jobs.bench_step import PEERS, compared
from vidssl.jobs.models import SETTINGS
from vidssl.recognition.classifier import Classifier

Cli = Callable[..., Result]


def test_the_limit_is_the_largest_product_by_the_work_of_a_clip() -> None:
    # Medians 2, 4 and 0.5 s for 8 clips; 1000 multiply-adds in 0.5 s, 250 of them a clip.
    times_s = {"ours": [2.0, 1.0, 9.0], "pytorchvideo": [4.0] * 3, "matrix": [0.5, 0.25, 0.75]}
    found = compared("name", times_s, clips=8, work=250, matrix=10)
    assert (found.ours, found.other, found.ratio) == (4.0, 2.0, 2.0)
    assert (found.limit, found.share_of_limit) == (8.0, 0.5)
    assert (found.unit, found.times_s) == ("clips/s", times_s)


@pytest.mark.parametrize("name", PEERS)
def test_both_sides_are_one_network(name: str) -> None:
    config = SETTINGS[name].config
    assert isinstance(config, (slow.Config, slowfast.Config))
    torch.manual_seed(0)
    theirs = peer(config, 64)
    with torch.device("meta"):
        ours = Classifier(config.build(), num_classes=400)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    with torch.no_grad():
        assert theirs(torch.rand(1, 3, config.frames, 64, 64)).shape == (1, 400)


def test_it_measures_both_passes_in_both_precisions(cli: Cli) -> None:
    result = cli(
        *("bench", "step", "--model", "slow_r50_4x16", "--clips", "2", "--crop", "32"),
        *("--rounds", "2", "--json", "-"),
    )
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said["model"], said["clips"], said["crop_px"]) == ("slow_r50_4x16", 2, 32)
    assert said["device"] == "cpu" or torch.cuda.is_available()
    names = [found["name"] for found in said["measurements"]]
    assert names == ["training, fp32", "inference, fp32", "training, bf16", "inference, bf16"]
    for found in said["measurements"]:
        assert {len(taken) for taken in found["times_s"].values()} == {2}
        assert found["ratio"] == pytest.approx(found["ours"] / found["other"])
        assert found["share_of_limit"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "slow_r50"), "pytorchvideo has no 'slow_r50'; did you mean 'slow_r50_8x8'?"),
        (("--crop", "100"), "--crop: 100 is not a multiple of 32"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    refused: Callable[..., str], words: tuple[str, ...], message: str
) -> None:
    assert message in refused("bench", "step", *words)


def test_the_engine_is_measured_against_the_bare_loop() -> None:
    found = bench_engine.run("slow_r50_4x16", clips=2, crop_px=32, rounds=1, steps=2)
    (measured,) = found.measurements
    taken = {name: rounds for name, (rounds,) in measured.times_s.items()}
    assert measured.ratio == pytest.approx(taken["bare loop"] / taken["engine"])
    assert measured.ours == pytest.approx(2 / taken["engine"])
    # A slow R50 with its key encoder, momenta and a queue of 65,536 keys of 128 numbers.
    assert found.checkpoint_bytes > 4 * (3 * 31_000_000 + 65_536 * 128)
    assert found.blocked_s > 0
    assert found.written_s > 0


def test_the_engine_of_what_is_no_model_is_refused(cli: Cli) -> None:
    result = cli("bench", "step", "--engine", "--model", "slow_r50_4x17")
    assert result.exit_code == 2
    assert "has no 'slow_r50_4x17'; did you mean 'slow_r50_4x16'?" in result.stderr
