"""Vectors kept part by part beside their file, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from onevec.errors import StoreError
from onevec.tokens import layout
from onevec.tokens.chunks import Chunk
from onevec.tokens.columns import plain_column
from onevec.use.formats import Pieces, as_column
from onevec.use.vectors import column_name

_ROWS = 1_024  # from how many on a part is written: at most so many, and a chunk, come again
_GROUP = 32_768  # rows that are joined to one piece of the file
_DIGEST = b"onevec.digest"  # of a part's sequences, in its schema


class Parts:
    """A folder of parts: Arrow files, each whole or not there, which end where a chunk ends.

    Parameters
    ----------
    folder : path
        Is made with the first part; those that are there count as written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files = sorted(folder.glob("part-*.arrow"))
        for half in folder.glob(f"part-*{layout.PART}"):
            half.unlink()
        self._written = [_read(file) for file in self._files]
        self._schema = _schema(self._files[0]) if self._files else None
        self._clear()

    def _clear(self) -> None:
        self._chunks: list[Chunk] = []
        self._vectors: list[np.ndarray] = []
        self._digest = hashlib.sha256()

    @property
    def rows(self) -> int:
        """How many vectors are on disk."""
        return sum(rows for rows, _ in self._written)

    def remaining(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Leave out the chunks whose vectors are there, after checking that they are the same.

        Raises
        ------
        StoreError
            If the parts were made of other sequences.
        """
        chunks = iter(chunks)
        for rows, digest in list(self._written):
            found, count = hashlib.sha256(), 0
            while count < rows and (chunk := next(chunks, None)) is not None:
                _add(found, chunk)
                count += len(chunk)
            if (count, found.hexdigest()) != (rows, digest):
                raise StoreError(
                    f"cannot go on with {self.folder}: its {self.rows:,} vectors are not those of "
                    "the first sequences of this input; pass the same input, or remove that folder"
                )
        yield from chunks

    def append(self, chunk: Chunk, vectors: Float[np.ndarray, "rows dim"]) -> None:
        """Add the vectors of a chunk; a part is written when it is full."""
        self._chunks.append(chunk)
        self._vectors.append(vectors)
        _add(self._digest, chunk)
        if sum(map(len, self._vectors)) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory as a part."""
        if not self._chunks:
            return
        digest = self._digest.hexdigest()
        table = self._table().replace_schema_metadata({_DIGEST: digest})
        file = self.folder / f"part-{len(self._files):06d}.arrow"
        self.folder.mkdir(parents=True, exist_ok=True)

        def write(part: Path) -> None:
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table.combine_chunks())

        layout.write_atomically(file, write)
        self._files.append(file)
        self._written.append((table.num_rows, digest))
        self._clear()

    def _table(self) -> pa.Table:
        vectors = np.concatenate(self._vectors)
        ids = [name for chunk in self._chunks for name in chunk.ids or ()]
        arrays: dict[str, pa.Array] = {
            "id": pa.array(ids, pa.large_string()),
            "vector": as_column(vectors),
        }
        for name in self._chunks[0].metadata:
            called = column_name(layout.metadata_name(name))
            known = self._schema.field(called).type if self._schema is not None else None
            arrays[called] = plain_column(name, [c.metadata[name] for c in self._chunks], known)
        table = pa.table(arrays)
        self._schema = table.schema if self._schema is None else self._schema
        return table

    def pieces(self, made_by: str) -> Pieces:
        """Return all that is written, to be joined to one file."""
        self.flush()
        assert self._schema is not None, "a source has at least one sequence"
        return Pieces(self._schema, self.rows, self._tables(), made_by)

    def _tables(self) -> Iterator[pa.Table]:
        held: list[pa.Table] = []
        for file in self._files:
            with layout.arrow_errors(file), pa.memory_map(str(file)) as source:
                held.append(pa.ipc.open_file(source).read_all().replace_schema_metadata(None))
            if sum(table.num_rows for table in held) >= _GROUP:
                yield pa.concat_tables(held).combine_chunks()
                held = []
        if held:
            yield pa.concat_tables(held).combine_chunks()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(file: Path) -> tuple[int, str]:
    """Return rows and digest of a part."""
    with layout.arrow_errors(file), pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        rows = sum(reader.get_batch(k).num_rows for k in range(reader.num_record_batches))
        return rows, reader.schema.metadata[_DIGEST].decode()


def _schema(file: Path) -> pa.Schema:
    with layout.arrow_errors(file), pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).schema.remove_metadata()


def _add(digest: Any, chunk: Chunk) -> None:
    """Add ids and content of a chunk to a digest."""
    for name, sequence in zip(chunk.ids or (), chunk.sequences, strict=True):
        content = _content(sequence)
        digest.update(f"{len(name)} {name} {len(content)} ".encode() + content)


def _content(sequence: Any) -> bytes:
    if isinstance(sequence, torch.Tensor):
        sequence = sequence.detach().cpu().float().numpy()
    if isinstance(sequence, list | tuple):
        sequence = np.asarray(sequence)
    if hasattr(sequence, "tobytes"):  # arrays, and images of Pillow
        return sequence.tobytes()
    return str(sequence).encode("utf-8", "surrogatepass")
