"""Statistics against NumPy and SciPy, one sequence at a time."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from tests.parity.common import agrees, fit, ragged


def test_mean_is_the_masked_mean():
    """``sum(mask * h) / sum(mask)`` on a padded batch, with garbage in the padding."""
    tokens = ragged()
    padded = torch.full((len(tokens), 50, tokens.dim), 1e9)
    mask = torch.zeros(len(tokens), 50, 1)
    for row, part in enumerate(tokens):
        padded[row, : len(part)] = part
        mask[row, : len(part)] = 1
    expected = padded.where(mask > 0, 0.0).sum(1) / mask.sum(1)
    assert_close(fit("mean")(tokens), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("mean", lambda x: x.mean(0)),
        ("first", lambda x: x[0]),
        ("last", lambda x: x[-1]),
        ("max", lambda x: x.max(0)),
        ("min", lambda x: x.min(0)),
        ("std", lambda x: x.std(0)),
        ("statistics", lambda x: [x.mean(0), x.std(0)]),
        ("pna", lambda x: [x.mean(0), x.std(0), x.max(0), x.min(0)]),
    ],
)
def test_plain_statistics(name, formula):
    agrees(fit(name), ragged(), formula)


def test_moments_are_scipys():
    agrees(
        fit("moments", orders=(3, 4, 5)),
        ragged((3, 7, 20, 41)),
        lambda x: [
            stats.skew(x, axis=0),
            stats.kurtosis(x, axis=0),
            stats.moment(x, 5, axis=0) / x.std(0) ** 5,
        ],
        tolerance=1e-4,
    )
    assert_close(fit("moments")(ragged((1,))), torch.zeros(1, 10))


def test_power_means_are_rueckles_for_odd_and_positive():
    """Odd powers: ``mean(h^p)^(1/p)`` with the real root; for positive tokens any power."""
    agrees(
        fit("power_means", powers=(1, 3, 5)),
        ragged(),
        lambda x: [np.sign((x**p).mean(0)) * np.abs((x**p).mean(0)) ** (1 / p) for p in (1, 3, 5)],
    )
    tokens = ragged()
    tokens = tokens.with_values(tokens.values.abs())
    agrees(
        fit("power_means", powers=(0.5, 2, 4)),
        tokens,
        lambda x: [(x**p).mean(0) ** (1 / p) for p in (0.5, 2, 4)],
    )
    pooler = fit("power_means", powers=(2,))
    assert_close(pooler(tokens.with_values(-tokens.values)), -pooler(tokens))


def test_quantiles_are_numpys():
    levels = (0.0, 0.1, 0.5, 0.77, 1.0)
    agrees(fit("quantiles", levels=levels), ragged(), lambda x: np.quantile(x, levels, axis=0))


def test_pna_scalers():
    sample = ragged((30, 5, 12, 50, 1, 8), seed=5)
    delta = np.log(sample.lengths.numpy() + 1).mean()

    def formula(x):
        tower = np.concatenate([x.mean(0), x.std(0), x.max(0), x.min(0)])
        scale = np.log(len(x) + 1) / delta
        return [tower, tower * scale, tower / scale]

    agrees(fit("pna", sample, length_scalers=True), ragged(), formula)
