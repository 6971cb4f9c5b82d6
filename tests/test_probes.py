import io
import time

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from onevec import OnevecError
from onevec.errors import InputError
from onevec.judge.halves import gather_evidence
from onevec.probes.logistic import fit_logistic
from onevec.probes.outcomes import Outcome, mean_resampled, mean_score, paired_gain
from onevec.probes.probes import (
    draw_shots,
    evaluate,
    logistic_probe,
    neighbour_votes,
    retrieval_probe,
    ridge_probe,
    run_probes,
    stratified_folds,
)
from onevec.project.rows import normalise


def make_blobs(sizes, dim, spread, seed=0):
    """Classes around random centres, unit rows with one long axis, shuffled."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    X = spread * rng.normal(size=(len(sizes), dim))[y] + rng.normal(size=(len(y), dim))
    X[:, 0] = 4 * X[:, 0] + 6
    order = rng.permutation(len(y))
    return normalise(X)[order], y[order]


@pytest.fixture
def blobs():
    X, y = make_blobs([120, 60, 40], 6, 1.2)
    return X, np.array(["a", "b", "c"])[y]


def objective(X, y, weights, intercept, C):
    """Scikit-learn's: C times the summed log loss, and half the squared weights."""
    logits = X @ weights.T + intercept
    if len(weights) == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], 1)
    loss = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return C * (loss - logits[np.arange(len(y)), y]).sum() + (weights**2).sum() / 2


def as_scikit_learn(W):
    """Give one weight vector for two classes."""
    W = W.double().numpy()
    W = W[1:] - W[:1] if len(W) == 2 else W
    return W[:, :-1], W[:, -1]


# --- the solver ---------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(
    ("sizes", "dim", "spread", "agree"),
    [
        ([100, 80, 60, 60], 12, 1.0, 0.99),
        ([100, 80, 60, 60], 12, 0.3, 0.97),
        ([150, 150], 12, 0.5, 0.99),
        ([400, 9], 12, 0.4, 0.99),  # imbalanced
        ([300, 5, 3, 1], 6, 0.6, 0.99),
        ([8, 8, 8], 40, 0.5, 0.99),  # more dimensions than rows
        ([9, 9], 40, 0.5, 0.99),
    ],
)
def test_logistic_regression_is_scikit_learns(sizes, dim, spread, agree, C):
    X, y = make_blobs(sizes, dim, spread)
    X = X / X.std()
    theirs = LogisticRegression(C=C, solver="newton-cg", tol=1e-7, max_iter=10_000).fit(X, y)
    ours = fit_logistic(
        torch.tensor(X[None], dtype=torch.float32),
        torch.tensor(y[None]),
        torch.full((1, 1), C),
        len(sizes),
        tol=1e-5,
    )[0, 0]
    weights, intercept = as_scikit_learn(ours)
    least = objective(X, y, theirs.coef_, theirs.intercept_, C)
    assert objective(X, y, weights, intercept, C) == pytest.approx(least, rel=1e-3)
    largest = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(weights, theirs.coef_, atol=0.05 * largest)
    guess = (X @ weights.T + intercept > 0)[:, 0] if len(sizes) == 2 else 0
    guess = guess if len(sizes) == 2 else (X @ weights.T + intercept).argmax(1)
    assert (guess == theirs.predict(X)).mean() >= agree


@pytest.mark.parametrize("classes", [2, 3])
def test_problems_of_a_batch_are_solved_apart(classes):
    X, y = make_blobs([40] * classes, 5, 0.8)
    parts = [slice(0, 60), slice(20, 75), slice(30, 70)]
    filled = torch.full((3, 60), -1)
    batch = torch.full((3, 60, 5), 7.0, dtype=torch.float64)
    C = torch.tensor([[0.1, 1.0, 3.0], [1.0, 10.0, 100.0]], dtype=torch.float64)
    for i, part in enumerate(parts):
        rows = len(y[part])
        filled[i, :rows], batch[i, :rows] = torch.tensor(y[part]), torch.tensor(X[part])
    together = fit_logistic(batch, filled, C, classes, tol=1e-10)
    for i, part in enumerate(parts):
        one = torch.tensor(X[part][None]), torch.tensor(y[part][None])
        alone = fit_logistic(*one, C[1:, i : i + 1], classes, tol=1e-10)
        torch.testing.assert_close(together[1, i], alone[0, 0], atol=2e-3, rtol=2e-3)
        again = fit_logistic(*one, C[1:, i : i + 1], classes, tol=1e-10, start=alone[0])
        torch.testing.assert_close(again, alone, atol=2e-3, rtol=2e-3)


def test_a_class_without_rows_takes_no_part():
    X, y = make_blobs([20, 20, 20], 4, 1.0)
    three = torch.tensor(X[None]), torch.tensor(y[None] + (y[None] > 0))  # classes 0, 2, 3
    four = fit_logistic(*three, torch.ones(1, 1), 4, tol=1e-10)[0, 0]
    fewer = fit_logistic(three[0], torch.tensor(y[None]), torch.ones(1, 1), 3, tol=1e-10)[0, 0]
    assert four[1, -1] == -torch.inf
    assert not four[1, :-1].any()
    torch.testing.assert_close(four[[0, 2, 3], :-1], fewer[:, :-1], atol=0.02, rtol=0.02)


# --- the probes ---------------------------------------------------------------------------------


def scikit_learn_probe(X, y, test, folds, score):
    """The few-shot probe as a loop; of equals the smallest C, then the global scale."""
    centre, spread = X.mean(0), X.std(0)
    best, choice = -np.inf, None
    for C in np.logspace(-2, 2, 5):
        for scale in (np.sqrt((spread**2).mean()), spread):
            Z = (X - centre) / scale
            total = 0.0
            for fold in range(3):
                known, held = folds != fold, folds == fold
                model = LogisticRegression(C=C, tol=1e-6, max_iter=5_000).fit(Z[known], y[known])
                total += score(model, Z[held], y[held])
            if total > best + 1e-9:
                best, choice = total, (C, scale)
    C, scale = choice
    model = LogisticRegression(C=C, tol=1e-6, max_iter=5_000).fit((X - centre) / scale, y)
    return model, (test - centre) / scale


@pytest.mark.parametrize(
    ("sizes", "spread", "agree"), [([40] * 4, 1.5, 0.99), ([40] * 4, 0.4, 0.97), ([60, 60], 0.6, 1)]
)
def test_logistic_probe_is_scikit_learns_loop(sizes, spread, agree):
    X, y = make_blobs([2 * size for size in sizes], 10, spread)
    half = len(y) // 2
    metric = "auroc" if len(sizes) == 2 else "balanced"

    def score(model, Z, truth):
        if metric == "auroc":
            return roc_auc_score(truth, model.decision_function(Z))
        return balanced_accuracy_score(truth, model.predict(Z))

    rows = np.stack([draw_shots(y[:half], 10, np.random.default_rng(i)) for i in range(2)])
    logits = logistic_probe(
        X[:half],
        y[:half],
        rows,
        X[half:],
        classes=len(sizes),
        metric=metric,
        rng=np.random.default_rng(5),
    )
    rng = np.random.default_rng(5)
    for draw, guess in zip(rows, logits, strict=True):
        folds = stratified_folds(y[draw], rng)
        model, Z = scikit_learn_probe(X[draw], y[draw], X[half:], folds, score)
        if metric == "auroc":
            np.testing.assert_allclose(
                guess[:, 1] - guess[:, 0], model.decision_function(Z), rtol=0.01, atol=0.01
            )
        assert (guess.argmax(1) == model.predict(Z)).mean() >= agree


def test_folds_are_stratified_and_even():
    y = np.repeat([0, 1, 2, 3], [10, 7, 2, 1])
    folds = stratified_folds(y, np.random.default_rng(0))
    for code in range(4):
        counts = np.bincount(folds[y == code], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(folds)) <= 1


def test_draws_depend_on_the_seed_alone():
    X, y = make_blobs([30, 30, 4], 5, 1.0)
    rows = draw_shots(y, 10, np.random.default_rng(0))
    assert np.bincount(y[rows]).tolist() == [10, 10, 4]
    one, two = (run_probes(X, y, X, y, "classes", names=["shot10"], draws=3) for _ in range(2))
    np.testing.assert_array_equal(one["shot10"].values, two["shot10"].values)
    other = run_probes(X, y, X, y, "classes", names=["shot10"], draws=3, seed=1)
    assert (other["shot10"].values != one["shot10"].values).any()


def test_knn_is_scikit_learns(blobs):
    X, y = blobs
    theirs = KNeighborsClassifier(5, metric="cosine").fit(X[:110], y[:110])
    hits = run_probes(X[:110], y[:110], X[110:], y[110:], "classes", names=["knn"])["knn"]
    np.testing.assert_array_equal(hits.values[0], theirs.predict(X[110:]) == y[110:])
    assert hits.score() == pytest.approx(
        100 * balanced_accuracy_score(y[110:], theirs.predict(X[110:]))
    )


def test_binary_knn_is_scikit_learns():
    X, y = make_blobs([150, 90], 6, 0.5)
    theirs = KNeighborsClassifier(15, metric="cosine", weights=lambda d: np.maximum(1 - d, 1e-6))
    share = theirs.fit(X[:120], y[:120]).predict_proba(X[120:])
    ours = neighbour_votes(X[:120], y[:120], X[120:], 2, k=15, weighted=True)
    np.testing.assert_allclose(ours, share, atol=1e-5)
    probe = run_probes(X[:120], y[:120], X[120:], y[120:], "binary", names=["knn"])["knn"]
    assert probe.score() == pytest.approx(100 * roc_auc_score(y[120:], share[:, 1]), abs=0.02)


def test_retrieval_is_the_naive_loop():
    X, y = make_blobs([12, 9, 5, 2, 1], 6, 0.7)
    likeness = X @ X.T
    precision = {code: [] for code in range(5)}
    for i, code in enumerate(y):
        wanted = (y == code).sum() - 1
        order = [j for j in np.argsort(-likeness[i]) if j != i][:wanted]
        if wanted:
            precision[code].append((y[order] == code).mean())
    naive = np.mean([np.mean(values) for values in precision.values() if values])
    probe = run_probes(X, y, X, y, "classes", names=["retrieval"])["retrieval"]
    assert probe.score() == pytest.approx(100 * naive)
    assert (probe.truth == -1).sum() == 1


def test_retrieval_shares_the_places_of_equals():
    X = np.tile([[1.0, 0.0]], (6, 1))
    assert retrieval_probe(X, np.array([0, 0, 0, 1, 1, 1])).score() == pytest.approx(40)  # 2 of 5


def test_ridge_leaves_one_out():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 7)) * np.array([5, 1, 1, 1, 1, 0.1, 0])
    y = X[:, 0] + rng.normal(size=40) + 3
    test = rng.normal(size=(10, 7))
    best, guess = np.inf, None
    for scale in (np.sqrt(X.var(0).mean()), np.where(X.std(0) > 0, X.std(0), 1)):
        Z, T = (X - X.mean(0)) / scale, (test - X.mean(0)) / scale
        for alpha in np.logspace(5, -3, 17):
            kept = [np.arange(40) != i for i in range(40)]
            left = [Ridge(alpha).fit(Z[k], y[k]).predict(Z[~k]) - y[~k] for k in kept]
            if np.mean(np.square(left)) < best:
                best, guess = np.mean(np.square(left)), Ridge(alpha).fit(Z, y).predict(T)
    np.testing.assert_allclose(ridge_probe(X, y, test), guess, atol=1e-5)


def test_regression_scores_r2():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5))
    y = normalise(X) @ [3, 1, 0, 0, -2] + 0.3 * rng.normal(size=400)
    probes = run_probes(X[:250], y[:250], X[250:], y[250:], "regression")
    assert list(probes) == ["shot100", "full"]
    assert probes["shot100"].values.shape == (10, 150)
    full = r2_score(y[250:], probes["full"].values[0])
    assert probes["full"].score() == pytest.approx(100 * full, abs=1e-3)
    assert 80 < probes["shot100"].score() <= probes["full"].score()
    noise = run_probes(X[:250], rng.normal(size=250), X[250:], y[250:], "regression")
    assert noise["full"].score() == pytest.approx(0, abs=1)


def test_similarity_is_spearmans():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    pairs = rng.integers(60, size=(200, 2))
    cosine = (normalise(X)[pairs[:, 0]] * normalise(X)[pairs[:, 1]]).sum(1)
    gold = np.round(cosine + rng.normal(size=200))  # with ties
    probe = run_probes(X[:0], [], X, gold, "similarity", pairs=pairs)["spearman"]
    assert probe.score() == pytest.approx(100 * spearmanr(cosine, gold).statistic, abs=1e-3)
    flat = run_probes(X[:0], [], np.ones((8, 3)), np.arange(4), "similarity")["spearman"]
    assert flat.score() == 0


# --- the bootstrap ------------------------------------------------------------------------------


def resample(items, draws, i, resamples=20, seed=0):
    """The i-th resample as rows of items and of draws."""
    rngs = [np.random.default_rng((seed, stream)) for stream in (0, 1)]
    return [
        rng.integers(n, size=(resamples, n))[i] for rng, n in zip(rngs, (items, draws), strict=True)
    ]


@pytest.mark.parametrize("metric", ["balanced", "auroc", "r2", "spearman"])
def test_a_resample_scores_as_its_items_would(metric):
    rng = np.random.default_rng(1)
    truth = {
        "balanced": rng.integers(3, size=50),
        "auroc": rng.integers(2, size=50),
        "r2": rng.normal(size=50),
        "spearman": np.round(rng.normal(size=50), 1),
    }[metric]
    values = np.round(truth + 0.7 * rng.normal(size=(4, 50)), 1)
    if metric == "balanced":
        values = (values.round() == truth).astype(np.uint8)
    outcome = Outcome(metric, values, truth)
    scores = outcome.resampled(20)
    for i in range(20):
        items, draws = resample(50, 4, i)
        chosen = Outcome(metric, values[draws][:, items], truth[items])
        assert scores[i] == pytest.approx(chosen.score(), abs=1e-3)


def test_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=300)
    values = np.round(truth + rng.normal(size=(3, 300)), 1)  # with ties
    expected = np.mean([roc_auc_score(truth, row) for row in values])
    assert Outcome("auroc", values, truth).score() == pytest.approx(100 * expected, abs=1e-3)
    weighted = Outcome("auroc", values[:1], truth).resampled(20)
    for i in range(20):
        weight = np.bincount(resample(300, 1, i)[0], minlength=300)
        assert weighted[i] == pytest.approx(
            100 * roc_auc_score(truth, values[0], sample_weight=weight), abs=1e-3
        )
    guess, y = rng.integers(4, size=(2, 300))
    hits = Outcome("balanced", (guess == y)[None].astype(np.uint8), y)
    assert hits.score() == pytest.approx(100 * balanced_accuracy_score(y, guess), abs=1e-3)


def test_gain_is_paired(blobs):
    X, y = blobs

    def both(X):
        return run_probes(X[:110], y[:110], X[110:], y[110:], "classes", draws=2)

    ours, worse = both(X), both(np.random.default_rng(1).normal(size=X.shape))
    assert list(ours) == ["knn", "shot10", "full", "retrieval"]
    assert paired_gain(ours, ours) == {"gain": 0.0, "interval": [0.0, 0.0]}
    gain = paired_gain(ours, worse, resamples=200)
    assert 5 < gain["interval"][0] < gain["gain"] < gain["interval"][1]
    gains = mean_resampled(ours, 200) - mean_resampled(worse, 200)
    assert gain["interval"] == pytest.approx(np.quantile(gains, [0.025, 0.975]).tolist())
    assert gain["gain"] == pytest.approx(mean_score(ours) - mean_score(worse))


def test_outcomes_are_small_plain_arrays(blobs):
    X, y = blobs
    for outcome in run_probes(X, y, X, y, "classes", draws=2).values():
        assert outcome.values.dtype in (np.uint8, np.float32)
        room = io.BytesIO()
        np.savez(room, **outcome.state())
        room.seek(0)
        with np.load(room, allow_pickle=False) as state:
            again = Outcome.from_state(state)
        np.testing.assert_array_equal(again.resampled(20), outcome.resampled(20))


def test_bootstrap_is_quick():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=5_000)
    outcome = Outcome("auroc", rng.normal(size=(10, 5_000)).astype(np.float32), truth)
    outcome.resampled(10)
    began = time.perf_counter()
    outcome.resampled(1_000)
    assert time.perf_counter() - began < 5  # 0.5 s on an idle core


# --- at the borders -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "binary"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda X: X * (np.arange(len(X)) % 4 > 0)[:, None],  # vectors of zeros
        lambda X: X * 0,
        lambda X: np.concatenate([X, np.ones((len(X), 2))], 1),  # constant dimensions
        lambda X: X[:, :1],  # each row 1 or -1
        lambda X: np.repeat(X[:3], 30, 0)[: len(X)],  # duplicates
        lambda X: X * 1e-30,
    ],
)
def test_odd_vectors_are_scored(kind, spoil):
    X, y = make_blobs([30, 30] if kind == "binary" else [30, 20, 10], 5, 1.0)
    X = spoil(X - X.mean(0))
    probes = run_probes(X[:40], y[:40], X[40:], y[40:], kind, draws=2)
    for outcome in probes.values():
        assert 0 <= outcome.score() <= 100
        assert np.isfinite(outcome.resampled(20)).all()


@pytest.mark.parametrize("sizes", [[10, 10, 1], [5, 2, 1], [1, 1, 1], [1, 1], [4, 1]])
def test_classes_of_few_rows_are_scored(sizes):
    X, y = make_blobs(sizes, 4, 3.0)
    for kind in ("classes", "binary")[: 1 + (len(sizes) == 2)]:
        for outcome in run_probes(X, y, X, y, kind, draws=2).values():
            assert 0 <= outcome.score() <= 100
            assert np.isfinite(outcome.resampled(20)).all()


def test_labels_of_any_type_and_unseen_classes():
    X, y = make_blobs([30, 30], 4, 1.5)
    names = np.array(["no", "yes"])[y]
    coded, named = (run_probes(X, labels, X, labels, "binary", draws=2) for labels in (y, names))
    assert {k: v.score() for k, v in coded.items()} == {k: v.score() for k, v in named.items()}
    test = ["other", *names[1:]]
    hits = run_probes(X, list(names), X, test, "classes", names=["knn", "full"])
    assert all(probe.values[0, 0] == 0 for probe in hits.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": np.full((4, 2), np.nan)}, "4 of 4 vectors of the fitted part hold NaN"),
        ({"test": np.array([[np.inf, 0], [1, 1]])}, "1 of 2 vectors of the test part hold NaN"),
        ({"test": np.ones((2, 3))}, "2 dimensions in the fitted part and 3"),
        ({"test": np.ones(2)}, "pass .items, dim."),
        ({"y_train": [0, 1, 1]}, "pass one each"),
        ({"y_train": [0, 1, 1, np.nan]}, "NaN"),
        ({"y_train": [0, 0, 0, 0]}, "1 classes"),
        ({"kind": "binary", "y_train": [0, 1, 2, 0]}, "needs two"),
        ({"kind": "binary", "y_test": [1, 1]}, "needs two"),
        ({"kind": "regression", "y_test": ["a", "b"]}, "numbers are needed"),
        ({"kind": "regression", "y_train": [0, 1, np.inf, 0]}, "NaN or infinity"),
        ({"kind": "pairs"}, "kind='pairs'"),
        ({"names": ["shot5"]}, "no probe .'shot5'."),
    ],
)
def test_refuses_what_cannot_be_scored(change, words):
    train = np.array([[1.0, 0], [0, 1], [1, 1], [2, 1]])
    call = {"train": train, "y_train": [0, 1, 0, 1], "test": train[:2], "y_test": [0, 1]}
    with pytest.raises(InputError, match=words):
        run_probes(**(call | {"kind": "classes"} | change))


def test_evaluate_refuses_what_cannot_be_scored(blobs):
    X, y = blobs
    with pytest.raises(OnevecError, match="1 classes"):
        evaluate({"mean": (X, X)}, ["a"] * 220, y)
    with pytest.raises(OnevecError, match="one label per vector"):
        evaluate({"mean": (X, X[:5])}, y, y)
    with pytest.raises(OnevecError, match="baseline"):
        evaluate({"other": (X, X)}, y, y)
    with pytest.raises(OnevecError, match="NaN"):
        evaluate({"mean": (X, X * np.nan)}, y, y)


def test_evaluate_leaves_small_classes_out_and_says_so(blobs):
    X, y = blobs
    names = np.array([f"class {label}" for label in y])
    rare, unseen = names.copy(), names.copy()
    rare[:2], unseen[:3] = "rare", "unseen"
    with pytest.warns(UserWarning, match="2 classes with fewer than 3 rows in the fitted part are "
                      "left out, with 2 fitted and 3 scored rows: rare, unseen"):  # fmt: skip
        table = evaluate({"mean": (X, X)}, rare, unseen, draws=2)
    assert table == evaluate({"mean": (X[2:], X[3:])}, names[2:], names[3:], draws=2)


def test_evaluate_is_a_table_of_plain_numbers(blobs):
    X, y = blobs
    pairs = {"mean": (X[:110, :2], X[110:, :2]), "all": (X[:110], X[110:])}
    table = evaluate(pairs, y[:110], y[110:], draws=2)
    assert list(table["mean"]) == ["dim", "knn", "shot10"]
    assert list(table["all"]) == ["dim", "knn", "shot10", "gain", "interval"]
    assert (table["mean"]["dim"], table["all"]["dim"]) == (2, 6)
    assert table["all"]["interval"][0] < table["all"]["gain"] < table["all"]["interval"][1]


# --- scores without labels ----------------------------------------------------------------------


def test_evidence_ranks_signal_over_noise(blobs):
    X, y = blobs
    rng = np.random.default_rng(0)
    codes = np.unique(y, return_inverse=True)[1]
    target = {"block": X + 0.1 * rng.normal(size=X.shape)}
    good = gather_evidence(X, target, [codes], 0)
    bad = gather_evidence(rng.normal(size=X.shape), target, [codes], 0)
    assert good.predictability.mean() > 0.5 > bad.predictability.mean() + 0.4
    assert good.pseudo_labels.mean() > bad.pseudo_labels.mean() + 0.2
