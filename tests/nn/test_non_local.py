"""Non-local blocks against a slow reading of their formulas."""

import pytest
import torch
from torch import Tensor, nn

from vidssl.errors import RecipeError
from vidssl.nn.non_local import NonLocal, NonLocalConfig, Similarity
from vidssl.nn.norms import NormConfig

SIMILARITIES: tuple[Similarity, ...] = (
    "embedded_gaussian",
    "dot_product",
    "gaussian",
    "concatenation",
)


def lively(block: NonLocal) -> NonLocal:
    nn.init.uniform_(block.norm.weight, 0.5, 1.5)  # type: ignore[arg-type]
    return block.eval()


def maps(channels: int = 8, frames: int = 4) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, channels, frames, 4, 6)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
@pytest.mark.parametrize("training", [True, False])
def test_a_fresh_block_is_the_identity(similarity: Similarity, norm: str, training: bool) -> None:
    block = NonLocal(8, similarity=similarity, norm=NormConfig.model_validate(norm))
    assert torch.equal(block.train(training)(maps()), maps())


@pytest.mark.parametrize(("channels", "expected"), [(1024, 2_101_760), (512, 526_592)])
def test_parameters_are_the_authors(channels: int, expected: int) -> None:
    with torch.device("meta"):
        block = NonLocal(channels)
    assert sum(parameter.numel() for parameter in block.parameters()) == expected


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("pool", [None, (1, 2, 2), (2, 2, 2)])
def test_each_similarity_is_its_formula(
    similarity: Similarity, pool: tuple[int, int, int] | None
) -> None:
    x = maps()
    block = lively(NonLocal(8, similarity=similarity, pool=pool))
    asked = nn.functional.max_pool3d(x, pool) if pool else x

    def rows(layer: nn.Module | None, map_: Tensor) -> Tensor:
        if layer is None:
            return map_.flatten(2).transpose(1, 2)
        weights = layer.state_dict()
        weight: Tensor = weights["weight"].flatten(1)
        bias: Tensor = weights["bias"]
        return map_.flatten(2).transpose(1, 2) @ weight.T + bias

    query, key, value = rows(block.theta, x), rows(block.phi, asked), rows(block.g, asked)
    P, Q = query.shape[1], key.shape[1]
    pair = torch.zeros(2, P, Q)
    for p in range(P):
        for q in range(Q):
            if similarity == "concatenation":
                assert block.join is not None
                both = torch.cat([query[:, p], key[:, q]], dim=1)
                pair[:, p, q] = torch.relu(both @ block.join.weight[0]) / Q
            else:
                pair[:, p, q] = (query[:, p] * key[:, q]).sum(dim=1)
    if similarity == "embedded_gaussian":
        pair = torch.softmax(pair / 4**0.5, dim=2)
    elif similarity == "gaussian":
        pair = torch.softmax(pair, dim=2)
    elif similarity == "dot_product":
        pair = pair / Q
    y = (pair @ value).transpose(1, 2).reshape(2, 4, *x.shape[2:])
    expected = x + block.norm(block.out(y))
    with torch.no_grad():
        torch.testing.assert_close(block.attention(x), pair)
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("similarity", ["embedded_gaussian", "gaussian"])
def test_the_weights_of_a_gaussian_sum_to_one_over_what_is_asked(similarity: Similarity) -> None:
    weights = NonLocal(8, similarity=similarity).attention(maps())
    assert weights.shape == (2, 4 * 4 * 6, 4 * 2 * 3)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 96))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_without_a_pool_positions_have_no_order(similarity: Similarity) -> None:
    x = maps()
    block = lively(NonLocal(8, similarity=similarity, pool=None))
    order = torch.randperm(96, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        shuffled = block(x.flatten(2)[:, :, order].view_as(x))
        torch.testing.assert_close(shuffled, block(x).flatten(2)[:, :, order].view_as(x))


def test_groups_of_frames_do_not_see_each_other() -> None:
    x = maps(frames=6)
    block = lively(NonLocal(8, frames_per_group=2))
    whole = lively(NonLocal(8))
    whole.load_state_dict(block.state_dict())
    with torch.no_grad():
        apart = torch.cat([whole(part) for part in x.chunk(3, dim=2)], dim=2)
        torch.testing.assert_close(block(x), apart)
        assert not torch.allclose(block(x), whole(x), atol=1e-3)
    with pytest.raises(ValueError, match="groups of 2 frames need a multiple of them, got 5"):
        block(maps(frames=5))


def test_longer_and_larger_maps_are_taken_at_test_time() -> None:
    block = lively(NonLocal(8))
    assert block(torch.rand(1, 8, 9, 7, 5)).shape == (1, 8, 9, 7, 5)


def test_half_precision_stays_near() -> None:
    block = lively(NonLocal(8))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = block(maps())
    with torch.no_grad():
        torch.testing.assert_close(half.float(), block(maps()), rtol=0.1, atol=0.1)


def test_a_map_smaller_than_the_pool_is_refused_in_words() -> None:
    with pytest.raises(RecipeError, match=r"pool: \(1, 2, 2\) does not fit into a map of 4x1x1"):
        NonLocal(8)(torch.rand(1, 8, 4, 1, 1))


def test_a_config_knows_where_blocks_stand() -> None:
    config = NonLocalConfig(res3=(1, 3), res4=(1, 3, 5), frames_per_group={"res3": 4})
    assert [config.after(stage) for stage in (2, 3, 4, 5)] == [(), (1, 3), (1, 3, 5), ()]
    assert config.build(3, 8, NormConfig()).frames_per_group == 4
    assert config.build(4, 8, NormConfig()).frames_per_group is None
