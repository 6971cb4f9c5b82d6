"""An index is a LanceDB database: open it with LanceDB's own client, filter, take a change back.

    python examples/lancedb_store.py [--rows 300]

Proteins and encoder come with onevec. The figure is the share of LanceDB's ten nearest that onevec
finds too.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import lancedb
import numpy as np

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
        index = Index.open(Index.build(data).save(Path(room) / "index"))
        table = lancedb.connect(Path(room) / "index").open_table("vectors")
        print(f"{table.count_rows()} proteins in LanceDB")

        nuclear = table.search(data.vectors[0]).distance_type("cosine")
        nuclear = nuclear.where("location = 'Nucleus'").limit(3)
        ours = index.search(data.vectors[0], 3, "location = 'Nucleus'").ids[0].tolist()
        theirs = [hit["id"] for hit in nuclear.to_list()]
        print(f"nearest of the nucleus: {ours}, by LanceDB {theirs}")

        version = index.table.version
        index.delete(data.ids[:100])
        print(f"{len(index)} are left after a deletion", end=", ")
        index.table.restore(version)
        print(f"{len(index)} after it was taken back")

        queries = data.vectors[:50]
        nearest = [
            [hit["id"] for hit in table.search(query).distance_type("cosine").limit(10).to_list()]
            for query in queries
        ]
        exact = index.search(queries, 10).ids
    same = np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact, nearest, strict=True)])
    print(f"{100 * same:.1f} % of the ten nearest are the same")


if __name__ == "__main__":
    main()
