"""Statistics of a stream of vectors that add up: over batches, shards and machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

from onevec.errors import InputError

CHUNK_VALUES = 2**22  # values of one float64 work chunk: 32 MiB
LEAST_CHUNK_ROWS = 1024  # fewer rows would make the (dim, dim) addition the main cost


class Moments:
    """Count, mean, range and centred second moment of vectors, gathered batch by batch.

    Parameters
    ----------
    dim : int
        Width of the vectors.
    order : {0, 1, 2}, default 2
        0 counts the rows, 1 adds ``mean``, ``low`` and ``high``, 2 adds ``scatter``.

    Attributes
    ----------
    count : int
        Rows seen.
    mean : ndarray of float64, shape (dim,)
        Mean of the rows; 0 before the first.
    low, high : ndarray of float64, shape (dim,)
        Smallest and largest value of each dimension; inf and -inf before the first row.
    scatter : ndarray of float64, shape (dim, dim)
        ``sum((x - mean) (x - mean)^T)``.

    Notes
    -----
    Two sets with means ``m_a, m_b`` and scatters ``S_a, S_b`` join without loss (Chan, Golub and
    LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances")::

        mean    = m_a + (m_b - m_a) n_b / (n_a + n_b)
        scatter = S_a + S_b + (m_b - m_a) (m_b - m_a)^T n_a n_b / (n_a + n_b)

    All sums are in float64 over centred rows, so that a large mean costs no digits. A set of
    rows gives the same statistics, up to rounding, in any order and any partition.
    """

    __slots__ = ("count", "dim", "high", "low", "mean", "order", "scatter", "solved")

    def __init__(self, dim: int, order: int = 2):
        if dim < 1 or order not in (0, 1, 2):
            raise InputError(f"Moments got dim={dim}, order={order}: dim >= 1, order 0, 1 or 2")
        self.dim = int(dim)
        self.order = order
        self.count = 0
        self.mean = np.zeros(dim)
        self.low = np.full(dim, np.inf)
        self.high = np.full(dim, -np.inf)
        self.scatter = np.zeros((dim, dim) if order == 2 else (0, 0))
        self.solved: tuple[int, np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, batches: Iterable[Any], order: int = 2) -> Moments:
        """Return the moments of an iterable of ``(rows, dim)`` batches."""
        moments = None
        for batch in batches:
            moments = moments or cls(np.shape(batch)[-1], order)
            moments.update(batch)
        if moments is None:
            raise InputError("Moments.of got no batch: pass at least one (rows, dim) array")
        return moments

    def update(self, batch: Any) -> Moments:
        """Add the rows of ``batch``, shape (rows, dim), in place, and return self.

        Raises
        ------
        InputError
            If the batch has another width, or holds NaN or infinity. Nothing is added then.
        """
        batch = np.asarray(batch)
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise InputError(
                f"Moments got a batch of shape {batch.shape}: it must be (rows, {self.dim}); "
                "gather vectors of one model and one recipe"
            )
        if batch.dtype.kind not in "fiub":
            raise InputError(
                f"Moments got a batch of dtype {batch.dtype}: it must hold real numbers; "
                "encode and pool raw sequences first"
            )
        check_finite(batch)
        if self.order == 0:
            self.count += len(batch)
            return self
        rows = max(LEAST_CHUNK_ROWS, CHUNK_VALUES // self.dim)
        for start in range(0, len(batch), rows):
            self._add(batch[start : start + rows].astype(np.float64))
        return self

    def _add(self, chunk: Float[np.ndarray, "rows dim"]) -> None:
        new = len(chunk)
        total = self.count + new
        # The first row as origin: constant columns get a variance of exactly 0.
        centred = np.empty((new + 1, self.dim))
        np.subtract(chunk, chunk[0], out=centred[:-1])
        offset = centred[:-1].mean(axis=0)
        mean = chunk[0] + offset
        shift = mean - self.mean
        if self.order == 2:
            # One more row carries the shift between the means: a single symmetric product.
            centred[:-1] -= offset
            centred[-1] = shift * np.sqrt(self.count * new / total)
            self.scatter += centred.T @ centred
        self.mean = mean if self.count == 0 else self.mean + shift * (new / total)
        np.minimum(self.low, chunk.min(axis=0), out=self.low)
        np.maximum(self.high, chunk.max(axis=0), out=self.high)
        self.count = total

    def merge(self, other: Moments) -> Moments:
        """Return new moments of the rows of both; neither is changed.

        ``functools.reduce(Moments.merge, parts)`` joins many.
        """
        if (self.dim, self.order) != (other.dim, other.order):
            raise InputError(
                f"cannot merge moments of dim {self.dim}, order {self.order} with dim {other.dim}, "
                f"order {other.order}: both must match; gather them with the same settings"
            )
        if self.count == 0 or other.count == 0:
            return (other if self.count == 0 else self).copy()
        joined = Moments(self.dim, self.order)
        joined.count = self.count + other.count
        shift = other.mean - self.mean
        joined.mean = self.mean + shift * (other.count / joined.count)
        joined.low = np.minimum(self.low, other.low)
        joined.high = np.maximum(self.high, other.high)
        if self.order == 2:
            shift *= np.sqrt(self.count * other.count / joined.count)
            joined.scatter = self.scatter + other.scatter
            joined.scatter += np.outer(shift, shift)
        return joined

    def copy(self) -> Moments:
        """Return an independent copy."""
        return Moments.from_state({k: v.copy() for k, v in self.state().items()})

    def covariance(self, biased: bool = False) -> Float[np.ndarray, "dim dim"]:
        """Covariance of the rows: unbiased, ``scatter / (n - 1)``, as `numpy.cov`.

        Parameters
        ----------
        biased : bool, default False
            Divide by ``n`` instead (the maximum-likelihood estimate).

        Raises
        ------
        InputError
            With fewer than two rows (one, when biased), or moments without second order.
        """
        if self.order < 2:
            raise InputError(f"moments of order {self.order} have no covariance: gather order=2")
        rows = self.count if biased else self.count - 1
        if rows < 1:
            raise InputError(
                f"got moments of n_samples = {self.count}: a covariance needs at least "
                f"{1 if biased else 2} rows; gather more vectors"
            )
        return self.scatter / rows

    def principal_axes(self, kept: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what `principal_axes` says of the covariance.

        Solved once for as many directions as were asked for, until rows are added: reductions of
        the same vectors to several widths and powers share it.
        """
        if self.solved is None or self.solved[0] != self.count or self.solved[2].shape[1] < kept:
            self.solved = (self.count, *principal_axes(self.covariance(), kept))
        _, values, vectors = self.solved
        return values[:kept].copy(), vectors[:, :kept]

    def state(self) -> dict[str, np.ndarray]:
        """Return everything as arrays, for `from_state`."""
        head = np.array([self.dim, self.order, self.count], dtype=np.int64)
        arrays = {"mean": self.mean, "low": self.low, "high": self.high, "scatter": self.scatter}
        return {"head": head, **arrays}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """Rebuild moments from `state`."""
        dim, order, count = (int(v) for v in arrays["head"])
        moments = cls(dim, order)
        moments.count = count
        moments.mean, moments.scatter = arrays["mean"], arrays["scatter"]
        moments.low, moments.high = arrays["low"], arrays["high"]
        return moments

    def __repr__(self) -> str:
        return f"Moments({self.count} rows, dim {self.dim}, order {self.order})"


def principal_axes(
    covariance: Float[np.ndarray, "dim dim"], kept: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``kept`` largest eigenvalues, shape (kept,), and their vectors, (dim, kept).

    Of each vector the entry with the largest absolute value is positive.
    """
    dim = len(covariance)
    values, vectors = eigh(covariance, subset_by_index=[dim - kept, dim - 1], check_finite=False)
    values, vectors = values[::-1].clip(min=0.0), vectors[:, ::-1]
    peak = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.where(vectors[peak, np.arange(kept)] < 0, -1.0, 1.0)


class RowSample:
    """A uniform sample without replacement of at most ``size`` rows of a stream.

    Every row draws a uniform key, the ``size`` smallest keys stay: samples of several streams,
    gathered with different seeds, merge into a sample of their union. Statistics of it are exact
    while no more than ``size`` rows were seen.

    Parameters
    ----------
    size : int
        Rows kept.
    seed : int, default 0
        Seed of the keys.
    """

    __slots__ = ("keys", "rows", "size", "stream")

    def __init__(self, size: int, seed: int = 0):
        self.size = size
        self.stream = np.random.default_rng(seed)
        self.keys = np.empty(0)
        self.rows = np.empty((0, 0))

    def update(self, batch: np.ndarray) -> RowSample:
        """Offer the rows of ``batch``, shape (rows, dim), in place, and return self."""
        return self._keep(self.stream.random(len(batch)), batch)

    def merge(self, other: RowSample) -> RowSample:
        """Return a new sample of both streams; neither is changed."""
        joined = RowSample(self.size)
        joined.keys, joined.rows = self.keys, self.rows
        joined.stream = deepcopy(self.stream)
        return joined._keep(other.keys, other.rows)

    def _keep(self, keys: np.ndarray, rows: np.ndarray) -> RowSample:
        if len(self.keys) == self.size:  # most rows of a long stream are refused here, uncopied
            chosen = keys < self.keys.max()
            keys, rows = keys[chosen], rows[chosen]
        if not len(keys):
            return self
        keys = np.concatenate([self.keys, keys])
        rows = np.concatenate([self.rows, rows]) if len(self.rows) else np.array(rows)
        if len(keys) > self.size:
            chosen = np.argpartition(keys, self.size - 1)[: self.size]
            keys, rows = keys[chosen], rows[chosen]
        self.keys, self.rows = keys, rows
        return self


def check_finite(X: np.ndarray) -> None:
    """Raise `InputError`, naming the first row, if ``X`` holds NaN or infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        if X.dtype.kind != "f" or np.isfinite(X.sum(dtype=np.float64)):
            return  # a finite sum has finite terms
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if len(bad):
        raise InputError(
            f"row {bad[0]} of X holds NaN or infinity ({len(bad)} of {len(X)} rows do): every "
            "vector must be finite; drop or repair these rows"
        )


def oas_shrinkage(covariance: Float[np.ndarray, "dim dim"], count: int) -> float:
    r"""Weight of the Oracle Approximating Shrinkage toward a multiple of the identity.

    The estimate is ``(1 - w) S + w mu I`` with ``mu = tr(S) / p``. It needs no data, only the
    covariance ``S`` and the count of rows, so that it follows from streamed moments (the weight
    of Ledoit and Wolf needs fourth moments). It does not depend on the scale of ``S``::

        w = min(1, (tr(S^2) / p^2 + mu^2) / ((n + 1) (tr(S^2) / p^2 - mu^2 / p)))

    which is what `sklearn.covariance.oas` computes.

    Parameters
    ----------
    covariance : ndarray, shape (dim, dim)
    count : int
        Rows it was estimated from.

    References
    ----------
    Chen, Wiesel, Eldar and Hero 2010, "Shrinkage algorithms for MMSE covariance estimation".
    """
    dim = len(covariance)
    if dim == 1:
        return 0.0
    mean_variance = float(np.trace(covariance)) / dim
    mean_square = float(np.vdot(covariance, covariance)) / dim**2
    numerator = mean_square + mean_variance**2
    denominator = (count + 1) * (mean_square - mean_variance**2 / dim)
    return 1.0 if denominator <= 0 else min(1.0, numerator / denominator)
