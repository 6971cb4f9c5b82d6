"""Vectors as an index keeps them: they grow, take few bytes, and may be mapped from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from onevec.errors import InputError

DTYPES = ("float32", "float16", "int8")
_FLOAT16_LARGEST = 65504.0


class Stored:
    """A `Source` of vectors of one dtype.

    int8 keeps ``round(x / scale)`` with one scale per row, its largest absolute value / 127: the
    error of a number is at most half a scale, and rows added later need no other scales.

    Parameters
    ----------
    values : ndarray, shape (rows, dim)
        As they are kept.
    scales : float32 ndarray, shape (rows,), optional
        Of int8.
    """

    def __init__(
        self,
        values: Shaped[np.ndarray, "rows dim"],
        scales: Float[np.ndarray, " rows"] | None = None,
    ):
        self._values, self._scales, self._count = values, scales, len(values)

    @classmethod
    def empty(cls, dim: int, dtype: str) -> Stored:
        """Start without rows."""
        if dtype not in DTYPES:
            raise InputError(f"got dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
        scales = np.empty(0, np.float32) if dtype == "int8" else None
        return cls(np.empty((0, dim), dtype), scales)

    def __len__(self) -> int:
        return self._count

    @property
    def dtype(self) -> str:
        """One of `DTYPES`."""
        return self._values.dtype.name

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._values.shape[1]

    def read(self, rows: slice | Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Return some rows in fp32; a slice of what is kept so is a view."""
        found = self._values[: self._count][rows].astype(np.float32, copy=False)
        if self._scales is not None:
            found *= self._scales[: self._count][rows, None]
        return found

    def fits(self, vectors: Float[np.ndarray, "rows dim"]) -> None:
        """Raise `InputError` for what the dtype cannot hold."""
        if self.dtype == "float16" and np.abs(vectors).max(initial=0) > _FLOAT16_LARGEST:
            raise InputError(
                f"got a number above {_FLOAT16_LARGEST:,.0f}, the largest of float16: keep the "
                'vectors with dtype="float32"'
            )

    def append(self, vectors: Float[np.ndarray, "rows dim"]) -> None:
        """Add rows; room is made ahead, so that many small additions stay cheap."""
        self.fits(vectors)
        count = self._count + len(vectors)
        if count > len(self._values):
            room = max(count, 2 * self._count)
            values, scales = _roomier(self._values[: self._count], room), self._scales
            if scales is not None:
                scales = _roomier(scales[: self._count], room)
            self._values, self._scales = values, scales  # both or, interrupted, none
        new = slice(self._count, count)
        if self._scales is not None:
            largest = np.abs(vectors).max(axis=1)
            scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            vectors = np.rint(vectors / scales[:, None]).clip(-127, 127)
            self._scales[new] = scales
        self._values[new] = vectors
        self._count = count

    def cut(self, count: int) -> None:
        """Forget the rows from this one on."""
        self._count = count

    def kept(self, rows: Int[np.ndarray, " some"]) -> Stored:
        """Return some rows, as they are kept, alone."""
        scales = None if self._scales is None else self._scales[: self._count][rows]
        return Stored(self._values[: self._count][rows], scales)

    def save(self, folder: Path) -> list[str]:
        """Write the files of a saved index; return their names."""
        np.save(folder / "vectors.npy", self._values[: self._count])
        if self._scales is None:
            return ["vectors.npy"]
        np.save(folder / "scales.npy", self._scales[: self._count])
        return ["vectors.npy", "scales.npy"]

    @classmethod
    def open(cls, folder: Path, dtype: str) -> Stored:
        """Map the files that `save` wrote."""
        values = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        scales = np.load(folder / "scales.npy", allow_pickle=False) if dtype == "int8" else None
        if values.ndim != 2 or values.dtype != dtype:
            raise ValueError(f"vectors of {values.dtype} and shape {values.shape}")
        return cls(values, scales)


def _roomier(array: np.ndarray, room: int) -> np.ndarray:
    larger = np.empty((room, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
