"""Codebook poolers against loops over tokens and codewords, and against scikit-learn."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from onevec.poolers import fitting
from onevec.ragged import Ragged
from tests.parity.common import agrees, buffers, fit, ragged, shares

SAMPLE = ragged((30, 5, 12, 50, 1, 8), seed=5)


def test_codebook_is_scikit_learns():
    book = fit("vlad", SAMPLE, codes=4).book.numpy()
    model = KMeans(4, n_init=1, max_iter=50, random_state=0).fit(SAMPLE.values.numpy())
    np.testing.assert_allclose(book, model.cluster_centers_, atol=1e-5)
    tokens = ragged().values
    np.testing.assert_array_equal(
        fitting.nearest(tokens, torch.from_numpy(model.cluster_centers_)).numpy(),
        model.predict(tokens.numpy()),
    )


def test_distances_are_exact_far_from_the_origin():
    tokens, book = ragged().values.double() + 1e3, SAMPLE.values[:4].double() + 1e3
    expected = torch.cdist(tokens, book, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    found = fitting.squared_distances(tokens.float(), book.float())
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=0.02)


@pytest.mark.parametrize("intra_normalise", [True, False])
def test_vlad(intra_normalise):
    pooler = fit("vlad", SAMPLE, codes=4, intra_normalise=intra_normalise)
    book = buffers(pooler)["book"]

    def formula(x):
        blocks = np.zeros_like(book)
        for token in x:
            code = ((token - book) ** 2).sum(1).argmin()
            blocks[code] += (token - book[code]) / len(x)
        if intra_normalise:
            norms = np.linalg.norm(blocks, axis=1, keepdims=True)
            blocks = blocks / np.where(norms > 0, norms, 1)
        return blocks

    agrees(pooler, ragged(), formula)


def test_soft_vlad():
    pooler = fit("vlad", SAMPLE, codes=4, soft=True)
    state = buffers(pooler)

    def formula(x):
        share = shares(x, state["book"], state["scale"])
        residual = x[:, None] - state["book"][None]
        return (share[:, :, None] * residual).mean(0)

    agrees(pooler, ragged(), formula)


@pytest.mark.parametrize("soft", [True, False])
def test_bag(soft):
    pooler = fit("bag", SAMPLE, codes=6, soft=soft)
    state = buffers(pooler)

    def formula(x):
        share = shares(x, state["book"], state["scale"])
        return share.mean(0) if soft else np.eye(6)[share.argmax(1)].mean(0)

    agrees(pooler, ragged(), formula)


def test_soft_assignment_scale_is_the_quantisation_error():
    state = buffers(fit("bag", SAMPLE, codes=6))
    distance = ((SAMPLE.values.double().numpy()[:, None] - state["book"][None]) ** 2).sum(-1)
    np.testing.assert_allclose(state["scale"], distance.min(1).mean(), rtol=1e-5)


def test_mixture_takes_scikit_learns_steps():
    """Same start, same number of steps: the same diagonal Gaussian mixture."""
    source = np.random.default_rng(0)
    array = np.concatenate([source.normal(c, 0.3 + 0.2 * c, (300, 2)) for c in range(3)])
    start = np.array([[0.1, 0.0], [1.2, 1.0], [2.1, 2.2]])
    model = GaussianMixture(
        3,
        covariance_type="diag",
        max_iter=20,
        tol=1e-300,
        reg_covar=0,
        means_init=start,
        weights_init=np.full(3, 1 / 3),
        precisions_init=np.tile(1 / array.var(0), (3, 1)),
    )
    with pytest.warns(UserWarning, match="did not converge"):
        model.fit(array)
    weights, means, variances = fitting.diagonal_mixture(
        torch.from_numpy(array), torch.from_numpy(start), steps=20, floor=0
    )
    np.testing.assert_allclose(weights.numpy(), model.weights_, atol=1e-4)
    np.testing.assert_allclose(means.numpy(), model.means_, atol=1e-4)
    np.testing.assert_allclose(variances.numpy(), model.covariances_, atol=1e-4)
    posterior = fitting.mixture_posterior(
        torch.from_numpy(array).float(), weights, means, variances
    )
    np.testing.assert_allclose(posterior.numpy(), model.predict_proba(array), atol=1e-4)


def log_likelihood(x, weights, means, deviations):
    scaled = (x[:, None] - means[None]) / deviations[None]
    log = -0.5 * (scaled**2).sum(-1) - np.log(deviations).sum(-1) + np.log(weights)
    return logsumexp(log, axis=1).mean()


def test_fisher_vector_is_the_scaled_gradient_of_the_log_likelihood():
    """Numerical gradient by σ/√w for the means and by σ/√(2w) for the deviations."""
    pooler = fit("fisher", SAMPLE, codes=3, power=False, normalise=False)
    state = buffers(pooler)
    weights, means = state["weights"], state["means"]
    deviations = np.sqrt(state["variances"])

    def formula(x):
        x = (x - state["centre"]) / state["spread"]
        blocks = []
        for which, factor in ((0, 1.0), (1, 2.0)):
            gradient = np.zeros_like(means)
            for place in np.ndindex(*means.shape):
                sides = []
                for step in (1e-5, -1e-5):
                    moved = [means.copy(), deviations.copy()]
                    moved[which][place] += step
                    sides.append(log_likelihood(x, weights, *moved))
                gradient[place] = (sides[0] - sides[1]) / 2e-5
            blocks.append(gradient * deviations / np.sqrt(factor * weights)[:, None])
        return blocks

    agrees(pooler, ragged((1, 7, 20)), formula, tolerance=1e-4)


def test_improved_fisher_vector():
    plain = fit("fisher", SAMPLE, codes=3, power=False, normalise=False)(ragged())
    expected = plain.sign() * plain.abs().sqrt()
    expected = expected / expected.norm(dim=1, keepdim=True)
    found = fit("fisher", SAMPLE, codes=3)(ragged())
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


def test_few_distinct_tokens_are_repeated_to_fill_the_book():
    values = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(50, 1)
    pooler = fit("vlad", Ragged(values, torch.tensor([100])), codes=5)
    assert pooler.book.tolist() == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]
    rounded = values * (1 + 1e-7 * (torch.arange(100)[:, None] % 3))
    book = fit("vlad", Ragged(rounded, torch.tensor([100])), codes=5).book
    torch.testing.assert_close(book, pooler.book, atol=1e-6, rtol=0)
    hard = fit("bag", Ragged(values, torch.tensor([100])), codes=5, soft=False)
    shares = hard(Ragged(values[:4], torch.tensor([4])))
    assert shares.tolist() == [[0.5, 0.5, 0, 0, 0]]


def test_token_samples_are_bounded_and_seeded():
    picked = fitting.sample_tokens(SAMPLE, 3, limit=20)
    assert picked.shape == (20, 5)
    assert len(torch.unique(picked, dim=0)) == 20
    assert torch.equal(picked, fitting.sample_tokens(SAMPLE, 3, limit=20))
    assert not torch.equal(picked, fitting.sample_tokens(SAMPLE, 4, limit=20))
    assert len(fitting.sample_tokens(SAMPLE, 3, limit=1000)) == len(SAMPLE.values)


def test_bigrams():
    pooler = fit("bigrams", SAMPLE, codes=3)
    state = buffers(pooler)

    def count(x):
        codes = ((x[:, None] - state["book"][None]) ** 2).sum(-1).argmin(1)
        counts = np.zeros((3, 3))
        for left, right in pairwise(codes):
            counts[left, right] += 1
        return counts.ravel()

    frequency = sum(count(part.double().numpy()) > 0 for part in SAMPLE)
    weight = np.log((1 + len(SAMPLE)) / (1 + frequency)) + 1
    agrees(pooler, ragged(), lambda x: count(x) / max(len(x) - 1, 1) * weight)


def test_soft_bigrams():
    pooler = fit("bigrams", SAMPLE, codes=3, soft=True)
    state = buffers(pooler)

    def formula(x):
        share = shares(x, state["book"], state["scale"])
        return (share[:-1].T @ share[1:]).ravel() / max(len(x) - 1, 1) * state["weight"]

    agrees(pooler, ragged(), formula)
