"""The table of an index in LanceDB, embedded: rows, filters, changes, each in one commit.

What LanceDB says of a user's mistake becomes one sentence here; nothing else imports it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from onevec.errors import InputError, MissingExtraError, StoreError
from onevec.use.formats import ROW, Vectors, as_column, named

TABLE = "vectors"  # the table's name in the folder, which LanceDB's own client opens too
DTYPES = ("float32", "float16")
_FLOAT16_LARGEST = 65_504.0
# Every change adds a file, which every reading opens: as many take 10 ms.
_MOST_FRAGMENTS = 64
_SHOWN = 80  # letters of a filter in a message
_PARSER = "(sql parser error: "
# LanceDB ends its messages with a place in its own source.
_PLACE = re.compile(r",? /\S+\.rs:\d+:\d+.*")


def lancedb_package() -> Any:
    """Import LanceDB.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import lancedb
    except ImportError as error:
        raise MissingExtraError("lancedb", "search") from error
    return lancedb


@contextmanager
def _explained(what: str, advice: str, kind: type[Exception] = InputError) -> Iterator[None]:
    """Turn an error of LanceDB into the sentence "what (its words): advice"."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OSError, pa.ArrowException) as error:
        raise kind(f"{what} ({_why(error)}): {advice}") from error


def _why(error: Exception) -> str:
    """Return what LanceDB says, without its source, what it calls itself, and what it was given."""
    said = _PLACE.sub("", " ".join(str(error).split()))
    said = said.removeprefix("lance error: ").removeprefix("Invalid input, ")
    return said.rpartition(_PARSER)[2].removesuffix(")") if _PARSER in said else said


def _readable(place: str) -> AbstractContextManager[None]:
    advice = "it is damaged or half copied; restore it from a copy, or build it again"
    return _explained(f"{place} cannot be read", advice, StoreError)


# --- rows ---------------------------------------------------------------------------------------


def rows_of(data: Vectors, first: int, dtype: str) -> pa.Table:
    """Return vectors, ids and metadata as rows of the table, numbered from ``first`` on.

    Raises
    ------
    InputError
        If float16 cannot hold a number.
    """
    if dtype == "float16" and np.abs(data.vectors).max(initial=0) > _FLOAT16_LARGEST:
        raise InputError(
            f"got a number above {_FLOAT16_LARGEST:,.0f}, the largest of float16: keep the "
            'vectors with dtype="float32"'
        )
    table = named(data).replace_schema_metadata(None)
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # a later addition may know other values
            plain = table[field.name].cast(field.type.value_type)
            table = table.set_column(place, field.name, plain)
    table = table.add_column(1, "vector", as_column(data.vectors.astype(dtype)))
    return table.append_column(ROW, pa.array(np.arange(first, first + len(data))))


def create(folder: Path | None, rows: pa.Table) -> Any:
    """Make the table, in a folder or in memory."""
    database = lancedb_package().connect("memory://" if folder is None else str(folder.absolute()))
    with _explained("LanceDB does not take the metadata", "leave the column out or convert it"):
        return database.create_table(TABLE, data=rows)


def open_table(folder: Path) -> Any:
    """Open the table of a folder.

    Raises
    ------
    StoreError
        If it is not there or cannot be read.
    """
    lancedb = lancedb_package()
    with _readable(str(folder)):
        if not (folder / f"{TABLE}.lance").is_dir():  # connecting would make the folder
            raise OSError(f"it has no {TABLE}.lance")
        return lancedb.connect(str(folder.absolute())).open_table(TABLE)


def read(table: Any) -> pa.Table:
    """Return all rows, in the order of their numbers."""
    with _readable("the index"):
        rows = table.to_arrow()
    numbers = rows[ROW]
    if numbers.null_count:
        raise StoreError(
            f"the index holds {numbers.null_count} rows that onevec did not write: delete them, "
            "and add them with `onevec index --add`"
        )
    order = numbers.to_numpy()
    # Appended rows stand in order; only rows moved by LanceDB may not.
    return rows if (np.diff(order) > 0).all() else rows.take(pa.array(np.argsort(order)))


def numbers_where(table: Any, where: Any) -> Int[np.ndarray, " some"]:
    """Return the numbers of the rows that an SQL filter lets through.

    Raises
    ------
    InputError
        If it is no filter, or names no column.
    """
    columns = ", ".join(name for name in table.schema.names if name not in ("vector", ROW))
    if not isinstance(where, str):
        raise InputError(f'got the filter {where!r}: pass SQL as text, such as "length > 100"')
    shown = where if len(where) <= _SHOWN else f"{where[:_SHOWN]}..."
    advice = f"write SQL such as \"length > 100 AND family = 'RNase'\"; the columns are {columns}"
    with _explained(f"cannot apply the filter {shown!r}", advice):
        # LanceDB overlooks what follows a filter, but not in parentheses.
        query = table.search().where(f"({where}\n)").select([ROW]).limit(None)
        return query.to_arrow()[ROW].to_numpy()


def fitted(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give rows the columns and types of a table; further ones stay behind them.

    Raises
    ------
    InputError
        If a column cannot be converted without loss.
    """
    columns = {}
    for field in schema:
        if field.name not in rows.column_names:
            columns[field.name] = pa.nulls(len(rows), field.type)
            continue
        what = f"the column {field.name!r} does not fit that of the index"
        with _explained(what, "convert it, or leave it out"):
            columns[field.name] = rows[field.name].cast(field.type)
    further = {name: rows[name] for name in rows.column_names if name not in columns}
    return pa.table(columns | further)


def commit(table: Any, new: pa.Table | None, gone: Int[np.ndarray, " some"]) -> None:
    """Add rows and delete others by number, both in one commit or neither.

    A column that the table does not have comes by a commit of its own before: a change that is
    killed then leaves it empty.

    Raises
    ------
    InputError
        If LanceDB does not take the rows; the table is as it was.
    """
    before = table.version
    dead = f"{ROW} IN ({', '.join(map(str, gone.tolist()))})"
    with _explained("LanceDB did not make the change", "the index is as it was"):
        if table.stats()["fragment_stats"]["num_fragments"] >= _MOST_FRAGMENTS:
            table.optimize()
        try:
            if new is not None:
                fresh = [field for field in new.schema if field.name not in table.schema.names]
                if fresh:
                    table.add_columns(pa.schema(fresh))
            if new is None:
                table.delete(dead)
            elif not len(gone):
                table.add(new)
            else:
                # By numbers, of which none is there twice: every new row is inserted.
                change = table.merge_insert(ROW).when_not_matched_insert_all()
                change.when_not_matched_by_source_delete(dead).execute(new)
        except BaseException:
            if table.version != before:
                table.restore(before)
            raise
