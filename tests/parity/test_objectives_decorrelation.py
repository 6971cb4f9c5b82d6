"""Decorrelation objectives against the papers' equations, and by hand."""

from itertools import combinations

import numpy as np
import pytest
import torch

from onevec.objectives import OBJECTIVES, Context
from onevec.ragged import Ragged


def found(name, *views, **options):
    rows, dim = np.shape(views[0])
    tokens = Ragged(torch.zeros(rows, 2), torch.ones(rows).long())
    context = Context((tokens,) * len(views), tokens, torch.arange(rows), torch.Generator())
    objective = OBJECTIVES[name](**options).build(2, dim)
    terms = objective(tuple(torch.tensor(np.asarray(v)).float() for v in views), context)
    return objective.total(terms).item(), {key: term.item() for key, term in terms.items()}


def vectors(rows=20, dim=5, views=2):
    draw = np.random.default_rng(0)
    base = draw.normal(size=(rows, dim)) @ draw.normal(size=(dim, dim)) + 3
    return [base + 0.5 * draw.normal(size=(rows, dim)) for _ in range(views)]


def test_barlow_twins_is_the_published_sum():
    a, b = vectors()
    correlation = np.zeros((5, 5))
    for k in range(5):
        for m in range(5):
            x, y = a[:, k] - a[:, k].mean(), b[:, m] - b[:, m].mean()
            correlation[k, m] = (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
    on = sum((1 - correlation[k, k]) ** 2 for k in range(5))
    off = sum(correlation[k, m] ** 2 for k in range(5) for m in range(5) if k != m)
    total, terms = found("barlow_twins", a, b, redundancy=0.02)
    assert terms == pytest.approx({"invariance": on, "redundancy": off}, rel=1e-4)
    assert total == pytest.approx(on + 0.02 * off, rel=1e-4)
    scaled = found("barlow_twins", 1e-7 * a, 1e5 * b + 7, redundancy=0.02)[0]
    assert scaled == pytest.approx(total, rel=1e-4)


def test_barlow_twins_by_hand():
    first = [[1.0, 5], [-1, 5], [1, 5], [-1, 5]]  # the second dimension is constant
    second = [[2.0, 1], [-2, -1], [2, 1], [-2, -1]]
    _, terms = found("barlow_twins", first, second)
    assert terms["invariance"] == pytest.approx(0 + 1)
    assert terms["redundancy"] == pytest.approx(1 + 0)  # C_01 = 1, C_10 = 0
    assert found("barlow_twins", first[:1], second[:1])[1] == {"invariance": 2, "redundancy": 0}


def test_vicreg_is_algorithm_1_of_the_paper():
    a, b = vectors()
    std = [np.sqrt(z.var(0, ddof=1) + 1e-4) for z in (a / 9, b / 9)]
    variance = sum(np.mean(np.maximum(0, 1 - s)) for s in std)
    covariance = 0.0
    for view in (a / 9, b / 9):
        z = view - view.mean(0)
        matrix = sum(np.outer(row, row) for row in z) / (len(z) - 1)
        covariance += sum(matrix[i, j] ** 2 for i in range(5) for j in range(5) if i != j) / 5
    invariance = np.mean((a / 9 - b / 9) ** 2)
    total, terms = found("vicreg", a / 9, b / 9)
    expected = {"invariance": invariance, "variance": variance, "covariance": covariance}
    assert terms == pytest.approx(expected, rel=1e-4)
    assert total == pytest.approx(25 * invariance + 25 * variance + covariance, rel=1e-5)
    other = found("vicreg", a / 9, b / 9, invariance=2, variance=3, covariance=4)[0]
    assert other == pytest.approx(2 * invariance + 3 * variance + 4 * covariance, rel=1e-5)


def test_vicreg_by_hand():
    first = [[1.0, 1], [-1, -1]]  # variances 2 and 2, covariance 2
    second = [[0.0, 0], [0, 0]]
    _, terms = found("vicreg", first, second)
    assert terms["invariance"] == pytest.approx(1)
    assert terms["variance"] == pytest.approx(0 + (1 - 0.01))
    assert terms["covariance"] == pytest.approx(2 * 4 / 2)
    _, alone = found("vicreg", first[:1], first[:1])
    assert alone == pytest.approx({"invariance": 0, "variance": 2 * 0.99, "covariance": 0})


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_more_than_two_views_are_the_mean_over_pairs(name):
    views = vectors(views=3)
    pairs = [found(name, *pair)[0] for pair in combinations(views, 2)]
    assert found(name, *views)[0] == pytest.approx(np.mean(pairs), rel=1e-5)
