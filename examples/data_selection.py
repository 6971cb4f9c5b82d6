"""Which 60 of 1,269 chess openings to label first: selection by vectors, and random choice."""

import csv
import gzip
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from onevec import OneVec, encode
from onevec.use.select import SELECTORS, select

ROOT = Path(__file__).parents[1] / "benchmarks"

with gzip.open(ROOT / "data/chess_openings/chess_openings.csv.gz", "rt") as handle:
    rows = list(csv.DictReader(handle))[::3]
moves, volume = [r["moves"] for r in rows], np.array([r["volume"] for r in rows])

tokens = encode(moves, ROOT / "encoders/chess", progress=False)
vectors = OneVec().fit_transform(tokens)  # no labels


def accuracy(chosen):
    """Of a classifier that knows the labels of the chosen openings alone, on all others."""
    others = np.setdiff1d(np.arange(len(vectors)), chosen)
    model = LogisticRegression(C=10, max_iter=1000).fit(vectors[chosen], volume[chosen])
    return 100 * model.score(vectors[others], volume[others])


for method in SELECTORS:
    runs = [select(vectors, 60, method, random_state=seed) for seed in range(3)]
    scores = [accuracy(run.rows) for run in runs]
    print(f"{method:<18} accuracy {np.mean(scores):.1f} %  mean cosine to the nearest chosen one "
          f"{np.mean([run.coverage for run in runs]):.3f}")  # fmt: skip

first = select(vectors, 60).rows
more = select(vectors, 20, labelled=first)
print(f"the next 20, far from the first 60: {', '.join(rows[k]['name'] for k in more.rows[:2])} …")
