"""Seconds and memory of training a standard-effort head on 100,000 x 64 tokens x 384 dims.

    python benchmarks/train_speed.py [--sequences 100000] [--pooler query_attention]

The token vectors are made up (about 5 GB in a temporary folder); only the time is of interest.
Writes benchmarks/results/train_speed.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from onevec import OneVec, TokenStore
from onevec.tokens.store import TokenStoreWriter
from protocol.made_by import made_by

OUT = Path(__file__).parent / "results/train_speed.json"
TOKENS, DIM = 64, 384


def make_store(path: Path, sequences: int) -> TokenStore:
    """Sequences around a thousand random centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1_000, DIM)).astype(np.float32)
    with TokenStoreWriter(path, dim=DIM) as writer:
        for first in range(0, sequences, 1_000):
            count = min(1_000, sequences - first)
            values = rng.standard_normal((count, TOKENS, DIM), dtype=np.float32)
            values += centres[rng.integers(len(centres), size=count)][:, None]
            writer.append([torch.from_numpy(each) for each in values])
    return TokenStore(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--pooler", default="query_attention")
    parser.add_argument("--objective", default="info_nce")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", args.sequences)
        began = time.perf_counter()
        model = OneVec(effort="standard", pooler=args.pooler, objective=args.objective)
        training = model.fit(store).training_
        whole = time.perf_counter() - began
    result = {
        "sequences": args.sequences,
        "tokens each": TOKENS,
        "dim": DIM,
        "pooler": args.pooler,
        "objective": args.objective,
        "steps": training.steps,
        "training seconds": training.seconds,
        "fit seconds": round(whole, 1),
        "peak memory GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "made_by": made_by(seeds=[0], threads=torch.get_num_threads()),
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
