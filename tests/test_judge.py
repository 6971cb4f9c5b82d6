"""Scores without labels, and what they are taken to be worth."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from onevec import OneVec
from onevec.blocks import prepare, prepare_folds
from onevec.errors import InputError
from onevec.judge import calibration
from onevec.judge.calibration import MEASURES, Calibration, measures_of, outdone
from onevec.judge.compare import _above_chance
from onevec.judge.dimension import _neighbours, dimension_curve
from onevec.judge.exam import Exam
from onevec.judge.probes import run_probes
from onevec.judge.unlabelled import matched_retrieval, uniformity
from onevec.judge.verdict import _sentence, choose
from onevec.ragged import Ragged
from onevec.recipe import BLEND, BLOCKS, PLAIN, RICH, candidates
from onevec.reduction import EVENED_MEAN, Reduction

ROW = {
    "blend": False,
    "uniformity_gain": 0.5,
    "found_z": 9.0,
    "spread_z": 0.0,
    "retrieval": 0.7,
    "retrieval_gain": 0.08,
    "pseudo_labels": 0.5,
    "pseudo_labels_gain": -0.02,
}


def said_of(option):
    """A row of a candidate."""
    return ROW | {"name": option.name, "blend": bool(option.parts)}


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


def test_expectation_is_the_formula_and_cut_off():
    table = Calibration({"a": 1.0}, -0.5, dict(zip(MEASURES, (2.0, 3.0, 4.0), strict=True)), 2.0)
    gain, chance = table.expect("a", measures_of(ROW))
    said = 2 * 0.5 + 3 * np.log(0.39 / 0.31) + 4 * 4 * np.log(0.52 / 0.54)
    assert gain == pytest.approx(1 + said)
    assert chance == pytest.approx(norm.cdf((1 + said) / 2))
    assert table.expect("never seen", measures_of(ROW))[0] == pytest.approx(gain - 1.5)


def test_measures_are_cut_off():
    said = {"uniformity_gain": 99, "retrieval": 0.0, "retrieval_gain": -1.0}
    said |= {"pseudo_labels": 1.0, "pseudo_labels_gain": 0.9}
    assert measures_of(said) == {"uniformity": 3.0, "retrieval": -2.0, "pseudo_labels": 2.0}
    same = {"uniformity_gain": 0, "retrieval": 1.0, "retrieval_gain": 0}
    same |= {"pseudo_labels": 0.0, "pseudo_labels_gain": 0}
    assert set(measures_of(same).values()) == {0.0}


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
    rows = [said_of(o) | {"retrieval": found} | no_gain for o in candidates()]
    place, chosen = choose(rows)
    assert rows[chosen]["name"] == kept and place not in (0, chosen)


def raise_measure(row, measure):
    """Make a row clearly better in one measure."""
    if measure == "uniformity":
        row["uniformity_gain"] += 0.1
    else:
        row[measure] += 0.02
        row[f"{measure}_gain"] += 0.02


@pytest.mark.parametrize("plainer", [PLAIN, EVENED_MEAN])
@pytest.mark.parametrize("better", [*MEASURES, None])
def test_what_a_plainer_one_outdoes_is_passed_over(better, plainer):
    known = {"retrieval_z": 9.0, "uniformity": -1.0, "expected_gain": 3.0}
    rows = [said_of(o) | known | {"probability": 0.5} for o in candidates()]
    rich, *others = rows[1:]
    rich["probability"] = 0.8
    rival = next(row for row in others if row["name"] == plainer.name)
    for measure in MEASURES:
        if measure != better:
            raise_measure(rival, measure)
    assert outdone(rich, rival) == (better is None) and not outdone(rival, rival)
    place, chosen = choose(rows)
    assert place == 1 and rows[chosen]["name"] == (rich if better else rows[-1])["name"]
    said = _sentence(rows, place, chosen, 99)
    assert (f"the {plainer.name} outdoes it" in said) == (better is None) and RICH.name in said


@pytest.mark.parametrize("spread, taken", [(4.1, True), (3.9, False)])
def test_the_blend_is_taken_where_nothing_else_is_and_the_spread_tells(spread, taken):
    known = {"retrieval_z": 0.0, "uniformity_gain": 0.0, "probability": 0.6}
    rows = [said_of(o) | known | {"expected_gain": 2.0} for o in candidates()]
    blend = next(row for row in rows if row["name"] == BLEND.name)
    blend |= {"probability": 0.8, "spread_z": spread, "uniformity": -1.0}
    for measure in MEASURES:
        raise_measure(rows[-1], measure)  # the evened mean outdoes what is not made of it
    assert outdone(blend, rows[-1])
    place, chosen = choose(rows)
    assert (rows[chosen] is blend) == taken and (chosen == place) == taken
    rows[1] |= {"probability": 0.9, "retrieval_z": 9.0, "uniformity_gain": 0.9}
    assert choose(rows) == (1, 1)


def test_the_shipped_table_knows_every_default_candidate():
    held = json.loads(calibration.FILE.read_text())
    names = {option.name for option in candidates()[1:]}
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


def test_dimensions_of_a_blend_are_judged_as_they_are_fitted(easy_tokens):
    prepared = prepare(Ragged.from_list(easy_tokens[0]), BLOCKS, "quick", 0)
    curve = {entry["dim"]: entry["neighbours"] for entry in dimension_curve(prepared, BLEND)}
    held = {name: block[prepared.count :] for name, block in prepared.features.items()}
    at = {d: Reduction(BLEND).fit(prepared.fitted, d).transform(held) for d in (16, 256)}
    few, many = _neighbours(at[16]), _neighbours(at[256][:, : max(curve)])
    assert curve[16] == pytest.approx(few[many].mean(), abs=1e-9)


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


@pytest.mark.parametrize("counts", [(200, 600), (30, 60, 110)])
@pytest.mark.parametrize("seed", range(6))
def test_noise_is_never_said_to_beat_the_mean(seed, counts):
    rng = np.random.default_rng(seed)
    dim, count, longest = (int(rng.choice(c)) for c in ((8, 32, 64), counts, (8, 40, 150)))
    tokens = [rng.normal(size=(n, dim)) for n in rng.integers(2, longest, size=count)]
    verdict = OneVec(dim=8, effort="standard").fit(tokens).verdict_
    assert not verdict.beats_mean, verdict.sentence
    assert verdict.sentence.startswith("Keep the mean")


@pytest.mark.parametrize("apart, told", [(-9.0, True), (4.1, True), (1.0, False), (-3.9, False)])
def test_evenness_counts_where_any_candidate_tells_halves_apart(apart, told):
    known = {"retrieval_z": 0.0, "found_z": 0.0, "probability": 0.9, "uniformity": -1.0}
    rows = [said_of(o) | known | {"expected_gain": 2.0} for o in candidates()]
    rows[-1]["found_z"] = apart
    place, chosen = choose(rows)
    assert (place == chosen == 1) == told
    assert ("no headroom" in _sentence(rows, place, chosen, 99)) != told


@pytest.mark.parametrize("seed", range(6))
def test_noise_whose_features_differ_in_scale_is_not_either(seed):
    """There every candidate that whitens lies more evenly than the mean."""
    rng = np.random.default_rng(seed)
    scale = (np.r_[np.ones(15), 3.0 + 7 * (seed % 2)], np.geomspace(5, 0.2, 16))[seed // 3]
    tokens = [scale * rng.normal(size=(n, 16)) for n in rng.integers(5, 40, size=600)]
    verdict = OneVec(dim=8).fit(tokens).verdict_
    assert not verdict.beats_mean, verdict.sentence
    assert verdict.sentence.startswith("Keep the mean") and "no headroom" in verdict.sentence
    assert (verdict.probability, verdict.expected_gain, verdict.interval) == (0.5, None, None)
    assert max(row["uniformity_gain"] for row in verdict.candidates) > 0.1
    assert not any(row["told"] for row in verdict.candidates)


def test_what_is_always_found_is_found_surely():
    assert _above_chance(np.ones(50)) == 25 and _above_chance(np.full(50, 0.5)) == 0
    mixed = np.r_[np.ones(300), np.zeros(100)]
    assert _above_chance(mixed) == pytest.approx(0.25 / mixed.std(ddof=1) * 20)
    assert _above_chance(np.ones(1)) == 0


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


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "world, least", [(clusters, -5), (sessions, -5), (spreads, 30), (orders, 30)]
)
def test_the_verdict_holds_where_the_truth_is_known(world, least, seed):
    rng = np.random.default_rng(seed)
    kinds = rng.integers(8, size=1_200)
    tokens = world(rng, kinds, rng.integers(10, 40, size=1_200))
    known, new = slice(600), slice(600, None)
    model = OneVec(dim=12).fit(tokens[known])
    means = [model.transform_baselines(tokens[part])["mean_pca"] for part in (known, new)]
    found = [model.transform(tokens[part]) for part in (known, new)]
    ours, theirs = (
        run_probes(pair[0], kinds[known], pair[1], kinds[new], "classes", names=["knn"])["knn"]
        for pair in (found, means)
    )
    assert ours.score() - theirs.score() >= least
    assert model.verdict_.beats_mean or least < 0


def test_a_sentinel_is_told_and_claims_nothing():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(int(n), 16)) for n in rng.integers(4, 30, size=300)]
    claims = 0
    for row in range(6):
        spoilt = [t.copy() for t in tokens]
        spoilt[row][0] = -9999
        with pytest.warns(UserWarning, match=f"of row {row} first: .* sentinels such as -9999"):
            claims += OneVec(dim=8).fit(spoilt).verdict_.beats_mean
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


def test_few_sequences_are_held_out_in_turn(easy_tokens):
    model = OneVec(dim=8).fit(easy_tokens[0][:60])
    verdict = model.verdict_
    assert verdict.beats_mean and verdict.held_out == 60 and verdict.length_r2 is None
    assert "60 held-out sequences" in verdict.sentence
    assert "verdict needs 30" in OneVec(dim=8).fit(easy_tokens[0][:29]).verdict_.sentence
    folds = prepare_folds(Ragged.from_list(easy_tokens[0][:61]), BLOCKS, "quick", 0)
    held = np.concatenate([fold.rows[fold.count :] for fold in folds])
    assert len(folds) == 3 and len(np.unique(held)) == len(held) == 60
    assert all(len(np.unique(fold.rows)) == 61 for fold in folds)
    assert len(prepare_folds(Ragged.from_list(easy_tokens[0][:120]), BLOCKS, "quick", 0)) == 1


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


@pytest.mark.parametrize("count, turn", [(300, 0), (90, 0), (90, 1), (90, 2)])
def test_nothing_is_fitted_to_the_sequences_held_out(count, turn):
    rng = np.random.default_rng(0)
    tokens = Ragged.from_list([rng.normal(size=(5, 4)) for _ in range(count)])
    whole = prepare(tokens, BLOCKS, "quick", 0, turn=turn)
    changed = tokens.values.clone().reshape(count, 5, 4)
    changed[whole.rows[whole.count :]] *= 3
    other = Ragged(changed.reshape(-1, 4), tokens.lengths)
    other = prepare(other, BLOCKS, "quick", 0, turn=turn)
    for name, block in whole.fitted.items():
        np.testing.assert_array_equal(block, other.fitted[name])
