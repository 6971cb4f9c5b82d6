"""The wide vector on every encoder and task, against the native mean of the last layer.

    python benchmarks/wide.py                    every row; what is done is not done again
    python benchmarks/wide.py --rows minilm sceptr    rows whose name holds one of the words
    python benchmarks/wide.py --rows untrained --out benchmarks/results/untrained.json
    python benchmarks/wide.py --table           the verdict's table anew, of both files
    python benchmarks/wide.py --calibration     how right the verdict is on encoders left out
    python benchmarks/wide.py --check            a few cells by the present code, beside the file

Everything goes through the public API: `OneVec(...)` is fitted without labels to the train part,
and the test part is scored. Vectors are by one fit (seed 0); cells are kept under .cache by their
data, settings and code, so that a run that was stopped goes on. benchmarks/results/wide.json has
every cell, wide.md the tables made of it. Encoders with random weights have a file of their own,
untrained.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from onevec import OneVec
from onevec.judge.measured import COVERED, FILE, estimate, kind_of
from onevec.probes.outcomes import mean_resampled, mean_score
from onevec.tokens.batches import Tokens
from onevec.tokens.store import TokenStore
from onevec.vector.parts import frame_like
from protocol import encoders, tasks, wide, wide_report
from protocol.code_key import code_key
from protocol.made_by import made_by
from protocol.wide_probes import PROBES, describe, plain_mean, score

RESULTS = encoders.ROOT / "benchmarks/results"
CELLS = encoders.CACHE / "wide"
SEED, RESAMPLES = 0, 500
MEAN, MIDDLE_MEAN = "mean", "mean of middle"
# What is compared: settings of `OneVec`, or words for what does not go through it.
METHODS: dict[str, dict[str, Any] | str] = {
    MEAN: "the native mean of the last layer, by NumPy",
    MIDDLE_MEAN: "the native mean of the middle layer, by NumPy",
    "default": {},
    "equal weights": {"parts": {"mean": 1, "rich": 1, "plain": 1}},
    "rich": {"parts": ["rich"]},
    "plain": {"parts": ["plain"]},
    "centred mean": {"parts": ["mean"]},
    "two layers": {"layers": {"last": 1.0, "middle": 0.6}},
    "64 dimensions": {"dim": 64},
    "agreeing layers": {"layers": "auto"},
}
UNUSABLE = (tasks.MissingDataError, encoders.NotMadeError, ImportError)
SEVERAL = (MIDDLE_MEAN, "two layers", "agreeing layers")  # need more than one stored hidden state
CHECKED = ("sceptr-masked, dash", "minilm, trec", "frames, gesture", "bags of events 0")
CHECKED_METHODS = (MEAN, "default", "two layers")


@dataclass(frozen=True)
class Settings:
    """What a run is told."""

    data: Path
    rows: tuple[str, ...] = ()
    fresh: bool = False  # look at no kept cell
    methods: tuple[str, ...] = ()  # all where none is named


# --- vectors ------------------------------------------------------------------------------------


def middle(store: TokenStore) -> int:
    """The stored layer nearest to what `encode` calls the middle; of two, the deeper."""
    half = max(1, store.info["encoder"]["depth"] // 2)
    return min(store.layers, key=lambda layer: (abs(layer - half), -layer))


def vectors(name: str, train: Tokens, test: Tokens) -> tuple[np.ndarray, np.ndarray, float]:
    """Vectors of both parts by a method, and the seconds of one core that fitting took."""
    settings = METHODS[name]
    if isinstance(settings, str):
        if name == MIDDLE_MEAN:
            train, test = train.layer(middle(train)), test.layer(middle(test))
        return plain_mean(train), plain_mean(test), 0.0
    began = time.process_time()
    model = OneVec(**settings, random_state=SEED).fit(train)
    seconds = time.process_time() - began
    return model.transform(train), model.transform(test), seconds


def has_several(tokens: Tokens) -> bool:
    """Whether several hidden states are stored and the last of them is read."""
    if not isinstance(tokens, TokenStore) or len(tokens.layers) < 2:
        return False
    return tokens.current_layer == tokens.layers[-1]


# --- cells --------------------------------------------------------------------------------------


def content(tokens: Tokens) -> str:
    """What token vectors are: their checksums."""
    if isinstance(tokens, TokenStore):
        sums = [shard["sha256"] for shard in tokens.info["shards"]]
        return " ".join([*sums, str(tokens.current_layer)])
    digest = hashlib.sha256(tokens.values.numpy().tobytes())
    digest.update(tokens.lengths.numpy().tobytes())
    return digest.hexdigest()


def key_of(unit: tasks.Unit, tokens: Sequence[Tokens], name: str) -> str:
    """What decides a cell: token vectors, labels, settings and code."""
    digest = hashlib.sha256(f"{RESAMPLES} {SEED} {name} {METHODS[name]}".encode())
    for part in tokens:
        digest.update(content(part).encode())
    for target in unit.targets:
        digest.update(f"{target.name} {target.kind}".encode())
        for labels in (target.train, target.y_train, target.test, target.y_test):
            digest.update(np.asarray(labels).astype("U").tobytes())
    code = ["protocol.wide_probes"]
    if not isinstance(METHODS[name], str):
        code.append("onevec.estimator")
    return hashlib.sha256(f"{digest.hexdigest()} {code_key(*code)}".encode()).hexdigest()[:24]


def cell(
    unit: tasks.Unit, tokens: tuple[Tokens, Tokens], name: str, *, fresh: bool = False
) -> dict[str, Any]:
    """Scores of a method on every target of a unit, with their resamples; kept under .cache."""
    path = CELLS / f"{key_of(unit, tokens, name)}.npz"
    if path.is_file() and not fresh:
        with np.load(path) as held:
            found = json.loads(str(held["found"]))
            for target in found["targets"].values():
                for probe in target.values():
                    probe["drawn"] = held[probe["drawn"]]
            return found
    train, test, seconds = vectors(name, *tokens)
    found = {"dim": int(test.shape[1]), "seconds": round(seconds, 2), "targets": {}}
    seed = zlib.crc32(unit.id.encode())  # paired between methods
    for target in unit.targets:
        found["targets"][target.name] = {
            probe: {
                "score": mean_score(outcomes),
                "parts": {part: outcome.score() for part, outcome in outcomes.items()},
                "drawn": mean_resampled(outcomes, RESAMPLES, seed).astype(np.float32),
            }
            for probe, outcomes in score(train, test, target).items()
        }
    if not fresh:
        keep(path, found)
    return found


def keep(path: Path, found: Mapping[str, Any]) -> None:
    """Write a cell, whole or not at all; the resamples as arrays."""
    arrays: dict[str, np.ndarray] = {}

    def place(drawn: np.ndarray) -> str:
        arrays[f"a{len(arrays)}"] = drawn
        return f"a{len(arrays) - 1}"

    plain = found | {
        "targets": {
            target: {
                probe: each | {"drawn": place(each["drawn"])} for probe, each in probes.items()
            }
            for target, probes in found["targets"].items()
        }
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(part, found=np.array(json.dumps(plain)), **arrays)
    part.replace(path)


# --- rows ---------------------------------------------------------------------------------------


def row_cells(
    row: wide.Row, settings: Settings, methods: Sequence[str] | None = None
) -> dict[str, Any]:
    """Every method, or those named, on a row: what is known of its tokens, and a cell each."""
    unit = row.unit(settings.data)
    tokens = row.tokens(unit, settings.data)
    several = has_several(tokens[0])
    cells = {
        name: cell(unit, tokens, name, fresh=settings.fresh)
        for name in methods or METHODS
        if several or name not in SEVERAL
    }
    kind = "frames" if row.group in ("frames", "made") else "encoder"
    return {
        "labels": {target.name: row.label(unit, target.name) for target in unit.targets},
        "kinds": {target.name: target.kind for target in unit.targets},
        "descriptors": describe(tokens[0], kind),
        "cells": cells,
    }


def entries(found: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table, of the cells of each row by its id.

    What has one label, the assays of Tox21 or the draws of made bags, is averaged.
    """
    known = {row.id: row for row in wide.rows()}
    by_label: dict[str, list[tuple[str, str]]] = {}
    for name, each in found.items():
        for target, label in each["labels"].items():
            by_label.setdefault(label, []).append((name, target))
    return [entry(label, known, found, members) for label, members in by_label.items()]


def entry(
    label: str,
    known: Mapping[str, wide.Row],
    found: Mapping[str, dict[str, Any]],
    members: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """One row of the table: scores, and gains over the native mean with their intervals."""
    first = found[members[0][0]]
    described = [found[name]["descriptors"] for name in dict.fromkeys(name for name, _ in members)]
    columns: dict[str, Any] = {}

    def probes_of(method: str) -> list[dict[str, Any]]:
        return [found[name]["cells"][method]["targets"][target] for name, target in members]

    base = probes_of(MEAN)
    for method, made in first["cells"].items():
        ours = probes_of(method)
        column: dict[str, Any] = {"dim": made["dim"], "fit_seconds": made["seconds"]}
        for probe in ours[0]:
            parts = [each[probe]["parts"] for each in ours]
            column[probe] = {
                "score": _mean(each[probe]["score"] for each in ours),
                "parts": {part: _mean(each[part] for each in parts) for part in parts[0]},
            }
            if method == MEAN:
                continue
            drawn = np.mean(
                [a[probe]["drawn"] - b[probe]["drawn"] for a, b in zip(ours, base, strict=True)], 0
            )
            column[probe] |= {
                "gain": _mean(
                    a[probe]["score"] - b[probe]["score"] for a, b in zip(ours, base, strict=True)
                ),
                "interval": np.quantile(drawn, [0.025, 0.975]).round(2).tolist(),
            }
        columns[method] = column
    return {
        "group": known[members[0][0]].group,
        "name": label,
        "kind": first["kinds"][members[0][1]],
        "averaged": len(members),
        "descriptors": {
            name: value if isinstance(value, str) else _mean(each[name] for each in described)
            for name, value in described[0].items()
        },
        "columns": columns,
    }


def _mean(numbers: Any) -> float:
    return round(float(np.mean(list(numbers))), 4)


# --- the command --------------------------------------------------------------------------------


def _do(name: str, settings: Settings) -> dict[str, Any] | str:
    """A row's cells, or the sentence that says why it is left out; in a process of one thread."""
    with one_thread():
        row = next(row for row in wide.rows() if row.id == name)
        try:
            return row_cells(row, settings, settings.methods)
        except UNUSABLE as error:
            return str(error)


def one_thread() -> Any:
    import torch
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    return threadpool_limits(1)


def work(
    rows: Sequence[wide.Row], settings: Settings, jobs: int
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Cells of every row, as they are ready."""
    if jobs == 1:
        for row in rows:
            yield row.id, _do(row.id, settings)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = {pool.submit(_do, row.id, settings): row.id for row in rows}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def run(settings: Settings, jobs: int) -> dict[str, Any]:
    """Fill what is missing and return what wide.json holds."""
    chosen = [row for row in wide.rows() if picked(row, settings.rows)]
    found, left_out = {}, {}
    began = time.perf_counter()
    for count, (name, result) in enumerate(work(chosen, settings, jobs), 1):
        minutes = (time.perf_counter() - began) / 60
        if isinstance(result, str):
            left_out[name] = result
            print(f"[{count}/{len(chosen)}] {name} is left out: {result}", flush=True)
        else:
            found[name] = result
            print(f"[{count}/{len(chosen)}] {name}, {minutes:.1f} minutes", flush=True)
    ordered = {row.id: found[row.id] for row in chosen if row.id in found}
    note = "closed form, one fit; probes of 10 and 5 draws; intervals of 500 paired resamples"
    return {
        "made_by": made_by(seeds=[SEED], threads=1, note=note),
        "methods": METHODS,
        "left_out": left_out,
        "rows": entries(ordered),
    }


def picked(row: wide.Row, words: Sequence[str]) -> bool:
    return not words or any(word in (row.group, row.id) or word in row.id for word in words)


def read_results(path: Path) -> dict[str, Any]:
    """Return what wide.json holds, with the rows of untrained.json beside it."""
    made = json.loads(path.read_text())
    beside = path.with_name("untrained.json")
    if beside.is_file():
        made["rows"] += json.loads(beside.read_text())["rows"]
    return made


def measured(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table that the verdict reads: gains of the default, and what tells rows apart.

    The kind of a row is what `OneVec` sees, not what its group is called: one-hot events have no
    varying norms. Ready frames have no encoder, so each set of them is one of its own.
    """
    rows = []
    for row in made["rows"]:
        data, name = row["descriptors"], row["name"]
        bare = row["group"] in ("frames", "made")
        kind = kind_of(data, bare and frame_like(int(data["dim"]), data["norm_cv"]))
        encoder, _, task = name.partition(", ")
        rows.append(
            {
                **{"kind": kind, "encoder": name if bare else encoder, "task": task or name},
                "gain": round(row["columns"]["default"]["protocol"]["gain"], 2),
                **{key: round(data[key], 4) for key in ("dim", "length", "icc", "norm_cv")},
            }
        )
    return {"made_by": made["made_by"], "rows": rows}


def family(row: Mapping[str, Any]) -> str:
    """What is left out together: the states of one model were trained on the same data."""
    return row["encoder"].partition("-")[0] if row["kind"] == "encoder" else row["encoder"]


def calibration(made: Mapping[str, Any]) -> str:
    """Estimate every row from the rows of other encoders, and say how often that was right."""
    rows = measured(made)["rows"]
    rows = [row | {"encoder": family(row)} for row in rows]
    by_kind: dict[str, list[tuple[Any, float]]] = {}
    for row in rows:
        others = [each for each in rows if each["encoder"] != row["encoder"]]
        found = estimate(row["kind"], row, others)
        if found is not None:
            by_kind.setdefault(row["kind"], []).append((found, row["gain"]))
    by_kind["all"] = [each for kind in list(by_kind) for each in by_kind[kind]]
    lines = [
        f"Each row is estimated from the rows of other encoders. Range: {100 * COVERED:.0f} %.",
        "",
        "| kind | rows | gained | stated chance | held by the range | claims | false "
        "| share of the gains claimed | error of the gain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, pairs in by_kind.items():
        gains = np.array([gain for _, gain in pairs])
        claimed = np.array([found.low > 0 for found, _ in pairs])
        held = np.mean([found.low <= gain <= found.high for found, gain in pairs])
        apart = np.array([found.gain for found, _ in pairs]) - gains
        lines.append(
            f"| {kind} | {len(pairs)} | {np.mean(gains > 0):.2f} "
            f"| {np.mean([found.chance for found, _ in pairs]):.2f} | {held:.2f} "
            f"| {claimed.sum()} | {(claimed & (gains <= 0)).sum()} "
            f"| {claimed[gains > 0].mean():.2f} | {np.sqrt((apart**2).mean()):.1f} |"
        )
    return "\n".join(lines)


def check(settings: Settings, path: Path) -> str:
    """Say how far a few cells of the present code lie from the file; a report, no gate."""
    kept = json.loads(path.read_text())
    before = {each["name"]: each["columns"] for each in kept["rows"]}
    fresh = Settings(settings.data, fresh=True)
    names = {row.name for row in wide.rows() if row.id in (settings.rows or CHECKED)}
    cells, lines = {}, []
    for row in wide.rows():
        if row.name in names:
            try:
                cells[row.id] = row_cells(row, fresh, CHECKED_METHODS)
            except UNUSABLE as error:
                lines.append(f"{row.id}: not checked: {error}")
    for now in entries(cells):
        for method, column in now["columns"].items():
            there = before.get(now["name"], {}).get(method)
            if there is None:
                lines.append(f"{now['name']}, {method}: not in {path.name}")
                continue
            probes = [probe for probe in PROBES if probe in column]
            apart = [column[probe]["score"] - there[probe]["score"] for probe in probes]
            words = ", ".join(f"{p} {a:+.2f}" for p, a in zip(probes, apart, strict=True))
            lines.append(f"{now['name']}, {method}: {words}")
    return "\n".join([f"points from {path.name} ({kept['made_by']['commit'][:12]}):", *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets; else $ONEVEC_DATA")
    parser.add_argument("--rows", nargs="+", default=(), help="groups, or words in a row's name")
    parser.add_argument("--methods", nargs="+", default=(), choices=METHODS, help="default: all")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--check", action="store_true", help="recompute a few cells and compare")
    parser.add_argument("--table", action="store_true", help="only make the verdict's table anew")
    parser.add_argument(
        "--calibration", action="store_true", help="how right the verdict is, of wide.json"
    )
    parser.add_argument("--out", type=Path, help="another name for wide.json")
    options = parser.parse_args(arguments)
    path = options.out or RESULTS / "wide.json"
    if options.calibration:
        print(calibration(read_results(path)))
        return 0
    rows, methods = tuple(options.rows), tuple(options.methods)
    settings = Settings(tasks.data_folder(options.data), rows, methods=methods)
    if options.check:
        print(check(settings, path))
        return 0
    if options.table:
        FILE.write_text(json.dumps(measured(read_results(path)), indent=1) + "\n")
        print(f"written: {FILE}")
        return 0
    if options.rows and not options.out:
        print("some rows alone: pass --out to name their file; wide.json is of all rows")
        path = encoders.CACHE / "wide-some.json"
    made = run(settings, options.jobs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1) + "\n")
    text = wide_report.markdown(made)
    path.with_suffix(".md").write_text(text)
    print(wide_report.summary(made))
    print(f"written: {path} and {path.with_suffix('.md').name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
