"""A folder of token vectors: Arrow shards, memory-mapped, with checksums."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError, StoreError
from onevec.ragged import Ragged, _as_rows
from onevec.tokens import layout
from onevec.tokens.writer import TokenStoreWriter

__all__ = ["TokenStore", "TokenStoreWriter"]

_OPEN_SHARDS = 8  # maps held at a time: bounds address space and open files


def made_from(fingerprint: str | None) -> tuple[str | None, list[int]]:
    """Return the encoder of a `TokenStore.fingerprint` and its layers, the one that is read first.

    There are none where the fingerprint is that of an encoder alone. Of several encoders, one
    for each layer of a mapping, the first is meant.
    """
    encoder, _, layers = (fingerprint or "").partition("; ")[0].partition("@layer")
    first, _, others = layers.partition(" with ")
    numbers = [int(number) for number in [first, *others.split(",")] if number]
    return encoder or None, numbers


class _Shard:
    """One memory-mapped shard; arrays are views of the map."""

    def __init__(self, path: Path, entry: dict[str, Any], index: dict[str, Any], layer: int):
        column = layout.values_column(index["layers"], layer)
        self.cls: np.ndarray | None = None
        with layout.arrow_errors(path):
            self.batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            lists = self.batch.column(column)
            self.offsets = lists.offsets.to_numpy().copy()
            flat = lists.values.values.to_numpy()
            self.values = flat.reshape(-1, index["dim"])
            if len(self.offsets) - 1 != entry["rows"] or len(self.values) != entry["tokens"]:
                raise ValueError("it does not hold what the index says")
            if index.get("cls"):
                front = self.batch.column(layout.cls_column(index["layers"], layer))
                self.cls = front.values.to_numpy().reshape(entry["rows"], index["dim"])
        self.scale = None
        if index["dtype"] == "int8":
            self.scale = np.asarray(entry["scale"][column], dtype=np.float32)

    def read(self, first: int, last: int, into: np.ndarray) -> None:
        """Copy the token vectors ``first`` to ``last`` (exclusive) out of the map."""
        if self.scale is None:
            into[:] = self.values[first:last]
        else:
            np.multiply(self.values[first:last], self.scale, out=into)

    def token_ids(self) -> np.ndarray:
        return self.batch.column("token_id").values.to_numpy()


class TokenStore:
    """Opens a folder that `onevec.encode` or `TokenStoreWriter` wrote.

    Parameters
    ----------
    path : path
        The folder.
    layer : int, optional
        Which stored encoder layer to read; the last of ``layers`` when not given.

    Raises
    ------
    StoreError
        If there is no store, it is half-written, or a shard is missing or truncated.

    Notes
    -----
    Shards are memory-mapped: a read copies the asked rows out of the map and nothing else, and
    what was read is not kept. ``len``, ``shape`` and indexing by slice, array or mask are there so
    that scikit-learn can split a store.
    """

    def __init__(self, path: str | Path, layer: int | None = None):
        self.path = Path(path)
        self.info: dict[str, Any] = layout.read_index(self.path)
        if not self.info["complete"]:
            raise StoreError(
                f"{self.path} is half-written ({self.info['rows']} sequences so far): run the same "
                "encode command again with resume=True (--resume) to finish it"
            )
        for entry in self.info["shards"]:
            file = self.path / entry["file"]
            size = file.stat().st_size if file.is_file() else None
            if size != entry["bytes"]:
                what = "is missing" if size is None else f"has {size} bytes"
                raise StoreError(
                    f"the shard {file} {what} where the index says {entry['bytes']} bytes: "
                    "restore it from a copy, or encode again with overwrite=True (--overwrite)"
                )
        self._layer = self.layers[-1] if layer is None else self._known_layer(layer)
        rows = [entry["rows"] for entry in self.info["shards"]]
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._maps: OrderedDict[int, _Shard] = OrderedDict()

    def _known_layer(self, layer: int) -> int:
        depth = self.info["encoder"].get("depth")
        if layer not in self.layers and layer < 0 and depth is not None:
            layer += depth + 1
        if layer not in self.layers:
            raise InputError(
                f"layer {layer} is not in the store {self.path}: it has {self.layers}; "
                "encode again with layers=[...]"
            )
        return layer

    def _shard(self, number: int) -> _Shard:
        if number in self._maps:
            self._maps.move_to_end(number)
            return self._maps[number]
        entry = self.info["shards"][number]
        shard = _Shard(self.path / entry["file"], entry, self.info, self._layer)
        self._maps[number] = shard
        if len(self._maps) > _OPEN_SHARDS:
            self._maps.popitem(last=False)
        return shard

    @property
    def dim(self) -> int:
        """Dimensions of a token vector."""
        return self.info["dim"]

    @property
    def layers(self) -> list[int]:
        """The stored hidden states by number, ascending; 0 is the embeddings."""
        return list(self.info["layers"])

    @property
    def bytes(self) -> int:
        """Bytes of the shards on disk."""
        return sum(entry["bytes"] for entry in self.info["shards"])

    @property
    def price(self) -> str:
        """What the store takes on disk, by layer, and what another type would take."""
        layers, dtype = self.layers, self.info["dtype"]
        numbers = ", ".join(str(layer) for layer in layers if layer >= 0)
        text = f"{len(layers)} layers ({numbers})" if len(layers) > 1 else f"layer {numbers}"
        text = f"{text}{' with CLS' if self.has_cls else ''}: " if numbers else ""
        text += f"{layout.bytes_text(self.bytes)} in {dtype}"
        mine = layout.layer_bytes(self.info, dtype)
        if len(layers) > 1:
            text += f", {layout.bytes_text(mine)} a layer"
        for other in ("float16", "int8"):
            if other != dtype:
                least = self.bytes + len(layers) * (layout.layer_bytes(self.info, other) - mine)
                text += f"; {other} would take {layout.bytes_text(least)}"
        return text

    @property
    def has_cls(self) -> bool:
        """Whether the classification token is stored, apart from the others."""
        return bool(self.info.get("cls"))

    @property
    def cls(self) -> Float[np.ndarray, "seqs dim"] | None:
        """The classification token of every sequence at the layer that is read, if stored."""
        return self.cls_rows(np.arange(len(self))).numpy() if self.has_cls else None

    def cls_rows(self, rows: Any) -> Float[Tensor, "rows dim"]:
        """Return the classification token of some rows, given as for ``store[rows]``.

        Raises
        ------
        InputError
            If the store has none.
        """
        if not self.has_cls:
            raise InputError(
                f"the store {self.path} has no classification token: its encoder has none, or it "
                "was written with special_tokens=True (--special-tokens); encode again without"
            )
        rows = _as_rows(rows, len(self)).numpy()
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(shards):
            mine = shards == number
            states = self._shard(int(number)).cls
            assert states is not None
            found[mine] = states[rows[mine] - self._starts[number]]
        return torch.from_numpy(found)

    @property
    def fingerprint(self) -> str | None:
        """What the token vectors come from: encoder and layer; None for bare arrays."""
        fingerprint = self.info["encoder"].get("fingerprint")
        return f"{fingerprint}@layer{self._layer}" if fingerprint else None

    @property
    def shape(self) -> tuple[int]:
        """``(seqs,)``: scikit-learn counts samples by it."""
        return (len(self),)

    @property
    def ndim(self) -> int:
        """Always 1: a store is a row of sequences."""
        return 1

    @property
    def columns(self) -> list[str]:
        """Names of the columns beside the token vectors."""
        return list(self.info["columns"])

    @cached_property
    def lengths(self) -> Int[Tensor, " seqs"]:
        """How many tokens each sequence has; read without touching a token vector."""
        parts = [np.diff(self._shard(n).offsets) for n in range(len(self.info["shards"]))]
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))

    @cached_property
    def ids(self) -> list[str]:
        """Names of the sequences."""
        with layout.arrow_errors(self.path):
            return self.column("id").to_pylist()

    def column(self, name: str) -> pa.Array:
        """Return a column (``id``, ``sequence``, ``token_id`` or metadata) of all rows.

        Raises
        ------
        InputError
            If there is none of this name; the message lists those there are.
        """
        if name not in self.columns:
            raise InputError(
                f"the store {self.path} has no column {name!r}: it has {', '.join(self.columns)}"
            )
        parts = []
        for number, entry in enumerate(self.info["shards"]):
            with layout.arrow_errors(self.path / entry["file"]):
                parts.append(self._shard(number).batch.column(name))
        return pa.concat_arrays(parts)

    @property
    def current_layer(self) -> int:
        """The stored layer that is read."""
        return self._layer

    def layer(self, layer: int) -> TokenStore:
        """Return the same store read at another stored layer."""
        return TokenStore(self.path, layer)

    def stacked(self) -> TokenStore:
        """Return the same store with every stored layer beside the values.

        What is read carries the field ``layers``, (tokens, layers, dim), the layer that the
        values are of last.
        """
        others = [self.layer(layer) for layer in self.layers if layer != self._layer]
        return _Stacked(self.path, self._layer, others)

    def verify(self) -> None:
        """Recompute every checksum.

        Raises
        ------
        StoreError
            Naming the first shard whose content is not what was written.
        """
        for entry in self.info["shards"]:
            file = self.path / entry["file"]
            with layout.arrow_errors(file):
                found = layout.checksum(file)
            if found != entry["sha256"]:
                raise StoreError(
                    f"the shard {file} is damaged (its checksum is not the recorded one): restore "
                    "it from a copy, or encode again with overwrite=True (--overwrite)"
                )

    def __len__(self) -> int:
        return self.info["rows"]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):  # scikit-learn indexes with (rows, ...)
            key = key[0]
        if isinstance(key, int | np.integer):
            row = range(len(self))[int(key)]  # negative and out of range as for a list
            return self._gather(np.array([row])).values
        if isinstance(key, slice):
            return self._gather(np.arange(*key.indices(len(self))))
        return self._gather(_as_rows(key, len(self)).numpy())

    def _gather(self, rows: np.ndarray) -> Ragged:
        """Copy rows out of the maps, one copy per run of neighbours."""
        lengths = self.lengths.numpy()[rows]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        dtype = torch.float16 if self.info["dtype"] == "float16" else torch.float32
        values = torch.empty((total, self.dim), dtype=dtype)
        ids = torch.empty(total, dtype=torch.int64) if "token_id" in self.columns else None
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(shards) != 0)) + 1
        runs = np.split(np.arange(len(rows)), breaks) if len(rows) else []
        for run in sorted(runs, key=lambda run: shards[run[0]]):  # each shard is opened once
            number = int(shards[run[0]])
            shard = self._shard(number)
            first = int(shard.offsets[rows[run[0]] - self._starts[number]])
            last = int(shard.offsets[rows[run[-1]] - self._starts[number] + 1])
            target = slice(int(ends[run[0]] - lengths[run[0]]), int(ends[run[-1]]))
            shard.read(first, last, values.numpy()[target])
            if ids is not None:
                ids.numpy()[target] = shard.token_ids()[first:last]
        fields = {} if ids is None else {"ids": ids}
        return Ragged(values, torch.from_numpy(lengths), fields)

    def __getstate__(self) -> dict[str, Any]:
        # Maps do not travel to another process; they are opened again there.
        return {"path": self.path, "layer": self._layer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["layer"])

    def __repr__(self) -> str:
        name = self.info["encoder"].get("name") or "arrays"
        return (
            f"TokenStore({str(self.path)!r}: {len(self)} sequences, {self.info['tokens']} tokens, "
            f"dim {self.dim}, {self.price}; from {name}, layer {self._layer})"
        )


class _Stacked(TokenStore):
    """A store whose reads carry the other layers too; see `TokenStore.stacked`."""

    def __init__(self, path: Path, layer: int, others: list[TokenStore]):
        super().__init__(path, layer)
        self._others = others

    @property
    def fingerprint(self) -> str | None:
        """Encoder and all layers."""
        one, layers = super().fingerprint, [each.current_layer for each in self._others]
        return one and f"{one} with {','.join(map(str, layers))}"

    def _gather(self, rows: np.ndarray) -> Ragged:
        found = super()._gather(rows)
        layers = [*(other._gather(rows).values for other in self._others), found.values]
        return Ragged(
            found.values, found.lengths, {**found.fields, "layers": torch.stack(layers, dim=1)}
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "others": self._others}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["layer"], state["others"])
