"""Search from vectors, files or raw sequences, and the files of the commands."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from onevec.errors import InputError
from onevec.estimator import OneVec, load
from onevec.tokens.layout import is_store
from onevec.tokens.store import TokenStore
from onevec.use.calibration import FEWEST, Calibration
from onevec.use.folder import is_index
from onevec.use.formats import Vectors, check_table, read_lines, read_vectors, save_table
from onevec.use.found import Found
from onevec.use.index import Index
from onevec.use.similarity import duplicate_threshold, near_duplicates, nearest, pairwise
from onevec.use.vectors import model_fingerprint, vectors_of

__all__ = ["Found", "Index", "embed", "search"]


def search(
    index: Index | str | Path,
    queries: Any,
    k: int = 10,
    where: Any = None,
    *,
    model: OneVec | str | Path | None = None,
    encoder: Any = None,
    **encoding: Any,
) -> Found:
    """Find the nearest vectors of an index; raw sequences go through encoder and model first.

    Parameters
    ----------
    index : Index or path
        A saved one is opened.
    queries : vectors, or with ``model`` sequences
        Without a model as `Index.search` takes them. With one: anything that `onevec.encode`
        takes, such as a list of texts or the path of a FASTA file, or the path of a token store.
    k, where
        As of `Index.search`.
    model : OneVec or path, optional
        The model whose vectors the index holds.
    encoder : optional
        The encoder that the model was fitted to, as `onevec.encode` takes it.
    **encoding
        Further arguments of `onevec.encode`, in place of those that the fitted store was made
        with, which the model knows: ``column``, ``max_length``, ``long`` ...

    Raises
    ------
    StoreError
        If the model is not the one that made the index, or the encoder not the model's.
    """
    index = Index.open(index) if isinstance(index, str | Path) else index
    if model is None:
        if encoder is not None or encoding:
            raise InputError("got an encoder without a model: raw sequences need both")
        return index.search(queries, k, where)
    fitted = load(model) if isinstance(model, str | Path) else model
    nothing = np.zeros((1, fitted.vector_.dim_out), np.float32)
    # What is wrong with model, k or filter shows before the sequences are encoded.
    index.search(Vectors.of(nothing, made_by=model_fingerprint(fitted)), k, where)
    return index.search(embed(queries, fitted, encoder, **encoding), k, where)


def embed(sequences: Any, model: OneVec, encoder: Any = None, **encoding: Any) -> Vectors:
    """Turn raw sequences, or the path of a token store, into vectors with ids and metadata."""
    if isinstance(sequences, str | Path) and is_store(Path(sequences)):
        if encoder is not None or encoding:
            given = ", ".join(["encoder"] * (encoder is not None) + [*encoding])
            raise InputError(f"got {given} for the token store {sequences}: it is encoded already")
        return vectors_of(model, TokenStore(sequences))
    with encoded(sequences, model, encoder, **encoding) as store:
        return vectors_of(model, store)


@contextmanager
def encoded(
    sequences: Any, model: OneVec, encoder: Any = None, **encoding: Any
) -> Iterator[TokenStore]:
    """Encode sequences for a model, at its layers, into a store that goes afterwards."""
    taken = {"out", "resume", "overwrite"} & set(encoding)
    if taken:
        raise InputError(f"got {sorted(taken)[0]}=...: what is encoded here is not kept")
    # A store, not memory: it knows its encoder, which the model checks.
    with tempfile.TemporaryDirectory(prefix="onevec-") as room:
        opened = model.open(sequences, encoder, **encoding)
        store = opened.write(Path(room) / "store")
        opened.tell()
        yield store


def hits(index: Index, found: Found) -> pa.Table:
    """Return one row per hit, with how many hits as good chance would give each query.

    The vectors of the index are the reference (`Calibration`); the column ``chance`` is missing
    where they are fewer than `FEWEST`.
    """
    if len(index) < FEWEST:
        return found.table()
    calibration = Calibration.fit(index)
    return found.table(chance=calibration.expected(found.scores, len(index)))


# --- what the commands do -----------------------------------------------------------------------


def collection(path: str | Path, metric: str | None) -> tuple[Vectors | Index, str]:
    """Read a file of vectors, or open the folder of an index; and the metric that counts.

    Raises
    ------
    InputError
        If another metric is asked of an index than its own.
    """
    if not is_index(Path(path)):
        return read_vectors(path), metric or "cosine"
    index = Index.open(path)
    if metric not in (None, index.metric):
        raise InputError(
            f"got --metric {metric} for {path}, an index by {index.metric}: leave it out, or pass "
            "the vectors"
        )
    return index, index.metric


def build_index(
    vectors: Path, out: Path, settings: Mapping[str, Any], options: str, overwrite: bool
) -> Index:
    """Index a file of vectors and save it."""
    chosen = {name: value for name, value in settings.items() if value is not None}
    index = Index.build(read_vectors(vectors), options=_options(options), **chosen)
    index.save(out, overwrite=overwrite)
    return index


def change_index(
    path: Path, vectors: Path | None, delete: Path | None, replace: bool
) -> tuple[Index, dict[str, int]]:
    """Delete the ids of a text file and add a file of vectors, in one commit; what changed."""
    index = Index.open(path)
    ids = [] if delete is None else read_lines(delete, "ids")
    if vectors is None:
        return index, {"deleted": index.delete(ids), "added": 0, "replaced": 0}
    data = read_vectors(vectors)
    replaced = index.add(data, replace=replace, delete=ids)
    return index, {"deleted": len({*ids}), "added": len(data) - replaced, "replaced": replaced}


def similar(path: Path, one: str, other: str | None, k: int, metric: str | None) -> dict[str, Any]:
    """Compare two vectors by id, or one with its nearest; scores and how unusual they are.

    The latter needs `FEWEST` vectors.
    """
    data, metric = collection(path, metric)
    ids = data.ids
    row = data.vectors[_place(ids, one, path)][None]
    if other is not None:
        score = pairwise(row, data.vectors[_place(ids, other, path)][None], metric=metric)
        pairs = [(other, float(score[0, 0]))]
    elif isinstance(data, Index):
        found = data.search(row, k + 1)
        pairs = list(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True))
    else:
        rows, scores = nearest(data.vectors, row, k + 1, metric=metric)
        pairs = [(ids[r], float(s)) for r, s in zip(rows[0], scores[0], strict=True)]
    if other is None:
        pairs = [pair for pair in pairs if pair[0] != one][:k]
    compared: list[dict[str, Any]] = [{"id": name, "score": score} for name, score in pairs]
    if len(data) < FEWEST:
        return {
            "id": one,
            "compared": compared,
            "sentences": [f"{name}: {score:.3f}" for name, score in pairs],
        }
    calibration = Calibration.fit(data, metric=metric)
    for entry in compared:
        entry["chance_of_a_pair"] = float(calibration.chance(entry["score"]))
        entry["chance"] = float(calibration.expected(entry["score"], len(data)))
    sentences = [f"{name}: {calibration.sentence(score, len(data))}" for name, score in pairs]
    return {"id": one, "compared": compared, "sentences": sentences}


def _place(ids: list[str], name: str, path: Path) -> int:
    count = ids.count(name)
    if count == 1:
        return ids.index(name)
    if count:
        raise InputError(f"{path} has the id {name!r} {count} times: name every vector differently")
    raise InputError(f"{path} has no id {name!r}: choose one of its {len(ids):,} ids")


def duplicates(
    path: Path, out: Path, threshold: float | None, chance: float | None, metric: str | None, *,
    seed: int = 0, overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Group near-duplicates into a table of id, group (the id to keep) and its size.

    Of an index the pairs are those that it finds (`near_duplicates`).
    """
    check_table(out, overwrite)
    data, metric = collection(path, metric)
    if not len(data):
        raise InputError(f"{path} holds no vectors: add some first")
    if len(set(data.ids)) < len(data):
        twice = next(name for name, count in Counter(data.ids).items() if count > 1)
        raise InputError(
            f"{path} has the id {twice!r} more than once: name every vector differently, so that "
            "a group tells which to keep"
        )
    if threshold is None:
        threshold = duplicate_threshold(data.vectors, chance, metric=metric, random_state=seed)
        chance = None
    groups = near_duplicates(data, threshold, chance=chance, metric=metric)
    sizes = np.bincount(groups, minlength=len(groups))
    names = np.array(data.ids, object)
    columns = {"id": names, "group": names[groups], "size": sizes[groups]}
    save_table(pa.table(columns), out, overwrite)
    return {
        "out": str(out),
        "threshold": threshold,
        "vectors": len(data),
        "kept": int((sizes > 0).sum()),
        "groups": int((sizes > 1).sum()),
        "in_groups": int(sizes[sizes > 1].sum()),
        "largest": int(sizes.max()),
    }


def _options(text: str) -> dict[str, int]:
    """Read ``ef_search=128,links=16``."""
    options = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if not value.strip().isdecimal():
            raise InputError(f"got the option {part!r}: write NAME=NUMBER, such as ef_search=128")
        options[name.strip()] = int(value)
    return options
