"""An index: vectors, ids and metadata in LanceDB, searched exactly or through a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from onevec.errors import InputError, StoreError
from onevec.files import appears_whole, check_target
from onevec.tokens.layout import checksum
from onevec.use import database, folder
from onevec.use.exact import check_metric, exact_top, rescored
from onevec.use.formats import Vectors, array_of, checked
from onevec.use.found import Found
from onevec.use.graph import Graph, check_options, covering, faiss_package
from onevec.use.held import Held

KINDS = ("exact", "hnsw")
FEW = 1_000  # vectors up to which every kind is searched exactly: a graph would win nothing
SMALL = 10_000, 0.02  # rows, or share of all, up to which a filtered part is searched exactly
RECALL_AT, RECALL_QUERIES = 10, 256  # the standard error of a recall of 0.95 is then below 0.005


class Index:
    """Vectors to search in. Make one with `Index.build`, open a saved one with `Index.open`.

    Rows live in a LanceDB table (`table`). An index that was built lives in memory until it is
    saved; changes of one that was opened are on disk at once, each as one commit of LanceDB, and
    earlier versions stay until they are cleaned up. Many processes may search it, and one at a
    time change it.

    Every kind scores what it found again with the vectors of the table: scores and the order of
    ties do not depend on the kind, only what is found does.
    """

    def __init__(self, table: Any, facts: Mapping[str, Any], path: Path | None = None):
        self.kind: str = facts["kind"]
        self.metric: str = facts["metric"]
        self.options: dict[str, int] = dict(facts["options"])
        self.made_by: str | None = facts["made_by"]
        self._next_row: int = facts["next_row"]  # numbers are given once and never again
        self._next_name: int = facts["next_name"]  # of the next vector that has no id
        self._measured: list[Any] | None = facts["recall"]  # version of the table, recall
        self._graph_sum: str | None = facts["graph"]  # checksum of its file
        self._table, self._path = table, path
        self._vector_type: Any = table.schema.field("vector").type
        self._graph: Graph | None = None
        self._held: Held | None = None
        self._lent = False

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
        kind : {"exact", "hnsw"}
            "hnsw" answers many times as many queries, and finds nearly all of the nearest.
        metric : {"cosine", "dot", "euclidean"}
            What is near.
        dtype : {"float32", "float16"}
            How the vectors are kept; searches see them as they are kept.
        made_by : str, optional
            `model_fingerprint` of the model: vectors of another are refused.
        options : mapping, optional
            Of "hnsw", such as ``{"ef_search": 128}``: see `onevec.use.graph.Graph`.
        """
        data = Vectors.of(vectors, ids, metadata, made_by=made_by)
        for name, value, known in (("kind", kind, KINDS), ("dtype", dtype, database.DTYPES)):
            if value not in known:
                raise InputError(f"got {name}={value!r}: choose one of {', '.join(known)}")
        if kind == "exact" and options:
            raise InputError(f"got the options {dict(options)}: an exact index has none")
        check_options(options or {})
        if kind == "hnsw":
            faiss_package()
        _check_once(data.ids)
        facts = {
            "kind": kind,
            "metric": check_metric(metric),
            "options": options or {},
            "made_by": data.made_by,
            "next_row": len(data),
            "next_name": _after(data.ids),
            "recall": None,
            "graph": None,
        }
        return cls(database.create(None, database.rows_of(data, 0, dtype)), facts)

    def __len__(self) -> int:
        return len(self._rows.numbers)

    @property
    def table(self) -> Any:
        """The table as LanceDB's own client has it: versions, further indexes, full text ..."""
        self._lent = True
        return self._table

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._vector_type.list_size

    @property
    def dtype(self) -> str:
        """How the vectors are kept."""
        return np.dtype(self._vector_type.value_type.to_pandas_dtype()).name

    @property
    def ids(self) -> list[str]:
        """Names of the vectors, in the order of the index."""
        return self._rows.names["id"].to_pylist()

    @property
    def metadata(self) -> pa.Table:
        """Metadata of the vectors, in the order of the index."""
        return self._rows.names.drop_columns(["id"])

    @property
    def vectors(self) -> Float[np.ndarray, "rows dim"]:
        """The vectors in the order of the index, in fp32."""
        return self.read(slice(None))

    def read(self, rows: slice | Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Return some of the vectors, counted in the order of the index, in fp32."""
        return self._rows.read(rows)

    @property
    def _rows(self) -> Held:
        """What the table holds, read again when it has changed."""
        # To ask for the version takes as long as a search through the graph.
        if self._held is None or (self._lent and self._held.version != self._table.version):
            self._held = Held.of(database.read(self._table), self._table.version)
        return self._held

    # --- changing -------------------------------------------------------------------------------

    def add(
        self,
        vectors: Any,
        ids: Sequence[Any] | None = None,
        metadata: Any = None,
        *,
        replace: bool = False,
        delete: Iterable[Any] = (),
    ) -> int:
        """Add vectors, all or, after an error, none; return how many known ids were replaced.

        Parameters
        ----------
        vectors, ids, metadata
            As of `build`. Columns that only one side has are missing on the other.
        replace : bool
            Whether an id that is known gets a new vector; else it is refused.
        delete : iterable
            Ids that `delete` takes out in the same commit.
        """
        self._catch_up()
        data = Vectors.of(vectors, ids, metadata)
        if data.numbered and replace:
            raise InputError(
                "got vectors without ids to replace others (--replace): only an id tells which; "
                "leave it out, or name the vectors"
            )
        if data.numbered:
            names = [str(self._next_name + row) for row in range(len(data))]
            data = dataclasses.replace(data, ids=names)
        self._check(data.vectors, data.made_by)
        _check_once(data.ids)
        gone = self._numbers_of(delete)
        places = self._rows.number_of
        known = [places[n] for n in data.ids if n in places and places[n] not in gone]
        if known and not replace:
            name = next(n for n in data.ids if places.get(n) == known[0])
            raise InputError(
                f"{len(known)} of {len(data)} ids are in the index already, the first is "
                f"{name!r}: pass replace=True (--replace), or other ids"
            )
        rows = database.rows_of(data, self._next_row, self.dtype)
        rows = database.fitted(rows, self._table.schema)
        # Numbers count as given before they are: a killed change leaves a gap, no number twice.
        self._next_row += len(data)
        self._next_name = max(self._next_name, _after(data.ids))
        self._note()
        self._held = None
        database.commit(self._table, rows, np.array([*gone, *known], np.int64))
        return len(known)

    def delete(self, ids: Iterable[Any] | int | np.integer) -> int:
        """Delete vectors by id, all or, if one is unknown, none; return how many."""
        self._catch_up()
        gone = self._numbers_of(ids)
        if gone:
            self._held = None
            database.commit(self._table, None, np.array([*gone], np.int64))
        return len(gone)

    def _catch_up(self) -> None:
        """See what another process has changed since the index was opened."""
        if self._path is not None:
            self._table.checkout_latest()
            if self._held is not None and self._held.version != self._table.version:
                self._held = None
            self._see_numbers(self._path)

    def _see_numbers(self, path: Path) -> None:
        known = folder.read_facts(path)
        self._next_row = max(self._next_row, known["next_row"])
        self._next_name = max(self._next_name, known["next_name"])

    def _numbers_of(self, ids: Iterable[Any] | int | np.integer) -> set[int]:
        one = isinstance(ids, str | int | np.integer)
        names = [str(name) for name in ([ids] if one else ids)]
        places = self._rows.number_of
        unknown = [name for name in names if name not in places]
        if unknown:
            raise InputError(
                f"{len(unknown)} of {len(names)} ids are not in the index, the first is "
                f"{unknown[0]!r}: nothing was deleted; leave them out"
            )
        return {places[name] for name in names}

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

    # --- searching ------------------------------------------------------------------------------

    def search(self, queries: Any, k: int = 10, where: Any = None) -> Found:
        """Find the nearest vectors.

        Parameters
        ----------
        queries : array of shape (queries, dim) or (dim,), Vectors, or path of a file
            Any number of them.
        k : int
            How many for each.
        where : str, optional
            Only rows that this SQL filter lets through, over ``id`` and the metadata, such as
            ``"length > 100 AND family = 'RNase'"``. A small part is searched exactly, and so is a
            query for which the graph gave too few.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"got k={k!r}: it must be a whole number of at least 1")
        if isinstance(queries, np.ndarray | list | tuple):
            queries = checked(np.atleast_2d(array_of(queries, "queries")), "queries")
        data = Vectors.of(queries, what="queries")
        self._check(data.vectors, data.made_by)
        held = self._rows
        mask = np.ones(len(held), bool)
        if where is not None:
            mask = np.isin(held.numbers, database.numbers_where(self._table, where))
        rows, scores = self._top(held, data.vectors, int(k), mask)
        hits = held.names.take(pa.array(rows.ravel()))
        ids = hits["id"].to_numpy(zero_copy_only=False)
        ids = np.asarray(ids, object).reshape(rows.shape)
        return Found(data.ids, ids, scores, hits.drop_columns(["id"]))

    def _top(
        self, held: Held, queries: np.ndarray, k: int, mask: Bool[np.ndarray, " rows"]
    ) -> tuple[np.ndarray, np.ndarray]:
        allowed = int(mask.sum())
        k = min(k, allowed)
        if not k:
            return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
        whole = allowed == len(mask)
        small = not whole and allowed <= max(SMALL[0], SMALL[1] * len(mask))
        graph = None if small else self._graph_of(held)
        if graph is None:
            return self._exact(held, queries, k, mask)
        numbers = held.numbers
        dead = len(graph) > len(numbers)
        found = graph.candidates(queries, k, numbers[mask] if dead or not whole else None)
        places = np.searchsorted(numbers, np.maximum(found, numbers[0]))
        candidates = np.where(found < 0, -1, places)
        rows, scores = rescored(held, queries, candidates, k, self.metric)
        short = np.isinf(scores).any(axis=1)  # the graph gave fewer than there are
        if short.any():
            rows[short], scores[short] = self._exact(held, queries[short], k, mask)
        return rows, scores

    def _exact(
        self, held: Held, queries: np.ndarray, k: int, mask: Bool[np.ndarray, " rows"]
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = None if mask.all() else np.flatnonzero(mask)
        return exact_top(held, queries, k, self.metric, rows)

    def _graph_of(self, held: Held) -> Graph | None:
        """Return the graph of all rows; None where they are searched exactly."""
        if self.kind == "exact" or len(held) <= FEW:
            return None
        if held.graphed:
            return self._graph
        graph = self._saved_graph() if self._graph is None else self._graph
        self._graph = None  # an interrupted addition must not be taken for a whole one
        graph, changed = covering(graph, held, self.metric, self.options)
        self._graph, held.graphed = graph, True
        if changed and self._path is not None:
            with suppress(OSError):  # a folder that may only be read can be searched
                self._graph_sum = _write_graph(graph, self._path)
                self._note()
        return graph

    def _saved_graph(self) -> Graph | None:
        """Read the graph's file; one that is not what was noted is made anew."""
        path = None if self._path is None else self._path / folder.GRAPH
        if path is None or not path.is_file() or checksum(path) != self._graph_sum:
            return None
        return Graph.open(path, self.metric, self.options)

    def recall(self, random_state: int = 0) -> float:
        """Share of the exact ten nearest others that the index finds, for 256 of its own vectors.

        Ties count as found. It is measured once, when the index is made, and again after a change.
        """
        held = self._rows
        if self._graph_of(held) is None:
            return 1.0
        if self._measured is None or self._measured[0] != held.version:
            order = np.random.default_rng(random_state).permutation(len(held))
            own = np.sort(order[:RECALL_QUERIES])
            asked = held, held.read(own), min(RECALL_AT + 1, len(held)), np.ones(len(held), bool)
            ours, exact = (_others(*top(*asked), own) for top in (self._top, self._exact))
            self._measured = [held.version, float((ours >= exact[:, -1:]).mean())]
            with suppress(OSError):
                self._note()
        return self._measured[1]

    # --- on disk --------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what the index is, as plain facts."""
        return {
            "search": self.kind,
            "metric": self.metric,
            "dtype": self.dtype,
            "dim": self.dim,
            "count": len(self),
            "columns": self._rows.names.column_names,
            "options": self.options,
            f"recall@{RECALL_AT}": self.recall(),
            "made_by": self.made_by,
        }

    def _noted(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "metric": self.metric,
            "options": self.options,
            "made_by": self.made_by,
            "next_row": self._next_row,
            "next_name": self._next_name,
            "recall": self._measured,
            "graph": self._graph_sum,
        }

    def _note(self) -> None:
        if self._path is not None:
            self._see_numbers(self._path)
            folder.write_facts(self._path, self._noted())

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the index as a folder that appears whole or not at all.

        LanceDB's table ``vectors.lance``, for "hnsw" FAISS's own file, and ``vector-index.json``.
        ``overwrite`` replaces an index, and nothing else. An index that was opened is in its own
        folder already.
        """
        path = check_target(path, overwrite, what="vector index", ours=folder.is_index)
        if self._path is not None and path.resolve() == self._path.resolve():
            return path
        graph, recall = self._graph_of(self._rows), self.recall()
        with appears_whole(path) as room:
            room.mkdir()
            table = database.create(room, database.read(self._table))
            facts = self._noted() | {"recall": [table.version, recall]}
            if graph is not None:
                facts["graph"] = _write_graph(graph, room)
            folder.write_facts(room, facts)
        return path

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open a saved index.

        Raises
        ------
        StoreError
            If there is none, or it is damaged, half-copied or of another format.
        """
        path = Path(path)
        facts = folder.read_facts(path)
        return cls(database.open_table(path), facts, path.absolute())

    def __repr__(self) -> str:
        return f"Index({self.kind}, {len(self):,} vectors of {self.dim} dimensions, {self.metric})"


def _write_graph(graph: Graph, path: Path) -> str:
    """Write the graph's file into the folder of an index; return its checksum."""
    with appears_whole(path / folder.GRAPH) as file:
        graph.save(file)
    return checksum(path / folder.GRAPH)


def _check_once(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))
        raise InputError(f"the id {twice!r} comes twice: name every vector differently")


def _after(ids: Iterable[str]) -> int:
    """Return the number after the largest among the ids."""
    return max((int(name) + 1 for name in ids if name.isdecimal() and len(name) < 1_000), default=0)


def _others(rows: np.ndarray, scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Drop each query from its own hits, or the last hit where it is not among them."""
    drop = np.where((rows == own[:, None]).any(axis=1), (rows == own[:, None]).argmax(axis=1), -1)
    drop %= rows.shape[1]
    keep = np.arange(rows.shape[1]) != drop[:, None]
    return scores[keep].reshape(len(rows), -1)
