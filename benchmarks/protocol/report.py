"""quality.json, and the tables and figures made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protocol import encoders, methods, runner
from protocol.encoders import FRAMES, RAW, TUNED
from protocol.goals import OURS, Table, Task, by_row, goals
from protocol.producer import DIM

RESULTS = encoders.ROOT / "benchmarks/results"
GROUPS = (RAW, FRAMES, TUNED)
AUTO = "auto"
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
    "onevec_quick": "**onevec** (default)",
    "onevec_standard": "**onevec**, standard effort",
    "onevec_thorough": "**onevec**, thorough effort",
    "oracle": "labelled oracle over the candidates",
    "attention_probe": "supervised attention probe",
}


def collect(
    jobs: list[runner.Job], left_out: list[tuple[str, str, str]], settings: runner.Settings
) -> dict[str, Any]:
    """Put every kept result together."""
    table, states, errors, fits = gather(jobs)
    return {
        "goals": goals(table, whole=not (settings.quick or fits["waiting"] or left_out)),
        "state": state_of(settings, states),
        "fits": fits,
        "encoders": _encoders(),
        "left_out": [
            {"row": row, "encoder": encoder, "why": why} for row, encoder, why in left_out
        ],
        "errors": errors,
        "macro": _macro(table),
        "tasks": [_task(table, task) for task in table.cells],
    }


def gather(
    jobs: list[runner.Job],
) -> tuple[Table, list[dict[str, Any]], list[dict[str, str]], dict[str, Any]]:
    """Read kept results: the table, the states they are of, errors, and how many there are.

    ``core_hours`` is what fits and probes took where that was kept (``timed``).
    """
    table, errors, waiting, seconds = Table(), [], 0, []
    states: list[dict[str, Any]] = []
    for job in jobs:
        found = runner.load(job)
        if found is None:
            waiting += 1
            continue
        meta, arrays = found
        seconds += [meta["seconds"]] if "seconds" in meta else []
        if meta["state"] not in states:
            states.append(meta["state"])
        if meta["error"]:
            errors.append(
                {
                    "where": f"{job.unit} {job.encoder}",
                    "method": job.producer,
                    "error": meta["error"],
                }
            )
        for place, row in enumerate(meta["rows"]):
            if row["target"] is None:
                table.judged[job.unit, job.encoder] = row["note"]
                continue
            task = Task(job.row, job.unit, job.encoder, row["target"], row["kind"], row["counted"])
            table.add(task, row["method"], row["family"], row, arrays[f"r{place}"])
    fits = {"done": len(jobs) - waiting, "waiting": waiting, "timed": len(seconds)}
    return table, states, errors, fits | {"core_hours": round(sum(seconds) / 3600, 1)}


def _task(table: Table, task: Task) -> dict[str, Any]:
    cells = table.cells[task]
    entry: dict[str, Any] = {
        name: getattr(task, name)
        for name in ("name", "row", "unit", "encoder", "group", "target", "kind", "counted")
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
        if name not in ("mean", "attention_probe") and "mean" in cells:
            gain, low, high = table.gain(task, name, "mean")
            shown |= {"gain": round(gain, 2), "interval": [round(low, 2), round(high, 2)]}
        if "choice" in first.get("note", {}):
            shown["choices"] = [fit["note"]["choice"] for fit in cell.fits]
        says = table.judged.get(task.column, {}).get("says", {})
        if name in says:
            shown |= {said: round(says[name][said], 2) for said in ("expected_gain", "probability")}
        entry["methods"][name] = shown
    return entry


def _macro(table: Table) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, family in table.families.items():
        if family in ("candidate", "dimension", "bound", "ablation"):
            continue
        entry: dict[str, Any] = {"family": family}
        columns = {  # targets of a unit share one fit
            task.column: np.mean([fit["seconds"] for fit in cells[name].fits])
            for task, cells in table.cells.items()
            if name in cells
        }
        entry["median_fit_seconds"] = round(float(np.median([*columns.values()])), 2)
        for group in GROUPS:
            score = table.macro_score(name, group)
            if score is not None:
                entry[group] = {
                    "score": round(score, 2),
                    "gain": table.macro(name, "mean", group),
                    "rows": len({task.row for task in table.tasks(group, name)}),
                }
        found[name] = entry
    found["oracle"] = {"family": "bound", "median_fit_seconds": None}
    for group in GROUPS:
        pairs = []
        for task in table.tasks(group, "mean"):
            scores = [
                cell.score
                for name, cell in table.cells[task].items()
                if table.families[name] == "candidate"
            ]
            if scores:
                pairs.append((task, np.array([max(scores), table.score(task, "mean")])))
        if pairs:
            best, mean = np.mean(list(by_row(pairs).values()), axis=0)
            found["oracle"][group] = {
                "score": round(float(best), 2),
                "gain": {"value": round(float(best - mean), 2)},
            }
    return found


def _encoders() -> dict[str, Any]:
    """What is told of the encoders; of one that is not here, what was told where it was made."""
    told = RESULTS / "quality.json"
    found = json.loads(told.read_text())["encoders"] if told.is_file() else {}
    for name in encoders.PRETRAINED:
        path = encoders.folder(name) / "pretrain.json"
        if path.is_file():
            made = json.loads(path.read_text())
            keys = (
                "kind",
                "masked_accuracy",
                "unigram_accuracy",
                "steps",
                "seconds",
                "corpus_sha256",
            )
            found[name] = {key: made[key] for key in keys}
            found[name]["shipped"] = name in encoders.MAY_SHIP
    return found


def state_of(settings: runner.Settings, states: list[dict[str, Any]]) -> dict[str, Any]:
    """What the file was put together from; ``made_under`` lists every state a cell is of."""
    now = runner.state()
    return {
        "commit": now["commit"],
        "src_sha256": encoders.code_hash(("src/onevec",)),
        "protocol_sha256": encoders.code_hash(("benchmarks/protocol",)),
        "machine": now["machine"],
        "made_under": states,
        "seeds": list(range(1 if settings.quick else methods.SEEDS)),
        "quick": settings.quick,
        "peer_budget_seconds": settings.budget,
    }


# --- tables and figures -------------------------------------------------------------------------


def write(result: dict[str, Any], out: Path) -> None:
    """Write the JSON, the tables and the figures beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(_compact(result) + "\n")
    part.replace(out)
    out.with_suffix(".md").write_text(markdown(result) + "\n")
    figures(result, out)


def _compact(result: dict[str, Any]) -> str:
    """Indented, but one line per method of a task."""
    head = json.dumps({k: v for k, v in result.items() if k != "tasks"}, indent=1)
    lines = []
    for task in result["tasks"]:
        about = json.dumps({k: v for k, v in task.items() if k != "methods"})[:-1]
        rows = ",\n   ".join(
            f"{json.dumps(n)}: {json.dumps(v)}" for n, v in task["methods"].items()
        )
        lines.append(f'  {about}, "methods": {{\n   {rows}}}}}')
    return head[:-2] + ',\n "tasks": [\n' + ",\n".join(lines) + "\n ]\n}"


def number(value: float | None, sign: bool = False) -> str:
    if value is None:
        return ""
    return (f"{value:+.1f}" if sign else f"{value:.1f}").replace("-", "−")


def interval(gain: dict[str, Any] | None) -> str:
    if not gain or gain.get("value") is None:
        return ""
    text = number(gain["value"], sign=True)
    if "interval" in gain:
        low, high = gain["interval"]
        text += f" [{number(low, True)}, {number(high, True)}]"
    return text


def at_a_glance(result: dict[str, Any]) -> str:
    """Q1 to Q6: value, goal, met or missed."""
    lines = ["| | what | value | goal | |", "|---|---|--:|--:|---|"]
    for name, goal in result["goals"].items():
        mark = {True: "met", False: "**missed**", None: "in part"}[goal["met"]]
        lines.append(
            f"| {name} | {goal['what']} | {_join(goal['value'])} | {_join(goal['goal'])} | {mark} |"
        )
    return "\n".join(lines)


def _join(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return "; ".join("–" if v is None else f"{v:g}".replace("-", "−") for v in values)


def brief(macro: dict[str, Any]) -> list[str]:
    """Methods of a short table: of PyG's operators the best, of plain poolings the mean."""
    many = [name for name in macro if name.startswith("pyg_")]
    best = max(many, key=lambda name: macro[name].get(RAW, {"score": 0.0})["score"], default=None)
    shown = ("mean", "mean_centred", best)
    return [n for n in macro if n in shown or (n not in many and macro[n]["family"] != "plain")]


def macro_table(result: dict[str, Any], names: Sequence[str] | None = None) -> str:
    """Macro score and gain over the mean of methods in each group, and what they cost."""
    lines = [
        "| | raw encoders | gain over the mean | raw frames | gain | tuned encoder | gain "
        "| fit, s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    mean = result["macro"].get("mean", {})
    whole = {group: mean.get(group, {}).get("rows") for group in GROUPS}
    order = {"plain": 0, "trivial": 1, "peer": 2, "text peer": 3, "onevec": 4, "bound": 5}
    for name, entry in sorted(result["macro"].items(), key=lambda pair: order[pair[1]["family"]]):
        if names is not None and name not in names:
            continue
        cells = []
        for group in GROUPS:
            found = entry.get(group)
            score = number(found and found["score"])
            if found and found.get("rows", whole[group]) != whole[group]:
                score += f" ({found['rows']} of {whole[group]} rows)"
            cells += [score, interval(found and found["gain"])]
        label = NAMES.get(name, name.replace("pyg_", "PyG ").replace("_", " "))
        seconds = entry["median_fit_seconds"]
        cost = "" if seconds is None else f"{seconds:.1f}"
        lines.append(f"| {label} | {' | '.join(cells)} | {cost} |")
    return "\n".join(lines)


def auto_table(result: dict[str, Any]) -> str:
    """What `dim="auto"` chose, and how far it is from the best of the dimensions tried."""
    lines = [
        '| task | dim="auto" | score | best dimension | score | difference |',
        "|---|--:|--:|--:|--:|--:|",
    ]
    off = []
    for task in result["tasks"]:
        tried = {
            name.partition(" at ")[2] or str(DIM): row
            for name, row in task["methods"].items()
            if name.partition(" at ")[0] == OURS
        }
        if AUTO not in tried or not task["counted"]:
            continue
        auto = tried.pop(AUTO)
        best = max(tried.values(), key=lambda row: row["score"])
        off.append(auto["score"] - best["score"])
        lines.append(
            f"| {task['name']} | {auto['dim']} | {auto['score']:.1f} | {best['dim']} | "
            f"{best['score']:.1f} | {_signed(off[-1])} |"
        )
    if not off:
        return ""
    within = sum(difference >= -1 for difference in off)
    mean = _signed(float(np.mean(off)))
    return "\n".join([*lines, "", f"Within one point: {within} of {len(off)} tasks; mean {mean}."])


def part_tables(result: dict[str, Any]) -> list[str]:
    """Ablation and noise: differences in points, by row and encoder."""
    columns: dict[str, list[dict[str, float]]] = {}
    for task in result["tasks"]:
        scores = {name: entry["score"] for name, entry in task["methods"].items()}
        columns.setdefault(f"{task['row']}, {task['encoder']}", []).append(scores)
    recipe = "ablation: recipe"
    parts = (
        ("The recipe changed in one part, against the recipe", "ablation: ", lambda name: recipe),
        ("With persistent noise, against without", "noise: ", lambda name: name),
    )
    found = []
    for title, prefix, base_of in parts:
        lines = _differences(columns, prefix, base_of)
        found += [f"## {title}", lines] if lines else []
    chosen = auto_table(result)
    return found + (["## The dimension chosen without labels", chosen] if chosen else [])


def _differences(
    columns: dict[str, list[dict[str, float]]], prefix: str, base_of: Callable[[str], str]
) -> str:
    """Rows of the methods with a prefix, less their bases; columns without any are left out."""
    rows: dict[str, dict[str, list[float]]] = {}
    for column, tasks in columns.items():
        for scores in tasks:
            for name in scores:
                short = name.removeprefix(prefix)
                base = base_of(short)
                if name.startswith(prefix) and name != base and base in scores:
                    gains = rows.setdefault(short, {}).setdefault(column, [])
                    gains.append(scores[name] - scores[base])
    shown = [column for column in columns if any(column in cells for cells in rows.values())]
    if not shown:
        return ""
    lines = ["| | " + " | ".join([*shown, "mean"]) + " |", "|---" + "|--:" * (len(shown) + 1) + "|"]
    for name, cells in rows.items():
        means = {column: float(np.mean(gains)) for column, gains in cells.items()}
        values = [*(means.get(column) for column in shown), float(np.mean(list(means.values())))]
        lines.append(f"| {name} | {' | '.join(_signed(value) for value in values)} |")
    return "\n".join(lines)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}".replace("-", "−")


def task_table(result: dict[str, Any]) -> str:
    """Per task: the mean, the best trivial baseline, the best peer, ours, and the bounds."""
    lines = [
        "| task | mean | best trivial | best peer | onevec | gain over the mean | oracle | "
        "supervised (full) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for task in result["tasks"]:
        rows = task["methods"]
        if "mean" not in rows:
            continue

        def best(family: str, rows: dict[str, Any] = rows) -> float | None:
            scores = [row["score"] for row in rows.values() if row["family"] == family]
            return max(scores, default=None)

        ours = rows.get(OURS)
        bound = rows.get("attention_probe")
        name = task["name"] + ("" if task["counted"] else " (not counted)")
        gain = ours and {"value": ours["gain"], "interval": ours["interval"]}
        values = (
            number(rows["mean"]["score"]),
            number(best("trivial")),
            number(best("peer")),
            number(ours and ours["score"]),
            interval(gain),
            number(best("candidate")),
            number(bound and bound["score"]),
        )
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """The generated page."""
    state = result["state"]
    parts = [
        "# The quality benchmark",
        "Made by `python benchmarks/quality.py`; do not edit. Scores are × 100, means of 10-shot, "
        "kNN, full and retrieval as the task allows; everything at 64 dimensions unless it says "
        "native; 95 % intervals of a paired bootstrap over test items and draws.",
        f"State: commit `{state['commit'][:12]}`, {state['machine']}; "
        f"{result['fits']['done']} fits done, {result['fits']['waiting']} waiting; the "
        f"{result['fits']['timed']} whose time was kept took {result['fits']['core_hours']} core "
        "hours from stored tokens"
        + ("; quick: fewer rows, items, fits and seconds" if state["quick"] else "")
        + ".",
        "## Goals",
        at_a_glance(result),
        "## Macro",
        macro_table(result),
        *part_tables(result),
        "## Tasks",
        task_table(result),
        "## Encoders",
        _encoder_table(result),
    ]
    if result["left_out"] or result["errors"]:
        rows = [f"- {e['row']} {e['encoder']}: {e['why']}" for e in result["left_out"]]
        rows += [f"- {e['method']} on {e['where']}: {e['error']}" for e in result["errors"]]
        parts += ["## What could not run", "\n".join(rows)]
    return "\n\n".join(parts)


def _encoder_table(result: dict[str, Any]) -> str:
    lines = [
        "| encoder | masked accuracy | commonest token | steps | minutes |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, made in result["encoders"].items():
        lines.append(
            f"| {name} | {100 * made['masked_accuracy']:.1f} % | "
            f"{100 * made['unigram_accuracy']:.1f} % | {made['steps']} | "
            f"{made['seconds'] / 60:.0f} |"
        )
    return "\n".join(lines)


def figures(result: dict[str, Any], out: Path) -> None:
    """Gains per task, score against the dimension, goals at a glance: SVG beside the JSON."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    # The same file for the same figures.
    with plt.rc_context({"svg.hashsalt": "onevec", "font.size": 9}):
        _gain_figure(result, out.with_name(out.stem + "-gain.svg"))
        _dimension_figure(result, out.with_name(out.stem + "-dimension.svg"))
        _goal_figure(result, out.with_name(out.stem + "-goals.svg"))
        plt.close("all")


_COLOURS = {RAW: "#1f5f8b", FRAMES: "#c0662b", TUNED: "#6b6b6b"}


def _gain_figure(result: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    shown = [
        (task, task["methods"][OURS])
        for task in result["tasks"]
        if OURS in task["methods"] and "gain" in task["methods"][OURS]
    ]
    if not shown:
        return
    shown.sort(key=lambda pair: (GROUPS.index(pair[0]["group"]), pair[1]["gain"]))
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.17 * len(shown)), layout="constrained")
    for place, (task, ours) in enumerate(shown):
        colour = _COLOURS[task["group"]]
        axes.plot(ours["interval"], [place, place], color=colour, linewidth=1.5)
        axes.plot(ours["gain"], place, "o", color=colour, markersize=4)
    labels = [task["name"] for task, _ in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_ylim(-1, len(shown))
    axes.set_xlabel("gain over the native mean, points (95 % interval)")
    for group, colour in _COLOURS.items():
        axes.plot([], [], "o-", color=colour, label=group)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def _goal_figure(result: dict[str, Any], path: Path) -> None:
    """Where each figure of each goal stands between its floor and the goal."""
    import matplotlib.pyplot as plt

    rows = []
    for name, goal in result["goals"].items():
        figures = zip(
            goal["what"].split("; "), goal["value"], goal["floor"], goal["goal"], strict=True
        )
        rows += [(name, *figure) for figure in figures]
    figure, axes = plt.subplots(figsize=(7.5, 0.8 + 0.26 * len(rows)), layout="constrained")
    for place, (_, _, value, floor, wanted) in enumerate(reversed(rows)):
        axes.plot([0, 1], [place, place], color="#d5d5d5", linewidth=5, solid_capstyle="butt")
        if value is None:
            continue
        share = float(np.clip((value - floor) / (wanted - floor), -1, 1.5))
        colour = "#2e7d4f" if share >= 1 else "#c0662b" if share >= 0 else "#b03a3a"
        axes.plot(share, place, "o", color=colour, markersize=6)
        axes.annotate(f"{value:g}", (share, place), (6, 3), textcoords="offset points", fontsize=7)
    labels = [f"{name}  {what}" for name, what, *_ in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_xticks([0, 1], ["floor", "goal"])
    axes.set_xlim(-1.1, 1.75)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    figure.savefig(path, metadata={"Date": None})


def _dimension_figure(result: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    curves: dict[str, dict[int, list[float]]] = {}
    native = []
    for task in result["tasks"]:
        rows = task["methods"]
        if not any(name.startswith(f"{OURS} at") for name in rows) or not task["counted"]:
            continue
        native.append(rows["mean"]["score"])
        for name, row in rows.items():
            base, _, dim = name.partition(" at ")
            if base in (OURS, "mean_pca", "mean_whitened") and dim != AUTO:
                asked = int(dim) if dim else DIM
                curves.setdefault(base, {}).setdefault(asked, []).append(row["score"])
    if not curves:
        return
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for base, colour in ((OURS, "#1f5f8b"), ("mean_whitened", "#c0662b"), ("mean_pca", "#6b6b6b")):
        points = {
            d: np.mean(v) for d, v in sorted(curves.get(base, {}).items()) if len(v) == len(native)
        }
        axes.plot(
            list(points),
            list(points.values()),
            "o-",
            color=colour,
            label=NAMES[base].replace("*", ""),
        )
    axes.axhline(
        float(np.mean(native)), color="black", linewidth=0.8, linestyle="--", label="mean (native)"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([16, 32, 64, 128, 256], ["16", "32", "64", "128", "256"])
    axes.set_xlabel("dimensions")
    axes.set_ylabel(f"mean score of {len(native)} tasks")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
