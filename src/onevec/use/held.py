"""One version of an index's table in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from onevec.use.formats import ROW


@dataclass
class Held:
    """One version of the table in memory, row by row in the order of the numbers; a `Source`.

    Attributes
    ----------
    version : int
        Of the table.
    numbers : int64 ndarray, shape (rows,)
        Ascending.
    values : ndarray, shape (rows, dim)
        The vectors as they are kept.
    names : pyarrow.Table
        Ids and metadata.
    graphed : bool
        Whether the index's graph has all rows.
    """

    version: int
    numbers: Int[np.ndarray, " rows"]
    values: Shaped[np.ndarray, "rows dim"]
    names: pa.Table
    graphed: bool = False

    @classmethod
    def of(cls, rows: pa.Table, version: int) -> Held:
        """Take the rows of `database.read`."""
        column = rows["vector"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        values = values.reshape(len(rows), column.type.list_size)
        return cls(version, rows[ROW].to_numpy(), values, rows.drop_columns(["vector", ROW]))

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, rows: slice | Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Return some rows in fp32."""
        return self.values[rows].astype(np.float32, copy=False)

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Numbers by id."""
        return dict(zip(self.names["id"].to_pylist(), self.numbers.tolist(), strict=True))
