"""Projection heads: their layers."""

import pytest
import torch
from torch import nn

from vidssl.nn.heads import HeadNorm, mlp


def test_layers_alternate_and_nothing_follows_the_last() -> None:
    assert [type(layer) for layer in mlp(4, 3, 2)] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in mlp(4, 2)] == [nn.Linear]
    # (4 + 1) * 3 + (3 + 1) * 2 weights and biases.
    assert sum(p.numel() for p in mlp(4, 3, 2).parameters()) == 23


def test_normalised_layers_have_no_bias_of_their_own() -> None:
    head = mlp(4, 3, 3, 2, norm=True)
    kinds = [nn.Linear, HeadNorm, nn.ReLU] * 2 + [nn.Linear]
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


def test_the_last_layer_may_end_in_a_norm_without_an_affine() -> None:
    head = mlp(4, 3, 2, norm=True, last="fixed norm")
    assert [type(layer) for layer in head] == [nn.Linear, HeadNorm, nn.ReLU, nn.Linear, HeadNorm]
    assert head[3].bias is None
    assert head[4].weight is None
    out = head(torch.randn(16, 4))
    assert torch.allclose(out.mean(dim=0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(out.std(dim=0, correction=0), torch.ones(2), atol=1e-3)


def test_a_head_s_norm_is_batch_norm_of_its_rows() -> None:
    x = torch.randn(6, 3)
    ours, theirs = HeadNorm(3), nn.BatchNorm1d(3)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert ours.running_var is not None
    assert theirs.running_var is not None
    assert ours.running_var is not None
    assert theirs.running_var is not None
    assert torch.allclose(ours.running_var, theirs.running_var, atol=1e-6)


def test_the_last_layer_may_be_nothing_but_a_matrix() -> None:
    head = mlp(4, 3, 2, norm=True, last="none")
    assert [type(layer) for layer in head] == [nn.Linear, HeadNorm, nn.ReLU, nn.Linear]
    assert head[3].bias is None
