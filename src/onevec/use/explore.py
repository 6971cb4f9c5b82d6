"""A table of points to look at: two coordinates, neighbours and metadata of every vector."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from onevec.errors import InputError
from onevec.files import appears_whole, check_target
from onevec.tokens.store import TokenStore
from onevec.use.rows import BLOCK, Source, read

PLACED = 2_000  # rows that t-SNE places itself; it takes seconds
_AXES = 50  # leading principal axes that t-SNE sees
_GUIDES = 5  # placed neighbours that tell where another row goes
_OURS = ("id", "x", "y", "neighbors")  # columns


def place(
    vectors: Any, *, random_state: int = 0, most: int = PLACED
) -> tuple[Float[np.ndarray, "rows 2"], str]:
    """Put vectors on a plane so that like ones lie together.

    t-SNE (van der Maaten and Hinton 2008) of at most ``most`` seeded rows, scaled to length 1, on
    their 50 leading principal axes. Each other row goes to the mean place of the five of these
    that it is most similar to, weighted by their similarity. Distances between groups, and
    their sizes, mean little in such a picture.

    Parameters
    ----------
    vectors : array or path
        Shape (rows, dim).

    Returns
    -------
    places : ndarray, shape (rows, 2)
    method : str
        How, in words.
    """
    source = Source.of(vectors)
    rng = np.random.default_rng(random_state)
    rows = np.sort(rng.permutation(len(source))[:most])
    X = source.take(rows)
    X = X - X.mean(0)
    _, _, axes = np.linalg.svd(X.astype(np.float64), full_matrices=False)
    X = (X @ axes[:_AXES].T).astype(np.float32)
    if len(X) < 5 or np.abs(X).max() < 1e-4:
        flat = np.zeros((len(X), 2), np.float32)
        flat[:, : min(2, X.shape[1])] = X[:, :2]
        method, found = "PCA", flat
    else:
        method, found = "t-SNE", _tsne(X, random_state)
    if len(rows) == len(source):
        return found, method
    near, likeness = neighbours(source, source.take(rows), _GUIDES)
    share = np.maximum(likeness - likeness[:, -1:], 0) + 1e-3
    places = np.einsum("nk,nkd->nd", share / share.sum(1, keepdims=True), found[near])
    places[rows] = found
    return places.astype(np.float32), f"{method} of {len(rows):,} rows, others by their neighbours"


def _tsne(X: Float[np.ndarray, "rows axes"], random_state: int) -> Float[np.ndarray, "rows 2"]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(X) - 1) / 3)
    start = np.zeros((len(X), 2), np.float32)  # as "pca" would, without dividing by zero
    start[:, : min(2, X.shape[1])] = X[:, :2]
    start *= 1e-4 / max(float(start[:, 0].std()), 1e-12)
    init: Any = start  # type checkers infer text from the default
    model = TSNE(perplexity=perplexity, init=init, random_state=random_state, n_jobs=1)
    with threadpool_limits(1):  # sums in one order: deterministic
        return model.fit_transform(X).astype(np.float32)


def neighbours(
    source: Source, among: Float[np.ndarray, "others dim"], count: int
) -> tuple[Int[np.ndarray, "rows count"], Float[np.ndarray, "rows count"]]:
    """Exact nearest rows of ``among`` for each row, and their cosines, the most similar first."""
    others = torch.from_numpy(among).T
    found = [
        (torch.from_numpy(piece) @ others).topk(min(count, len(among)), dim=1)
        for piece in source.pieces(max(1, min(8_192, BLOCK // len(among))))
    ]
    near, likeness = (torch.cat([f[k] for f in found]).numpy() for k in (1, 0))
    return near, likeness


def explore(
    vectors: str | Path,
    out: str | Path,
    *,
    store: str | Path | None = None,
    count: int = 15,
    random_state: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a Parquet file of points that embedding-atlas opens as it is.

    Parameters
    ----------
    vectors : path
        A file of vectors.
    out : path
        ``.parquet`` with ``x``, ``y``, ``neighbors`` (``ids``: row numbers from 0 of this file,
        ``distances``: one less the cosine), ``id``, and the store's columns.
    store : path, optional
        Token store with the same sequences: its metadata and text come along. Rows are matched by
        id; without ids they must be as many, in the same order.
    count : int
        Neighbours of each row; 0 leaves them out. They are exact: time grows with the square of
        the rows.

    Returns
    -------
    dict
        ``out``, ``rows``, ``method`` (how the points were placed), ``command`` (opens the file).
    """
    out = Path(out)
    if out.suffix != ".parquet":
        raise InputError(f"got --out {out}: it must end in .parquet")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError(f"got {count!r} neighbours: a whole number of at least 0")
    check_target(out, overwrite, what="file")
    table, ids = read(vectors)
    source = Source.of(table)
    further: dict[str, Any] = {} if store is None else _columns(TokenStore(store), ids, len(source))
    places, method = place(table, random_state=random_state)
    columns: dict[str, Any] = {"id": ids or [str(row) for row in range(len(source))]}
    columns |= {"x": places[:, 0], "y": places[:, 1]}
    words = ["embedding-atlas", str(out), "--x", "x", "--y", "y"]
    if count and len(source) > 1:
        columns["neighbors"] = _neighbours_column(source, count)
        words += ["--neighbors", "neighbors"]
    if "sequence" in further:
        words += ["--text", "sequence"]
    _write(columns | further, out)
    return {
        "out": str(out),
        "rows": len(source),
        "method": method,
        "command": " ".join(shlex.quote(word) for word in words),
    }


def _neighbours_column(source: Source, count: int) -> Any:
    """``{ids, distances}`` of each row's neighbours, without itself."""
    import pyarrow as pa

    rows = np.arange(len(source))
    near, likeness = neighbours(source, source.take(rows), min(count, len(source) - 1) + 1)
    # A row with many exact duplicates may not find itself: then the last one goes.
    itself = near == rows[:, None]
    itself[~itself.any(1), -1] = True
    width = near.shape[1] - 1
    ends = np.arange(0, len(rows) * width + 1, width, dtype=np.int32)
    ids = pa.ListArray.from_arrays(pa.array(ends), pa.array(near[~itself].astype(np.int64)))
    away = np.clip(1 - likeness[~itself], 0, 2).astype(np.float32)
    return pa.StructArray.from_arrays(
        [ids, pa.ListArray.from_arrays(pa.array(ends), pa.array(away))], ["ids", "distances"]
    )


def _columns(store: TokenStore, ids: list[str] | None, rows: int) -> dict[str, Any]:
    """Text and metadata of the store, in the order of the vectors; token ids stay behind."""
    place = np.arange(rows)
    if ids is None and len(store) != rows:
        raise InputError(
            f"{store.path} has {len(store)} sequences for {rows} vectors: pass the store that "
            "they were made from, or vectors with ids (.parquet)"
        )
    if ids is not None and ids != store.ids:
        known = {name: row for row, name in enumerate(store.ids)}
        missing = [name for name in ids if name not in known]
        if missing:
            raise InputError(
                f"{store.path} has no sequence {missing[0]!r} ({len(missing)} of {rows} are "
                "missing): pass the store that the vectors were made from"
            )
        if len(known) < len(store):
            raise InputError(
                f"{store.path} has ids that several sequences share, and other rows than the "
                "vectors: pass the store that they were made from, in its order"
            )
        place = np.array([known[name] for name in ids])
    names = [name for name in store.columns if name not in ("id", "token_id")]
    # A column of the store that has the name of one of ours gets another.
    return {f"{n}_" if n in _OURS else n: store.column(n).take(place) for n in names}


def _write(columns: Mapping[str, Any], out: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with appears_whole(out) as part:
        parquet.write_table(pa.table(dict(columns)), part)
