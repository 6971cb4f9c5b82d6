"""How unusual a score is among random pairs of a collection."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from onevec.errors import InputError
from onevec.use.exact import Rows, check_metric, scores_of
from onevec.use.formats import Vectors
from onevec.use.index import Index

FEWEST = 30  # vectors: 435 pairs
_TAIL, _FEWEST_TAIL = 0.0005, 50  # share of the pairs that make the tail, and at least so many
_FEWEST_PAIRS = FEWEST * (FEWEST - 1) // 2
_ROWS = 32_768  # of a sample at a time
_LEAST = 1e-300  # chance: beyond it fp64 has none
_NEAREST = 1e-7  # cosines nearer to 1, and distances nearer to 0, are rounding


class Calibration:
    """Turns a score into the chance that a random pair of the reference scores as high.

    Up to the 0.05 percent highest pairs of the sample the chance is the empirical one, ``(1 + pairs
    that score as high) / (1 + pairs)``; there an exponential tail takes over, the generalised
    Pareto of shape 0 (Pickands 1975). Cosines go through ``atanh`` and distances through ``-log``
    first: of directions, or points, that fill m dimensions these have tails that in the end fall
    exponentially. The scale comes from the median of the exceedances: a few pairs far above all
    others, duplicates say, do not make duplicates likely.

    The expected number of chance hits is to be read as BLAST's E-value (Karlin and Altschul 1990).
    "Chance" means: like two different vectors of the reference drawn at random. Where half of a
    collection is of one kind, a quarter of the random pairs are alike.
    """

    def __init__(
        self,
        scores: Float[np.ndarray, " pairs"],
        *,
        metric: str = "cosine",
    ):
        self.metric = check_metric(metric)
        self._sample = np.sort(self._stretched(np.asarray(scores, np.float64)))
        count = len(self._sample)
        beyond = min(max(round(_TAIL * count), _FEWEST_TAIL), count - 1)
        self._border = self._sample[count - beyond - 1]
        excess = self._sample[count - beyond :] - self._border
        self._share = beyond / count
        self._scale = max(float(np.median(excess)) / np.log(2), 1e-12)

    @classmethod
    def fit(
        cls, reference: Any, *, metric: str = "cosine", pairs: int = 200_000, random_state: int = 0
    ) -> Calibration:
        """Sample pairs of different vectors of a reference.

        Parameters
        ----------
        reference : array of shape (rows, dim), Vectors, path of a file, or Index
            At least `FEWEST` vectors.
        metric : {"cosine", "dot", "euclidean"}
            What is compared; an Index has its own.
        pairs : int
            How many pairs are drawn, at most; all, where there are fewer.
        """
        if isinstance(reference, Index):
            source, metric = reference, reference.metric
        else:
            source = Rows(Vectors.of(reference, what="reference vectors").vectors)
        if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < _FEWEST_PAIRS:
            raise InputError(f"got pairs={pairs!r}: a whole number of at least {_FEWEST_PAIRS}")
        if len(source) < FEWEST:
            raise InputError(
                f"got {len(source)} reference vectors: at least {FEWEST} are needed to say how "
                "unusual a score is"
            )
        left, right = _pairs(len(source), pairs, random_state)
        parts = np.array_split(np.arange(len(left)), len(left) // _ROWS + 1)
        scores = [scores_of(source.read(left[p]), source.read(right[p]), metric) for p in parts]
        return cls(np.concatenate(scores), metric=metric)

    def chance(self, scores: Any) -> Float[np.ndarray, ...]:
        """Return the probability that a random pair scores at least as high; same shape."""
        values = self._stretched(np.asarray(scores, np.float64))
        count = len(self._sample)
        as_high = count - np.searchsorted(self._sample, values, side="left")
        empirical = (1 + as_high) / (1 + count)
        excess = np.maximum(values - self._border, 0)
        tail = np.maximum(self._share * np.exp(-excess / self._scale), _LEAST)
        return np.where(excess > 0, tail, empirical)

    def expected(self, scores: Any, n: int) -> Float[np.ndarray, ...]:
        """Return how many hits as good chance would give one query in a collection of ``n``."""
        return n * self.chance(scores)

    def threshold(self, chance: float) -> float:
        """Return the score that random pairs reach with this chance.

        Raises
        ------
        InputError
            If the chance is not between 0 and 1.
        """
        if not 0 < chance < 1:
            raise InputError(f"got chance={chance}: it must lie between 0 and 1")
        if chance >= self._share:
            value = float(np.quantile(self._sample, 1 - chance))
        else:
            value = self._border - self._scale * np.log(chance / self._share)
        return self._shrunk(value)

    def sentence(self, score: float, n: int | None = None) -> str:
        """Say how unusual a score is; with ``n``, also what to expect in a collection."""
        chance = float(self.chance(score))
        said = f"{_rate(chance)} random pairs of the reference score {score:.3f} or more"
        if n is not None:
            said += f"; chance alone gives {_number(n * chance)} such hits per query among {n:,}"
        return said

    def _stretched(self, scores: np.ndarray) -> np.ndarray:
        if self.metric == "cosine":
            return np.arctanh(np.clip(scores, -1 + _NEAREST, 1 - _NEAREST))
        return -np.log(np.maximum(-scores, _NEAREST)) if self.metric == "euclidean" else scores

    def _shrunk(self, value: float) -> float:
        if self.metric == "cosine":
            return float(np.tanh(value))
        return float(-np.exp(-value)) if self.metric == "euclidean" else float(value)


def _pairs(count: int, most: int, random_state: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of different rows; all of them where they are few."""
    if count * (count - 1) // 2 <= most:
        return np.triu_indices(count, 1)
    rng = np.random.default_rng(random_state)
    left = rng.integers(count, size=most)
    right = (left + rng.integers(1, count, size=most)) % count
    return left, right


def _rate(chance: float) -> str:
    return f"{100 * chance:.0f} % of" if chance > 0.1 else f"1 in {_number(1 / chance)}"


def _number(value: float) -> str:
    if value >= 1e6 or 0 < value < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
