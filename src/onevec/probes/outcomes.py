"""What a labelled probe leaves behind, and the paired bootstrap over it (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped


@dataclass(frozen=True)
class Outcome:
    """What one probe's score is made of, per draw of labels and test item.

    Attributes
    ----------
    metric : {"balanced", "auroc", "r2", "spearman"}
        "balanced" averages the values per class, then over classes.
    values : ndarray, shape (draws, items)
        Hits (uint8) or shares of hits, scores, predictions, or cosines.
    truth : ndarray, shape (items,)
        Codes of classes (-1: the item does not count), 0 and 1, targets, or gold similarities.
    """

    metric: str
    values: Shaped[np.ndarray, "draws items"]
    truth: Shaped[np.ndarray, " items"]

    def score(self) -> float:
        """Return the score x 100, averaged over draws."""
        once = np.ones((len(self.truth), 1), np.float32)
        return 100 * float(METRICS[self.metric](self.values, self.truth, once).mean())

    def resampled(self, resamples: int = 1_000, seed: int = 0) -> Float[np.ndarray, " resamples"]:
        """Return the score x 100 of each bootstrap resample of test items and of draws.

        The resamples depend on the seed and the numbers of items and of draws alone: the results
        of two methods, or of two probes of the same items, are paired by place.
        """
        items = _counts(len(self.truth), resamples, seed, 0)
        draws = _counts(len(self.values), resamples, seed, 1)
        scores = METRICS[self.metric](self.values, self.truth, items)
        return 100 * (scores * draws).sum(0, dtype=np.float64) / len(self.values)

    def state(self) -> dict[str, np.ndarray]:
        """Return plain arrays, for npz."""
        return {"metric": np.array(self.metric), "values": self.values, "truth": self.truth}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Outcome:
        """Build from what `state` returned."""
        return cls(str(state["metric"]), state["values"], state["truth"])


def mean_score(outcomes: Mapping[str, Outcome]) -> float:
    """Average the probes of one method on one target: a cell of the benchmark."""
    return float(np.mean([outcome.score() for outcome in outcomes.values()]))


def mean_resampled(
    outcomes: Mapping[str, Outcome], resamples: int = 1_000, seed: int = 0
) -> Float[np.ndarray, " resamples"]:
    """Average the probes of one method on one target, resample by resample."""
    return np.mean([o.resampled(resamples, seed) for o in outcomes.values()], axis=0)


def paired_gain(
    ours: Mapping[str, Outcome],
    baseline: Mapping[str, Outcome],
    *,
    resamples: int = 1_000,
    random_state: int = 0,
) -> dict[str, Any]:
    """Gain in the mean over probes, with a paired bootstrap over test items and draws.

    Returns
    -------
    dict
        ``gain`` in points and ``interval``, the 2.5 % and 97.5 % quantiles.
    """
    gains = mean_resampled(ours, resamples, random_state)
    gains = gains - mean_resampled(baseline, resamples, random_state)
    low, high = np.quantile(gains, [0.025, 0.975])
    return {
        "gain": mean_score(ours) - mean_score(baseline),
        "interval": [float(low), float(high)],
    }


@lru_cache(maxsize=4)
def _counts(
    size: int, resamples: int, seed: int, stream: int
) -> Float[np.ndarray, "size resamples"]:
    """How often each of ``size`` things is drawn in each resample (Efron 1979)."""
    rng = np.random.default_rng((seed, stream))
    drawn = rng.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=size * resamples).reshape(resamples, size)
    return np.ascontiguousarray(counts.T, dtype=np.float32)


# --- metrics ------------------------------------------------------------------------------------
# values (draws, items), truth (items,), weights (items, resamples) -> (draws, resamples)


def _balanced(values: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean per class, averaged over the classes that are present."""
    counted = truth >= 0
    codes, weights = truth[counted], weights[counted]
    total = np.zeros((codes.max() + 1, weights.shape[1]), weights.dtype)
    rows = np.argsort(codes, kind="stable")
    first = np.flatnonzero(np.diff(codes[rows], prepend=-1))
    total[codes[rows][first]] = np.add.reduceat(weights[rows], first, axis=0)
    present = (total > 0).sum(0)
    share = weights / np.maximum(total, 1)[codes]
    found = values[:, counted].astype(weights.dtype) @ share / np.maximum(present, 1)
    return np.minimum(found, 1)  # all hits: the order of a processor's sums can round beyond it


def _auroc(values: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Chance that a positive scores above a negative, ties half; ½ where one side is missing."""
    positive = truth > 0
    sides = np.stack([weights[positive].sum(0), weights[~positive].sum(0)]).astype(np.float64)
    pairs = sides.prod(0)
    wins = [
        np.einsum(
            "ir,ir->r", weights[positive], _below(row[~positive], weights[~positive], row[positive])
        )
        for row in values
    ]
    return np.where(pairs > 0, np.array(wins) / np.maximum(pairs, 1), 0.5)


def _r2(values: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """max(0, R²); 0 where the targets do not vary."""
    truth, weights = truth.astype(np.float64), weights.astype(np.float64)
    centred = truth - truth.mean()
    total = weights.sum(0)
    spread = centred**2 @ weights - (centred @ weights) ** 2 / total
    missed = (values - truth) ** 2 @ weights
    varies = spread > 1e-12 * max(float((centred**2).sum()), 1e-300)
    return np.where(varies, np.maximum(0, 1 - missed / np.where(varies, spread, 1)), 0)


def _spearman(values: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank correlation; 0 where one side does not vary."""
    weights = weights.astype(np.float64)
    half = weights.sum(0) / 2

    def ranks(row: np.ndarray) -> np.ndarray:
        return _below(row, weights, row) - half  # their weighted mean is 0, ties at their middle

    gold = ranks(truth)
    scores = []
    for row in values:
        guess = ranks(row)
        both, ours, theirs = (
            (weights * a * b).sum(0) for a, b in ((guess, gold), (guess, guess), (gold, gold))
        )
        norm = np.sqrt(ours * theirs)
        scores.append(np.where(norm > 0, both / np.where(norm > 0, norm, 1), 0))
    return np.array(scores)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "balanced": _balanced,
    "auroc": _auroc,
    "r2": _r2,
    "spearman": _spearman,
}


def _below(
    values: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, "n resamples"],
    scores: Float[np.ndarray, " m"],
) -> Float[np.ndarray, "m resamples"]:
    """Weight of the values below each score; those equal to it count half."""
    order = np.argsort(values)
    upto = np.zeros((len(values) + 1, weights.shape[1]), weights.dtype)
    np.cumsum(weights[order], axis=0, out=upto[1:])
    values = values[order]
    low, high = (np.searchsorted(values, scores, side) for side in ("left", "right"))
    return (upto[low] + upto[high]) / 2
