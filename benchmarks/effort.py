"""What a fit costs beside the encoding it follows, and on ready arrays, at each effort.

    python benchmarks/effort.py [--data DIR] [--tokens 1000000] [--fits 3] [--threads N]

- encoder: texts (20 newsgroups) through all-MiniLM-L6-v2, six layers of 384 dimensions, into a
  store; then `OneVec(effort=...).fit(store)`, as a share of the seconds of encoding.
- arrays: as many token vectors of 128 dimensions as a list of arrays, seconds per million.

All in one process, one after the other and by the same number of threads; of the fits the median.
Imports and the first fit of a process are not counted. Writes benchmarks/results/effort.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from onevec import OneVec, TokenStore, encode
from protocol import tasks
from protocol.made_by import made_by
from protocol.ready_made import minilm

OUT = Path(__file__).parent / "results/effort.json"
MILLION = 1_000_000
ARRAY_DIM, ARRAY_TOKENS = 128, 50
SHARES = {"quick": 0.05, "standard": 0.25, "thorough": None}  # of the encoding, at most
SECONDS = {"quick": 10.0, "standard": 120.0, "thorough": None}  # per million tokens, at most


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def texts(data: Path, tokens: int) -> list[str]:
    """Real posts, again and again if there are too few, that make some number of tokens."""
    from transformers import AutoTokenizer

    unit = tasks.units("newsgroups20", data)[0]
    posts = [*unit.train, *unit.test]
    read = AutoTokenizer.from_pretrained(minilm())
    lengths = [len(ids) - 2 for ids in read(posts, verbose=False)["input_ids"]]
    once = sum(lengths)
    whole = posts * (tokens // once)
    reached = np.searchsorted(np.cumsum(lengths), tokens - once * (tokens // once)) + 1
    return whole + posts[:reached]


def arrays(tokens: int) -> list[np.ndarray]:
    """Sequences around random centres, of 2 to 98 tokens."""
    rng = np.random.default_rng(0)
    found, made = [], 0
    while made < tokens:
        length = int(rng.integers(2, 2 * ARRAY_TOKENS - 1))
        centre = rng.standard_normal(ARRAY_DIM)
        found.append((centre + rng.standard_normal((length, ARRAY_DIM))).astype(np.float32))
        made += length
    return found


def fits(source: Any, times: int) -> dict[str, list[float]]:
    """Seconds of fits at each effort, taken in turn."""
    found: dict[str, list[float]] = {effort: [] for effort in SHARES}
    for seed in range(times):
        for effort, taken in found.items():
            model = OneVec(effort=effort, random_state=seed)
            taken.append(seconds(lambda model=model: model.fit(source)))
            print(f"  {effort}, fit {seed + 1} of {times}: {taken[-1]:.1f} s", flush=True)
    return found


def table(
    taken: dict[str, list[float]], unit: float, most: dict[str, float | None]
) -> dict[str, dict[str, Any]]:
    """The median of each effort's fits in some unit of seconds, beside what it may be."""
    found: dict[str, dict[str, Any]] = {}
    for effort, runs in taken.items():
        value = statistics.median(runs) / unit
        found[effort] = {"seconds": [round(each, 2) for each in runs], "value": round(value, 4)}
        goal = most[effort]
        if goal is not None:
            found[effort] |= {"goal": goal, "met": value <= goal}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (else $ONEVEC_DATA)")
    parser.add_argument("--tokens", type=int, default=MILLION)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    data = tasks.data_folder(args.data)
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads), tempfile.TemporaryDirectory() as folder:
        ready = arrays(args.tokens)
        OneVec(effort="thorough").fit(ready[:500])  # imports what is imported late
        encode(["warm"], minilm(), progress=False)
        print("arrays", flush=True)
        counted = sum(map(len, ready))
        alone = table(fits(ready, args.fits), counted / MILLION, SECONDS)
        posts = texts(data, args.tokens)
        out = Path(folder) / "store"
        encoding = seconds(lambda: encode(posts, minilm(), out=out, long="window", progress=False))
        store = TokenStore(out)
        print(f"encoding {store.lengths.sum():,} tokens: {encoding:.0f} s", flush=True)
        beside = table(fits(store, args.fits), encoding, SHARES)
    result = {
        "made_by": made_by(seeds=list(range(args.fits)), threads=args.threads),
        "encoder": {
            "name": "all-MiniLM-L6-v2, 6 layers of 384 dimensions, float32",
            "sequences": len(posts),
            "tokens": int(store.lengths.sum()),
            "seconds of encoding": round(encoding, 1),
            "share of it": beside,
        },
        "arrays": {
            "sequences": len(ready),
            "tokens": counted,
            "dim": ARRAY_DIM,
            "seconds per million tokens": alone,
        },
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
