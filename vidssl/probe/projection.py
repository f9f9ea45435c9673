"""Features in the plane, to be looked at: PCA, t-SNE, and UMAP where it is installed.

t-SNE: van der Maaten and Hinton, JMLR 2008, by scikit-learn; UMAP: McInnes et al., 2018,
https://arxiv.org/abs/1802.03426, by the package ``umap-learn``. Both get the first 50 principal
components of features of length 1, so that distances follow cosines. Distances between far points
and the sizes of heaps mean nothing in either.

Array suffixes: N videos, F features, P components.
"""

import importlib.util
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from vidssl.probe.neighbours import unit

COMPONENTS, PERPLEXITY, SEED = 50, 30.0, 0
AROUND = 15
LEAST = 4
"""Points below which there is nothing to arrange."""


def pca(
    features_NF: NDArray[np.floating], components: int = 2
) -> tuple[NDArray[np.float64], float]:
    """Return principal components ``(N, P)`` of features of length 1, and their share of variance.

    The sign of each is such that its largest entry is positive. Components that the features do not
    have are 0.
    """
    unit_NF = unit(features_NF).astype(np.float64)
    centred_NF = unit_NF - unit_NF.mean(axis=0) if len(unit_NF) else unit_NF
    scores_NP = np.zeros((len(unit_NF), components))
    if not centred_NF.size:
        return scores_NP, 0.0
    left, length, _ = np.linalg.svd(centred_NF, full_matrices=False)
    found_NP = (left * length)[:, :components]
    largest = found_NP[np.abs(found_NP).argmax(axis=0), np.arange(found_NP.shape[1])]
    scores_NP[:, : found_NP.shape[1]] = found_NP * np.where(largest < 0, -1.0, 1.0)
    total = float((length**2).sum())
    return scores_NP, float((length[:components] ** 2).sum() / total) if total > 0 else 0.0


def t_sne(features_NF: NDArray[np.floating], *, seed: int = SEED) -> NDArray[np.float64] | None:
    """Return t-SNE in the plane ``(N, 2)``; None of fewer than ``LEAST`` videos or two numbers,
    or of equal features.

    The perplexity is 30, or less where a third of the videos is less.
    """
    compact_NP = _compact(features_NF)
    if compact_NP is None:
        return None
    perplexity = min(PERPLEXITY, (len(compact_NP) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(model.fit_transform(compact_NP), dtype=np.float64)


def has_umap() -> bool:
    """Whether ``umap-learn`` is installed."""
    return importlib.util.find_spec("umap") is not None


def umap(features_NF: NDArray[np.floating], *, seed: int = SEED) -> NDArray[np.float64] | None:
    """Return UMAP in the plane ``(N, 2)``, None as :func:`t_sne`.

    Raises:
        ImportError: if it is not installed.
    """
    compact_NP = _compact(features_NF)
    if compact_NP is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed means one thread
        package: Any = importlib.import_module("umap")
        model = package.UMAP(n_neighbors=min(AROUND, len(compact_NP) - 1), random_state=seed)
        return np.asarray(model.fit_transform(compact_NP), dtype=np.float64)


def _compact(features_NF: NDArray[np.floating]) -> NDArray[np.float32] | None:
    if len(features_NF) < LEAST or features_NF.shape[1] < 2:
        return None
    compact_NP, _ = pca(features_NF, min(COMPONENTS, features_NF.shape[1], len(features_NF)))
    if not np.ptp(compact_NP, axis=0).any():
        return None
    return compact_NP.astype(np.float32)
