"""The RNA figure: OneVec against the mean on ncrna13, with the benchmark's encoder, split and kNN.

    python benchmarks/ncrna13.py [--data DIR] [--effort quick] [--seeds 3]

The encoder is a masked language model that `onevec pretrain` makes from the train split; it is
cached under .cache by the hash of its corpus. Labels score, they fit nothing. Writes
benchmarks/results/ncrna13.json.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np

from onevec import OneVec, TokenStore, encode, evaluate, pretrain

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/ncrna13.json"
SOURCE = "IcarPA-TBlab/nrc on GitHub (nRC, ECCB 2017)"


def split(data: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Official split; duplicates, sequences under two labels and test items of train are out."""
    path = data / "ncrna13/ncrna13.csv.gz"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: set --data or ONEVEC_DATA; its source is {SOURCE}")
    labels: dict[str, set[str]] = {}
    parts: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    with gzip.open(path, "rt", newline="") as handle:
        for row in csv.DictReader(handle):
            labels.setdefault(row["sequence"], set()).add(row["label"])
            parts[row["split"]][row["sequence"]] = row["label"]
    out = {}
    for name, rows in parts.items():
        kept = [
            (sequence, label)
            for sequence, label in rows.items()
            if len(labels[sequence]) == 1 and not (name == "test" and sequence in parts["train"])
        ]
        out[name] = ([s for s, _ in kept], np.array([label for _, label in kept]))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ONEVEC_DATA", "data")))
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    parts = split(args.data)
    (train, y_train), (test, y_test) = parts["train"], parts["test"]
    key = hashlib.sha256("\n".join(train).encode()).hexdigest()[:16]
    encoder = ROOT / ".cache" / f"ncrna13-{key}"
    if not encoder.is_dir():
        print("pretraining the encoder (3,000 steps) …")
        pretrain(train, encoder, tokenizer="character")
    made = json.loads((encoder / "pretrain.json").read_text())
    stores = {}
    for name, sequences in (("train", train), ("test", test)):
        out = ROOT / ".cache" / f"ncrna13-{key}-{name}"
        fresh = not (out / "index.json").is_file()
        stores[name] = (
            encode(sequences, encoder, out=out, long="window") if fresh else TokenStore(out)
        )
    runs = []
    for seed in range(args.seeds):
        start = time.perf_counter()
        model = OneVec(dim=64, effort=args.effort, random_state=seed).fit(stores["train"])
        seconds = time.perf_counter() - start
        names = ("mean", "mean_pca", "mean_whitened")
        pairs = {
            name: tuple(model.transform_baseline(stores[part], name) for part in stores)
            for name in names
        }
        pairs["onevec"] = tuple(model.transform(store) for store in stores.values())
        table = evaluate(pairs, y_train, y_test, draws=10, random_state=seed)
        runs.append({"seed": seed, "fit_seconds": round(seconds, 1), **table})
        runs[-1]["verdict"] = model.verdict_.as_dict()
        print(f"seed {seed}: {model.verdict_.sentence}")
        for name, row in table.items():
            gain = f"{row['gain']:+.1f} {row['interval']}" if "gain" in row else ""
            scores = f"kNN {row['knn']:.1f}  10-shot {row['shot10']:.1f}"
            print(f"  {name:<14}{row['dim']:>4}  {scores}  {gain}")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    result = {
        "masked_accuracy": made["masked_accuracy"],
        "unigram_accuracy": made["unigram_accuracy"],
        "encoder": made,
        "effort": args.effort,
        "commit": commit.stdout.strip(),
        "machine": platform.platform(),
        "runs": runs,
    }
    accuracy, unigram = made["masked_accuracy"], made["unigram_accuracy"]
    print(f"masked accuracy {accuracy:.3f}, commonest token {unigram:.3f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
