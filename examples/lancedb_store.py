"""Vectors in LanceDB, embedded, through its own client: write, filter, compare with exact search.

    python examples/lancedb_store.py [--rows 300]

Proteins and encoder come with onevec. The figure is the share of LanceDB's ten nearest that exact
search finds too.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

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
    with tempfile.TemporaryDirectory() as room:
        with encoder_folder() as encoder:
            store = encode(
                proteins["sequence"],
                encoder,
                out=Path(room) / "store",
                ids=proteins["uniprot"],
                metadata={"location": proteins["location"]},
            )
        data = vectors_of(OneVec().fit(store), store)
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(data.vectors.ravel()), data.vectors.shape[1]
        )
        arrow = data.metadata.append_column("id", pa.array(data.ids)).append_column(
            "vector", column
        )
        table = lancedb.connect(Path(room) / "lance").create_table("proteins", data=arrow)

        queries = data.vectors[:50]
        nearest = [
            [hit["id"] for hit in table.search(query).distance_type("cosine").limit(10).to_list()]
            for query in queries
        ]
        nuclear = table.search(queries[0]).distance_type("cosine").where("location = 'Nucleus'")
        theirs = [hit["id"] for hit in nuclear.limit(3).to_list()]
        print(f"{table.count_rows()} proteins in LanceDB")
    index = Index.build(data)
    ours = index.search(queries[0], 3, "location = Nucleus").ids[0].tolist()
    print(f"nearest of the nucleus: {theirs}, by exact search {ours}")
    exact = index.search(queries, 10).ids
    same = np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact, nearest, strict=True)])
    print(f"{100 * same:.1f} % of the ten nearest are those of exact search")


if __name__ == "__main__":
    main()
