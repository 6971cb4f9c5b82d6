"""Write the measured tables into the README and the docs, between their markers.

    python benchmarks/readme.py [--check]

Reads benchmarks/results/demo.json (`onevec demo --json`), quality.json (`quality.py`), judge.json
(`judge.py`), use.json (`use.py`, `use_select.py`), finetune.json and pretrain.json. With `--check`
a page that differs is an error, and nothing is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import encoder_tables
import judge
import use
import use_select
from onevec.report.summarize import METHOD_NAMES
from protocol import report, tasks

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: benchmarks/readme.py -->", "<!-- end of figures -->"
JUDGE = ROOT / "docs/judge.md"
BEGIN_JUDGE, END_JUDGE = "<!-- judge: benchmarks/readme.py -->", "<!-- end of judge -->"
USE = ROOT / "docs/use.md"
BEGIN_USE, END_USE = "<!-- use: benchmarks/readme.py -->", "<!-- end of use -->"
QUALITY = ROOT / "docs/quality.md"
ENCODERS = ROOT / "docs/encoders.md"
BEGIN_ENCODERS, END_ENCODERS = "<!-- encoders: benchmarks/readme.py -->", "<!-- end of encoders -->"
BEGIN_QUALITY, END_QUALITY = "<!-- quality: benchmarks/readme.py -->", "<!-- end of quality -->"


def results(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text())


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| | dimensions | kNN | 10-shot | gain over the mean |", "|---|--:|--:|--:|--:|"]
    for name, row in rows.items():
        gain = ""
        if "gain" in row:
            low, high = row["interval"]
            gain = f"{row['gain']:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
        label = METHOD_NAMES.get(name, name)
        label = f"**{label}**" if name == "onevec" else label
        lines.append(
            f"| {label} | {row['dim']} | {row['knn']:.1f} | {row['shot10']:.1f} | {gain} |"
        )
    return "\n".join(lines)


def figures() -> str:
    demo = results("demo")
    names = ("mean", "mean_pca", "mean_whitened", "onevec")
    return "\n\n".join(
        [
            BEGIN,
            f"**Protein localisation** (10 classes, `make demo`; masked accuracy "
            f"{100 * demo['masked_accuracy']:.0f} %, commonest token "
            f"{100 * demo['unigram_accuracy']:.0f} %). "
            f"Verdict: {demo['verdict']['sentence'].split(' (')[0]}.",
            table({name: demo[name] for name in names}),
            "Fitted without labels on the train part, scored on the test part that neither the "
            "encoder nor the fit saw: balanced accuracy in %, gain in the mean of the two with its "
            "95 % interval (paired bootstrap). The gain is over the mean at its own dimensions, "
            "the verdict's points are over mean + PCA. Its calibration has seen labels of this "
            "train part; in [docs/judge.md](docs/judge.md) each data set is judged by a table "
            "without it.",
            END,
        ]
    )


def quality() -> str:
    if not (ROOT / "benchmarks/results/quality.json").is_file():
        return f"{BEGIN_QUALITY}\n{END_QUALITY}"
    found = results("quality")
    return "\n\n".join(
        [
            BEGIN_QUALITY,
            _made(found),
            report.at_a_glance(found),
            "Macro scores at 64 dimensions (native where it says so) and gains over the native "
            "mean with 95 % intervals; of PyG's operators the best is shown:",
            report.macro_table(found, report.brief(found["macro"])),
            "![Gain over the mean by task](benchmarks/results/quality-gain.svg)",
            "What the rows are and how they are scored: [docs/quality.md](docs/quality.md); all "
            "tasks: [benchmarks/results/quality.md](benchmarks/results/quality.md).",
            END_QUALITY,
        ]
    )


def _made(found: dict[str, Any]) -> str:
    fits = found["fits"]
    rows, whole = len({task["row"] for task in found["tasks"]}), len(tasks.ROWS)
    part = "" if rows == whole else f"**In part: {rows} of {whole} rows have been run.** "
    if fits["waiting"]:
        waits = f"{fits['waiting']} of {fits['waiting'] + fits['done']} fits are not made yet"
        part += f'**{waits}: "in part" says so, not that a goal is reached.** '
    return (
        f"{part}Commit `{found['state']['commit'][:12]}`, {fits['done']} fits; the "
        f"{fits['timed']} whose time was kept took {fits['core_hours']} core hours. "
        "Missed is said as missed."
    )


def quality_page() -> str:
    if not (ROOT / "benchmarks/results/quality.json").is_file():
        return f"{BEGIN_QUALITY}\n{END_QUALITY}"
    found = results("quality")
    figure = "![{}](../benchmarks/results/quality-{}.svg)"
    return "\n\n".join(
        [
            BEGIN_QUALITY,
            _made(found),
            "## Goals",
            report.at_a_glance(found),
            figure.format("Where each goal stands between its floor and the goal", "goals"),
            "## Methods",
            report.macro_table(found),
            "## Tasks",
            figure.format("Gain over the mean by task", "gain"),
            *([figure.format("Score against dimension", "dimension")] if _curves(found) else []),
            *report.part_tables(found),
            END_QUALITY,
        ]
    )


def _curves(found: dict[str, Any]) -> bool:
    return any(f"{report.OURS} at 16" in task["methods"] for task in found["tasks"])


def judged() -> str:
    if not (ROOT / "benchmarks/results/judge.json").is_file():
        return f"{BEGIN_JUDGE}\n{END_JUDGE}"
    return "\n\n".join([BEGIN_JUDGE, judge.markdown(results("judge")), END_JUDGE])


def used() -> str:
    if not (ROOT / "benchmarks/results/use.json").is_file():
        return f"{BEGIN_USE}\n{END_USE}"
    found = results("use")
    parts = [BEGIN_USE]
    if "search" in found:
        parts += ["## Search", use.markdown(found["search"])]
    if "selection" in found:
        parts += ["## Selection", use_select.markdown(found["selection"])]
    return "\n\n".join([*parts, END_USE])


def encoders() -> str:
    tuned, made = results("finetune"), results("pretrain")
    return "\n\n".join(
        [
            BEGIN_ENCODERS,
            "## Tuning the encoder, or the aggregation alone",
            encoder_tables.tuning_table(tuned),
            "## Beside sentence-transformers",
            encoder_tables.side_by_side_table(tuned),
            "## Several objectives",
            encoder_tables.pretraining_table(made),
            END_ENCODERS,
        ]
    )


PLACES = (
    (README, BEGIN, END, figures),
    (README, BEGIN_QUALITY, END_QUALITY, quality),
    (QUALITY, BEGIN_QUALITY, END_QUALITY, quality_page),
    (JUDGE, BEGIN_JUDGE, END_JUDGE, judged),
    (USE, BEGIN_USE, END_USE, used),
    (ENCODERS, BEGIN_ENCODERS, END_ENCODERS, encoders),
)


def main() -> None:
    for path, begin, end, make in PLACES:
        text = path.read_text()
        before, rest = text.split(begin)
        _, after = rest.split(end)
        fresh = before + make() + after
        if "--check" in sys.argv and fresh != text:
            raise SystemExit(
                f"the figures of {path.name} are not those of benchmarks/results: run this"
            )
        if fresh != text:
            path.write_text(fresh)


if __name__ == "__main__":
    main()
