"""What vectors are good for, measured: search.

    python benchmarks/use.py [--quick] [--data DIR] [--parts indexes,retrieval]

- indexes: each kind of index over the vectors of the unlabelled SMILES corpus (more than 100,000
  molecules): recall@10 against exact search in the same vectors for 1,000 molecules that the index
  does not hold, queries per second of one core, size on disk.
- retrieval: R-precision against labels of the mean and of onevec, whole and at 64 dimensions, in
  fp32, int8 and single bits.

Writes the section "search" of benchmarks/results/use.json and leaves its other sections. QUICK
takes shipped data alone and writes results/quick_use.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from onevec import OneVec, encode
from onevec.probes.outcomes import Outcome, paired_gain
from onevec.probes.probes import retrieval_probe
from onevec.project.quantise import BinaryQuantize, Int8Quantize
from onevec.project.rows import normalise
from onevec.use.search import Index
from protocol import encoders, tasks
from protocol.made_by import line, made_by
from protocol.producer import pooled

RESULTS = Path(__file__).parent / "results"
SHIPPED_DATA = Path(__file__).parent / "data"
QUERIES, QUICK_QUERIES, K = 1_000, 100, 10
DIM = 64
UNUSABLE = (tasks.MissingDataError, encoders.NotMadeError, encoders.WeakEncoderError)
INDEXES: dict[str, dict[str, Any]] = {
    "exact": {},
    "exact, float16": {"dtype": "float16"},
    "hnsw": {"kind": "hnsw"},
    "hnsw, float16": {"kind": "hnsw", "dtype": "float16"},
}
# Rows of the quality benchmark, and of each the units and targets whose classes are sought.
RETRIEVAL = {
    "banking77": ("banking77",),
    "chess": ("chess",),
    "ncrna13": ("ncrna13",),
    "molecules": ("molecules/hiv",),
}


def fp32(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, int]:
    return normalise(test), 4 * test.shape[1]


def int8(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, int]:
    coder = Int8Quantize().fit(normalise(train))
    return normalise(coder.inverse_transform(coder.transform(normalise(test)))), test.shape[1]


def binary(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, int]:
    """Signs: their product falls with the Hamming distance, and is exact, so that ties tie."""
    coder = BinaryQuantize(packed=False).fit(normalise(train))
    signs = 2.0 * coder.transform(normalise(test)) - 1
    return signs.astype(np.float32), -(-test.shape[1] // 8)


PRECISIONS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, int]]] = {
    "fp32": fp32,
    "int8": int8,
    "binary": binary,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (else $ONEVEC_DATA)")
    parser.add_argument("--quick", action="store_true", help="shipped data alone, few rows")
    parser.add_argument("--parts", default="indexes,retrieval")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/use.json")
    args = parser.parse_args(arguments)
    data = SHIPPED_DATA if args.quick else tasks.data_folder(args.data, "; --quick needs none")
    out = args.out or RESULTS / ("quick_use.json" if args.quick else "use.json")
    parts = {"indexes": indexes, "retrieval": retrieval}
    with one_thread():
        for name in args.parts.split(","):
            if name not in parts:
                raise SystemExit(f"there is no part {name!r}: choose from {', '.join(parts)}")
            began = time.perf_counter()
            found = parts[name](data, args.quick)
            seconds = round(time.perf_counter() - began, 1)
            made = made_by(seeds=[0], threads=1)
            merge(out, "search", {name: {**found, "seconds": seconds, "made_by": made}})
            print(f"{out}: search, {name}, in {seconds:.0f} s", flush=True)


@contextmanager
def one_thread() -> Iterator[None]:
    import faiss

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


def merge(out: Path, section: str, found: dict[str, Any]) -> None:
    """Renew parts of a section of a file; everything else in it stays."""
    whole = json.loads(out.read_text()) if out.is_file() else {}
    whole[section] = {**whole.get(section, {}), **found}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(whole, indent=1) + "\n")
    part.replace(out)


def markdown(found: dict[str, Any]) -> str:
    """Lay out the section "search" of use.json: indexes, then retrieval."""
    parts = []
    if "indexes" in found:
        parts += _index_table(found["indexes"])
    if "retrieval" in found:
        parts += _retrieval_table(found["retrieval"])
    return "\n".join(parts)


def _index_table(part: dict[str, Any]) -> list[str]:
    known = ("recall@10", "queries per second", "ms for one", "MB", "seconds to build")
    lines = [
        f"{part['indexed']:,} vectors of {part['corpus']}, {part['queries']:,} queries that no "
        f"index holds. Made with {line(part['made_by'])}.",
        "",
        f"| vectors | dimensions | index | {' | '.join(known)} |",
        f"|---|--:|---|{'--:|' * len(known)}",
    ]
    for row in part["rows"]:
        cells = " | ".join(f"{row[name]:,}" for name in known)
        lines.append(f"| {row['vectors']} | {row['dim']} | {row['index']} | {cells} |")
    return [*lines, ""]


def _retrieval_table(part: dict[str, Any]) -> list[str]:
    lines = [
        "R-precision in % of the test part's vectors among each other, by cosine or Hamming "
        "distance; gain over the mean in fp32 with its 95 % interval. Made with "
        f"{line(part['made_by'])}.",
        "",
        "| data | encoder | vectors | precision | bytes | R-precision | gain |",
        "|---|---|---|---|--:|--:|--:|",
    ]
    for row in part["rows"]:
        gain = row.get("gain over the mean in fp32")
        value = (
            ""
            if gain is None
            else "{:+.1f} [{:+.1f}, {:+.1f}]".format(gain["gain"], *gain["interval"])
        )
        about = [row["unit"], row["encoder"], row["method"], row["precision"], str(row["bytes"])]
        cells = [*about, f"{row['R-precision']:.1f}", value.replace("-", "−")]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


# --- indexes ------------------------------------------------------------------------------------


def corpus(data: Path, quick: bool) -> tuple[list[str], str]:
    """Unlabelled sequences in a seeded order, and their encoder."""
    if quick:
        texts, encoder = [r["moves"] for r in tasks.table(_chess(data))], "chess"
    else:
        path = data / "molecules/corpus_muv_chembl.smi.gz"
        if not path.is_file():
            raise SystemExit(f"{path} is missing: set --data or ONEVEC_DATA")
        with gzip.open(path, "rt") as handle:
            texts, encoder = [line.strip() for line in handle], "smiles"
    texts = list(dict.fromkeys(text for text in texts if text))
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[row] for row in order], encoder


def _chess(data: Path) -> Path:
    return data / "chess_openings/chess_openings.csv.gz"


def indexes(data: Path, quick: bool) -> dict[str, Any]:
    texts, encoder = corpus(data, quick)
    try:
        encoders.manifest(encoder)
    except encoders.NotMadeError as error:
        raise SystemExit(f"{error} (of benchmarks/quality.py)") from error
    count = QUICK_QUERIES if quick else QUERIES
    encoders.CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=encoders.CACHE) as room:
        store = encode(
            texts, encoders.folder(encoder), out=Path(room) / "store", long="window", progress=False
        )
        print(f"{len(store):,} sequences encoded", flush=True)
        vectors = {"onevec": OneVec(dim=DIM).fit(store).transform(store)}
        vectors["mean"] = pooled("mean", store)
    rows = []
    for name, X in vectors.items():
        known, queries = X[count:], X[:count]
        exact = Index.build(known).search(queries, K).scores
        chosen = INDEXES if name == "onevec" else {n: INDEXES[n] for n in ("exact", "hnsw")}
        for kind, settings in chosen.items():
            row = {"vectors": name, "dim": X.shape[1], "index": kind}
            rows.append(row | measured(known, queries, exact, settings))
            print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return {
        "corpus": "chess openings" if quick else "MUV and ChEMBL molecules (DeepChem)",
        "encoder": encoder,
        "indexed": len(texts) - count,
        "queries": count,
        "rows": rows,
    }


def measured(
    known: np.ndarray, queries: np.ndarray, exact: np.ndarray, settings: dict[str, Any]
) -> dict[str, Any]:
    """Build, save and open an index; what it takes and what it finds."""
    began = time.perf_counter()
    index = Index.build(known, **settings)
    index.search(queries[:1], K)  # the first search makes the graph
    build = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as room:
        path = index.save(Path(room) / "index")
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        began = time.perf_counter()
        opened = Index.open(path)
        opened.search(queries[:10], K)  # the table is read
        seconds_to_open = time.perf_counter() - began
        began = time.perf_counter()
        found = opened.search(queries, K)
        batch = time.perf_counter() - began
        single = []
        for query in queries[:50]:
            began = time.perf_counter()
            opened.search(query, K)
            single.append(time.perf_counter() - began)
    # Found by what it is worth in the full vectors, so that ties count.
    rows = found.ids.astype(int)
    worth = (normalise(queries)[:, None] * normalise(known)[rows]).sum(-1)
    recall = (worth >= exact[:, -1:] - 1e-6).mean()
    return {
        "recall@10": round(float(recall), 4),
        "queries per second": round(len(queries) / batch),
        "ms for one": round(1e3 * float(np.median(single)), 2),
        "MB": round(size / 2**20, 1),
        "seconds to build": round(build, 1),
        "seconds to open": round(seconds_to_open, 2),
    }


# --- retrieval ----------------------------------------------------------------------------------


def retrieval(data: Path, quick: bool) -> dict[str, Any]:
    rows, left_out = [], []
    for row in ("chess",) if quick else RETRIEVAL:
        try:
            units = [unit for unit in tasks.units(row, data) if unit.id in RETRIEVAL[row]]
        except tasks.MissingDataError as error:
            left_out.append(str(error))
            continue
        for unit in units:
            for encoder in tasks.ROWS[row].encoders:
                try:
                    rows += retrieved(tasks.shrink(unit) if quick else unit, encoder, data)
                except UNUSABLE as error:
                    left_out.append(str(error))
    return {"measure": "R-precision in %, cosine or Hamming", "rows": rows, "left out": left_out}


def retrieved(unit: tasks.Unit, encoder: str, data: Path) -> list[dict[str, Any]]:
    train, test = encoders.tokens(unit, encoder, data)
    methods = {"mean": (pooled("mean", train), pooled("mean", test))}
    for name, model in {"onevec": OneVec(), f"onevec_{DIM}": OneVec(dim=DIM)}.items():
        model.fit(train)
        methods[name] = model.transform(train), model.transform(test)
    rows = []
    for target in unit.targets:
        codes = sought(target)
        outcomes: dict[tuple[str, str], Outcome] = {}
        for precision, code in PRECISIONS.items():
            for name, (known, asked) in methods.items():
                vectors, size = code(known, asked[target.test])
                found = retrieval_probe(vectors.astype(np.float32), codes)
                outcomes[name, precision] = found
                line = {"unit": unit.id, "encoder": encoder, "target": target.name}
                line |= {"method": name, "precision": precision, "dim": asked.shape[1]}
                line |= {"bytes": size, "R-precision": round(found.score(), 2)}
                if (name, precision) != ("mean", "fp32"):
                    gain = paired_gain({"": found}, {"": outcomes["mean", "fp32"]})
                    line["gain over the mean in fp32"] = {
                        "gain": round(gain["gain"], 2),
                        "interval": [round(end, 2) for end in gain["interval"]],
                    }
                rows.append(line)
                print(" ".join(f"{key} {value}" for key, value in line.items()), flush=True)
    return rows


def sought(target: tasks.Target) -> np.ndarray:
    """Classes by number; of a binary target only the positive one is sought.

    A class of one item does not count, so every negative is a class of its own.
    """
    if target.kind == "classes":
        return np.unique(target.y_test, return_inverse=True)[1]
    return np.where(target.y_test > 0, 0, 1 + np.arange(len(target.y_test)))


if __name__ == "__main__":
    main()
