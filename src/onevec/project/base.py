"""What every projection shares: fitting from moments, input checks, state without pickle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from onevec.errors import InputError
from onevec.project.moments import CHUNK_VALUES, Moments, check_finite

_ProjectionT = TypeVar("_ProjectionT", bound="Projection")


class Projection(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """A scikit-learn transformer of vectors, fitted from statistics that add up.

    ``fit`` takes all rows at once, ``partial_fit`` batches, ``fit_moments`` ready `Moments`.
    All three give the same result. ``partial_fit`` solves anew at each call; with many batches
    gather `Moments` first and call ``fit_moments`` once. float32 input gives float32 output;
    the arithmetic is in float64.

    Attributes
    ----------
    moments_ : Moments
        What was gathered. No projection changes it in place, so several may share it.
    n_features_in_ : int
        Width of the input.
    """

    order: ClassVar[int] = 0  # the order of moments that _solve needs
    least_rows: ClassVar[int] = 1
    arrays: ClassVar[tuple[str, ...]] = ()  # the fitted arrays that transform needs

    @abstractmethod
    def _solve(self, moments: Moments) -> int:
        """Check the parameters, set the fitted arrays, return the width of the output."""

    @abstractmethod
    def _apply(self, X: np.ndarray) -> np.ndarray:
        """Transform checked rows."""

    def _observe(self, X: np.ndarray, first: bool) -> None:
        """Add checked rows to the statistics. Replaces moments_, never changes it."""
        new = Moments(X.shape[1], self.order).update(X)
        self.moments_ = new if first else self.moments_.merge(new)

    def fit(self: _ProjectionT, X: Any, y: Any = None) -> _ProjectionT:
        """Fit to all rows of ``X``, shape (rows, dim). ``y`` is ignored."""
        self._forget()
        self._observe(self._check(X, reset=True), first=True)
        return self._conclude()

    def partial_fit(self: _ProjectionT, X: Any, y: Any = None) -> _ProjectionT:
        """Add the rows of ``X``, shape (rows, dim), to what was fitted before.

        Fitted as soon as enough rows were seen (two, where a covariance is needed).
        """
        first = self._is_first()
        self._observe(self._check(X, reset=first), first)
        return self._conclude() if self.moments_.count >= self.least_rows else self

    def fit_moments(self: _ProjectionT, moments: Moments) -> _ProjectionT:
        """Fit from gathered moments alone; they are kept as they are, not copied."""
        return self._fit_gathered(moments)

    def _fit_gathered(self: _ProjectionT, moments: Any) -> _ProjectionT:
        """Fit from `Moments`, or from what a projection has in their place."""
        if moments.order < self.order:
            raise InputError(
                f"{type(self).__name__} got moments of order {moments.order}: it needs order "
                f"{self.order}; gather them with Moments(dim, order={self.order})"
            )
        self._forget()
        self.n_features_in_ = moments.dim
        self.moments_ = moments
        return self._conclude()

    def transform(self, X: Any) -> np.ndarray:
        """Return the projected rows of ``X``, shape (rows, dim) -> (rows, dim_out)."""
        check_is_fitted(self)
        return self._apply(self._check(X, reset=False))

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays that ``transform`` needs, for `load_projection`.

        Moments and column names are left out: a loaded projection cannot be fitted further.
        """
        check_is_fitted(self)
        widths = np.array([self.n_features_in_, self._n_features_out], dtype=np.int64)
        return {"widths": widths, **{name: vars(self)[name] for name in self.arrays}}

    def load_state(self: _ProjectionT, arrays: Mapping[str, np.ndarray]) -> _ProjectionT:
        """Take over the arrays of `state`, and return self."""
        missing = {"widths", *self.arrays} - set(arrays)
        if missing:
            raise InputError(
                f"the saved {type(self).__name__} lacks {', '.join(sorted(missing))}: "
                "it is incomplete; save the model again"
            )
        self._forget()
        for name in self.arrays:
            setattr(self, name, np.asarray(arrays[name]))
        self.n_features_in_, self._n_features_out = (int(v) for v in arrays["widths"])
        return self

    def _conclude(self: _ProjectionT) -> _ProjectionT:
        if self.moments_.count < self.least_rows:
            raise InputError(
                f"{type(self).__name__} got n_samples = {self.moments_.count}: it needs at least "
                f"{self.least_rows} rows; pass more vectors"
            )
        self._n_features_out = self._solve(self.moments_)
        return self

    def _forget(self) -> None:
        for name in [k for k in vars(self) if k.endswith("_") or k == "_n_features_out"]:
            delattr(self, name)

    def _is_first(self) -> bool:
        if "n_features_in_" not in vars(self):
            return True
        if "moments_" not in vars(self):
            raise InputError(
                f"this {type(self).__name__} was loaded without its moments, so partial_fit "
                "cannot add to them: fit a new one"
            )
        return False

    def _check(self, X: Any, reset: bool) -> np.ndarray:
        try:
            X = validate_data(
                self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite=False
            )
        except ValueError as error:
            raise InputError(_sentence(str(error))) from None
        check_finite(X)
        return X

    def _check_back(self, X: Any) -> np.ndarray:
        """Check the input of inverse_transform: (rows, dim_out) of numbers."""
        check_is_fitted(self)
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self._n_features_out:
            raise InputError(
                f"inverse_transform got an array of shape {X.shape}: it must be (rows, "
                f"{self._n_features_out}); pass what transform of this {type(self).__name__} gave"
            )
        check_finite(X)
        return X

    def __sklearn_is_fitted__(self) -> bool:
        return "_n_features_out" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Linear(Projection):
    """A projection ``y = (x - mean) matrix``.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (dim,)
    matrix_ : ndarray of float64, shape (dim, dim_out)
    inverse_ : ndarray of float64, shape (dim_out, dim)
        ``x`` is ``y inverse_ + mean_``, up to what the projection dropped.
    """

    arrays: ClassVar[tuple[str, ...]] = ("mean_", "matrix_", "inverse_")
    mean_: np.ndarray
    matrix_: np.ndarray
    inverse_: np.ndarray

    def _apply(self, X: np.ndarray) -> np.ndarray:
        out = np.empty((len(X), self.matrix_.shape[1]), X.dtype)
        rows = max(1, CHUNK_VALUES // X.shape[1])
        for start in range(0, len(X), rows):
            # float32 loses the small directions that whitening enlarges, hence float64.
            chunk = X[start : start + rows].astype(np.float64)
            out[start : start + rows] = (chunk - self.mean_) @ self.matrix_
        return out

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return to the input space, shape (rows, dim_out) -> (rows, dim)."""
        X = self._check_back(X)
        return as_float(X.astype(np.float64) @ self._inverse() + self.mean_, X.dtype)

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``matrix`` (dim, dim_out) and ``bias`` (dim_out,) of ``y = x matrix + bias``."""
        check_is_fitted(self)
        return self.matrix_, -self.mean_ @ self.matrix_

    def _inverse(self) -> np.ndarray:
        return self.inverse_


def as_float(values: np.ndarray, like: np.dtype) -> np.ndarray:
    """Give ``values`` the dtype of the input if that is float32 or float64, else float64."""
    return values.astype(like if like in (np.float32, np.float64) else np.float64)


def check_components(owner: Projection, dim: int, name: str = "n_components") -> int:
    """Return the parameter ``name`` as a count of 1 to ``dim``; None means ``dim``."""
    value: Any = getattr(owner, name)
    if value is None:
        return dim
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 1 <= int(value) <= dim:
        raise InputError(
            f"{type(owner).__name__} got {name}={value!r} for vectors of n_features = {dim}: "
            f"{name} must be an integer from 1 to {dim}; choose another, or None for all"
        )
    return int(value)


def check_number(owner: Projection, name: str, low: float, high: float) -> float:
    """Return the parameter ``name`` as a float in ``[low, high]``."""
    value: Any = getattr(owner, name)
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= float(value) <= high:
        raise InputError(
            f"{type(owner).__name__} got {name}={value!r}: it must be a number from {low} to "
            f"{high}; choose another"
        )
    return float(value)


def _sentence(message: str) -> str:
    """Add to the message of scikit-learn's check what to do next."""
    if "is expecting" in message:
        return f"{message}: pass vectors of the model and recipe it was fitted on, or fit anew"
    return message if "\n" in message else f"{message.rstrip('.')}: pass a (rows, dim) array"
