"""Rows of length 1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

SHORTEST = 1e-12  # what is shorter is not scaled to length 1


def normalise(X: Float[np.ndarray, "items dim"]) -> Float[np.ndarray, "items dim"]:
    """Scale each row to length 1; a row of zeros stays."""
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), SHORTEST)
