"""Read raw sequences, or ready token vectors, from what users have, in chunks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from onevec.errors import InputError
from onevec.ragged import Ragged
from onevec.tokens.chunks import Chunk, RowSource, as_ids, numbered, with_columns
from onevec.tokens.layout import is_store
from onevec.tokens.lines import (
    Broken,
    delimiter_of,
    guess_encoding,
    is_gzip,
    strict_lines,
    tolerant_csv,
    tolerant_lines,
)
from onevec.tokens.store import TokenStore
from onevec.tokens.tables import (
    as_sequences,
    as_table,
    column_kinds,
    iterate_table,
    read_arrow,
    read_csv,
    read_parquet,
    reading,
    with_values,
)

_ROWS = 256  # rows read at a time
_USUAL_COLUMNS = ("sequence", "text", "seq", "tokens", "values", "audio", "image")
_TEXT = (".txt", ".text", ".log")
_FASTA = (".fasta", ".fa", ".faa", ".fna", ".ffn", ".fas")
_JSONL = (".jsonl", ".ndjson")
_CSV = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_ARROW = (".arrow", ".feather", ".ipc")
KNOWN_FORMATS = ".parquet .arrow .jsonl .csv .tsv .fasta .txt .log (also .gz) .npy .npz"


def open_source(
    data: Any,
    *,
    column: str | None = None,
    id_column: str | None = None,
    ids: Sequence[Any] | None = None,
    metadata: Any = None,
    broken: Broken | None = None,
) -> RowSource:
    """Recognise the input and read it lazily.

    Parameters
    ----------
    data : path, list, Ragged, array, pandas or pyarrow table, ``datasets.Dataset``, iterator
        The sequences.
    column : str, optional
        The column of a table that holds them. Without it ``sequence``, ``text`` … or the only
        text column.
    id_column : str, optional
        The column that names the rows; ``id`` when there is one.
    ids : sequence, optional
        Names of the rows, in place of a column.
    metadata : mapping of str to column, or table, optional
        Further columns.
    broken : Broken, optional
        Collects lines and rows of a file that cannot be read, which are skipped then. Without
        it they are errors.

    Raises
    ------
    InputError
        If the input is of no known kind, cannot be read, or lacks the column.
    """
    if isinstance(data, str | Path):
        source = _open_file(Path(data), column, id_column, broken)
    else:
        source = _open_object(data, column, id_column)
    if ids is not None or metadata is not None:
        source.chunks = with_columns(source, ids, metadata)
    source.chunks = numbered(source.chunks)
    return source


def _open_object(data: Any, column: str | None, id_column: str | None) -> RowSource:
    kind, home = type(data).__name__, type(data).__module__.split(".")[0]
    if home == "datasets" and "Column" not in kind:
        return _open_dataset(data, column, id_column)
    table = as_table(data)
    if table is not None:
        batches = table.to_batches(max_chunksize=_ROWS)
        pick = choose_columns(column_kinds(table.schema, "the table"), column, id_column)
        return RowSource(_from_batches(batches, *pick), table.num_rows)
    if column is not None or id_column is not None:
        raise InputError(
            f"got column={column!r}, id_column={id_column!r} for a {kind}, which has no columns: "
            "leave them out, or pass a table"
        )
    if home == "pandas" and kind == "Series":
        data = data.tolist()
    elif home == "polars" and kind == "Series":
        data = data.to_list()
    elif isinstance(data, pa.Array | pa.ChunkedArray):
        data = data.to_pylist()
    if isinstance(data, TokenStore):
        raise InputError(
            f"got the token store {data.path} as sequences: it is encoded already; pass it to "
            "OneVec().fit(...), or its folder where a path is asked"
        )
    if isinstance(data, Ragged):
        return RowSource(_slices(data, len(data)), len(data))
    if isinstance(data, np.ndarray | torch.Tensor):
        return _open_array(data)
    if isinstance(data, dict) or data is None or isinstance(data, int | float | bytes):
        raise InputError(
            f"got a {kind} as sequences: pass a list of sequences, a table or a path to a file "
            f"({KNOWN_FORMATS})"
        )
    if isinstance(data, Sequence):
        return RowSource(_slices(data, len(data)), len(data))
    if isinstance(data, Iterable):
        return RowSource(_from_rows(iter(data)))
    raise InputError(f"got a {kind} as sequences: pass a list, a table or a path to a file")


def _open_array(data: np.ndarray | torch.Tensor) -> RowSource:
    if isinstance(data, np.ndarray) and data.dtype.kind not in "fiuOU":
        raise InputError(f"got an array of dtype {data.dtype}: pass numbers or text")
    if data.ndim < 2 and not (isinstance(data, np.ndarray) and data.dtype.kind in "OU"):
        raise InputError(
            f"got an array of shape {tuple(data.shape)}, which looks like labels: pass one "
            "(n, dim) array per sequence, or one (seqs, n, dim) array"
        )
    if isinstance(data, np.ndarray) and data.dtype.kind in "OU":
        data = data.tolist()  # type: ignore[assignment]
    return RowSource(_slices(data, len(data)), len(data))


def _slices(data: Any, total: int) -> Iterator[Chunk]:
    for first in range(0, total, _ROWS):
        part = data[first : first + _ROWS]
        yield Chunk(part if isinstance(part, Ragged) else list(part))


def _from_rows(rows: Iterator[Any]) -> Iterator[Chunk]:
    # One row at a time: a generator is used where not even 256 sequences may be held.
    for row in rows:
        yield Chunk([row])


def _open_file(
    path: Path, column: str | None, id_column: str | None, broken: Broken | None
) -> RowSource:
    if not path.exists():
        raise InputError(
            f"there is no file {path}: pass a path that exists ({KNOWN_FORMATS}); a single "
            "sequence goes into a list"
        )
    if is_store(path):
        raise InputError(
            f"{path} is a token store, which is encoded already: pass it to fit or transform"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass a file ({KNOWN_FORMATS})")
    ending, zipped = ending_of(path)[0], is_gzip(path)
    if is_plain_text(path):
        if column is not None or id_column is not None:
            raise InputError(f"{path} has no columns: leave column and id_column out")
        read = _read_text if ending in _TEXT else partial(_read_fasta, broken=broken)
        return RowSource(_from_lines(path, zipped, read, broken))
    if ending in _JSONL:
        return RowSource(
            _from_records(_read_jsonl(path, zipped, broken), column, id_column, broken)
        )
    if ending in _CSV:
        with reading(path, "CSV"):
            encoding = guess_encoding(path, zipped) or "utf-8"
            delimiter = delimiter_of(path, zipped, _CSV[ending], encoding)
    if ending in _CSV and broken is not None:
        rows = _read_tolerant_csv(path, zipped, delimiter, broken)
        return RowSource(_from_records(rows, column, id_column, broken))
    if ending in _CSV:
        names, batches = read_csv(path, zipped, delimiter, encoding)
        pick = choose_columns(names, column, id_column, path)
        return RowSource(_from_batches(batches, *pick))
    if ending in (".npy", ".npz") and not zipped:
        return _open_numpy(path)
    if ending in (".parquet", *_ARROW) and not zipped:
        schema, total, batches = (read_parquet if ending == ".parquet" else read_arrow)(path, _ROWS)
        pick = choose_columns(column_kinds(schema, path), column, id_column, path)
        return RowSource(_from_batches(batches, *pick, broken), total)
    raise InputError(f"cannot tell the format of {path} from its ending: use {KNOWN_FORMATS}")


def ending_of(path: Path) -> tuple[str, bool]:
    """Return what tells the format of a file, in lower case, and whether it is gzipped."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    zipped = bool(endings) and endings[-1] == ".gz"
    return next(iter((endings[:-1] if zipped else endings)[-1:]), ""), zipped


def is_known(path: Path) -> bool:
    """Whether the ending of a file is that of a format that is read."""
    ending, zipped = ending_of(path)
    text = (*_TEXT, *_FASTA, *_JSONL, *_CSV)
    return ending in text or (not zipped and ending in (".parquet", *_ARROW, ".npy", ".npz"))


def is_plain_text(path: Path) -> bool:
    """Whether the ending of a file is that of a format without columns."""
    return ending_of(path)[0] in (*_TEXT, *_FASTA)


def choose_columns(
    names: Mapping[str, bool], column: str | None, id_column: str | None, where: Any = "the table"
) -> tuple[str, str | None]:
    """Return the column of the sequences and the column of the ids."""
    for wanted in (column, id_column):
        if wanted is not None and wanted not in names:
            raise InputError(f"{where} has no column {wanted!r}: it has {', '.join(names)}")
    if column is None:
        column = next((name for name in _USUAL_COLUMNS if name in names), None)
    if column is None:
        text = [
            name for name, is_text in names.items() if is_text and name not in ("id", id_column)
        ]
        if len(text) != 1:
            raise InputError(
                f"cannot tell which column of {where} holds the sequences: name it with column= "
                f"(--column); it has {', '.join(names)}"
            )
        column = text[0]
    if id_column is None and "id" in names and column != "id":
        id_column = "id"
    return column, id_column


def _from_batches(
    batches: Iterable[pa.RecordBatch],
    column: str,
    id_column: str | None,
    broken: Broken | None = None,
) -> Iterator[Chunk]:
    start = 0
    for batch in batches if broken is None else with_values(batches, column, broken):
        sequences = as_sequences(batch.column(column), column, start)
        named = None if id_column is None else batch.column(id_column).to_pylist()
        rest = [n for n in batch.schema.names if n not in (column, id_column)]
        ids = None if named is None else as_ids(named, start)
        yield Chunk(sequences, ids, {name: batch.column(name) for name in rest})
        start += batch.num_rows


def _open_dataset(data: Any, column: str | None, id_column: str | None) -> RowSource:
    if isinstance(data, dict):
        raise InputError(
            f"got a DatasetDict with the splits {', '.join(map(str, data))}: pass one of them"
        )
    if type(data).__name__.startswith("Iterable"):  # streamed
        return RowSource(_from_records(iter(data), column, id_column))
    kinds = column_kinds(data.features.arrow_schema, "the data set")
    pick = choose_columns(kinds, column, id_column, "the data set")
    table = data.with_format("arrow")
    parts = (table[first : first + _ROWS] for first in range(0, len(data), _ROWS))
    return RowSource(_from_batches(iterate_table(parts), *pick), len(data))


def _from_records(
    records: Iterator[dict[str, Any]],
    column: str | None,
    id_column: str | None,
    broken: Broken | None = None,
) -> Iterator[Chunk]:
    names: dict[str, bool] = {}
    pick: tuple[str, str | None] | None = None
    row = 0
    while part := list(islice(records, _ROWS)):
        if pick is None:
            # The first rows say which columns there are; what they lack is not carried.
            for key, value in chain.from_iterable(record.items() for record in part):
                names[key] = names.get(key, False) or isinstance(value, str)
            pick = choose_columns(names, column, id_column, "the data")
        kept, sequences = [], []
        for place, record in enumerate(part, row):
            value, wrong = _as_sequence(record.get(pick[0]))
            if not wrong:
                kept.append(record)
                sequences.append(value)
            elif broken is not None:
                broken.add(wrong, place + 1)
            elif value is None:
                raise InputError(f"row {place} has no {pick[0]!r}: every row needs its sequence")
            else:
                raise InputError(f"the list of row {place} is no array: give rows of one length")
        ids = None if pick[1] is None else as_ids([record.get(pick[1]) for record in kept], row)
        row, part = row + len(part), kept
        rest = [name for name in names if name not in pick]
        yield Chunk(sequences, ids, {n: [record.get(n) for record in part] for n in rest})


def _as_sequence(value: Any) -> tuple[Any, str]:
    """Make an array of nested lists; also what is wrong with the value, if something is."""
    if value is None:
        return value, "no value"
    try:
        return np.asarray(value) if isinstance(value, list) else value, ""
    except ValueError:  # rows of several lengths
        return value, "not one array"


def _lines(path: Path, zipped: bool, broken: Broken | None) -> Iterator[str | None]:
    """Lines without their ends; None for one that was lost."""
    if broken is not None:
        yield from tolerant_lines(path, zipped, broken)
        return
    yield from strict_lines(path, zipped)


def _from_lines(
    path: Path,
    zipped: bool,
    read: Callable[[Iterator[str | None]], Iterator[tuple[Any, ...]]],
    broken: Broken | None,
) -> Iterator[Chunk]:
    with reading(path, "text"):
        rows = read(_lines(path, zipped, broken))
        while part := list(islice(rows, _ROWS)):
            if len(part[0]) == 1:
                yield Chunk([row[0] for row in part])
            else:
                sequences, ids, descriptions = zip(*part, strict=True)
                yield Chunk(list(sequences), list(ids), {"description": list(descriptions)})


def _read_text(lines: Iterator[str | None]) -> Iterator[tuple[str]]:
    for line in lines:
        if line is not None:
            yield (line,)


def _read_fasta(
    lines: Iterator[str | None], broken: Broken | None = None
) -> Iterator[tuple[str, str, str]]:
    header: str | None = None
    body: list[str] = []
    lost = False  # a line since the last header, which may have been a header itself
    for number, raw in enumerate(chain(lines, [">"]), 1):  # the last ">" closes the last record
        if raw is None:
            if header is not None and broken is not None:
                broken.add("record with a lost line", number)
            header, lost = None, True
            continue
        line = raw.strip()
        if lost and not line.startswith(">"):
            continue
        lost = False
        if line.startswith(">"):
            if header is not None:
                name, *rest = header.split(None, 1) or [""]
                description = rest[0] if rest else ""
                if not body and broken is None:
                    raise InputError(f"the FASTA record {name!r} is empty: drop it")
                yield "".join(body), name, description.strip()
            header, body = line[1:].strip(), []
        elif line and not line.startswith(";"):
            if header is None and broken is None:
                raise InputError("the file is no FASTA: its first line does not start with '>'")
            if header is None and broken is not None:
                broken.add("before the first header", number)
            body.append(line)


def _read_tolerant_csv(
    path: Path, zipped: bool, delimiter: str, broken: Broken
) -> Iterator[dict[str, Any]]:
    with reading(path, "CSV"):
        yield from tolerant_csv(tolerant_lines(path, zipped, broken), delimiter, broken)


def _read_jsonl(path: Path, zipped: bool, broken: Broken | None) -> Iterator[dict[str, Any]]:
    objects: bool | None = None  # the first line says
    with reading(path, "JSON lines"):
        for number, line in enumerate(_lines(path, zipped, broken), 1):
            if line is None or not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                if broken is not None:
                    broken.add("no JSON", number)
                    continue
                raise InputError(
                    f"line {number} of {path} is no JSON ({error}): each line must be one object"
                ) from error
            is_object = isinstance(record, dict)
            objects = is_object if objects is None else objects
            if is_object != objects:
                if broken is not None:
                    broken.add("an object among bare values, or the other way round", number)
                    continue
                raise InputError(
                    f"line {number} of {path} is {'an object' if is_object else 'a bare value'}, "
                    "the lines before are not: write every line in one form"
                )
            yield record if is_object else {"sequence": record}


def _open_numpy(path: Path) -> RowSource:
    with reading(path, "NumPy"):
        if path.suffix.lower() == ".npy":
            return _open_array(_mapped(path))
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            if set(names) >= {"values", "lengths"}:
                values = torch.from_numpy(archive["values"])
                lengths = torch.from_numpy(archive["lengths"].astype(np.int64))
                return _open_object(Ragged(values, lengths), None, None)
    return RowSource(_from_archive(path, names), len(names))


def _mapped(path: Path) -> np.ndarray:
    """Map an array, so that a file larger than memory is read chunk by chunk."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise InputError(
            f"{path} holds Python objects, which are not loaded (pickle can run code): save a "
            "(seqs, n, dim) array, or one array per sequence with np.savez"
        ) from error


def _from_archive(path: Path, names: list[str]) -> Iterator[Chunk]:
    with reading(path, "NumPy"), np.load(path, allow_pickle=False) as archive:
        for name in names:
            yield Chunk([archive[name]], [name])
