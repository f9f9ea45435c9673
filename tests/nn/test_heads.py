"""Projection heads: their layers."""

import pytest
import torch
from torch import nn

from vidssl.nn.heads import mlp


def test_layers_alternate_and_nothing_follows_the_last() -> None:
    assert [type(layer) for layer in mlp(4, 3, 2)] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in mlp(4, 2)] == [nn.Linear]
    # (4 + 1) * 3 + (3 + 1) * 2 weights and biases.
    assert sum(p.numel() for p in mlp(4, 3, 2).parameters()) == 23


def test_normalised_layers_have_no_bias_of_their_own() -> None:
    head = mlp(4, 3, 3, 2, norm=True)
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert [type(layer) for layer in head] == kinds
    assert [layer.bias is not None for layer in head if isinstance(layer, nn.Linear)] == [
        False,
        False,
        True,
    ]
    assert head(torch.randn(5, 4)).shape == (5, 2)


def test_the_moco_head_of_the_papers_has_its_size() -> None:
    # 2048 x 2048 + 2048 + 2048 x 128 + 128
    assert sum(p.numel() for p in mlp(2048, 2048, 128).parameters()) == 4_458_624


@pytest.mark.parametrize("widths", [(), (4,)])
def test_a_head_without_an_output_is_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"an input and an output width, got \("):
        mlp(*widths)
