"""The attentive probe: what it can find that a mean cannot, and that it is the same each time."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidssl.probe.attentive import AttentiveConfig, AttentiveProbe, fit_attentive
from vidssl.probe.tokens import MAPS_KEPT, StoredTokens

SMALL = AttentiveConfig(width=32, heads=2, epochs=12, batch=16, lr=3e-3)


def test_it_finds_where_something_is_which_the_mean_hides() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 160)
    tokens = rng.normal(size=(160, 4, 8)) * 0.1
    tokens[np.arange(160), labels, 0] += 2.0  # the class is the place; the mean is one for all
    found = fit_attentive(tokens[:120], labels[:120], tokens[120:], classes=4, config=SMALL)
    assert (found.probabilities.argmax(axis=1) == labels[120:]).mean() > 0.95
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(40))
    assert found.loss < 0.3
    assert found.steps == 12 * 8


def test_shuffled_labels_score_chance() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 600)
    tokens = rng.normal(size=(600, 2, 8))
    config = AttentiveConfig(width=16, heads=1, epochs=2)
    found = fit_attentive(tokens[:200], labels[:200], tokens[200:], classes=4, config=config)
    assert abs((found.probabilities.argmax(axis=1) == labels[200:]).mean() - 0.25) < 0.09


def test_the_same_seed_gives_the_same_probe_and_leaves_the_callers_state() -> None:
    rng = np.random.default_rng(2)
    tokens, labels = rng.normal(size=(20, 3, 8)).astype(np.float16), np.arange(20) % 2
    config = AttentiveConfig(width=16, heads=2, epochs=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = fit_attentive(tokens, labels, tokens, classes=2, config=config)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    other = fit_attentive(tokens, labels, tokens, classes=2, config=config)
    assert (one.probabilities == other.probabilities).all()


def stored(folder: Path, tokens: NDArray[np.float16], files: int) -> StoredTokens:
    """Tokens in files of several videos each, the last first, other rows in between."""
    folder.mkdir()
    count, length, width = tokens.shape
    file_N, first_N = np.zeros(count, np.int64), np.zeros(count, np.int64)
    paths = []
    for file, numbers in enumerate(np.array_split(np.arange(count)[::-1], files)):
        rows = [np.full((file + 1, width), np.nan, np.float16)]
        for number in numbers.tolist():
            file_N[number], first_N[number] = file, sum(map(len, rows))
            rows.append(tokens[number])
        paths.append(folder / f"{file}.npy")
        np.save(paths[-1], np.concatenate(rows))
    return StoredTokens(paths, file_N, first_N, tokens=length, features=width)


def test_stored_tokens_give_the_same_probe_to_the_last_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    tokens, labels = rng.normal(size=(90, 3, 8)).astype(np.float16), np.arange(90) % 3
    kept = stored(tmp_path / "tokens", tokens, files=MAPS_KEPT + 3)  # more than are open at once
    order = rng.permutation(90)
    assert (kept[order] == tokens[order]).all()
    assert (kept.of(order[:40])[np.array([7, 0])] == tokens[order[[7, 0]]]).all()
    config = AttentiveConfig(width=16, heads=2, epochs=2, batch=16)
    train, test = np.sort(order[:60]), np.sort(order[60:])
    one = fit_attentive(tokens[train], labels[train], tokens[test], classes=3, config=config)
    other = fit_attentive(kept.of(train), labels[train], kept.of(test), classes=3, config=config)
    assert (one.probabilities == other.probabilities).all()
    assert one.loss == other.loss
    nobody = fit_attentive(kept, labels, kept.of(order[:0]), classes=3, config=config)
    assert nobody.probabilities.shape == (0, 3)


def test_of_stored_tokens_a_batch_is_in_memory_at_a_time(tmp_path: Path) -> None:
    tokens = np.random.default_rng(5).normal(size=(1024, 8, 128)).astype(np.float16)
    kept, whole, labels = stored(tmp_path / "tokens", tokens, 4), tokens.nbytes, np.arange(1024) % 2
    config = AttentiveConfig(width=8, heads=1, epochs=1, batch=32)
    tracemalloc.start()
    try:
        fit_attentive(kept, labels, kept, classes=2, config=config)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A batch is a 32nd of all; it is there in half precision, and in single precision beside it.
    assert most < whole / 4


def test_several_classes_a_video() -> None:
    rng = np.random.default_rng(3)
    labels = rng.random((80, 2)) < 0.5
    tokens = np.repeat(labels[:, None] * 2.0, 2, axis=1) + rng.normal(size=(80, 2, 2)) * 0.1
    found = fit_attentive(tokens, labels, tokens, classes=2, config=SMALL)
    assert ((found.probabilities > 0.5) == labels).mean() > 0.95


def test_its_weights_are_counted_by_hand() -> None:
    probe = AttentiveProbe(tokens=5, features=8, classes=3, config=SMALL)
    width = 32
    enter, place, query = 8 * width + width, 5 * width, width
    norms, attention = 3 * 2 * width, 4 * (width * width + width)
    mlp, classifier = 2 * (width * width + width), 3 * width + 3
    expected = enter + place + query + norms + attention + mlp + classifier
    assert sum(weight.numel() for weight in probe.parameters()) == expected
    assert probe(torch.zeros(2, 5, 8)).shape == (2, 3)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tokens \(N, L, F\)"):
        fit_attentive(np.zeros((2, 3)), np.zeros(2, np.int64), np.zeros((2, 3)), classes=2)
    with pytest.raises(ValueError, match="labels of shape"):
        fit_attentive(np.zeros((2, 3, 4)), np.zeros(3, np.int64), np.zeros((1, 3, 4)), classes=2)
