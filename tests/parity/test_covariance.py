"""Second-order poolers against NumPy and scikit-learn's PCA."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from onevec.poolers.fitting import principal_axes
from tests.parity.common import agrees, fit, loop, ragged

SAMPLE = ragged((30, 5, 12, 50, 1, 8), seed=5)


def projector(rank, whiten):
    """Project with scikit-learn's PCA, signs and biased variance as here."""
    array = SAMPLE.values.double().numpy()
    model = PCA(rank).fit(array)
    axes = model.components_.T
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(rank)])
    if whiten:
        axes = axes / np.sqrt(model.explained_variance_ * (len(array) - 1) / len(array))
    return lambda x: (x - array.mean(0)) @ axes


def triangle(matrix):
    matrix = matrix * (np.sqrt(2) - (np.sqrt(2) - 1) * np.eye(len(matrix)))
    return matrix[np.triu_indices(len(matrix))]


@pytest.mark.parametrize("rank", [1, 3, 5])
@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("centre", ["sequence", "sample"])
@pytest.mark.parametrize("signed_root", [True, False])
def test_covariance(rank, whiten, centre, signed_root):
    project = projector(rank, whiten)

    def formula(x):
        z = project(x)
        z = z - z.mean(0) if centre == "sequence" else z
        entries = triangle(z.T @ z / len(z))
        return np.sign(entries) * np.sqrt(np.abs(entries)) if signed_root else entries

    options = {"rank": rank, "whiten": whiten, "centre": centre, "signed_root": signed_root}
    tokens = ragged((2, 7, 20, 41))
    # The root enlarges rounding errors of entries near 0.
    agrees(fit("covariance", SAMPLE, **options), tokens, formula, 2e-3 if signed_root else 2e-5)


def test_the_triangle_keeps_the_frobenius_norm():
    found = fit("covariance", SAMPLE, rank=4)(ragged()).double().numpy()
    project = projector(4, True)
    norms = loop(
        ragged(), lambda x: np.linalg.norm(np.cov(project(x).T, ddof=0)) if len(x) > 1 else 0
    )
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), norms[:, 0], atol=1e-4)


def test_whitened_tokens_have_identity_covariance():
    pooler = fit("covariance", SAMPLE, rank=5)
    array = (SAMPLE.values - pooler.mean) @ pooler.basis
    np.testing.assert_allclose(np.cov(array.numpy().T, ddof=0), np.eye(5), atol=1e-4)


def test_directions_without_variance_are_dropped():
    values = SAMPLE.values.clone()
    values[:, 1] = 2 * values[:, 0]
    _, basis = principal_axes(values, 5, whiten=True)
    assert np.linalg.matrix_rank(basis.numpy()) == 4
    assert (basis.norm(dim=0) > 0).sum() == 4


def test_correlation():
    project = projector(4, True)

    def formula(x):
        return np.corrcoef(project(x).T)[np.triu_indices(4, 1)]

    agrees(fit("correlation", SAMPLE, rank=4), ragged((3, 7, 20, 41)), formula, tolerance=1e-4)


@pytest.mark.parametrize("lags", [(1,), (1, 3)])
def test_lagged_covariance(lags):
    project = projector(3, True)

    def formula(x):
        z = project(x)
        parts = [
            z[:-lag].T @ z[lag:] / (len(z) - lag) if len(z) > lag else np.zeros((3, 3))
            for lag in lags
        ]
        difference = np.abs(np.diff(z, axis=0)).mean(0) if len(z) > 1 else np.zeros(3)
        return np.concatenate([np.ravel(part) for part in [*parts, difference]])

    agrees(fit("lagged_covariance", SAMPLE, rank=3, lags=lags), ragged(), formula)
