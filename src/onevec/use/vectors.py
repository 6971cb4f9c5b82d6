"""From a model and a store to a file of vectors, and to labelled scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onevec.errors import InputError
from onevec.estimator import OneVec, load
from onevec.judge.probes import evaluate
from onevec.tokens.store import TokenStore

BASELINES = ("mean", "mean_pca", "mean_whitened")
_FORMATS = (".npy", ".parquet")


def check_target(out: Path, overwrite: bool) -> None:
    """Raise `InputError` for a file that exists or has no known ending, before any work."""
    if out.suffix not in _FORMATS:
        raise InputError(f"got --out {out}: it must end in {' or '.join(_FORMATS)}")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: choose another file or pass --overwrite")


def write_vectors(model: OneVec, store: Path, out: Path) -> tuple[int, int]:
    """Transform a store into ``.npy`` or, with ids, ``.parquet``; whole or not at all."""
    tokens = TokenStore(store)
    vectors = model.transform(tokens)
    part = out.with_name(out.name + ".part")
    if out.suffix == ".npy":
        with part.open("wb") as handle:
            np.save(handle, vectors, allow_pickle=False)
    else:
        import pyarrow as pa
        from pyarrow import parquet

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        parquet.write_table(pa.table({"id": tokens.ids, "vector": column}), part)
    part.replace(out)
    return vectors.shape


def evaluate_stores(
    model: Path, store: Path, labels: str, *, test: Path | None = None, random_state: int = 0
) -> dict[str, dict[str, Any]]:
    """Score a model and the mean's variants with the labels in a store's metadata column.

    Without ``test`` a seeded half of the store is the probes' memory, the other is scored.
    """
    fitted = load(model)
    memory = TokenStore(store)
    known = _labels(memory, labels)
    methods: dict[str, Any] = {name: fitted.transform_baseline(memory, name) for name in BASELINES}
    methods["onevec"] = fitted.transform(memory)
    if test is not None:
        other = TokenStore(test)
        scored = {name: fitted.transform_baseline(other, name) for name in BASELINES}
        scored["onevec"] = fitted.transform(other)
        pairs = {name: (vectors, scored[name]) for name, vectors in methods.items()}
        return evaluate(pairs, known, _labels(other, labels), random_state=random_state)
    order = np.random.default_rng(random_state).permutation(len(known))
    left, right = order[: len(order) // 2], order[len(order) // 2 :]
    pairs = {name: (vectors[left], vectors[right]) for name, vectors in methods.items()}
    return evaluate(pairs, known[left], known[right], random_state=random_state)


def _labels(store: TokenStore, column: str) -> np.ndarray:
    return np.asarray(store.column(column).to_pylist())
