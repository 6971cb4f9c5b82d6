"""How many dimensions are enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from onevec.project.rows import normalise

DIMENSIONS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Share of the nearest neighbours that must stay. Measured on eight columns, labels of the train
# parts: from 0.88 on the probes are within about one point of the best (benchmarks/LOG.md).
ENOUGH = 0.88
_NEIGHBOURS = 10

Vectors = Float[np.ndarray, "seqs _dims"]


def dimension_curve(whole: Vectors, leading: Vectors) -> list[dict[str, Any]]:
    """Return for each dimension which share of the ten nearest neighbours stays.

    Parameters
    ----------
    whole : ndarray, shape (seqs, width)
        Vectors of held-out sequences, all parts side by side.
    leading : ndarray, shape (seqs, dims)
        The same along their leading directions, as many as any dimension may take.

    Returns
    -------
    list of dict
        ``dim`` and ``neighbours``, the last entry being the widest.
    """
    wanted = _neighbours(whole)
    dims = [dim for dim in DIMENSIONS if dim < leading.shape[1]] + [leading.shape[1]]
    return [
        {"dim": dim, "neighbours": float(_neighbours(leading[:, :dim])[wanted].mean())}
        for dim in dims
    ]


def neighbours_kept(whole: Vectors, other: Vectors) -> float:
    """Return which share of the ten nearest neighbours in one set of vectors another has too."""
    return float(_neighbours(other)[_neighbours(whole)].mean())


def smallest(curve: list[dict[str, Any]]) -> int:
    """Return the smallest dimension that keeps enough neighbours."""
    enough = (entry["dim"] for entry in curve if entry["neighbours"] >= ENOUGH)
    return next(enough, curve[-1]["dim"])


def _neighbours(vectors: Float[np.ndarray, "seqs dims"]) -> np.ndarray:
    """Whether one sequence is among the nearest of another, as a matrix."""
    X = normalise(vectors.astype(np.float64))
    likeness = X @ X.T
    np.fill_diagonal(likeness, -np.inf)
    count = min(_NEIGHBOURS, len(X) - 1)
    near = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
    found = np.zeros(likeness.shape, bool)
    np.put_along_axis(found, near, True, axis=1)
    return found
