"""Random projections: no fit to the data, distances kept by the Johnson-Lindenstrauss lemma."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from sklearn.random_projection import (
    GaussianRandomProjection,
    SparseRandomProjection,
    johnson_lindenstrauss_min_dim,
)

from onevec.errors import InputError
from onevec.project.base import Linear, check_components, check_number
from onevec.project.moments import Moments


def johnson_lindenstrauss_dim(n_samples: int, eps: float = 0.1) -> int:
    """Dimensions that keep all pairwise squared distances of ``n_samples`` within ``1 +- eps``.

    ``k >= 4 log(n) / (eps^2 / 2 - eps^3 / 3)``, whatever the width of the input. There is then
    a positive chance that every pair keeps its squared distance; ``(4 + 2 beta) log(n)`` above
    makes the chance at least ``1 - n^-beta``. This is
    `sklearn.random_projection.johnson_lindenstrauss_min_dim`, and at least 1.

    References
    ----------
    Dasgupta and Gupta 1999, "An elementary proof of the Johnson-Lindenstrauss lemma";
    Achlioptas 2003 for signs and sparse signs.
    """
    if n_samples < 1 or not 0 < eps < 1:
        raise InputError(
            f"johnson_lindenstrauss_dim got n_samples={n_samples}, eps={eps}: the bound needs "
            "n_samples >= 1 and 0 < eps < 1"
        )
    return max(1, int(johnson_lindenstrauss_min_dim(n_samples, eps=eps)))


class RandomMatrixProjection(Linear):
    """Base of the projections ``y = x matrix`` with a random matrix.

    The matrices are scikit-learn's. Entries have mean 0 and variance ``1 / n_components``, so
    that squared lengths are kept on average. The matrix is drawn at the first fit and stays in
    ``partial_fit``; with ``n_components="auto"`` the first batch then decides the width.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (dim,)
        Zeros: nothing is centred.
    matrix_ : ndarray of float64, shape (dim, n_components)
    """

    arrays: ClassVar[tuple[str, ...]] = ("mean_", "matrix_")

    def __init__(self, n_components: int | str = "auto", eps: float = 0.1, random_state: Any = 0):
        self.n_components = n_components
        self.eps = eps
        self.random_state = random_state

    @abstractmethod
    def _drawn(self, width: int) -> Any:
        """Return the scikit-learn projection that draws the matrix."""

    def _solve(self, moments: Moments) -> int:
        if "matrix_" not in vars(self):
            if isinstance(self.n_components, str) and self.n_components == "auto":
                needed = johnson_lindenstrauss_dim(moments.count, self.eps)
                width = min(needed, moments.dim)
            else:
                width = check_components(self, moments.dim)
            drawn = self._drawn(width).fit(np.zeros((1, moments.dim))).components_
            dense = drawn if isinstance(drawn, np.ndarray) else drawn.toarray()
            self.matrix_ = np.ascontiguousarray(dense.T)
            self.mean_ = np.zeros(moments.dim)
        return self.matrix_.shape[1]

    def _inverse(self) -> np.ndarray:
        return np.linalg.pinv(self.matrix_)  # gives the shortest rows; costs too much to do in fit


class RademacherProjection(RandomMatrixProjection):
    """Random signs: every entry is ``+-1 / sqrt(n_components)`` with equal chance.

    Parameters
    ----------
    n_components : int or "auto", default "auto"
        Width of the output. "auto" is `johnson_lindenstrauss_dim` of the count of rows,
        ``4 log(n) / (eps^2 / 2 - eps^3 / 3)``, and at most the width of the input.
    eps : float, default 0.1
        Distortion of squared distances allowed by "auto", between 0 and 1.
    random_state : int, RandomState or None, default 0

    References
    ----------
    Achlioptas 2003, "Database-friendly random projections: Johnson-Lindenstrauss with binary
    coins".
    """

    def _drawn(self, width: int) -> Any:
        return _sparse(width, 1.0, self.random_state)


class SparseProjection(RandomMatrixProjection):
    """Sparse random signs: ``sqrt(s / n_components) {+1, 0, -1}`` with ``s = 1 / density``.

    The chances are ``density / 2``, ``1 - density`` and ``density / 2``: 1/6, 2/3 and 1/6 at the
    default.

    Parameters
    ----------
    n_components : int or "auto", default "auto"
        As in `RademacherProjection`; the same bound holds for density 1/3.
    density : float or "auto", default 1/3
        Share of entries that are not 0. "auto" is ``1 / sqrt(dim)`` of Li et al., for which the
        bound holds only asymptotically and for data without heavy tails.
    eps : float, default 0.1
        Distortion of squared distances allowed by ``n_components="auto"``.
    random_state : int, RandomState or None, default 0

    References
    ----------
    Achlioptas 2003, "Database-friendly random projections"; Li, Hastie and Church 2006, "Very
    sparse random projections".
    """

    def __init__(
        self,
        n_components: int | str = "auto",
        density: float | str = 1 / 3,
        eps: float = 0.1,
        random_state: Any = 0,
    ):
        super().__init__(n_components, eps, random_state)
        self.density = density

    def _drawn(self, width: int) -> Any:
        automatic = isinstance(self.density, str) and self.density == "auto"
        density = "auto" if automatic else check_number(self, "density", 1e-9, 1.0)
        return _sparse(width, density, self.random_state)


class GaussianProjection(RandomMatrixProjection):
    """Random normal entries of mean 0 and variance ``1 / n_components``.

    Parameters
    ----------
    n_components : int or "auto", default "auto"
        As in `RademacherProjection`, with the same bound.
    eps : float, default 0.1
        Distortion of squared distances allowed by "auto", between 0 and 1.
    random_state : int, RandomState or None, default 0

    References
    ----------
    Dasgupta and Gupta 1999, "An elementary proof of the Johnson-Lindenstrauss lemma".
    """

    def _drawn(self, width: int) -> Any:
        kind: Any = GaussianRandomProjection  # its annotations miss the integers
        return kind(width, random_state=self.random_state)


def _sparse(width: int, density: float | str, random_state: Any) -> Any:
    kind: Any = SparseRandomProjection
    return kind(width, density=density, random_state=random_state)
