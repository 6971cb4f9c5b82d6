"""Write a token store shard by shard, so that a killed run can go on where it stopped."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from onevec.errors import InputError, OnevecError, StoreError
from onevec.ragged import Ragged
from onevec.tokens import layout
from onevec.tokens.columns import plain_column, token_id_column, token_vectors, vectors


class TokenStoreWriter:
    """Writes a store; use it in a ``with`` block.

    Parameters
    ----------
    path : path
        The folder to make. It appears with the first full shard.
    dim : int, optional
        Dimensions of a token vector; read from the first rows when not given.
    dtype : {"float16", "int8", "float32"}
        How values are stored. ``int8`` has one scale per shard and dimension,
        ``max |x| / 127``, hence an error of at most half a scale. In ``float16`` values beyond
        ±65504 are clipped and counted in one warning.
    layers : sequence of int
        The encoder layers that are stored, one values column each.
    encoder : mapping, optional
        ``name``, ``fingerprint`` and ``depth`` of the encoder.
    settings : mapping, optional
        How the tokens were made (special tokens, truncation …). Resuming demands equal settings.
    shard_bytes : int
        About how many bytes are held in memory before a shard is written.
    resume : bool
        Go on with a store that a killed run left. A finished one is left as it is.
    overwrite : bool
        Replace a store that exists.

    Notes
    -----
    A run that is killed leaves whole shards and an index that says ``complete: false``. One that
    fails over its input (an `OnevecError`) would fail again, so what it wrote is removed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dim: int | None = None,
        dtype: str = "float16",
        layers: Sequence[int] = (-1,),
        encoder: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        shard_bytes: int = 128 * 2**20,
        resume: bool = False,
        overwrite: bool = False,
    ):
        if dtype not in layout.DTYPES:
            raise InputError(f"got dtype {dtype!r}: choose one of {', '.join(layout.DTYPES)}")
        self.path = self._final = Path(path)
        self.shard_bytes = shard_bytes
        self.resumed = False
        self.clipped = 0
        self._schema: pa.Schema | None = None
        self._index: dict[str, Any] = {
            "format": layout.FORMAT,
            "version": layout.VERSION,
            "complete": False,
            "dim": dim,
            "dtype": dtype,
            "layers": [int(layer) for layer in layers],
            "cls": None,  # known with the first rows
            "encoder": dict(encoder or {"name": None, "fingerprint": None, "depth": None}),
            "settings": dict(settings or {}),
            "columns": [],
            "rows": 0,
            "tokens": 0,
            "shards": [],
        }
        self._meet_what_is_there(resume, overwrite)
        self._clear()

    def _meet_what_is_there(self, resume: bool, overwrite: bool) -> None:
        path = self.path
        if path.is_file():
            raise StoreError(f"{path} is a file: a token store is a folder; choose another name")
        if not layout.is_store(path):
            if path.is_dir() and any(p for p in path.iterdir() if p.suffix != layout.PART):
                raise StoreError(
                    f"{path} exists and is no token store: choose another folder, "
                    "nothing is written into this one"
                )
            return
        if overwrite:
            # The new store grows beside the old one, which goes when the new one is whole.
            self.path = path.absolute().with_name(f".{path.absolute().name}.new")
            shutil.rmtree(self.path, ignore_errors=True)
            return
        old = layout.read_index(path)
        if not resume:
            state = "a complete" if old["complete"] else "a half-written"
            more = "" if old["complete"] else ", resume=True (--resume) to finish it"
            raise StoreError(
                f"{path} already holds {state} token store: choose another folder{more} "
                "or pass overwrite=True (--overwrite)"
            )
        for name in ("dtype", "layers", "encoder", "settings"):
            if old[name] != self._index[name]:
                raise StoreError(
                    f"cannot resume {path}: its {name} is {old[name]}, this run has "
                    f"{self._index[name]}; resume with the same options or pass overwrite=True"
                )
        if self._index["dim"] not in (None, old["dim"]):
            raise StoreError(f"cannot resume {path}: dim {old['dim']} is not {self._index['dim']}")
        self._index = {"cls": False, **old}
        self.resumed = True
        self._take_up(old)

    def _take_up(self, old: dict[str, Any]) -> None:
        path = self.path
        for shard in old["shards"]:
            file = path / shard["file"]
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                raise StoreError(
                    f"cannot resume {path}: its shard {file.name} is missing or truncated; "
                    "start anew with overwrite=True (--overwrite)"
                )
        kept = {shard["file"] for shard in old["shards"]}
        for file in [*path.glob("shard-*.arrow"), *path.glob(f"*{layout.PART}")]:
            if file.name not in kept:
                file.unlink()
        if old["shards"]:
            first = path / old["shards"][0]["file"]
            with layout.arrow_errors(first), pa.memory_map(str(first)) as source:
                self._schema = pa.ipc.open_file(source).schema

    def _clear(self) -> None:
        self._values: dict[int, list[np.ndarray]] = {k: [] for k in self._index["layers"]}
        self._cls: dict[int, list[np.ndarray]] = {k: [] for k in self._index["layers"]}
        self._lengths: list[np.ndarray] = []
        self._columns: dict[str, list[Any]] = {}
        self._bytes = 0

    @property
    def rows_written(self) -> int:
        """Rows in finished shards: where a resumed run goes on."""
        return self._index["rows"]

    @property
    def bytes_written(self) -> int:
        """Bytes of the finished shards."""
        return sum(entry["bytes"] for entry in self._index["shards"])

    @property
    def rows_appended(self) -> int:
        """Rows in finished shards and in memory."""
        return self.rows_written + sum(map(len, self._lengths))

    def written(self, column: str) -> list[str] | None:
        """Return a column of the rows in finished shards; None if the store has no such."""
        if column not in self._index["columns"]:
            return None
        found: list[str] = []
        for entry in self._index["shards"]:
            file = self.path / entry["file"]
            with layout.arrow_errors(file), pa.memory_map(str(file)) as source:
                found.extend(pa.ipc.open_file(source).get_batch(0).column(column).to_pylist())
        return found

    @property
    def complete(self) -> bool:
        """Whether the store (of an earlier run) is finished."""
        return self._index["complete"]

    def append(
        self,
        values: Ragged | Sequence[Any] | Mapping[int, Ragged],
        ids: Sequence[str] | None = None,
        token_ids: Sequence[Any] | None = None,
        sequences: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        cls: Any = None,
        owned: bool = False,
    ) -> None:
        """Add rows.

        Parameters
        ----------
        values : Ragged, list of (n, dim) arrays, or mapping of layer to Ragged
            The token vectors; a mapping when several layers are stored.
        ids : sequence of str, optional
            Names of the rows; row numbers when not given.
        token_ids : sequence of int arrays, optional
            Vocabulary entries of the tokens. A Ragged's field ``ids`` is taken when not given.
        sequences : sequence of str, optional
            The raw sequences.
        metadata : mapping of str to column, optional
            Further columns; never read by ``fit``.
        cls : (rows, dim) array, or mapping of layer to one, optional
            The state of the classification token, for all rows of a store or for none.
        owned : bool
            Whether the values are checked already and nobody else will change them, which saves
            a pass and a copy.

        Raises
        ------
        InputError
            For empty or non-finite sequences, another dimension, or columns of another length.
        """
        layers = self._as_layers(values, owned)
        first = next(iter(layers.values()))
        front = self._as_cls(cls, len(first))
        start = self.rows_appended
        columns: dict[str, Any] = {
            "id": [str(i) for i in (ids if ids is not None else range(start, start + len(first)))]
        }
        if token_ids is None and "ids" in first.fields:
            pieces = torch.split(first.fields["ids"].cpu(), first.lengths.tolist())
            token_ids = [piece.numpy() for piece in pieces]
        if token_ids is not None:
            columns["token_id"] = list(token_ids)
        if sequences is not None:
            columns["sequence"] = list(sequences)
        for name, column in (metadata or {}).items():
            columns[layout.metadata_name(name)] = column
        for name, column in columns.items():
            if len(column) != len(first):
                raise InputError(
                    f"column {name!r} has {len(column)} entries for {len(first)} sequences: "
                    "it needs one per sequence"
                )
        self._check_names(list(columns))
        for a, b in self._cuts(first.lengths):
            for layer, ragged in layers.items():
                self._values[layer].append(
                    self._cast(ragged[a:b].values, self._index["dtype"] == "float16", owned)
                )
            half = layout.cls_dtype(self._index["dtype"]) == "float16"
            for layer, states in front.items():
                self._cls[layer].append(self._cast(states[a:b], half, owned))
            self._lengths.append(first.lengths[a:b].cpu().numpy())
            for name, column in columns.items():
                self._columns.setdefault(name, []).append(column[a:b])
            held = [*self._values.values(), *(self._cls[layer] for layer in front)]
            self._bytes += sum(parts[-1].nbytes for parts in held)
            if self._bytes >= self.shard_bytes:
                self._flush()

    def _as_layers(self, values: Any, checked: bool) -> dict[int, Ragged]:
        wanted = self._index["layers"]
        if isinstance(values, Mapping):
            layers = {k: values[k] for k in wanted}
        else:
            whole = values if isinstance(values, Ragged) else Ragged.from_list(values)
            layers = {wanted[0]: whole}
        if len(layers) != len(wanted):
            raise InputError(f"got token vectors of one layer for a store of layers {wanted}")
        for ragged in layers.values():
            if self._index["dim"] is None:
                self._index["dim"] = ragged.dim
            if ragged.dim != self._index["dim"]:
                raise InputError(
                    f"got token vectors of dimension {ragged.dim} for a store of dimension "
                    f"{self._index['dim']}: all must have the same"
                )
            if not checked:
                ragged.check()
        return layers

    def _as_cls(self, cls: Any, count: int) -> dict[int, Tensor]:
        stored, wanted = cls is not None, self._index["layers"]
        if self._index["cls"] is None:
            self._index["cls"] = stored
        if stored != self._index["cls"]:
            raise InputError(
                f"got rows {'with' if stored else 'without'} a classification token, earlier rows "
                f"of {self.path} are {'without' if stored else 'with'}: all rows of a store have "
                "one or none has; write them into a store of their own"
            )
        if not stored:
            return {}
        given = cls if isinstance(cls, Mapping) else {wanted[0]: cls}
        if sorted(given) != sorted(wanted):
            raise InputError(
                f"got the classification token of the layers {sorted(given)} for a store of layers "
                f"{wanted}: pass a mapping with an array for each"
            )
        found = {layer: torch.as_tensor(given[layer]) for layer in wanted}
        shape = (count, self._index["dim"])
        for states in found.values():
            if tuple(states.shape) != shape or not bool(states.isfinite().all()):
                raise InputError(
                    f"got classification tokens of shape {tuple(states.shape)}: they must be "
                    f"finite numbers of shape (rows, dim) = {shape}"
                )
        return found

    def _check_names(self, names: list[str]) -> None:
        if not self._index["columns"]:
            self._index["columns"] = names
        if sorted(names) != sorted(self._index["columns"]):
            raise InputError(
                f"got the columns {sorted(names)}, earlier rows have "
                f"{sorted(self._index['columns'])}: all rows of a store have the same columns"
            )

    def _cuts(self, lengths: Tensor) -> Iterator[tuple[int, int]]:
        """Cut the rows where a shard becomes full."""
        size = 2 if self._index["dtype"] == "float16" else 4  # int8 is held as float32 until then
        per_token = size * self._index["dim"] * len(self._values)
        # A classification token counts as one more: a little too much in int8.
        ends = np.cumsum(lengths.cpu().numpy() + int(self._index["cls"])) * per_token
        a, done = 0, 0
        while a < len(ends):
            room = self.shard_bytes - self._bytes
            b = int(np.searchsorted(ends, done + room, side="left")) + 1
            b = min(max(b, a + 1), len(ends))
            yield a, b
            a, done = b, int(ends[b - 1])

    def _cast(self, values: Tensor, half: bool, owned: bool) -> np.ndarray:
        values = values.detach().cpu()
        if not half:
            return values.to(torch.float32, copy=not owned).numpy()
        if values.dtype != torch.float16:
            low, high = torch.aminmax(values)
            largest = layout.FLOAT16_LARGEST
            if float(high) > largest or float(low) < -largest:
                self.clipped += int((values.abs() > largest).sum())
                values = values.clamp(-largest, largest)
        return values.to(torch.float16, copy=not owned).numpy()

    def _flush(self) -> None:
        if not self._lengths:
            return
        lengths = np.concatenate(self._lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        arrays: dict[str, pa.Array] = {}
        scales: dict[str, list[float]] = {}
        for layer in self._index["layers"]:
            pieces, self._values[layer] = self._values[layer], []
            values = np.concatenate(pieces)
            del pieces
            name = layout.values_column(self._index["layers"], layer)
            if self._index["dtype"] == "int8":
                scale = np.abs(values).max(axis=0) / 127
                scale = np.where(scale > 0, scale, 1).astype(np.float32)
                values = np.rint(values / scale).clip(-127, 127).astype(np.int8)
                scales[name] = [float(s) for s in scale]
            arrays[name] = token_vectors(values, offsets)
            if self._index["cls"]:
                name = layout.cls_column(self._index["layers"], layer)
                arrays[name] = vectors(np.concatenate(self._cls[layer]))
        for name, parts in self._columns.items():
            known = self._schema.field(name).type if self._schema is not None else None
            arrays[name] = (
                token_id_column(parts, offsets)
                if name == "token_id"
                else plain_column(name, parts, known)
            )
        batch = pa.RecordBatch.from_pydict(arrays)
        if self._schema is None:
            self._schema = batch.schema
        self._write(batch, int(offsets[-1]), scales)
        self._clear()

    def _write(self, batch: pa.RecordBatch, tokens: int, scales: dict[str, list[float]]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not layout.is_store(self.path):  # before the shard: a killed run leaves a store
                layout.write_index(self.path, self._index)
        except OSError as error:
            raise StoreError(
                f"cannot make the folder {self.path} ({error.strerror}): choose another place"
            ) from error
        number = len(self._index["shards"])
        file = self.path / layout.shard_name(number)

        def write(part: Path) -> None:
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as shard:
                shard.write_batch(batch)

        try:
            layout.write_atomically(file, write)
        except OSError as error:
            raise OSError(error.errno, f"cannot write {file}: {error.strerror or error}") from error
        entry = {
            "file": file.name,
            "rows": batch.num_rows,
            "tokens": tokens,
            "bytes": file.stat().st_size,
            "sha256": layout.checksum(file),
        }
        if scales:
            entry["scale"] = scales
        self._index["shards"].append(entry)
        self._index["rows"] += batch.num_rows
        self._index["tokens"] += tokens
        layout.write_index(self.path, self._index)

    def close(self) -> None:
        """Write the last shard and mark the store complete."""
        if self.complete:
            return
        self._flush()
        if not self.rows_written:
            raise InputError("got no sequences: pass at least one; no store was written")
        self._index["complete"] = True
        layout.write_index(self.path, self._index)
        if self.path != self._final:
            self._take_the_place()
        if self.clipped:
            wider = '"float32"' if self._index["cls"] else '"int8" or "float32"'
            warnings.warn(
                f"{self.clipped} values beyond ±65504 were clipped to fit float16 in {self.path}: "
                f"use dtype={wider} to keep them",
                stacklevel=2,
            )

    def _take_the_place(self) -> None:
        """Put the new store where the old one stands; other files in that folder stay."""
        old = self.path.with_suffix(".old")
        self._final.rename(old)
        self.path.rename(self._final)
        self.path = self._final
        layout.remove_store(old)
        if old.is_dir():
            for file in old.iterdir():
                file.rename(self.path / file.name)
            old.rmdir()

    def __enter__(self) -> TokenStoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                self.close()
            except OnevecError:
                self._discard()
                raise
        elif issubclass(kind, OnevecError):
            self._discard()

    def _discard(self) -> None:
        # A resumed store is not this run's to delete.
        if not self.resumed and layout.is_store(self.path):
            layout.remove_store(self.path)
