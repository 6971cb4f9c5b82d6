"""Scores without labels, and what they are taken to be worth."""

import json

import numpy as np
import pytest

from onevec import OneVec
from onevec.errors import InputError
from onevec.judge import calibration
from onevec.judge.calibration import MEASURES, Calibration, measures_of
from onevec.judge.unlabelled import matched_retrieval, uniformity
from onevec.judge.verdict import choose
from onevec.recipe import candidates

ROW = {"uniformity_gain": 0.5, "retrieval_z": 8.0}


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
    first = rng.normal(size=(60, 5))
    second = first + rng.normal(size=(60, 5))
    lengths = rng.integers(2, 9, size=60)
    found = matched_retrieval(first, second, lengths)
    np.testing.assert_allclose(found, slow_retrieval(first, second, lengths, 10))


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


def test_expectation_is_the_formula_and_cut_off():
    weights = dict(zip(MEASURES, (2.0, 3.0), strict=True))
    table = Calibration({"a": 1.0}, -0.5, weights, 2.0)
    gain, chance = table.expect("a", measures_of(ROW))
    assert gain == pytest.approx(1 + 2 * 0.5 + 3 * 1)
    assert chance == pytest.approx(0.99379, abs=1e-4)  # two and a half standard deviations
    assert table.expect("never seen", measures_of(ROW))[0] == pytest.approx(gain - 1.5)
    far = measures_of({"uniformity_gain": 99, "retrieval_z": -9e9})
    assert far == {"uniformity": 3.0, "retrieval": -1.5}
    assert measures_of({"uniformity_gain": -99, "retrieval_z": 0})["uniformity"] == -0.2


def test_another_table_for_a_while(easy_tokens):
    never = Calibration({}, -99.0, {name: 0.0 for name in MEASURES}, 1.0)
    with calibration.use(never):
        kept = OneVec(dim=8).fit(easy_tokens[0]).verdict_
    assert not kept.beats_mean and kept.probability < 1e-6
    assert OneVec(dim=8).fit(easy_tokens[0]).verdict_.beats_mean


@pytest.mark.parametrize(
    "found, kept", [(0.9, "mean, whitened with shrinkage 0.9"), (0.99, "mean, PCA")]
)
def test_the_mean_is_kept_evened_unless_it_finds_the_other_halves(found, kept):
    no_gain = {"probability": 0.4, "uniformity_gain": 0.0, "retrieval_z": 0.0}
    rows = [{"name": o.name, "retrieval": found} | no_gain for o in candidates("quick")]
    place, chosen = choose(rows)
    assert rows[chosen]["name"] == kept and place not in (0, chosen)


def test_the_shipped_table_knows_every_default_candidate():
    held = json.loads(calibration.FILE.read_text())
    names = {option.name for option in candidates("thorough")[1:]}
    assert names <= set(held["table"]["intercepts"])
    assert set(held["table"]["weights"]) == set(MEASURES)
    assert calibration.calibration().spread > 0


def test_dimensions_are_as_many_as_the_data_need():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(600, 3)) @ rng.normal(size=(3, 40)) * 3
    tokens = [kind + rng.normal(size=(15, 40)) * 0.3 for kind in kinds]
    model = OneVec(dim="auto", pooler="mean").fit(tokens)
    curve = model.verdict_.dimensions
    assert model.transform(tokens[:2]).shape == (2, 8)  # the fewest that are offered
    assert [entry["dim"] for entry in curve] == [8, 16, 24, 32, 40]
    assert curve[-1]["neighbours"] == 1
    wide = [rng.normal(size=(15, 40)) for _ in range(600)]
    assert OneVec(dim="auto", pooler="mean").fit(wide).transform(wide[:1]).shape[1] > 24


def test_dimensions_of_a_few_sequences_are_the_usual(easy_tokens):
    model = OneVec(dim="auto").fit(easy_tokens[0][:30])
    assert model.verdict_.dimensions == []
    with pytest.raises(InputError, match='at least 1, or "auto"'):
        OneVec(dim="some").fit(easy_tokens[0])


def test_noise_that_stays_in_a_sequence_does_not_change_the_verdict(easy_tokens):
    rng = np.random.default_rng(0)
    noisy = [np.hstack([t, np.tile(5 * rng.normal(size=6), (len(t), 1))]) for t in easy_tokens[0]]
    plain, attacked = (OneVec(dim=8).fit(tokens) for tokens in (easy_tokens[0], noisy))
    assert attacked.verdict_.choice == plain.verdict_.choice
    assert attacked.verdict_.beats_mean
    found, wanted = attacked.transform(noisy), plain.transform(easy_tokens[0])
    # Shrinkage knows how wide the tokens are, so not to the last digit.
    assert np.corrcoef((found @ found.T).ravel(), (wanted @ wanted.T).ravel())[0, 1] > 0.99


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_never_said_to_beat_the_mean(seed):
    rng = np.random.default_rng(seed)
    dim, count, longest = (int(rng.choice(c)) for c in ((8, 32, 64), (200, 600), (8, 40, 150)))
    tokens = [rng.normal(size=(n, dim)) for n in rng.integers(2, longest, size=count)]
    verdict = OneVec(dim=8, effort="standard").fit(tokens).verdict_
    assert not verdict.beats_mean, verdict.sentence
    assert verdict.sentence.startswith("Keep the mean")
