"""Neighbouring rows of an input: cut, join, number them, and add columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from onevec.errors import InputError
from onevec.ragged import Ragged
from onevec.tokens.frozen import size_of
from onevec.tokens.tables import from_pandas


@dataclass
class Chunk:
    """Some neighbouring rows of the input."""

    sequences: Any  # list of raw sequences or (n, dim) arrays, or a Ragged
    ids: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    start: int = 0  # number of the first row in the input

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: slice) -> Chunk:
        columns = {name: column[rows] for name, column in self.metadata.items()}
        ids = None if self.ids is None else self.ids[rows]
        first = self.start + (rows.start or 0)
        return Chunk(self.sequences[rows], ids, columns, first)


@dataclass
class RowSource:
    """An input: its chunks, and how many rows it has if that is known beforehand."""

    chunks: Iterator[Chunk]
    total: int | None = None


def with_columns(source: RowSource, ids: Any, metadata: Any) -> Iterator[Chunk]:
    """Add the columns that the user gave beside the input."""
    columns: dict[str, Any] = {}
    if metadata is not None:
        if type(metadata).__module__.startswith("pandas"):
            metadata = from_pandas(metadata)
        names = metadata.column_names if isinstance(metadata, pa.Table) else list(metadata)
        columns = {name: metadata[name] for name in names}
        columns = {
            name: column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            for name, column in columns.items()
        }
    if ids is not None:
        columns["id"] = list(ids)
    rule = "it needs one entry per sequence"
    if source.total is not None:
        for name, column in columns.items():
            if len(column) != source.total:
                raise InputError(
                    f"column {name!r} has {len(column)} entries for {source.total} sequences: "
                    + rule
                )
    inner = source.chunks

    def attach() -> Iterator[Chunk]:
        start = 0
        for chunk in inner:
            stop = start + len(chunk)
            for name, column in columns.items():
                if len(column) < stop:
                    raise InputError(f"column {name!r} has only {len(column)} entries: {rule}")
            cut = {name: column[start:stop] for name, column in columns.items()}
            names = cut.pop("id", None)
            chunk.ids = chunk.ids if names is None else [str(name) for name in names]
            chunk.metadata = {**chunk.metadata, **cut}
            yield chunk
            start = stop
        for name, column in columns.items():
            if len(column) != start:
                raise InputError(f"column {name!r} has {len(column)} entries for {start}: {rule}")

    return attach()


def numbered(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Number the rows; the number is the id where there is none."""
    start = 0
    for chunk in chunks:
        if chunk.ids is None:
            chunk.ids = [str(row) for row in range(start, start + len(chunk))]
        chunk.start = start
        start += len(chunk)
        yield chunk


def sized(chunks: Iterator[Chunk], budget: int) -> Iterator[Chunk]:
    """Cut or join chunks to about ``budget`` tokens (or values, where vectors are ready)."""
    held: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if isinstance(chunk.sequences, Ragged):
            sizes = chunk.sequences.lengths.numpy() * chunk.sequences.dim
        else:
            sizes = np.array([_weight(sequence) for sequence in chunk.sequences])
        start = 0
        for row, weight in enumerate(sizes):
            if size + weight > budget and (held or row > start):
                yield _join([*held, chunk[start:row]])
                held, size, start = [], 0, row
            size += int(weight)
        held.append(chunk[start : len(chunk)])
    if held:
        yield _join(held)


def _weight(sequence: Any) -> int:
    if getattr(sequence, "ndim", 0) == 2:
        return int(np.prod(sequence.shape))
    return size_of(sequence)


def _join(parts: list[Chunk]) -> Chunk:
    parts = [part for part in parts if len(part)]
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0].sequences, Ragged):
        sequences: Any = Ragged.concat([part.sequences for part in parts])
    else:
        sequences = [sequence for part in parts for sequence in part.sequences]
    ids = [name for part in parts for name in part.ids or []]
    columns = {
        name: _concatenated([part.metadata[name] for part in parts]) for name in parts[0].metadata
    }
    return Chunk(sequences, ids, columns, parts[0].start)


def _concatenated(parts: list[Any]) -> Any:
    if all(isinstance(part, pa.Array) for part in parts):
        return pa.concat_arrays(parts)
    return [entry for part in parts for entry in part]
