"""Transport poolers against plain Sinkhorn iterations and against integrals of quantiles."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from onevec.poolers.segments import RaggedSegments
from onevec.poolers.transport import sinkhorn_plan
from onevec.ragged import Ragged
from tests.parity.common import agrees, buffers, fit, ragged

SAMPLE = ragged((30, 5, 12, 50, 1, 8), seed=5)


def plain_plan(kernel, iterations):
    """Sinkhorn's plan of one sequence, in the plain domain."""
    tokens, references = kernel.shape
    left, right = np.ones(tokens), np.ones(references)
    for _ in range(iterations):
        left = 1 / tokens / (kernel @ right)
        right = 1 / references / (kernel.T @ left)
    return left[:, None] * kernel * right[None]


def test_optimal_transport_is_sinkhorn_in_the_plain_domain():
    pooler = fit("optimal_transport", SAMPLE, references=3, epsilon=2.0, iterations=10)
    state = buffers(pooler)

    def formula(x):
        x = x - state["centre"]
        cost = ((x[:, None] - state["book"][None]) ** 2).sum(-1) / state["scale"]
        return np.sqrt(3) * plain_plan(np.exp(-cost / 2.0), 10).T @ x

    agrees(pooler, ragged(), formula)


def test_kernel_transport_moves_nystrom_features():
    pooler = fit(
        "kernel_transport", SAMPLE, references=3, anchors=7, width=7, bandwidth=0.8, epsilon=0.5
    )
    state = buffers(pooler)
    points, book = state["points"], state["book"]
    gram = np.exp((points @ points.T - 1) / 0.8**2)
    strength, axes = np.linalg.eigh(gram)
    root = axes / (np.sqrt(np.maximum(strength, 0)) + 1e-2)
    turn = np.linalg.lstsq(root, state["basis"], rcond=None)[0]  # axes have no sign
    np.testing.assert_allclose(turn.T @ turn, np.eye(7), atol=2e-3)

    def formula(x):
        x = x / state["scale"]
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        features = norm * (np.exp((x / norm @ points.T - 1) / 0.8**2) @ state["basis"])
        return np.sqrt(3) * plain_plan(np.exp(features @ book.T / 0.5), 5).T @ features

    agrees(pooler, ragged(), formula)


def test_marginals_of_the_plan():
    score = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    plan = sinkhorn_plan(RaggedSegments(score, torch.tensor([5, 0, 7])), score, iterations=200)
    np.testing.assert_allclose(plan[:5].sum(0).numpy(), np.full(3, 1 / 3), atol=1e-6)
    np.testing.assert_allclose(plan[:5].sum(1).numpy(), np.full(5, 1 / 5), atol=1e-5)
    np.testing.assert_allclose(plan[5:].sum(1).numpy(), np.full(7, 1 / 7), atol=1e-5)


def test_small_epsilon_reaches_the_linear_programme():
    source = np.random.default_rng(1)
    cost = source.random((4, 3))
    rows = np.kron(np.eye(4), np.ones((1, 3)))
    columns = np.kron(np.ones((1, 4)), np.eye(3))
    right = np.concatenate([np.full(4, 1 / 4), np.full(3, 1 / 3)])
    best = linprog(cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=right).fun
    score = torch.from_numpy(-cost / 0.005)
    plan = sinkhorn_plan(RaggedSegments(score, torch.tensor([4])), score, iterations=3000)
    assert (plan.numpy() * cost).sum() == pytest.approx(best, abs=5e-3)


def test_sliced_wasserstein_is_the_integrated_quantile_function():
    pooler = fit("sliced_wasserstein", SAMPLE, slices=6, points=4)
    state = buffers(pooler)
    fine = (np.arange(84 * 82 * 4) + 0.5) / (84 * 82 * 4)  # divisible by every n below and by 4

    def parts(x):
        ordered = np.sort(x @ state["directions"], axis=0)
        function = ordered[np.floor(fine * len(x)).astype(int)]
        return function.reshape(4, -1, 6).mean(1)

    reference = parts(SAMPLE.values.double().numpy())  # 106 tokens: the grid is only nearly exact
    np.testing.assert_allclose(state["reference"], reference, atol=5e-3)
    agrees(
        pooler,
        ragged((1, 2, 3, 7, 28, 41)),
        lambda x: (parts(x) - state["reference"]) / np.sqrt(24),
    )
    np.testing.assert_allclose(np.linalg.norm(state["directions"], axis=0), 1, atol=1e-6)


def test_distances_approximate_sliced_wasserstein():
    """With as many points as tokens the 2-Wasserstein distance of each slice is exact."""
    left, right = ragged((12,), seed=1), ragged((12,), seed=2)
    pooler = fit("sliced_wasserstein", SAMPLE, slices=8, points=12)
    found = (pooler(left) - pooler(right)).square().sum().item()
    directions = buffers(pooler)["directions"]
    pairs = [np.sort(part.values.double().numpy() @ directions, axis=0) for part in (left, right)]
    assert found == pytest.approx(((pairs[0] - pairs[1]) ** 2).mean(), rel=1e-4)


def test_one_dimension_gives_the_earth_movers_distance():
    values = torch.tensor([[0.0], [1.0], [5.0], [2.0], [2.5], [9.0]])
    pooler = fit("sliced_wasserstein", Ragged(values, torch.tensor([6])), slices=1, points=3)
    both = pooler(Ragged(values, torch.tensor([3, 3])))
    found = (both[0] - both[1]).abs().mean().item() * 3**0.5
    assert found == pytest.approx(wasserstein_distance([0, 1, 5], [2, 2.5, 9]), rel=1e-5)
