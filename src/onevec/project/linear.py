"""Projections from the mean and the covariance: centre, PCA, whitening, top components out."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from onevec.errors import InputError
from onevec.project.base import Linear, Projection, as_float, check_components, check_number
from onevec.project.moments import Moments, oas_shrinkage

Matrix = Float[np.ndarray, "dim dim"]


class Center(Projection):
    """Subtract the mean: ``y = x - mean``.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (dim,)
    """

    order = 1
    arrays: ClassVar[tuple[str, ...]] = ("mean_",)

    def _solve(self, moments: Moments) -> int:
        self.mean_ = moments.mean
        return moments.dim

    def _apply(self, X: np.ndarray) -> np.ndarray:
        return (X - self.mean_).astype(X.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Add the mean, shape (rows, dim) -> (rows, dim)."""
        X = self._check_back(X)
        return as_float(X + self.mean_, X.dtype)

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``matrix`` (dim, dim) and ``bias`` (dim,) of ``y = x matrix + bias``."""
        return np.eye(self.n_features_in_), -self.mean_


class Whitening(Linear):
    r"""Rotate to principal axes and scale them by their variance to the power ``-power / 2``.

    With the covariance ``S = U diag(v) U^T`` (unbiased) and shrinkage ``w``::

        y = diag((1 - w) v + w tr(S) / dim) ^ (-power / 2)  U^T (x - mean)

    With ``power=1`` and no shrinkage the training rows get zero mean and identity covariance.
    ``power=0.5`` is half-whitening (``v ^ -1/4``), ``power=0`` is PCA.

    Parameters
    ----------
    n_components : int, optional
        How many leading directions to keep; None keeps all.
    power : float, default 1.0
        From 0 (PCA) to 1 (full whitening); up to 2 is allowed.
    shrinkage : float or "auto", default 0.0
        Weight ``w``, 0 to 1, of the mean variance. "auto" takes the weight of `oas_shrinkage`.
        It keeps small, badly known variances from being enlarged.
    eps : float, default 1e-10
        A direction whose (shrunk) variance is at most ``eps`` times the largest counts as null.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (dim,)
    matrix_, inverse_ : ndarray of float64, shape (dim, n_components) and (n_components, dim)
    explained_variance_ : ndarray of float64, shape (n_components,)
        Variances ``v`` of the kept directions, largest first, before shrinkage.
    shrinkage_ : float
        The weight used.
    rank_ : int
        How many of the kept directions are not null.

    Notes
    -----
    Null directions (constant or dependent columns, fewer rows than columns) give exactly 0: their
    axes are an accident of rounding. The width of the output stays ``n_components``. Of each axis
    the entry with the largest absolute value is positive, which makes signs deterministic.

    References
    ----------
    Su et al. 2021, "Whitening sentence representations for better semantics and faster
    retrieval"; Kessy, Lewin and Strimmer 2018, "Optimal whitening and decorrelation".
    """

    order = 2
    least_rows = 2

    def __init__(
        self,
        n_components: int | None = None,
        power: float = 1.0,
        shrinkage: float | str = 0.0,
        eps: float = 1e-10,
    ):
        self.n_components = n_components
        self.power = power
        self.shrinkage = shrinkage
        self.eps = eps

    def _solve(self, moments: Moments) -> int:
        kept = check_components(self, moments.dim)
        power = check_number(self, "power", 0.0, 2.0)
        eps = check_number(self, "eps", 0.0, 1.0)
        covariance = moments.covariance()
        self.shrinkage_ = shrinkage_weight(self, covariance, moments.count)
        variances, axes = moments.principal_axes(kept)
        shrunk = shrink(variances, covariance, self.shrinkage_)
        alive = shrunk > eps * shrunk[0]
        scale = np.where(alive, shrunk, 1.0) ** (power / 2)
        self.mean_ = moments.mean
        self.matrix_ = np.where(alive, axes / scale, 0.0)
        self.inverse_ = np.ascontiguousarray(np.where(alive, axes * scale, 0.0).T)
        self.explained_variance_ = variances
        self.rank_ = int(alive.sum())
        return kept


class PCA(Linear):
    """Rotate to the principal axes and keep the leading ones: ``y = U^T (x - mean)``.

    The same as `sklearn.decomposition.PCA`, signs included, but from streamed moments.

    Parameters
    ----------
    n_components : int, optional
        How many leading directions to keep; None keeps all.

    Attributes
    ----------
    components_ : ndarray of float64, shape (n_components, dim)
        The axes, as rows of unit length. A null direction (see `Whitening`) is a row of zeros.
    explained_variance_, explained_variance_ratio_ : ndarray of float64, shape (n_components,)
        Unbiased variance along each axis, and its share of the whole.
    rank_ : int
        How many of the kept directions are not null.
    """

    order = 2
    least_rows = 2

    def __init__(self, n_components: int | None = None):
        self.n_components = n_components

    def _solve(self, moments: Moments) -> int:
        kept = check_components(self, moments.dim)
        whitening = Whitening(kept, power=0.0).fit_moments(moments)
        self.mean_, self.matrix_ = whitening.mean_, whitening.matrix_
        self.inverse_ = whitening.inverse_
        self.rank_ = whitening.rank_
        self.explained_variance_ = whitening.explained_variance_
        total = np.trace(moments.scatter) / (moments.count - 1)
        self.explained_variance_ratio_ = self.explained_variance_ / (total or 1.0)
        return kept

    @property
    def components_(self) -> np.ndarray:
        """The principal axes as rows."""
        return self.inverse_


class RemoveTopComponents(Projection):
    """Subtract the mean and the leading principal directions ("all but the top").

    ``y = c - U U^T c`` with ``c = x - mean`` and ``U`` the ``n_removed`` leading axes. The width
    stays.

    Parameters
    ----------
    n_removed : int or "auto", default "auto"
        How many directions to remove; "auto" is one per 100 dimensions, and at least one.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (dim,)
    components_ : ndarray of float64, shape (n_removed, dim)
        The removed axes.

    References
    ----------
    Mu and Viswanath 2018, "All-but-the-top: simple and effective postprocessing for word
    representations".
    """

    order = 2
    least_rows = 2
    arrays: ClassVar[tuple[str, ...]] = ("mean_", "components_")

    def __init__(self, n_removed: int | str = "auto"):
        self.n_removed = n_removed

    def _solve(self, moments: Moments) -> int:
        dim = moments.dim
        automatic = isinstance(self.n_removed, str) and self.n_removed == "auto"
        removed = max(1, dim // 100) if automatic else check_components(self, dim, "n_removed")
        self.mean_ = moments.mean
        self.components_ = np.ascontiguousarray(moments.principal_axes(removed)[1].T)
        return dim

    def _apply(self, X: np.ndarray) -> np.ndarray:
        centred = X.astype(np.float64) - self.mean_
        centred -= (centred @ self.components_.T) @ self.components_
        return centred.astype(X.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Add the mean; what was removed stays at its mean. Shape (rows, dim) -> (rows, dim)."""
        X = self._check_back(X)
        return as_float(X + self.mean_, X.dtype)

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``matrix`` (dim, dim) and ``bias`` (dim,) of ``y = x matrix + bias``."""
        matrix = np.eye(self.n_features_in_) - self.components_.T @ self.components_
        return matrix, -self.mean_ @ matrix


def shrinkage_weight(owner: Any, covariance: Matrix, count: int) -> float:
    """Return the parameter ``shrinkage`` of ``owner`` as a weight from 0 to 1."""
    if isinstance(owner.shrinkage, str):
        if owner.shrinkage != "auto":
            raise InputError(
                f"{type(owner).__name__} got shrinkage={owner.shrinkage!r}: it must be 'auto' or "
                "a number from 0 to 1"
            )
        return oas_shrinkage(covariance, count)
    return check_number(owner, "shrinkage", 0.0, 1.0)


def shrink(variances: np.ndarray, covariance: Matrix, weight: float) -> np.ndarray:
    """Shrink eigenvalues of ``covariance`` toward their mean."""
    return (1 - weight) * variances + weight * np.trace(covariance) / len(covariance)
