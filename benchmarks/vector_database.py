"""LanceDB's own searches beside onevec's: recall@10, queries per second, seconds to build.

    python benchmarks/vector_database.py [VECTORS.npy]

1,000 rows, taken out by a seed, ask the others by cosine, on one thread; recall is against exact
search. Times are of the processor, all threads of this process together: others may share it.
Without a file the vectors are synthetic: 115,948 of 256 dimensions around 2,000 centres.
`benchmarks/LOG.md` says what was decided by it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ["LANCE_CPU_THREADS"] = "1"  # read when LanceDB is imported

import faiss
import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.index import HnswFlat, HnswSq, IvfFlat, IvfPq, IvfRq
from threadpoolctl import threadpool_limits

from onevec.use.search import Index

QUERIES, K, SINGLE = 1_000, 10, 50
LISTS = 340  # square root of the number of rows
# Settings from fast to thorough; of HNSW one graph, as FAISS has it.
LANCE: dict[str, tuple[Any, list[dict[str, int]]]] = {
    "flat": (None, [{}]),
    "IVF_HNSW_SQ": (
        HnswSq(distance_type="cosine", num_partitions=1, m=32, ef_construction=80),
        [{"nprobes": 1, "ef": ef, "refine_factor": 2} for ef in (32, 64, 128)],
    ),
    "IVF_HNSW_FLAT": (
        HnswFlat(distance_type="cosine", num_partitions=1, m=32, ef_construction=80),
        [{"nprobes": 1, "ef": ef} for ef in (32, 64, 128)],
    ),
    "IVF_FLAT": (
        IvfFlat(distance_type="cosine", num_partitions=LISTS),
        [{"nprobes": probes} for probes in (8, 16, 32, 48)],
    ),
    "IVF_FLAT of 1,000 lists": (
        IvfFlat(distance_type="cosine", num_partitions=1_000),
        [{"nprobes": probes} for probes in (32, 48, 64, 96)],
    ),
    "IVF_PQ": (
        IvfPq(distance_type="cosine", num_partitions=LISTS),
        [{"nprobes": probes, "refine_factor": 10} for probes in (16, 32)],
    ),
    "IVF_RQ": (
        IvfRq(distance_type="cosine", num_partitions=LISTS),
        [{"nprobes": probes, "refine_factor": 5} for probes in (16, 32)],
    ),
}


def main() -> None:
    rng = np.random.default_rng(0)
    X = np.load(sys.argv[1]) if len(sys.argv) > 1 else synthetic(rng)
    X = X[rng.permutation(len(X))].astype(np.float32)
    queries, known = X[:QUERIES], X[QUERIES:]
    print(f"{len(known):,} vectors of {X.shape[1]} dimensions, {QUERIES:,} queries")
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        compared(known, queries)


def synthetic(rng: np.random.Generator) -> np.ndarray:
    centres = rng.normal(size=(2_000, 256))
    # Directions of unequal spread, as learned vectors have.
    spread = np.arange(1, 257) ** -0.5
    rows = centres[rng.integers(len(centres), size=115_948 + QUERIES)]
    return ((rows + rng.normal(size=rows.shape)) * spread).astype(np.float32)


def compared(known: np.ndarray, queries: np.ndarray) -> None:
    exact = Index.build(known)
    truth = exact.search(queries, K).ids.astype(int)
    print("| search | settings | recall@10 | queries per second | ms for one | seconds to build |")
    print("|---|---|--:|--:|--:|--:|")
    for kind in ("exact", "hnsw"):
        began = time.process_time()
        index = Index.build(known, kind=kind)
        index.recall()
        seconds = time.process_time() - began
        measured(f"onevec {kind}", {}, seconds, truth, queries,
                 lambda some, index=index: index.search(some, K).ids.astype(int))  # fmt: skip
    with tempfile.TemporaryDirectory() as room:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(known.ravel()), known.shape[1])
        rows = pa.table({"row": np.arange(len(known)), "vector": vectors})
        table = lancedb.connect(room).create_table("vectors", data=rows)
        for name, (config, settings) in LANCE.items():
            began = time.process_time()
            if config is not None:
                table.create_index("vector", config=config, replace=True)
            seconds = time.process_time() - began
            for chosen in settings:
                measured(f"LanceDB {name}", chosen, seconds, truth, queries,
                         lambda some, chosen=chosen: asked(table, some, chosen))  # fmt: skip


def asked(table: Any, queries: np.ndarray, settings: dict[str, int]) -> np.ndarray:
    query = (
        table.search(list(queries)).distance_type("cosine").limit(K).select(["row", "_distance"])
    )
    for name, value in settings.items():
        query = getattr(query, name)(value)
    found = query.to_arrow()
    order = np.argsort(found["query_index"].to_numpy(), kind="stable") if len(queries) > 1 else ...
    return found["row"].to_numpy()[order].reshape(len(queries), K)


def measured(  # noqa: PLR0917 - a row of the table
    name: str, settings: dict[str, int], build: float, truth: np.ndarray, queries: np.ndarray,
    ask: Callable[[np.ndarray], np.ndarray],
) -> None:  # fmt: skip
    ask(queries[:20])  # what is read or compiled once
    some = 100 if name.endswith(" flat") else len(queries)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        found = ask(queries[:some])
        seconds.append(time.process_time() - began)
    single = []
    for query in queries[:SINGLE]:
        began = time.process_time()
        ask(query[None])
        single.append(time.process_time() - began)
    recall = np.mean([len({*a} & {*b}) / K for a, b in zip(found, truth, strict=False)])
    said = ", ".join(f"{key} {value}" for key, value in settings.items())
    print(
        f"| {name} | {said} | {recall:.4f} | {some / min(seconds):,.0f} | "
        f"{1e3 * np.median(single):.2f} | {build:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
