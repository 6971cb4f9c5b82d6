"""Vectors and the files that hold them, with ids, metadata and the model that made them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from onevec.errors import InputError
from onevec.files import appears_whole, check_target, for_json
from onevec.tokens.tables import reading

ROW = "onevec_row"  # column of an index: a row's number, given once and never again
TAKEN = ("id", "vector", ROW)  # columns that no metadata may be called
_MADE_BY = "onevec.made_by"  # in a file's own metadata
_HEADER = 1_024  # bytes of the header of a .safetensors file, with blanks


@dataclass(frozen=True)
class Vectors:
    """Vectors and what is known of them, row by row.

    Attributes
    ----------
    vectors : float32 ndarray, shape (rows, dim)
        All finite.
    ids : list of str
        Names of the rows; their numbers where there are none.
    metadata : pyarrow.Table
        Further columns; possibly none.
    made_by : str or None
        `model_fingerprint` of the model that made them, where it is known.
    numbered : bool
        Whether the rows had no names of their own.
    """

    vectors: Float[np.ndarray, "rows dim"]
    ids: list[str]
    metadata: pa.Table
    made_by: str | None = None
    numbered: bool = False

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def of(
        cls,
        data: Any,
        ids: Sequence[Any] | None = None,
        metadata: Any = None,
        what: str = "vectors",
        made_by: str | None = None,
    ) -> Vectors:
        """Take Vectors, the path of a file, or an array with ids and columns beside it.

        Raises
        ------
        InputError
            If the vectors are no finite numbers of shape (rows, dim), or a column has another
            length.
        """
        if isinstance(data, str | Path):
            data = read_vectors(data)
        if isinstance(data, Vectors):
            ids = data.ids if ids is None and not data.numbered else ids
            metadata = data.metadata if metadata is None else metadata
            data, made_by = data.vectors, made_by or data.made_by
        array = checked(data, what)
        if ids is not None and any(row is None for row in ids):
            raise InputError(f"got {what} without an id: name all of them, or leave ids out")
        names = [str(row) for row in (range(len(array)) if ids is None else ids)]
        if len(names) != len(array):
            raise InputError(f"got {len(names)} ids for {len(array)} {what}: pass one for each")
        return cls(array, names, _columns(metadata, len(array)), made_by, ids is None)


def reason(error: Exception) -> str:
    """Return the first line of what a library says."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def array_of(vectors: Any, what: str) -> np.ndarray:
    """Return numpy's array of what may be a list of rows, or raise `InputError`."""
    try:
        return np.asarray(vectors)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length, a GPU tensor
        raise InputError(
            f"the {what} are no array ({reason(error)}): pass one of (rows, dim)"
        ) from error


def checked(vectors: Any, what: str = "vectors") -> Float[np.ndarray, "rows dim"]:
    """Return vectors as fp32 after checking that they are finite numbers of shape (rows, dim)."""
    array = array_of(vectors, what)
    if array.dtype.kind not in "fiu" or array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"got {what} of dtype {array.dtype} and shape {array.shape}: pass numbers of shape "
            "(rows, dim), both at least 1"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(
            f"row {int(finite.argmin())} of the {what} holds NaN or infinity (or too large a "
            "number for fp32): leave the row out or repair it"
        )
    return array


def _columns(metadata: Any, rows: int) -> pa.Table:
    """Return metadata as a table; names that mean something else here are refused."""
    if metadata is None:
        return pa.table({"": pa.nulls(rows)}).select([])
    try:
        table = metadata if isinstance(metadata, pa.Table) else pa.table(metadata)
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the metadata is no table ({reason(error)}): pass a mapping of names to columns of "
            "one type and length each"
        ) from error
    names = table.column_names
    taken = [name for name in names if name in TAKEN or names.count(name) > 1]
    if taken:
        raise InputError(f"the metadata has a column {taken[0]!r}, which is taken: rename it")
    if table.num_columns and table.num_rows != rows:
        raise InputError(f"got {table.num_rows} rows of metadata for {rows} vectors")
    return table if table.num_columns else _columns(None, rows)


def as_column(vectors: Float[np.ndarray, "rows dim"]) -> pa.FixedSizeListArray:
    """Return vectors as Arrow's lists of one length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


@dataclass(frozen=True)
class Pieces:
    """Ids, vectors and metadata as tables one after the other, never all of them in memory.

    Attributes
    ----------
    schema : pyarrow.Schema
        Of every table: ``id``, ``vector``, metadata.
    rows : int
        Of all tables.
    tables : iterator of pyarrow.Table
        Gone through once.
    made_by : str or None
        As of `Vectors`.
    """

    schema: pa.Schema
    rows: int
    tables: Iterator[pa.Table]
    made_by: str | None = None

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self.schema.field("vector").type.list_size

    def marked(self) -> pa.Schema:
        """The schema of a file, which says what made it."""
        return self.schema.with_metadata({_MADE_BY: self.made_by} if self.made_by else None)


def _as_pieces(data: Vectors) -> Pieces:
    table = named(data).add_column(1, "vector", as_column(data.vectors))
    return Pieces(table.schema, len(data), iter([table]), data.made_by)


def named(data: Vectors) -> pa.Table:
    """Return ids and metadata as one table."""
    return data.metadata.add_column(0, "id", pa.array(data.ids, pa.large_string()))


def _vectors_in(table: pa.Table) -> Float[np.ndarray, "rows dim"]:
    column = table["vector"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)


def _of_table(table: pa.Table, path: Path) -> Vectors:
    marks = table.schema.metadata or {}
    made_by = marks.get(_MADE_BY.encode(), b"").decode() or None
    name = _vector_column(table, path)
    array = _matrix(table[name].combine_chunks(), name, path)
    return _with_names(array, table.drop_columns([name]), made_by, path)


def _with_names(array: np.ndarray, rest: pa.Table, made_by: str | None, path: Path) -> Vectors:
    rest = rest.replace_schema_metadata(None)
    ids = None
    if "id" in rest.column_names:
        if rest["id"].null_count:
            raise InputError(f"{path} has rows without an id: name all of them, or leave ids out")
        ids, rest = rest["id"].to_pylist(), rest.drop_columns(["id"])
    return Vectors.of(array, ids, rest, f"vectors of {path}", made_by)


def _is_vectors(kind: pa.DataType) -> bool:
    lists = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    if not any(is_list(kind) for is_list in lists):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


def _vector_column(table: pa.Table, path: Path) -> str:
    found = [field.name for field in table.schema if _is_vectors(field.type)]
    if "vector" in found or len(found) == 1:
        return "vector" if "vector" in found else found[0]
    raise InputError(
        f"{path} must have one column of vectors (lists of numbers), or one named 'vector': it has "
        f"{', '.join(table.column_names) or 'no columns'}"
    )


def _matrix(column: pa.Array, name: str, path: Path) -> np.ndarray:
    if not len(column):
        raise InputError(f"{path} holds no rows: pass vectors of at least one sequence")
    numbers = column.flatten()
    if pa.types.is_fixed_size_list(column.type):
        widths = np.array([column.type.list_size])
    else:
        widths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    if column.null_count or numbers.null_count or len(widths) != 1:
        raise InputError(
            f"column {name!r} of {path} has missing values or vectors of unequal length: every row "
            "needs all its numbers"
        )
    return numbers.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _write_npy(data: Pieces, path: Path) -> None:
    shape = (data.rows, data.dim)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    first = 0
    for table in data.tables:
        array[first : first + table.num_rows] = _vectors_in(table)
        first += table.num_rows
    array.flush()


def _read_npy(path: Path) -> Vectors:
    return Vectors.of(np.load(path, allow_pickle=False), what=f"vectors of {path}")


def _write_table(table: pa.Table, path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(table, path)


def _write_parquet(data: Pieces, path: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(path, data.marked()) as writer:
        for table in data.tables:
            writer.write_table(table.replace_schema_metadata(data.marked().metadata))


def _read_parquet(path: Path) -> Vectors:
    from pyarrow import parquet

    return _of_table(parquet.read_table(path), path)


def _write_ipc(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _write_arrow(data: Pieces, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, data.marked()) as writer:
        for table in data.tables:
            writer.write_table(table)


def _read_arrow(path: Path) -> Vectors:
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        return _of_table(reader.read_all(), path)


def _write_safetensors(data: Pieces, path: Path) -> None:
    """Write the format by hand: its own package writes only what is in memory as a whole.

    Eight bytes say how long the header is, the header is JSON (blanks may follow), the arrays
    follow. Text is no tensor: ids and metadata travel as the bytes of an Arrow stream.
    """
    names = path.with_name(f"{path.name}.rows")
    header: dict[str, Any] = {"__metadata__": {_MADE_BY: data.made_by}} if data.made_by else {}
    with path.open("wb") as file:
        file.write(bytes(8 + _HEADER))
        schema = data.schema.remove(data.schema.get_field_index("vector"))
        with pa.OSFile(str(names), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for table in data.tables:
                file.write(np.ascontiguousarray(_vectors_in(table), "<f4").tobytes())
                writer.write_table(table.drop_columns(["vector"]))
        middle, size = file.tell() - 8 - _HEADER, names.stat().st_size
        with names.open("rb") as rows:
            shutil.copyfileobj(rows, file)
        shape, ends = [data.rows, data.dim], [middle, middle + size]
        header["vectors"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, middle]}
        header["rows"] = {"dtype": "U8", "shape": [size], "data_offsets": ends}
        file.seek(0)
        file.write(_HEADER.to_bytes(8, "little"))
        file.write(json.dumps(header).encode().ljust(_HEADER))
    names.unlink()


def _read_safetensors(path: Path) -> Vectors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            made_by = (file.metadata() or {}).get(_MADE_BY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise ValueError(str(error)) from error
    rest = arrays.pop("rows", None)
    if len(arrays) != 1 and "vectors" not in arrays:
        raise InputError(f"{path} must hold one tensor, or one named 'vectors'")
    array = arrays["vectors"] if "vectors" in arrays else next(iter(arrays.values()))
    rows = pa.table({}) if rest is None else pa.ipc.open_stream(rest.tobytes()).read_all()
    return _with_names(array, rows, made_by, path)


class Format(NamedTuple):
    """How a kind of file is written and read."""

    name: str
    write: Callable[[Pieces, Path], None]
    read: Callable[[Path], Vectors]


FORMATS = {  # by ending; .npy holds the vectors alone
    ".npy": Format("NumPy", _write_npy, _read_npy),
    ".parquet": Format("Parquet", _write_parquet, _read_parquet),
    ".arrow": Format("Arrow", _write_arrow, _read_arrow),
    ".safetensors": Format("safetensors", _write_safetensors, _read_safetensors),
}


def check_file(out: Path, overwrite: bool) -> Path:
    """Raise `InputError` for a file that exists or has no known ending, before any work."""
    if out.suffix not in FORMATS:
        raise InputError(f"got --out {out}: it must end in {' or '.join(FORMATS)}")
    return check_target(out, overwrite, what="file")


def save_vectors(data: Vectors | Pieces, out: str | Path, overwrite: bool = False) -> Path:
    """Write vectors to a file of `FORMATS`; it appears whole or not at all."""
    path = check_file(Path(out), overwrite)
    with appears_whole(path) as part:
        pieces = _as_pieces(data) if isinstance(data, Vectors) else data
        FORMATS[path.suffix].write(pieces, part)
    return path


def read_vectors(path: str | Path) -> Vectors:
    """Read a file of `FORMATS`, of onevec or of others.

    In a table the vectors stand in the column ``vector`` or in the only column of lists of
    numbers, names in ``id``; all other columns are metadata.

    Raises
    ------
    InputError
        For a file that is not there, of unknown ending, damaged, or without finite numbers.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"got the vectors {path}: the file must end in {' or '.join(FORMATS)}")
    if not path.is_file():
        raise InputError(f"there is no file {path}: make one with `onevec transform`")
    with reading(path, FORMATS[path.suffix].name):
        return FORMATS[path.suffix].read(path)


def read_lines(path: Path, what: str) -> list[str]:
    """Read a text file with one entry per line; ``what`` they are, for the message."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(
            f"cannot read the {what} in {path} ({why}): pass a text file (UTF-8), one per line"
        ) from error
    found = [line.rstrip("\r") for line in lines if line.strip()]
    if not found:
        raise InputError(f"{path} holds no {what}: write one per line")
    return found


# --- tables of results --------------------------------------------------------------------------


def _write_csv(table: pa.Table, path: Path) -> None:
    from pyarrow import csv

    csv.write_csv(table, path)


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for batch in table.to_batches(max_chunksize=10_000):
            rows = map(for_json, batch.to_pylist())
            file.writelines(json.dumps(row, default=str, allow_nan=False) + "\n" for row in rows)


TABLES: dict[str, Callable[[pa.Table, Path], None]] = {
    ".parquet": _write_table,
    ".arrow": _write_ipc,
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
}


def check_table(out: str | Path, overwrite: bool) -> Path:
    """Raise `InputError` for a table that exists or has no known ending, before any work."""
    if Path(out).suffix not in TABLES:
        raise InputError(f"got --out {out}: it must end in {' or '.join(TABLES)}")
    return check_target(out, overwrite, what="file")


def save_table(table: pa.Table, out: str | Path, overwrite: bool = False) -> Path:
    """Write a table to a file of `TABLES`; it appears whole or not at all."""
    path = check_table(out, overwrite)
    try:
        with appears_whole(path) as part:
            TABLES[path.suffix](table, part)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # lists in CSV
        raise InputError(
            f"{path} cannot hold the table ({reason(error)}): write .parquet"
        ) from error
    return path
