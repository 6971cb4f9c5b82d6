"""Neighbouring rows of an input: cut, join, number them, and add columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from onevec.errors import InputError
from onevec.ragged import Ragged
from onevec.tokens.frozen import size_of
from onevec.tokens.tables import as_table, column_kinds
from onevec.tokens.told import tell

_NAMES = re.compile(r"(^|[_\W])(id|name|accession|entry|key|uid|uuid|file|filename)$", re.I)


@dataclass(frozen=True, eq=False)
class LayeredTokens:
    """Token vectors of one sequence by hidden state, each (n, dim)."""

    states: dict[int, np.ndarray]

    def tobytes(self) -> bytes:
        """Return what tells this sequence from another."""
        return b"".join(array.tobytes() for array in self.states.values())


@dataclass
class Chunk:
    """Some neighbouring rows of the input."""

    sequences: Any  # list of raw sequences or (n, dim) arrays, or a Ragged
    ids: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    start: int = 0  # number of the first row in the input
    numbers: np.ndarray | None = None  # of the rows in the input, where they were picked

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: slice) -> Chunk:
        columns = {name: column[rows] for name, column in self.metadata.items()}
        ids = None if self.ids is None else self.ids[rows]
        first = self.start + (rows.start or 0)
        numbers = None if self.numbers is None else self.numbers[rows]
        return Chunk(self.sequences[rows], ids, columns, first if numbers is None else 0, numbers)

    def pick(self, rows: np.ndarray) -> Chunk:
        """Return some rows, which remember their numbers in the input."""
        sequences = self.sequences
        if isinstance(sequences, Ragged):
            picked: Any = sequences[rows]
        else:
            picked = [sequences[row] for row in rows]
        columns = {
            name: column.take(pa.array(rows))
            if isinstance(column, pa.Array | pa.ChunkedArray)
            else [column[row] for row in rows]
            for name, column in self.metadata.items()
        }
        ids = None if self.ids is None else [self.ids[row] for row in rows]
        return Chunk(picked, ids, columns, 0, self.start + rows)


@dataclass
class RowSource:
    """An input: its chunks, and how many rows it has if that is known beforehand."""

    chunks: Iterator[Chunk]
    total: int | None = None


def as_ids(names: Iterable[Any], start: int = 0) -> list[str]:
    """Return ids as text: whole numbers without a point, bytes decoded.

    Raises
    ------
    InputError
        If a row has no id, or one that is neither text nor a number.
    """
    return [_as_id(name, row) for row, name in enumerate(names, start)]


def _as_id(name: Any, row: int) -> str:
    if isinstance(name, pa.Scalar):
        name = name.as_py()
    elif isinstance(name, np.generic | np.ndarray | torch.Tensor) and name.ndim == 0:
        name = name.item()
    if isinstance(name, str):
        return name
    if isinstance(name, bytes):
        return name.decode(errors="replace")
    missing = isinstance(name, float) and math.isnan(name)
    if name is None or missing or str(name) in ("NaT", "<NA>"):
        raise InputError(
            f"row {row} has no id: give every row one, or name another column with id_column= "
            "(--id-column)"
        )
    if isinstance(name, Iterable | torch.Tensor):
        raise InputError(
            f"the id of row {row} is a {type(name).__name__}: ids are text or whole numbers"
        )
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)


def with_columns(source: RowSource, ids: Any, metadata: Any) -> Iterator[Chunk]:
    """Add the columns that the user gave beside the input."""
    columns: dict[str, Any] = {}
    if metadata is not None:
        columns = _columns(metadata)
    if ids is not None:
        columns["id"] = as_ids(ids)
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
            chunk.ids = chunk.ids if names is None else as_ids(names, start)
            chunk.metadata = {**chunk.metadata, **cut}
            yield chunk
            start = stop
        for name, column in columns.items():
            if len(column) != start:
                raise InputError(f"column {name!r} has {len(column)} entries for {start}: {rule}")

    return attach()


def _columns(metadata: Any) -> dict[str, Any]:
    """Return the columns of a table, a mapping or a list of records."""
    if isinstance(metadata, list) and all(isinstance(entry, Mapping) for entry in metadata):
        names = dict.fromkeys(name for entry in metadata for name in entry)
        return {str(name): [entry.get(name) for entry in metadata] for name in names}
    table = as_table(metadata)
    if table is not None:
        column_kinds(table.schema, "metadata")  # refuses two columns of one name
        return {
            name: pa.concat_arrays(column.chunks) if column.num_chunks else column.combine_chunks()
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    if not isinstance(metadata, Mapping):
        raise InputError(
            f"got metadata of type {type(metadata).__name__}: pass a mapping of names to columns, "
            "a table, or a list of records"
        )
    return dict(metadata)


def numbered(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Number the rows; the number is the id where there is none, which is told."""
    start = 0
    for chunk in chunks:
        if chunk.ids is None:
            if not start:
                tell(f"the ids are the numbers of the rows{_likely_names(chunk.metadata)}")
            chunk.ids = [str(row) for row in range(start, start + len(chunk))]
        chunk.start = start
        start += len(chunk)
        yield chunk


def _likely_names(columns: Iterable[str]) -> str:
    found = [repr(name) for name in columns if _NAMES.search(name)]
    return f": id_column= (--id-column) takes them from {' or '.join(found)}" if found else ""


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
    if isinstance(sequence, LayeredTokens):
        return sum(array.size for array in sequence.states.values())
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
    numbers = [part.numbers for part in parts if part.numbers is not None]
    joined = np.concatenate(numbers) if numbers else None
    return Chunk(sequences, ids, columns, parts[0].start, joined)


def _concatenated(parts: list[Any]) -> Any:
    if all(isinstance(part, pa.Array) for part in parts):
        return pa.concat_arrays(parts)
    return [entry for part in parts for entry in part]
