"""Statistics that add up: moments, grouped moments, the sample of rows, shrinkage."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import oas

from onevec.errors import InputError
from onevec.project import GroupedMoments, Moments, RowSample, oas_shrinkage
from onevec.project import moments as module


def data(rows, dim, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, dim)) @ rng.normal(size=(dim, dim)) + offset


def assert_same(a, b):
    """Equal to 1e-10 of the largest entry."""
    assert (a.count, a.dim, a.order) == (b.count, b.dim, b.order)
    np.testing.assert_array_equal(a.low, b.low)
    np.testing.assert_array_equal(a.high, b.high)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-10, atol=1e-10 * abs(b.mean).max())
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=0, atol=1e-10 * abs(b.scatter).max())


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(2, 60),
    dim=st.integers(1, 8),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_any_partition_merged_in_any_order_is_numpy_cov(rows, dim, seed, offset, cuts, order):
    X = data(rows, dim, seed, offset)
    parts = [Moments(dim).update(p) for p in np.split(X, sorted(c % rows for c in cuts))]
    order.shuffle(parts)
    merged = reduce(Moments.merge, parts)
    expected = np.cov(X.T).reshape(dim, dim)
    atol = 1e-10 * abs(expected).max()
    np.testing.assert_allclose(merged.covariance(), expected, rtol=1e-10, atol=atol)
    np.testing.assert_allclose(
        merged.covariance(biased=True), np.cov(X.T, bias=True).reshape(dim, dim), atol=atol
    )
    np.testing.assert_allclose(merged.mean, X.mean(axis=0), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(merged.low, X.min(axis=0))
    np.testing.assert_array_equal(merged.high, X.max(axis=0))


@settings(deadline=None, max_examples=40)
@given(sizes=st.tuples(*[st.integers(0, 20)] * 3), seed=st.integers(0, 1000))
def test_merge_is_associative_and_commutative(sizes, seed):
    a, b, c = (Moments(4).update(data(n, 4, seed + i, offset=i)) for i, n in enumerate(sizes))
    if sum(sizes):
        assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
        assert_same(a.merge(b), b.merge(a)) if a.count + b.count else None


def test_merge_changes_neither():
    a, b = Moments(3).update(data(5, 3)), Moments(3).update(data(4, 3, 1))
    before = a.copy(), b.copy()
    joined = a.merge(b)
    empty = Moments(3).merge(a)
    joined.update(data(2, 3))
    empty.update(data(2, 3))
    assert_same(a, before[0])
    assert_same(b, before[1])


def test_chunks_give_what_one_batch_gives(monkeypatch):
    X = data(500, 6, offset=3)
    whole = Moments(6).update(X)
    monkeypatch.setattr(module, "LEAST_CHUNK_ROWS", 7)
    monkeypatch.setattr(module, "CHUNK_VALUES", 1)
    assert_same(Moments(6).update(X), whole)


def test_a_large_mean_costs_no_digits():
    noise = np.random.default_rng(0).normal(size=(4000, 3)).round(3)
    near, far = Moments.of([noise]), Moments.of(np.array_split(noise + 1e8, 9))
    np.testing.assert_allclose(far.covariance(), near.covariance(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32])
def test_other_dtypes_are_summed_in_float64(dtype):
    X = (data(300, 4) * 10).astype(dtype)
    expected = np.cov(X.astype(np.float64).T)
    got = Moments.of([X]).covariance()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 * expected.max())


def test_lower_orders_and_state():
    X = data(20, 3)
    assert Moments.of([X], order=0).count == 20
    first = Moments.of([X], order=1)
    np.testing.assert_allclose(first.mean, X.mean(axis=0))
    with pytest.raises(InputError, match="order 1 have no covariance: gather order=2"):
        first.covariance()
    assert_same(Moments.from_state(Moments.of([X]).state()), Moments.of([X]))
    assert repr(first) == "Moments(20 rows, dim 3, order 1)"


def test_errors_add_nothing():
    moments = Moments(3).update(data(4, 3))
    before = moments.copy()
    bad = data(4, 3)
    bad[2, 1] = np.nan
    for batch, message in [
        (bad, "row 2 of X holds NaN"),
        (data(4, 2), r"shape \(4, 2\): it must be \(rows, 3\)"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.array([["a", "b", "c"]]), "dtype <U1: it must hold real numbers"),
    ]:
        with pytest.raises(InputError, match=message):
            moments.update(batch)
    assert_same(moments, before)
    with pytest.raises(InputError, match="needs at least 2 rows; gather more"):
        Moments.of([data(1, 3)]).covariance()
    with pytest.raises(InputError, match="cannot merge moments of dim 3"):
        moments.merge(Moments(2))
    with pytest.raises(InputError, match="no batch"):
        Moments.of([])
    with pytest.raises(InputError, match="dim >= 1"):
        Moments(0)


@pytest.mark.parametrize(("rows", "dim"), [(5, 20), (50, 20), (2000, 4), (30, 1)])
def test_shrinkage_is_scikit_learns_oas(rows, dim):
    X = data(rows, dim)
    moments = Moments.of([X])
    expected_covariance, expected = oas(X)
    assert oas_shrinkage(moments.covariance(), rows) == pytest.approx(expected, rel=1e-9)
    biased = moments.covariance(biased=True)
    shrunk = (1 - expected) * biased + expected * np.trace(biased) / dim * np.eye(dim)
    np.testing.assert_allclose(shrunk, expected_covariance, rtol=1e-9, atol=1e-12)


def test_shrinkage_of_nothing_and_of_a_sphere_is_whole():
    assert oas_shrinkage(np.zeros((3, 3)), 10) == 1.0
    assert oas_shrinkage(np.eye(3), 10) == 1.0


def groups_of(rows, groups, seed=0):
    return np.random.default_rng(seed).integers(0, groups, rows)


def test_scatter_within_groups_is_its_definition():
    X, ids = data(200, 5, offset=1e5), groups_of(200, 30)
    got = GroupedMoments(5).update(X, ids)
    expected = sum(
        (X[ids == g] - X[ids == g].mean(0)).T @ (X[ids == g] - X[ids == g].mean(0))
        for g in np.unique(ids)
    )
    np.testing.assert_allclose(got.within, expected, rtol=0, atol=1e-8 * expected.max())
    assert (got.count, got.groups, got.dim) == (200, 30, 5)
    assert repr(got) == "GroupedMoments(200 rows in 30 groups, dim 5)"


def test_grouped_moments_add_up_and_chunk(monkeypatch):
    X, ids = data(300, 4), np.sort(groups_of(300, 25))
    whole = GroupedMoments(4).update(X, [f"sequence {i}" for i in ids])
    half = ids < 12
    merged = GroupedMoments(4).update(X[half], ids[half])
    merged = merged.merge(GroupedMoments(4).update(X[~half], ids[~half]))
    monkeypatch.setattr("onevec.project.within.CHUNK_VALUES", 28)
    chunked = GroupedMoments(4).update(X, ids)
    for other in (merged, chunked):
        np.testing.assert_allclose(other.within, whole.within, rtol=1e-10, atol=1e-9)
        assert other.groups == whole.groups
        assert_same(other.total, whole.total)


def test_row_sample_is_uniform_exact_when_small_and_mergeable():
    rows = np.arange(2000.0)[:, None]
    small = RowSample(50).update(rows[:20]).update(rows[20:50])
    np.testing.assert_array_equal(np.sort(small.rows, axis=0), rows[:50])
    hits = np.zeros(2000)
    for seed in range(200):
        left, right = RowSample(100, seed), RowSample(100, seed + 1000)
        for batch in np.split(rows[:1200], 6):
            left.update(batch)
        right.update(rows[1200:])
        joined = left.merge(right)
        assert len(left.rows) == len(right.rows) == len(joined.rows) == 100
        hits[joined.rows[:, 0].astype(int)] += 1
    # 200 samples of 100 of 2000: 10 expected per row; each tenth of the rows within 4 sigma.
    tenths = hits.reshape(10, -1).sum(axis=1)
    assert abs(tenths - 2000).max() < 4 * np.sqrt(2000 * 0.9)


def test_row_sample_does_not_depend_on_the_batches():
    rows = np.random.default_rng(0).normal(size=(500, 2))
    whole = RowSample(40).update(rows)
    parts = RowSample(40)
    for batch in np.array_split(rows, 17):
        parts.update(batch)
    assert {tuple(r) for r in whole.rows} == {tuple(r) for r in parts.rows}
