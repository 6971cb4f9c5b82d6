"""Build the Arrow columns of a shard from what was appended."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Shaped

from onevec.errors import InputError


def token_vectors(
    values: Shaped[np.ndarray, "tokens dim"], offsets: Int[np.ndarray, " seqs_plus_one"]
) -> pa.Array:
    """Lay token vectors out as ``large_list<fixed_size_list>`` without a copy."""
    return pa.LargeListArray.from_arrays(pa.array(offsets), vectors(values))


def vectors(values: Shaped[np.ndarray, "rows dim"]) -> pa.Array:
    """Lay vectors out as ``fixed_size_list`` without a copy."""
    flat = pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), values.size, [None, pa.py_buffer(values.reshape(-1))]
    )
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def token_id_column(parts: list[Any], offsets: Int[np.ndarray, " seqs_plus_one"]) -> pa.Array:
    """Lay vocabulary entries out as ``large_list<int32>``."""
    rows = [np.asarray(row, dtype=np.int32) for part in parts for row in part]
    if [len(row) for row in rows] != np.diff(offsets).tolist():
        raise InputError("token_ids must have one entry per token of each sequence")
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(rows)))


def plain_column(name: str, parts: list[Any], known: pa.DataType | None) -> pa.Array:
    """Join the parts of an id, sequence or metadata column.

    Parameters
    ----------
    name : str
        Its name.
    parts : list of Array, ndarray or list
        What was appended.
    known : DataType, optional
        The type it has in earlier shards; text where nothing but missing values came so far.

    Raises
    ------
    InputError
        If the values have no common type.
    """
    if name in ("id", "sequence"):
        known = pa.large_string()
    try:
        chunks = [part for whole in parts for part in _as_arrow(whole)]
        if known is None:
            known = next((c.type for c in chunks if not pa.types.is_null(c.type)), pa.string())
        return pa.concat_arrays([chunk.cast(known) for chunk in chunks])
    except (pa.ArrowException, TypeError) as error:
        raise InputError(
            f"column {name!r} does not hold one type of value ({error}): convert it to text or "
            "numbers, or leave it out"
        ) from error


def _as_arrow(column: Any) -> list[pa.Array]:
    if isinstance(column, pa.ChunkedArray):
        return column.chunks or [pa.array([], type=column.type)]
    if isinstance(column, pa.Array):
        return [column]
    return [pa.array(column)]
