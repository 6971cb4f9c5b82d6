"""Read tables (Parquet, Arrow, CSV) batch by batch, and turn a column into sequences."""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import narwhals
import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from onevec.errors import InputError
from onevec.tokens.lines import Broken

Batches = Iterator[pa.RecordBatch]
_STRINGS = (pa.string(), pa.large_string(), pa.string_view())


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn what readers raise about a damaged file into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (
        pa.ArrowException, OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, KeyError
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot read {path} as {kind} ({reason}): check that the file is whole and what its "
            "ending says"
        ) from error


def read_parquet(path: Path, rows: int) -> tuple[pa.Schema, int, Batches]:
    """Return schema, number of rows and the batches of a Parquet file."""
    with reading(path, "Parquet"):
        file = parquet.ParquetFile(path, memory_map=True)

    def batches() -> Batches:
        with reading(path, "Parquet"):
            yield from file.iter_batches(batch_size=rows)

    return file.schema_arrow, file.metadata.num_rows, batches()


def read_arrow(path: Path, rows: int) -> tuple[pa.Schema, int | None, Batches]:
    """Return schema, number of rows if known and the batches of an Arrow file or stream."""
    with reading(path, "Arrow"):
        source = pa.memory_map(str(path))
        try:
            reader: Any = pa.ipc.open_file(source)
            parts: Iterable[pa.RecordBatch] = (
                reader.get_batch(i) for i in range(reader.num_record_batches)
            )
        except pa.ArrowInvalid:  # what `datasets` writes is a stream
            source.seek(0)
            reader = parts = pa.ipc.open_stream(source)

    def batches() -> Batches:
        with reading(path, "Arrow"):
            for batch in parts:
                for first in range(0, batch.num_rows, rows):
                    yield batch.slice(first, rows)

    return reader.schema, None, batches()


def read_csv(
    path: Path, zipped: bool, delimiter: str, encoding: str
) -> tuple[dict[str, str], Batches]:
    """Return the columns of a CSV file (and which hold text) and its batches.

    All columns are read as text whatever they look like: an id ``007`` stays one, and a type
    guessed from the first block cannot fail in a later one.
    """
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = arrow_csv.ReadOptions(block_size=4 * 2**20, encoding=encoding)

    def open_it(text: list[str]) -> arrow_csv.CSVStreamingReader:
        convert = arrow_csv.ConvertOptions(
            column_types={name: pa.string() for name in text}, strings_can_be_null=False
        )
        file = pa.input_stream(str(path), compression="gzip" if zipped else None)
        return arrow_csv.open_csv(
            file, read_options=read, parse_options=parse, convert_options=convert
        )

    with reading(path, "CSV"), open_it([]) as reader:
        names = column_kinds(reader.schema, path)

    def batches() -> Batches:
        with reading(path, "CSV"), open_it(list(names)) as reader:
            yield from reader

    return names, batches()


def with_values(batches: Iterable[pa.RecordBatch], column: str, broken: Broken) -> Batches:
    """Return batches without the rows that have no value in the column; they are counted."""
    start = 1
    for batch in batches:
        there = batch.column(column).is_valid()
        if missing := batch.column(column).null_count:
            first = int(np.argmin(there.to_numpy(zero_copy_only=False)))
            broken.add("no value", start + first, missing)
        start += batch.num_rows
        yield batch.filter(there)


def column_kinds(schema: pa.Schema, where: Any) -> dict[str, str]:
    """Return the columns of a table, and what each may hold: text, media, arrays or values.

    Raises
    ------
    InputError
        If two columns have one name.
    """
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{where} has {schema.names.count(twice)} columns named {twice!r}: rename all but one"
        )
    return {field.name: _kind(field.type) for field in schema}


def _kind(kind: pa.DataType) -> str:
    kind = getattr(kind, "storage_type", kind)  # Array2D of `datasets`
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind in _STRINGS:
        return "text"
    if _is_list(kind):
        return "arrays"
    holds_bytes = pa.types.is_struct(kind) and {f.name for f in kind} & {"bytes", "array"}
    return "media" if holds_bytes or _is_binary(kind) else "value"


def as_table(data: Any) -> pa.Table | None:
    """Return an Arrow table of a frame of any library, or of a data set; else None.

    Raises
    ------
    InputError
        If a column holds several types.
    """
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        return data
    if is_dataset(data):
        return data.with_format("arrow")[:]
    try:
        frame: Any = narwhals.from_native(data, pass_through=True)
        if isinstance(frame, narwhals.LazyFrame):
            frame = frame.collect("pyarrow")
        if not isinstance(frame, narwhals.DataFrame):
            return None
        return narwhals.maybe_reset_index(frame).to_arrow()
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"cannot read the {type(data).__name__} ({error}): every column must hold one type; "
            "drop or convert the others"
        ) from error


def as_list(data: Any) -> list[Any] | None:
    """Return the values of a column of any library; else None."""
    if isinstance(data, pa.Array):
        return data.to_pylist()
    series: Any = narwhals.from_native(data, series_only=True, pass_through=True)
    return series.to_list() if isinstance(series, narwhals.Series) else None


def is_dataset(data: Any) -> bool:
    """Whether something is a `datasets.Dataset`, which is loaded then."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(data, library.Dataset)


def iterate_table(tables: Iterable[pa.Table]) -> Batches:
    """Return the record batches of several tables."""
    for table in tables:
        yield from table.combine_chunks().to_batches()


def as_sequences(column: pa.Array, name: str, start: int) -> list[Any]:
    """Turn a column into strings, (n, dim) arrays, waveforms, or files as bytes or mappings.

    Parameters
    ----------
    column : Array
        Text, lists of numbers, lists of lists of numbers, or encoded recordings or images.
    name : str
        Its name, for messages.
    start : int
        Number of its first row, for messages.
    """
    column = getattr(column, "storage", column)  # Array2D of `datasets`
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(
            f"row {row} has no value in column {name!r}: every row needs its sequence; drop it"
        )
    if kind in _STRINGS or _is_binary(kind) or pa.types.is_struct(kind):
        return column.to_pylist()
    if _is_list(kind):
        inner = kind.value_type
        if _is_list(inner) and _is_number(inner.value_type):
            return [_matrix(row.values) for row in column]
        if _is_number(inner):
            return [row.values.to_numpy(zero_copy_only=False) for row in column]
        if _is_list(inner) and _is_list(inner.value_type):
            return [np.asarray(row.as_py()) for row in column]
    raise InputError(
        f"column {name!r} holds {kind}, not sequences: name the column that holds text, lists of "
        "numbers, recordings or images with column= (--column)"
    )


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _matrix(vectors: pa.Array) -> np.ndarray:
    """Return a list of equally long lists as an (n, dim) array."""
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    if len(vectors) and len(flat) % len(vectors) == 0:
        lengths = {len(entry) for entry in vectors}
        if len(lengths) == 1:
            return flat.reshape(len(vectors), -1)
    if not len(vectors):
        return np.zeros((0, 0), dtype=np.float32)
    raise InputError("token vectors of one sequence differ in dimension: all must be equally long")
