"""Similarity of vectors: pairs, nearest ones, groups of near-duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from onevec.errors import InputError
from onevec.use.calibration import Calibration
from onevec.use.exact import Rows, check_metric, exact_top, scores_of, unit
from onevec.use.formats import Vectors
from onevec.use.index import Index

_BLOCK = 2_048
_MOST_NEIGHBOURS = 1_024


def pairwise(a: Any, b: Any = None, *, metric: str = "cosine") -> Float[np.ndarray, "rows others"]:
    """Return the score of every row of ``a`` with every row of ``b``, or of ``a``.

    The larger the nearer: cosine, dot product, or minus the Euclidean distance. The whole matrix
    is returned: for large collections take `nearest` or an `Index`.
    """
    check_metric(metric)
    left = Vectors.of(a).vectors
    right = left if b is None else Vectors.of(b, what="other vectors").vectors
    _same_dim(left, right)
    return np.stack([scores_of(row, right, metric) for row in left])


def nearest(
    vectors: Any, queries: Any = None, k: int = 10, *, metric: str = "cosine"
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Return the rows of the exact ``k`` nearest vectors, and their scores, the nearest first.

    Without ``queries`` the nearest others of each vector. Fewer than ``k`` where there are fewer.
    """
    check_metric(metric)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"got k={k!r}: it must be a whole number of at least 1")
    known = Vectors.of(vectors).vectors
    if queries is not None:
        asked = Vectors.of(queries, what="queries").vectors
        _same_dim(known, asked)
        return exact_top(Rows(known), asked, k, metric)
    rows, scores = exact_top(Rows(known), known, k + 1, metric)
    keep = rows != np.arange(len(known))[:, None]
    keep[keep.all(axis=1), -1] = False  # itself is not among its hits: k + 1 others tie with it
    return rows[keep].reshape(len(known), -1), scores[keep].reshape(len(known), -1)


def near_duplicates(
    vectors: Any,
    threshold: float | None = None,
    *,
    chance: float | None = None,
    metric: str = "cosine",
    random_state: int = 0,
) -> Int[np.ndarray, " rows"]:
    """Group vectors that score at least ``threshold`` with each other, directly or in a chain.

    Parameters
    ----------
    vectors : array of shape (rows, dim), Vectors, path of a file, or Index
        All pairs are compared block by block, which is exact and takes time of their square. With
        an `Index` the pairs are those that it finds, up to 1,024 for each vector, and its metric
        counts.
    threshold : float, optional
        Smallest score of a pair.
    chance : float, optional
        Instead of a threshold: how many pairs as near chance alone may give in the whole
        collection (`duplicate_threshold`); 0.01 when neither is given.
    metric : {"cosine", "euclidean"}
        With "euclidean" the threshold is minus the largest distance.

    Returns
    -------
    int ndarray, shape (rows,)
        For each row the first row of its group, itself where it is alone:
        ``groups == np.arange(len(groups))`` are the rows to keep.
    """
    index = vectors if isinstance(vectors, Index) else None
    data = index.vectors if index is not None else Vectors.of(vectors).vectors
    metric = index.metric if index is not None else metric
    if check_metric(metric) == "dot":
        raise InputError("near-duplicates have no meaning by dot product: use cosine or euclidean")
    if threshold is None:
        threshold = duplicate_threshold(data, chance, metric=metric, random_state=random_state)
    elif chance is not None:
        raise InputError(f"got threshold={threshold} and chance={chance}: pass one of them")
    if not np.isfinite(threshold):
        raise InputError(f"got threshold={threshold}: it must be a number")
    least = np.float32(threshold)
    edges = _close_pairs(data, least, metric) if index is None else _found_pairs(index, data, least)
    groups = np.arange(len(data))
    for left, right in edges:
        groups = _united(groups, left, right)
    return groups


def duplicate_threshold(
    vectors: Any, chance: float | None = None, *, metric: str = "cosine", random_state: int = 0
) -> float:
    """Return the score that chance alone gives so many pairs of the whole collection.

    The collection is its own reference (`Calibration`); ``chance`` is 0.01 by default. Where more
    than some pairs in 10,000 are duplicates they are what chance gives, and the threshold is too
    high: name one then.
    """
    data = Vectors.of(vectors).vectors
    chance = 0.01 if chance is None else chance
    pairs = len(data) * (len(data) - 1) / 2
    if not 0 < chance < max(pairs, 1):
        raise InputError(f"got chance={chance}: it must lie between 0 and {pairs:,.0f}, all pairs")
    calibration = Calibration.fit(data, metric=metric, random_state=random_state)
    return calibration.threshold(chance / pairs)


def _same_dim(left: np.ndarray, right: np.ndarray) -> None:
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"got vectors of {left.shape[1]} and of {right.shape[1]} dimensions: both must be of "
            "one model"
        )


def _united(groups: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join groups along edges; each is called by its first row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = groups[left], groups[right]
    new = a != b
    if not new.any():
        return groups
    names, places = np.unique(np.concatenate([a[new], b[new]]), return_inverse=True)
    edges = places.reshape(2, -1)
    graph = coo_array((np.ones(edges.shape[1], bool), tuple(edges)), (len(names), len(names)))
    _, parts = connected_components(graph, directed=False)
    first = np.full(parts.max() + 1, len(groups))
    np.minimum.at(first, parts, names)
    renamed = np.arange(len(groups))
    renamed[names] = first[parts]
    return renamed[groups]


def _close_pairs(
    X: np.ndarray, least: np.float32, metric: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, block by block, the pairs that score at least so much."""
    Z = unit(X).astype(np.float32) if metric == "cosine" else X
    squares = np.einsum("nd,nd->n", X, X, dtype=np.float64)
    bound = 2 * (X.shape[1] + 8) * float(np.finfo(np.float32).eps)
    half = np.zeros(len(X)) if metric == "cosine" else squares / 2
    if metric == "cosine":
        border, slack = float(least), bound
    else:  # |a - b| <= t where a.b - |a|²/2 - |b|²/2 >= -t²/2
        border, slack = -(min(float(least), 0.0) ** 2) / 2, 4 * bound * float(squares.max())
    half = half.astype(np.float32)
    for i in range(0, len(X), _BLOCK):
        for j in range(i, len(X), _BLOCK):
            found = Z[i : i + _BLOCK] @ Z[j : j + _BLOCK].T
            found -= half[i : i + _BLOCK, None]
            found -= half[None, j : j + _BLOCK]
            left, right = np.nonzero(found >= border - slack)
            sure = found[left, right] > border + slack
            left, right = left + i, right + j
            once = left < right
            left, right, sure = left[once], right[once], sure[once]
            # What fp32 cannot decide is decided by the exact score.
            open_ = np.flatnonzero(~sure)
            for part in np.array_split(open_, len(open_) // 65_536 + 1):
                sure[part] = scores_of(X[left[part]], X[right[part]], metric) >= least
            yield left[sure], right[sure]


def _found_pairs(
    index: Index, X: np.ndarray, least: np.float32
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs that an index finds, more for those whose last hit is still near."""
    places = {name: row for row, name in enumerate(index.ids)}
    rows, k = np.arange(len(X)), 16
    while len(rows):
        k = min(k, len(X))
        further = []
        for some in np.array_split(rows, len(rows) // _BLOCK + 1):
            found = index.search(X[some], k)
            near = found.scores >= least
            right = np.array([places[name] for name in found.ids[near]], np.int64)
            yield np.repeat(some, near.sum(axis=1)), right
            further.append(some[near[:, -1]])
        done = k == len(X) or k >= _MOST_NEIGHBOURS
        rows, k = (np.empty(0, np.int64) if done else np.concatenate(further)), 8 * k
