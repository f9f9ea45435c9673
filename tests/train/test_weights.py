"""Weights on disk: what is written comes back, and nothing else does."""

import json
import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from vidssl.errors import CheckpointError, OutputError
from vidssl.files import sha256
from vidssl.train.weights import load_into, load_weights, save_weights


def net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, width, 1), nn.BatchNorm3d(width))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(tmp_path / "run", "encoder", net(), {"features": 4})
    return tmp_path / "run"


def test_every_tensor_comes_back_with_its_card(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # As in training on a GPU: channels innermost, running statistics that have moved.
    written = net().to(memory_format=torch.channels_last_3d)
    written(torch.randn(2, 3, 2, 4, 4))
    digest = save_weights(tmp_path, "encoder", written, {"features": 4, "note": "é"})
    for path in (tmp_path, tmp_path / "encoder.safetensors"):
        card, tensors = load_weights(path, "encoder")
        assert card == {"format_version": 1, "hash": digest, "features": 4, "note": "é"}
        assert digest == sha256(tmp_path / "encoder.safetensors")[:16]
        read = net()
        load_into(read, tensors, "here")
        for name, tensor in written.state_dict().items():
            assert torch.equal(tensor, read.state_dict()[name]), name
            assert tensor.dtype == read.state_dict()[name].dtype


def test_the_same_weights_have_the_same_hash(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = net()
    hashes = [save_weights(tmp_path / name, "encoder", module, {}) for name in ("a", "b")]
    assert hashes[0] == hashes[1]
    with torch.no_grad():
        next(module.parameters()).add_(1e-3)
    assert save_weights(tmp_path / "c", "encoder", module, {}) != hashes[0]


def test_weights_that_were_exchanged_are_found_out(run: Path, tmp_path: Path) -> None:
    save_weights(tmp_path / "other", "encoder", net(), {})
    (run / "encoder.safetensors").write_bytes((tmp_path / "other/encoder.safetensors").read_bytes())
    with pytest.raises(
        CheckpointError, match=r"content \w{16} is not what encoder\.json describes"
    ):
        load_weights(run, "encoder")


@pytest.mark.parametrize("size", [0, 4, 40])
def test_a_malformed_file_is_no_safetensors_file(size: int, run: Path) -> None:
    weights = run / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    card = json.loads((run / "encoder.json").read_text())
    (run / "encoder.json").write_text(json.dumps({**card, "hash": sha256(weights)[:16]}))
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors: not a safetensors file"):
        load_weights(run, "encoder")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "expected the card of the weights beside it"),
        ("{", "expected the card of the weights beside it"),
        ("[]", "expected format_version 1"),
        ('{"format_version": 2}', "expected format_version 1"),
        ('{"format_version": 1}', r"is not what encoder\.json describes \(None\)"),
    ],
)
def test_weights_need_their_card(card: str | None, message: str, run: Path) -> None:
    (run / "encoder.json").unlink()
    if card is not None:
        (run / "encoder.json").write_text(card)
    with pytest.raises(CheckpointError, match=message):
        load_weights(run, "encoder")


def test_what_is_not_there_is_told_by_what_is(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no detector\.safetensors; .* a finished run"):
        load_weights(run, "detector")
    with pytest.raises(CheckpointError, match=r"did you mean 'encoder\.safetensors'"):
        load_weights(run / "encodr.safetensors", "encoder")
    with pytest.raises(CheckpointError, match=r"no such file or folder; expected a run"):
        load_weights(run / "deep" / "er", "encoder")


def test_all_that_does_not_fit_is_listed_at_once(run: Path) -> None:
    _, tensors = load_weights(run, "encoder")
    wider = net(5)
    before = [p.clone() for p in wider.parameters()]
    with pytest.raises(CheckpointError) as caught:
        load_into(wider, tensors, "run/encoder")
    message = str(caught.value)
    # Convolution and BatchNorm differ in all but the counter of batches: 6 of 7.
    assert message.startswith("run/encoder: does not fit the recipe (6 of 7 tensors):")
    assert "  0.weight: shape (4, 3, 1, 1, 1) there, (5, 3, 1, 1, 1) in the recipe" in message
    assert all(torch.equal(a, b) for a, b in zip(before, wider.parameters(), strict=True))

    deeper = nn.Sequential(*net().children(), nn.Linear(2, 2))
    del tensors["0.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_into(deeper, {**tensors, "head": torch.zeros(1)}, "there")
    assert str(caught.value).splitlines()[1:] == [
        "  missing: 0.bias",
        "  missing: 2.bias",
        "  missing: 2.weight",
        "  unexpected: head",
    ]


def test_a_full_disk_is_told_of_and_the_old_weights_stay(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(OutputError, match=r"encoder\.safetensors: cannot be written: File too"):
            save_weights(run, "encoder", net(5000), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
