"""How many dimensions are enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from onevec.blocks import Prepared
from onevec.judge.probes import normalise
from onevec.reduction import Candidate, Reduction

DIMENSIONS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Share of the nearest neighbours that must stay. Measured on eight columns, labels of the train
# parts: from 0.88 on the probes are within about one point of the best (benchmarks/LOG.md).
ENOUGH = 0.88
_NEIGHBOURS = 10


def dimension_curve(prepared: Prepared, candidate: Candidate) -> list[dict[str, Any]]:
    """Return for each dimension which share of the neighbours in the widest vector stay.

    On held-out sequences; ``dim`` and ``neighbours``, the last entry being the widest.
    """
    held = {name: block[prepared.count :] for name, block in prepared.features.items()}
    cache: dict[Any, Any] = {}

    def fitted(dim: int) -> np.ndarray:
        found = Reduction(candidate).fit(prepared.fitted, dim, cache, prepared.fitted_nuisance)
        return found.transform(held)

    widest = fitted(DIMENSIONS[-1])
    varying = widest.std(0) > 1e-6 * widest.std(0).max()
    widest = widest[:, : max(1, int(varying.sum()))]  # the rest are null directions
    wanted = _neighbours(widest)
    curve = []
    for dim in [dim for dim in DIMENSIONS if dim < widest.shape[1]] + [widest.shape[1]]:
        # The parts of a blend have more dimensions where it has.
        vectors = fitted(dim) if candidate.parts else widest[:, :dim]
        curve.append({"dim": dim, "neighbours": float(_neighbours(vectors)[wanted].mean())})
    return curve


def smallest(curve: list[dict[str, Any]]) -> int:
    """Return the smallest dimension that keeps enough neighbours."""
    return next(entry["dim"] for entry in curve if entry["neighbours"] >= ENOUGH)


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
