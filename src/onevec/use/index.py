"""An index: vectors, their ids and metadata, searched exactly or through FAISS."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from onevec.errors import InputError, StoreError
from onevec.use import folder
from onevec.use.exact import check_metric, exact_top, rescored
from onevec.use.filters import matching
from onevec.use.formats import Vectors, array_of, checked, named, reason
from onevec.use.found import Found
from onevec.use.stored import Stored
from onevec.use.structures import Structure, make_structure

FEW = 1_000  # vectors up to which every kind is searched exactly
SMALL = 10_000, 0.02  # rows, or share of all, up to which a filtered part is searched exactly
GROWTH = 4  # a structure is made anew when the index is so many times what it was made of
DEAD = 0.25  # share of deleted rows from which they are cleared away
RECALL_AT, RECALL_QUERIES = 10, 256
_PIECES = 64


class Index:
    """Vectors to search in. Make one with `Index.build`, open a saved one with `Index.open`.

    Every kind scores what it found again with the vectors that the index keeps: scores and the
    order of ties do not depend on the kind, only what is found does. Up to `FEW` vectors every
    kind searches exactly.
    """

    def __init__(
        self,
        stored: Stored,
        names: pa.Table,
        *,
        kind: str = "exact",
        metric: str = "cosine",
        made_by: str | None = None,
        options: Mapping[str, int] | None = None,
    ):
        self.kind, self.metric, self.made_by = kind, check_metric(metric), made_by
        self.options = dict(options or {})
        structure = make_structure(kind, self.options)
        if structure is not None:
            structure.check(stored.dim)
        self._stored, self._names = stored, names
        self._alive = np.ones(len(stored), bool)
        self._structure: Structure | None = None
        self._fitted = 0
        self._places: dict[str, int] | None = None
        self._recall: float | None = None
        self._next_number = 0  # name of the next vector that has none

    @classmethod
    def build(
        cls,
        vectors: Any,
        ids: Sequence[Any] | None = None,
        metadata: Any = None,
        *,
        kind: str = "exact",
        metric: str = "cosine",
        dtype: str = "float32",
        made_by: str | None = None,
        options: Mapping[str, int] | None = None,
    ) -> Index:
        """Index vectors.

        Parameters
        ----------
        vectors : array of shape (rows, dim), Vectors, or path of a file of `FORMATS`
            All finite.
        ids : sequence, optional
            Names of the rows, each once; numbers that no other row had by default.
        metadata : mapping of names to columns, or pyarrow.Table, optional
            What a filter may ask, and what comes back with a hit.
        kind : {"exact", "flat", "hnsw", "ivf_pq", "binary"}
            All but "exact" need the extra ``search``.
        metric : {"cosine", "dot", "euclidean"}
            What is near.
        dtype : {"float32", "float16", "int8"}
            How the vectors are kept; searches see them as they are kept.
        made_by : str, optional
            `model_fingerprint` of the model: vectors of another are refused.
        options : mapping, optional
            Of the kind, such as ``{"ef_search": 128}``: see `onevec.use.structures`.
        """
        data = Vectors.of(vectors, ids, metadata, made_by=made_by)
        stored = Stored.empty(data.vectors.shape[1], dtype)
        empty = named(data).slice(0, 0)
        index = cls(stored, empty, kind=kind, metric=metric, made_by=data.made_by, options=options)
        index.add(data)
        return index

    def __len__(self) -> int:
        return int(self._alive.sum())

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._stored.dim

    @property
    def ids(self) -> list[str]:
        """Names of the vectors, in the order of the index."""
        return self._living("id").to_pylist()

    @property
    def metadata(self) -> pa.Table:
        """Metadata of the vectors, in the order of the index."""
        return self._names.drop_columns(["id"]).filter(pa.array(self._alive))

    @property
    def vectors(self) -> Float[np.ndarray, "rows dim"]:
        """The vectors in the order of the index, in fp32."""
        return self.read(slice(None))

    def read(self, rows: slice | Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Return some of the vectors, counted in the order of the index, in fp32."""
        return self._stored.read(np.flatnonzero(self._alive)[rows])

    def _living(self, column: str) -> pa.ChunkedArray:
        return self._names[column].filter(pa.array(self._alive))

    # --- changing -------------------------------------------------------------------------------

    def add(
        self,
        vectors: Any,
        ids: Sequence[Any] | None = None,
        metadata: Any = None,
        *,
        replace: bool = False,
    ) -> int:
        """Add vectors, all or, after an error, none; return how many known ids were replaced.

        Parameters
        ----------
        vectors, ids, metadata
            As of `build`. Columns that only one side has are missing on the other.
        replace : bool
            Whether an id that is known gets a new vector; else it is refused.
        """
        data = Vectors.of(vectors, ids, metadata)
        if data.numbered and replace:
            raise InputError(
                "got vectors without ids to replace others (--replace): only an id tells which; "
                "leave it out, or name the vectors"
            )
        if data.numbered:
            first = self._next_number
            data = dataclasses.replace(data, ids=[str(first + n) for n in range(len(data))])
        self._check(data.vectors, data.made_by)
        self._stored.fits(data.vectors)
        fresh = set(data.ids)
        if len(fresh) < len(data.ids):
            seen: set[str] = set()
            twice = next(name for name in data.ids if name in seen or seen.add(name))
            raise InputError(f"the id {twice!r} comes twice: name every vector differently")
        places = self._rows_by_id()
        known = [name for name in data.ids if name in places]
        if known and not replace:
            raise InputError(
                f"{len(known)} of {len(data)} ids are in the index already, the first is "
                f"{known[0]!r}: pass replace=True (--replace), or other ids"
            )
        names = _joined(self._names, named(data))
        start = len(self._stored)
        with self._undone_after_an_error():
            self._alive[[places[name] for name in known]] = False
            self._stored.append(data.vectors)
            self._names = names
            self._alive = np.concatenate([self._alive, np.ones(len(data), bool)])
            places.update(zip(data.ids, range(start, start + len(data)), strict=True))
            if self._structure is not None:
                self._structure.add(self._stored.read(slice(start, None)))
            self._tidy()
        self._next_number = max(self._next_number, _after(data.ids))
        return len(known)

    def delete(self, ids: Iterable[Any]) -> int:
        """Delete vectors by id, all or, if one is unknown, none; return how many."""
        one = isinstance(ids, str | int | np.integer)
        names = [str(name) for name in ([ids] if one else ids)]
        places = self._rows_by_id()
        unknown = [name for name in names if name not in places]
        if unknown:
            raise InputError(
                f"{len(unknown)} of {len(names)} ids are not in the index, the first is "
                f"{unknown[0]!r}: nothing was deleted; leave them out"
            )
        gone = set(names)
        with self._undone_after_an_error():
            self._alive[[places.pop(name) for name in gone]] = False
            self._tidy()
        return len(gone)

    @contextmanager
    def _undone_after_an_error(self) -> Iterator[None]:
        stored, count, names = self._stored, len(self._stored), self._names
        alive = self._alive.copy()
        try:
            yield
        except BaseException:
            stored.cut(count)
            self._stored, self._names, self._alive = stored, names, alive
            # What FAISS holds may be ahead of this: it is made anew with the next change.
            self._places = self._structure = None
            raise

    def _rows_by_id(self) -> dict[str, int]:
        if self._places is None:
            rows = np.flatnonzero(self._alive).tolist()
            self._places = dict(zip(self._living("id").to_pylist(), rows, strict=True))
        return self._places

    def _check(self, vectors: np.ndarray, made_by: str | None) -> None:
        if vectors.shape[1] != self.dim:
            raise InputError(
                f"got vectors of {vectors.shape[1]} dimensions, the index holds {self.dim}: pass "
                "vectors of the same model"
            )
        if made_by and self.made_by and made_by != self.made_by:
            raise StoreError(
                f"the vectors were made by model {made_by[:12]}, the index by "
                f"{self.made_by[:12]}: transform with that model, or build another index"
            )

    def _tidy(self, dead: float = DEAD) -> None:
        """Clear deleted rows away where they are many; make the structure where it is needed."""
        self._recall = None
        if len(self) < len(self._alive) * (1 - dead):
            rows = np.flatnonzero(self._alive)
            self._stored, self._names = self._stored.kept(rows), self._names.take(rows)
            self._alive = np.ones(len(rows), bool)
            self._places = self._structure = None
        outgrown = self._structure is None or len(self._stored) > GROWTH * self._fitted
        if outgrown and len(self._stored) > FEW and self.kind != "exact":
            self._structure = make_structure(self.kind, self.options)
            assert self._structure is not None
            self._structure.fit(self._stored.read(slice(None)), self.metric)
            self._fitted = len(self._stored)

    # --- searching ------------------------------------------------------------------------------

    def search(
        self,
        queries: Any,
        k: int = 10,
        where: str | pc.Expression | None = None,
    ) -> Found:
        """Find the nearest vectors.

        Parameters
        ----------
        queries : array of shape (queries, dim) or (dim,), Vectors, or path of a file
            Any number of them.
        k : int
            How many for each.
        where : str or pyarrow.compute.Expression, optional
            Only rows whose id and metadata it lets through: see `onevec.use.filters.matching`.
            A small part is searched exactly, and so is a query for which FAISS found too few.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"got k={k!r}: it must be a whole number of at least 1")
        if isinstance(queries, np.ndarray | list | tuple):
            queries = checked(np.atleast_2d(array_of(queries, "queries")), "queries")
        data = Vectors.of(queries, what="queries")
        self._check(data.vectors, data.made_by)
        mask = self._alive if where is None else self._alive & matching(self._names, where)
        rows, scores = self._top(data.vectors, int(k), mask)
        hits = pa.array(rows.ravel())
        ids = self._names["id"].take(hits).to_numpy(zero_copy_only=False)
        return Found(
            data.ids,
            np.asarray(ids, object).reshape(rows.shape),
            scores,
            self._names.drop_columns(["id"]).take(hits),
        )

    def _top(
        self, queries: np.ndarray, k: int, mask: Bool[np.ndarray, " rows"]
    ) -> tuple[np.ndarray, np.ndarray]:
        allowed = int(mask.sum())
        k = min(k, allowed)
        if not k:
            return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
        whole = allowed == len(mask)
        small = not whole and allowed <= max(SMALL[0], SMALL[1] * len(mask))
        if self._structure is None or small:
            return self._exact(queries, k, mask)
        candidates = self._structure.candidates(queries, k, None if whole else mask)
        rows, scores = rescored(self._stored, queries, candidates, k, self.metric)
        short = np.isinf(scores).any(axis=1)  # FAISS found fewer than there are
        if short.any():
            rows[short], scores[short] = self._exact(queries[short], k, mask)
        return rows, scores

    def _exact(
        self, queries: np.ndarray, k: int, mask: Bool[np.ndarray, " rows"]
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = None if mask.all() else np.flatnonzero(mask)
        return exact_top(self._stored, queries, k, self.metric, rows)

    def recall(self, random_state: int = 0) -> float:
        """Share of the exact ten nearest others that the index finds, for 256 of its own vectors.

        Ties count as found. It is measured once, at the latest when the index is saved, and again
        after a change.
        """
        if self._structure is None:
            return 1.0
        if self._recall is None:
            living = np.flatnonzero(self._alive)
            some = np.random.default_rng(random_state).permutation(living)[:RECALL_QUERIES]
            queries = self._stored.read(np.sort(some))
            k = min(RECALL_AT + 1, len(living))
            ours, exact = (
                _others(*top(queries, k, self._alive), np.sort(some))
                for top in (self._top, self._exact)
            )
            self._recall = float((ours >= exact[:, -1:]).mean())
        return self._recall

    # --- on disk --------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what the index is, as plain facts."""
        return {
            "search": self.kind,
            "metric": self.metric,
            "dtype": self._stored.dtype,
            "dim": self.dim,
            "count": len(self),
            "columns": self._names.column_names,
            "options": self.options,
            f"recall@{RECALL_AT}": self.recall(),
            "made_by": self.made_by,
        }

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the index as a folder that appears whole or not at all.

        The vectors as ``vectors.npy``, ids and metadata as ``rows.arrow``, FAISS's own file, and
        ``vector-index.json`` with a checksum of each. ``overwrite`` replaces an index, and nothing
        else.
        """
        if self.kind == "exact":
            self._tidy(dead=0)
        parts = folder.Parts(
            {**self.facts(), "fitted": self._fitted, "next_number": self._next_number},
            self._stored,
            self._names,
            self._alive,
            self._structure,
        )
        return folder.write(path, parts, overwrite)

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open a saved index; every checksum is verified, the vectors are memory-mapped.

        Raises
        ------
        StoreError
            If there is none, or it is damaged, half-copied or of another format.
        """
        parts = folder.read(path)
        known = {name: parts.info[name] for name in ("metric", "made_by", "options")}
        index = cls(parts.stored, parts.names, kind=parts.info["search"], **known)
        index._alive, index._structure = parts.alive, parts.structure
        index._fitted = parts.info["fitted"]
        index._next_number = parts.info.get("next_number", len(parts.names))
        index._recall = parts.info[f"recall@{RECALL_AT}"]
        return index

    def __repr__(self) -> str:
        return f"Index({self.kind}, {len(self):,} vectors of {self.dim} dimensions, {self.metric})"


def _after(ids: Iterable[str]) -> int:
    """Return the number after the largest among the ids."""
    return max((int(name) + 1 for name in ids if name.isdecimal() and len(name) < 1_000), default=0)


def _joined(known: pa.Table, new: pa.Table) -> pa.Table:
    """Put the rows of a table behind another's; what only one side has is missing on the other."""
    try:
        both = pa.concat_tables([known, new], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            f"the metadata does not fit that of the index ({reason(error)}): convert the column"
        ) from error
    # Many small additions must not leave many small pieces.
    return both.combine_chunks() if both["id"].num_chunks > _PIECES else both


def _others(rows: np.ndarray, scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Drop each query from its own hits, or the last hit where it is not among them."""
    drop = np.where((rows == own[:, None]).any(axis=1), (rows == own[:, None]).argmax(axis=1), -1)
    drop %= rows.shape[1]
    keep = np.arange(rows.shape[1]) != drop[:, None]
    return scores[keep].reshape(len(rows), -1)
