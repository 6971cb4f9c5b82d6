"""Projections that learn nothing but the width: truncate, normalise."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted

from onevec.project.base import Projection, check_components
from onevec.project.moments import Moments


class Truncate(Projection):
    """Keep the first dimensions. Useful after PCA, and for Matryoshka-trained vectors.

    Parameters
    ----------
    n_components : int, optional
        How many to keep; None keeps all.
    """

    def __init__(self, n_components: int | None = None):
        self.n_components = n_components

    def _solve(self, moments: Moments) -> int:
        return check_components(self, moments.dim)

    def _apply(self, X: np.ndarray) -> np.ndarray:
        return X[:, : self._n_features_out].copy()

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Fill what was cut with 0: (rows, n_components) -> (rows, dim)."""
        X = self._check_back(X)
        return np.pad(X, ((0, 0), (0, self.n_features_in_ - X.shape[1])))

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``matrix`` (dim, dim_out) and ``bias`` (dim_out,), which is 0."""
        check_is_fitted(self)
        return np.eye(self.n_features_in_, self._n_features_out), np.zeros(self._n_features_out)


class Normalize(Projection):
    """Scale each row to Euclidean length 1; rows of zeros stay zeros.

    `sklearn.preprocessing.normalize`, guarded against overflow of the squares.
    """

    def _solve(self, moments: Moments) -> int:
        return moments.dim

    def _apply(self, X: np.ndarray) -> np.ndarray:
        peak = np.abs(X).max(axis=1, keepdims=True)
        return np.asarray(normalize(X / np.where(peak > 0, peak, 1), copy=False))
