"""The instance reconstructor against its sizes, a slow formula, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf, softmax
from torch import Tensor

from vidssl.nn.reconstructor import Reconstructor, Unit, context


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def small() -> Reconstructor:
    torch.manual_seed(0)
    return Reconstructor(32, layers=2, units=3).double()


def clip(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_it_has_the_released_number_of_parameters() -> None:
    whole = Reconstructor(2048)
    assert count(whole) == 6_928_356
    assert count(whole.layers) == 6_139_776
    assert count(whole.time) + count(whole.space) == 100
    assert count(whole.last) == 788_480


def test_a_narrow_map_has_units_a_sixteenth_as_wide_and_never_narrower_than_8() -> None:
    # Of 256 channels, W = 16: q 256 W + W, k and v 272 W + W each, LayerNorm 2 W, two W x W + W.
    first = 256 * 16 + 16 + 2 * (272 * 16 + 16) + 2 * 16 + 2 * (16 * 16 + 16)
    later = 48 * 16 + 16 + 2 * (272 * 16 + 16) + 2 * 16 + 2 * (16 * 16 + 16)
    expected = 3 * (first + 2 * later) + 100 + 48 * 256 + 256
    assert count(Reconstructor(256)) == expected
    for channels in (7, 64):
        unit = Reconstructor(channels).layers[0]
        assert isinstance(unit, torch.nn.ModuleList)
        assert isinstance(unit[0], Unit)
        assert unit[0].query.out_features == 8


@pytest.mark.parametrize(
    ("frames", "steps"),
    [
        (8, [2, 3, 4, 5, 6]),  # 16 frames, as released
        (16, [2, 5, 8, 11, 14]),  # 16 // 5 = 3 apart
        (5, [0, 1, 2, 3, 4]),
        (4, [0, 1, 2, 3]),  # of 0 to 4
        (3, [0, 1, 2]),  # of -1 to 3
        (2, [0, 1]),  # of -1 to 3
        (1, [0]),
    ],
)
def test_the_context_is_five_steps_around_the_key_step(frames: int, steps: list[int]) -> None:
    assert context(frames) == steps


def test_the_memory_of_the_released_size_is_245_cells_with_their_positions() -> None:
    whole = Reconstructor(32)
    map_ = torch.randn(2, 32, 8, 7, 7)
    memory = whole.memory(map_)
    assert memory.shape == (2, 5 * 7 * 7, 32 + 16)
    # Cell 3 * 49 + 1 * 7 + 6 is step 5, row 1, column 6: one step after the key, 2 rows above the
    # middle and 3 columns to its right.
    cell = memory[1, 3 * 49 + 1 * 7 + 6]
    assert torch.equal(cell[:32], map_[1, :, 5, 1, 6])
    assert torch.allclose(cell[32:40], whole.time(torch.tensor([1.0])), atol=1e-6)
    assert torch.allclose(cell[40:], whole.space(torch.tensor([-2.0, 3.0])), atol=1e-6)


def test_positions_are_from_the_middle_of_a_map_with_an_even_side_too() -> None:
    whole = Reconstructor(32)
    memory = whole.memory(torch.randn(1, 32, 8, 4, 6))
    # Cell 2 * 24 + 1 * 6 + 5 is the key step, row 1 of 4 and column 5 of 6.
    cell = memory[0, 2 * 24 + 1 * 6 + 5]
    assert torch.allclose(cell[32:40], whole.time(torch.tensor([0.0])), atol=1e-6)
    assert torch.allclose(cell[40:], whole.space(torch.tensor([-0.5, 2.5])), atol=1e-6)
    assert torch.allclose(memory[0, 2 * 24, 40:], whole.space(torch.tensor([-1.5, -2.5])))


def test_a_unit_equals_the_formula_written_out() -> None:
    torch.manual_seed(0)
    unit = Unit(5, 6, 4).double()
    torch.nn.init.normal_(unit.norm.weight)
    torch.nn.init.normal_(unit.norm.bias)
    x, memory = clip(1, 3, 5), clip(1, 7, 6)
    weights = {name: weight.detach().numpy() for name, weight in unit.named_parameters()}

    def linear(name: str, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    q = linear("query", x[0].numpy())
    k, v = linear("key", memory[0].numpy()), linear("value", memory[0].numpy())
    h = softmax(q @ k.T / math.sqrt(4), axis=1) @ v + q
    h = (h - h.mean(1, keepdims=True)) / h.std(1, keepdims=True)
    h = linear("inner", h * weights["norm.weight"] + weights["norm.bias"])
    expected = linear("outer", h * (1 + erf(h / math.sqrt(2))) / 2)
    assert np.allclose(unit(x, memory)[0].detach().numpy(), expected, atol=1e-10)


def test_what_is_reconstructed_follows_the_order_of_the_regions() -> None:
    whole, regions, map_ = small(), clip(2, 5, 32), clip(2, 32, 8, 3, 3)
    order = torch.tensor([3, 0, 4, 1, 2])
    straight, moved = whole(regions, map_), whole(regions[:, order], map_)
    assert straight.shape == regions.shape
    assert torch.allclose(moved, straight[:, order], atol=1e-12)
    assert not torch.allclose(moved, straight, atol=1e-3)


def test_the_order_of_cells_does_not_matter_but_their_positions_do() -> None:
    whole, regions, map_ = small(), clip(1, 5, 32), clip(1, 32, 8, 3, 3)
    memory = whole.memory(map_)
    order = torch.randperm(memory.shape[1])
    unit = whole.layers[0]
    assert isinstance(unit, torch.nn.ModuleList)
    together = unit[0](regions, memory[:, order])
    assert torch.allclose(together, unit[0](regions, memory), atol=1e-12)
    mirrored = whole(regions, map_.flip(4))  # the same cells elsewhere
    assert not torch.allclose(mirrored, whole(regions, map_), atol=1e-6)


def test_steps_outside_the_context_do_not_matter() -> None:
    whole, regions, map_ = small(), clip(1, 5, 32), clip(1, 32, 8, 3, 3)
    before = whole(regions, map_)
    changed = map_.clone()
    changed[:, :, [0, 1, 7]] = 9.0
    assert torch.equal(whole(regions, changed), before)
    changed[:, :, 2] = 9.0
    assert not torch.allclose(whole(regions, changed), before, atol=1e-4)


def test_every_weight_gets_a_gradient() -> None:
    whole = small()
    loss = whole(clip(2, 5, 32), clip(2, 32, 8, 3, 3)).square().sum()
    loss.backward()
    for name, weight in whole.named_parameters():
        assert weight.grad is not None, name
        # A key's bias shifts all logits of a query alike.
        assert weight.grad.abs().max() > 1e-9 or name.endswith("key.bias"), name
