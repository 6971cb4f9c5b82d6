import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from onevec import OnevecError, evaluate
from onevec.judge.probes import (
    balanced,
    draw_shots,
    few_shot_predict,
    knn_predict,
    paired_gain,
    probe,
)
from onevec.judge.unlabelled import gather_evidence, halves
from onevec.ragged import Ragged


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 6)) * 1.2
    labels = np.repeat(["a", "b", "c"], [120, 60, 40])
    X = centres[np.unique(labels, return_inverse=True)[1]] + rng.normal(size=(220, 6))
    order = rng.permutation(220)
    return X[order], labels[order]


def test_knn_is_scikit_learns(blobs):
    X, y = blobs
    theirs = KNeighborsClassifier(5, metric="cosine").fit(X[:110], y[:110]).predict(X[110:])
    np.testing.assert_array_equal(knn_predict(X[:110], y[:110], X[110:]), theirs)


def test_balanced_accuracy_is_scikit_learns(blobs):
    X, y = blobs
    guess = knn_predict(X[:110], y[:110], X[110:])
    expected = 100 * balanced_accuracy_score(y[110:], guess)
    assert balanced(guess == y[110:], y[110:]) == pytest.approx(expected)


def test_ten_shot_learns_and_draws_ten(blobs):
    X, y = blobs
    rows = draw_shots(y, 10, np.random.default_rng(0))
    assert np.unique(y[rows], return_counts=True)[1].tolist() == [10, 10, 10]
    assert (few_shot_predict(X[rows], y[rows], X) == y).mean() > 0.6


def test_gain_is_paired(blobs):
    X, y = blobs
    hits = probe(X[:110], y[:110], X[110:], y[110:], draws=2)
    same = paired_gain(hits, hits, y[110:], resamples=50)
    assert same == {"gain": 0.0, "interval": [0.0, 0.0]}
    noise = np.random.default_rng(1).normal(size=X.shape)
    worse = probe(noise[:110], y[:110], noise[110:], y[110:], draws=2)
    gain = paired_gain(hits, worse, y[110:], resamples=200)
    assert gain["interval"][0] < gain["gain"] < gain["interval"][1]
    assert gain["interval"][0] > 5


def test_evaluate_refuses_what_cannot_be_scored(blobs):
    X, y = blobs
    with pytest.raises(OnevecError, match="1 classes"):
        evaluate({"mean": (X, X)}, ["a"] * 220, y)
    with pytest.raises(OnevecError, match="one label per vector"):
        evaluate({"mean": (X, X[:5])}, y, y)
    with pytest.raises(OnevecError, match="baseline"):
        evaluate({"other": (X, X)}, y, y)


def test_halves_have_equal_length_and_drop_the_middle():
    tokens = Ragged.from_list([np.arange(n)[:, None] + 0.0 for n in (5, 2, 6)])
    first, second = halves(tokens)
    assert first.lengths.tolist() == second.lengths.tolist() == [2, 1, 3]
    assert first[0].flatten().tolist() == [0, 1]
    assert second[0].flatten().tolist() == [3, 4]
    assert second[2].flatten().tolist() == [3, 4, 5]


def test_evidence_ranks_signal_over_noise(blobs):
    X, y = blobs
    rng = np.random.default_rng(0)
    codes = np.unique(y, return_inverse=True)[1]
    target = {"block": X + 0.1 * rng.normal(size=X.shape)}
    good = gather_evidence(X, target, [codes], 0)
    bad = gather_evidence(rng.normal(size=X.shape), target, [codes], 0)
    assert good.predictability.mean() > 0.5 > bad.predictability.mean() + 0.4
    assert good.pseudo_labels.mean() > bad.pseudo_labels.mean() + 0.2
