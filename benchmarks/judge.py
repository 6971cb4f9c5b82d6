"""What scores without labels are worth, and the table that the verdict weighs them by.

    python benchmarks/judge.py [--data DIR] [--jobs N] [--tasks chess,trec]

Labels of *train* parts alone: by its groups (speakers, families, scaffolds) a third of every train
part is set aside and scored with labels; onevec's candidates are fitted to the rest and scored
without. Written are `benchmarks/results/judge.json` (each criterion: Kendall's tau, regret, false
claims; the verdict with each data set left out of its own table),
`src/onevec/judge/calibration.json`, the table that ships, and the tables without each row, by
which the quality benchmark judges it. What is computed is kept under .cache.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).parent))

from onevec.judge import calibration as shipped
from onevec.judge.calibration import MEASURES, Calibration, measures_of
from onevec.judge.compare import in_errors
from onevec.judge.verdict import SURE, choose, expected, outdone_by
from onevec.native import native_candidates
from onevec.recipe import candidates
from onevec.reduction import MEAN_PCA
from protocol import encoders, judged, report, runner, sweep, tasks, unseen
from protocol.judged import Column

OUT = report.RESULTS / "judge.json"
KEPT = encoders.CACHE / "judge"
LEFT_OUT = ("hdfs",)  # counts alone solve it
EDGES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.01)  # of probabilities
RIDGE, RIDGE_OF_NAMES = 0.1, 0.2
CLIP = (-10.0, 15.0)  # points: raw frames gain 50, and would own every sum of squares


CRITERIA: dict[str, Callable[[dict[str, Any]], float]] = {
    "uniformity": lambda row: row["uniformity_gain"],
    "retrieval of the other half, matched in length": lambda row: row["retrieval_z"],
    "predictability of the other half": lambda row: in_errors(row, "predictability"),
    "pseudo-labels of the other half": lambda row: in_errors(row, "pseudo_labels"),
    "predictability and pseudo-labels (z)": lambda row: row["z"],
    "effective rank (RankMe)": lambda row: row["rank"],
    "cluster learnability (CLID)": lambda row: row["clid"],
    "evenness of neighbourhoods (hubness)": lambda row: -row["hubness"],
}


def scores_of(each: Column, criterion: str) -> np.ndarray:
    return np.array([CRITERIA[criterion](row) for row in each.rows])


def keep(job: tuple[str, str, str], data: Path) -> str:
    """Compute a column that is not kept yet; say what came out."""
    row, unit_id, encoder = job
    unit = next(each for each in tasks.units(row, data) if each.id == unit_id)
    path = _path(unit, encoder, data)
    if not path.is_file():
        with runner.one_thread():
            found = judged.column(row, unit, encoder, data)
        KEPT.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(found and asdict(found)))
        part.replace(path)
    return f"{unit_id} {encoder}"


def stored(row: str, data: Path) -> list[tuple[str, str, str]]:
    """Columns of a row whose token vectors `quality.py` has stored; tell of the others."""
    found = []
    for unit in tasks.units(row, data):
        for encoder in tasks.ROWS[row].encoders:
            try:
                encoders.content(unit, encoder, data)
            except runner.UNUSABLE as error:
                print(f"left out: {unit.id} {encoder}: {error}", file=sys.stderr)
                continue
            if len(unit.train) >= judged.LEAST_KNOWN:
                found.append((row, unit.id, encoder))
    return found


def _path(unit: tasks.Unit, encoder: str, data: Path) -> Path:
    code = encoders.code_hash(judged.CODE)
    mark = f"{runner.unit_mark(unit)} {encoders.content(unit, encoder, data)} {code}"
    return KEPT / f"{hashlib.sha256(mark.encode()).hexdigest()[:24]}.json"


# --- the table ----------------------------------------------------------------------------------


def weights_of(columns: Sequence[Column]) -> np.ndarray:
    """Every row of the benchmark weighs the same."""
    rows = [each.row for each in columns]
    return np.array([1 / rows.count(row) for row in rows])


def fit(columns: Sequence[Column], without: str | None = None) -> Calibration:
    """Fit the table to the columns of all rows but one.

    Ridge; candidates are drawn to their common mean. The weights are those of the recipe's
    candidates, which are all that a fit offers; the others get intercepts beside them. What a
    plainer one outdoes is never taken and says nothing about what is.
    """
    known = [each for each in columns if each.row != without]
    offered = [option.name for option in candidates()][1:]
    others = [name for name in known[0].names[1:] if name not in offered]
    measures, gains, weight = _flat(known, offered)
    which = np.tile(np.eye(len(offered)), (len(known), 1))
    X = np.hstack([measures, np.ones((len(weight), 1)), which])
    penalty = np.r_[np.full(len(MEASURES), RIDGE), 0.0, np.full(len(offered), RIDGE_OF_NAMES)]
    solved = np.linalg.solve(
        (X * weight[:, None]).T @ X + np.diag(penalty * len(known)),
        (X * weight[:, None]).T @ gains,
    )
    slopes, common, own = np.split(solved, [len(MEASURES), len(MEASURES) + 1])
    spread = np.sqrt(np.average((gains - X @ solved) ** 2, weights=weight))
    intercepts = dict(zip(offered, common[0] + own, strict=True))
    for name in others:
        measures, gains, weight = _flat(known, [name])
        rest, pull = weight @ (gains - measures @ slopes), RIDGE_OF_NAMES * len(known)
        intercepts[name] = (rest + pull * common[0]) / (weight.sum() + pull)
    return Calibration(
        {name: round(float(each), 3) for name, each in intercepts.items()},
        round(float(common[0]), 3),
        {name: round(float(each), 4) for name, each in zip(MEASURES, slopes, strict=True)},
        round(float(spread), 3),
    )


def _flat(
    columns: Sequence[Column], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measures, clipped gains and weights of some candidates, column by column."""
    places = [columns[0].names.index(name) for name in names]
    measures = [list(measures_of(each.rows[p]).values()) for each in columns for p in places]
    gains = np.clip([each.gains[p] for each in columns for p in places], *CLIP)
    beaten = [_outdone(each, name) for each in columns for name in names]
    weight = weights_of(columns).repeat(len(names)) * ~np.array(beaten)
    mean = weight.sum() / max(np.count_nonzero(weight), 1)
    return np.array(measures), gains, weight / (mean or 1.0)


def _outdone(each: Column, name: str) -> bool:
    """Whether a plainer one of the recipe's candidates outdoes it."""
    recipe = [each.rows[each.names.index(option.name)] for option in candidates()]
    return outdone_by(each.rows[each.names.index(name)], recipe) is not None


@dataclass(frozen=True)
class Choice:
    """What a rule takes in a column, and what labels say of it."""

    gain: float  # over mean + PCA at the same dimension
    best: float
    taken: bool  # something else than the mean
    claimed: bool


def judged_by(
    each: Column, table: Calibration, names: Sequence[str]
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """What the verdict expects of some candidates of a column, and what they gained."""
    places = [each.names.index(name) for name in names]
    return expected([each.rows[place] for place in places], table), each.gains[places]


def outcome(rows: list[dict[str, Any]], gains: np.ndarray) -> Choice:
    """What the verdict takes."""
    place, chosen = choose(rows)
    taken = place == chosen
    claimed = taken and rows[place]["probability"] >= SURE
    return Choice(float(gains[chosen]), float(gains.max()), taken, claimed)


def macro(columns: Sequence[Column], values: Sequence[float]) -> float:
    return float(np.average(values, weights=weights_of(columns)))


def tau(ours: np.ndarray, theirs: np.ndarray) -> float:
    found = kendalltau(ours, theirs).statistic
    return 0.0 if np.isnan(found) else float(found)


def criterion_table(columns: Sequence[Column]) -> dict[str, dict[str, float]]:
    """How well each criterion alone ranks and picks."""
    found = {}
    fixed = len(sweep.candidate_list())  # the first of every column
    gains = [each.gains[:fixed] for each in columns]
    for name in CRITERIA:
        scores = [scores_of(each, name)[:fixed] for each in columns]
        picks = [g[s.argmax()] for g, s in zip(gains, scores, strict=True)]
        found[name] = {
            "tau": macro(columns, [tau(s, g) for g, s in zip(gains, scores, strict=True)]),
            "gain": macro(columns, picks),
            "regret": macro(columns, [g.max() - p for g, p in zip(gains, picks, strict=True)]),
            "worst": float(min(picks)),
            "picks_below_the_mean": 100 * float(np.mean([pick < 0 for pick in picks])),
        }
    return found


def verdict_table(
    columns: Sequence[Column], tables: dict[str, Calibration]
) -> dict[str, dict[str, Any]]:
    """How well the verdict does, each data set judged by a table that never saw it."""
    lists = {
        what: [option.name for option in options]
        for what, options in (
            ("default candidates", candidates()),
            ("fixed list", sweep.candidate_list()),
            ("candidates of native export", native_candidates()),
        )
    }
    found: dict[str, dict[str, Any]] = {}
    for what, names in lists.items():
        known = [judged_by(each, tables[each.row], names) for each in columns]
        made = [outcome(rows, gains) for rows, gains in known]
        taus = [
            tau(np.array([row["expected_gain"] for row in rows]), gains) for rows, gains in known
        ]
        claims = [choice.gain <= 0 for choice in made if choice.claimed]
        found[what] = {
            "tau": macro(columns, taus),
            "gain": macro(columns, [choice.gain for choice in made]),
            "regret": macro(columns, [choice.best - choice.gain for choice in made]),
            "oracle": macro(columns, [choice.best for choice in made]),
            "worst": min(choice.gain for choice in made),
            "below_the_mean": 100 * float(np.mean([choice.gain < 0 for choice in made])),
            "columns_taken": sum(choice.taken for choice in made),
            "claims": len(claims),
            "false_claims": int(sum(claims)),
        }
    return found


def reliability(
    columns: Sequence[Column], tables: dict[str, Calibration]
) -> list[dict[str, float]]:
    """How often a candidate of the recipe beats the mean where the verdict says p.

    Those that a plainer one outdoes are left out: nothing is claimed of them.
    """
    recipe = [option.name for option in candidates()]
    pairs = []
    for each in columns:
        for row, gain in list(zip(*judged_by(each, tables[each.row], recipe), strict=True))[1:]:
            if not _outdone(each, row["name"]):
                pairs.append((row["probability"], gain > 0))
    said, won = np.array(pairs, dtype=float).T
    found = []
    for low, high in itertools.pairwise(EDGES):
        inside = (said >= low) & (said < high)
        if inside.any():
            entry = {"said": said[inside].mean(), "won": won[inside].mean(), "n": inside.sum()}
            found.append({key: float(value) for key, value in entry.items()})
    return found


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (else $ONEVEC_DATA)")
    parser.add_argument("--tasks", help="rows, comma-separated (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of one thread")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--dry-run", action="store_true", help="compute columns, write nothing")
    args = parser.parse_args(arguments)
    data = tasks.data_folder(args.data)
    rows = args.tasks.split(",") if args.tasks else [r for r in tasks.ROWS if r not in LEFT_OUT]
    jobs = [job for row in rows for job in stored(row, data)]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(keep, job, data) for job in jobs]
        for done, ready in enumerate(as_completed(waiting), 1):
            print(f"[{done}/{len(jobs)}] {ready.result()}", flush=True)
    columns = []
    for row, unit_id, encoder in jobs:
        unit = next(each for each in tasks.units(row, data) if each.id == unit_id)
        held = json.loads(_path(unit, encoder, data).read_text())
        if held:
            columns.append(Column(**held))
    if len({each.row for each in columns}) < 2:
        sys.exit("kept; a table takes two rows at least: each is judged by the others")
    result = collect(columns)
    print(
        json.dumps(
            rounded({k: result[k] for k in ("criteria", "verdict", "reliability")}), indent=1
        )
    )
    if args.dry_run:
        return
    tables = result.pop("tables")
    args.out.write_text(json.dumps(rounded(result), indent=1) + "\n")
    figure(result, args.out.with_suffix(".svg"))
    if not args.tasks:
        table = {"made_by": "benchmarks/judge.py", "table": tables.pop("all")}
        shipped.FILE.write_text(json.dumps(table, indent=1) + "\n")
        unseen.TABLES.write_text(json.dumps(tables, indent=1) + "\n")


def markdown(result: dict[str, Any]) -> str:
    """The tables that the docs show."""
    lines = [
        f"{len(result['columns'])} columns of {len({c['row'] for c in result['columns']})} rows.",
        "",
        "| choice by | τ | gain over the mean | regret | worst | below the mean |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in result["criteria"].items():
        lines.append(
            f"| {name} alone | {row['tau']:.2f} | {row['gain']:+.1f} | {row['regret']:.1f} | "
            f"{row['worst']:+.1f} | {row['picks_below_the_mean']:.0f} % |"
        )
    for name, row in result["verdict"].items():
        lines.append(
            f"| **the verdict**, {name} | {row['tau']:.2f} | {row['gain']:+.1f} | "
            f"{row['regret']:.1f} | {row['worst']:+.1f} | {row['below_the_mean']:.0f} % |"
        )
    lines.append("")
    for name, row in result["verdict"].items():
        lines.append(
            f"- {name}: something else than the mean is taken in {row['columns_taken']} columns; "
            f'claims of "beats": {row["claims"]}, false ones: {row["false_claims"]}. '
            f"The best candidate by labels gains {row['oracle']:+.1f}."
        )
    said = "; ".join(
        f"{row['said']:.2f} said, {row['won']:.2f} came ({row['n']:.0f} candidates)"
        for row in result["reliability"]
    )
    return "\n".join([*lines, f"- Of the probabilities said: {said}."]).replace("| -", "| −")


def figure(result: dict[str, Any], path: Path) -> None:
    """Draw how each criterion ranks, and what came of the probabilities that were said."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": "onevec", "font.size": 9}):
        drawn, (left, right) = plt.subplots(
            1, 2, figsize=(8.5, 3.2), layout="constrained", width_ratios=(3, 2)
        )
        taus = {name: row["tau"] for name, row in result["criteria"].items()}
        taus |= {f"the verdict, {name}": row["tau"] for name, row in result["verdict"].items()}
        order = sorted(taus, key=lambda name: taus[name])
        colours = ["#d9480f" if "verdict" in name else "#1f5f8b" for name in order]
        left.barh(order, [taus[name] for name in order], color=colours)
        left.axvline(0, color="black", linewidth=0.8)
        left.set_xlabel("Kendall's τ with the labelled score")
        right.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1)
        rows = result["reliability"]
        right.scatter(
            [row["said"] for row in rows],
            [row["won"] for row in rows],
            s=[4 * row["n"] ** 0.5 + 8 for row in rows],
            color="#d9480f",
            zorder=3,
        )
        right.set_xlim(0, 1)
        right.set_ylim(0, 1)
        right.set_xlabel("probability said to beat the mean")
        right.set_ylabel("share that did")
        drawn.savefig(path, metadata={"Date": None})
        plt.close("all")


def collect(columns: Sequence[Column]) -> dict[str, Any]:
    """Everything that is written."""
    assert {each.names[0] for each in columns} == {MEAN_PCA.name}
    tables = {row: fit(columns, row) for row in {each.row for each in columns}}
    return {
        "state": runner.state(),
        "columns": [
            {
                "row": each.row,
                "unit": each.unit,
                "encoder": each.encoder,
                "native_mean": each.native,
                "gains": dict(zip(each.names, each.gains.tolist(), strict=True)),
            }
            for each in columns
        ],
        "criteria": criterion_table(columns),
        "verdict": verdict_table(columns, tables),
        "reliability": reliability(columns, tables),
        "tables": {"all": asdict(fit(columns))}
        | {row: asdict(each) for row, each in sorted(tables.items())},
    }


if __name__ == "__main__":
    main()
