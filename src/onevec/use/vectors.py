"""From a model and a store to vectors with their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from onevec.estimator import OneVec, load
from onevec.tokens.layout import RESERVED
from onevec.tokens.store import TokenStore
from onevec.use.formats import TAKEN, Pieces, Vectors, as_column, save_vectors

METHODS = ("mean", "mean_pca", "mean_whitened", "onevec")


def model_fingerprint(model: OneVec | str | Path) -> str:
    """Return what tells a fitted model from any other: SHA-256 of all that makes its vectors.

    Encoder, poolers and parts count; the verdict, the baselines and the times of a training do
    not. ``model`` may be the folder that `OneVec.save` wrote.
    """
    fitted = load(model) if isinstance(model, str | Path) else model
    config, arrays = fitted._state()
    kept = {name: config[name] for name in ("token_dim", "fingerprint", "poolers", "vector")}
    for part in kept["vector"]["parts"]:
        del part["part"]["about"]  # words
    text = json.dumps(kept, sort_keys=True, default=lambda number: number.item())
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        if not name.startswith("baselines/"):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def vectors_of(model: OneVec, tokens: TokenStore) -> Vectors:
    """Transform a store; ids and metadata columns come with the vectors.

    A metadata column ``vector`` is called ``metadata_vector`` there.
    """
    made_by = model_fingerprint(model)
    return Vectors.of(model.transform(tokens), tokens.ids, _metadata_of(tokens), made_by=made_by)


def write_vectors(
    model: OneVec, store: TokenStore | str | Path, out: str | Path, overwrite: bool = False
) -> list[int]:
    """Transform a store into a file of `FORMATS`, some thousand sequences at a time.

    Returns
    -------
    list of int
        The shape of the vectors.
    """
    tokens = store if isinstance(store, TokenStore) else TokenStore(store)
    ids, columns = pa.array(tokens.ids, pa.large_string()), _metadata_of(tokens)
    kinds = {"id": ids.type, "vector": pa.list_(pa.float32(), model.vector_.dim_out)}
    schema = pa.schema({**kinds, **{name: column.type for name, column in columns.items()}})

    def tables() -> Iterator[pa.Table]:
        for rows, vectors in model.transform_pieces(tokens):
            first, count = int(rows[0]), len(rows)
            rest = [column.slice(first, count) for column in columns.values()]
            arrays = [ids.slice(first, count), as_column(vectors), *rest]
            yield pa.Table.from_arrays(arrays, schema=schema)

    pieces = Pieces(schema, len(tokens), tables(), model_fingerprint(model))
    save_vectors(pieces, out, overwrite)
    return [pieces.rows, pieces.dim]


def column_name(name: str) -> str:
    """Return how a metadata column of a store is called in a file of vectors."""
    return f"metadata_{name}" if name in TAKEN else name


def _metadata_of(tokens: TokenStore) -> dict[str, pa.Array]:
    names = [name for name in tokens.columns if name not in RESERVED]
    return {column_name(name): tokens.column(name) for name in names}


def every_method(model: OneVec, store: TokenStore) -> dict[str, np.ndarray]:
    """Return the vectors of the mean's variants and of the model, by method."""
    return model.transform_baselines(store) | {"onevec": model.transform(store)}
