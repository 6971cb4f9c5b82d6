"""Weighted means against their published weights."""

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfTransformer

from onevec.ragged import Ragged
from tests.parity.common import agrees, buffers, fit, loop, ragged, shares

SAMPLE = ragged((30, 5, 12, 50, 1, 8), seed=5)


def by_ids(pooler, tokens, formula):
    """As `agrees`, with the token ids in front of the values."""
    ids = tokens.fields["ids"].float().unsqueeze(1)
    joined = Ragged(torch.cat([ids, tokens.values], dim=1), tokens.lengths)
    expected = loop(joined, lambda x: formula(x[:, 0].astype(int), x[:, 1:]))
    np.testing.assert_allclose(pooler(tokens).numpy(), expected, atol=1e-5)


def test_position_weighted():
    def formula(x):
        place = np.arange(1, len(x) + 1)
        return (place[:, None] * x).sum(0) / place.sum()

    agrees(fit("position_weighted"), ragged(), formula)


def test_sif_is_aroras():
    ids = SAMPLE.fields["ids"].numpy()
    probability = np.bincount(ids, minlength=20) / len(ids)  # 9 … 19 were never seen

    def formula(entries, x):
        weight = 0.01 / (0.01 + probability[entries])
        return (weight[:, None] * x).sum(0) / len(x)

    pooler = fit("sif", SAMPLE, smooth=0.01)
    tokens = ragged()
    by_ids(pooler, tokens, formula)
    tokens.fields["ids"][:5] = 15
    by_ids(pooler, tokens, formula)


def test_idf_is_scikit_learns():
    parts = [SAMPLE[row : row + 1].fields["ids"].numpy() for row in range(len(SAMPLE))]
    counts = np.stack([np.bincount(part, minlength=12) for part in parts])
    idf = TfidfTransformer().fit(counts).idf_

    def formula(entries, x):
        return (idf[entries][:, None] * x).sum(0) / idf[entries].sum()

    pooler = fit("idf", SAMPLE)
    tokens = ragged()
    by_ids(pooler, tokens, formula)
    tokens.fields["ids"][:5] = 11
    by_ids(pooler, tokens, formula)


def test_ids_of_one_column_are_taken():
    tokens = ragged()
    wide = Ragged(tokens.values, tokens.lengths, {"ids": tokens.fields["ids"].view(-1, 1).int()})
    pooler = fit("sif", SAMPLE)
    np.testing.assert_array_equal(pooler(wide).numpy(), pooler(tokens).numpy())


def nearest_codes(book):
    array = SAMPLE.values.double().numpy()
    return ((array[:, None] - book[None]) ** 2).sum(-1).argmin(1)


def test_codeword_sif():
    pooler = fit("codeword_sif", SAMPLE, codes=4, smooth=0.1)
    state = buffers(pooler)
    probability = np.bincount(nearest_codes(state["book"]), minlength=4) / len(SAMPLE.values)

    def formula(x):
        weight = shares(x, state["book"], state["scale"]) @ (0.1 / (0.1 + probability))
        return (weight[:, None] * x).sum(0) / weight.sum()

    agrees(pooler, ragged(), formula)


def test_codeword_idf():
    pooler = fit("codeword_idf", SAMPLE, codes=4)
    state = buffers(pooler)
    codes = np.split(nearest_codes(state["book"]), np.cumsum(SAMPLE.lengths.numpy())[:-1])
    counts = np.stack([np.bincount(part, minlength=4) for part in codes])
    idf = TfidfTransformer().fit(counts).idf_

    def formula(x):
        weight = shares(x, state["book"], state["scale"]) @ idf
        return (weight[:, None] * x).sum(0) / weight.sum()

    agrees(pooler, ragged(), formula)
