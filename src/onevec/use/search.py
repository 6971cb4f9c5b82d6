"""Search from vectors, files or raw sequences, and the files of the commands."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from onevec.errors import InputError
from onevec.estimator import OneVec, load
from onevec.tokens.encode import encode
from onevec.tokens.layout import is_store
from onevec.tokens.store import TokenStore
from onevec.use.calibration import FEWEST, Calibration
from onevec.use.folder import is_index
from onevec.use.formats import Vectors, check_table, read_vectors, save_table
from onevec.use.found import Found
from onevec.use.index import Index
from onevec.use.similarity import duplicate_threshold, near_duplicates, nearest, pairwise
from onevec.use.vectors import model_fingerprint, vectors_of

__all__ = ["Found", "Index", "embed", "search"]


def search(
    index: Index | str | Path,
    queries: Any,
    k: int = 10,
    where: str | pc.Expression | None = None,
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
        Further arguments of `onevec.encode`, as the fitted store was made: ``column``,
        ``max_length``, ``long``, ``special_tokens`` ... The layer is known from the model.

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
    nothing = np.zeros((1, fitted.reduction_.dim_out), np.float32)
    # What is wrong with model, k or filter shows before the sequences are encoded.
    index.search(Vectors.of(nothing, made_by=model_fingerprint(fitted)), k, where)
    return index.search(embed(queries, fitted, encoder, **encoding), k, where)


def embed(sequences: Any, model: OneVec, encoder: Any = None, **encoding: Any) -> Vectors:
    """Turn raw sequences, or the path of a token store, into vectors with ids and metadata."""
    if isinstance(sequences, str | Path) and is_store(Path(sequences)):
        return vectors_of(model, TokenStore(sequences))
    # Fingerprints end as in "...@layer4", or "...@layer4 with 1,2" where layers are mixed.
    found = re.search(r"@layer(\d+)(?: with ([\d,]+))?$", model.fingerprint_ or "")
    layer = int(found[1]) if found else None
    if found and "layer" not in encoding:
        others = [int(number) for number in (found[2] or "").split(",") if number]
        encoding["layer"] = sorted([*others, int(found[1])])
    # A store, not memory: it knows its encoder, which the model checks.
    with tempfile.TemporaryDirectory() as room:
        encode(sequences, encoder, out=Path(room) / "queries", **encoding)
        return vectors_of(model, TokenStore(Path(room) / "queries", layer))


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


def collection(path: str | Path) -> Vectors:
    """Read a file of vectors, or the folder of an index."""
    if not is_index(Path(path)):
        return read_vectors(path)
    index = Index.open(path)
    return Vectors(index.vectors, index.ids, index.metadata, index.made_by)


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
    """Delete the ids of a text file, add a file of vectors, save; the index and what changed."""
    index = Index.open(path)
    changed = {"deleted": 0, "added": 0, "replaced": 0}
    if delete is not None:
        changed["deleted"] = index.delete(_lines(delete))
    if vectors is not None:
        data = read_vectors(vectors)
        changed["replaced"] = index.add(data, replace=replace)
        changed["added"] = len(data) - changed["replaced"]
    index.save(path, overwrite=True)
    return index, changed


def similar(path: Path, one: str, other: str | None, k: int, metric: str) -> dict[str, Any]:
    """Compare two vectors by id, or one with its nearest; scores and how unusual they are."""
    data = collection(path)
    places = {name: row for row, name in enumerate(data.ids)}
    for name in (one, other):
        if name is not None and name not in places:
            raise InputError(f"{path} has no id {name!r}: choose one of its {len(data):,} ids")
    row = data.vectors[places[one]][None]
    if other is None:
        rows, scores = nearest(data.vectors, row, k + 1, metric=metric)
        pairs = [(r, s) for r, s in zip(rows[0], scores[0], strict=True) if r != places[one]][:k]
    else:
        score = pairwise(row, data.vectors[places[other]][None], metric=metric)
        pairs = [(places[other], score[0, 0])]
    calibration = Calibration.fit(data.vectors, metric=metric)
    compared = [
        {
            "id": data.ids[r],
            "score": float(s),
            "chance_of_a_pair": float(calibration.chance(s)),
            "chance": float(calibration.expected(s, len(data))),
        }
        for r, s in pairs
    ]
    sentences = [f"{data.ids[r]}: {calibration.sentence(float(s), len(data))}" for r, s in pairs]
    return {"id": one, "compared": compared, "sentences": sentences}


def duplicates(
    path: Path, out: Path, threshold: float | None, chance: float | None, metric: str, *,
    seed: int = 0, overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Group near-duplicates into a table of id, group (the id to keep) and its size."""
    check_table(out, overwrite)
    data = collection(path)
    if threshold is None:
        threshold = duplicate_threshold(data, chance, metric=metric, random_state=seed)
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
        if not value.strip().isdigit():
            raise InputError(f"got the option {part!r}: write NAME=NUMBER, such as ef_search=128")
        options[name.strip()] = int(value)
    return options


def _lines(path: Path) -> list[str]:
    """Read ids, one per line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(
            f"cannot read the ids in {path} ({reason}): pass a text file with one per line"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path} holds no ids: write one per line")
    return names
