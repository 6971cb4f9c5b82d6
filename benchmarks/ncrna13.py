"""The RNA figure: OneVec against the mean on ncrna13, with the benchmark's encoder, split and kNN.

    python benchmarks/ncrna13.py [--data DIR] [--effort quick] [--seeds 3] [--rebuild-encoder]

The encoder is a masked language model that `onevec pretrain` made from the train split; it stands
in benchmarks/encoders/ncrna13, and `--rebuild-encoder` makes it again (about half an hour on one
core). Labels score, they fit nothing. Writes benchmarks/results/ncrna13.json.
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
from onevec.encoders.text import corpus_fingerprint
from onevec.use.vectors import every_method

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/ncrna13.json"
ENCODER = ROOT / "benchmarks/encoders/ncrna13"
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


def tokens(sequences: list[str], part: str) -> TokenStore:
    """Encode, or take the store of an earlier run with this encoder and these sequences."""
    weights = (ENCODER / "model.safetensors").read_bytes()
    key = hashlib.sha256(weights + corpus_fingerprint(sequences).encode()).hexdigest()[:16]
    out = ROOT / ".cache" / f"ncrna13-{part}-{key}"
    if (out / "index.json").is_file():
        return TokenStore(out)
    store = encode(sequences, ENCODER, out=out, long="window", overwrite=True)
    assert isinstance(store, TokenStore)
    return store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ONEVEC_DATA", "data")))
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rebuild-encoder", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    parts = split(args.data)
    train, y_train = parts["train"]
    y_test = parts["test"][1]
    if args.rebuild_encoder:
        print("pretraining the encoder (3,000 steps) …")
        pretrain(
            train, ENCODER, tokenizer="character", save_dtype="float16", threads=1, overwrite=True
        )
    made = json.loads((ENCODER / "pretrain.json").read_text())
    if made["corpus_sha256"] != corpus_fingerprint(train):
        raise SystemExit("the encoder was made from another train split: use --rebuild-encoder")
    stores = {name: tokens(parts[name][0], name) for name in ("train", "test")}
    runs = []
    for seed in range(args.seeds):
        start = time.perf_counter()
        model = OneVec(dim=64, effort=args.effort, random_state=seed).fit(stores["train"])
        seconds = time.perf_counter() - start
        scored = every_method(model, stores["test"])
        memory = every_method(model, stores["train"])
        pairs = {name: (memory[name], scored[name]) for name in memory}
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
