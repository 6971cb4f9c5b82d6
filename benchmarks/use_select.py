"""Data selection: labels needed for a probe score, against random choice and the mean's vectors.

    python benchmarks/use_select.py [--data DIR] [--tasks chess] [--methods k_center] [--quick]

Rows of the train part are chosen without labels, by every entry of SELECTORS, on onevec vectors
and on mean-pooled ones. Only the chosen rows' labels are then read: a logistic
probe on onevec vectors learns from them and is scored on the test part, so that nothing but the
choice differs. Each seed chooses from another random 80 % of the train part. Writes the section
"selection" of benchmarks/results/use.json; rows that are missing need ONEVEC_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from onevec import OneVec
from onevec.files import appears_whole
from onevec.probes.outcomes import Outcome
from onevec.probes.probes import logistic_probe
from onevec.project.rows import normalise
from onevec.use.select import SELECTORS, select
from protocol import encoders, tasks
from protocol.made_by import line, made_by
from protocol.producer import pooled

ROOT = Path(__file__).parent
RESULT = ROOT / "results/use.json"
COLUMNS = {"chess": "chess", "banking77": "minilm-3", "ncrna13": "ncrna13"}  # task to encoder
PER_CLASS = (2, 4, 8, 16, 32)  # labels, on average
SHARE = 0.8  # of the train part, per seed
NESTED = ("facility_location", "k_center", "determinantal", "random")  # the first k are those of k
RANDOM = "random"

Hits = dict[str, np.ndarray]  # curve to hits (budgets, seeds, test items)


def measure(
    train: Mapping[str, np.ndarray],
    y: np.ndarray,
    test: np.ndarray,
    budgets: Sequence[int],
    *,
    seeds: int,
    methods: Sequence[str] = tuple(SELECTORS),
) -> Hits:
    """Hits of the probe on the test part, for each method, space of choice, budget and seed.

    ``train`` has "onevec", which the probe sees too, and further spaces to choose in; ``y`` are
    codes of train, then of test rows.
    """
    known, truth = y[: len(y) - len(test)], y[len(y) - len(test) :]
    seen, scored = (normalise(np.asarray(X, np.float64)) for X in (train["onevec"], test))
    hits: Hits = {}
    for space, X in train.items():
        for method in methods:
            if method == RANDOM and space != "onevec":
                continue  # does not look at vectors
            found = np.zeros((len(budgets), seeds, len(truth)), np.uint8)
            for seed in range(seeds):
                order = np.random.default_rng((seed, 0)).permutation(len(known))
                pool = np.sort(order[: int(SHARE * len(known))])
                for place, rows in enumerate(_chosen(X[pool], budgets, method, seed)):
                    labelled = pool[rows]
                    guess = _guess(seen[labelled], known[labelled], scored, seed)
                    found[place, seed] = guess == truth
            hits[RANDOM if method == RANDOM else f"{method}, {space}"] = found
    return hits


def _chosen(X: np.ndarray, budgets: Sequence[int], method: str, seed: int) -> list[np.ndarray]:
    if method in NESTED:
        rows = select(X, max(budgets), method, random_state=seed).rows
        return [rows[:budget] for budget in budgets]
    return [select(X, budget, method, random_state=seed).rows for budget in budgets]


def _guess(X: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Codes that the probe gives the test part; it knows no class without a label."""
    labels, codes = np.unique(y, return_inverse=True)
    if len(labels) == 1:
        return np.repeat(labels, len(test))
    logits = logistic_probe(
        X, codes, np.arange(len(X))[None], test, classes=len(labels), metric="balanced",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return labels[logits[0].argmax(1)]


def labels_needed(scores: np.ndarray, budgets: Sequence[int], target: np.ndarray) -> np.ndarray:
    """Labels at which each curve first reaches its target, by the logarithm between budgets.

    ``scores`` (budgets, resamples), ``target`` (resamples,); infinite where it is not reached.
    """
    logs = np.log2(budgets)
    found = np.full(scores.shape[1], np.inf)
    for column in range(scores.shape[1]):
        above = np.flatnonzero(scores[:, column] >= target[column])
        if not len(above):
            continue
        first = above[0]
        if first == 0:
            found[column] = budgets[0]
            continue
        low, high = scores[first - 1 : first + 1, column]
        part = (target[column] - low) / (high - low)
        found[column] = 2 ** (logs[first - 1] + part * (logs[first] - logs[first - 1]))
    return found


def summarise(hits: Hits, truth: np.ndarray, budgets: Sequence[int]) -> dict[str, Any]:
    """Scores by budget; against random choice, labels needed and gain, with 95 % intervals.

    The target is what random choice reaches with the last budget but one, in each resample.
    """
    outcomes = {name: [Outcome("balanced", h, truth) for h in each] for name, each in hits.items()}
    drawn = {name: np.stack([o.resampled() for o in each]) for name, each in outcomes.items()}
    scores = {name: [o.score() for o in each] for name, each in outcomes.items()}
    result = {}
    for name, curve in drawn.items():
        entry: dict[str, Any] = {"scores": [round(score, 2) for score in scores[name]]}
        if name != RANDOM:
            whole = np.array(scores[name])[:, None], np.array(scores[RANDOM])[-2:-1]
            needed = labels_needed(whole[0], budgets, whole[1]) / budgets[-2]
            ratios = labels_needed(curve, budgets, drawn[RANDOM][-2]) / budgets[-2]
            entry["labels over random"] = _interval(needed[0], ratios)
            gain = scores[name][-2] - scores[RANDOM][-2]
            entry["gain over random"] = _interval(gain, curve[-2] - drawn[RANDOM][-2])
            method, space = name.split(", ")
            other = f"{method}, mean"
            if space == "onevec" and other in drawn:
                gain = scores[name][-2] - scores[other][-2]
                entry["gain over the mean's choice"] = _interval(gain, curve[-2] - drawn[other][-2])
        result[name] = entry
    return result


def _interval(value: float, drawn: np.ndarray) -> list[float | None]:
    """Value and 95 % interval; None for what is not reached."""
    # Order statistics: between a number and infinity there is nothing to interpolate.
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return [round(float(v), 3) if np.isfinite(v) else None for v in (value, low, high)]


def task(
    name: str, data: Path, methods: Sequence[str], seeds: int, *, quick: bool
) -> dict[str, Any]:
    """Measure one task."""
    began = time.perf_counter()
    unit = tasks.units(name, data)[0]
    if quick:
        unit = tasks.shrink(unit)
    target = next(target for target in unit.targets if target.kind == "classes")
    train, test = encoders.tokens(unit, COLUMNS[name], data)
    model = OneVec().fit(train)
    spaces = {"onevec": model.transform(train), "mean": pooled("mean", train)}
    spaces = {space: X[target.train] for space, X in spaces.items()}
    labels = np.concatenate([target.y_train, target.y_test])
    _, y = np.unique(labels, return_inverse=True)
    classes = len(np.unique(target.y_train))
    most = int(SHARE * len(target.train)) // 2
    budgets = [each * classes for each in PER_CLASS if each * classes <= most]
    scored = model.transform(test)[target.test]
    hits = measure(spaces, y, scored, budgets, seeds=seeds, methods=methods)
    return {
        "encoder": COLUMNS[name],
        "train": len(target.train),
        "test": len(target.test),
        "classes": classes,
        "budgets": budgets,
        "curves": summarise(hits, y[len(target.train) :], budgets),
        "seconds": round(time.perf_counter() - began),
    }


def markdown(result: dict[str, Any]) -> str:
    lines = [f"Made with {line(result['made_by'])}.", ""]
    for name, entry in result["tasks"].items():
        budget = entry["budgets"][-2]
        lines += [
            f"**{name}** ({entry['classes']} classes, {entry['encoder']}): balanced accuracy of a "
            f"logistic probe by labels; gain in points at {budget} labels, and labels needed for "
            f"what random choice reaches with {budget}, as a share.",
            "",
            f"| choice | {' | '.join(map(str, entry['budgets']))} | gain | labels |",
            f"|---|{'--:|' * len(entry['budgets'])}--:|--:|",
        ]
        for curve, row in entry["curves"].items():
            cells = [f"{score:.1f}" for score in row["scores"]]
            cells += [_cell(row.get(f"{what} over random")) for what in ("gain", "labels")]
            lines.append(f"| {curve} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(found: list[float | None] | None) -> str:
    if found is None:
        return ""
    value, low, high = ("—" if v is None else f"{v:.2f}".replace("-", "−") for v in found)
    return f"{value} [{low}, {high}]"


def write_section(name: str, section: dict[str, Any], path: Path = RESULT) -> None:
    """Replace one section of the file and keep the others."""
    whole = json.loads(path.read_text()) if path.is_file() else {}
    with appears_whole(path) as part:
        part.write_text(json.dumps({**whole, name: section}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("ONEVEC_DATA", ROOT / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of the data sets")
    parser.add_argument("--tasks", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--methods", nargs="+", default=list(SELECTORS), choices=list(SELECTORS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="at most 1,500 + 1,000 items")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    methods = list(dict.fromkeys([*args.methods, RANDOM]))
    result: dict[str, Any] = {"seeds": args.seeds, "quick": args.quick, "tasks": {}}
    result["made_by"] = made_by(seeds=list(range(args.seeds)))
    for name in args.tasks:
        try:
            result["tasks"][name] = task(name, args.data, methods, args.seeds, quick=args.quick)
        except (tasks.MissingDataError, encoders.NotMadeError) as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            continue
        write_section("selection", result, args.out)  # a run that is stopped keeps what is done
    print(markdown(result))


if __name__ == "__main__":
    main()
