"""Contrastive objectives against loops over the published formulas, and by hand."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch

from onevec.objectives import OBJECTIVES, Context, common
from onevec.objectives.common import length_buckets, unit_rows
from onevec.ragged import Ragged

ROWS, DIM = 9, 4


def context(groups=None, lengths=None, rows=ROWS):
    lengths = torch.tensor(lengths) if lengths else torch.full((rows,), 3)
    tokens = Ragged(torch.zeros(int(lengths.sum()), 2), lengths)
    groups = torch.arange(rows) if groups is None else torch.tensor(groups)
    return Context((tokens, tokens), tokens, groups, torch.Generator())


def vectors(rows=ROWS, views=2, seed=0):
    draw = np.random.default_rng(seed)
    base = draw.normal(size=(rows, DIM))
    return [base + 0.5 * draw.normal(size=(rows, DIM)) for _ in range(views)]


def found(name, views, given=None, **options):
    objective = OBJECTIVES[name](**options).build(2, views[0].shape[1])
    outputs = tuple(torch.from_numpy(np.asarray(view)).float() for view in views)
    terms = objective(outputs, given or context(rows=len(views[0])))
    return objective.total(terms).item(), {name: term.item() for name, term in terms.items()}


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def info_nce(first, second, temperature, negatives):
    """One direction after the other, one row after the other; ``negatives(i, j)`` says who."""
    losses = []
    for one, two in ((first, second), (second, first)):
        for i in range(len(one)):
            others = [j for j in range(len(two)) if negatives(i, j)]
            if not others:
                continue
            scores = [np.exp(cosine(one[i], two[j]) / temperature) for j in [i, *others]]
            losses.append(-np.log(scores[0] / sum(scores)))
    return np.mean(losses) if losses else 0.0


def nt_xent(first, second, temperature, negatives):
    both, n, losses = np.concatenate([first, second]), len(first), []
    for i in range(2 * n):
        others = [j for j in range(2 * n) if negatives(i % n, j % n)]
        if not others:
            continue
        positive = np.exp(cosine(both[i], both[(i + n) % (2 * n)]) / temperature)
        rest = sum(np.exp(cosine(both[i], both[j]) / temperature) for j in others)
        losses.append(-np.log(positive / (positive + rest)))
    return np.mean(losses) if losses else 0.0


LOOPS = {"info_nce": info_nce, "nt_xent": nt_xent}
both = pytest.mark.parametrize("name", LOOPS)


@both
def test_softmax_losses_are_the_published_sums(name):
    views = vectors()
    for options in ({}, {"temperature": 0.3}, {"temperature": 0.3, "learned": True}):
        expected = LOOPS[name](*views, options.get("temperature", 0.1), lambda i, j: i != j)
        assert found(name, views, **options)[0] == pytest.approx(expected, rel=1e-5)


@both
def test_false_negatives_are_neither_positive_nor_negative(name):
    views, groups = vectors(), [0, 1, 0, 2, 3, 3, 0, 4, 5]
    expected = LOOPS[name](*views, 0.1, lambda i, j: groups[i] != groups[j])
    assert found(name, views, context(groups))[0] == pytest.approx(expected, rel=1e-5)


@both
def test_length_matching_keeps_to_the_bucket(name):
    views = vectors()
    lengths = [1, 3, 8, 11, 8, 12, 40, 10, 3]  # 1 and 40 meet nobody; 12 is beyond 8 √2
    buckets = [0, 3, 6, 6, 6, 7, 10, 6, 3]
    groups = [0, 1, 2, 2, 4, 5, 6, 7, 8]

    def negatives(i, j):
        return buckets[i] == buckets[j] and groups[i] != groups[j]

    expected = LOOPS[name](*views, 0.1, negatives)
    given = context(groups, lengths)
    assert found(name, views, given, length_matched=True)[0] == pytest.approx(expected, rel=1e-5)
    assert length_buckets(torch.tensor(lengths)).tolist() == buckets


def test_buckets_start_at_powers_of_the_root_of_two():
    lengths = torch.arange(1, 5000)
    expected = [int(np.floor(2 * np.log2(n) + 1e-9)) for n in lengths.tolist()]
    assert length_buckets(lengths).tolist() == expected
    assert length_buckets(2 ** torch.arange(20)).tolist() == list(range(0, 40, 2))


@both
def test_orthogonal_rows_by_hand(name):
    """Each row has its positive at cosine 1 and every negative at cosine 0."""
    views = [np.eye(4), np.eye(4)]
    negatives = {"info_nce": 3, "nt_xent": 6}[name]
    expected = np.log(1 + negatives * np.exp(-1 / 0.5))
    assert found(name, views, temperature=0.5)[0] == pytest.approx(expected, rel=1e-6)
    # With rows 0 and 1 as one sequence, they see one negative pair less each.
    less = np.log(1 + negatives * 2 / 3 * np.exp(-1 / 0.5))
    value = found(name, views, context([0, 0, 1, 2], rows=4), temperature=0.5)[0]
    assert value == pytest.approx((expected + less) / 2, rel=1e-6)
    # All of one group: nobody to be told from.
    assert found(name, views, context([7] * 4, rows=4))[0] == 0


def test_more_than_two_views_are_the_mean_over_pairs():
    views = vectors(views=3)
    for name in ("info_nce", "nt_xent", "spectral", "align_uniform"):
        pairs = [found(name, pair)[0] for pair in combinations(views, 2)]
        assert found(name, views)[0] == pytest.approx(np.mean(pairs), rel=1e-5)


@pytest.mark.parametrize("radius", [0.5, 1.0, 100.0])
def test_spectral_is_the_published_expectation(radius):
    views, groups = vectors(), [0, 1, 0, 2, 3, 3, 0, 4, 5]
    short = [
        np.stack([row * min(1.0, radius / np.linalg.norm(row)) for row in view]) for view in views
    ]
    for named in (list(range(ROWS)), groups):
        positive = np.mean([short[0][i] @ short[1][i] for i in range(ROWS)])
        pairs = [(i, j) for i in range(ROWS) for j in range(ROWS) if named[i] != named[j]]
        negative = np.mean([(short[0][i] @ short[1][j]) ** 2 for i, j in pairs])
        value = found("spectral", views, context(named), radius=radius)[0]
        assert value == pytest.approx(-2 * positive + negative, rel=1e-5)


def test_spectral_by_hand():
    views = [np.array([[1.0, 0], [0.6, 0.8]]), np.array([[1.0, 0], [0, 1]])]
    # Positives 1 and 0.8; negatives a_0·b_1 = 0 and a_1·b_0 = 0.6.
    assert found("spectral", views)[0] == pytest.approx(-2 * 0.9 + 0.36 / 2, rel=1e-6)


@pytest.mark.parametrize(("alpha", "sharpness"), [(2.0, 2.0), (1.0, 5.0)])
def test_alignment_and_uniformity_are_the_published_expectations(alpha, sharpness):
    views, groups = vectors(), [0, 1, 0, 2, 3, 3, 0, 4, 5]
    unit = [view / np.linalg.norm(view, axis=1, keepdims=True) for view in views]
    for named in (list(range(ROWS)), groups):
        pairs = [(i, j) for i, j in combinations(range(ROWS), 2) if named[i] != named[j]]
        spread = [
            np.log(np.mean([np.exp(-sharpness * ((u[i] - u[j]) ** 2).sum()) for i, j in pairs]))
            for u in unit
        ]
        close = np.mean(np.linalg.norm(unit[0] - unit[1], axis=1) ** alpha)
        total, terms = found(
            "align_uniform", views, context(named), alpha=alpha, sharpness=sharpness, balance=0.5
        )
        assert terms["alignment"] == pytest.approx(close, rel=1e-5)
        assert terms["uniformity"] == pytest.approx(np.mean(spread), rel=1e-5)
        assert total == pytest.approx(close + 0.5 * np.mean(spread), rel=1e-5)


def test_align_uniform_by_hand():
    views = [np.array([[2.0, 0], [0, 3]]), np.array([[1.0, 0], [1, 0]])]
    _, terms = found("align_uniform", views)
    assert terms["alignment"] == pytest.approx(1.0)  # squared distances 0 and 2
    # Squared distances within the views: 2 and 0.
    assert terms["uniformity"] == pytest.approx((-4 + 0) / 2, abs=1e-6)
    assert found("align_uniform", views, context([0, 0], rows=2))[1]["uniformity"] == 0


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "spectral", "align_uniform"])
def test_blocks_of_any_size_agree(name, monkeypatch):
    views = vectors(rows=37)
    given = context([i // 2 * 2 if i < 8 else i for i in range(37)], list(range(1, 38)), rows=37)
    matched = {"length_matched": True} if name in LOOPS else {}
    whole = found(name, views, given, **matched)[0]
    for entries in (1, 37 * 5, 37 * 36):
        monkeypatch.setattr(common, "BLOCK_ENTRIES", entries)
        assert found(name, views, given, **matched)[0] == pytest.approx(whole, rel=1e-5)


def test_gradients_are_those_of_finite_differences():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, (rows,))
    other = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([0, 1, 1, 2, 3])

    def loss(a, b):
        return common.contrast(a, b, torch.arange(5), groups)

    assert torch.autograd.gradcheck(loss, (rows, other))


MEMORY = """
import resource, sys, torch
from onevec.objectives import OBJECTIVES, Context
from onevec.ragged import Ragged
tokens = Ragged(torch.zeros(8192, 1), torch.ones(8192).long())
given = Context((tokens, tokens), tokens, torch.arange(8192), torch.Generator())
views = [torch.randn(8192, 64, requires_grad=True) for _ in range(2)]
objective = OBJECTIVES[sys.argv[1]]().build(1, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
objective.total(objective(tuple(views), given)).backward()
assert all(view.grad.isfinite().all() for view in views)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["info_nce", "nt_xent", "spectral", "align_uniform", "distillation"]
)
def test_memory_of_large_batches(name):
    code = MEMORY
    if name == "distillation":
        code = code.replace(
            "torch.Generator())\nviews", "torch.Generator(), (), (torch.randn(8192, 64),))\nviews"
        )
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.5  # GiB; one 8192 x 8192 matrix in fp32 has 0.25
