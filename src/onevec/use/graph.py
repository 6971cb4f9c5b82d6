"""The graph of an index: FAISS's HNSW over numbered rows (Malkov and Yashunin 2020).

LanceDB's own indexes answered fewer queries a second at the same recall, and a batch of queries
one by one: `benchmarks/LOG.md` has the figures. A number stands for one vector for ever, so a
graph may lag behind the table, or be ahead of it, and is never wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from onevec.errors import InputError, MissingExtraError
from onevec.use.exact import unit
from onevec.use.held import Held

_WIDEST = 4_096  # of a filtered search, however few rows the filter lets through
_DEAD = 0.25  # share of deleted rows from which it is made anew: a search walks through them too
_CANDIDATES = 10  # at least so many are scored again
# Option: its default, least and largest value. FAISS dies of one link.
OPTIONS = {
    "links": (32, 2, 512),
    "ef_construction": (80, 1, 1_000_000),
    "ef_search": (64, 1, 1_000_000),
}


def faiss_package() -> Any:
    """Import FAISS.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", "search") from error
    return faiss


def check_options(options: Mapping[str, int]) -> None:
    """Raise `InputError` for options that there are not, or of other values."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise InputError(f"got the option {name!r}: hnsw takes {', '.join(OPTIONS)}")
        _, least, most = OPTIONS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InputError(
                f"got {name}={value!r}: it must be a whole number from {least} to {most:,}"
            )


class Graph:
    """Finds candidate rows; the index scores them again with the vectors that it keeps.

    Parameters
    ----------
    metric : {"cosine", "dot", "euclidean"}
        What is near.
    options : mapping
        ``links``: edges per vector (M); ``ef_construction``, ``ef_search``: candidates held while
        the graph is built, and while it is searched.
    found : FAISS index, optional
        One that `save` wrote.
    """

    def __init__(self, metric: str, options: Mapping[str, int], found: Any = None):
        self.metric, self._index = metric, found
        self._options = {name: value for name, (value, _, _) in OPTIONS.items()} | dict(options)

    @classmethod
    def open(cls, path: Path, metric: str, options: Mapping[str, int]) -> Graph:
        """Read what `save` wrote."""
        return cls(metric, options, faiss_package().read_index(str(path)))

    def __len__(self) -> int:
        return 0 if self._index is None else self._index.ntotal

    @property
    def numbers(self) -> Int[np.ndarray, " rows"]:
        """Numbers of the rows in it."""
        if self._index is None:
            return np.empty(0, np.int64)
        return faiss_package().vector_to_array(self._index.id_map)

    def add(
        self, numbers: Int[np.ndarray, " rows"], vectors: Float[np.ndarray, "rows dim"]
    ) -> None:
        """Add rows."""
        faiss = faiss_package()
        if self._index is None:
            near = faiss.METRIC_L2 if self.metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
            made = faiss.IndexHNSWFlat(vectors.shape[1], self._options["links"], near)
            made.hnsw.efConstruction = self._options["ef_construction"]
            self._index = faiss.IndexIDMap(made)
        self._index.add_with_ids(self._prepared(vectors), numbers)

    def candidates(
        self,
        queries: Float[np.ndarray, "queries dim"],
        k: int,
        allowed: Int[np.ndarray, " allowed"] | None,
    ) -> Int[np.ndarray, "queries found"]:
        """Return numbers of rows that may be among the nearest ``k`` of those allowed; -1 is none.

        ``allowed`` are ascending numbers of rows in it; all of them when not given.
        """
        faiss = faiss_package()
        count = min(max(k, _CANDIDATES), len(self))
        narrow, share, selector = max(self._options["ef_search"], 2 * count), 1.0, {}
        if allowed is not None:
            mask = np.zeros(int(allowed[-1]) + 1, bool)
            mask[allowed] = True
            bits = np.packbits(mask, bitorder="little")  # FAISS reads it while it searches
            share = len(allowed) / len(self)
            selector = {"sel": faiss.IDSelectorBitmap(bits)}
        wide = max(min(math.ceil(narrow / share), _WIDEST), narrow)
        parameters = faiss.SearchParametersHNSW(efSearch=wide, **selector)
        return self._index.search(self._prepared(queries), count, params=parameters)[1]

    def save(self, path: Path) -> None:
        """Write FAISS's own file."""
        faiss_package().write_index(self._index, str(path))

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        return unit(vectors).astype(np.float32) if self.metric == "cosine" else vectors


def covering(
    graph: Graph | None, held: Held, metric: str, options: Mapping[str, int]
) -> tuple[Graph, bool]:
    """Return a graph with all rows of a table, perhaps more, and whether anything was added."""
    if graph is not None:
        rows = np.union1d(graph.numbers, held.numbers).size
        graph = None if len(held) < (1 - _DEAD) * rows else graph
    if graph is None:
        graph = Graph(metric, options)
    missing = np.flatnonzero(~np.isin(held.numbers, graph.numbers))
    if len(missing):
        graph.add(held.numbers[missing], held.read(missing))
    return graph, bool(len(missing))
