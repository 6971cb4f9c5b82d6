"""Similarity: calibration on held-out pairs, nearest ones, groups of near-duplicates."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onevec.errors import InputError
from onevec.use import similarity
from onevec.use.calibration import FEWEST, Calibration
from onevec.use.exact import METRICS, scores_of
from onevec.use.search import Index
from onevec.use.similarity import duplicate_threshold, near_duplicates, nearest, pairwise


def kinds_of_data():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 16))[rng.integers(50, size=8_000)]
    return {
        "directions": rng.normal(size=(8_000, 32)),
        "decaying": rng.normal(size=(8_000, 32)) * np.arange(1, 33) ** -0.5,
        "clusters": centres + 0.7 * rng.normal(size=(8_000, 16)),
    }


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("name", "X"), kinds_of_data().items())
def test_chances_hold_on_pairs_never_seen(name, X, metric):
    X = X.astype(np.float32)
    calibration = Calibration.fit(X[:4_000], metric=metric)
    rng = np.random.default_rng(1)
    left, right = rng.integers(4_000, 8_000, size=(2, 400_000))
    scores = scores_of(X[left], X[right], metric)[left != right]
    chances = calibration.chance(scores)
    for chance, tolerance in ((0.5, 0.05), (0.1, 0.1), (0.01, 0.15), (1e-3, 0.3)):
        assert (chances <= chance).mean() == pytest.approx(chance, rel=tolerance)
    assert 0.3e-4 < (chances <= 1e-4).mean() < 2e-4  # in the tail, seen 40 times


@pytest.mark.parametrize("metric", METRICS)
def test_the_tail_goes_on_beyond_the_sample(metric):
    X = np.random.default_rng(0).normal(size=(3_000, 12))
    calibration = Calibration.fit(X, metric=metric)
    for chance in (0.3, 0.01, 4e-4, 1e-5, 1e-8):
        assert calibration.chance(calibration.threshold(chance)) == pytest.approx(chance, rel=0.02)
    if metric == "cosine":  # the true tail: a beta distribution
        from scipy.stats import beta

        score = calibration.threshold(1e-6)
        assert 1e-8 < beta.sf((1 + score) / 2, 5.5, 5.5) < 1e-5
        grid = np.linspace(-1, 1, 101)
        chances = calibration.chance(grid)
        assert (np.diff(chances) <= 0).all()
        assert (chances > 0).all()
        assert chances[0] == pytest.approx(1)


def test_few_vectors_are_compared_all_with_all():
    X = np.random.default_rng(0).normal(size=(FEWEST, 3))
    assert len(Calibration.fit(X)._sample) == FEWEST * (FEWEST - 1) // 2
    with pytest.raises(InputError, match="got 29 reference vectors: at least 30"):
        Calibration.fit(X[:-1])


def test_seeded_and_told_in_words():
    X = np.random.default_rng(0).normal(size=(2_000, 8))
    one, two, other = (Calibration.fit(X, random_state=seed) for seed in (0, 0, 1))
    assert one.chance(0.83) == two.chance(0.83) != other.chance(0.83)
    assert one.expected(0.83, 2_000) == 2_000 * one.chance(0.83)
    said = one.sentence(0.83, 2_000)
    assert said.startswith("1 in ")
    assert "random pairs of the reference score 0.830 or more; chance alone gives" in said
    assert one.sentence(-0.5).startswith("9")
    assert "such hits" not in one.sentence(-0.5)
    whole = Index.build(X, metric="euclidean")
    by_distance = Calibration.fit(X, metric="euclidean")
    np.testing.assert_array_equal(Calibration.fit(whole)._sample, by_distance._sample)
    with pytest.raises(InputError, match="chance=0: it must lie between 0 and 1"):
        one.threshold(0)


def test_equal_vectors_have_a_chance_of_their_own():
    calibration = Calibration.fit(np.ones((40, 4)))
    assert calibration.chance(1.0) == 1
    mixed = np.concatenate([np.ones((20, 4)), np.random.default_rng(0).normal(size=(400, 4))])
    chance = Calibration.fit(mixed).chance(1.0)
    assert chance >= 0.9 * 190 / (420 * 419 / 2)


@pytest.mark.parametrize("metric", METRICS)
def test_pairwise_and_nearest_are_one(metric):
    rng = np.random.default_rng(0)
    X, Q = rng.normal(size=(70, 5)), rng.normal(size=(4, 5))
    whole = pairwise(Q, X, metric=metric)
    rows, scores = nearest(X, Q, 3, metric=metric)
    np.testing.assert_array_equal(np.sort(whole, axis=1)[:, :-4:-1], scores)
    own = pairwise(X, metric=metric)
    np.testing.assert_array_equal(own, own.T)
    np.fill_diagonal(own, -np.inf)
    rows, scores = nearest(X, k=3, metric=metric)
    assert not (rows == np.arange(70)[:, None]).any()
    np.testing.assert_array_equal(scores, np.sort(own, axis=1)[:, :-4:-1])
    assert nearest(X[:2], k=9, metric=metric)[0].tolist() == [[1], [0]]
    assert nearest(np.ones((50, 2)), k=2, metric=metric)[0][45:].tolist() == [[0, 1]] * 5


def single_linkage(X, threshold, metric):
    groups = list(range(len(X)))
    for i, j in itertools.combinations(range(len(X)), 2):
        if scores_of(X[i], X[j], metric) >= np.float32(threshold):
            a, b = sorted((groups[i], groups[j]))
            groups = [a if group == b else group for group in groups]
    return groups


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["cosine", "euclidean"]))
def test_groups_are_those_of_single_linkage(data, metric):
    rows, dim = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 4))
    numbers = st.integers(-4, 4).map(float)
    X = data.draw(hnp.arrays(np.float32, (rows, dim), elements=numbers))
    cosines, distances = st.floats(-1, 1), st.floats(-5, 0)
    threshold = data.draw(cosines if metric == "cosine" else distances)
    block, similarity._BLOCK = similarity._BLOCK, 8
    try:
        groups = near_duplicates(X, threshold, metric=metric)
    finally:
        similarity._BLOCK = block
    assert groups.tolist() == single_linkage(X, threshold, metric)


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_planted_copies_are_found(kind, metric):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1_500, 32)).astype(np.float32)
    X[1_000:1_020] = X[3] + 0.001 * rng.normal(size=(20, 32))  # more than the first 16 neighbours
    X[7], X[1_400] = X[1_200], X[1_200]
    wanted = np.arange(1_500)
    wanted[1_000:1_020], wanted[[1_200, 1_400]] = 3, 7
    by_chance = near_duplicates(X, metric=metric)
    np.testing.assert_array_equal(by_chance, wanted)
    found = near_duplicates(Index.build(X, kind=kind, metric=metric), chance=0.01)
    np.testing.assert_array_equal(found, wanted)
    exact = duplicate_threshold(X, metric=metric)
    strict = near_duplicates(X, 1.0 if metric == "cosine" else 0.0, metric=metric)
    assert exact < (1 if metric == "cosine" else 0)
    assert np.flatnonzero(strict != np.arange(1_500)).tolist() == [1_200, 1_400]


def test_the_index_finds_what_chains_through_many():
    X = np.ones((500, 3), np.float32)
    X[::2] *= -1
    groups = near_duplicates(Index.build(X), 0.9)
    assert set(groups[:8]) == {0, 1}
    assert (groups[:8] == [0, 1, 0, 1, 0, 1, 0, 1]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda X: near_duplicates(X, 0.5, metric="dot"), "no meaning by dot"),
        (lambda X: near_duplicates(X, 0.5, metric="l1"), "metric='l1'"),
        (lambda X: near_duplicates(X, 0.5, chance=0.1), "pass one of them"),
        (lambda X: near_duplicates(X, float("nan")), "threshold=nan"),
        (lambda X: near_duplicates(X, chance=0), "chance=0: it must lie between 0 and 780"),
        (lambda X: near_duplicates(X, chance=1e9), "all pairs"),
        (lambda X: near_duplicates(X[:10]), "at least 30"),
        (lambda X: pairwise(X, X[:, :2]), "of 3 and of 2 dimensions"),
        (lambda X: nearest(X, X[:, :2]), "of 3 and of 2 dimensions"),
        (lambda X: nearest(X, k=0), "k=0"),
        (lambda X: pairwise(X, metric="l1"), "metric='l1'"),
        (lambda X: pairwise(X * np.nan), "row 0 of the vectors holds NaN"),
    ],
)
def test_bad_calls_are_one_sentence(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call(np.random.default_rng(0).normal(size=(40, 3)))
    assert "\n" not in str(caught.value)
