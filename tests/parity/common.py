"""Ragged data and the loop that the published formulas are run in."""

import numpy as np
import torch

from onevec.poolers import POOLERS
from onevec.ragged import Ragged

LENGTHS = (1, 2, 3, 7, 20, 41)


def ragged(lengths=LENGTHS, dim=5, seed=0) -> Ragged:
    source = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(dim, dim))
    values = source.normal(size=(sum(lengths), dim)) @ mix + 0.3
    ids = torch.from_numpy(source.integers(0, 9, sum(lengths)))
    return Ragged(torch.from_numpy(values).float(), torch.tensor(lengths), {"ids": ids})


def fit(name, sample=None, **options):
    sample = ragged((30, 5, 12, 50, 1, 8), seed=5) if sample is None else sample
    return POOLERS[name](**options).fit(sample)


def loop(tokens: Ragged, formula) -> np.ndarray:
    """Apply ``formula`` to each sequence as a float64 array; flatten and stack."""
    return np.stack([np.ravel(formula(part.numpy().astype(np.float64))) for part in tokens])


def agrees(pooler, tokens, formula, tolerance=2e-5):
    expected = loop(tokens, formula)
    scale = max(1.0, float(np.abs(expected).max()))
    found = pooler(tokens).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=tolerance * scale, rtol=tolerance)


def buffers(pooler):
    return {name: value.double().numpy() for name, value in pooler.state_dict().items()}


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def shares(x, book, scale):
    distance = ((x[:, None] - book[None]) ** 2).sum(-1)
    return softmax(-distance / scale)
