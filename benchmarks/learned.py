"""Learned poolers x objectives against the closed-form recipe, on raw encoders.

    python benchmarks/learned.py [--data DIR] [--jobs 2] [--only convolution]

Trains without labels, on the tokens and with the probes of quality.py; results are kept in the
same way, so a run that was stopped goes on. Every pooler is there untrained too, and beside the
gains stands how often training helped, by its own held-out score and by the labels, and how far
the two agree. Writes benchmarks/results/learned.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).parent))

import quality
from protocol import learned, report, runner, tasks
from protocol.encoders import RAW
from protocol.goals import OURS, Table, Task

RECIPE = f"candidate: {learned.RICH.name}"
BASES = {"recipe": RECIPE, "onevec": OURS, "mean": "mean"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (else $ONEVEC_DATA)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of one thread")
    parser.add_argument("--only", default="", help="methods whose name holds this text")
    args = parser.parse_args()
    data = tasks.data_folder(args.data)
    settings = runner.Settings(data)
    rows = list(dict.fromkeys(unit.split("/")[0] for unit, _ in learned.COLUMNS))
    names = [producer.name for producer in learned.producers()]
    runner.fill_stores(rows, settings, args.jobs)
    jobs, left_out = runner.plan(rows, ["plain", "defaults", OURS, *names], settings)
    for row, encoder, why in left_out:
        print(f"left out: {row} {encoder}: {why}", file=sys.stderr)
    jobs = [job for job in jobs if (job.unit, job.encoder) in learned.COLUMNS]
    missing = [job for job in jobs if not runner.settled(job) and args.only in job.producer]
    print(f"{len(jobs)} fits, {len(missing)} to do", flush=True)
    quality.work(missing, settings, args.jobs)
    runner.shelve([job for job in jobs if job.producer in names], settings)
    result = collect(jobs, settings)
    out = report.RESULTS / "learned.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(result) + "\n")
    print(markdown(result))


def collect(jobs: list[runner.Job], settings: runner.Settings) -> dict[str, Any]:
    """Every learned method: macro and per task, against recipe, its start, default and mean."""
    table, states, errors, fits = report.gather(jobs)
    found = {}
    for name in table.methods("learned"):
        entry: dict[str, Any] = {
            f"gain over {label}": table.macro(name, base, RAW)
            for label, base in (*BASES.items(), ("start", start_of(name)))
        }
        entry["tasks"] = {
            task.name: _cell(table, task, name) for task in table.tasks(RAW, name, RECIPE)
        }
        found[name.removeprefix("learned: ")] = entry
    return {
        "recipe": learned.RICH.name,
        "fits": fits,
        "state": report.state_of(settings, states),
        "errors": errors,
        "training": what_training_did(table),
        "methods": dict(sorted(found.items(), key=_by_gain)),
    }


def start_of(name: str) -> str:
    """The same pooler, standing the same way, untrained."""
    return f"{name.rsplit(', ', 1)[0]}, {learned.UNTRAINED}"


def _cell(table: Table, task: Task, name: str) -> dict[str, Any]:
    fits = table.cells[task][name].fits
    gain, low, high = table.gain(task, name, RECIPE)
    return {
        "score": round(table.score(task, name), 2),
        "gain": round(gain, 2),
        "interval": [round(low, 2), round(high, 2)],
        "best_step": fits[0]["note"]["best_step"],
        "score_gain": round(_score_gain(fits[0]), 4),
        "seconds": round(float(np.mean([fit["seconds"] for fit in fits])), 1),
    }


def _score_gain(fit: dict[str, Any]) -> float:
    return fit["note"]["score"] - fit["note"]["start_score"]


def what_training_did(table: Table) -> dict[str, Any]:
    """Gain by the held-out score that selects, without labels, and by labels, over the start."""
    trained = [
        (task, name)
        for name in table.methods("learned")
        if name != start_of(name)
        for task in table.tasks(RAW, name, start_of(name))
    ]
    known = np.array([_score_gain(table.cells[task][name].fits[0]) for task, name in trained])
    gains = np.array([table.gain(task, name, start_of(name)) for task, name in trained])
    rose = known > 0
    told: dict[str, Any] = {"fits of tasks": len(trained)}
    if rose.any():
        gain, low, high = gains[rose].T
        both: Any = kendalltau(known[rose], gain).statistic if len(gain) > 1 else None
        told |= {
            "% where the held-out score rose": round(100 * float(rose.mean()), 1),
            "there, mean gain by labels": round(float(gain.mean()), 2),
            "there, % surely better": round(100 * float((low > 0).mean()), 1),
            "there, % surely worse": round(100 * float((high < 0).mean()), 1),
            "there, tau of both gains": None if both is None else round(float(both), 2),
        }
    return told


def _by_gain(pair: tuple[str, dict[str, Any]]) -> float:
    macro = pair[1]["gain over recipe"]
    return -macro["value"] if macro else np.inf


def _without(errors: list[dict[str, str]]) -> dict[str, str]:
    """Columns with errors, and the first of them."""
    return {error["where"]: error["error"] for error in reversed(errors)}


def markdown(result: dict[str, Any]) -> str:
    known = dict.fromkeys(task for each in result["methods"].values() for task in each["tasks"])
    lines = [
        "# Learned poolers and objectives",
        "",
        f"Made by `python benchmarks/learned.py`; do not edit. Against the closed-form recipe "
        f"({result['recipe']}) at 64 dimensions; macro gain in points with its 95 % interval. "
        "The start is the same pooler untrained. A pooler stands alone, beside the recipe's blocks "
        "as one more of them, or, residual, as a head on these blocks. `OneVec()` is as it was at "
        f"commit `{result['state']['commit'][:12]}`.",
        "",
        *(f"- {what}: {value}" for what, value in result["training"].items()),
        f"- tasks: {'; '.join(known)}",
        *(f"- no fits on {where}: {why}" for where, why in _without(result["errors"]).items()),
        "",
        "| pooler and objective | over the recipe | over its start | over `OneVec()` | "
        "over the mean | tasks |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, entry in result["methods"].items():
        cells = [
            report.interval(entry[f"gain over {base}"])
            for base in ("recipe", "start", "onevec", "mean")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(entry['tasks'])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
