"""A task of MTEB from local data, chess openings as text: the mean and onevec on one encoder."""

import csv
import gzip
from pathlib import Path

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification
from mteb.abstasks.task_metadata import TaskMetadata
from sklearn.linear_model import LogisticRegression

from onevec import OneVec, encode
from onevec.use.mteb import MTEBModel

ROOT = Path(__file__).parents[1] / "benchmarks"
ENCODER = ROOT / "encoders/chess"

with gzip.open(ROOT / "data/chess_openings/chess_openings.csv.gz", "rt") as handle:
    rows = list(csv.DictReader(handle))
parts = {"train": rows[::8], "test": rows[4::8]}


class ChessOpenings(AbsTaskClassification):
    """Logistic regression on eight openings per volume of the encyclopaedia, five times."""

    metadata = TaskMetadata(
        name="ChessOpenings",
        description="In which volume of the encyclopaedia is an opening?",
        type="Classification",
        category="t2c",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="accuracy",
        dataset={"path": "local", "revision": "1"},
    )
    n_experiments = 5
    evaluator_model = LogisticRegression(max_iter=1000)

    def load_data(self, **_):
        """Local data in place of a download."""
        self.dataset = DatasetDict()
        for split, part in parts.items():
            labels = ["ABCDE".index(r["volume"]) for r in part]
            columns = {"text": [r["moves"] for r in part], "label": labels}
            self.dataset[split] = Dataset.from_dict(columns)
        self.data_loaded = True


fitted = OneVec().fit(encode([r["moves"] for r in parts["train"]], ENCODER, progress=False))
for method in ("mean", "onevec"):
    model = MTEBModel(ENCODER, fitted, method=method, name=f"example/{method}")
    result = mteb.evaluate(model, ChessOpenings(), cache=None, show_progress_bar=False)
    print(f"{method:<8} accuracy {100 * result.task_results[0].get_score():.1f} %")
