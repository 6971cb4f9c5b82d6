"""Read raw sequences, or ready token vectors, from what users have, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from onevec.errors import InputError
from onevec.ragged import Ragged
from onevec.tokens.chunks import Chunk, RowSource, as_ids, numbered, with_columns
from onevec.tokens.fasta import FASTA, FASTQ, read_fasta, read_fastq
from onevec.tokens.framing import framing
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
from onevec.tokens.media import AUDIO, IMAGES, MEDIA, as_media, is_media, open_file
from onevec.tokens.ready import open_hdf5, open_npy, open_npz, open_safetensors, open_torch
from onevec.tokens.records import read_json, read_jsonl
from onevec.tokens.series import has_no_header, read_rows, read_ts
from onevec.tokens.store import TokenStore
from onevec.tokens.tables import (
    as_list,
    as_sequences,
    as_table,
    column_kinds,
    is_dataset,
    iterate_table,
    read_arrow,
    read_csv,
    read_parquet,
    reading,
    with_values,
)
from onevec.tokens.told import tell

_ROWS = 256  # rows read at a time
_USUAL_COLUMNS = ("sequence", "text", "seq", "tokens", "values", "audio", "image")
_TEXT = (".txt", ".text", ".log")
_JSONL = (".jsonl", ".ndjson", ".json")
_CSV = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_ARROW = (".arrow", ".feather", ".ipc")
_LINES = (*_TEXT, *FASTA, *FASTQ, *_JSONL, *_CSV, ".ts")  # which may be gzipped
_ADVICE = {
    ".pkl": "pickle can run code; save arrays with np.savez, or a table as .parquet",
    ".pickle": "pickle can run code; save arrays with np.savez, or a table as .parquet",
    ".joblib": "pickle can run code; save arrays with np.savez, or a table as .parquet",
    ".xlsx": "save the sheet as .csv",
    ".xls": "save the sheet as .csv",
    ".zip": "unpack it and pass the folder",
    ".tar": "unpack it and pass the folder",
    ".bz2": "unpack it, or pack it with gzip",
    ".xz": "unpack it, or pack it with gzip",
    ".zst": "unpack it, or pack it with gzip",
}
READY = (".npy", ".npz", ".h5", ".hdf5", ".pt", ".pth", ".safetensors")
KNOWN_FORMATS = (
    ".parquet .arrow .jsonl .json .csv .tsv .fasta .fastq .a3m .txt .log .ts (also .gz) .npy .npz "
    ".h5 .pt .safetensors, audio, images, and folders of them"
)


@dataclass(frozen=True)
class _Asked:
    """What the user says of the columns, and where what is broken is counted."""

    column: str | None = None
    id_column: str | None = None
    broken: Broken | None = None

    @property
    def columns(self) -> bool:
        return self.column is not None or self.id_column is not None


def open_source(
    data: Any,
    *,
    column: str | None = None,
    id_column: str | None = None,
    ids: Sequence[Any] | None = None,
    metadata: Any = None,
    upper: bool = False,
    frames: str | None = None,
    broken: Broken | None = None,
) -> RowSource:
    """Recognise the input and read it lazily.

    Parameters
    ----------
    data : path, list, Ragged, array, frame or column of any library, ``datasets``, iterator
        The sequences. A path may be a folder; a list may hold paths.
    column : str, optional
        The column of a table that holds them. Without it ``sequence``, ``text`` … or the only
        one that can.
    id_column : str, optional
        The column that names the rows; ``id`` when there is one.
    ids : sequence, optional
        Names of the rows, in place of a column.
    metadata : mapping of str to column, or table, optional
        Further columns.
    upper : bool
        Write text in capitals.
    frames : {"logmel", "patches"}, optional
        Cut recordings or images to frames, which are token vectors; see `onevec.tokens.framing`.
    broken : Broken, optional
        Collects lines and rows of a file that cannot be read, which are skipped then. Without
        it they are errors.

    Raises
    ------
    InputError
        If the input is of no known kind, cannot be read, or lacks the column.
    """
    asked = _Asked(column, id_column, broken)
    place = Path(data) if isinstance(data, str | Path) else None
    source = _open_object(data, asked) if place is None else _open_path(_File(place, asked))
    if ids is not None or metadata is not None:
        source.chunks = with_columns(source, ids, metadata)
    source.chunks = numbered(_with_media(source.chunks, place))
    if upper:
        source.chunks = _in_capitals(source.chunks)
    if frames is not None:
        source.chunks = _framed(source.chunks, frames)
    return source


# --- what is done to every row ------------------------------------------------------------------


def _with_media(chunks: Iterator[Chunk], place: Path | None) -> Iterator[Chunk]:
    """Open recordings and images, one at a time, where rows are files, bytes or names of files."""
    beside = None if place is None else place.parent
    start = 0
    for chunk in chunks:
        rows = chunk.sequences
        if isinstance(rows, Ragged) or not len(rows) or not _leads_to_media(rows[0], beside):
            yield chunk
        else:
            for row, value in enumerate(rows):
                one = chunk[row : row + 1]
                named = _named_file(value, beside)
                if named is None and isinstance(value, str):
                    raise InputError(
                        f"sequence {start + row} is {value[:80]!r}, which names no file as the "
                        "first one does: check the path"
                    )
                held = as_media(value, f"sequence {start + row}")
                one.sequences = [held if named is None else open_file(named, str(value))]
                yield one
        start += len(chunk)


def _leads_to_media(value: Any, beside: Path | None) -> bool:
    return is_media(value) or _named_file(value, beside) is not None


def _named_file(value: Any, beside: Path | None) -> Path | None:
    """Return the audio or image file that a text names, if there is one."""
    if not isinstance(value, str) or not value.lower().endswith(MEDIA):
        return None
    found = [Path(value)] if beside is None else [beside / value, Path(value)]
    return next((path for path in found if path.is_file()), None)


def _in_capitals(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        if not isinstance(chunk.sequences, Ragged):
            chunk.sequences = [s.upper() if isinstance(s, str) else s for s in chunk.sequences]
        yield chunk


def _framed(chunks: Iterator[Chunk], frames: str) -> Iterator[Chunk]:
    cut = framing(frames)
    for chunk in chunks:
        rows = enumerate(chunk.sequences, chunk.start)
        chunk.sequences = [cut(sequence, row) for row, sequence in rows]
        yield chunk


# --- objects ------------------------------------------------------------------------------------


def _open_object(data: Any, asked: _Asked) -> RowSource:
    kind = type(data).__name__
    if type(data).__module__.startswith("datasets.") and "Column" not in kind:
        return _open_dataset(data, asked)
    table = as_table(data)
    if table is not None:
        pick = choose_columns(column_kinds(table.schema, "the table"), asked)
        batches = table.to_batches(max_chunksize=_ROWS)
        return RowSource(_from_batches(batches, *pick), table.num_rows)
    if isinstance(data, list | tuple) and _is_record(next(iter(data), None)):
        return RowSource(_from_records(iter(data), asked), len(data))
    if asked.columns:
        raise InputError(
            f"got column={asked.column!r}, id_column={asked.id_column!r} for a {kind}, which has "
            "no columns: leave them out, or pass a table"
        )
    if _is_plain_column(data):
        return _open_plain_column(data)
    values = as_list(data)
    return _open_values(data if values is None else values, kind)


def _is_plain_column(data: Any) -> bool:
    """Whether something is a column of `datasets` that can be read as it is stored."""
    source: Any = getattr(data, "source", None)
    if not type(data).__module__.startswith("datasets.") or not hasattr(source, "select_columns"):
        return False
    return not is_dataset(source) or source.format["type"] != "custom"


def _open_plain_column(data: Any) -> RowSource:
    alone = data.source.select_columns([data.column_name])
    return _open_dataset(alone, _Asked(data.column_name))


def _open_values(data: Any, kind: str) -> RowSource:
    if isinstance(data, TokenStore):
        raise InputError(
            f"got the token store {data.path} as sequences: it is encoded already; pass it to "
            "OneVec().fit(...), or its folder where a path is asked"
        )
    if isinstance(data, np.ndarray | torch.Tensor):
        return _open_array(data)
    if isinstance(data, dict | int | float | bytes | None):
        raise InputError(
            f"got a {kind} as sequences: pass a list of sequences, a table or a path to a file "
            f"({KNOWN_FORMATS})"
        )
    if isinstance(data, list | tuple) and data and _is_path(data[0]):
        return _open_all([Path(each) for each in data], {}, _Asked())
    if isinstance(data, Sequence | Ragged):
        return RowSource(_slices(data, len(data)), len(data))
    if isinstance(data, Iterable):
        return RowSource(_from_rows(iter(data)))
    raise InputError(f"got a {kind} as sequences: pass a list, a table or a path to a file")


def _is_record(value: Any) -> bool:
    return isinstance(value, Mapping) and not is_media(value)


def _is_path(value: Any) -> bool:
    """Whether an entry of a list is a file: a Path, or text that names one that is there."""
    if isinstance(value, Path):
        return True
    if not isinstance(value, str) or len(value) > 4_096 or not is_known(Path(value)):
        return False
    return Path(value).is_file()


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


def _open_dataset(data: Any, asked: _Asked) -> RowSource:
    if isinstance(data, dict):
        raise InputError(
            f"got a {type(data).__name__} with the splits {', '.join(map(str, data))}: pass one "
            "of them"
        )
    if not is_dataset(data):  # streamed
        return RowSource(_from_records(iter(_encoded_media(data)), asked))
    if data.format["type"] == "custom":  # a transform of the user's
        return RowSource(_from_records(iter(data), asked), len(data))
    kinds = column_kinds(data.features.arrow_schema, "the data set")
    pick = choose_columns(kinds, asked, "the data set")
    table = data.with_format("arrow")
    parts = (table[first : first + _ROWS] for first in range(0, len(data), _ROWS))
    return RowSource(_from_batches(iterate_table(parts), *pick), len(data))


def _encoded_media(data: Any) -> Any:
    """Return a streamed data set that leaves audio as it is stored: torchcodec need not be here."""
    from datasets import Audio

    for name, feature in (getattr(data, "features", None) or {}).items():
        if isinstance(feature, Audio):
            data = data.cast_column(name, Audio(decode=False))
    return data


# --- paths --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file to open: what its name and first bytes say, and what is asked of it."""

    path: Path
    asked: _Asked
    name: str | None = None  # id of its sequence, where it holds one

    @property
    def ending(self) -> str:
        return ending_of(self.path)[0]

    @cached_property
    def zipped(self) -> bool:
        return is_gzip(self.path)

    def lines(self) -> Iterator[str | None]:
        """Lines without their ends; None for one that was lost."""
        if self.asked.broken is not None:
            return tolerant_lines(self.path, self.zipped, self.asked.broken)
        return iter(strict_lines(self.path, self.zipped))


def _open_path(file: _File) -> RowSource:
    path, ending = file.path, file.ending
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
        return _open_folder(path, file.asked)
    open_it = next((each for endings, each in _OPENERS if ending in endings), None)
    if open_it is None or (ending not in _LINES and file.zipped):
        if (advice := _ADVICE.get(path.suffix.lower())) is not None:
            raise InputError(f"{path} is not read: {advice}")
        raise InputError(f"cannot tell the format of {path} from its ending: use {KNOWN_FORMATS}")
    if file.asked.columns and open_it not in (_open_table, _open_csv, _open_jsonl):
        raise InputError(f"{path} has no columns: leave column and id_column out")
    return open_it(file)


def _open_media(file: _File) -> RowSource:
    return RowSource(iter([Chunk([file.path], [file.name or file.path.name])]), 1)


def _open_npy(file: _File) -> RowSource:
    with reading(file.path, "NumPy"):
        array = open_npy(file.path)
        if array.ndim == 2 and array.dtype.kind == "f" and file.name is not None:
            return RowSource(iter([Chunk([array], [file.name])]), 1)
        return _open_array(array)


def _open_table(file: _File) -> RowSource:
    read = read_parquet if file.ending == ".parquet" else read_arrow
    schema, total, batches = read(file.path, _ROWS)
    pick = choose_columns(column_kinds(schema, file.path), file.asked, file.path)
    return RowSource(_from_batches(batches, *pick, file.asked.broken), total)


def _open_jsonl(file: _File) -> RowSource:
    rows = read_json(file.path, file.zipped) if file.ending == ".json" else None
    rows = rows or read_jsonl(file.lines(), file.path, file.asked.broken)
    return RowSource(_from_records(rows, file.asked))


def _open_csv(file: _File) -> RowSource:
    path, zipped, asked = file.path, file.zipped, file.asked
    with reading(path, "CSV"):
        encoding = guess_encoding(path, zipped) or "utf-8"
        delimiter = delimiter_of(path, zipped, _CSV[file.ending], encoding)
        series = has_no_header(path, zipped, delimiter, encoding)
    if series and not asked.columns:
        return RowSource(_numbers(file, partial(read_rows, delimiter=delimiter)))
    if asked.broken is not None:
        return RowSource(_from_records(_tolerant_rows(file, delimiter, asked.broken), asked))
    names, batches = read_csv(path, zipped, delimiter, encoding)
    return RowSource(_from_batches(batches, *choose_columns(names, asked, path)))


def _tolerant_rows(file: _File, delimiter: str, broken: Broken) -> Iterator[dict[str, Any]]:
    with reading(file.path, "CSV"):
        yield from tolerant_csv(file.lines(), delimiter, broken)


def _numbers(file: _File, read: Any) -> Iterator[Chunk]:
    with reading(file.path, "a table of numbers"):
        yield from read(file.lines(), file.path)


def _text(file: _File) -> Iterator[Chunk]:
    with reading(file.path, "text"):
        rows = (line for line in file.lines() if line is not None)
        first = True
        while part := list(islice(rows, _ROWS)):
            if first and part[0].startswith(">"):
                tell(f"{file.path} looks like FASTA and is read line by line: name it .fasta")
            first = False
            yield Chunk(part)


def _described(file: _File) -> Iterator[Chunk]:
    """Read sequences with a name and a description each."""
    read = read_fastq if file.ending in FASTQ else read_fasta
    with reading(file.path, "FASTQ" if file.ending in FASTQ else "FASTA"):
        records = read(file.lines(), file.path, file.asked.broken)
        while some := list(islice(records, _ROWS)):
            sequences, ids, descriptions = zip(*some, strict=True)
            yield Chunk(list(sequences), list(ids), {"description": list(descriptions)})


_OPENERS: tuple[tuple[Collection[str], Callable[[_File], RowSource]], ...] = (
    (MEDIA, _open_media),
    (_TEXT, lambda file: RowSource(_text(file))),
    ((*FASTA, *FASTQ), lambda file: RowSource(_described(file))),
    (_JSONL, _open_jsonl),
    (_CSV, _open_csv),
    ((".ts",), lambda file: RowSource(_numbers(file, read_ts))),
    ((".parquet", *_ARROW), _open_table),
    ((".npy",), _open_npy),
    ((".npz",), lambda file: open_npz(file.path)),
    ((".h5", ".hdf5"), lambda file: open_hdf5(file.path)),
    ((".safetensors",), lambda file: open_safetensors(file.path)),
    ((".pt", ".pth"), lambda file: open_torch(file.path, file.name)),
)


def _open_folder(path: Path, asked: _Asked) -> RowSource:
    """Open what a folder holds: recordings, images, or files of one other kind; a saved data set.

    The id of a file of one sequence is its path in the folder.
    """
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        from datasets import load_from_disk

        return _open_dataset(load_from_disk(str(path)), asked)
    chosen = _of_one_kind(path, known_files(path))
    others = sum(each.is_file() for each in path.rglob("*")) - len(chosen)
    if others:
        tell(f"{others:,} files of other kinds in {path} are passed over")
    return _open_all(chosen, {each: each.relative_to(path).as_posix() for each in chosen}, asked)


def _of_one_kind(path: Path, files: list[Path]) -> list[Path]:
    """Return the recordings or the images of a folder, else its files if they are of one kind."""
    if not files or (path / "config.json").is_file():
        raise InputError(
            f"{path} is a folder without sequences: pass a file or a folder of files "
            f"({KNOWN_FORMATS})"
        )
    audio, images = ([f for f in files if ending_of(f)[0] in some] for some in (AUDIO, IMAGES))
    if audio and images:
        raise InputError(
            f"the folder {path} holds {len(audio)} recordings and {len(images)} images: pass a "
            "folder of one kind, or a list of paths"
        )
    endings = {ending_of(each)[0] for each in files}
    if audio or images or len(endings) == 1 or endings <= set(FASTA):
        return audio or images or files
    raise InputError(
        f"the folder {path} holds files that end in {', '.join(sorted(endings))}: pass one of "
        "them, or a folder of one kind"
    )


def _open_all(paths: list[Path], names: Mapping[Path, str], asked: _Asked) -> RowSource:
    """Chain files; the columns of the first are those of all."""

    def opened(path: Path) -> RowSource:
        return _open_path(_File(path, asked, names.get(path, str(path))))

    first = opened(paths[0])  # what is wrong with it is said before any work
    rest = (chunk for path in paths[1:] for chunk in opened(path).chunks)
    one_each = all(path.suffix.lower() in MEDIA for path in paths)
    return RowSource(_alike(chain(first.chunks, rest)), len(paths) if one_each else None)


def _alike(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Give all chunks the columns of the first one, and ids if it has some."""
    columns: list[str] | None = None
    named = True
    for chunk in chunks:
        if columns is None:
            columns, named = list(chunk.metadata), chunk.ids is not None
        if named != (chunk.ids is not None):
            raise InputError(
                "some of these files name their sequences and others do not: pass them one by one"
            )
        empty = [None] * len(chunk)
        yield replace(chunk, metadata={n: chunk.metadata.get(n, empty) for n in columns})


def ending_of(path: Path) -> tuple[str, bool]:
    """Return what tells the format of a file, in lower case, and whether it is gzipped."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    zipped = bool(endings) and endings[-1] == ".gz"
    return next(iter((endings[:-1] if zipped else endings)[-1:]), ""), zipped


def is_known(path: Path) -> bool:
    """Whether the ending of a file is that of a format that is read."""
    ending, zipped = ending_of(path)
    whole = (".parquet", *_ARROW, *READY, *MEDIA)
    return ending in _LINES or (not zipped and ending in whole)


def known_files(folder: Path) -> list[Path]:
    """Return the files of a folder, and of those in it, that are read; sorted.

    What programs hide among them, such as ``._a.wav`` beside ``a.wav``, is none of the user's.
    """
    return [
        each
        for each in sorted(folder.rglob("*"))
        if each.is_file()
        and is_known(each)
        and not any(part.startswith(".") for part in each.relative_to(folder).parts)
    ]


def is_plain_text(path: Path) -> bool:
    """Whether the ending of a file is that of a format without columns."""
    return ending_of(path)[0] in (*_TEXT, *FASTA, *FASTQ)


# --- columns ------------------------------------------------------------------------------------


def choose_columns(
    kinds: Mapping[str, str], asked: _Asked, where: Any = "the table"
) -> tuple[str, str | None]:
    """Return the column of the sequences and the column of the ids; a guess is told."""
    column, id_column = asked.column, asked.id_column
    listed = ", ".join(kinds)
    for wanted in (column, id_column):
        if wanted is not None and wanted not in kinds:
            raise InputError(f"{where} has no column {wanted!r}: it has {listed}")
    if column is None:
        spelt = {name.lower(): name for name in reversed(list(kinds))} | {n: n for n in kinds}
        column = next((spelt[name] for name in _USUAL_COLUMNS if name in spelt), None)
        if column is None:
            column = _only_candidate(kinds, id_column)
        if column is None:
            error: Any = InputError(
                f"cannot tell which column of {where} holds the sequences: name it with column= "
                f"(--column); it has {listed}"
            )
            error.columns = dict(kinds)  # for `onevec inspect`
            raise error
        tell(
            f"the sequences of {where} are read from the column {column!r}; column= (--column) "
            f"takes another of {listed}"
        )
    if id_column is None and "id" in kinds and column != "id":
        id_column = "id"
    return column, id_column


def _only_candidate(kinds: Mapping[str, str], id_column: str | None) -> str | None:
    """Return the only column of recordings or images, else the only one of text, else of arrays."""
    for kind in ("media", "text", "arrays"):
        found = [n for n, each in kinds.items() if each == kind and n not in ("id", id_column)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


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


def _from_records(records: Iterator[Mapping[str, Any]], asked: _Asked) -> Iterator[Chunk]:
    kinds: dict[str, str] = {}
    pick: tuple[str, str | None] | None = None
    row = 0
    while part := list(islice(records, _ROWS)):
        if pick is None:
            # The first rows say which columns there are; what they lack is not carried.
            for key, value in chain.from_iterable(record.items() for record in part):
                if kinds.setdefault(key, "value") == "value":
                    kinds[key] = _kind_of_value(value)
            pick = choose_columns(kinds, asked, "the data")
        kept, sequences = [], []
        for place, record in enumerate(part, row):
            value, wrong = _as_sequence(record.get(pick[0]))
            if not wrong:
                kept.append(record)
                sequences.append(value)
            elif asked.broken is not None:
                asked.broken.add(wrong, place + 1)
            elif value is None:
                raise InputError(f"row {place} has no {pick[0]!r}: every row needs its sequence")
            else:
                raise InputError(f"the list of row {place} is no array: give rows of one length")
        ids = None if pick[1] is None else as_ids([record.get(pick[1]) for record in kept], row)
        row, part = row + len(part), kept
        rest = [name for name in kinds if name not in pick]
        yield Chunk(sequences, ids, {n: [record.get(n) for record in part] for n in rest})


def _kind_of_value(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if is_media(value) or type(value).__module__.startswith("PIL."):
        return "media"
    return "arrays" if isinstance(value, list) or getattr(value, "ndim", 0) else "value"


def _as_sequence(value: Any) -> tuple[Any, str]:
    """Make an array of nested lists; also what is wrong with the value, if something is."""
    if value is None:
        return value, "no value"
    try:
        return np.asarray(value) if isinstance(value, list) else value, ""
    except ValueError:  # rows of several lengths
        return value, "not one array"
