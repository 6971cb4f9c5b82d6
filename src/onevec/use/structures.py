"""What finds candidates faster than exact search does: FAISS (Douze et al. 2024)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from onevec.errors import InputError, MissingExtraError, make_named
from onevec.use.exact import unit

_TRAINED_8_BITS = 39 * 256  # vectors from which FAISS finds 256 centroids to be trained well
_WIDEST = 4_096  # of the search through a graph, however few rows a filter lets through


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


class Structure(ABC):
    """Finds candidate rows; the index scores them again with the vectors that it keeps.

    Subclasses are final and take their options by keyword.
    """

    option_names: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[Mapping[str, tuple[int, int]]] = {}  # of an option, where not 1 to a million
    rescore = 1  # candidates for each wanted row

    def __init__(self, **options: int):
        if not set(options) <= set(self.option_names):
            raise TypeError(f"unknown options {sorted(options)}")
        for name, value in options.items():
            least, most = self.limits.get(name, (1, 1_000_000))
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InputError(
                    f"got {name}={value!r}: it must be a whole number from {least} to {most:,}"
                )
            setattr(self, name, value)
        self._metric = "cosine"
        self._index: Any = None

    def check(self, dim: int) -> None:  # noqa: B027 - most options go with every dimension
        """Raise `InputError` for options that do not go with the dimension of the vectors."""

    def fit(self, vectors: Float[np.ndarray, "rows dim"], metric: str) -> None:
        """Make the structure of these rows."""
        self._metric = metric
        vectors = self._prepared(vectors)
        self._index = self._made(vectors, faiss_package())
        self._index.add(self._coded(vectors))

    def add(self, vectors: Float[np.ndarray, "rows dim"]) -> None:
        """Add rows behind the others; what was trained stays."""
        self._index.add(self._coded(self._prepared(vectors)))

    def candidates(
        self,
        queries: Float[np.ndarray, "queries dim"],
        k: int,
        mask: Bool[np.ndarray, " rows"] | None,
    ) -> Int[np.ndarray, "queries found"]:
        """Return rows that may be among the nearest ``k`` of those in the mask; -1 is none."""
        faiss = faiss_package()
        count = min(max(self.rescore * k, 10 * self.rescore), self._index.ntotal)
        share, selector = 1.0, {}
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")  # FAISS reads it while it searches
            share, selector = float(mask.mean()), {"sel": faiss.IDSelectorBitmap(bits)}
        parameters = self._parameters(faiss, selector, count, share)
        coded = self._coded(self._prepared(queries))
        return self._index.search(coded, count, params=parameters)[1]

    def save(self, path: Path) -> dict[str, Any]:
        """Write FAISS's own file; return what it does not hold."""
        faiss_package().write_index(self._index, str(path))
        return {}

    def load(self, path: Path, metric: str, state: Mapping[str, Any]) -> None:
        """Read what `save` wrote."""
        self._metric = metric
        self._index = faiss_package().read_index(str(path))

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        return unit(vectors).astype(np.float32) if self._metric == "cosine" else vectors

    def _coded(self, vectors: np.ndarray) -> np.ndarray:
        return vectors

    def _faiss_metric(self, faiss: Any) -> int:
        return faiss.METRIC_L2 if self._metric == "euclidean" else faiss.METRIC_INNER_PRODUCT

    @abstractmethod
    def _made(self, vectors: np.ndarray, faiss: Any) -> Any:
        """Return an empty, trained FAISS index."""

    @abstractmethod
    def _parameters(self, faiss: Any, selector: dict[str, Any], count: int, share: float) -> Any:
        """Return the search parameters for a filter that lets a share of the rows through."""


class Flat(Structure):
    """FAISS's exact search over all vectors."""

    def _made(self, vectors: np.ndarray, faiss: Any) -> Any:
        return faiss.IndexFlat(vectors.shape[1], self._faiss_metric(faiss))

    def _parameters(self, faiss: Any, selector: dict[str, Any], count: int, share: float) -> Any:
        return faiss.SearchParameters(**selector)


class HNSW(Structure):
    """A navigable graph (Malkov and Yashunin 2020).

    Parameters
    ----------
    links : int, default 32
        Edges per vector (M), 2 to 512.
    ef_construction, ef_search : int, defaults 80 and 64
        Candidates held while the graph is built, and while it is searched.
    """

    option_names = ("links", "ef_construction", "ef_search")
    limits: ClassVar = {"links": (2, 512)}  # FAISS dies of one
    links, ef_construction, ef_search = 32, 80, 64

    def _made(self, vectors: np.ndarray, faiss: Any) -> Any:
        made = faiss.IndexHNSWFlat(vectors.shape[1], self.links, self._faiss_metric(faiss))
        made.hnsw.efConstruction = self.ef_construction
        return made

    def _parameters(self, faiss: Any, selector: dict[str, Any], count: int, share: float) -> Any:
        wide = math.ceil(max(self.ef_search, 2 * count) / max(share, 1e-9))
        wide = max(min(wide, _WIDEST), self.ef_search, 2 * count)
        return faiss.SearchParametersHNSW(efSearch=wide, **selector)


class IVFPQ(Structure):
    """Inverted lists of product-quantised vectors (Jégou, Douze and Schmid 2011).

    Parameters
    ----------
    lists : int, optional
        Lists that the vectors are sorted into; the square root of their number by default.
    probes : int, optional
        Lists that a query reads; every sixteenth, at least 8, by default.
    parts : int, optional
        Parts of a vector, each one code; about dim / 4 by default, a divisor of dim.
    rescore : int, default 10
        Candidates for each wanted row.
    """

    option_names = ("lists", "probes", "parts", "rescore")
    lists = probes = parts = None
    rescore = 10

    def check(self, dim: int) -> None:
        """Raise `InputError` for parts that do not divide the dimension."""
        if self.parts is not None and dim % self.parts:
            raise InputError(f"got parts={self.parts}: it must divide the {dim} dimensions")

    def _made(self, vectors: np.ndarray, faiss: Any) -> Any:
        rows, dim = vectors.shape
        divisors = [n for n in range(1, dim + 1) if dim % n == 0]
        parts = self.parts or min(divisors, key=lambda n: (abs(n - dim / 4), n))
        lists = min(self.lists or math.isqrt(rows), max(1, rows // 39))
        bits = 8 if rows >= _TRAINED_8_BITS else 4
        made = faiss.index_factory(dim, f"IVF{lists},PQ{parts}x{bits}", self._faiss_metric(faiss))
        made.cp.min_points_per_centroid = made.pq.cp.min_points_per_centroid = 1  # no warnings
        made.pq.cp.max_points_per_centroid = 40  # candidates are scored again: quick is enough
        made.do_polysemous_training = False  # takes minutes, for a Hamming filter not used here
        made.train(vectors)
        return made

    def _parameters(self, faiss: Any, selector: dict[str, Any], count: int, share: float) -> Any:
        lists = self._index.nlist
        probes = self.probes or max(8, lists // 16)
        probes = math.ceil(probes / max(share, 1e-9))
        return faiss.SearchParametersIVF(nprobe=min(probes, lists), **selector)


class Binary(Structure):
    """One sign bit per dimension of the centred vectors, compared by Hamming distance.

    Parameters
    ----------
    rescore : int, default 20
        Candidates for each wanted row.
    """

    option_names = ("rescore",)
    rescore = 20

    def fit(self, vectors: Float[np.ndarray, "rows dim"], metric: str) -> None:
        """Make the structure of these rows; their mean is the border of the bits."""
        self._metric = metric
        self._centre = self._prepared(vectors).mean(axis=0, dtype=np.float64).astype(np.float32)
        super().fit(vectors, metric)

    def save(self, path: Path) -> dict[str, Any]:
        """Write FAISS's own file; return the centre."""
        faiss_package().write_index_binary(self._index, str(path))
        return {"centre": self._centre.tolist()}

    def load(self, path: Path, metric: str, state: Mapping[str, Any]) -> None:
        """Read what `save` wrote."""
        self._metric = metric
        self._centre = np.array(state["centre"], np.float32)
        self._index = faiss_package().read_index_binary(str(path))

    def _coded(self, vectors: np.ndarray) -> UInt8[np.ndarray, "rows bytes"]:
        return np.packbits(vectors > self._centre, axis=1)

    def _made(self, vectors: np.ndarray, faiss: Any) -> Any:
        return faiss.IndexBinaryFlat(8 * (-(-vectors.shape[1] // 8)))

    def _parameters(self, faiss: Any, selector: dict[str, Any], count: int, share: float) -> Any:
        return faiss.SearchParameters(**selector)


STRUCTURES: dict[str, type[Structure]] = {
    "flat": Flat,
    "hnsw": HNSW,
    "ivf_pq": IVFPQ,
    "binary": Binary,
}
KINDS = ("exact", *STRUCTURES)


def make_structure(kind: str, options: Mapping[str, int]) -> Structure | None:
    """Return the structure of a kind; None for exact search, which has none."""
    if kind == "exact":
        if options:
            raise InputError(f"got the options {dict(options)}: an exact index has none")
        return None
    if kind not in STRUCTURES:
        raise InputError(f"got kind={kind!r}: choose one of {', '.join(KINDS)}")
    faiss_package()
    return make_named("kind of index", kind, STRUCTURES, options)
