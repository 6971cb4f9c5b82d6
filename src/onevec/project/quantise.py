"""Vectors in fewer bytes: 8-bit integers, and single bits."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int8, UInt8

from onevec.errors import InputError
from onevec.project.base import Projection, check_number
from onevec.project.moments import Moments, RowSample

BYTE = np.dtype(np.uint8)
SAMPLE_ROWS = 10_000  # rows kept for order statistics: exact up to here, sampled beyond


class SampledProjection(Projection):
    """Base of the projections that may need order statistics, which do not add up.

    They come from a uniform sample of `SAMPLE_ROWS` rows of the stream, exact while no more rows
    were seen.
    """

    order = 1

    def _observe(self, X: np.ndarray, first: bool) -> None:
        super()._observe(X, first)
        if self._needs_sample():
            if first:
                self.sample_ = RowSample(SAMPLE_ROWS)
            self.sample_.update(X)

    @abstractmethod
    def _needs_sample(self) -> bool:
        """Check the parameter that decides it, and tell whether the sample is needed."""

    def _rows(self, what: str) -> np.ndarray:
        if "sample_" not in vars(self):
            raise InputError(
                f"{type(self).__name__} with {what} cannot be fitted from moments alone: order "
                "statistics do not add up; use fit or partial_fit on the vectors"
            )
        return self.sample_.rows

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


class Int8Quantize(SampledProjection):
    """Round each dimension to one of 255 levels: ``q = clip(round(x / scale), -127, 127)``.

    Parameters
    ----------
    percentile : float, default 100.0
        The percentile of ``|x|`` per dimension that becomes level 127. 100 is the largest value
        seen; a lower one cuts outliers off and makes the steps finer.

    Attributes
    ----------
    scale_ : ndarray of float64, shape (dim,)
        Width of one step. Within the range ``|x| <= 127 scale_`` the error of
        ``inverse_transform`` is at most ``scale_ / 2`` (and float32 rounding); beyond it the
        error is the distance to the range.
    """

    arrays: ClassVar[tuple[str, ...]] = ("scale_",)

    def __init__(self, percentile: float = 100.0):
        self.percentile = percentile

    def _needs_sample(self) -> bool:
        return check_number(self, "percentile", 50.0, 100.0) < 100

    def _solve(self, moments: Moments) -> int:
        if self._needs_sample():
            rows = self._rows(f"percentile={self.percentile}")
            reach = np.percentile(np.abs(rows).astype(np.float64), self.percentile, axis=0)
        else:
            reach = np.maximum(np.abs(moments.low), np.abs(moments.high))
        step = reach / 127
        self.scale_ = np.where(step > 0, step, 1.0)
        return moments.dim

    def _apply(self, X: np.ndarray) -> Int8[np.ndarray, "rows dim"]:
        return np.rint(X / self.scale_).clip(-127, 127).astype(np.int8)

    def inverse_transform(self, X: Any) -> Float[np.ndarray, "rows dim"]:
        """Return ``q scale_`` as float32, shape (rows, dim)."""
        return (self._check_back(X) * self.scale_).astype(np.float32)


class BinaryQuantize(SampledProjection):
    """One bit per dimension: 1 where ``x > threshold``. Compare with `hamming`.

    Parameters
    ----------
    threshold : {"mean", "median", "zero"}, default "mean"
        "median" makes each bit as often 1 as 0.
    packed : bool, default True
        Eight dimensions per byte (`numpy.packbits`), shape (rows, ceil(dim / 8)); else one byte
        of 0 or 1 per dimension.

    Attributes
    ----------
    threshold_ : ndarray of float64, shape (dim,)
    """

    arrays: ClassVar[tuple[str, ...]] = ("threshold_",)

    def __init__(self, threshold: str = "mean", packed: bool = True):
        self.threshold = threshold
        self.packed = packed

    def _needs_sample(self) -> bool:
        if self.threshold not in ("mean", "median", "zero"):
            raise InputError(
                f"BinaryQuantize got threshold={self.threshold!r}: it must be 'mean', 'median' or "
                "'zero'; choose one"
            )
        return self.threshold == "median"

    def _solve(self, moments: Moments) -> int:
        if self._needs_sample():
            self.threshold_ = np.median(self._rows("threshold='median'").astype(np.float64), axis=0)
        else:
            self.threshold_ = np.where(self.threshold == "mean", moments.mean, 0.0)
        return -(-moments.dim // 8) if self.packed else moments.dim

    def _apply(self, X: np.ndarray) -> UInt8[np.ndarray, "rows bytes"]:
        bits = self.threshold_ < X
        return np.packbits(bits, axis=1) if self.packed else bits.astype(np.uint8)


def hamming(A: Any, B: Any) -> Float[np.ndarray, "rows others"]:
    """Count the bits that differ between every two rows of packed bits, as float32.

    ``A`` has shape (rows, bytes), ``B`` (others, bytes).

    ``(bits - a . b) / 2`` with bits as signs: one matrix product, exact.

    Raises
    ------
    InputError
        If these are not two arrays of bytes (uint8) of the same width.
    """
    A, B = np.asarray(A), np.asarray(B)
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[1] or {A.dtype, B.dtype} != {BYTE}:
        raise InputError(
            f"hamming got {A.dtype} {A.shape} and {B.dtype} {B.shape}: it needs two uint8 arrays "
            "of the same width; pass what BinaryQuantize(packed=True) gave"
        )
    left, right = (np.unpackbits(m, axis=1).astype(np.float32) * 2 - 1 for m in (A, B))
    return (left.shape[1] - left @ right.T) / 2
