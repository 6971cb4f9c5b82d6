"""OneVec inside scikit-learn: who speaks? Nine speakers, two vowels, 12 coefficients per frame."""

import gzip
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onevec import OneVec

DATA = Path(__file__).parents[1] / "benchmarks/data/ucr_uea_small/JapaneseVowels.jsonl.gz"

with gzip.open(DATA, "rt") as handle:
    rows = [json.loads(line) for line in handle]
sides = {}
for split in ("train", "test"):
    part = [r for r in rows if r["split"] == split]
    tokens = [np.array(r["x"], np.float32).T for r in part]  # (frames, 12) each
    sides[split] = tokens, np.array([r["label"] for r in part])
(train, y_train), (test, y_test) = sides["train"], sides["test"]

pipeline = make_pipeline(OneVec(), StandardScaler(), LogisticRegression(max_iter=1000))
scores = cross_val_score(pipeline, train, y_train, cv=3)
print(f"cross-validated accuracy of the default: {100 * scores.mean():.1f} %")

choices = {"onevec__parts": ["mean", "mean,plain", "mean,rich,plain"]}
search = GridSearchCV(pipeline, choices, cv=3).fit(train, y_train)
width = search.best_estimator_["onevec"].vector_.dim_out
print(f"best parts: {search.best_params_['onevec__parts']}, {width} dimensions")
print(f"accuracy on the test part: {100 * search.score(test, y_test):.1f} %")
