"""Vectors in Qdrant's local mode, through its own client: write, filter, compare with exact search.

    python examples/qdrant_store.py [--rows 300]

Proteins and encoder come with onevec. The figure is the share of Qdrant's ten nearest that exact
search finds too. For a server write `QdrantClient(url=...)`; the rest stays.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from qdrant_client import QdrantClient, models

from onevec import OneVec, encode
from onevec.demo.walk import encoder_folder, load_proteins
from onevec.use.search import Index
from onevec.use.vectors import vectors_of


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300, help="proteins")
    rows = parser.parse_args().rows
    proteins = load_proteins()["val"]
    short = [row for row, text in enumerate(proteins["sequence"]) if len(text) <= 250]
    some = np.random.default_rng(0).permutation(short)[:rows]
    proteins = {name: [column[row] for row in some] for name, column in proteins.items()}
    with tempfile.TemporaryDirectory() as room, encoder_folder() as encoder:
        store = encode(
            proteins["sequence"],
            encoder,
            out=Path(room) / "store",
            ids=proteins["uniprot"],
            metadata={"location": proteins["location"]},
        )
        data = vectors_of(OneVec().fit(store), store)
    client = QdrantClient(":memory:")
    client.create_collection(
        "proteins",
        vectors_config=models.VectorParams(
            size=data.vectors.shape[1], distance=models.Distance.COSINE
        ),
    )
    # Qdrant numbers its points; the ids travel with the metadata.
    payload = data.metadata.append_column("protein", [data.ids]).to_pylist()
    client.upload_collection("proteins", vectors=data.vectors, payload=payload)

    def nearest(query: np.ndarray, k: int, only: models.Filter | None = None) -> list[str]:
        hits = client.query_points("proteins", query=query.tolist(), limit=k, query_filter=only)
        return [hit.payload["protein"] for hit in hits.points]

    print(f"{client.count('proteins').count} proteins in Qdrant")
    location = models.FieldCondition(key="location", match=models.MatchValue(value="Nucleus"))
    theirs = nearest(data.vectors[0], 3, models.Filter(must=[location]))
    index = Index.build(data)
    ours = index.search(data.vectors[0], 3, "location = 'Nucleus'").ids[0].tolist()
    print(f"nearest of the nucleus: {theirs}, by exact search {ours}")
    queries = data.vectors[:50]
    both = zip(
        index.search(queries, 10).ids, (nearest(query, 10) for query in queries), strict=True
    )
    same = np.mean([len({*a} & {*b}) / 10 for a, b in both])
    print(f"{100 * same:.1f} % of the ten nearest are those of exact search")
    client.close()


if __name__ == "__main__":
    main()
