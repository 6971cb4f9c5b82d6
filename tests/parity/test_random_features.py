"""Random features against their definitions and what they approximate."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from tests.parity.common import agrees, buffers, fit, ragged

SAMPLE = ragged((30, 5, 12, 50, 1, 8), seed=5)


def test_kernel_mean_formula():
    pooler = fit("kernel_mean", SAMPLE, features=16)
    frequencies = buffers(pooler)["frequencies"]

    def formula(x):
        return [np.cos(x @ frequencies).mean(0) / 8**0.5, np.sin(x @ frequencies).mean(0) / 8**0.5]

    agrees(pooler, ragged(), formula)


def test_kernel_mean_approximates_the_gaussian_kernel():
    """Inner products against the double mean of the kernel at the median distance."""
    tokens = ragged()
    found = fit("kernel_mean", SAMPLE, features=8192)(tokens).double().numpy()
    width = np.median(pdist(SAMPLE.values.numpy()))
    expected = np.array(
        [[np.exp(-(cdist(a, b) ** 2) / (2 * width**2)).mean() for b in tokens] for a in tokens]
    )
    np.testing.assert_allclose(found @ found.T, expected, atol=0.04)


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize(
    ("nonlinearity", "function"),
    [("none", lambda x: x), ("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh)],
)
def test_random_projection(nonlinearity, function, reduce):
    options = {"features": 7, "nonlinearity": nonlinearity, "reduce": reduce}
    pooler = fit("random_projection", SAMPLE, **options)
    matrix = buffers(pooler)["matrix"]
    agrees(pooler, ragged(), lambda x: getattr(function(x @ matrix), reduce)(axis=0))


def test_random_projection_is_uniform():
    matrix = buffers(fit("random_projection", SAMPLE, features=4000))["matrix"]
    assert np.abs(matrix).max() <= 1 / np.sqrt(5)
    assert matrix.var() == pytest.approx(1 / 15, rel=0.03)
