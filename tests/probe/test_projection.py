"""Features in the plane: components by another way to them, and heaps that stay heaps."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.probe import projection


def heaps(count: int, width: int = 16) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Three heaps of features far apart."""
    rng = np.random.default_rng(3)
    label = np.arange(count) % 3
    centres = np.eye(3, width) * 10
    return (centres[label] + rng.normal(size=(count, width)) * 0.3).astype(np.float32), label


def nearest_agree(xy: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    distance = ((xy[:, None] - xy[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return float((label[distance.argmin(1)] == label).mean())


def test_pca_is_that_of_the_covariance() -> None:
    features, _ = heaps(60)
    xy, share = projection.pca(features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(unit.T.astype(np.float64)))
    assert share == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-5)
    theirs = (unit - unit.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(xy), np.abs(theirs), atol=1e-5)
    assert (xy[np.abs(xy).argmax(0), [0, 1]] > 0).all()


def test_t_sne_keeps_heaps_together_and_is_the_same_again() -> None:
    features, label = heaps(60)
    xy = projection.t_sne(features)
    assert xy is not None
    assert xy.shape == (60, 2)
    assert nearest_agree(xy, label) == 1.0
    again = projection.t_sne(features)
    assert again is not None
    np.testing.assert_array_equal(xy, again)


def test_umap_keeps_heaps_together() -> None:
    if not projection.has_umap():
        pytest.skip("umap-learn is not installed")
    features, label = heaps(60)
    xy = projection.umap(features)
    assert xy is not None
    assert nearest_agree(xy, label) > 0.95


@pytest.mark.parametrize("count", [0, 1, 3])
def test_of_a_few_videos_only_pca_makes_a_picture(count: int) -> None:
    features = np.eye(8, dtype=np.float32)[:count]
    assert projection.t_sne(features) is None
    xy, _ = projection.pca(features)
    assert xy.shape == (count, 2)
    assert np.isfinite(xy).all()


def test_equal_features_have_no_picture_but_do_not_fail() -> None:
    features = np.ones((10, 8), np.float32)
    assert projection.t_sne(features) is None
    xy, share = projection.pca(features)
    np.testing.assert_allclose(xy, 0, atol=1e-6)
    assert 0 <= share <= 1


def test_features_of_one_number_lie_on_a_line() -> None:
    features = np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0]], np.float32)
    xy, share = projection.pca(features)
    assert share == pytest.approx(1.0)
    assert (xy[:, 1] == 0).all()
    assert projection.t_sne(features) is None
