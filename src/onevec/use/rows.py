"""Vectors that are read piece by piece, from memory or from a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from onevec.errors import InputError
from onevec.tokens.tables import reading
from onevec.use.formats import FORMATS, array_of, read_vectors
from onevec.use.greedy import nearest_distances

_ROWS = 8_192  # read at a time
BLOCK = 2**23  # entries of a similarity matrix at a time


class Source:
    """Vectors that are read piece by piece, each row scaled to length 1 in fp32."""

    def __init__(self, vectors: Float[np.ndarray, "rows dim"]):
        self.vectors = vectors

    @classmethod
    def of(cls, vectors: Any) -> Source:
        """Take an array or the path of a file; check shape, type and every value."""
        if isinstance(vectors, str | Path):
            vectors = read(vectors)[0]
        source = cls(as_table(vectors, "vectors"))
        for first, piece in source._raw():
            finite = np.isfinite(piece).all(1)
            if not finite.all():
                row = first + int((~finite).argmax())
                raise InputError(f"row {row} of the vectors holds NaN or infinity: leave it out")
        return source

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self.vectors.shape[1]

    def take(self, rows: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Return some rows."""
        return _unit(self.vectors[rows])

    def pieces(self, rows: int = _ROWS) -> Iterator[Float[np.ndarray, "some dim"]]:
        """Go through all rows in order."""
        yield from (_unit(piece) for _, piece in self._raw(rows))

    def _raw(self, rows: int = _ROWS) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, len(self), rows):
            yield first, self.vectors[first : first + rows]


def covered(source: Source, chosen: Float[np.ndarray, "chosen dim"]) -> tuple[float, float]:
    """Mean cosine with the most similar chosen vector, and the largest distance to it."""
    if not len(chosen):
        return -1.0, 2.0
    total, largest = 0.0, 0.0
    for piece in source.pieces(max(1, min(_ROWS, BLOCK // len(chosen)))):
        squared = nearest_distances(piece, chosen)
        total += float((1 - squared / 2).sum(dtype=np.float64))
        largest = max(largest, float(squared.max()))
    return total / len(source), math.sqrt(largest)


def read(path: str | Path) -> tuple[np.ndarray, list[str] | None]:
    """Vectors, and ids where the file has them, of a file of `FORMATS`."""
    path = Path(path)
    if path.suffix == ".npy" and path.is_file():  # mapped, for there may be millions of rows
        with reading(path, FORMATS[".npy"].name):
            return np.load(path, mmap_mode="r", allow_pickle=False), None
    found = read_vectors(path)
    return found.vectors, None if found.numbered else found.ids


def as_table(vectors: Any, what: str) -> np.ndarray:
    """Take numbers of shape (rows, dim), or raise `InputError`."""
    table = array_of(vectors, what)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "fiu":
        raise InputError(
            f"got {what} of shape {table.shape} and type {table.dtype}: pass numbers (rows, dim)"
        )
    return table


def _unit(X: np.ndarray) -> Float[np.ndarray, "some dim"]:
    """Scale each row to length 1; a row of zeros stays."""
    X = np.asarray(X, np.float64)
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    return (X / np.where(norm > 0, norm, 1)).astype(np.float32)


def split_labelled(labelled: Any, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that are labelled, and labelled vectors from elsewhere."""
    rows, none = np.empty(0, np.int64), np.empty((0, source.dim), np.float32)
    if labelled is None:
        return rows, none
    found = np.asarray(labelled)
    if found.ndim == 1 and (found.dtype.kind in "iu" or not found.size):
        rows = np.unique(found.astype(np.int64))
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(source):
            raise InputError(
                f"labelled holds row {rows[0] if rows[0] < 0 else rows[-1]}, the vectors have rows "
                f"0 to {len(source) - 1}"
            )
        return rows, none
    given = Source.of(as_table(found, "labelled"))
    if given.dim != source.dim:
        raise InputError(
            f"labelled vectors have {given.dim} dimensions, the vectors {source.dim}: both must "
            "come from one model"
        )
    return rows, given.take(np.arange(len(given)))


def check_weights(weights: Any, rows: int) -> Float[np.ndarray, " rows"]:
    """Return one weight per row, 1 where none are given, or raise `InputError`."""
    if weights is None:
        return np.ones(rows)
    found = np.asarray(weights, np.float64)
    if found.shape != (rows,) or not np.isfinite(found).all() or not (found > 0).all():
        raise InputError(
            f"got weights of shape {found.shape} for {rows} rows: pass one finite number above 0 "
            "for each"
        )
    return found
