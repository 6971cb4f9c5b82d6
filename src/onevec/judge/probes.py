"""Labelled scores: the only part of onevec that reads labels, and never to fit anything.

kNN and 10-shot follow the benchmark's protocol; gains are paired and carry a bootstrap interval.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from onevec.errors import InputError

SHOTS = 10
_DECADES = np.logspace(-2, 2, 5)  # C: five values over four decades


@dataclass(frozen=True)
class Hits:
    """Which test items were right: kNN once, 10-shot once per draw."""

    knn: Bool[np.ndarray, " items"]
    shot10: Bool[np.ndarray, "draws items"]


def normalise(X: Float[np.ndarray, "items dim"]) -> Float[np.ndarray, "items dim"]:
    """Scale each row to length 1; a row of zeros stays."""
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norm > 0, norm, 1.0)


def knn_predict(
    train: Float[np.ndarray, "memory dim"],
    labels: np.ndarray,
    test: Float[np.ndarray, "items dim"],
    k: int = 5,
) -> np.ndarray:
    """Majority label of the ``k`` nearest by cosine; ties go to the label that sorts first."""
    classes, codes = np.unique(labels, return_inverse=True)
    train, test = normalise(train).astype(np.float32), normalise(test).astype(np.float32)
    k = min(k, len(train))
    out = np.empty(len(test), dtype=np.int64)
    for start in range(0, len(test), 2_048):  # bounds the similarity matrix
        likeness = test[start : start + 2_048] @ train.T
        near = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        votes = np.zeros((len(near), len(classes)))
        np.add.at(votes, (np.arange(len(near))[:, None], codes[near]), 1.0)
        out[start : start + 2_048] = votes.argmax(1)
    return classes[out]


def draw_shots(labels: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``shots`` rows per class; classes with fewer give all they have."""
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rng.permutation(r)[:shots] for r in rows])


def few_shot_predict(
    train: Float[np.ndarray, "labelled dim"],
    labels: np.ndarray,
    test: Float[np.ndarray, "items dim"],
) -> np.ndarray:
    """Logistic regression; C and the input's scaling chosen by 3-fold cross-validation inside.

    Scaling is per dimension, or one global scale that keeps the vector's own geometry, so that
    no method is helped or hurt by the probe's choice.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    centre = train.mean(0)
    spread = train.std(0)
    whole = float(np.sqrt((spread**2).mean())) or 1.0
    scales = (np.where(spread > 0, spread, 1.0), whole)
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(train, labels))
    best, choice = -np.inf, (scales[0], 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for scale in scales:
            X = (train - centre) / scale
            for C in _DECADES:
                score = 0.0
                for known, held in folds:
                    model = LogisticRegression(C=C, max_iter=200).fit(X[known], labels[known])
                    score += balanced(model.predict(X[held]) == labels[held], labels[held])
                if score > best:
                    best, choice = score, (scale, C)
        scale, C = choice
        model = LogisticRegression(C=C, max_iter=500).fit((train - centre) / scale, labels)
    return model.predict((test - centre) / scale)


def probe(
    train: Float[np.ndarray, "memory dim"],
    train_labels: np.ndarray,
    test: Float[np.ndarray, "items dim"],
    test_labels: np.ndarray,
    *,
    draws: int = 10,
    random_state: int = 0,
) -> Hits:
    """Run kNN and 10-shot on L2-normalised vectors; the draws depend on the seed alone."""
    train, test = normalise(np.asarray(train, np.float64)), normalise(np.asarray(test, np.float64))
    knn = knn_predict(train, train_labels, test) == test_labels
    rng = np.random.default_rng(random_state)
    shots = []
    with threadpool_limits(1):  # on a hundred rows a second thread waits more than it works
        for _ in range(draws):
            rows = draw_shots(train_labels, SHOTS, rng)
            shots.append(few_shot_predict(train[rows], train_labels[rows], test) == test_labels)
    return Hits(knn, np.array(shots))


def balanced(
    hits: Bool[np.ndarray, "draws items"], labels: np.ndarray, weight: Any = None
) -> float:
    """Balanced accuracy x 100, averaged over draws; ``weight`` counts items (bootstrap)."""
    weight = np.ones(len(labels)) if weight is None else weight
    return _balanced(np.atleast_2d(hits).mean(0), np.unique(labels, return_inverse=True)[1], weight)


def _balanced(rate: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> float:
    total = np.bincount(codes, weight)
    present = total > 0
    right = np.bincount(codes, weight * rate)
    return 100 * float((right[present] / total[present]).mean())


def score(hits: Hits, labels: np.ndarray) -> dict[str, float]:
    """Return kNN and 10-shot balanced accuracy x 100."""
    return {"knn": balanced(hits.knn, labels), "shot10": balanced(hits.shot10, labels)}


def paired_gain(
    ours: Hits, mean: Hits, labels: np.ndarray, *, resamples: int = 1_000, random_state: int = 0
) -> dict[str, Any]:
    """Gain in the mean of kNN and 10-shot, with a paired bootstrap over test items and draws.

    Returns
    -------
    dict
        ``gain`` in points and ``interval``, the 2.5 % and 97.5 % quantiles.
    """

    codes = np.unique(labels, return_inverse=True)[1]

    def cell(hits: Hits, draws: np.ndarray, weight: np.ndarray) -> float:
        knn, shot10 = hits.knn.astype(float), hits.shot10[draws].mean(0)
        return (_balanced(knn, codes, weight) + _balanced(shot10, codes, weight)) / 2

    rng = np.random.default_rng(random_state)
    count = len(ours.shot10)
    everything, once = np.arange(count), np.ones(len(labels))
    gain = cell(ours, everything, once) - cell(mean, everything, once)
    gains = []
    for _ in range(resamples):
        weight = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels))).astype(float)
        draws = rng.integers(count, size=count)
        gains.append(cell(ours, draws, weight) - cell(mean, draws, weight))
    low, high = np.quantile(gains, [0.025, 0.975])
    return {"gain": gain, "interval": [float(low), float(high)]}


def evaluate(
    methods: Mapping[str, tuple[np.ndarray, np.ndarray]],
    train_labels: Sequence[Any] | np.ndarray,
    test_labels: Sequence[Any] | np.ndarray,
    *,
    baseline: str = "mean",
    draws: int = 10,
    random_state: int = 0,
) -> dict[str, dict[str, Any]]:
    """Score vectors of several methods with labels, each against the baseline.

    Parameters
    ----------
    methods : mapping of name to (train vectors, test vectors)
        Each of shape (items, dim); ``dim`` may differ between methods.
    train_labels, test_labels : sequence
        Class labels. They are used here only, for scoring.
    baseline : str
        The method that the gains are against.

    Returns
    -------
    dict
        For each method ``dim``, ``knn``, ``shot10`` (balanced accuracy x 100) and, but for the
        baseline, ``gain`` (points of their mean) and ``interval`` (95 %).
    """
    y_train, y_test = np.asarray(train_labels), np.asarray(test_labels)
    if baseline not in methods:
        raise InputError(f"the baseline {baseline!r} is not among the methods {list(methods)}")
    classes, counts = np.unique(y_train, return_counts=True)
    if len(classes) < 2 or counts.min() < 3:
        raise InputError(
            f"the labels of the fitted part have {len(classes)} classes, the smallest with "
            f"{counts.min()} rows: scoring needs 2 classes or more with at least 3 rows each"
        )
    hits = {}
    for name, (train, test) in methods.items():
        if len(train) != len(y_train) or len(test) != len(y_test):
            raise InputError(
                f"{name!r} has {len(train)} + {len(test)} vectors for {len(y_train)} + "
                f"{len(y_test)} labels: pass one label per vector"
            )
        hits[name] = probe(train, y_train, test, y_test, draws=draws, random_state=random_state)
    table: dict[str, dict[str, Any]] = {}
    for name, (train, _) in methods.items():
        table[name] = {"dim": int(train.shape[1]), **score(hits[name], y_test)}
        if name != baseline:
            table[name] |= paired_gain(
                hits[name], hits[baseline], y_test, random_state=random_state
            )
    return table
