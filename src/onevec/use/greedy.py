"""Greedy choice of rows of a matrix: the maths of `onevec.use.select`, all rows in memory.

Distances are Euclidean. Rows of length 1, as `select` passes, make them a function of the cosine:
``d² = 2 - 2 cos``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Rows = Int[np.ndarray, " some"]
Gains = Float[np.ndarray, " some"]
Order = tuple[Int[np.ndarray, " chosen"], Float[np.ndarray, " chosen"]]

_BLOCK = 2**22  # entries of a piece of the distance matrix: 16 MiB
_BATCH = 32  # stale gains that lazy greedy computes again together, at first
_SAME = 1e-6  # squared distance under which rows count as equal: rounding of fp32
_RIDGE = 1e-6  # on the kernel's diagonal: equal rows leave the determinant positive


@dataclass(frozen=True)
class Pool:
    """Rows to choose from.

    Attributes
    ----------
    X : ndarray of float32, shape (rows, dim)
    labelled : ndarray of float32, shape (labelled, dim)
        Rows from elsewhere that are chosen already.
    weights : ndarray, shape (rows,)
        How much each row matters; positive.
    width : float
        Squared distance at which the Gaussian kernel is 1/e.
    reach : float
        Squared radius of the balls of `max_coverage`.
    """

    X: Float[np.ndarray, "rows dim"]
    labelled: Float[np.ndarray, "labelled dim"]
    weights: Float[np.ndarray, " rows"]
    width: float = 1.0
    reach: float = 1.0


def squared_distances(
    A: Float[np.ndarray, "a dim"], B: Float[np.ndarray, "b dim"]
) -> Float[np.ndarray, "a b"]:
    """Squared Euclidean distances; what rounding leaves of equal rows is 0."""
    found = A @ B.T
    found *= -2
    found += np.einsum("ij,ij->i", A, A)[:, None]
    found += np.einsum("ij,ij->i", B, B)
    found[found < _SAME] = 0
    return found


def nearest_distances(
    A: Float[np.ndarray, "a dim"], B: Float[np.ndarray, "b dim"]
) -> Float[np.ndarray, " a"]:
    """Squared distance of each row of A to the nearest of B; infinite where B is empty."""
    if not len(B):
        return np.full(len(A), np.inf, np.float32)
    pieces = np.array_split(A, max(1, len(A) * len(B) // _BLOCK + 1))
    return np.concatenate([squared_distances(piece, B).min(1) for piece in pieces])


def k_center(pool: Pool, count: int) -> Order:
    """Farthest-first traversal: each row is the one farthest from those before it.

    The largest distance of a row to its nearest chosen one is at most twice the least possible
    (Gonzalez 1985; as a way to choose what to label, Sener and Savarese 2018). Without labelled
    rows it starts at the row nearest to the mean. Weights multiply distances.

    Returns
    -------
    rows, gains
        The gain is the weighted distance at which a row was found; 2 for the first.
    """
    X, weights = pool.X, pool.weights.astype(np.float32)
    near = nearest_distances(X, pool.labelled)
    rows, gains = np.empty(count, np.int64), np.empty(count)
    for place in range(count):
        if np.isinf(near[0]):
            row = int(squared_distances(X.mean(0, keepdims=True), X)[0].argmin())
            gains[place] = 2.0
        else:
            away = np.sqrt(np.maximum(near, 0)) * weights
            away[rows[:place]] = -1
            row = int(away.argmax())
            gains[place] = away[row]
        rows[place] = row
        near = np.minimum(near, squared_distances(X[row : row + 1], X)[0])
    return rows, gains


def facility_location(pool: Pool, count: int) -> Order:
    """Rows to whose nearest one all rows are most similar on average.

    Greedy reaches 1 - 1/e of the best value (Nemhauser, Wolsey and Fisher 1978); similarity is
    ``1 - d² / 4``, between 0 and 1. Weights are those of the rows to be represented.

    Returns
    -------
    rows, gains
        The gain is in the mean similarity.
    """
    share = _share(pool) / 4
    near = np.minimum(nearest_distances(pool.X, pool.labelled), 4)

    def gains(rows: Rows) -> Gains:
        less = _less(pool.X[rows], pool.X, near)
        return np.maximum(less, 0, out=less) @ share

    def add(row: int) -> None:
        np.minimum(near, squared_distances(pool.X[row : row + 1], pool.X)[0], out=near)

    return lazy_greedy(len(pool.X), count, gains, add)


def max_coverage(pool: Pool, count: int) -> Order:
    """Rows whose balls of one radius hold most rows (ProbCover, Yehuda et al. 2022).

    When no row is left that covers another, facility location chooses the rest.

    Returns
    -------
    rows, gains
        The gain is in the share of rows that are covered.
    """
    X, share = pool.X, _share(pool)
    share[nearest_distances(X, pool.labelled) <= pool.reach] = 0
    reach = np.full(len(X), pool.reach + _SAME, np.float32)

    def gains(rows: Rows) -> Gains:
        return (_less(X[rows], X, reach) >= 0).astype(np.float32) @ share

    def add(row: int) -> None:
        share[_less(X[row : row + 1], X, reach)[0] >= 0] = 0

    rows, found = lazy_greedy(len(X), count, gains, add)
    useful = int((found > 0).sum())
    if useful == count:
        return rows, found
    known = np.concatenate([pool.labelled, X[rows[:useful]]])
    free = np.setdiff1d(np.arange(len(X)), rows[:useful])
    left = Pool(X[free], known, pool.weights[free], pool.width, pool.reach)
    rest, _ = facility_location(left, count - useful)
    return np.concatenate([rows[:useful], free[rest]]), found


def lazy_greedy(
    size: int, count: int, gains: Callable[[Rows], Gains], add: Callable[[int], None]
) -> Order:
    """Choose the row of the largest gain, again and again; gains must never grow.

    A gain that was computed before is then an upper bound, and few are computed again (Minoux
    1978). The choice is that of the plain greedy algorithm, the first of equals.

    Parameters
    ----------
    gains : callable
        Gains of some rows as things stand.
    add : callable
        Called with each row that is chosen.
    """
    pieces = np.array_split(np.arange(size), size**2 // _BLOCK + 1)
    bound = np.concatenate([gains(piece) for piece in pieces]).astype(np.float64)
    rows, found = np.empty(count, np.int64), np.empty(count)
    for place in range(count):
        stale = (bound > -np.inf) & (place > 0)
        batch = _BATCH
        while stale[row := int(bound.argmax())]:
            waiting = np.flatnonzero(stale)
            most = min(batch, len(waiting))
            again = waiting[np.argpartition(-bound[waiting], most - 1)[:most]]
            bound[again] = np.minimum(bound[again], gains(again))
            stale[again] = False
            batch = min(2 * batch, max(_BATCH, _BLOCK // size))
        rows[place], found[place] = row, bound[row]
        bound[row] = -np.inf
        add(row)
    return rows, found


def _share(pool: Pool) -> Float[np.ndarray, " rows"]:
    return (pool.weights / pool.weights.sum()).astype(np.float32)


def _less(
    A: Float[np.ndarray, "a dim"], B: Float[np.ndarray, "b dim"], limit: Float[np.ndarray, " b"]
) -> Float[np.ndarray, "a b"]:
    """``limit - d²``, in one product: the passes over the result are what takes time."""
    left = np.c_[2 * A, -np.einsum("ij,ij->i", A, A), np.full(len(A), -1, A.dtype)]
    right = np.c_[B, np.ones(len(B), B.dtype), np.einsum("ij,ij->i", B, B) - limit]
    return left @ right.T


def determinantal(pool: Pool, count: int) -> Order:
    """Rows whose kernel matrix has the largest determinant: the likeliest of a DPP, greedily.

    The determinant is the squared volume that the rows span under the Gaussian kernel
    ``exp(-d² / width)``, so each is as far as can be from what the others span. Weights are the
    quality of a row: they multiply its kernel row and column (Kulesza and Taskar 2012). Each
    step updates a Cholesky factor (Chen, Zhang and Zhou 2018): ``count² rows`` operations.

    Returns
    -------
    rows, gains
        The gain is in the logarithm of the determinant.
    """
    X = np.concatenate([pool.labelled, pool.X])
    first = len(pool.labelled)
    quality = np.concatenate([np.ones(first), pool.weights / pool.weights.mean()])
    left = quality**2 + _RIDGE  # of each row, what those before it do not span
    factor = np.empty((first + count, len(X)))
    taken = np.zeros(len(X), bool)
    rows, gains = np.empty(count, np.int64), np.empty(count)
    for place in range(first + count):
        row = place
        if place >= first:
            row = first + int(np.where(taken, -np.inf, left)[first:].argmax())
            rows[place - first], gains[place - first] = row - first, np.log(left[row])
        kernel = np.exp(-squared_distances(X[row : row + 1], X)[0].astype(np.float64) / pool.width)
        kernel *= quality * quality[row]
        step = (kernel - factor[:place, row] @ factor[:place]) / np.sqrt(left[row])
        factor[place] = step
        left = np.maximum(left - step**2, _RIDGE / 2)
        taken[row] = True
    return rows, gains
