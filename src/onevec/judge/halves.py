"""Scores that need no labels: how much one half of a sequence says about its other half.

Both scores compare vectors of equal dimension on sequences that nothing was fitted to. The targets
come from the *other* half and from every block alike, so that no vector is scored on its own
representation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from onevec.project.rows import normalise

_FOLDS = 5
_NEIGHBOURS = 5
_CLUSTERS = (8, 24)
# Sequences of like length that a half is told from: of few sequences fewer, or the lengths differ.
_RIVALS, _FEWEST_RIVALS, _SHARE = 40, 4, 8
_RIDGE = (*np.logspace(-2, 3, 6), 1e9)  # the last guesses the mean: knowing nothing is no loss


@dataclass(frozen=True)
class Evidence:
    """Per held-out sequence, higher is better.

    Attributes
    ----------
    predictability : ndarray, shape (seqs,)
        1 minus the squared error of the other half's whitened statistics, ridge from the vector;
        its mean is R².
    pseudo_labels : ndarray, shape (seqs,)
        Share of the pseudo-labels (clusters of the other half) that its neighbours guess.
    """

    predictability: Float[np.ndarray, " seqs"]
    pseudo_labels: Float[np.ndarray, " seqs"]

    @classmethod
    def mean(cls, parts: Sequence[Evidence]) -> Evidence:
        """Average several, sequence by sequence."""
        return cls(
            np.mean([part.predictability for part in parts], axis=0),
            np.mean([part.pseudo_labels for part in parts], axis=0),
        )


def cluster_panel(
    targets: Mapping[str, Float[np.ndarray, "seqs dims"]], random_state: int
) -> list[np.ndarray]:
    """Pseudo-labels: k-means clusters of each target representation, coarse and fine."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    panel = []
    for target in targets.values():
        for count in _CLUSTERS:
            if count * 4 <= len(target):
                means = KMeans(count, random_state=random_state)
                with warnings.catch_warnings():  # equal sequences leave clusters empty: no harm
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    panel.append(means.fit_predict(normalise(target)))
    return panel


def gather_evidence(
    vectors: Float[np.ndarray, "seqs dim"],
    targets: Mapping[str, Float[np.ndarray, "seqs dims"]],
    panel: Sequence[np.ndarray],
    random_state: int,
) -> Evidence:
    """Score the vectors of one half against targets of the other."""
    vectors = normalise(vectors.astype(np.float64))
    stacked = np.hstack([t / np.sqrt(t.shape[1] * len(targets)) for t in targets.values()])
    return Evidence(
        predictability=_predictability(vectors, stacked, random_state),
        pseudo_labels=_neighbour_votes(vectors, panel),
    )


def without_length(
    target: Float[np.ndarray, "seqs dims"], lengths: np.ndarray
) -> Float[np.ndarray, "seqs dims"]:
    """Take from each dimension what a smooth function of the sequences' lengths explains.

    Both halves of a sequence have the same length, and the size of most statistics depends on
    it: without this, a vector that tells nothing but the length would seem to know its other half.
    """
    n = lengths.astype(np.float64)
    basis = np.stack([np.ones_like(n), np.log(n), np.log(n) ** 2, n**-0.5, 1 / n], axis=1)
    return target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]


def matched_retrieval(
    first: Float[np.ndarray, "seqs dim"], second: Float[np.ndarray, "seqs dim"], lengths: np.ndarray
) -> Float[np.ndarray, " seqs"]:
    """Share of other sequences that are less like one half than its own other half is.

    Both ways, averaged: per sequence an area under the curve. The others are those nearest in
    length, because both halves of a sequence have one length and many vectors tell it.
    """
    likeness = normalise(first.astype(np.float64)) @ normalise(second.astype(np.float64)).T
    others = min(_RIVALS, max(_FEWEST_RIVALS, len(first) // _SHARE), len(first) - 1)
    order = np.argsort(lengths, kind="stable")
    start = np.clip(np.arange(len(first)) - others // 2, 0, len(first) - 1 - others)
    window = order[start[:, None] + np.arange(others + 1)]  # holds the sequence itself, once
    own = np.diag(likeness)[order][:, None]
    right = np.zeros(len(first))
    for side in (likeness, likeness.T):
        found = side[order[:, None], window]
        # The sequence itself ties and counts a half.
        won = (found < own).sum(1) + 0.5 * (found == own).sum(1) - 0.5
        right[order] += won / others
    return right / 2


def length_readability(
    vectors: Float[np.ndarray, "seqs dim"], lengths: np.ndarray, random_state: int
) -> float:
    """R² of reading the logarithm of the length from the vector (cross-validated ridge)."""
    if lengths.min() == lengths.max():
        return 0.0
    return readability(vectors, np.log(lengths.astype(np.float64))[:, None], random_state)


def readability(
    vectors: Float[np.ndarray, "seqs dim"],
    target: Float[np.ndarray, "seqs targets"],
    random_state: int,
) -> float:
    """R² of reading something from the vectors (cross-validated ridge)."""
    known = normalise(vectors.astype(np.float64))
    return float(_predictability(known, target, random_state).mean())


def _predictability(X: np.ndarray, Y: np.ndarray, random_state: int) -> np.ndarray:
    """Per row 1 - error / mean variance of ridge, cross-validated; the penalty is the best one."""
    variance = ((Y - Y.mean(0)) ** 2).sum(1).mean()
    if variance == 0:  # nothing to know
        return np.zeros(len(X))
    fold = np.random.default_rng(random_state).permutation(len(X)) % _FOLDS
    errors = np.zeros((len(_RIDGE), len(X)))
    for part in range(_FOLDS):
        train, test = fold != part, fold == part
        x_mean, y_mean = X[train].mean(0), Y[train].mean(0)
        left, sizes, right = np.linalg.svd(X[train] - x_mean, full_matrices=False)
        inner, outer = left.T @ (Y[train] - y_mean), (X[test] - x_mean) @ right.T
        unit = (sizes**2).mean() or 1.0  # penalties relative to the vectors' own scale
        for place, penalty in enumerate(_RIDGE):
            guess = (outer * (sizes / (sizes**2 + penalty * unit))) @ inner
            errors[place, test] = ((Y[test] - y_mean - guess) ** 2).sum(1)
    best = errors.mean(1).argmin()
    return 1 - errors[best] / variance


def _neighbour_votes(X: np.ndarray, panel: Sequence[np.ndarray]) -> np.ndarray:
    """Leave-one-out kNN guesses of every pseudo-label, averaged over the panel."""
    if not panel:
        return np.zeros(len(X))
    likeness = (X @ X.T).astype(np.float32)
    np.fill_diagonal(likeness, -np.inf)
    k = min(_NEIGHBOURS, len(X) - 1)
    near = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
    rows = np.arange(len(X))[:, None]
    right = np.zeros(len(X))
    for labels in panel:
        votes = np.zeros((len(X), labels.max() + 1))
        np.add.at(votes, (rows, labels[near]), 1.0)
        right += votes.argmax(1) == labels
    return right / len(panel)


def joint_z(row: Mapping[str, float]) -> float:
    """Average the gains in two scores in standard errors, which is safe however they correlate.

    Pseudo-labels count twice: they tell better what labels will say (benchmarks/LOG.md).
    """
    return (2 * _in_errors(row, "pseudo_labels") + _in_errors(row, "predictability")) / 3


def _in_errors(row: Mapping[str, float], score: str) -> float:
    error = row[f"{score}_error"]
    return row[f"{score}_gain"] / error if error > 0 else 0.0
