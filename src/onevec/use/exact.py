"""Exact nearest vectors, block by block: no matrix of all scores is ever held.

Scores are always the larger the nearer: cosine, dot product, or minus the Euclidean distance.
They are computed in fp64 and rounded to fp32, so equal vectors tie wherever they stand; ties go
to the lower row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int

from onevec.errors import InputError

METRICS = ("cosine", "dot", "euclidean")
_ROWS, _QUERIES = 16_384, 256  # rows and queries of one block of scores
_SLACK = 32  # candidates kept beyond k: what fp32 may confuse
_SHORTEST, _LONGEST = 1e-15, 1e15  # rows whose squares fp32 holds
_EPSILON = float(np.finfo(np.float32).eps)


@runtime_checkable
class VectorReader(Protocol):
    """Vectors that are read piece by piece."""

    def __len__(self) -> int: ...

    def read(self, rows: slice | Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Return some rows in fp32."""
        ...


class Rows:
    """An array as a `VectorReader`."""

    def __init__(self, vectors: Float[np.ndarray, "rows dim"]):
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def read(self, rows: slice | Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Return some rows."""
        return self.vectors[rows]


def check_metric(metric: str) -> str:
    """Raise `InputError` for a metric that does not exist."""
    if metric not in METRICS:
        raise InputError(f"got metric={metric!r}: choose one of {', '.join(METRICS)}")
    return metric


def unit(X: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Scale rows to length 1 in fp64; a row of zeros stays."""
    X = X.astype(np.float64)
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norm > 0, norm, 1.0)


@np.errstate(over="ignore")
def scores_of(
    A: Float[np.ndarray, "... dim"], B: Float[np.ndarray, "... dim"], metric: str
) -> Float[np.ndarray, ...]:
    """Return the fp32 score of each pair of rows of two arrays that broadcast."""
    A, B = A.astype(np.float64), B.astype(np.float64)
    if metric == "euclidean":
        difference = A - B
        found = -np.sqrt(np.einsum("...d,...d->...", difference, difference))
    else:
        found = np.einsum("...d,...d->...", A, B)
        if metric == "cosine":
            norms = np.linalg.norm(A, axis=-1) * np.linalg.norm(B, axis=-1)
            found = found / np.where(norms > 0, norms, 1.0)
    return found.astype(np.float32)


def in_order(
    scores: Float[np.ndarray, "queries found"], rows: Int[np.ndarray, "queries found"], k: int
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Sort candidates by score, then by row; keep the first ``k``."""
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


@np.errstate(over="ignore", invalid="ignore")
def exact_top(
    source: VectorReader,
    queries: Float[np.ndarray, "queries dim"],
    k: int,
    metric: str,
    rows: Int[np.ndarray, " allowed"] | None = None,
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Return the rows of the ``k`` largest scores and the scores, the best first.

    Blocks are scored in fp32. What they leave over is scored in fp64, and a query of which the
    bound on rounding (Higham 2002, section 3.1) does not exclude another answer is searched in
    fp64 altogether.

    Parameters
    ----------
    source : VectorReader
        What is searched.
    queries : ndarray, shape (queries, dim)
        fp32.
    k : int
        How many; fewer where there are fewer.
    metric : {"cosine", "dot", "euclidean"}
        What is compared.
    rows : ascending int ndarray, optional
        The rows that may be found; all of them when not given.
    """
    total = len(source) if rows is None else len(rows)
    k, kept = min(k, total), min(k + _SLACK, total)
    Q = (unit(queries) if metric == "cosine" else queries).astype(np.float32)
    best = np.full((len(Q), 0), -np.inf, np.float32)
    found = np.zeros((len(Q), 0), np.int64)
    largest = 0.0
    for first in range(0, total, _ROWS):
        last = min(first + _ROWS, total)
        block = source.read(slice(first, last) if rows is None else rows[first:last])
        block, offset, norm = _prepared(block, metric)
        largest = max(largest, norm)
        kept_before = best, found
        best, found = _merged(Q, block, offset, kept_before, first=first, kept=kept)
    found = found if rows is None else rows[found]
    return _settled(_Search(source, queries, k, metric, rows), best, found, largest)


@dataclass(frozen=True)
class _Search:
    """The arguments of `exact_top`."""

    source: VectorReader
    queries: Float[np.ndarray, "queries dim"]
    k: int
    metric: str
    rows: Int[np.ndarray, " allowed"] | None


def _prepared(
    block: Float[np.ndarray, "rows dim"], metric: str
) -> tuple[Float[np.ndarray, "rows dim"], Float[np.ndarray, " rows"], float]:
    """Make ``q . x + offset`` grow with the score; also the largest norm."""
    if metric == "cosine":
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        # In fp32 it takes a third of the time; the bound on rounding has room for it.
        tame = lengths.min() > _SHORTEST and lengths.max() < _LONGEST
        block = block / lengths[:, None] if tame else unit(block).astype(np.float32)
        return block, np.zeros(len(block), np.float32), 1.0
    squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
    offset = -squares / 2 if metric == "euclidean" else np.zeros(len(block))
    # torch takes no array that must not be written, such as a memory-mapped one
    return (
        np.require(block, requirements=["C", "W"]),
        offset.astype(np.float32),
        float(np.sqrt(squares.max())),
    )


def _merged(
    Q: np.ndarray,
    block: np.ndarray,
    offset: np.ndarray,
    before: tuple[np.ndarray, np.ndarray],
    *,
    first: int,
    kept: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Join a block's best with those of the blocks before."""
    values, places = [], []
    X, added = torch.from_numpy(block).T, torch.from_numpy(offset)
    for queries in torch.from_numpy(Q).split(_QUERIES):
        top = torch.addmm(added, queries, X).topk(min(kept, X.shape[1]), dim=1, sorted=False)
        values.append(top.values.numpy())
        places.append(top.indices.numpy() + first)
    both = np.concatenate([before[0], np.concatenate(values)], axis=1)
    rows = np.concatenate([before[1], np.concatenate(places)], axis=1)
    if both.shape[1] > kept:
        order = np.argpartition(-both, kept - 1, axis=1)[:, :kept]
        both, rows = np.take_along_axis(both, order, 1), np.take_along_axis(rows, order, 1)
    return both, rows


def _settled(
    search: _Search,
    best: Float[np.ndarray, "queries kept"],
    found: Int[np.ndarray, "queries kept"],
    largest: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Score candidates exactly; search again where a row left out might belong to the k best."""
    queries, metric = search.queries, search.metric
    out, scores = rescored(search.source, queries, found, search.k, metric)
    total = len(search.source) if search.rows is None else len(search.rows)
    if found.shape[1] < total:
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        last = scores[:, -1].astype(np.float64)
        size = norms * largest
        if metric == "cosine":
            size = np.ones(len(queries))
        elif metric == "euclidean":
            last, size = (norms**2 - last**2) / 2, (norms + largest) ** 2
        bound = 2 * (queries.shape[1] + 8) * _EPSILON * size
        sure = best.min(axis=1) + bound < last  # false also for what overflowed
        for query in np.flatnonzero(~sure):
            out[query], scores[query] = _slow_top(search, queries[query])
    return out, scores


def rescored(
    source: VectorReader,
    queries: Float[np.ndarray, "queries dim"],
    candidates: Int[np.ndarray, "queries found"],
    k: int,
    metric: str,
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Return the ``k`` best of each query's candidates by their exact scores; -1 is none."""
    step = max(1, _ROWS * 8 // max(1, candidates.shape[1]))
    pieces = []
    for first in range(0, len(queries), step):
        some = candidates[first : first + step]
        vectors = source.read(np.maximum(some, 0).ravel()).reshape(*some.shape, -1)
        scores = scores_of(queries[first : first + step, None], vectors, metric)
        scores[some < 0] = -np.inf
        pieces.append(in_order(scores, some, k))
    rows, scores = zip(*pieces, strict=True)
    return np.concatenate(rows), np.concatenate(scores)


def _slow_top(search: _Search, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search in fp64 altogether."""
    source, rows = search.source, search.rows
    total = len(source) if rows is None else len(rows)
    found, best = np.zeros((1, 0), np.int64), np.zeros((1, 0), np.float32)
    for first in range(0, total, _ROWS):
        last = min(first + _ROWS, total)
        some = np.arange(first, last) if rows is None else rows[first:last]
        block = source.read(slice(first, last) if rows is None else some)
        scores = scores_of(query[None], block, search.metric)[None]
        found, best = in_order(
            np.concatenate([best, scores], axis=1),
            np.concatenate([found, some[None]], axis=1),
            search.k,
        )
    return found[0], best[0]
