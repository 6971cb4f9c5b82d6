"""Results files, and the tables and figures made from them.

quality.json holds onevec and the mean, for one version of onevec. The baselines stand in a file of
their own, one for each version of the protocol: they are read, not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onevec.files import appears_whole
from protocol import encoders, made_by, runner
from protocol.encoders import FRAMES, GROUPS, PUBLISHED, SMALL, TUNED
from protocol.goals import SHORT, WHOLE, goals
from protocol.table import REFERENCE, Table, Task

PROTOCOL = 1  # of tasks, encoders, frames and probes; a change there is a new version
RESULTS = encoders.ROOT / "benchmarks/results"
NAMES = {
    "mean": "mean (native)",
    "mean_centred": "centred mean (native)",
    "first": "first token (native)",
    "last": "last token (native)",
    "max": "max (native)",
    "position_weighted": "position-weighted mean (native)",
    "first_pca": "first token, PCA",
    "last_pca": "last token, PCA",
    "max_pca": "max, PCA",
    "position_weighted_pca": "position-weighted mean, PCA",
    "coles": "CoLES (pytorch-lifestream)",
    "cpc": "CPC (pytorch-lifestream)",
    "swe": "sliced-Wasserstein embedding",
    "otk": "optimal-transport kernel embedding",
    "wegl": "linear optimal transport (WEGL)",
    "bert_whitening": "BERT-whitening",
    "simcse": "SimCSE, encoder unfrozen, 384 dims",
    "tsdae": "TSDAE, encoder unfrozen, 384 dims",
    "mean_pca": "mean, PCA",
    "mean_half_whitened": "mean, half-whitened",
    "mean_whitened": "mean, whitened",
    "rich_whitened": "mean‖std‖max‖min, whitened",
    "borep": "random features (BOREP)",
    WHOLE: "**onevec**",
    SHORT: "**onevec**, 64 dimensions",
    "attention_probe": "supervised attention probe",
}


def baselines_file(quick: bool = False) -> Path:
    """Where the baselines of this version of the protocol stand."""
    return RESULTS / (
        f"quick-baselines-v{PROTOCOL}.json" if quick else f"baselines-v{PROTOCOL}.json"
    )


def collect(
    jobs: list[runner.Job], left_out: list[tuple[str, str, str]], settings: runner.Settings
) -> dict[str, Any]:
    """Put every cached result of these jobs together."""
    table, errors, fits = gather(jobs)
    seeds = list(range(max((job.seed for job in jobs), default=0) + 1))
    return {
        "protocol": PROTOCOL,
        "made_by": made_by.made_by(seeds=seeds),
        "settings": {"quick": settings.quick, "peer_seconds": settings.budget},
        "fits": fits,
        "left_out": [
            {"row": row, "encoder": encoder, "why": why} for row, encoder, why in left_out
        ],
        "errors": errors,
        "macro": _macro(table),
        "tasks": [_task(table, task) for task in table.cells],
    }


def gather(jobs: list[runner.Job]) -> tuple[Table, list[dict[str, str]], dict[str, Any]]:
    """Read cached results: the table, errors, and how many there are and what they took."""
    table, errors, waiting, seconds = Table(), [], 0, 0.0
    for job in jobs:
        found = runner.load(job)
        if found is None:
            waiting += 1
            continue
        meta, arrays = found
        seconds += meta["seconds"]
        if meta["error"]:
            where = f"{job.unit} {job.encoder}"
            errors.append({"where": where, "method": job.producer, "error": meta["error"]})
        for place, row in enumerate(meta["rows"]):
            task = Task(job.row, job.unit, job.encoder, row["target"], row["kind"], row["counted"])
            table.add(task, row["method"], row["family"], row, arrays[f"r{place}"])
    fits = {"done": len(jobs) - waiting, "waiting": waiting}
    return table, errors, fits | {"core_hours": round(seconds / 3600, 1)}


def _task(table: Table, task: Task) -> dict[str, Any]:
    cells = table.cells[task]
    entry: dict[str, Any] = {
        name: getattr(task, name)
        for name in ("name", "row", "unit", "encoder", "target", "kind", "counted")
    }
    entry["methods"] = {}
    for name, cell in cells.items():
        first = cell.fits[0]
        shown: dict[str, Any] = {
            "family": table.families[name],
            "dim": first["dim"],
            "score": round(cell.score, 2),
            "probes": {probe: round(cell.probe(probe), 2) for probe in first["probes"]},
            "seconds": round(float(np.mean([fit["seconds"] for fit in cell.fits])), 2),
        }
        if len(cell.fits) > 1:
            shown["fits"] = [
                round(float(np.mean(list(fit["probes"].values()))), 2) for fit in cell.fits
            ]
        if table.families[name] != "bound" and name != REFERENCE and REFERENCE in cells:
            gain, low, high = table.gain(task, name)
            shown |= {"gain": round(gain, 2), "interval": [round(low, 2), round(high, 2)]}
        entry["methods"][name] = shown
    return entry


def _macro(table: Table) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, family in table.families.items():
        if family == "bound":
            continue
        columns = {  # targets of a unit share one fit
            (task.unit, task.encoder): np.mean([fit["seconds"] for fit in cells[name].fits])
            for task, cells in table.cells.items()
            if name in cells
        }
        seconds = round(float(np.median([*columns.values()])), 2)
        groups = {group: table.macro(name, group) for group in GROUPS}
        found[name] = {"family": family, "median_fit_seconds": seconds}
        found[name] |= {group: figures for group, figures in groups.items() if figures}
    return found


def with_baselines(ours: dict[str, Any], baselines: dict[str, Any] | None) -> dict[str, Any]:
    """Both files as one table; what both hold, the mean, is that of ``ours``."""
    if baselines is None:
        return ours
    theirs = {task["name"]: task["methods"] for task in baselines["tasks"]}
    tasks = [
        task | {"methods": theirs.get(task["name"], {}) | task["methods"]} for task in ours["tasks"]
    ]
    return ours | {"tasks": tasks, "macro": baselines["macro"] | ours["macro"]}


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def encoder_facts() -> dict[str, Any]:
    """What the encoders' manifests say of those that are here."""
    keys = ("kind", "masked_accuracy", "unigram_accuracy", "steps", "seconds", "corpus_sha256")
    found = {}
    for name in encoders.PRETRAINED:
        path = encoders.folder(name) / "pretrain.json"
        if path.is_file():
            made = json.loads(path.read_text())
            found[name] = {key: made[key] for key in keys}
    return found


# --- tables and figures -------------------------------------------------------------------------


def write(result: dict[str, Any], out: Path) -> None:
    """Write the JSON file: indented, but one line per method of a task."""
    head = json.dumps({k: v for k, v in result.items() if k != "tasks"}, indent=1)
    lines = []
    for task in result["tasks"]:
        about = json.dumps({k: v for k, v in task.items() if k != "methods"})[:-1]
        rows = ",\n   ".join(
            f"{json.dumps(n)}: {json.dumps(v)}" for n, v in task["methods"].items()
        )
        lines.append(f'  {about}, "methods": {{\n   {rows}}}}}')
    out.parent.mkdir(parents=True, exist_ok=True)
    with appears_whole(out) as part:
        part.write_text(head[:-2] + ',\n "tasks": [\n' + ",\n".join(lines) + "\n ]\n}\n")


def write_pages(result: dict[str, Any], baselines: dict[str, Any] | None, out: Path) -> None:
    """Write the page of all tables, and the figure, beside a results file."""
    whole = with_baselines(result, baselines)
    out.with_suffix(".md").write_text(markdown(whole, baselines) + "\n")
    gain_figure(whole, out.with_name(out.stem + "-gain.svg"))


def number(value: float | None, sign: bool = False) -> str:
    if value is None:
        return ""
    return (f"{value:+.1f}" if sign else f"{value:.1f}").replace("-", "−")


def interval(row: dict[str, Any] | None) -> str:
    """Lay out the gain of a cell or a group, with its interval."""
    if not row or row.get("gain") is None:
        return ""
    low, high = row["interval"]
    return f"{number(row['gain'], True)} [{number(low, True)}, {number(high, True)}]"


def at_a_glance(result: dict[str, Any]) -> str:
    """Every goal: value, goal, met or missed."""
    complete = not (result["settings"]["quick"] or result["fits"]["waiting"] or result["left_out"])
    lines = ["| | what | value | goal | |", "|---|---|--:|--:|---|"]
    for name, goal in goals(result, whole=complete).items():
        mark = {True: "met", False: "**missed**", None: "in part"}[goal["met"]]
        lines.append(
            f"| {name} | {goal['what']} | {_join(goal['value'])} | {_join(goal['goal'])} | {mark} |"
        )
    return "\n".join(lines)


def _join(values: list[float | None]) -> str:
    return "; ".join("–" if v is None else f"{v:g}".replace("-", "−") for v in values)


def brief(macro: dict[str, Any]) -> list[str]:
    """Methods of a short table: of PyG's operators the best, of plain poolings the mean."""
    many = [name for name in macro if name.startswith("pyg_")]
    best = max(many, key=lambda name: macro[name].get(SMALL, {"score": 0.0})["score"], default=None)
    shown = ("mean", "mean_centred", best)
    return [n for n in macro if n in shown or (n not in many and macro[n]["family"] != "plain")]


def macro_table(macro: dict[str, Any], names: Sequence[str] | None = None) -> str:
    """Macro score and gain over the mean of methods in each group, and what they cost."""
    heads = " | gain | ".join(GROUPS)
    lines = [f"| | {heads} | gain | fit, s |", "|---" + "|--:" * (2 * len(GROUPS) + 1) + "|"]
    whole = {group: macro.get(REFERENCE, {}).get(group, {}).get("rows") for group in GROUPS}
    order = {"plain": 0, "trivial": 1, "peer": 2, "text peer": 3, "onevec": 4}
    for name, entry in sorted(macro.items(), key=lambda pair: order[pair[1]["family"]]):
        if names is not None and name not in names:
            continue
        cells = []
        for group in GROUPS:
            found = entry.get(group)
            score = number(found and found["score"])
            if found and found["rows"] != whole[group]:
                score += f" ({found['rows']} of {whole[group]} rows)"
            cells += [score, "" if name == REFERENCE else interval(found)]
        label = NAMES.get(name, name.replace("pyg_", "PyG ").replace("_", " "))
        lines.append(f"| {label} | {' | '.join(cells)} | {entry['median_fit_seconds']:.1f} |")
    return "\n".join(lines)


def task_table(result: dict[str, Any]) -> str:
    """Per task: the mean, the best trivial baseline, the best peer, ours, and the bound."""
    lines = [
        "| task | mean | best trivial | best peer | onevec | gain over the mean | "
        "onevec, 64 dimensions | gain | supervised (full) |",
        "|---" + "|--:" * 8 + "|",
    ]
    for task in result["tasks"]:
        rows = task["methods"]

        def best(family: str, rows: dict[str, Any] = rows) -> str:
            scores = [row["score"] for row in rows.values() if row["family"] == family]
            return number(max(scores, default=None))

        def score(name: str, rows: dict[str, Any] = rows) -> str:
            return number(rows[name]["score"] if name in rows else None)

        ours = [cell for n in (WHOLE, SHORT) for cell in (score(n), interval(rows.get(n)))]
        cells = [score(REFERENCE), best("trivial"), best("peer"), *ours, score("attention_probe")]
        name = task["name"] + ("" if task["counted"] else " (not counted)")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown(result: dict[str, Any], baselines: dict[str, Any] | None) -> str:
    """The generated page of a results file; ``result`` has the baselines in it."""
    fits = result["fits"]
    parts = [
        "# The quality benchmark",
        "Made by `python benchmarks/quality.py`; do not edit. Scores are × 100, means of 10-shot, "
        "kNN, full and retrieval as the task allows; 95 % intervals of a paired bootstrap over "
        "test items and draws.",
        made_line(result, baselines),
        f"{fits['done']} fits done, {fits['waiting']} waiting; they took {fits['core_hours']} core "
        "hours from stored tokens"
        + "; quick: fewer rows, items and seconds" * result["settings"]["quick"]
        + ".",
        "## Goals",
        at_a_glance(result),
        "## Macro",
        macro_table(result["macro"]),
        "## Tasks",
        task_table(result),
    ]
    if result["left_out"] or result["errors"]:
        rows = [f"- {e['row']} {e['encoder']}: {e['why']}" for e in result["left_out"]]
        rows += [f"- {e['method']} on {e['where']}: {e['error']}" for e in result["errors"]]
        parts += ["## What could not run", "\n".join(rows)]
    return "\n\n".join(parts)


def made_line(result: dict[str, Any], baselines: dict[str, Any] | None) -> str:
    text = f"Made with {made_by.line(result['made_by'])}"
    if baselines:
        text += f". Baselines: {made_by.line(baselines['made_by'])}"
    return text + "."


def encoder_table(facts: dict[str, Any]) -> str:
    lines = [
        "| encoder | masked accuracy | commonest token | steps | minutes |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, made in facts.items():
        lines.append(
            f"| {name} | {100 * made['masked_accuracy']:.1f} % | "
            f"{100 * made['unigram_accuracy']:.1f} % | {made['steps']} | "
            f"{made['seconds'] / 60:.0f} |"
        )
    return "\n".join(lines)


_COLOURS = {PUBLISHED: "#2e7d4f", SMALL: "#1f5f8b", FRAMES: "#c0662b", TUNED: "#6b6b6b"}


def gain_figure(result: dict[str, Any], path: Path) -> None:
    """Gain of the whole vector by task, as SVG."""
    shown = [
        (encoders.group(task["encoder"]), task["name"], task["methods"][WHOLE])
        for task in result["tasks"]
        if "gain" in task["methods"].get(WHOLE, {})
    ]
    if not shown:
        return
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    shown.sort(key=lambda row: (GROUPS.index(row[0]), row[2]["gain"]))
    # The same file for the same figures.
    with plt.rc_context({"svg.hashsalt": "onevec", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.17 * len(shown)), layout="constrained")
        for place, (group, _, ours) in enumerate(shown):
            axes.plot(ours["interval"], [place, place], color=_COLOURS[group], linewidth=1.5)
            axes.plot(ours["gain"], place, "o", color=_COLOURS[group], markersize=4)
        axes.set_yticks(range(len(shown)), [name for _, name, _ in shown], fontsize=7)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_ylim(-1, len(shown))
        axes.set_xlabel("gain over the native mean, points (95 % interval)")
        for group, colour in _COLOURS.items():
            axes.plot([], [], "o-", color=colour, label=group)
        axes.legend(loc="lower right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
