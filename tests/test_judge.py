"""Scores without labels, the measured range, and the verdict made of both."""

import numpy as np
import pytest

from onevec import OneVec
from onevec.blocks import prepare
from onevec.errors import InputError
from onevec.judge.dimension import dimension_curve, neighbours_kept, smallest
from onevec.judge.exam import Exam
from onevec.judge.measured import Range, describe, gain_range
from onevec.judge.probes import run_probes
from onevec.judge.unlabelled import matched_retrieval, uniformity
from onevec.judge.verdict import verdict
from onevec.parts import BLOCKS
from onevec.ragged import Ragged


@pytest.mark.parametrize("dims", [1, 2, 16, 64, 300])
def test_even_directions_have_uniformity_0(dims):
    vectors = np.random.default_rng(dims).normal(size=(1_500, dims))
    assert abs(uniformity(vectors)) < 0.01
    padded = np.hstack([vectors, np.zeros((1_500, 7))])  # dimensions without variance are none
    assert uniformity(padded) == pytest.approx(uniformity(vectors))


def test_a_narrow_cone_is_uneven():
    vectors = np.random.default_rng(0).normal(size=(300, 16))
    assert uniformity(vectors + 3) > 1
    assert uniformity(vectors) < uniformity(vectors + 1) < uniformity(vectors + 3)


def slow_retrieval(first, second, lengths, rivals):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    n, shares = len(first), []
    order = np.argsort(lengths, kind="stable")
    place = np.argsort(order)
    for i in range(n):
        start = min(max(place[i] - rivals // 2, 0), n - 1 - rivals)
        others = [j for j in order[start : start + rivals + 1] if j != i]
        own = unit[0][i] @ unit[1][i]
        one = np.mean([own > unit[0][i] @ unit[1][j] for j in others])
        two = np.mean([own > unit[0][j] @ unit[1][i] for j in others])
        shares.append((one + two) / 2)
    return np.array(shares)


def test_retrieval_is_the_area_under_the_curve_among_like_lengths(monkeypatch):
    monkeypatch.setattr("onevec.judge.unlabelled._RIVALS", 10)
    rng = np.random.default_rng(0)
    first = rng.normal(size=(100, 5))
    second = first + rng.normal(size=(100, 5))
    lengths = rng.integers(2, 9, size=100)
    for count, rivals in ((100, 10), (60, 7), (9, 4), (3, 2)):  # of few sequences, fewer are alike
        parts = first[:count], second[:count], lengths[:count]
        np.testing.assert_allclose(matched_retrieval(*parts), slow_retrieval(*parts, rivals))


def test_telling_the_length_alone_finds_nothing():
    lengths = np.repeat(np.arange(2, 102), 8)
    angle = lengths[:, None] / 70
    vectors = np.hstack([np.cos(angle), np.sin(angle)])
    rng = np.random.default_rng(0)
    halves = [vectors + 0.001 * rng.normal(size=vectors.shape) for _ in range(2)]
    everyone = matched_retrieval(*halves, rng.permutation(lengths)).mean()
    alike = matched_retrieval(*halves, lengths).mean()
    assert everyone > 0.98
    assert alike < 0.92


def test_constant_vectors_find_half():
    assert matched_retrieval(np.ones((9, 3)), np.ones((9, 3)), np.arange(9)).mean() == 0.5


def measured_rows(gains, encoders=None):
    """Rows of encoders that differ in how many dimensions their tokens have."""
    encoders = encoders or [f"encoder {number}" for number in range(len(gains))]
    return [
        {"kind": "encoder", "encoder": encoder, "task": "t", "gain": gain, "dim": 2.0 ** (5 + at)}
        | {"length": 30.0, "icc": 0.1, "norm_cv": 0.05}
        for at, (gain, encoder) in enumerate(zip(gains, encoders, strict=True))
    ]


DATA = {"dim": 32.0, "length": 30.0, "icc": 0.1, "norm_cv": 0.05}


def test_the_range_leaves_the_nearest_encoder_out():
    rows = measured_rows([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = gain_range("encoder", DATA, rows)
    assert found.left_out == "encoder 0" and found.rows == 6 and found.encoders == 6
    assert (found.gain, found.low, found.high) == (3.5, 1.0, 6.0)
    assert found.covered == pytest.approx(5 / 7)  # what the smallest and largest of six hold
    assert gain_range("frames", DATA, rows) is None
    assert gain_range("encoder", DATA, rows[:5]) is None  # four are too few


def test_the_range_holds_the_share_it_says():
    """Order statistics of rows that are drawn alike hold a further one as often as they say."""
    rng = np.random.default_rng(0)
    held, said = [], 0.0
    for _ in range(2_000):
        gains = rng.normal(size=41)
        found = gain_range("encoder", DATA, measured_rows([0.0, *gains[1:]]))
        held.append(found.low <= gains[0] <= found.high)
        said = found.covered
    assert 0.9 <= said <= 0.96
    assert np.mean(held) == pytest.approx(said, abs=0.02)


def test_what_is_known_of_tokens_is_the_formula():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, size=50)
    shifts = rng.normal(size=(50, 3)) * [0.0, 1.0, 3.0]
    parts = [shift + rng.normal(size=(n, 3)) for shift, n in zip(shifts, lengths, strict=True)]
    found = describe(Ragged.from_list([part.astype(np.float32) for part in parts]))
    values = np.concatenate(parts)
    norms = np.linalg.norm(values, axis=1)
    assert found["dim"] == 3 and found["length"] == pytest.approx(lengths.mean())
    assert found["norm_cv"] == pytest.approx(norms.std() / norms.mean(), rel=1e-5)
    inside = sum(((part - part.mean(0)) ** 2).sum(0) for part in parts) / (lengths.sum() - 50)
    between = sum(len(p) * (p.mean(0) - values.mean(0)) ** 2 for p in parts) / 49
    size = (lengths.sum() - (lengths**2).sum() / lengths.sum()) / 49
    wanted = (between - inside) / (between + (size - 1) * inside)
    assert found["icc"] == pytest.approx(wanted.mean(), rel=1e-4)


RANGE = Range(5.0, 0.5, 9.0, 0.9, 20, 10, "other")
AGREES = {"found": 0.9, "found_by_mean": 0.8, "found_z": 5.0, "neighbours": 0.5}
SHORT = {"dim": 8, "whole": 100, "native": 32, "neighbours": 0.7, "neighbours_of_mean": 0.6}


def test_a_claim_needs_the_whole_range_and_these_data():
    assert verdict(RANGE, AGREES, 99, kind="encoder").beats_mean
    below = Range(5.0, -0.1, 9.0, 0.9, 20, 10, "other")
    said = verdict(below, AGREES, 99, kind="encoder")
    assert not said.beats_mean and "no win is claimed" in said.sentence
    assert said.expected_gain == 5.0 and said.interval == [-0.1, 9.0]
    for refused in (
        verdict(None, AGREES, 99, kind="encoder"),
        verdict(RANGE, {}, 0, kind="encoder"),
        verdict(RANGE, AGREES | {"found_z": 1.0}, 99, kind="encoder"),
        verdict(RANGE, AGREES, 99, kind="encoder", several_layers=True),
        verdict(RANGE, AGREES, 99, kind="encoder", shorter=SHORT),
    ):
        assert not refused.beats_mean, refused.sentence


def test_fewer_dimensions_than_the_mean_change_the_promise():
    said = verdict(RANGE, AGREES, 99, kind="encoder", shorter=SHORT).sentence
    assert "keeps 70 %" in said and "no longer contains the mean" in said
    longer = verdict(RANGE, AGREES, 99, kind="encoder", shorter=SHORT | {"dim": 50})
    assert longer.beats_mean and "no longer" not in longer.sentence


def test_dimensions_are_as_many_as_neighbours_need():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(300, 3))
    whole = np.hstack([kinds, 0.01 * rng.normal(size=(300, 60))])
    curve = dimension_curve(whole, whole)
    assert [entry["dim"] for entry in curve] == [8, 16, 24, 32, 48, 63]
    assert smallest(curve) == 8 and curve[-1]["neighbours"] == 1
    assert neighbours_kept(whole, whole) == 1 and neighbours_kept(whole, kinds) > 0.8
    even = rng.normal(size=(300, 64))
    assert smallest(dimension_curve(even, even)) > 24


def test_dimensions_without_held_out_sequences_are_the_whole(easy_tokens):
    model = OneVec(dim="auto", parts=["mean"]).fit(easy_tokens[0][:20])
    assert model.verdict_.dimensions == [] and model.vector_.shorter is None
    with pytest.raises(InputError, match='at least 1, "auto", or None'):
        OneVec(dim="some").fit(easy_tokens[0])


def test_noise_that_stays_in_a_sequence_changes_no_other_part(easy_tokens):
    rng = np.random.default_rng(0)
    noisy = [np.hstack([t, np.tile(5 * rng.normal(size=6), (len(t), 1))]) for t in easy_tokens[0]]
    models = [OneVec(parts=["rich", "plain"]).fit(tokens) for tokens in (easy_tokens[0], noisy)]
    found, wanted = models[1].transform(noisy), models[0].transform(easy_tokens[0])
    # Shrinkage and widths know how many dimensions tokens have, so not to the last digit.
    assert np.corrcoef((found @ found.T).ravel(), (wanted @ wanted.T).ravel())[0, 1] > 0.98


@pytest.mark.parametrize("counts", [(200, 600), (30, 60, 110)])
@pytest.mark.parametrize("seed", range(4))
def test_noise_is_never_said_to_beat_the_mean(seed, counts):
    rng = np.random.default_rng(seed)
    dim, count, longest = (int(rng.choice(c)) for c in ((8, 32, 64), counts, (8, 40, 150)))
    tokens = [rng.normal(size=(n, dim)) for n in rng.integers(2, longest, size=count)]
    said = OneVec().fit(tokens).verdict_
    assert not said.beats_mean, said.sentence


def clusters(rng, kinds, lengths):
    """The mean says all there is to say."""
    centres = rng.normal(size=(8, 16)) * 0.35
    return [
        centres[kind] + rng.normal(size=(n, 16)) for kind, n in zip(kinds, lengths, strict=True)
    ]


def sessions(rng, kinds, lengths):
    """The same, in three groups that lie far apart: the means lie very unevenly."""
    offsets, centres = rng.normal(size=(3, 24)) * 3, rng.normal(size=(8, 24)) * 0.4
    return [
        offsets[rng.integers(3)] + centres[kind] + rng.normal(size=(n, 24))
        for kind, n in zip(kinds, lengths, strict=True)
    ]


def spreads(rng, kinds, lengths):
    """The mean says nothing, the spread all."""
    sizes = np.exp(0.4 * rng.normal(size=(8, 24)))
    return [sizes[kind] * rng.normal(size=(n, 24)) for kind, n in zip(kinds, lengths, strict=True)]


def orders(rng, kinds, lengths):
    """The mean says nothing, the order all."""
    waves = rng.normal(size=(8, 24))
    return [
        np.sin(np.linspace(0, 2 * np.pi, n))[:, None] * waves[kind] + rng.normal(size=(n, 24))
        for kind, n in zip(kinds, lengths, strict=True)
    ]


@pytest.mark.parametrize(
    "world, least", [(clusters, -5), (sessions, -5), (spreads, 30), (orders, 30)]
)
def test_the_vector_holds_what_the_mean_misses(world, least):
    rng = np.random.default_rng(0)
    kinds = rng.integers(8, size=1_200)
    tokens = world(rng, kinds, rng.integers(10, 40, size=1_200))
    known, new = slice(600), slice(600, None)
    model = OneVec().fit(tokens[known])
    means = [model.transform_baselines(tokens[part])["mean"] for part in (known, new)]
    found = [model.transform(tokens[part]) for part in (known, new)]
    ours, theirs = (
        run_probes(pair[0], kinds[known], pair[1], kinds[new], "classes", names=["knn"])["knn"]
        for pair in (found, means)
    )
    assert ours.score() - theirs.score() >= least


def test_a_sentinel_is_told_and_claims_nothing():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(int(n), 16)) for n in rng.integers(4, 30, size=300)]
    claims = 0
    for row in range(6):
        spoilt = [t.copy() for t in tokens]
        spoilt[row][0] = -9999
        with pytest.warns(UserWarning, match=f"of row {row} first: .* sentinels such as -9999"):
            claims += OneVec().fit(spoilt).verdict_.beats_mean
    assert claims == 0


@pytest.mark.parametrize("value", [0.0, 1.5, 3.3, -2 / 3])
def test_sequences_that_are_alike_keep_the_mean(value):
    lengths = np.random.default_rng(0).integers(4, 30, size=300)
    tokens = [np.full((int(n), 16), value) for n in lengths]
    for dim in (8, "auto"):
        verdict = OneVec(dim=dim).fit(tokens).verdict_
        assert not verdict.beats_mean and "all alike" in verdict.sentence


def test_copies_of_one_sequence_keep_the_mean():
    one = np.random.default_rng(0).normal(size=(7, 16))
    model = OneVec(dim="auto").fit([one] * 300)
    assert "all alike" in model.verdict_.sentence
    assert np.isfinite(model.transform([one])).all()


def test_halves_that_are_pooled_along_are_those_pooled_apart():
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 40, 140), *[1] * 10]  # those of one token have no halves
    tokens = Ragged.from_list([rng.normal(size=(n, 160)) for n in lengths])
    apart, along = (prepare(tokens, BLOCKS, "quick", 0, halved=halved) for halved in (False, True))
    assert apart.halves is None and len(along.held_out_rows(tokens)) < along.held_out
    for name, block in apart.features.items():
        np.testing.assert_allclose(along.features[name], block, atol=1e-5)
    exams = [Exam.set(tokens, prepared, 0, {}) for prepared in (apart, along)]
    answers = [exam.answers(along.blocks) for exam in exams]
    for ours, theirs in zip(*answers, strict=True):
        assert list(ours) == list(theirs) == list(BLOCKS)
        for name, block in ours.items():
            np.testing.assert_allclose(theirs[name], block, atol=1e-5)
    assert along.half(0).halves is None and along.renewed(tokens, ["dct"]).halves is None


@pytest.mark.parametrize("count", [300, 90])
def test_nothing_is_fitted_to_the_sequences_held_out(count):
    rng = np.random.default_rng(0)
    tokens = Ragged.from_list([rng.normal(size=(5, 4)) for _ in range(count)])
    whole = prepare(tokens, BLOCKS, "quick", 0)
    changed = tokens.values.clone().reshape(count, 5, 4)
    changed[whole.rows[whole.count :]] *= 3
    other = prepare(Ragged(changed.reshape(-1, 4), tokens.lengths), BLOCKS, "quick", 0)
    for name, block in whole.fitted.items():
        np.testing.assert_array_equal(block, other.fitted[name])
