"""From a model and a store to a file of vectors, and to labelled scores."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from onevec.errors import InputError
from onevec.estimator import OneVec, load
from onevec.files import appears_whole, check_target
from onevec.judge.probes import evaluate
from onevec.tokens.store import TokenStore

METHODS = ("mean", "mean_pca", "mean_whitened", "onevec")
_FORMATS = (".npy", ".parquet")


def check_file(out: Path, overwrite: bool) -> Path:
    """Raise `InputError` for a file that exists or has no known ending, before any work."""
    if out.suffix not in _FORMATS:
        raise InputError(f"got --out {out}: it must end in {' or '.join(_FORMATS)}")
    return check_target(out, overwrite, what="file")


def write_vectors(model: OneVec, store: Path, out: Path) -> tuple[int, int]:
    """Transform a store into ``.npy`` or, with ids, ``.parquet``; whole or not at all."""
    tokens = TokenStore(store)
    vectors = model.transform(tokens)
    with appears_whole(out) as part:
        if out.suffix == ".npy":
            np.save(part, vectors, allow_pickle=False)
        else:
            import pyarrow as pa
            from pyarrow import parquet

            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            parquet.write_table(pa.table({"id": tokens.ids, "vector": column}), part)
    return vectors.shape


def every_method(model: OneVec, store: TokenStore) -> dict[str, np.ndarray]:
    """Return the vectors of the mean's variants and of the model, by method."""
    return model.transform_baselines(store) | {"onevec": model.transform(store)}


def evaluate_stores(
    model: Path, store: Path, labels: str, *, test: Path | None = None, random_state: int = 0
) -> dict[str, dict[str, Any]]:
    """Score a model and the mean's variants with the labels in a store's metadata column.

    Without ``test`` a seeded half of the store is the probes' memory, the other is scored.
    """
    fitted = load(model)
    known, methods = _labelled(fitted, TokenStore(store), labels)
    if test is not None:
        scored_labels, scored = _labelled(fitted, TokenStore(test), labels)
        pairs = {name: (vectors, scored[name]) for name, vectors in methods.items()}
        return evaluate(pairs, known, scored_labels, random_state=random_state)
    order = np.random.default_rng(random_state).permutation(len(known))
    left, right = order[: len(order) // 2], order[len(order) // 2 :]
    pairs = {name: (vectors[left], vectors[right]) for name, vectors in methods.items()}
    return evaluate(pairs, known[left], known[right], random_state=random_state)


def _labelled(
    fitted: OneVec, store: TokenStore, column: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the labels and the vectors of every method, of the rows that have a label."""
    values = store.column(column).to_pylist()
    if any(isinstance(value, list | dict) for value in values):
        raise InputError(f"column {column!r} holds lists: choose a column with one label per row")
    has = np.array([value not in (None, "") and str(value) != "nan" for value in values])
    if not has.any():
        raise InputError(f"column {column!r} of {store.path} holds no label: choose another column")
    if not has.all():
        warnings.warn(
            f"{(~has).sum()} of {len(has)} rows of {store.path} have no label in {column!r}: "
            "they are left out",
            stacklevel=2,
        )
    labels = np.array([str(value) for value, there in zip(values, has, strict=True) if there])
    return labels, {name: rows[has] for name, rows in every_method(fitted, store).items()}
