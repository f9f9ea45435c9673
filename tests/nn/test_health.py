"""What shows a collapse: known values for spread, constant and flat features."""

import pytest
import torch
import torch.nn.functional as F

from vidssl.nn.health import against, between, spread


def test_directions_spread_evenly_have_a_deviation_of_one_and_full_rank() -> None:
    both_ways = torch.cat([torch.eye(4), -torch.eye(4)])
    found = spread(both_ways)
    assert found["feature_std"].item() == pytest.approx(1.0)
    assert found["effective_rank"].item() == pytest.approx(4.0, rel=1e-5)


def test_a_constant_has_no_deviation_and_the_least_rank() -> None:
    found = spread(torch.ones(8, 4))
    assert found["feature_std"].item() == pytest.approx(0.0, abs=1e-6)
    assert found["effective_rank"].item() == pytest.approx(1.0, abs=1e-3)


def test_features_on_a_line_have_rank_one_whatever_their_deviation() -> None:
    line = torch.cat([torch.ones(4, 1), -torch.ones(4, 1)]) @ torch.tensor([[1.0, 2.0, 3.0]])
    assert spread(line)["effective_rank"].item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("clips", "features"), [(6, 12), (12, 6)])
def test_the_rank_is_that_of_the_singular_values(clips: int, features: int) -> None:
    torch.manual_seed(0)
    z = F.normalize(torch.randn(clips, features), dim=1)
    values = torch.linalg.svdvals((z - z.mean(0)).double())
    share = values / values.sum()
    slow = torch.exp(-(share * share.clamp(min=1e-30).log()).sum()).item()
    assert spread(z)["effective_rank"].item() == pytest.approx(slow, rel=1e-3)


def test_features_that_are_no_number_have_no_rank_and_stop_nothing() -> None:
    z = torch.randn(6, 4)
    z[2, 1] = torch.nan
    assert all(value.isnan() for value in spread(z).values())


def test_similarities_are_told_apart() -> None:
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    k = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    negatives = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = against(q, k, negatives)
    assert found["positive_similarity"].item() == pytest.approx(0.8)  # (0.6 + 1) / 2
    assert found["negative_similarity"].item() == pytest.approx(0.0)
    assert found["top1"].item() == 0.5  # the first query is nearer to a negative, 1 against 0.6


def test_other_clips_are_the_negatives_of_a_batch() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    two = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    found = between(one, two)
    assert found["positive_similarity"].item() == pytest.approx(0.8)  # (1 + 0.6) / 2
    assert found["negative_similarity"].item() == pytest.approx(0.4)  # (0.8 + 0) / 2
    assert found["top1"].item() == 1.0
    assert set(between(one[:1], two[:1])) == {"positive_similarity"}


def test_a_single_clip_says_nothing_of_a_spread() -> None:
    one = F.normalize(torch.randn(1, 8), dim=1)
    assert spread(one) == {}
    assert "feature_std" not in against(one, one, torch.randn(5, 8))
