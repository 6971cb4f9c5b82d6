"""Search proteins by raw sequence: encode, fit, index, ask, and say how unusual a hit is.

    python examples/search.py [--rows 400]

Data and encoder come with onevec. Each of 100 proteins that the index does not hold asks for its
five nearest; the figure is the share of hits from the same compartment of the cell, for onevec and
for the mean.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from onevec import OneVec, encode
from onevec.demo.walk import encoder_folder, load_proteins
from onevec.use.calibration import Calibration
from onevec.use.search import Found, Index, search
from onevec.use.similarity import near_duplicates
from onevec.use.vectors import model_fingerprint


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=400, help="proteins in the index")
    rows = parser.parse_args().rows
    parts = load_proteins()
    known, asked = sample(parts["val"], rows), sample(parts["test"], 100)
    with tempfile.TemporaryDirectory() as room, encoder_folder() as encoder:
        store = encode(known["sequence"], encoder, out=Path(room) / "store", ids=known["uniprot"])
        model = OneVec().fit(store)
        vectors = model.transform(store)
        labels = {"location": known["location"], "length": [len(s) for s in known["sequence"]]}
        index = Index.build(vectors, known["uniprot"], labels, made_by=model_fingerprint(model))
        # Raw sequences in, hits out: the encoder and the model run in between.
        found = search(index, asked["sequence"], 5, model=model, encoder=encoder)
        means = model.transform_baselines(store)["mean"]
        queries = encode(asked["sequence"], encoder, out=Path(room) / "queries")
        baseline = Index.build(means, metadata=labels).search(
            model.transform_baselines(queries)["mean"], 5
        )
    calibration = Calibration.fit(vectors)
    print(f"{asked['uniprot'][0]}: nearest {found.ids[0, 0]}, cosine {found.scores[0, 0]:.3f}")
    print(f"  {calibration.sentence(float(found.scores[0, 0]), len(index))}")
    long = index.search(vectors[:1], 3, "length > 200 AND location != 'Nucleus'")
    print(f"long, and not of the nucleus: {', '.join(long.ids[0])}")
    kept = (near_duplicates(index) == np.arange(len(index))).sum()
    print(f"{kept} of {len(index)} are left when one of each group of near-duplicates is kept")
    for name, hits in (("mean", baseline), ("onevec", found)):
        print(f"{name}: {share(hits, asked['location']):.1f} % of hits from the same compartment")


def sample(columns: dict[str, list[str]], rows: int) -> dict[str, list[str]]:
    """Take a seeded sample of short proteins, which are quick to encode."""
    short = [row for row, text in enumerate(columns["sequence"]) if len(text) <= 250]
    some = np.random.default_rng(0).permutation(short)[:rows]
    return {name: [column[row] for row in some] for name, column in columns.items()}


def share(found: Found, wanted: list[str]) -> float:
    """Share of the hits, in percent, whose compartment is the query's."""
    hits = np.array(found.metadata["location"].to_pylist()).reshape(found.ids.shape)
    return 100 * float((hits == np.array(wanted)[:, None]).mean())


if __name__ == "__main__":
    main()
