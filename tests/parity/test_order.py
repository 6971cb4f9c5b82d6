"""Order-aware poolers against SciPy and loops over tokens."""

import numpy as np
import pytest
import torch
from scipy.fft import dct

from onevec.poolers.random_features import random_sequences
from tests.parity.common import agrees, buffers, fit, ragged

SAMPLE = ragged((30, 5, 12, 50, 1, 8), seed=5)


def test_dct_is_scipys_divided_by_two_n():
    agrees(
        fit("dct", count=3),
        ragged((3, 7, 20, 41)),
        lambda x: dct(x, type=2, axis=0)[:3] / (2 * len(x)),
    )


@pytest.mark.parametrize("count", [1, 2, 6])
def test_dct_is_its_formula_also_beyond_the_length(count):
    def formula(x):
        n = len(x)
        return [
            sum(x[i] * np.cos(np.pi * (i + 0.5) * k / n) for i in range(n)) / n
            for k in range(count)
        ]

    agrees(fit("dct", count=count), ragged(), formula)


def test_dct_of_a_constant_is_its_mean():
    tokens = ragged((5, 9))
    tokens = tokens.with_values(tokens.values * 0 + 3.0)
    found = fit("dct", count=4)(tokens).numpy().reshape(2, 4, 5)
    np.testing.assert_allclose(found[:, 0], 3.0, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1:], 0.0, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 3, 4])
def test_segment_means(parts):
    """Each token repeated ``parts`` times, then cut into equal runs."""
    agrees(
        fit("segment_means", parts=parts),
        ragged(),
        lambda x: np.repeat(x, parts, axis=0).reshape(parts, len(x), -1).mean(1),
    )


def test_random_convolutions():
    pooler = fit("random_convolutions", SAMPLE, kernels=7, taps=5, dilations=3, channels=3)
    state = buffers(pooler)
    weight = state["weight"].reshape(5, 3, 7)
    dilation = np.concatenate([np.full(3, 1), np.full(2, 2), np.full(2, 4)])

    def formula(x):
        z = (x - state["centre"]) @ state["basis"]
        output = np.zeros((len(z), 7))
        for kernel in range(7):
            for place in range(len(z)):
                for tap in range(5):
                    other = place + (tap - 2) * dilation[kernel]
                    if 0 <= other < len(z):
                        output[place, kernel] += z[other] @ weight[tap, :, kernel]
        return [(output > state["threshold"]).mean(0), output.max(0)]

    agrees(pooler, ragged(), formula)


def test_convolution_kernels_are_centred_and_thresholds_lie_inside():
    pooler = fit("random_convolutions", SAMPLE, kernels=12)
    weight = pooler.weight.view(5, -1, 12)
    np.testing.assert_allclose(weight.mean(0).numpy(), 0, atol=1e-6)
    positive = pooler(SAMPLE)[:, :12]
    weights = SAMPLE.lengths / SAMPLE.lengths.sum()
    over_all = (positive * weights.unsqueeze(1)).sum(0)
    assert ((over_all > 0.05) & (over_all < 0.95)).all()


def test_thresholds_come_from_sequences_drawn_at_random():
    source = torch.Generator().manual_seed(0)
    picked = random_sequences(SAMPLE, 10, source)
    assert 10 <= len(picked.values) < 10 + 50
    assert len(random_sequences(SAMPLE, 1000, source)) == len(SAMPLE)
